"""The memory of a guest as far as it was recovered: where each page lies, and what is known of the rest."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.io.memory import lazy_zeros
from xenmig_np.io.plan import Literal, Range
from xenmig_np.io.sink import Sink
from xenmig_np.io.sparse import SparseSink
from xenmig_np.read.events import Chunk, PageBatch, Unmapped
from xenmig_np.read.places import Extent
from xenmig_np.salvage import proof
from xenmig_np.wire import legacy, pages
from xenmig_np.wire.legacy import Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from xenmig_np.io.files import Output
    from xenmig_np.read.events import AnyEvent
    from xenmig_np.salvage.recover import Recovered
    from xenmig_np.salvage.tolerant import Tolerant


class Status(Enum):
    """What is known of a pfn; the value is the sign that stands for it in a map of ddrescue."""

    SAVED = "+"
    OLDER = "/"
    """Its page is saved as the guest had it once; a later copy may be among what is lost."""
    LOST = "-"
    """It has none, and may have had one among what is lost."""
    ABSENT = "?"
    """The image never had a page of it."""


NONE, PAGE, ZEROS, NO_PAGE = range(4)
"""Of a pfn: not mentioned, a page, one that the guest has and nobody sent, none (broken)."""
SIGNS: Final = tuple(Status)


class Memory:
    """What counts of each pfn; arrays of ``p2m_size`` that take memory where pages are."""

    def __init__(self, found: Recovered, source: Tolerant) -> None:
        self.found = found
        self.source = source
        self.ascending = _ascending(found)
        self.p2m_size = self._p2m_size()
        self.live = not _sent_once(found)
        """Whether a page may have been sent again."""
        self.refresh()

    def _p2m_size(self) -> int:
        """That of the head if nothing contradicts it, else one more than the highest pfn."""
        highest = -1
        for batch in self._batches():
            good = proof.agreeing(batch, ascending=self.ascending)
            highest = max(highest, int(batch.pfns[good].max(initial=0)) if good.any() else -1)
        head = self.found.head
        if head and head.fault is None and highest >= head.p2m_size:
            head.fault = f"p2m_size {head.p2m_size:#x}, and a page of pfn {highest:#x} is there"
        self.guessed = head is None or head.fault is not None
        return highest + 1 if head is None or highest >= head.p2m_size else head.p2m_size

    def _batches(self) -> Iterator[PageBatch]:
        for event in (*self.found.events, *self.found.tail):
            if isinstance(event, PageBatch):
                yield event

    def refresh(self) -> None:
        """Look at all batches anew: more of the input proved to be unreadable."""
        self.places = lazy_zeros(self.p2m_size, np.int64)
        """One more than where the page of a pfn lies, 0 without one."""
        self.kinds = lazy_zeros(self.p2m_size)
        self._parts = lazy_zeros(self.p2m_size, np.uint32)
        """How many gaps of the body precede the last mention of a pfn."""
        self._doubtful = lazy_zeros(self.p2m_size)
        """Pfns of which some word or page is lost, though its batch is there."""
        last = not self.found.tail or self.found.left_out
        self._gaps = len(self.found.breaks) + last + sum(map(self._lacking, self._batches()))
        for part, batch in self._placed():
            self._see(part, batch)
        for event in self.found.tail:  # given back, by the last tail
            if isinstance(event, Unmapped):
                self.kinds[event.pfns] = NO_PAGE
                self.places[event.pfns] = self._doubtful[event.pfns] = 0
        self._brackets = list(self._lost_between())

    def _placed(self) -> Iterator[tuple[int, PageBatch]]:
        """All batches, and how many gaps precede each: those before it, and damaged words in it or before."""
        starts = self.found.breaks
        passed = lacking = 0
        for index, event in enumerate([*self.found.events, *self.found.tail]):
            while passed < len(starts) and starts[passed] <= index:
                passed += 1
            if isinstance(event, PageBatch):
                lacking += self._lacking(event)
                yield passed + lacking, event

    def _lacking(self, batch: PageBatch) -> bool:
        """Whether some of its words are damaged."""
        good = np.count_nonzero(proof.agreeing(batch, ascending=self.ascending))
        return bool(good < np.count_nonzero(batch.types != pages.PageType.XTAB))

    def _see(self, part: int, batch: PageBatch) -> None:
        good = self.words(batch)
        mentioned = batch.types != pages.PageType.XTAB
        bad = batch.pfns[mentioned & ~self._intact(batch) & (batch.pfns < self.p2m_size)]
        self._doubtful[bad] = 1
        data = good & pages.HAS_DATA[batch.types]
        self._put(part, batch.pfns[data], PAGE, _places(batch)[data] + 1)
        self._put(part, batch.pfns[good & (batch.types == pages.PageType.XALLOC)], ZEROS, 0)
        self._put(part, batch.pfns[good & (batch.types == pages.PageType.BROKEN)], NO_PAGE, 0)

    def _put(self, part: int, pfns: NDArray[np.uint32], kind: int, places: NDArray[np.int64] | int) -> None:
        self.kinds[pfns], self.places[pfns], self._parts[pfns] = kind, places, part
        self._doubtful[pfns] = 0

    def words(self, batch: PageBatch) -> NDArray[np.bool_]:
        """Which words of a batch count, shape (words,): XTAB ones do not.

        Behind chunk -1 pages come a second time, to be compared: of these the lost ones count alone.
        """
        good = self._intact(batch)
        if batch.part:
            good &= pages.HAS_DATA[batch.types]
            known = self.places[batch.pfns[good]]
            good[good] = (known == 0) | (known == _places(batch)[good] + 1)
        return good

    def _intact(self, batch: PageBatch) -> NDArray[np.bool_]:
        """Which words can be believed and have their pages."""
        good = proof.agreeing(batch, ascending=self.ascending) & (batch.pfns < self.p2m_size)
        data = np.flatnonzero(good & pages.HAS_DATA[batch.types])
        if len(self.source.bad):
            good[data] &= ~self.source.bad.meet_each(_places(batch)[data], pages.PAGE_SIZE)
        return good

    # ---- what is known -------------------------------------------------------------------------------------

    def status(self, first: int, count: int) -> NDArray[np.uint8]:
        """Positions in :data:`SIGNS` for ``count`` pfns from ``first`` on."""
        some = slice(first, first + count)
        kinds, early = self.kinds[some], self._parts[some] < self._gaps
        states = np.full(len(kinds), SIGNS.index(Status.ABSENT), np.uint8)
        lost = (kinds == NONE) & (self._maybe_lost(first, len(kinds)) | (self._doubtful[some] > 0))
        states[lost | ((kinds == ZEROS) & early)] = SIGNS.index(Status.LOST)
        there = (kinds == PAGE) | ((kinds == ZEROS) & ~early)
        states[there] = SIGNS.index(Status.SAVED)
        again = (kinds == PAGE) & ((early & self.live) | (self._doubtful[some] > 0))
        states[again] = SIGNS.index(Status.OLDER)
        return states

    def _maybe_lost(self, first: int, count: int) -> NDArray[np.bool_]:
        """Which pfns without any mention can have been among what is lost."""
        lost = np.zeros(count, np.bool_)
        for low, high in self._brackets:
            lost[max(low + 1 - first, 0) : max(high - first, 0)] = True
        return lost

    def _lost_between(self) -> Iterator[tuple[int, int]]:
        """Between which pfns, both exclusive, lost ones lie: all, unless pages come once and in order."""
        placed = [(part, *self._bounds(batch), self._lacking(batch)) for part, batch in self._placed()]
        if not self._gaps:
            return
        in_order = all(before[2] < behind[1] for before, behind in pairwise(placed))
        if self.live or not self.ascending or not in_order:
            yield -1, self.p2m_size
            return
        low, last, passed, damaged = -1, -1, 0, False
        for part, lowest, highest, lacking in placed:
            if part > passed or damaged:
                yield low, lowest
            low = last if lacking else highest
            last, passed, damaged = highest, part, lacking
        if passed < self._gaps or damaged:
            yield low, self.p2m_size

    def _bounds(self, batch: PageBatch) -> tuple[int, int]:
        """The lowest and the highest pfn of words that contradict no other."""
        pfns = batch.pfns[proof.agreeing(batch, ascending=self.ascending)].astype(np.int64)
        return int(pfns.min(initial=self.p2m_size)), int(pfns.max(initial=-1))

    def ranges(self) -> Iterator[tuple[int, int, Status]]:
        """(first pfn, count, status) of all pfns, ascending; neighbours differ."""
        held: tuple[int, int, Status] | None = None
        for first in range(0, self.p2m_size, limits.MIB):
            states = self.status(first, min(limits.MIB, self.p2m_size - first))
            edges = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), len(states)]
            for low, high in pairwise(edges):
                status = SIGNS[int(states[low])]
                if held and held[2] is status:
                    held = (held[0], held[1] + high - low, status)
                    continue
                if held:
                    yield held
                held = (first + low, high - low, status)
        if held:
            yield held

    # ---- what is made of it --------------------------------------------------------------------------------

    def events(self) -> Iterator[AnyEvent]:
        """The body with what counts of it alone, and the tail; no verify pass."""
        for event in (*self.found.events, *self.found.tail):
            if isinstance(event, PageBatch):
                good = self.words(event)
                if good.any():
                    yield _reduced(event, good)
            elif not (isinstance(event, Chunk) and event.row.id == legacy.VERIFY_MODE):
                yield event

    def write(self, out: Output, progress: Callable[[int], object] | None = None) -> None:
        """Write every page to its place in a new file; zeros and what is lost are holes.

        A page that proves to be unreadable gives way to an older copy, or to zeros. Raises
        :class:`InputOutputError` where writing fails.
        """
        sink = SparseSink(self.source, out.fd, out.path, progress, at=0)
        known = self.source.bad.total
        for first in range(0, self.p2m_size, limits.MIB):
            self._write(sink, first + np.flatnonzero(self.places[first : first + limits.MIB]))
        plain = Sink(self.source, out.fd, out.path, at=0)
        while known != (known := self.source.bad.total):
            before = self.places
            self.refresh()
            for first in range(0, self.p2m_size, limits.MIB):
                some = slice(first, first + limits.MIB)
                self._replace(plain, first + np.flatnonzero(before[some] != self.places[some]))
        os.ftruncate(out.fd, self.p2m_size * pages.PAGE_SIZE)

    def _replace(self, sink: Sink, pfns: NDArray[np.intp]) -> None:
        for pfn in pfns[self.places[pfns] == 0].tolist():
            sink.at = pfn * pages.PAGE_SIZE
            sink.pour([Literal(bytes(pages.PAGE_SIZE))])
        self._write(sink, pfns[self.places[pfns] > 0])

    def _write(self, sink: Sink, pfns: NDArray[np.intp]) -> None:
        places = self.places[pfns] - 1
        together = (np.diff(pfns) == 1) & (np.diff(places) == pages.PAGE_SIZE)
        edges = [0, *(np.flatnonzero(~together) + 1).tolist(), len(pfns)]
        for low, high in pairwise(edges):
            if low < high:
                sink.at = int(pfns[low]) * pages.PAGE_SIZE
                length = (high - low) * pages.PAGE_SIZE
                sink.pour([Range(int(places[low]), length, f"page {int(pfns[low]):#x}")])


def _places(batch: PageBatch) -> NDArray[np.int64]:
    """Where the page of each word lies, shape (words,); of words without one it means nothing."""
    number = np.cumsum(pages.HAS_DATA[batch.types]) - 1
    if batch.places is not None:
        return batch.places[number] if len(batch.places) else number
    places: NDArray[np.int64] = batch.pages.offset + number.astype(np.int64) * pages.PAGE_SIZE
    return places


def _reduced(batch: PageBatch, good: NDArray[np.bool_]) -> PageBatch:
    """The batch with some of its words."""
    types = batch.types[good]
    places = _places(batch)[good][pages.HAS_DATA[types]]
    first = int(places[0]) if len(places) else batch.pages.offset
    extent = Extent(first, len(places) * pages.PAGE_SIZE, batch.pages.source)
    return replace(batch, part=0, types=types, pfns=batch.pfns[good], pages=extent, places=places)


def _ascending(found: Recovered) -> bool:
    """Whether the saver sends pfns in order: most batches do, or none tells."""
    told = [proof.ascends(event) for event in found.events if isinstance(event, PageBatch)]
    return 2 * sum(told) >= len(told)


def _sent_once(found: Recovered) -> bool:
    """Whether the image was not saved live: the TSC stands before the first batch (legacy-stream.md 9)."""
    for event in found.events:
        if isinstance(event, PageBatch):
            return False
        if isinstance(event, Chunk) and event.row.payload is Payload.TSC_INFO:
            return not found.breaks or found.breaks[0] > 0
    return False
