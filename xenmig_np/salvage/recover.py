"""Reads a damaged image: chains of chunks that prove each other, and what lies between them is given up.

A chain begins where the head of the image ends, or where :mod:`xenmig_np.salvage.scan` finds a place behind
damage; it goes on as long as chunks read well, and :mod:`xenmig_np.salvage.proof` says how much of it counts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import InvalidImage
from xenmig_np.io.cursor import Cursor
from xenmig_np.read.body import body
from xenmig_np.read.checkpoints import head, later_checkpoints
from xenmig_np.read.events import Chunk, EndOfBody, EndOfImage, P2mFrames, PageBatch, Remark
from xenmig_np.read.pagestore import PageStore
from xenmig_np.read.places import Event
from xenmig_np.read.reading import Reading, Shape, remark
from xenmig_np.read.tails import TAILS, device_model
from xenmig_np.salvage import proof
from xenmig_np.salvage.mend import mended
from xenmig_np.salvage.scan import batch_places, candidates, lone
from xenmig_np.salvage.tolerant import Ranges, Tolerant
from xenmig_np.wire import legacy, pages, qemu
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xenmig_np.read.events import AnyEvent

HOLE: Final = 1 << 20
"""Pfns of the hole below 4 GiB that an HVM guest's p2m spans beyond its pages."""


@dataclass(slots=True)
class Head:
    """What precedes the first body."""

    events: list[AnyEvent]
    p2m_size: int
    reading: Reading
    """Where it ends."""
    fault: str | None = None
    """Why it is not believed."""


@dataclass(slots=True)
class Recovered:
    """What was found of one image, in its order."""

    shape: Shape
    head: Head | None = None
    events: list[AnyEvent] = field(default_factory=list)
    """Batches and chunks of the first body."""
    breaks: list[int] = field(default_factory=list)
    """Positions in ``events`` before which something is lost; one more than the last: before the tail."""
    tail: list[AnyEvent] = field(default_factory=list)
    """The end of the body and its tail, and complete checkpoints behind it; empty: lost."""
    left_out: bool = False
    """There are checkpoints behind the first that do not count."""
    seen: Ranges = field(default_factory=Ranges)
    """Bytes of the input that were read as something."""

    @property
    def pages(self) -> int:
        """Pages in the image, each copy counted."""
        return sum(event.pages.length for event in self.events if isinstance(event, PageBatch)) // (
            pages.PAGE_SIZE
        )

    @property
    def lost_in_body(self) -> bool:
        """Whether anything of the body is lost."""
        return bool(self.breaks) or not self.tail


@dataclass(slots=True)
class _Chain:
    """Chunks one behind the other, each with what is known of the image behind it."""

    links: list[Event] = field(default_factory=list)
    states: list[Reading] = field(default_factory=list)
    tail: list[AnyEvent] = field(default_factory=list)

    def add(self, link: Event, reading: Reading) -> None:
        """Add a chunk behind the last one; ``reading`` stands behind it, and its cursor will go on."""
        self.links.append(link)
        self.states.append(replace(reading))


class Recovery:
    """Recovers the image of a given shape that begins at ``at``."""

    def __init__(self, source: Tolerant, at: int, shape: Shape) -> None:
        self._source = source
        self._at = at
        self._end = source.end if source.end is not None else at
        self.found = Recovered(shape)
        self._reading = Reading(Cursor(source, at), shape)
        self._reach = at
        """Where what was found ends."""
        longest = legacy.CHUNK_ID.itemsize + legacy.BATCH_MAX * shape.word.itemsize
        self._scratch = memoryview(bytearray(longest))

    def run(self) -> Recovered:
        """All that can be proven."""
        self.found.head = self._head()
        most = HOLE + (self._end - self._at) // pages.PAGE_SIZE + 1
        if self.found.head:
            self._reading = replace(self.found.head.reading)
            most = max(most, self.found.head.p2m_size)
            self._saw(self.found.head.events)
        self._reading.p2m_size = min(most, limits.P2M_SIZE_MAX)
        if self.found.head:
            self._take(self._chain(self._reading.cursor.at))
        while not self.found.tail and self._next():
            pass
        if self.found.tail:
            later = self._checkpoints()
            self.found.tail += later
            self._saw(later)
        return self.found

    def _head(self) -> Head | None:
        reading = Reading(Cursor(self._source, self._at), self.found.shape)
        events: list[AnyEvent] = []
        try:
            events.extend(head(reading))
        except InvalidImage:
            return None
        found = Head(events, reading.p2m_size, reading)
        if self._source.bad.meet(self._at, reading.cursor.at):
            found.fault = "some of it cannot be read"
        for event in events:
            if isinstance(event, P2mFrames) and not _distinct(event, found.p2m_size):
                found.fault = "the p2m frame list names a frame twice, or one that is none"
        return found

    def _next(self) -> bool:
        """Take the next chain behind what was found, if there is one."""
        reading = self._reading
        for place in candidates(
            self._source, self._reach, self._end, self.found.shape.width, reading.p2m_size
        ):
            if self._leads_on(place):
                chain = self._chain(place)
                if self._begins_well(chain) and self._take(chain):
                    return True
        return False

    def _leads_on(self, place: int) -> bool:
        """Whether a chunk can stand where a batch at ``place`` ends; told with little work."""
        size, word = legacy.CHUNK_ID.itemsize, self.found.shape.word
        head = self._scratch[: self._source.read_at(place, self._scratch)]
        count = int.from_bytes(head[:size], "little", signed=True)
        if count <= 0:
            return True
        if size + count * word.itemsize > len(head):
            return False
        types = np.frombuffer(head, word, count, size).astype(np.uint32) >> np.uint32(legacy.TYPE_SHIFT)
        data = int(np.count_nonzero(pages.HAS_DATA[types]))
        behind = self._scratch[:size]
        self._source.read_at(place + size + count * word.itemsize + data * pages.PAGE_SIZE, behind)
        number = int.from_bytes(behind, "little", signed=True)
        return 0 < number <= legacy.BATCH_MAX or number in legacy.CHUNK_BY_ID

    def _begins_well(self, chain: _Chain) -> bool:
        """Whether a chain may begin at a place that nothing else points to."""
        first = chain.links[0] if chain.links else None
        if not isinstance(first, PageBatch):
            return bool(chain.tail)
        proven = chain.tail or any(map(proof.strong, chain.links[1:]))
        return bool(proven) and self._strong(first)

    def _take(self, chain: _Chain) -> bool:
        """Take what counts of a chain, and say whether anything does."""
        count = self._proven(chain)
        if not count and not chain.tail:
            return False
        begin = chain.links[0] if count else chain.tail[0]
        if not isinstance(begin, Event) or begin.offset != self._reach:
            self.found.breaks.append(len(self.found.events))
        self.found.events += chain.links[:count]
        if count:
            self._reading = chain.states[count - 1]
        if chain.tail:
            self.found.tail = chain.tail
            self._reading = chain.states[-1]
        self._saw([*chain.links[:count], *chain.tail])
        return True

    def _proven(self, chain: _Chain) -> int:
        """How many links of a chain count: those with something strong behind them."""
        if chain.tail:
            return len(chain.links)
        return next(
            (index for index in reversed(range(len(chain.links))) if self._strong(chain.links[index])), 0
        )

    def _strong(self, link: Event) -> bool:
        """Whether it is strong, and not a part of a longer head: words in order make a head of their own."""
        if not proof.strong(link) or not isinstance(link, PageBatch):
            return proof.strong(link)
        reading = replace(self._reading)
        width, p2m_size = self.found.shape.width, reading.p2m_size
        if not lone(self._source, link.offset, width, p2m_size):
            return False
        begin = max(self._at, link.offset - len(self._scratch))
        for place in batch_places(self._source, begin, link.offset, width, p2m_size):
            reading.cursor = Cursor(self._source, place)
            for form in mended(reading)[:1]:
                if form.pages.offset > link.offset and proof.as_saved(form, self.found.shape.guest):
                    return False
        return True

    def _saw(self, events: Iterable[AnyEvent]) -> None:
        for event in events:
            if isinstance(event, Event) and event.length:
                self.found.seen.add(event.offset, event.offset + event.length)
                self._reach = event.offset + event.length

    # ---- one chain -----------------------------------------------------------------------------------------

    def _chain(self, at: int) -> _Chain:
        """Chunks from ``at`` on, as far as they read well, or all but a few words of them do."""
        chain = _Chain()
        reading = replace(self._reading, cursor=Cursor(self._source, at))
        while True:
            at = self._follow(chain, reading)
            if chain.tail:
                return chain
            reading = replace(chain.states[-1] if chain.states else self._reading)
            reading.cursor = Cursor(self._source, at)
            forms = [form for form in mended(reading) if self._sound(form, set())]
            fitting = (form for form in forms if self._strong_at(reading, form.offset + form.length))
            mend = next(fitting, None)
            if mend is None:
                if forms:  # where it ends is not known, but it is one: what precedes it is proven
                    chain.add(forms[0], reading)
                return chain
            reading.batches += 1
            reading.cursor.at = mend.offset + mend.length
            chain.add(mend, reading)

    def _strong_at(self, reading: Reading, at: int) -> bool:
        """Whether what stands at ``at`` is strong by itself."""
        chain = _Chain()
        self._follow(chain, replace(reading, cursor=Cursor(self._source, at)), most=1)
        return bool(chain.links) and self._strong(chain.links[0])

    def _follow(self, chain: _Chain, reading: Reading, *, most: int = sys.maxsize) -> int:
        """Add the chunks at the cursor that read well, at most so many; returns where they end."""
        at = reading.cursor.at
        only: set[int] = {link.row.id for link in chain.links if isinstance(link, Chunk)}
        try:
            for event in body(reading):
                if isinstance(event, Remark):
                    continue
                if isinstance(event, EndOfBody):
                    chain.tail = self._tail(chain, reading, event)
                    if chain.tail:
                        chain.states.append(reading)
                    break
                if not self._sound(event, only) or not _in_place(event, chain.links[-1:]):
                    break
                chain.add(event, reading)
                at = reading.cursor.at
                if len(chain.links) >= most:
                    break
        except InvalidImage:
            pass
        return at

    def _sound(self, event: Event, only: set[int]) -> bool:
        """Whether it can be believed; ``only``: ids of chunks that come once and were seen."""
        if isinstance(event, PageBatch):
            readable = not self._source.bad.meet(event.offset, event.pages.offset)
            return readable and proof.as_saved(event, self.found.shape.guest)
        if isinstance(event, Chunk) and event.row.payload in proof.ONCE:
            if event.row.id in only:
                return False
            only.add(event.row.id)
            if event.row.id == legacy.VERIFY_MODE and self._among_ones(event.offset):
                return False
        return not self._source.bad.meet(event.offset, event.offset + event.length)

    def _among_ones(self, at: int) -> bool:
        """Whether ones precede a chunk of ones: then it may be the end of a page that was moved."""
        before = Cursor(self._source, at - legacy.CHUNK_ID.itemsize).peek(legacy.CHUNK_ID.itemsize)
        return before == b"\xff" * legacy.CHUNK_ID.itemsize

    def _tail(self, chain: _Chain, reading: Reading, end: EndOfBody) -> list[AnyEvent]:
        """The end of the body and its tail with the device-model record, if they are believed, or nothing."""
        if reading.shape.guest is Guest.PV and reading.info is None:
            return []
        if self.found.head:
            reading.p2m_size = self.found.head.p2m_size
        events: list[AnyEvent] = [end]
        try:
            events.extend(TAILS[reading.shape.guest](reading))
        except InvalidImage:
            return []
        guest = reading.info.guest if reading.info else None
        readable = not self._source.bad.meet(end.offset, reading.cursor.at)
        if not (
            readable
            and proof.is_tail(events, guest, reading.p2m_size, self._types(chain))
            and self._ends(reading)
        ):
            return []
        return events + self._device_model(reading)

    def _types(self, chain: _Chain) -> Callable[[int], int | None]:
        """The type of a pfn's last mention so far, None without one."""

        def last(pfn: int) -> int | None:
            for event in reversed([*self.found.events, *chain.links]):
                if isinstance(event, PageBatch):
                    at = np.flatnonzero((event.pfns == pfn) & (event.types != pages.PageType.XTAB))
                    if len(at):
                        return int(event.types[at[-1]])
            return None

        return last

    def _ends(self, reading: Reading) -> bool:
        """Whether a PV tail may end here: only zeros, a device-model record or another body follow."""
        if reading.shape.guest is Guest.HVM:
            return True
        at = reading.cursor.at
        signature = reading.cursor.peek(qemu.SIGNATURE_SIZE + 1)
        return (
            any(signature.startswith(row.signature) for row in qemu.DEVICE_MODEL_RECORDS)
            or self._source.zeros(at, self._end)
            or self._strong_at(reading, at)
        )

    def _device_model(self, reading: Reading) -> list[AnyEvent]:
        at = reading.cursor.at
        try:
            events = list(device_model(reading))
        except InvalidImage:
            events = []
        if not events or self._source.bad.meet(at, reading.cursor.at):
            reading.cursor = Cursor(self._source, at)
            return []
        return events

    # ---- behind it -----------------------------------------------------------------------------------------

    def _checkpoints(self) -> list[AnyEvent]:
        """Complete checkpoints that follow; those with compressed pages need every page before them."""
        at = self._reading.cursor.at
        later: list[AnyEvent] = []
        why = ""
        if self._reading.compression:
            why = "their compressed pages build on what is lost"
        else:
            with PageStore() as store:
                later = list(later_checkpoints(self._reading, lambda: store))
            if self._source.bad.meet(at, self._reading.cursor.at):
                why = "some of them cannot be read"
        if why or not self._source.zeros(self._reading.cursor.at, self._end):
            self.found.left_out = True
        if why:
            self._reading.cursor = Cursor(self._source, at)
            later = [remark("salvage", f"checkpoints behind the first left out: {why}", at)]
        return [*later, EndOfImage(self._reading.cursor.at, 0)]


def _in_place(event: Event, before: list[Event]) -> bool:
    """Whether savers write a chunk where it stands; ``before``: what precedes it, if that is known."""
    misplaced = isinstance(event, Chunk) and event.row.name not in proof.BEHIND_PAGES
    return not (misplaced and before and isinstance(before[0], PageBatch))


def _distinct(event: P2mFrames, p2m_size: int) -> bool:
    frames = event.frames
    return bool((frames < p2m_size).all() and frames.all()) and len(np.unique(frames)) == len(frames)
