"""An input some of whose bytes cannot be read: they are stepped round, and remembered."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.errors import InputOutputError
from xenmig_np.io.source import Source
from xenmig_np.limits import HEADS, PIECE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK: Final = 4096
"""Where a read fails, blocks of this size are tried one by one."""


class Ranges:
    """Disjoint ranges of offsets, ascending; those that touch are one."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def add(self, begin: int, end: int) -> None:
        """Add the offsets from ``begin`` up to ``end``."""
        first, last = bisect_left(self._ends, begin), bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last] = [begin]
        self._ends[first:last] = [end]

    def meet(self, begin: int, end: int) -> bool:
        """Whether any offset from ``begin`` up to ``end`` is in one of them."""
        return bisect_right(self._ends, begin) < bisect_left(self._begins, end)

    def meet_each(self, begins: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """As :meth:`meet` for as many bytes from each of ``begins`` on."""
        behind = np.searchsorted(np.array(self._ends, np.int64), begins, "right")
        met: NDArray[np.bool_] = behind < np.searchsorted(np.array(self._begins, np.int64), begins + length)
        return met

    def within(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """(begin, end) of what of them lies from ``begin`` up to ``end``."""
        for index in range(bisect_right(self._ends, begin), bisect_left(self._begins, end)):
            yield max(self._begins[index], begin), min(self._ends[index], end)

    def gaps(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """(begin, end) of what lies between them."""
        for low, high in self:
            if begin < min(low, end):
                yield begin, min(low, end)
            begin = max(begin, high)
        if begin < end:
            yield begin, end

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._begins, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def total(self) -> int:
        """Offsets in all of them."""
        return sum(self._ends) - sum(self._begins)


class Tolerant(Source):
    """The bytes of ``source``; those of a block that cannot be read come as zeros and are in :attr:`bad`.

    ``source`` is one that can be read in any order, ``bad`` what is known of it: a copy that a rescue made
    has zeros there. Nothing is raised for what cannot be read.
    """

    seekable = True
    heads = HEADS
    drained = True

    def __init__(self, source: Source, bad: Ranges | None = None) -> None:
        super().__init__(source.fd, source.path, owned=False)
        self.fds = source.fds
        self.start, self.end = source.start, source.end
        self.bad = bad or Ranges()
        self._source = source

    def read_at(self, offset: int, into: memoryview) -> int:
        if not self.bad.meet(offset, offset + len(into)):
            try:
                return self._source.read_at(offset, into)
            except InputOutputError:
                pass
        return self._around(offset, into)

    def zeros(self, begin: int, end: int) -> bool:
        """Whether there is nothing but zeros from ``begin`` up to ``end``."""
        piece = memoryview(bytearray(PIECE))
        for at in range(begin, end, PIECE):
            if bytes(piece[: self.read_at(at, piece[: min(PIECE, end - at)])]).strip(b"\0"):
                return False
        return True

    def _around(self, offset: int, into: memoryview) -> int:
        """Block by block."""
        done = 0
        while done < len(into):
            at = offset + done
            piece = into[done : done + BLOCK - at % BLOCK]
            if self.end is not None:
                piece = piece[: max(self.end - at, 0)]
            if not piece:
                break
            got = self._block(at, piece)
            done += got
            if got < len(piece):
                break
        return done

    def _block(self, at: int, piece: memoryview) -> int:
        try:
            got = self._source.read_at(at, piece)
        except InputOutputError:
            begin = at - at % BLOCK
            self.bad.add(begin, begin + BLOCK)
            got = len(piece)
        for begin, end in self.bad.within(at, at + got):
            piece[begin - at : end - at] = bytes(end - begin)
        return got
