"""What the page tables of a PV stream refer to: looked at record by record, judged at its end.

The only pages that verification reads, each once: a pipe gives them while their record is the newest event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.errors import TruncatedImage
from xenmig_np.read.pagetables import LastTables, last_mentions, page_index, read_pages, referred
from xenmig_np.wire import pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.io.source import Source
    from xenmig_np.read.records import PageData

SLICE: Final = 256
"""Tables that are read at a time: 1 MiB."""
NOTHING: Final = 0xFFFF_FFFF
"""Stands for an entry that refers to no page of the guest, or to one of 2 MiB."""
WRITABLE: Final = 0x8000_0000
"""Bit of an entry that may be written through."""


@dataclass(frozen=True, slots=True)
class Beyond:
    """Entries of one record that refer to pfns beyond the guest's highest."""

    count: int
    offset: int
    """Of the first of them in the input."""
    pfn: int
    """That it refers to."""


@dataclass(slots=True)
class TableWatch:
    """Remembers the references of all copies, and what the last copy of each table holds."""

    referred_at: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """For each pfn the offset in the input of an entry of some copy that refers to it, 0: none does."""
    last: LastTables = field(default_factory=lambda: LastTables(0))
    """Entries as u4: pfn, :data:`WRITABLE`; or :data:`NOTHING`."""
    last_at: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """For each pfn the offset in the input of its last copy that was a table."""

    def look(
        self, source: Source, event: PageData, end_pfn: int, *, watched: int, kept: bool
    ) -> Beyond | None:
        """Read the tables of a record.

        Pfns below ``watched`` are remembered. ``kept``: the copies are what the guest gets, as they are not
        behind VERIFY. Raises :class:`InputOutputError`.
        """
        self._grow(watched)
        if kept:
            self.last.forget(event.pfns[event.pfns < len(self.referred_at)])
        at = np.flatnonzero(pages.LEVEL[event.types])
        if not len(at) or not _has_its_pages(event):
            return None
        numbers = page_index(event.types)[at]
        last = last_mentions(event.pfns, np.ones(event.count, np.bool_))[at] & kept
        beyond: list[Beyond] = []
        for first in range(0, len(at), SLICE):
            some = slice(first, first + SLICE)
            try:
                tables = read_pages(source, event.pages, numbers[some], "PAGE_DATA record")
            except TruncatedImage:  # a pipe that ends here: its reader says so
                break
            starts = event.pages.offset + numbers[some].astype(np.int64) * pages.PAGE_SIZE
            beyond += self._take(tables, starts, end_pfn)
            keep = last[some] & (event.pfns[at[some]] < watched)
            self.last_at[event.pfns[at[some]][keep]] = starts[keep]
            self._keep(event.pfns[at[some]][keep], event.types[at[some]][keep], tables[keep])
        return Beyond(sum(one.count for one in beyond), beyond[0].offset, beyond[0].pfn) if beyond else None

    def _grow(self, size: int) -> None:
        if (more := size - len(self.referred_at)) > 0:
            self.referred_at = np.concatenate([self.referred_at, np.zeros(more, np.int64)])
            self.last_at = np.concatenate([self.last_at, np.zeros(more, np.int64)])
            self.last.grow(size)

    def _take(self, tables: NDArray[np.uint8], starts: NDArray[np.int64], end_pfn: int) -> Iterator[Beyond]:
        """Note what tables that begin at ``starts`` refer to."""
        present, pfns = referred(tables)
        wild = present & (pfns > end_pfn)
        if wild.any():
            table, entry = np.unravel_index(np.flatnonzero(wild)[0], wild.shape)
            offset = int(starts[table]) + int(entry) * pages.PTE.itemsize
            yield Beyond(int(np.count_nonzero(wild)), offset, int(pfns[table, entry]))
        good = present & (pfns < len(self.referred_at))
        table, entry = np.nonzero(good)
        to = pfns[good]
        new = np.flatnonzero(self.referred_at[to] == 0)[::-1]  # backwards: the first one stays
        self.referred_at[to[new]] = starts[table[new]] + entry[new] * pages.PTE.itemsize

    def _keep(self, pfns: NDArray[np.uint64], types: NDArray[np.uint8], tables: NDArray[np.uint8]) -> None:
        entries = tables.view(pages.PTE)
        present, to = referred(tables)
        large = (entries & np.uint64(pages.PTE_LARGE) != 0) & (pages.LEVEL[types] > 1)[:, None]
        named = present & ~large & (to < len(self.referred_at))
        writable = np.where(entries & np.uint64(pages.PTE_WRITABLE), np.uint64(WRITABLE), np.uint64(0))
        self.last.keep(pfns, np.where(named, to | writable, np.uint64(NOTHING)).astype(np.uint32))


def _has_its_pages(event: PageData) -> bool:
    """Where words have illegal types nobody knows where a page lies."""
    return event.pages.length == int(np.count_nonzero(pages.HAS_DATA[event.types])) * pages.PAGE_SIZE
