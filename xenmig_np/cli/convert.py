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
    VerboseOption,
    WidthOption,
)
from xenmig_np.cli.progress import progress as progress_of
from xenmig_np.errors import UsageError
from xenmig_np.options import Format, TargetName

if TYPE_CHECKING:
    from xenmig_np.conversion.run import Options

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
            help="auto: an xl file stays an xl file, a bare image becomes a libxl stream, "
            "or libxc where an HVM image has no device-model record."
        ),
    ] = Format.AUTO,
    width: WidthOption = None,
    guest: GuestOption = None,
    skip_qemu: Annotated[
        bool, typer.Option("--skip-qemu", help="With --format libxc: leave the device-model record out.")
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
    progress: ProgressOption = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Convert a legacy image into a migration v2 or v3 stream."""
    if json and output in STDOUT and not dry_run:
        raise UsageError("--json prints to stdout, where the stream goes", hint="name an OUTPUT file")
    request: Options = {
        "target": target,
        "format": format,
        "width": width,
        "guest": guest,
        "skip_qemu": skip_qemu,
        "spool": spool,
    }
    if dry_run:
        _plan(input, output, request, force=force, verbose=verbose, quiet=quiet, as_json=json)
        return
    from xenmig_np.conversion.run import convert as run  # noqa: PLC0415 - brings numpy

    with progress_of(input, wanted=False if quiet else progress) as told:
        made = run(input, output, force=force, sync=sync, check=check, progress=told, **request)
    _tell(made, verbose=verbose, quiet=quiet)
    if json:
        terminal.result_json(made.to_dict())
    elif not quiet:
        from xenmig_np.cli.describe import closing  # noqa: PLC0415

        terminal.say(closing(made))


def _plan(
    path: str, output: str, request: Options, *, force: bool, verbose: bool, quiet: bool, as_json: bool
) -> None:
    from xenmig_np.cli.describe import plan_lines  # noqa: PLC0415
    from xenmig_np.conversion.run import plan, report_of  # noqa: PLC0415

    with plan(path, None if output in STDOUT else output, force=force, **request) as made:
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
