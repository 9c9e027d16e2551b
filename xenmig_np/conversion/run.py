"""One conversion from beginning to end: open, plan, write, check, rename, report."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

from xenmig_np.carriers.wrap import Wish, wrap
from xenmig_np.conversion.check import check_written
from xenmig_np.conversion.plan import Plan
from xenmig_np.conversion.planner import Choice, Planner
from xenmig_np.errors import InvalidImage, UsageError
from xenmig_np.io.files import Output
from xenmig_np.io.pour import Manner, Poured, pour
from xenmig_np.io.sink import write_all
from xenmig_np.io.source import Input, open_source, spool
from xenmig_np.options import Container, Format, GuestName, TargetName, Width
from xenmig_np.read.image import LegacyImage, find, skip
from xenmig_np.read.info import ImageInfo, image_info, type_names
from xenmig_np.wire.legacy import GUEST_BY_NAME
from xenmig_np.wire.libxc import RecordType
from xenmig_np.wire.targets import TARGET_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenmig_np.carriers.wrap import Wrapping
    from xenmig_np.errors import Note
    from xenmig_np.io.pour import Tap
    from xenmig_np.io.source import FileSource, Source

    Progress = Callable[[int, int | None], object]
    """Called with the bytes written so far and those of the whole output, None if unknown."""

SCHEMA_VERSION = 1


class Witness(Protocol):
    """Sees the bytes of a conversion pass, and is asked before its output gets its name."""

    @property
    def mark(self) -> str:
        """Stands in the name of the temporary file."""

    @property
    def tap(self) -> Tap | None:
        """Is shown all that is written; see :func:`xenmig_np.io.pour.pour`."""

    def reading(self, source: Source) -> Source:
        """What pages are read from in place of ``source``."""

    def accept(self, fd: int) -> object:
        """All is written to ``fd``, and was checked. What this raises ends the conversion."""


Place = str | bytes | os.PathLike[str] | os.PathLike[bytes] | int
"""Of an output: the name of a file, ``-`` for standard output, or a descriptor."""


def place(given: Place) -> str | int:
    """What the caller gives, with names as they are inside: strings. Raises :class:`TypeError`."""
    return given if isinstance(given, int) else os.fsdecode(given)


class Options(TypedDict, total=False):
    """What a caller may ask for: the fields of :class:`Request`, with plain strings and numbers too."""

    target: TargetName | str
    format: Format | str
    width: Width | int | None
    guest: GuestName | str | None
    container: Container | str
    config: str | os.PathLike[str] | bytes | None
    keep_config: str | os.PathLike[str] | None
    skip: int
    skip_qemu: bool
    drop_tmem: bool
    collapse: bool
    spool: str | os.PathLike[str] | None
    sparse: bool
    drop_cache: bool
    compress: str | None
    level: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    target: TargetName = TargetName.XEN_4_6
    format: Format = Format.AUTO
    width: Width | None = None
    guest: GuestName | None = None
    container: Container = Container.AUTO
    config: str | bytes | None = None
    """A configuration for the output: the name of a file, or what is in one."""
    keep_config: str | None = None
    """A file to write the configuration of the input to."""
    skip: int = 0
    """Bytes of the input that precede the image."""
    skip_qemu: bool = False
    """libxc format: leave the device-model record out."""
    drop_tmem: bool = False
    """Leave transcendent memory out, which is otherwise refused."""
    collapse: bool = False
    """Write the last copy of each page alone; the image is read more than once."""
    spool: str | None = None
    """Folder into which an input that cannot be read twice, or is compressed, is copied first."""
    sparse: bool = False
    """Make holes of zeros."""
    drop_cache: bool = False
    """Leave nothing of input and output in the page cache."""
    compress: str | None = None
    """Write it compressed: ``gzip``, ``xz`` or ``zstd``."""
    level: int | None = None
    """Of that."""

    @property
    def manner(self) -> Manner:
        """How the output is written."""
        return Manner(self.sparse, self.drop_cache, self.compress, self.level)

    @classmethod
    def of(cls, options: Options) -> Request:
        """A request from what a caller gives. Raises :class:`UsageError`."""
        values: dict[str, Any] = {
            name: os.fsdecode(value) if isinstance(value, os.PathLike) else value
            for name, value in options.items()
        }
        kinds: dict[str, type[Enum]] = {
            "target": TargetName,
            "format": Format,
            "container": Container,
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
        if request.sparse and request.compress:
            raise UsageError("--sparse makes no holes in what is compressed", hint="take one of them away")
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
    """Of the output: ``bare``, ``xl``, ``libvirt`` or ``xapi2``, a structured XenServer image."""
    restored_by: str
    bytes: int
    """Of the output."""
    stored: int
    """As ``bytes``, or what compression has left of them."""
    records: dict[str, int]
    """libxc records by name."""
    words: dict[str, int]
    """Entries of PAGE_DATA records by page type."""
    left_out: int
    """Entries of a PV guest's pages that it gave back, or of page tables that refer to such (D22)."""
    collapsed: int
    """Entries beyond these that ``collapse`` left out."""
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
    output: Place | None = None,
    *,
    force: bool = False,
    **options: Unpack[Options],
) -> Iterator[Plan]:
    """The plan of a conversion, as a context manager; nothing is written.

    Raises all that :func:`convert` raises before it writes; with ``output`` also what stands in its way.
    """
    request = Request.of(options)
    with _opened(source, request) as (original, usable):
        output = None if output is None else place(output)
        out = None if output is None else Output(output, original, force=force)
        if not usable.seekable:
            raise UsageError("a plan needs a file", path=usable.path, hint="give a file, or --spool DIR")
        image = _found(usable, request)
        _kept(image, request, output, force=force)
        made = _plan(image, request)
        if out:
            out.needs(made.size)
        yield made


def report_of(made: Plan, seconds: float = 0.0) -> Conversion:
    """The report of a plan that is not carried out."""
    return _report(made.planner, None, Poured(made.size, made.size), seconds)


def convert(  # noqa: PLR0913 - each is an option of the command
    source: Input,
    output: Place,
    *,
    force: bool = False,
    sync: bool = True,
    check: bool = True,
    progress: Progress | None = None,
    witness: Witness | None = None,
    **options: Unpack[Options],
) -> Conversion:
    """Convert a legacy image; ``options`` are the fields of :class:`Request`.

    ``force`` replaces an existing output, ``sync`` has it on disk before it gets its name, ``check`` reads
    the heads of a written file again, ``witness`` sees the bytes pass and may refuse that file. Raises the
    errors of :mod:`xenmig_np.errors`; a named output is then not there, or as it was.
    """
    began = time.monotonic()
    request, output = Request.of(options), place(output)
    with _opened(source, request) as (original, usable):
        out = Output(output, original, force=force, mark=witness.mark if witness else "")
        image = _found(usable, request)
        kept = _kept(image, request, output, force=force)
        planner, poured = carry_out(
            image, out, request, sync=sync, check=check, progress=progress, witness=witness, kept=kept
        )
    seconds = time.monotonic() - began
    return _report(planner, out.path, poured, seconds, _known_late(planner, request))


def carry_out(  # noqa: PLR0913 - as above
    image: LegacyImage,
    out: Output,
    request: Request,
    *,
    sync: bool = True,
    check: bool = True,
    progress: Progress | None = None,
    witness: Witness | None = None,
    kept: Output | None = None,
) -> tuple[Planner, Poured]:
    """Convert an image that has been found into ``out``: who made the segments, and the bytes written.

    ``kept`` gets the configuration of the image.
    """
    source = image.source
    if source.seekable:
        made = _plan(image, request)
        if not request.compress:
            out.needs(made.size)
        planner, segments, total = made.planner, made.segments(), made.size
        parallel = not made.in_order
    else:
        choice = _choice_on_pipe(image, request)
        planner = Planner(image, choice, image.new_facts(), watched=True)
        segments, total = planner.segments(), None
        parallel = False
    with contextlib.closing(segments), out, kept or contextlib.nullcontext():
        poured = pour(
            witness.reading(source) if witness else source,
            out,
            segments,
            size=total if parallel else None,
            manner=request.manner,
            progress=progress and (lambda done: progress(done, total)),
            tap=witness.tap if witness else None,
        )
        if total not in {None, poured.bytes}:
            raise InvalidImage(
                path=source.path,
                found=f"{poured.bytes:,} bytes of output",
                expected=f"{total:,}: the input changed while it was read",
            )
        if check and not out.is_stream:
            with out.reread() as file:
                check_written(_uncompressed(file, request), planner, poured.bytes)
        source.finish()
        if witness and not out.is_stream:
            witness.accept(out.fd)
        if kept:
            write_all(kept.fd, kept.path, [_config_of(image)])
            kept.commit(sync=sync)
        out.commit(sync=sync)
    return planner, poured


def _uncompressed(file: FileSource, request: Request) -> Source:
    """What was written, as it was before compression."""
    if request.compress is None:
        return file
    from xenmig_np.io.compressed import decompressed  # noqa: PLC0415 - seldom wanted

    return decompressed(file)


def _choice_on_pipe(image: LegacyImage, request: Request) -> Choice:
    if request.collapse:
        hint = "give a file, or --spool DIR: the last copies have to be known before the first goes out"
        raise UsageError("--collapse: a pipe can be read only once", path=image.source.path, hint=hint)
    wrapping = _wrapping(image, request)
    format_ = Format.LIBXL if wrapping.format is Format.AUTO else wrapping.format
    target = TARGET_BY_NAME[request.target]
    return Choice(target, format_, wrapping, request.skip_qemu, request.drop_tmem)


@contextlib.contextmanager
def _opened(source: Input, request: Request) -> Iterator[tuple[Source, Source]]:
    """The input, and what is read in its place."""
    with open_source(source) as original:
        if request.spool is None or (original.seekable and not original.compression):
            skip(original, request.skip)
            yield original, original
        else:
            with spool(original, request.spool) as copy:
                skip(copy, request.skip)
                yield original, copy


def _found(source: Source, request: Request) -> LegacyImage:
    guest = GUEST_BY_NAME[request.guest] if request.guest else None
    return find(source, width=request.width, guest=guest)


def _plan(image: LegacyImage, request: Request) -> Plan:
    translated = image.carried.carrier == "xend" and not request.config
    pages = image.survey().distinct_pages if translated else 0
    return Plan(
        image,
        TARGET_BY_NAME[request.target],
        _wrapping(image, request, pages),
        skip_qemu=request.skip_qemu,
        drop_tmem=request.drop_tmem,
        collapse=request.collapse,
    )


def _wrapping(image: LegacyImage, request: Request, pages: int = 0) -> Wrapping:
    config = None
    if request.config is not None:
        from xenmig_np.carriers.given import given  # noqa: PLC0415 - where it is asked for

        config = given(request.config)
    wish = Wish(request.container, request.format, config)
    target, shape = TARGET_BY_NAME[request.target], image.detected.shape
    return wrap(image.carried, shape, wish, target, path=image.source.path, pages=pages)


def _known_late(planner: Planner, request: Request) -> tuple[Note, ...]:
    """What was known of a configuration only when it had gone out, before a pipe's pages."""
    image = planner.image
    if image.source.seekable or image.carried.carrier != "xend":
        return ()
    late = _wrapping(image, request, planner.facts.distinct_pages)
    new = [note for note in late.notes if note not in planner.choice.wrapping.notes]
    return tuple(replace(note, text=f"not done, as the input is a pipe: {note.text}") for note in new)


def _kept(image: LegacyImage, request: Request, output: str | int | None, *, force: bool) -> Output | None:
    """The file for the configuration of the image, if one is wanted. Raises as :class:`Output` does."""
    if request.keep_config is None:
        return None
    if not _config_of(image):
        raise UsageError("--keep-config: there is no configuration", path=image.source.path)
    kept = Output(request.keep_config, image.source, force=force)
    same = isinstance(output, str) and os.path.realpath(output) == os.path.realpath(request.keep_config)
    if kept.is_stream or same:
        raise UsageError("--keep-config wants a file of its own", path=request.keep_config)
    return kept


def _config_of(image: LegacyImage) -> bytes:
    """The configuration of the image, without the NUL that some carriers have behind it."""
    header = image.carried.header
    return header.config.removesuffix(b"\0") if header else b""


def _report(
    planner: Planner,
    output: str | None,
    poured: Poured,
    seconds: float,
    notes: tuple[Note, ...] = (),
) -> Conversion:
    info = image_info(planner.image, planner.facts)
    choice, wrapping = planner.choice, planner.choice.wrapping
    return Conversion(
        input=replace(info, warnings=(*info.warnings, *wrapping.notes, *notes)),
        output=output,
        target=choice.target.name,
        format=choice.format,
        carrier=wrapping.carrier,
        restored_by=wrapping.restored_by(choice.target),
        bytes=poured.bytes,
        stored=poured.stored,
        records={RecordType(kind).name: count for kind, count in sorted(planner.records.items())},
        words=type_names(planner.words),
        left_out=planner.dropped,
        collapsed=planner.superseded,
        seconds=round(seconds, 6),
    )
