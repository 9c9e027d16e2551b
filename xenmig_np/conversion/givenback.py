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

from xenmig_np import limits
from xenmig_np.errors import NotSupported
from xenmig_np.io.memory import lazy_zeros
from xenmig_np.read.events import PageBatch
from xenmig_np.read.pagetables import LastTables, last_mentions, page_index, read_numbered, referred
from xenmig_np.read.pfnset import PfnSet
from xenmig_np.wire import pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.read.facts import Facts
    from xenmig_np.read.image import LegacyImage

NOTHING = 0xFFFF_FFFF
"""Stands for an entry that refers to no pfn of the guest."""


def _mentions(batch: PageBatch) -> NDArray[np.bool_]:
    """Which words mention their pfn, shape (words,): all but XTAB ones."""
    mentions: NDArray[np.bool_] = batch.types != pages.PageType.XTAB
    return mentions


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
                    self._last.append(lazy_zeros(facts.p2m_size, np.uint32))
                self._last[event.part][event.pfns[event.types != pages.PageType.XTAB]] = event.index + 1

    def _find_tables(self) -> None:
        for event in self._image.events(self._image.new_facts()):
            if isinstance(event, PageBatch) and len(at := self._superseded(event)):
                numbers = page_index(event.types)[at]
                tables = read_numbered(self._image.source, event, numbers)
                present, pfns = referred(tables)
                hits = at[(present & self.listed.contains(pfns)).any(axis=1)]
                if len(hits):
                    self._tables[event.index] = hits
                    self.tables += len(hits)

    def _superseded(self, batch: PageBatch) -> NDArray[np.intp]:
        """Words of page tables that are mentioned again in the same part; those of kind (a) apart."""
        at = np.flatnonzero((pages.LEVEL[batch.types] > 0) & ~self.listed.contains(batch.pfns))
        last = self._last[batch.part][batch.pfns[at]] == batch.index + 1
        last &= last_mentions(batch.pfns, _mentions(batch))[at]
        superseded: NDArray[np.intp] = at[~last]
        return superseded


class Watch:
    """Remembers what page tables on a pipe refer to, until the tail tells whether that matters."""

    def __init__(self, p2m_size: int, path: str) -> None:
        self._path = path
        self._superseded = PfnSet(p2m_size)
        self._tables = LastTables(p2m_size)

    def see(self, batch: PageBatch, tables: NDArray[np.uint8]) -> None:
        """Take a batch into account; ``tables``: pages of its page-table words, shape (tables, 4096)."""
        mentions = _mentions(batch)
        self._supersede(self._tables.forget(batch.pfns[mentions]))
        if len(tables):
            at = np.flatnonzero(pages.LEVEL[batch.types])
            present, pfns = referred(tables)
            inside = present & (pfns < self._superseded.size)
            references = np.where(inside, pfns, NOTHING).astype(np.uint32)
            last = last_mentions(batch.pfns, mentions)[at]
            self._supersede(references[~last])
            if self._tables.count + int(np.count_nonzero(last)) > limits.TABLES_WATCHED:
                raise NotSupported(
                    f"a PV guest with more than {limits.TABLES_WATCHED:,} page tables, from a pipe (D22)",
                    path=self._path,
                    offset=batch.offset,
                    item=batch.item,
                    hint="give a file, or --spool DIR",
                )
            self._tables.keep(batch.pfns[at[last]], references[last])

    def restart(self) -> None:
        """Chunk -1: what follows supersedes nothing of what came before."""
        self._tables.forget_all()

    def refers_to(self, pfns: NDArray[np.uint32]) -> int:
        """How many of the pfns a superseded table refers to."""
        return int(np.count_nonzero(self._superseded.contains(pfns)))

    def _supersede(self, references: NDArray[np.uint32]) -> None:
        self._superseded.add(references[references != NOTHING])
