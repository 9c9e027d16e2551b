"""What an image says, gathered while its events go by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import InvalidImage, Note
from xenmig_np.io.memory import lazy_zeros
from xenmig_np.read.events import (
    AnyEvent,
    Chunk,
    DeviceModel,
    EndOfBody,
    EndOfImage,
    ExtendedInfo,
    HvmContext,
    HvmMagic,
    OnlineVcpus,
    P2mFrames,
    P2mSize,
    PageBatch,
    Remark,
    StartOfBody,
    Unmapped,
)
from xenmig_np.read.pfnset import PfnSet
from xenmig_np.wire import hvm, legacy, pages
from xenmig_np.wire.legacy import Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from xenmig_np.read.reading import Shape

NEVER: Final = 0
"""In :attr:`Facts.last_types`: the pfn was not mentioned."""
COUNTED_AT_ONCE: Final = 64 * limits.KIB
"""Pfns: bincount needs eight bytes for each, and most such parts of a small HVM guest are empty."""


class Notes:
    """Notes, of each rule the first few; the rest is counted."""

    def __init__(self) -> None:
        self._kept: list[Note] = []
        self._counts: Counter[str] = Counter()
        self._marked: tuple[int, Counter[str]] = (0, Counter())

    def add(self, note: Note) -> None:
        self._counts[note.rule] += 1
        if self._counts[note.rule] <= limits.NOTES_PER_RULE:
            self._kept.append(note)

    def mark(self) -> None:
        """What is added from here on may be forgotten."""
        self._marked = len(self._kept), self._counts.copy()

    def forget(self) -> None:
        """Of what was added since :meth:`mark` nothing counts."""
        count, self._counts = self._marked
        del self._kept[count:]

    def all(self) -> list[Note]:
        """Those that were kept, and for each rule that had more, how many more."""
        more = [
            Note(rule, f"{count - limits.NOTES_PER_RULE:,} more notes of this kind ({rule})")
            for rule, count in self._counts.items()
            if count > limits.NOTES_PER_RULE
        ]
        return self._kept + more


@dataclass(slots=True, eq=False)
class Facts:
    """Sums and small things of one image; arrays as large as the guest, but nothing of its pages.

    Of an image with several checkpoints batches and chunks are counted in all of them; what their tails say,
    HVM parameters and toolstack data are those that count in the end (v2-stream.md 19.14).
    """

    shape: Shape
    path: str
    p2m_size: int = 0
    info: ExtendedInfo | None = None
    frames: P2mFrames | None = None
    two_levels: bool = False
    """A 32-bit guest whose page tables have two levels: known behind its first vCPU."""
    bodies: int = 1
    batches: int = 0
    type_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(16, np.int64))
    """Words by type, as they stand in the batches."""
    last_types: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """For each pfn one more than the type of its last mention (XTAB words mention nothing), or NEVER."""
    counted: tuple[int, NDArray[np.int64]] = field(default_factory=lambda: (0, np.zeros(16, np.int64)))
    """``last_type_counts`` as they were at so many batches: taking them means looking at every pfn."""
    chunks: Counter[str] = field(default_factory=Counter)
    params: list[tuple[int, int]] = field(default_factory=list)
    """HVM parameters as (number in released streams, value), chunks first, in order of arrival."""
    tsc: dict[str, int] | None = None
    online: tuple[int, ...] = (0,)
    verify: bool = False
    unmapped: PfnSet = field(default_factory=lambda: PfnSet(0))
    unmapped_entries: int = 0
    unmapped_sent: int = 0
    """Unmapped pfns that a batch mentions."""
    context_length: int = 0
    hvm_vcpus: int = 0
    device_model: DeviceModel | None = None
    toolstack_bytes: int = 0
    toolstack_body: int = 0
    """Number of the body that they are in."""
    end: int = 0
    """Offset behind the image."""
    notes: Notes = field(default_factory=Notes)

    @property
    def words(self) -> int:
        return int(self.type_counts.sum())

    @property
    def pages(self) -> int:
        """Pages in the image, each copy counted."""
        return int(self.type_counts[pages.HAS_DATA].sum())

    @property
    def distinct_pages(self) -> int:
        """Pfns whose last mention has data."""
        return int(self.last_type_counts[pages.HAS_DATA].sum())

    @property
    def last_type_counts(self) -> NDArray[np.int64]:
        """Pfns by the type of their last mention, shape (16,)."""
        batches, counts = self.counted
        if batches != self.batches:
            counts = _counts(self.last_types)[1:]
            self.counted = self.batches, counts
        return counts

    @property
    def superseded(self) -> int:
        """Words whose pfn is mentioned again."""
        return self.words - self.dropped_words - int(self.last_type_counts.sum())

    @property
    def dropped_words(self) -> int:
        """XTAB words: no page, nothing that a stream could say."""
        return int(self.type_counts[pages.PageType.XTAB])

    @property
    def guest_name(self) -> str:
        return self.info.guest.name if self.info else "hvm"

    def see(self, event: AnyEvent) -> None:
        """Take an event into account. Raises :class:`InvalidImage` for what grows beyond all bounds."""
        if (seer := SEERS.get(type(event))) is not None:
            seer(self, event)


def _counts(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of 0 to 16 stands in an array that is mostly 0 where a guest is small, shape (17,)."""
    counts = np.zeros(17, np.int64)
    for at in range(0, len(values), COUNTED_AT_ONCE):
        some = values[at : at + COUNTED_AT_ONCE]
        if np.count_nonzero(some):
            counts += np.bincount(some, minlength=17)
        else:
            counts[0] += len(some)
    return counts


def _p2m_size(facts: Facts, event: P2mSize) -> None:
    facts.p2m_size = event.value
    facts.last_types = lazy_zeros(event.value)
    facts.unmapped = PfnSet(event.value)


def _frames(facts: Facts, event: P2mFrames) -> None:
    facts.frames = event


def _extended_info(facts: Facts, event: ExtendedInfo) -> None:
    facts.info = event


def _page_batch(facts: Facts, event: PageBatch) -> None:
    facts.batches += 1
    if event.run:
        facts.type_counts[pages.PageType.NOTAB] += len(event.pfns)
        facts.last_types[event.run] = pages.PageType.NOTAB + 1
        return
    facts.type_counts += np.bincount(event.types, minlength=16)
    kept = event.types != pages.PageType.XTAB
    facts.last_types[event.pfns[kept]] = event.types[kept] + 1


def _chunk(facts: Facts, event: Chunk) -> None:
    facts.chunks[event.row.name] += 1
    if event.row.param is not None:
        _put_param(facts, event.row.param, event.value)
        if len(facts.params) > limits.PARAMETERS_MAX:
            raise _too_much(facts, event, f"more than {limits.PARAMETERS_MAX:,} HVM parameters", "some 15")
    elif event.row.payload is Payload.TSC_INFO:
        facts.tsc = {name: int(event.value[name]) for name in legacy.TSC_INFO.names or ()}
    elif event.row.payload is Payload.TOOLSTACK:
        _toolstack(facts, event)
    facts.verify |= event.row.id == legacy.VERIFY_MODE


def _put_param(facts: Facts, number: int, value: int) -> None:
    """Of later bodies a parameter takes the place of the last one with its number."""
    if facts.bodies > 1:
        for index in range(len(facts.params) - 1, -1, -1):
            if facts.params[index][0] == number:
                facts.params[index] = number, value
                return
    facts.params.append((number, value))


def _toolstack(facts: Facts, event: Chunk) -> None:
    if facts.toolstack_body != facts.bodies - 1:
        facts.toolstack_body = facts.bodies - 1
        facts.toolstack_bytes = 0
    facts.toolstack_bytes += len(event.payload)
    if facts.toolstack_bytes > limits.TOOLSTACK_TOTAL_MAX:
        found = f"{facts.toolstack_bytes:,} bytes of toolstack data in all"
        raise _too_much(facts, event, found, f"at most {limits.TOOLSTACK_TOTAL_MAX:,}")


def _too_much(facts: Facts, event: Chunk, found: str, expected: str) -> InvalidImage:
    item = f"chunk {event.row.id} ({event.row.name})"
    return InvalidImage(path=facts.path, offset=event.offset, item=item, found=found, expected=expected)


def _start_of_body(facts: Facts, event: StartOfBody) -> None:
    facts.bodies = event.body + 1
    facts.notes.forget()
    if facts.unmapped_entries:
        facts.unmapped = PfnSet(facts.p2m_size)
        facts.unmapped_entries = facts.unmapped_sent = 0
    facts.device_model = None


def _end_of_body(facts: Facts, _event: EndOfBody) -> None:
    facts.notes.mark()


def _online(facts: Facts, event: OnlineVcpus) -> None:
    _chunk(facts, event)
    facts.online = event.ids


def _unmapped(facts: Facts, event: Unmapped) -> None:
    facts.unmapped.add(event.pfns)
    facts.unmapped_entries += len(event.pfns)
    facts.unmapped_sent += int(np.count_nonzero(facts.last_types[event.pfns]))


def _hvm_magic(facts: Facts, event: HvmMagic) -> None:
    for param, value in zip(hvm.MAGIC_PARAMS, event.values, strict=True):
        _put_param(facts, int(param), value)


def _hvm_context(facts: Facts, event: HvmContext) -> None:
    facts.context_length = event.length
    facts.hvm_vcpus = sum(kind == hvm.ContextType.CPU for kind in context_types(event.context))


def _device_model(facts: Facts, event: DeviceModel) -> None:
    facts.device_model = event


def _end(facts: Facts, event: EndOfImage) -> None:
    facts.end = event.offset


def _remark(facts: Facts, event: Remark) -> None:
    facts.notes.add(event.note)


SEERS: Final[dict[type, Callable[[Facts, Any], None]]] = {
    P2mSize: _p2m_size,
    ExtendedInfo: _extended_info,
    P2mFrames: _frames,
    PageBatch: _page_batch,
    Chunk: _chunk,
    OnlineVcpus: _online,
    StartOfBody: _start_of_body,
    EndOfBody: _end_of_body,
    Unmapped: _unmapped,
    HvmMagic: _hvm_magic,
    HvmContext: _hvm_context,
    DeviceModel: _device_model,
    EndOfImage: _end,
    Remark: _remark,
}


def context_types(context: bytes) -> Iterator[int]:
    """Type codes of the records in an HVM context, up to its END or to where it stops making sense."""
    at = 0
    while at + hvm.CONTEXT_RECORD.itemsize <= len(context):
        head = np.frombuffer(context, hvm.CONTEXT_RECORD, 1, at)[0]
        yield int(head["typecode"])
        if head["typecode"] == hvm.ContextType.END:
            return
        at += hvm.CONTEXT_RECORD.itemsize + int(head["length"])
