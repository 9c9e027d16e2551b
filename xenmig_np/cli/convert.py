"""``xenmig-np convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.options import (
    ForceOption,
    GuestOption,
    InputPath,
    JsonOption,
    OutputPath,
    ProgressOption,
    QuietOption,
    SkipOption,
    VerboseOption,
    WidthOption,
)
from xenmig_np.cli.parts import PartOption, hinted, joined, missing
from xenmig_np.cli.progress import progress as progress_of
from xenmig_np.errors import NotSupported, UsageError
from xenmig_np.options import Container, Format, TargetName

if TYPE_CHECKING:
    from xenmig_np.conversion.run import Options
    from xenmig_np.io.source import Input

STDIN: Final = frozenset({"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
STDOUT: Final = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})


@guarded
def convert(
    input: InputPath,  # noqa: A002 - the name that users see
    output: OutputPath,
    target: Annotated[
        TargetName,
        typer.Option(
            help="xen-4.6 restores on Xen 4.6 and later, xen-4.14 on 4.14 and later; draft-v7 is of 2014."
        ),
    ] = TargetName.XEN_4_6,
    format: Annotated[  # noqa: A002
        Format,
        typer.Option(
            help="auto: a libxl stream; libxc for XenServer, and for a bare stream of an HVM guest "
            "without a device-model record."
        ),
    ] = Format.AUTO,
    container: Annotated[
        Container,
        typer.Option(
            help="What the stream is put into. auto: what INPUT is in (xl for what xend wrote), none for a "
            "bare image, xl for one with --config."
        ),
    ] = Container.AUTO,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="The configuration of OUTPUT: text or JSON for xl, XML for libvirt."
        ),
    ] = None,
    keep_config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the configuration of INPUT there, as it is."),
    ] = None,
    width: WidthOption = None,
    guest: GuestOption = None,
    skip: SkipOption = 0,
    part: PartOption = None,
    skip_qemu: Annotated[
        bool, typer.Option("--skip-qemu", help="With --format libxc: leave the device-model record out.")
    ] = False,
    drop_tmem: Annotated[
        bool, typer.Option("--drop-tmem", help="Leave out what the guest kept in transcendent memory.")
    ] = False,
    collapse: Annotated[
        bool,
        typer.Option("--collapse", help="Write the last copy of each page alone, where INPUT has several."),
    ] = False,
    spool: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Copy an INPUT that is a pipe into a file there first."),
    ] = None,
    force: ForceOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan, write nothing.")] = False,
    sync: Annotated[
        bool, typer.Option("--sync/--no-sync", help="Have OUTPUT on disk before it gets its name.")
    ] = True,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Read the heads of OUTPUT again and count.")
    ] = True,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Make holes in OUTPUT where there are only zeros.")
    ] = False,
    compress: Annotated[
        str | None,
        typer.Option(metavar="gzip|xz|zstd", help="Write OUTPUT compressed; zstd is the quickest by far."),
    ] = None,
    level: Annotated[int | None, typer.Option(help="Of the compression, as its own tool has it.")] = None,
    drop_cache: Annotated[
        bool, typer.Option("--drop-cache", help="Leave nothing of INPUT and OUTPUT in the page cache.")
    ] = False,
    salvage: Annotated[
        bool,
        typer.Option("--salvage", help="Of a damaged INPUT save what can be proven: OUTPUT.raw, OUTPUT.map."),
    ] = False,
    unreadable: Annotated[
        str | None,
        typer.Option(metavar="MAPFILE", help="With --salvage: what ddrescue could not read of INPUT."),
    ] = None,
    progress: ProgressOption = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Convert a legacy image into a migration v2 or v3 stream."""
    _fits(
        (json and output in STDOUT and not dry_run, "--json prints to stdout, where the stream goes"),
        (config in STDIN and input in STDIN, "--config and INPUT are both stdin"),
        (bool(unreadable) and not salvage, "--unreadable goes with --salvage alone"),
        (salvage and dry_run, "--salvage has no plan: what can be saved is known when it is done"),
    )
    request: Options = {
        "target": target,
        "format": format,
        "container": container,
        "config": config,
        "keep_config": keep_config,
        "skip": skip,
        "width": width,
        "guest": guest,
        "skip_qemu": skip_qemu,
        "drop_tmem": drop_tmem,
        "collapse": collapse,
        "spool": spool,
        "sparse": sparse,
        "drop_cache": drop_cache,
        "compress": compress,
        "level": level,
    }
    image = joined(input, part)
    if dry_run:
        with hinted(input, part):
            _plan(image, output, request, force=force, verbose=verbose, quiet=quiet, as_json=json)
        return
    if salvage:
        from xenmig_np.cli.salvage import salvage_image  # noqa: PLC0415 - seldom wanted

        with progress_of(input, wanted=False if quiet else progress) as told:
            salvage_image(
                image,
                output,
                request,
                unreadable=unreadable,
                force=force,
                sync=sync,
                check=check,
                progress=told,
                quiet=quiet,
                as_json=json,
            )
    from xenmig_np.conversion.run import convert as run  # noqa: PLC0415 - brings numpy

    with progress_of(input, wanted=False if quiet else progress) as told, hinted(input, part):
        try:
            made = run(image, output, force=force, sync=sync, check=check, progress=told, **request)
        except NotSupported:
            if _mended(image, output, request, force=force, sync=sync, quiet=quiet, as_json=json):
                return
            raise
    _tell(made, verbose=verbose, quiet=quiet)
    checkpointed = made.input.checkpoints > 1 or made.input.incomplete_checkpoint
    if not quiet and checkpointed and (further := missing(input, part)):
        terminal.say(f"warning: {input}: the last checkpoint in this file counts; {further}")
    if json:
        terminal.result_json(made.to_dict())
    elif not quiet:
        from xenmig_np.cli.describe import closing  # noqa: PLC0415

        terminal.say(closing(made))


def _fits(*odd: tuple[bool, str]) -> None:
    """Raise for the first combination of options that makes no sense."""
    for wrong, text in odd:
        if wrong:
            raise UsageError(text)


def _mended(
    source: Input, output: str, request: Options, *, force: bool, sync: bool, quiet: bool, as_json: bool
) -> bool:
    """Whether it was a libvirt file with the wrong label, which has been set right (containers.md 9.4)."""
    from xenmig_np.conversion.rewrap import mend  # noqa: PLC0415 - brings numpy

    plainly = not (request["config"] or request["compress"] or request["skip"])
    if request["container"] not in {Container.AUTO, Container.LIBVIRT} or not plainly:
        return False
    made = mend(source, output, force=force, sync=sync)
    if made and not quiet:
        terminal.warnings(made.path, made.warnings)
    if made and as_json:
        terminal.result_json(made.to_dict())
    elif made and not quiet:
        size = terminal.size(made.bytes)
        terminal.say(f"{made.output}: {size}, the libvirt file with version 2 in its header, else as it was")
    return made is not None


def _plan(
    source: Input, output: str, request: Options, *, force: bool, verbose: bool, quiet: bool, as_json: bool
) -> None:
    from xenmig_np.cli.describe import plan_lines  # noqa: PLC0415
    from xenmig_np.conversion.run import plan, report_of  # noqa: PLC0415

    with plan(source, None if output in STDOUT else output, force=force, **request) as made:
        report = report_of(made)
        _tell(report, verbose=verbose, quiet=quiet)
        if as_json:
            terminal.result_json(report.to_dict())
            return
        for line in plan_lines(report, output):
            terminal.result(line)
        if verbose:
            for line in made.lines():
                terminal.result(line)


def _tell(made: Any, *, verbose: bool, quiet: bool) -> None:  # noqa: ANN401 - a Conversion; its module brings numpy
    if verbose:
        for reason in made.input.reasons:
            terminal.say(f"{made.input.path}: {reason}")
    if not quiet:
        terminal.warnings(made.input.path, made.warnings)
