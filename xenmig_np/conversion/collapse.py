"""Which words of a live or checkpointed image a collapsed stream has: those that make the guest.

Restoring what is left gives the guest that all words give (legacy-stream.md 4.3, 4.4, v2-stream.md 15.3, 18):

* Of each pfn, in the batches before chunk -1, two words count: the last one, whose type holds, and the last
  one with data, whose page holds; most often they are the same. Where none has data it is the last that
  allocates the page.
* Restore gives a PV guest every pfn that a copy of a page table refers to. So a superseded copy stays if it
  refers to a pfn that no word gives.
* What follows chunk -1 is compared and written nowhere, but its types hold. It is left out, and the words
  before take its types, if each of its words is of the same kind as the last one before. Else such a pass
  tells restore something that no word before it could, and it stays as it is.

All this is decided on the words that D22 leaves (:mod:`.givenback`). Memory: nine bytes for each pfn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.io.memory import lazy_zeros
from xenmig_np.read.events import PageBatch
from xenmig_np.read.pagetables import last_mentions, page_index, read_numbered, referred
from xenmig_np.read.pfnset import PfnSet
from xenmig_np.wire import pages
from xenmig_np.wire.legacy import Guest
from xenmig_np.wire.pages import PageType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.conversion.givenback import LeftOut
    from xenmig_np.read.facts import Facts
    from xenmig_np.read.image import LegacyImage

UNKNOWN: Final = 0xFF
KINDS: Final = np.array(
    [UNKNOWN, *np.where(pages.HAS_DATA, pages.LEVEL, np.arange(16) + len(pages.LEVEL))], np.uint8
)
"""By a type plus one: the level of a page table or 0 of another page, pinned or not; those without data each
their own; that of a pfn that was not mentioned is unlike any."""


class Collapse:
    """The words to keep of one image, found with passes over its heads and its superseded tables."""

    def __init__(self, image: LegacyImage, facts: Facts, left_out: LeftOut | None = None) -> None:
        """``facts`` are complete, and ``left_out`` is what goes anyway."""
        self.tables = 0
        """Superseded copies of page tables that stay."""
        self.verify_stays = False
        """The verify pass tells something new."""
        self._image = image
        self._left_out = left_out
        self._final = facts.last_types
        # of each pfn, all of it plus one, in the words before chunk -1:
        self._last = lazy_zeros(facts.p2m_size, np.uint32)  # the batch of the last word
        self._types = lazy_zeros(facts.p2m_size)  # its type
        self._given = lazy_zeros(facts.p2m_size, np.uint32)  # the batch of the word that gives the page
        self._filled = PfnSet(facts.p2m_size)  # those whose page comes with data
        self._tables: dict[int, NDArray[np.intp]] = {}
        self._find_last()
        if image.detected.shape.guest is Guest.PV:
            self._find_tables()

    def words(self, batch: PageBatch) -> NDArray[np.bool_]:
        """Which words of the batch are kept, shape (words,)."""
        mentions = self._mentions(batch)
        if batch.part:
            return mentions if self.verify_stays else np.zeros_like(mentions)
        kept = self._named(batch, mentions, self._last)
        kept |= self._named(batch, self._giving(batch, mentions), self._given)
        if (at := self._tables.get(batch.index)) is not None:
            kept[at] = True
        return kept

    def types(self, batch: PageBatch) -> NDArray[np.uint8]:
        """The types that words of the batch get, shape (words,): the last ones of a verify pass left out."""
        if self.verify_stays or batch.part:
            return batch.types
        last = self._named(batch, self._mentions(batch), self._last)
        types = batch.types.copy()
        types[last] = self._final[batch.pfns[last]] - 1
        return types

    def remarks(self) -> Iterator[str]:
        """What stays though it is superseded, and why."""
        if self.tables:
            yield f"kept: superseded page tables that refer to pages which no entry gives ({self.tables:,})"
        if self.verify_stays:
            yield "kept: the verify pass, which says what nothing before it does"

    # ---- what the heads say --------------------------------------------------------------------------------

    def _batches(self) -> Iterator[PageBatch]:
        events = self._image.events(self._image.new_facts())
        return (event for event in events if isinstance(event, PageBatch))

    def _find_last(self) -> None:
        for batch in self._batches():
            mentions = self._mentions(batch)
            pfns = batch.pfns[mentions]
            if batch.part:
                kinds = KINDS[batch.types[mentions] + 1]
                self.verify_stays |= bool((kinds != KINDS[self._types[pfns]]).any())
                continue
            last = self._last_of(batch, mentions)
            self._last[pfns] = batch.index + 1
            self._types[batch.pfns[last]] = batch.types[last] + 1
            self._filled.add(batch.pfns[mentions & pages.HAS_DATA[batch.types]])
            self._given[batch.pfns[self._giving(batch, mentions)]] = batch.index + 1

    def _mentions(self, batch: PageBatch) -> NDArray[np.bool_]:
        """Words that a stream has if it is not collapsed, shape (words,)."""
        mentions: NDArray[np.bool_] = batch.types != PageType.XTAB
        if self._left_out:
            mentions &= ~self._left_out.words(batch)
        return mentions

    def _giving(self, batch: PageBatch, mentions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Those with data, or that allocate a page for which none comes, shape (words,)."""
        filled = self._filled.contains(batch.pfns)
        return mentions & np.where(filled, pages.HAS_DATA[batch.types], batch.types == PageType.XALLOC)

    def _named(
        self, batch: PageBatch, some: NDArray[np.bool_], named: NDArray[np.uint32]
    ) -> NDArray[np.bool_]:
        """Those of some words whose pfn has the batch in ``named``; of several of a pfn the last."""
        at = np.flatnonzero(self._last_of(batch, some))  # pfns of XTAB words may be any
        found = np.zeros_like(some)
        found[at] = named[batch.pfns[at]] == batch.index + 1
        return found

    @staticmethod
    def _last_of(batch: PageBatch, some: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Those of some words of a batch that are the last of their pfn, shape (words,)."""
        return some if batch.run else last_mentions(batch.pfns, some)

    # ---- what superseded page tables refer to --------------------------------------------------------------

    def _find_tables(self) -> None:
        for batch in self._batches():
            goes = self._mentions(batch) & ~self.words(batch)
            if len(at := np.flatnonzero(goes & (pages.LEVEL[batch.types] > 0))):
                present, pfns = referred(
                    read_numbered(self._image.source, batch, page_index(batch.types)[at])
                )
                present &= pfns < len(self._given)  # restore does not survive a copy that refers beyond
                present[present] = self._given[pfns[present]] == 0
                if len(hits := at[present.any(axis=1)]):
                    self._keep(batch, hits)

    def _keep(self, batch: PageBatch, tables: NDArray[np.intp]) -> None:
        if batch.part:
            self.verify_stays = True
        else:
            self._tables[batch.index] = tables
            self.tables += len(tables)
