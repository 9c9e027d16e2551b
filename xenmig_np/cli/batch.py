"""``xenmig-np batch``: whole archives."""

from __future__ import annotations

import os
import re
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.options import GuestOption, JsonOption, QuietOption, WidthOption, parse_size
from xenmig_np.errors import ExitCode, UsageError
from xenmig_np.options import Container, Format, TargetName

if TYPE_CHECKING:
    from xenmig_np.batch.planning import Asked, Plan
    from xenmig_np.batch.result import Result
    from xenmig_np.batch.runner import Batch

batch = typer.Typer(
    help="Convert a whole archive, with a manifest of what became of each image.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Shown(StrEnum):
    """How progress is told."""

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    JSON = "json"
    NONE = "none"


class Digest(StrEnum):
    """What input and output are told by."""

    SHA256 = "sha256"
    XXH3 = "xxh3"
    NONE = "none"


class StreamsDo(StrEnum):
    """What is done with what needs no conversion."""

    SKIP = "skip"
    COPY = "copy"
    LINK = "link"


Sources = Annotated[
    list[str] | None,
    typer.Argument(metavar="SOURCE...", help="Files, folders with all below them, quoted patterns."),
]
Out = Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Folder of the results.")]
FromFile = Annotated[
    str | None, typer.Option("--from-file", metavar="LIST", help="A file with further names; - is stdin.")
]
Nul = Annotated[bool, typer.Option("--null", "-0", help="Names end with NUL and not with the line.")]
Name = Annotated[
    str,
    typer.Option("--name", metavar="TEMPLATE", help="Names of results, of {name}, {stem} and {target}."),
]
Manifest = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="The manifest; by default xenmig-np.jsonl in the folder of the results."
    ),
]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Workers; by default one a processor.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace existing results, whatever they are.")]
Prove = Annotated[bool, typer.Option("--prove", help="Compare all contents with the original.")]
DigestBy = Annotated[Digest, typer.Option(help="Digest of input and result, taken as they pass.")]
Streams = Annotated[StreamsDo, typer.Option(help="What to do with what is a v2 or v3 stream already.")]
Sync = Annotated[
    bool, typer.Option("--sync/--no-sync", help="Have each result on disk before it gets its name.")
]
Rate = Annotated[
    int | None,
    typer.Option(
        parser=parse_size, metavar="SIZE", help="Write at most so much a second, all workers together."
    ),
]
Nice = Annotated[int, typer.Option(min=0, max=19, help="Niceness of the workers.")]
Progress = Annotated[
    Shown, typer.Option(help="auto: bars on a terminal, else a line each 10 s; json: a document a line.")
]
Target = Annotated[TargetName, typer.Option(help="As of convert.")]
Layers = Annotated[Format, typer.Option(help="As of convert.")]
To = Annotated[Container, typer.Option("--container", help="As of convert.")]
DropTmem = Annotated[bool, typer.Option("--drop-tmem", help="As of convert.")]
Collapse = Annotated[bool, typer.Option("--collapse", help="As of convert.")]
SkipQemu = Annotated[bool, typer.Option("--skip-qemu", help="As of convert.")]
Sparse = Annotated[bool, typer.Option("--sparse", help="As of convert.")]
DropCache = Annotated[bool, typer.Option("--drop-cache", help="As of convert.")]
Compress = Annotated[str | None, typer.Option(metavar="gzip|xz|zstd", help="As of convert.")]
Level = Annotated[int | None, typer.Option(help="As of convert.")]


@batch.command()
@guarded
def run(
    sources: Sources = None,
    *,
    out: Out,
    from_file: FromFile = None,
    null: Nul = False,
    name: Name = "{name}",
    manifest: Manifest = None,
    jobs: Jobs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan, write nothing.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the manifest: skip what it proves done.")
    ] = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="With --resume: digests have to be right as well.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="K/N", help="Do the K-th of N parts of the list.")
    ] = None,
    force: Force = False,
    prove: Prove = False,
    digest: DigestBy = Digest.SHA256,
    streams: Streams = StreamsDo.SKIP,
    sync: Sync = True,
    rate: Rate = None,
    nice: Nice = 0,
    target: Target = TargetName.XEN_4_6,
    format: Layers = Format.AUTO,  # noqa: A002 - the name that users see
    width: WidthOption = None,
    guest: GuestOption = None,
    container: To = Container.AUTO,
    skip_qemu: SkipQemu = False,
    drop_tmem: DropTmem = False,
    collapse: Collapse = False,
    sparse: Sparse = False,
    drop_cache: DropCache = False,
    compress: Compress = None,
    level: Level = None,
    progress: Progress = Shown.AUTO,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Convert all images among SOURCE into one folder."""
    asked = _asked(locals(), _shard(shard))
    from xenmig_np.batch.runner import Batch  # noqa: PLC0415 - brings numpy

    made = Batch(asked, manifest=manifest, jobs=jobs, resume=resume, recheck=recheck)
    if dry_run:
        _dry(made.plan(), quiet=quiet, as_json=json)
    else:
        _run(made, progress=progress, quiet=quiet, as_json=json)


@batch.command()
@guarded
def work(
    sources: Sources = None,
    *,
    out: Out,
    claims: Annotated[
        str, typer.Option(metavar="DIR", help="A folder that all machines share; manifests go there too.")
    ],
    from_file: FromFile = None,
    null: Nul = False,
    name: Name = "{name}",
    stale: Annotated[
        float,
        typer.Option(min=1.0, help="Seconds of silence after which a worker is dead; the same for all."),
    ] = 120.0,
    jobs: Jobs = None,
    force: Force = False,
    prove: Prove = False,
    digest: DigestBy = Digest.SHA256,
    streams: Streams = StreamsDo.SKIP,
    sync: Sync = True,
    rate: Rate = None,
    nice: Nice = 0,
    target: Target = TargetName.XEN_4_6,
    format: Layers = Format.AUTO,  # noqa: A002
    width: WidthOption = None,
    guest: GuestOption = None,
    container: To = Container.AUTO,
    skip_qemu: SkipQemu = False,
    drop_tmem: DropTmem = False,
    collapse: Collapse = False,
    sparse: Sparse = False,
    drop_cache: DropCache = False,
    compress: Compress = None,
    level: Level = None,
    progress: Progress = Shown.AUTO,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Do, with other machines, the images of one list that nobody else is at."""
    asked = _asked(locals(), None)
    from xenmig_np.batch.runner import Batch, Sharing  # noqa: PLC0415 - brings numpy

    sharing = Sharing(claims, beat=min(stale / 8, 10.0), stale=stale)
    _run(Batch(asked, jobs=jobs, sharing=sharing), progress=progress, quiet=quiet, as_json=json)


@batch.command("list")
@guarded
def list_(
    manifests: Annotated[list[str], typer.Argument(metavar="MANIFEST...")],
    proven: Annotated[
        bool, typer.Option("--proven", help="Originals that can be deleted: proven, and nothing has changed.")
    ] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Images that failed.")] = False,
    sha256: Annotated[bool, typer.Option("--sha256", help="Digests of results, for sha256sum -c.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Print names alone, a NUL behind each.")] = False,
) -> None:
    """Print what manifests say, the last result of each image."""
    if proven + failed + sha256 > 1:
        raise UsageError("--proven, --failed and --sha256 exclude each other")
    if sha256 and null:
        raise UsageError("--sha256 and --null exclude each other")
    from xenmig_np.batch.merging import final  # noqa: PLC0415 - brings numpy

    for result in final(manifests):
        if sha256:
            if result.digest == "sha256" and result.output and result.output_digest:
                _raw(_checked_line(result.output_digest, result.output))
        elif (not proven or _can_go(result)) and (not failed or result.failed):
            if null:
                _raw(os.fsencode(result.input) + b"\0")
            elif proven:
                terminal.result(result.input)
            else:
                terminal.result(_row(result))


@batch.command()
@guarded
def merge(
    manifests: Annotated[list[str], typer.Argument(metavar="MANIFEST...")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The manifest to write.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing FILE.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Join the manifests of shards and workers: one result for each image."""
    from xenmig_np.batch.merging import merge as run_merge  # noqa: PLC0415 - brings numpy

    count = run_merge(manifests, out, force=force)
    if not quiet:
        terminal.say(f"{out}: {terminal.plural(count, 'image')}")


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if (found := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)) is None:
        raise UsageError("--shard", found=repr(text), expected="K/N, K from 1 to N")
    return int(found[1]), int(found[2])


def _asked(options: dict[str, Any], shard: tuple[int, int] | None) -> Asked:
    """What the options of a command ask for."""
    from xenmig_np.batch.listing import read_list  # noqa: PLC0415 - brings numpy
    from xenmig_np.batch.options import BatchOptions  # noqa: PLC0415
    from xenmig_np.batch.planning import Asked  # noqa: PLC0415

    sources, listed = options["sources"] or [], options["from_file"]
    if not sources and listed is None:
        raise UsageError("no SOURCE", hint="name files, folders or patterns, or --from-file LIST")
    of_convert = (
        "target",
        "format",
        "width",
        "guest",
        "container",
        "skip_qemu",
        "drop_tmem",
        "collapse",
        "sparse",
        "drop_cache",
        "compress",
        "level",
    )
    of_batch = ("prove", "sync", "rate", "nice")
    return Asked(
        sources=tuple(sources),
        out=options["out"],
        options=BatchOptions.of(
            {name: options[name] for name in of_convert},
            digest=str(options["digest"]),
            streams=str(options["streams"]),
            **{name: options[name] for name in of_batch},
        ),
        listed=tuple(read_list(listed, nul=options["null"])) if listed is not None else (),
        template=options["name"],
        shard=shard,
        force=options["force"],
    )


def _run(made: Batch, *, progress: Shown, quiet: bool, as_json: bool) -> None:
    """Do the work, tell of it, and leave with its exit code."""
    from xenmig_np.cli.batch_progress import showing  # noqa: PLC0415 - what it shows brings numpy

    with showing(Shown.NONE if quiet else progress, quiet=quiet) as told:
        made.watch = told.event
        for _ in made.results():
            pass
    report = told.report(made)
    if as_json:
        terminal.result_json(report)
    if not quiet and progress is not Shown.JSON:
        terminal.say(told.closing(made))
    if made.stopped:
        terminal.say(f"error: {made.stopped}")
        terminal.say("hint: make room, then run it again with --resume")
    if made.stopped or made.counts["failed"] or made.elsewhere["failed"]:
        raise typer.Exit(ExitCode.PARTLY)


def _dry(plan: Plan, *, quiet: bool, as_json: bool) -> None:
    """Print the plan; the exit code is that of the run, as far as can be known."""
    from xenmig_np.batch.planning import free_bytes  # noqa: PLC0415 - brings numpy
    from xenmig_np.errors import Refused  # noqa: PLC0415

    needed = failing = 0
    items = []
    for one in plan.planned():
        needed += one.bytes
        failing += one.error is not None
        if as_json:
            items.append(
                {
                    "input": one.item.input,
                    "output": one.item.output,
                    "action": one.action,
                    "bytes": one.bytes,
                    "error": one.error.to_dict() if one.error else None,
                }
            )
        elif not quiet:
            what = f"fail: {one.error}" if one.error else f"{one.action}, {one.bytes:,} bytes"
            terminal.result(f"{one.item.input} -> {one.item.output}: {what}")
    free = free_bytes(plan.asked.out)
    if as_json:
        terminal.result_json(
            {
                "schema": "xenmig-np/batch-plan",
                "schema_version": 1,
                "items": items,
                "done_before": plan.done,
                "others": dict(plan.others),
                "bytes_needed": needed,
                "bytes_free": free,
            }
        )
    elif not quiet:
        for kind, count in plan.others.most_common():
            terminal.result(f"left alone: {terminal.plural(count, 'file')}: {kind}")
        done = f", {plan.done:,} done before" if plan.done else ""
        images = terminal.plural(len(plan.items), "image")
        most = "at most " if plan.size_unknown else ""
        terminal.result(f"{images}{done}: needs {most}{needed:,} bytes, {plan.asked.out} has {free:,} free")
    if needed > free and not plan.size_unknown:
        raise Refused(f"needs {needed:,} bytes, it has {free:,} free", path=plan.asked.out)
    if failing:
        raise typer.Exit(ExitCode.PARTLY)


def _row(result: Result) -> str:
    if result.failure:
        return f"{result.status:<9} {result.failure}"
    proven = ", proven" if result.proven else ""
    return f"{result.status:<9} {result.input}" + (f" -> {result.output}{proven}" if result.output else "")


def _can_go(result: Result) -> bool:
    """Proven, and both files are as they were then."""
    from xenmig_np.batch.places import stamp  # noqa: PLC0415 - brings numpy

    if not result.proven or result.output is None:
        return False
    return stamp(result.input) == (result.input_bytes, result.input_mtime_ns) and stamp(result.output) == (
        result.output_bytes,
        result.output_mtime_ns,
    )


def _checked_line(digest: str, path: str) -> bytes:
    """A line as ``sha256sum`` writes it: names with odd characters are escaped, and marked."""
    name = os.fsencode(path)
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != name else b"") + f"{digest}  ".encode() + escaped + b"\n"


def _raw(data: bytes) -> None:
    """A result that programs read: names are bytes."""
    sys.stdout.buffer.write(data)
