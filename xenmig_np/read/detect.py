"""Finds width and guest kind of a legacy image, which no field tells.

legacy-stream.md 10, containers.md 9.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import InvalidImage, NotRecognised, NotSupported, UsageError
from xenmig_np.io.cursor import Cursor
from xenmig_np.io.source import ReplayExhausted
from xenmig_np.read.events import EndOfBody, EndOfImage, HvmContext, OnlineVcpus, P2mFrames, PageBatch
from xenmig_np.read.legacy import LegacyReader
from xenmig_np.read.reading import Shape
from xenmig_np.wire import hvm, legacy, pages
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.io.source import Source

GUEST_NAMES: Final = {Guest.PV: "pv", Guest.HVM: "hvm"}
PROOF_BYTES: Final = 16
"""Enough to prove a width, and every image has as many."""
FIRST_BATCH_USUAL: Final = 16
"""Ordinary files fake a first batch of fewer words (containers.md 9.2): they are read to the end."""


class Detected(NamedTuple):
    """A shape, and why."""

    shape: Shape
    reasons: tuple[str, ...]


class _Contradiction(Exception):
    """A reading that the bytes rule out."""


class _Undecided(UsageError):
    """Both kinds of guest remain possible."""


def detect(  # noqa: PLR0913 - each is said by somebody else
    source: Source,
    at: int,
    *,
    width: int | None = None,
    guest: Guest | None = None,
    likely: Guest | None = None,
    yielding: bool = False,
) -> Detected:
    """The shape of the legacy image at ``at``; ``width`` and ``guest`` are what the user says.

    ``likely`` is what the carrier says of the guest: it decides where nothing else does (containers.md 9.2).
    ``yielding``: where ``width`` contradicts the image, it yields (reference-tools.md D-08).
    On a pipe only what fits into the replay window is looked at. Raises :class:`NotRecognised`,
    :class:`UsageError` where the user contradicts the image or has to decide, :class:`NotSupported` (ia64).
    """
    begin = Cursor(source, at).peek(PROOF_BYTES)
    if len(begin) < PROOF_BYTES:
        raise NotRecognised(
            path=source.path,
            offset=at,
            item="beginning",
            found=f"{len(begin)} bytes",
            expected="a legacy image, which is longer",
        )
    proven = 32 if begin[4:8] != bytes(4) else 64
    said = f"octets 4 to 7 are {begin[4:8].hex()}: {proven}-bit words"
    if width not in (None, proven) and not yielding:
        raise UsageError(f"--width {width} contradicts the image: {said}", path=source.path, offset=at + 4)
    reasons = [said]
    p2m_size = int(np.frombuffer(begin, legacy.WORDS[proven], 1)[0])
    if not (width and guest):
        _plausible(p2m_size, source.path, at, begin)
    try:
        kind, why = _guest(source, at, proven, begin, guest)
    except _Undecided:
        if likely is None:
            raise
        kind, why = likely, f"it reads as PV and as HVM, its configuration says {GUEST_NAMES[likely]}"
    reasons.append(why)
    return Detected(Shape(proven, kind), tuple(reasons))


def _plausible(p2m_size: int, path: str, at: int, begin: bytes) -> None:
    if p2m_size < limits.P2M_SIZE_MIN_DETECTED:
        raise NotSupported(
            f"p2m_size {p2m_size}, as an ia64 image or no image at all would begin",
            path=path,
            offset=at,
            item="beginning",
            hint="if you know better, give --width and --guest",
        )
    if p2m_size > limits.P2M_SIZE_MAX:
        raise NotRecognised(
            path=path, offset=at, item="beginning", found=begin.hex(" "), expected="a Xen image"
        )


def _guest(source: Source, at: int, width: int, begin: bytes, said: Guest | None) -> tuple[Guest, str]:
    """PV or HVM: by what the first field behind p2m_size proves, else by trying both."""
    proof = _proof(begin, width)
    if proof is None and said and not source.drained:
        return said, "said so; nothing more of an input that others read on is looked at"
    if proof is None:
        return _tried(source, at, width, begin, said)
    if said and said is not proof[0]:
        raise UsageError(
            f"--guest {GUEST_NAMES[said]} contradicts the image, a {GUEST_NAMES[proof[0]]} one: {proof[1]}",
            path=source.path,
            offset=at + width // 8,
        )
    return proof


def _proof(begin: bytes, width: int) -> tuple[Guest, str] | None:
    word = width // 8
    field = begin[word : 2 * word]
    if field == b"\xff" * word:
        return Guest.PV, "the marker of extended info stands behind p2m_size"
    chunk = int.from_bytes(begin[word : word + 4], "little", signed=True)
    if chunk < 0 and chunk in legacy.CHUNK_BY_ID:
        name = legacy.CHUNK_BY_ID[chunk].name
        return Guest.HVM, f"chunk {chunk} ({name}) stands behind p2m_size, where a PV image has a frame list"
    return None


def _tried(source: Source, at: int, width: int, begin: bytes, said: Guest | None) -> tuple[Guest, str]:
    """Read under both kinds as far as needed; the one that stays possible is it."""
    failures: dict[Guest, str] = {}
    for guest in (Guest.HVM, Guest.PV):
        if failure := _trial(source, at, Shape(width, guest), whole=False):
            failures[guest] = failure
    possible = [guest for guest in (Guest.PV, Guest.HVM) if guest not in failures]
    if said is None and len(possible) == 2 and source.seekable:
        possible = _to_the_end(source, at, width, failures)
    if said in possible or (said and not possible):
        return said, "--guest says so" + ("" if said in possible else "; the first batch does not read so")
    if said:
        raise UsageError(
            f"--guest {GUEST_NAMES[said]} contradicts the image: {failures[said]}",
            path=source.path,
            offset=at,
            hint=f"it reads as --guest {GUEST_NAMES[possible[0]]}",
        )
    return _decided(source, at, begin, possible, failures)


def _to_the_end(source: Source, at: int, width: int, failures: dict[Guest, str]) -> list[Guest]:
    for guest in (Guest.HVM, Guest.PV):
        if failure := _trial(source, at, Shape(width, guest), whole=True):
            failures[guest] = failure
    return [guest for guest in (Guest.PV, Guest.HVM) if guest not in failures]


def _decided(
    source: Source, at: int, begin: bytes, possible: list[Guest], failures: dict[Guest, str]
) -> tuple[Guest, str]:
    if len(possible) == 1:
        other = next(guest for guest in (Guest.PV, Guest.HVM) if guest is not possible[0])
        return possible[0], f"it does not read as {GUEST_NAMES[other]}: {failures[other]}"
    if possible:
        raise _Undecided(
            "the beginning reads both as PV and as HVM",
            path=source.path,
            offset=at,
            hint="give --guest pv or --guest hvm",
        )
    why = "; ".join(f"as {GUEST_NAMES[guest]}: {failures[guest]}" for guest in (Guest.HVM, Guest.PV))
    raise NotRecognised(
        path=source.path,
        offset=at,
        item="beginning",
        found=begin.hex(" "),
        expected="a Xen image",
        hint=f"tried {why}",
    )


def _trial(source: Source, at: int, shape: Shape, *, whole: bool) -> str:
    """What rules the shape out, or nothing; read to the second batch, or to the end."""
    try:
        _read(source, at, shape, whole=whole)
    except (_Contradiction, InvalidImage) as error:
        text = str(error)
        return text.removeprefix(f"{source.path}: ")
    except (ReplayExhausted, NotSupported):
        pass  # all that could be seen reads well
    return ""


def _read(source: Source, at: int, shape: Shape, *, whole: bool) -> None:
    """Read events and raise at the first that rules the shape out."""
    reader = LegacyReader(source, at, shape)
    batches = 0
    vcpu_info = False
    context = b""
    for event in reader.events():
        match event:
            case P2mFrames():
                _distinct(event.frames, reader.reading.p2m_size)
            case PageBatch():
                batches += 1
                _as_saved(event, shape)
                usual = len(event.types) >= FIRST_BATCH_USUAL
                if not whole and usual and _next_head(reader):
                    return
                whole |= not usual
            case OnlineVcpus():
                vcpu_info = True
            case HvmContext():
                context = event.context
            case EndOfBody() if not batches:
                raise _Contradiction("no page batch before the end of the body")
            case EndOfImage():
                break
    if shape.guest is Guest.HVM and not (vcpu_info and context.startswith(hvm.CONTEXT_START)):
        raise _Contradiction("no chunk -2, or an HVM context that does not begin with its header")


def _next_head(reader: LegacyReader) -> bool:
    """Whether behind the batch another chunk's head stands; raises where something else does."""
    number = reader.reading.cursor.peek(legacy.CHUNK_ID.itemsize)
    if len(number) < legacy.CHUNK_ID.itemsize:
        raise _Contradiction("the input ends behind the first batch")
    chunk = int(np.frombuffer(number, legacy.CHUNK_ID)[0])
    if chunk > legacy.BATCH_MAX or (chunk <= 0 and chunk not in legacy.CHUNK_BY_ID):
        raise _Contradiction(f"{chunk} stands behind the first batch, where a chunk id should")
    return True


def _distinct(frames: NDArray[np.unsignedinteger], p2m_size: int) -> None:
    if not (frames < p2m_size).all() or not frames.all():
        raise _Contradiction("the p2m frame list holds a frame that is 0 or beyond p2m_size")
    if len(np.unique(frames)) < len(frames):
        raise _Contradiction("the p2m frame list names a frame twice")


def _as_saved(event: PageBatch, shape: Shape) -> None:
    """A batch as savers write it: types of its kind of guest, no pfn twice."""
    if shape.guest is Guest.HVM and not pages.OF_HVM[event.types].all():
        raise _Contradiction(f"{event.item} holds page tables, which HVM images do not")
    pfns = event.pfns[event.types != pages.PageType.XTAB]
    if len(np.unique(pfns)) < len(pfns):
        raise _Contradiction(f"{event.item} names a pfn twice")
