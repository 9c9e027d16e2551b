"""Pages that a PV guest gave back while it was saved (v2-stream.md 19.4, D22).

The tail of an image lists pfns that the guest does not have any more. Nothing in a stream takes a page back,
and restore gives the guest every pfn that a copy of a page table refers to, be it superseded or not. So two
kinds of words are left out: (a) those whose pfn is listed, (b) superseded copies of page tables that refer
to a listed pfn.

:class:`LeftOut` decides where the tail can be read before the pages. :class:`Watch` remembers on a pipe,
where pages go out as they come, whether something should have been left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xenmig_np.conversion.runs import runs
from xenmig_np.errors import TruncatedImage
from xenmig_np.read.events import PageBatch
from xenmig_np.read.pfnset import PfnSet
from xenmig_np.wire import pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.io.source import Source
    from xenmig_np.read.facts import Facts
    from xenmig_np.read.image import LegacyImage

ENTRIES = pages.PAGE_SIZE // pages.PTE.itemsize
"""Entries of a page table; PAE and 64-bit tables alike."""
NOTHING = 0xFFFF_FFFF
"""Stands for an entry that refers to no pfn of the guest."""


def referred(tables: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Which entries of page-table pages are present, and the pfns they hold, both of shape (tables, 512).

    ``tables`` has the shape (tables, 4096).
    """
    entries = tables.view(pages.PTE)
    present = (entries & np.uint64(pages.PTE_PRESENT)) != 0
    return present, (entries >> np.uint64(pages.PTE_PFN_SHIFT)) & np.uint64(pages.PTE_PFN_MASK)


def last_in_batch(batch: PageBatch) -> NDArray[np.bool_]:
    """Which words are the last mention of their pfn within the batch; XTAB words are none. Shape (words,)."""
    mentions = batch.types != pages.PageType.XTAB
    at = np.flatnonzero(mentions)[::-1]
    _, first = np.unique(batch.pfns[at], return_index=True)
    last = np.zeros(len(mentions), np.bool_)
    last[at[first]] = True
    return last


def page_index(batch: PageBatch) -> NDArray[np.intp]:
    """For each word the number of the page in the batch that belongs to it, if its type has data."""
    has_data = pages.HAS_DATA[batch.types]
    return np.cumsum(has_data, dtype=np.intp) - has_data.astype(np.intp)


class LeftOut:
    """The words to leave out of one image, found with passes over its heads and its superseded tables."""

    def __init__(self, image: LegacyImage, facts: Facts) -> None:
        self.listed = facts.unmapped
        """The pfns of kind (a)."""
        self._image = image
        self._last: list[NDArray[np.uint32]] = []
        self.tables = 0
        """Words of kind (b)."""
        self._tables: dict[int, NDArray[np.intp]] = {}
        self._find_last(facts)
        self._find_tables()
        self._last.clear()

    def words(self, batch: PageBatch) -> NDArray[np.bool_]:
        """Which words of the batch are left out, shape (words,); XTAB words are not told."""
        out = self.listed.contains(batch.pfns)
        if (at := self._tables.get(batch.index)) is not None:
            out[at] = True
        return out

    def _find_last(self, facts: Facts) -> None:
        """For each part of the image (verify mode) and pfn the batch of its last mention, plus one."""
        for event in self._image.events(self._image.new_facts()):
            if isinstance(event, PageBatch):
                while len(self._last) <= event.part:
                    self._last.append(np.zeros(facts.p2m_size, np.uint32))
                self._last[event.part][event.pfns[event.types != pages.PageType.XTAB]] = event.index + 1

    def _find_tables(self) -> None:
        for event in self._image.events(self._image.new_facts()):
            if isinstance(event, PageBatch) and len(at := self._superseded(event)):
                tables = _read_pages(self._image.source, event, page_index(event)[at])
                present, pfns = referred(tables)
                hits = at[(present & self.listed.contains(pfns)).any(axis=1)]
                if len(hits):
                    self._tables[event.index] = hits
                    self.tables += len(hits)

    def _superseded(self, batch: PageBatch) -> NDArray[np.intp]:
        """Words of page tables that are mentioned again in the same part; those of kind (a) apart."""
        at = np.flatnonzero((pages.LEVEL[batch.types] > 0) & ~self.listed.contains(batch.pfns))
        last = self._last[batch.part][batch.pfns[at]] == batch.index + 1
        superseded: NDArray[np.intp] = at[~(last & last_in_batch(batch)[at])]
        return superseded


def _read_pages(source: Source, batch: PageBatch, numbers: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Pages of a batch by their ascending numbers, shape (pages, 4096)."""
    contents = np.empty((len(numbers), pages.PAGE_SIZE), np.uint8)
    done = 0
    for first, count in runs(numbers):
        offset = batch.pages.offset + first * pages.PAGE_SIZE
        piece = contents[done : done + count]
        if source.read_at(offset, piece.reshape(-1).data) < piece.nbytes:
            raise TruncatedImage(
                path=source.path,
                offset=offset,
                item=f"{batch.item}, pages",
                found="the end of the input",
                expected=f"{piece.nbytes:,} bytes",
            )
        done += count
    return contents


class Watch:
    """Remembers what page tables on a pipe refer to, until the tail tells whether that matters."""

    def __init__(self, p2m_size: int) -> None:
        self._superseded = PfnSet(p2m_size)
        self._row_of = np.zeros(p2m_size, np.uint32)  # of a pfn whose last mention is a table, plus one
        self._rows = np.zeros((0, ENTRIES), np.uint32)
        self._free: list[int] = []

    def see(self, batch: PageBatch, tables: NDArray[np.uint8]) -> None:
        """Take a batch into account; ``tables``: pages of its page-table words, shape (tables, 4096)."""
        mentioned = batch.pfns[batch.types != pages.PageType.XTAB]
        old = np.unique(self._row_of[mentioned])
        self._supersede(self._rows[old[old > 0] - 1])
        self._free += (old[old > 0] - 1).tolist()
        self._row_of[mentioned] = 0
        if len(tables):
            at = np.flatnonzero(pages.LEVEL[batch.types])
            present, pfns = referred(tables)
            inside = present & (pfns < self._superseded.size)
            references = np.where(inside, pfns, NOTHING).astype(np.uint32)
            last = last_in_batch(batch)[at]
            self._supersede(references[~last])
            self._remember(batch.pfns[at[last]], references[last])

    def restart(self) -> None:
        """Chunk -1: what follows supersedes nothing of what came before."""
        self._row_of = np.zeros(len(self._row_of), np.uint32)  # takes no memory, unlike zeros written over it
        self._free = list(range(len(self._rows)))

    def refers_to(self, pfns: NDArray[np.uint32]) -> int:
        """How many of the pfns a superseded table refers to."""
        return int(np.count_nonzero(self._superseded.contains(pfns)))

    def _supersede(self, references: NDArray[np.uint32]) -> None:
        self._superseded.add(references[references != NOTHING])

    def _remember(self, pfns: NDArray[np.uint32], references: NDArray[np.uint32]) -> None:
        if (missing := len(pfns) - len(self._free)) > 0:
            size = len(self._rows)
            grown = max(size + missing, 2 * size)
            self._rows = np.concatenate([self._rows, np.zeros((grown - size, ENTRIES), np.uint32)])
            self._free += range(size, grown)
        rows = np.array([self._free.pop() for _ in range(len(pfns))], np.uint32)
        self._rows[rows] = references
        self._row_of[pfns] = rows + 1
