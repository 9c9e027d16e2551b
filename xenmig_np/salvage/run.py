"""Salvaging one image: convert it if it is whole, else save what can be proven of it."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Unpack

from xenmig_np.carriers.recognise import Carried, recognise
from xenmig_np.conversion.run import Conversion, Options, Place, Request, carry_out, convert, place
from xenmig_np.errors import (
    ExitCode,
    InputOutputError,
    InvalidImage,
    Note,
    NotSupported,
    UsageError,
    XenmigError,
)
from xenmig_np.io.files import Output
from xenmig_np.io.sink import write_all
from xenmig_np.io.source import open_source
from xenmig_np.read.detect import Detected
from xenmig_np.read.events import PageBatch
from xenmig_np.read.image import find
from xenmig_np.read.image import skip as skip_bytes
from xenmig_np.read.reading import Shape
from xenmig_np.salvage import maps
from xenmig_np.salvage.image import SalvagedImage, without_stream
from xenmig_np.salvage.memory import Memory, Status
from xenmig_np.salvage.recover import Recovered, Recovery
from xenmig_np.salvage.tolerant import Ranges, Tolerant
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.run import verify
from xenmig_np.wire.legacy import GUEST_BY_NAME, WORDS, Guest

if TYPE_CHECKING:
    from xenmig_np.conversion.run import Progress
    from xenmig_np.io.pour import Tap
    from xenmig_np.io.source import Input, Source
    from xenmig_np.salvage.maps import Unread

SCHEMA_VERSION: Final = 1
RULE: Final = "salvage"
UNLIKELY: Final = frozenset({"legacy 8.13", "legacy 8.14", "legacy 11.1"})
"""Remarks on an image that reads well to its end and is hardly whole: zeros read as the tail of a guest."""


GUESTS: Final = (Guest.HVM, Guest.PV)
"""In this order: an HVM image reads as PV too, but for its tail, and no PV image as HVM."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What became of an image. Sizes and offsets in bytes."""

    input: str
    damage: str | None
    """What is wrong with it; None: nothing, it was converted as ever."""
    conversion: Conversion | None = None
    """Of an image without damage."""
    stream: str | None = None
    """The stream that was made of a damaged one."""
    no_stream: str | None = None
    """Why none was made."""
    stream_bytes: int = 0
    raw: str | None = None
    """The file with the guest's memory: the page of pfn N at N * 4096."""
    map: str | None = None
    """The file that tells what is lost."""
    guest: str | None = None
    """``pv`` or ``hvm``."""
    width: int | None = None
    p2m_size: int = 0
    p2m_size_guessed: bool = False
    """It is one more than the highest pfn that was found."""
    batches: int = 0
    pages: dict[str, int] | None = None
    """Pfns by what is known of them: ``saved``, ``older``, ``lost``, ``absent``."""
    unread: tuple[Unread, ...] = ()
    """What of the input was read as nothing."""
    warnings: tuple[Note, ...] = ()
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """Of the command."""
        return ExitCode.DONE if self.damage is None else ExitCode.SALVAGED

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        report = asdict(self)
        report["conversion"] = self.conversion.to_dict() if self.conversion else None
        report["unread"] = [part._asdict() for part in self.unread]
        return {"schema": "xenmig-np/salvage", "schema_version": SCHEMA_VERSION, **report}


def salvage(  # noqa: PLR0913 - each is an option of the command
    source: Input,
    output: Place,
    *,
    raw: str | os.PathLike[str] | None = None,
    map_: str | os.PathLike[str] | None = None,
    unreadable: str | os.PathLike[str] | None = None,
    force: bool = False,
    sync: bool = True,
    check: bool = True,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Salvaged:
    """Convert a legacy image, or save what can be proven of a damaged one.

    A damaged one gives ``raw`` (OUTPUT.raw), ``map_`` (OUTPUT.map), and ``output`` if its tail survives.
    ``unreadable`` is a mapfile of ddrescue that says what of the input is not as it was saved. The rest is
    as :func:`xenmig_np.conversion.run.convert` has it, but for ``spool`` and ``keep_config``, which are
    refused. Raises the error of the damage where nothing can be saved.
    """
    began = time.monotonic()
    request, output = _fitting(Request.of(options)), place(output)
    with open_source(source) as opened:
        if not opened.seekable or opened.compression:
            raise UsageError(
                "--salvage reads a file in any order",
                path=opened.path,
                hint="give a file that is not compressed",
            )
        if Output(output, opened, force=force).is_stream:
            raise UsageError("--salvage writes files", path=str(output), hint="name an OUTPUT file")
        skip_bytes(opened, request.skip)
        bad = maps.unreadable(os.fsdecode(unreadable)) if unreadable else Ranges()
        damage = _known(opened, bad) or _damage(opened, request)
        if damage is None:
            try:
                made = convert(
                    source, output, force=force, sync=sync, check=check, progress=progress, **options
                )
                return Salvaged(opened.path, None, conversion=made, seconds=made.seconds)
            except InputOutputError as error:
                if error.path not in opened.paths:
                    raise
                damage = error
        raw, map_ = os.fsdecode(raw or f"{output}.raw"), os.fsdecode(map_ or f"{output}.map")
        work = _Work(Tolerant(opened, bad), request, str(output), raw, map_, damage)
        work.force, work.sync, work.check = force, sync, check
        return replace(work.run(progress), seconds=round(time.monotonic() - began, 6))


def _fitting(request: Request) -> Request:
    """A request that can be carried out whether the image is damaged or not. Raises :class:`UsageError`."""
    if request.spool is not None:
        told = "--salvage reads a file in any order: --spool has nothing to do"
        raise UsageError(told, hint="leave --spool away")
    if request.keep_config is not None:
        hint = "xenmig-np config show INPUT > FILE"
        raise UsageError("--keep-config does not go with --salvage", hint=hint)
    return request


def _known(source: Source, bad: Ranges) -> XenmigError | None:
    """The damage that the user tells of."""
    if (part := next(bad.within(source.start, source.end or source.start), None)) is None:
        return None
    found = (
        f"{sum(end - begin for begin, end in bad.within(source.start, source.end or 0)):,} unreadable bytes"
    )
    return InvalidImage(path=source.path, offset=part[0], item="mapfile", found=found)


def _damage(source: Source, request: Request) -> XenmigError | None:
    """What is wrong with the image, as far as its heads tell."""
    guest = GUEST_BY_NAME[request.guest] if request.guest else None
    try:
        facts = find(source, width=request.width, guest=guest).survey()
    except (InvalidImage, InputOutputError) as error:
        return error
    except UsageError as error:  # what the user says of it contradicts a damaged beginning, or a good one
        if (request.width or request.guest) and _damage(source, Request()) is None:
            raise
        return error
    except NotSupported as error:
        if _is_legacy(source):
            return error
        raise
    for note in facts.notes.all():
        if note.rule in UNLIKELY:
            return InvalidImage(path=source.path, offset=note.offset, item="tail", found=note.text)
    return None


def _is_legacy(source: Source) -> bool:
    """Whether a damaged image may hide behind a refusal: no other kind of file is recognised."""
    try:
        carried = recognise(source)
    except XenmigError:
        return False
    return carried.stream == "legacy" and carried.otherwise is None


@dataclass(slots=True)
class _Work:
    """One damaged image."""

    source: Tolerant
    request: Request
    output: str
    raw: str
    map: str
    damage: XenmigError
    force: bool = False
    sync: bool = True
    check: bool = True

    def run(self, progress: Progress | None) -> Salvaged:
        carried = self._carried()
        found = self._best(carried.at)
        if not found.pages:
            raise self.damage
        memory = Memory(found, self.source)
        with Output(self.raw, self.source, force=self.force) as raw:
            total = memory.p2m_size * 4096
            memory.write(raw, progress and (lambda done: progress(done, total)))
            salvaged = self._report(memory, carried, progress)
            with Output(self.map, self.source, force=self.force) as map_:
                text = "\n".join(maps.lines(memory, self.source.path, self.raw, salvaged.unread))
                write_all(map_.fd, map_.path, [f"{text}\n".encode()])
                map_.commit(sync=self.sync)
            raw.commit(sync=self.sync)
        return salvaged

    def _carried(self) -> Carried:
        try:
            return recognise(self.source)
        except (InvalidImage, NotSupported):
            return Carried("bare", "legacy", self.source.start)

    def _best(self, at: int) -> Recovered:
        """What is recovered with the shape that was detected if all is well, else with the best of all."""
        all_found: list[Recovered] = []
        detected = self._detected()
        for shape in sorted(self._shapes(), key=lambda shape: shape != detected):
            found = Recovery(self.source, at, shape).run()
            all_found.append(found)
            if shape == detected and found.pages and found.tail and found.head and not found.head.fault:
                break
        return max(all_found, key=lambda found: (found.pages, bool(found.tail)))

    def _detected(self) -> Shape | None:
        try:
            return find(self.source, width=self.request.width, guest=self._guest).detected.shape
        except XenmigError:
            return None

    @property
    def _guest(self) -> Guest | None:
        return GUEST_BY_NAME[self.request.guest] if self.request.guest else None

    def _shapes(self) -> list[Shape]:
        """All that are possible; PV guests have pages that HVM guests have not."""
        widths = [self.request.width] if self.request.width else list(WORDS)
        return [Shape(width, kind) for kind in ([self._guest] if self._guest else GUESTS) for width in widths]

    def _report(self, memory: Memory, carried: Carried, progress: Progress | None) -> Salvaged:
        counts: Counter[str] = Counter({status.name.lower(): 0 for status in Status})
        for _, count, status in memory.ranges():
            counts[status.name.lower()] += count
        found = memory.found
        made = Salvaged(
            input=self.source.path,
            damage=str(self.damage),
            raw=self.raw,
            map=self.map,
            guest="hvm" if found.shape.guest is Guest.HVM else "pv",
            width=found.shape.width,
            p2m_size=memory.p2m_size,
            p2m_size_guessed=memory.guessed,
            batches=sum(isinstance(event, PageBatch) for event in found.events),
            pages=dict(counts),
            unread=tuple(maps.unread(memory, carried.at)),
            no_stream=without_stream(memory),
        )
        return made if made.no_stream else self._with_stream(made, memory, carried, progress)

    def _with_stream(
        self, made: Salvaged, memory: Memory, carried: Carried, progress: Progress | None
    ) -> Salvaged:
        image = SalvagedImage(
            memory.source, carried, Detected(memory.found.shape, ("salvaged",)), memory=memory
        )
        out = Output(self.output, self.source, force=self.force)
        try:
            planner, poured = carry_out(
                image,
                out,
                self.request,
                sync=self.sync,
                check=self.check,
                progress=progress,
                witness=_Good(self.output),
            )
        except (InvalidImage, NotSupported) as error:
            return replace(made, no_stream=str(error))
        notes = (*planner.facts.notes.all(), *planner.choice.wrapping.notes)
        return replace(made, stream=out.path, stream_bytes=poured.bytes, warnings=notes)


class _Good:
    """Refuses a stream in which verification finds errors."""

    mark = ""
    tap: Tap | None = None

    def __init__(self, path: str) -> None:
        self._path = path

    def reading(self, source: Source) -> Source:
        return source

    def accept(self, fd: int) -> None:
        """Raise :class:`InvalidImage` for a stream that is not good."""
        os.lseek(fd, 0, os.SEEK_SET)
        report = verify(fd)
        if report.errors:
            first = next(finding for finding in report.findings if finding.severity is Severity.ERROR)
            raise InvalidImage(f"a stream of what is left would not be good: {first}", path=self._path)
