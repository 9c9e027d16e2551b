"""Page tables of PV guests as their pages stand in an image or a stream: with pfns in their entries.

Restore gives the guest every pfn that a copy of a page table refers to, be it superseded or not; what a
table means in the end its last copy says, which :class:`LastTables` keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np.errors import TruncatedImage
from xenmig_np.io.memory import lazy_zeros
from xenmig_np.io.runs import runs
from xenmig_np.wire import pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.io.source import Source
    from xenmig_np.read.events import PageBatch
    from xenmig_np.read.places import Extent

ENTRIES: Final = pages.PAGE_SIZE // pages.PTE.itemsize
"""Entries of a page table; PAE and 64-bit tables alike."""


def referred(tables: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Which entries of page-table pages are present, and the pfns they hold, both of shape (tables, 512).

    ``tables`` has the shape (tables, 4096).
    """
    entries = tables.view(pages.PTE)
    present = (entries & np.uint64(pages.PTE_PRESENT)) != 0
    return present, (entries >> np.uint64(pages.PTE_PFN_SHIFT)) & np.uint64(pages.PTE_PFN_MASK)


def last_mentions(pfns: NDArray[Any], mentions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which words are the last mention of their pfn within a batch, shape (words,), as its arguments."""
    at = np.flatnonzero(mentions)[::-1]
    _, first = np.unique(pfns[at], return_index=True)
    last = np.zeros(len(mentions), np.bool_)
    last[at[first]] = True
    return last


def page_index(types: NDArray[np.uint8]) -> NDArray[np.intp]:
    """For each word of a batch the number of the page that belongs to it, if its type has data."""
    has_data = pages.HAS_DATA[types]
    return np.cumsum(has_data, dtype=np.intp) - has_data.astype(np.intp)


def read_pages(source: Source, place: Extent, numbers: NDArray[np.intp], item: str) -> NDArray[np.uint8]:
    """Pages at a place by their ascending numbers, shape (pages, 4096). Raises :class:`TruncatedImage`."""
    contents = np.empty((len(numbers), pages.PAGE_SIZE), np.uint8)
    done = 0
    for first, count in runs(numbers):
        offset = place.offset + first * pages.PAGE_SIZE
        piece = contents[done : done + count]
        if source.read_at(offset, piece.reshape(-1).data) < piece.nbytes:
            raise TruncatedImage(
                path=source.path,
                offset=offset,
                item=f"{item}, pages",
                found="the end of the input",
                expected=f"{piece.nbytes:,} bytes",
            )
        done += count
    return contents


def read_numbered(source: Source, batch: PageBatch, numbers: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Pages of a batch of an image in ``source`` by their ascending numbers, shape (pages, 4096).

    Raises :class:`TruncatedImage`.
    """
    parts = [
        read_pages(
            batch.pages.source or source, place, np.arange(place.length // pages.PAGE_SIZE), batch.item
        )
        for place in batch.extents(numbers)
    ]
    return np.concatenate(parts)


class LastTables:
    """What the last copies of page tables refer to: a row of 512 u4 for each pfn that is one at last."""

    def __init__(self, size: int) -> None:
        """``size``: of the guest; all pfns are below."""
        self._row_of = lazy_zeros(size, np.uint32)  # of a pfn, plus one
        self._rows = np.zeros((0, ENTRIES), np.uint32)
        self._free: list[int] = []

    @property
    def count(self) -> int:
        """Tables that have a row."""
        return len(self._rows) - len(self._free)

    def forget(self, pfns: NDArray[Any]) -> NDArray[np.uint32]:
        """Pfns that are mentioned anew; returns the rows that they had, shape (tables, 512)."""
        had = np.unique(self._row_of[pfns])
        rows = had[had > 0] - 1
        self._free += rows.tolist()
        self._row_of[pfns] = 0
        references: NDArray[np.uint32] = self._rows[rows]
        return references

    def forget_all(self) -> None:
        self._row_of = lazy_zeros(len(self._row_of), np.uint32)  # unlike zeros written over it
        self._free = list(range(len(self._rows)))

    def keep(self, pfns: NDArray[Any], references: NDArray[np.uint32]) -> None:
        """Rows of pfns that have none, shape (tables, 512)."""
        if (missing := len(pfns) - len(self._free)) > 0:
            size = len(self._rows)
            grown = max(size + missing, 2 * size)
            self._rows = np.concatenate([self._rows, np.zeros((grown - size, ENTRIES), np.uint32)])
            self._free += range(size, grown)
        rows = np.array([self._free.pop() for _ in range(len(pfns))], np.uint32)
        self._rows[rows] = references
        self._row_of[pfns] = rows + 1

    def grow(self, size: int) -> None:
        """Room for pfns below ``size``."""
        if size > len(self._row_of):
            self._row_of = np.concatenate([self._row_of, np.zeros(size - len(self._row_of), np.uint32)])

    def tables(self) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
        """The pfns that have a row, shape (tables,) and ascending, and their numbers for :meth:`rows`."""
        pfns = np.flatnonzero(self._row_of)
        return pfns, self._row_of[pfns] - 1

    def rows(self, numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Rows by their numbers, shape (tables, 512)."""
        references: NDArray[np.uint32] = self._rows[numbers]
        return references
