"""One conversion from beginning to end: open, plan, write, check, rename, report."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from xenmig_np.conversion.check import check_written
from xenmig_np.conversion.plan import Plan
from xenmig_np.conversion.planner import Choice, Planner
from xenmig_np.errors import InvalidImage, UsageError
from xenmig_np.io.files import Output
from xenmig_np.io.sink import Sink
from xenmig_np.io.source import Input, open_source, spool
from xenmig_np.options import Format, GuestName, TargetName, Width
from xenmig_np.read.image import LegacyImage, find
from xenmig_np.read.info import ImageInfo, image_info, type_names
from xenmig_np.wire.legacy import GUEST_BY_NAME
from xenmig_np.wire.libxc import RecordType
from xenmig_np.wire.targets import TARGET_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenmig_np.errors import Note
    from xenmig_np.io.source import Source

    Progress = Callable[[int, int | None], object]
    """Called with the bytes written so far and those of the whole output, None if unknown."""

SCHEMA_VERSION = 1


class Options(TypedDict, total=False):
    """What a caller may ask for: the fields of :class:`Request`, with plain strings and numbers too."""

    target: TargetName | str
    format: Format | str
    width: Width | int | None
    guest: GuestName | str | None
    skip_qemu: bool
    spool: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    target: TargetName = TargetName.XEN_4_6
    format: Format = Format.AUTO
    width: Width | None = None
    guest: GuestName | None = None
    skip_qemu: bool = False
    """libxc format: leave the device-model record out."""
    spool: str | None = None
    """Folder into which an input that cannot be read twice is copied first."""

    @classmethod
    def of(cls, options: Options) -> Request:
        """A request from what a caller gives. Raises :class:`UsageError`."""
        values: dict[str, Any] = dict(options)
        kinds: dict[str, type[Enum]] = {
            "target": TargetName,
            "format": Format,
            "width": Width,
            "guest": GuestName,
        }
        for name, kind in kinds.items():
            if (value := values.get(name)) is not None:
                try:
                    values[name] = kind(value)
                except ValueError as error:
                    raise UsageError(
                        f"{name}", found=repr(value), expected=", ".join(str(one.value) for one in kind)
                    ) from error
        request = cls(**values)
        if request.skip_qemu and request.format is not Format.LIBXC:
            raise UsageError("--skip-qemu goes with libxc format alone", hint="add --format libxc")
        return request


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted into what."""

    input: ImageInfo
    output: str | None
    """None: nothing was written (a dry run)."""
    target: str
    format: str
    carrier: str
    restored_by: str
    bytes: int
    """Of the output."""
    records: dict[str, int]
    """libxc records by name."""
    words: dict[str, int]
    """Entries of PAGE_DATA records by page type."""
    left_out: int
    """Entries of a PV guest's pages that it gave back, or of page tables that refer to such (D22)."""
    seconds: float

    @property
    def warnings(self) -> tuple[Note, ...]:
        """What is worth knowing about the image and its conversion."""
        return self.input.warnings

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        report = asdict(self)
        report["input"] = self.input.to_dict()
        report["warnings"] = report["input"].pop("warnings")
        return {"schema": "xenmig-np/conversion", "schema_version": SCHEMA_VERSION, **report}


@contextlib.contextmanager
def plan(
    source: Input,
    output: str | int | None = None,
    *,
    force: bool = False,
    **options: Unpack[Options],
) -> Iterator[Plan]:
    """The plan of a conversion, as a context manager; nothing is written.

    Raises all that :func:`convert` raises before it writes; with ``output`` also what stands in its way.
    """
    request = Request.of(options)
    with _opened(source, request) as (original, usable):
        out = None if output is None else Output(output, original, force=force)
        if not usable.seekable:
            raise UsageError("a plan needs a file", path=usable.path, hint="give a file, or --spool DIR")
        made = _plan(_found(usable, request), request)
        if out:
            out.needs(made.size)
        yield made


def report_of(made: Plan, seconds: float = 0.0) -> Conversion:
    """The report of a plan that is not carried out."""
    return _report(made.planner, made.choice, None, made.size, seconds)


def convert(  # noqa: PLR0913 - each is an option of the command
    source: Input,
    output: str | int,
    *,
    force: bool = False,
    sync: bool = True,
    check: bool = True,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Conversion:
    """Convert a legacy image; ``options`` are the fields of :class:`Request`.

    ``force`` replaces an existing output, ``sync`` has it on disk before it gets its name, ``check`` reads
    the heads of a written file again. Raises the errors of :mod:`xenmig_np.errors`; a named output is then
    not there, or as it was.
    """
    began = time.monotonic()
    request = Request.of(options)
    with _opened(source, request) as (original, usable):
        out = Output(output, original, force=force)
        image = _found(usable, request)
        planner, written = carry_out(image, out, request, sync=sync, check=check, progress=progress)
    return _report(planner, planner.choice, out.path, written, time.monotonic() - began)


def carry_out(  # noqa: PLR0913 - as above
    image: LegacyImage,
    out: Output,
    request: Request,
    *,
    sync: bool = True,
    check: bool = True,
    progress: Progress | None = None,
) -> tuple[Planner, int]:
    """Convert an image that has been found into ``out``: who made the segments, and the bytes written."""
    source = image.source
    if source.seekable:
        made = _plan(image, request)
        out.needs(made.size)
        planner, segments, total = made.planner, made.segments(), made.size
    else:
        choice = Choice(TARGET_BY_NAME[request.target], _format_on_pipe(request), request.skip_qemu)
        planner = Planner(image, choice, image.new_facts(), watched=True)
        segments, total = planner.segments(), None
    with out:
        sink = Sink(source, out.fd, out.path, progress and (lambda done: progress(done, total)))
        sink.pour(segments)
        if total not in {None, sink.written}:
            raise InvalidImage(
                path=source.path,
                found=f"{sink.written:,} bytes of output",
                expected=f"{total:,}: the input changed while it was read",
            )
        if check and not out.is_stream:
            with out.reread() as file:
                check_written(file, planner, sink.written)
        out.commit(sync=sync)
    return planner, sink.written


def _format_on_pipe(request: Request) -> Format:
    return Format.LIBXL if request.format is Format.AUTO else request.format


@contextlib.contextmanager
def _opened(source: Input, request: Request) -> Iterator[tuple[Source, Source]]:
    """The input, and what is read in its place."""
    with open_source(source) as original:
        if original.seekable or request.spool is None:
            yield original, original
        else:
            with spool(original, request.spool) as copy:
                yield original, copy


def _found(source: Source, request: Request) -> LegacyImage:
    guest = GUEST_BY_NAME[request.guest] if request.guest else None
    return find(source, width=request.width, guest=guest)


def _plan(image: LegacyImage, request: Request) -> Plan:
    return Plan(image, TARGET_BY_NAME[request.target], request.format, skip_qemu=request.skip_qemu)


def _report(planner: Planner, choice: Choice, output: str | None, size: int, seconds: float) -> Conversion:
    return Conversion(
        input=image_info(planner.image, planner.facts),
        output=output,
        target=choice.target.name,
        format=choice.format,
        carrier=planner.image.carried.carrier,
        restored_by=choice.target.restored_by,
        bytes=size,
        records={RecordType(kind).name: count for kind, count in sorted(planner.records.items())},
        words=type_names(planner.words),
        left_out=planner.dropped,
        seconds=round(seconds, 6),
    )
