"""The page data of compressed checkpoints, chunks -12 (legacy-stream.md 5).

A page that is sent in full and can be read again stays where it is, in the input. One that is unchanged stays
where its last copy is. Only pages made of runs are put together (:mod:`xenmig_np.read.encoded`) and kept in
the store; on a pipe those sent in full as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.errors import InvalidImage, Note
from xenmig_np.limits import MIB
from xenmig_np.read import encoded
from xenmig_np.read.pagestore import NOWHERE
from xenmig_np.wire.pages import PAGE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.read.pagestore import LastCopies

COMPRESSED: Final = "chunk -12 (compressed_data)"
PIECE: Final = MIB
"""Bytes that wait before they are decoded; a page takes 5120 at most."""
PARTS_MAX: Final = 1 << 10
"""Chunks that wait, be they small."""
GROUP: Final = 128
"""Pages that are put together at a time: half a MiB."""


class DeltaBody:
    """The pages of one compressed body: pfns as batches announce them, then their data, in input order.

    Each page is told to ``copies``, where a checkpoint has begun; :attr:`places` says where it lies. Up to a
    MiB of data waits to be decoded, until more pfns are announced or the body ends. Raises
    :class:`InvalidImage`, and what ``copies`` raises.
    """

    def __init__(self, copies: LastCopies, path: str) -> None:
        self._copies = copies
        self._path = path
        self.announced = 0
        """Pages that batches announced."""
        self.delivered = 0
        """Pages that are decoded."""
        self.surplus = 0
        """Bytes behind the last page."""
        self._surplus_at = 0
        self._waiting = [np.empty(0, np.uint32)]
        self._places: list[NDArray[np.int64]] = []
        self._data = _Data()

    @property
    def places(self) -> NDArray[np.int64]:
        """Addresses of the decoded pages in the order in which they were announced, shape (pages,).

        They hold as those of :class:`LastCopies` do.
        """
        return np.concatenate([np.empty(0, np.int64), *self._places])

    def announce(self, pfns: NDArray[np.uint32]) -> None:
        """The pfns of a batch whose types have data, shape (pages,)."""
        if not len(pfns):
            return
        self._decode()
        if self.surplus:
            raise self._invalid(
                self._surplus_at, COMPRESSED, "page data before the batch that it belongs to", "it behind it"
            )
        self._waiting.append(pfns)
        self.announced += len(pfns)

    def feed(self, payload: memoryview, offset: int) -> None:
        """The payload of a chunk -12 or a piece of it, bytes that lie at ``offset`` of the input."""
        taken = 0
        while taken < len(payload):
            taken += self._data.add(payload[taken:], offset + taken)
            if self._data.is_full:
                self._decode()

    def finish(self, offset: int) -> Note | None:
        """The body ends at ``offset``; returns what is odd about it."""
        self._decode()
        if self.delivered < self.announced:
            part = " and a part of one" if self._data.size else ""
            raise self._invalid(
                offset,
                COMPRESSED,
                f"the end of the body behind {self.delivered:,} pages{part}",
                f"{self.announced:,} pages, as its batches announce",
            )
        if not self.surplus:
            return None
        text = f"{COMPRESSED}: {self.surplus:,} bytes behind the last page of a body ignored"
        return Note("legacy 5.3", text, self._surplus_at)

    def _decode(self) -> None:
        """Take all whole pages off the data that waits."""
        data, used = self._data.all, 0
        if len(self._waiting) > 1:
            self._waiting = [np.concatenate(self._waiting)]
        pfns = self._waiting[0]
        while len(pfns) and used < len(data):
            found = encoded.walk(data, used, len(pfns))
            for first, end in distinct(pfns[: len(found.begins)]):
                self._take(data, found, pfns, slice(first, end))
            used, pfns = found.end, pfns[len(found.begins) :]
            if found.wrong is not None:
                raise self._misplaced(data, found.wrong, pfns[0])
            if not len(found.begins):
                break
        self._waiting = [pfns]
        self._data.drop(used)
        if not len(pfns) and self._data.size:
            self._surplus_at = self._surplus_at or self._data.offset(0)
            self.surplus += self._data.size
            self._data.drop(self._data.size)

    def _take(self, data: memoryview, found: encoded.Walk, pfns: NDArray[np.uint32], part: slice) -> None:
        """Tell the copies of some of the pages, no pfn twice among them, and note their places."""
        whose = pfns[part]
        full = found.kinds[part] == encoded.FULL
        bases = self._copies.of(whose)
        if len(lost := np.flatnonzero(~full & (bases == NOWHERE))):
            at = part.start + int(lost[0])
            begin = self._data.offset(int(found.begins[at]))
            item = self._item(self.delivered + int(lost[0]), pfns[at])
            raise self._invalid(begin, item, "a change of a page that never came", "its first copy in full")

        made = full | found.changed[part]
        if self._copies.rereads:
            in_one = self._data.in_one(found.begins[part] + 1, PAGE_SIZE)
            left = np.flatnonzero(full & in_one)
            self._copies.note(whose[left], self._data.offsets(found.begins[part][left] + 1))
            made &= ~(full & in_one)
        rows = np.flatnonzero(made)
        for first in range(0, len(rows), GROUP):
            group = rows[first : first + GROUP]
            self._copies.keep(whose[group], self._put_together(data, found, part.start + group, bases[group]))
        self._places.append(self._copies.of(whose))
        self.delivered += len(whose)

    def _put_together(
        self, data: memoryview, found: encoded.Walk, numbers: NDArray[np.intp], bases: NDArray[np.int64]
    ) -> NDArray[np.uint8] | None:
        """Contents of pages of a walk by their ascending numbers, shape (pages, 4096)."""
        if not self._copies.contents:
            return None
        pages = np.empty((len(numbers), PAGE_SIZE), np.uint8)
        full = found.kinds[numbers] == encoded.FULL
        if full.any():
            pages[full] = encoded.windows(data, PAGE_SIZE)[found.begins[numbers[full]] + 1]
        if not full.all():
            pages[~full] = self._copies.read(bases[~full], f"{COMPRESSED}, earlier copies")
        encoded.overwrite(pages, numbers, data, found)
        return pages

    def _misplaced(self, data: memoryview, at: int, pfn: np.uint32) -> InvalidImage:
        words = data[at] & 0x7F
        return self._invalid(
            self._data.offset(at),
            self._item(self.delivered, pfn),
            f"a run of {words} words" if words else "a run of no words",
            f"one that ends with word {encoded.WORDS:,} of the page" if words else "1 to 127 words",
        )

    def _item(self, number: int, pfn: np.uint32) -> str:
        return f"{COMPRESSED}, page {number} of the body (pfn {int(pfn):#x})"

    def _invalid(self, offset: int, item: str, found: str, expected: str) -> InvalidImage:
        return InvalidImage(path=self._path, offset=offset, item=item, found=found, expected=expected)


class _Data:
    """Encoded data that waits, and where in the input it lies."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(PIECE))
        self.size = 0
        self._begins: list[int] = []
        self._offsets: list[int] = []

    @property
    def all(self) -> memoryview:
        return self._buffer[: self.size]

    @property
    def is_full(self) -> bool:
        """It has to be decoded before there is more: many parts take more than their bytes."""
        return self.size == len(self._buffer) or len(self._begins) >= PARTS_MAX

    def add(self, payload: memoryview, offset: int) -> int:
        """Take some of the payload, which lies at ``offset``; returns how much."""
        count = min(len(payload), len(self._buffer) - self.size)
        self._buffer[self.size : self.size + count] = payload[:count]
        self._begins.append(self.size)
        self._offsets.append(offset)
        self.size += count
        return count

    def drop(self, count: int) -> None:
        """Forget ``count`` bytes at the beginning."""
        left = self.size - count
        self._buffer[:left] = self._buffer[count : self.size]
        self.size = left
        past = bisect_right(self._begins, count) - 1 if left else len(self._begins)
        self._begins = [begin - count for begin in self._begins[past:]]
        self._offsets = self._offsets[past:]

    def offset(self, at: int) -> int:
        """Where a byte of the data lies in the input."""
        return int(self.offsets(np.array([at]))[0])

    def offsets(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where bytes of the data lie in the input, same shape."""
        part = np.searchsorted(self._begins, at, "right") - 1
        shifts = np.array(self._offsets) - np.array(self._begins)
        inside: NDArray[np.int64] = at + shifts[part]
        return inside

    def in_one(self, at: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """Whether bytes of the data from each place on lie together in the input, same shape."""
        together: NDArray[np.bool_] = self.offsets(at + length - 1) - self.offsets(at) == length - 1
        return together


def distinct(pfns: NDArray[np.uint32]) -> Iterator[tuple[int, int]]:
    """(first, end) of parts of the array that hold no pfn twice, from its beginning to its end."""
    first = 0
    if not (pfns[1:] > pfns[:-1]).all():
        order = np.argsort(pfns, kind="stable")
        same = np.flatnonzero(pfns[order][1:] == pfns[order][:-1])
        for again, before in sorted(zip(order[same + 1].tolist(), order[same].tolist(), strict=True)):
            if before >= first:
                yield first, again
                first = again
    yield first, len(pfns)
