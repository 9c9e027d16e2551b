"""Pages that a PV guest gave away, and gets back by a page table that names them (v2-stream.md D22).

Xen's restore gives a guest every pfn that a copy of a page table refers to, superseded or not. What the last
copies in the original refer to comes back in any stream; what only other copies in the stream refer to is
a page too many: the guest's own list of its pages then is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xenmig_np.verification.comparison import Subject
from xenmig_np.verification.memory import READ_PAGES, Reading
from xenmig_np.wire import pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.read.pfnset import PfnSet
    from xenmig_np.verification.comparison import Differences
    from xenmig_np.verification.restored import Memory, Restored

TOLD = "a page table that refers to it"


def compare_given_back(found: Restored, expected: Restored, listed: PfnSet, differences: Differences) -> None:
    """Tell the pfns of ``listed`` that page tables of the stream bring back, and no last copy does."""
    tables = _all_tables(found.memory)
    if not (listed and len(tables)):
        return
    known = np.zeros(expected.memory.size, np.bool_)
    for _, pfns in _references(expected, _last_tables(expected.memory), listed):
        known[pfns] = True
    for offset, pfns in _references(found, tables, listed):
        for pfn in np.unique(pfns[~known[pfns]]).tolist():
            if not found.memory.populated(slice(pfn, pfn + 1))[0]:  # else told already
                differences.tell(
                    Subject("given-back page", pfn), (offset, None), TOLD, "none: the guest gave it away"
                )
            known[pfn] = True


def _all_tables(memory: Memory) -> NDArray[np.int64]:
    """Offsets of every copy of a page table, in the order of the file."""
    if not memory.tables:
        return np.zeros(0, np.int64)
    return np.concatenate([offsets for _, _, offsets in memory.tables])


def _last_tables(memory: Memory) -> NDArray[np.int64]:
    """Offsets of those copies that are the last of their pfn in their part."""
    last = [offsets[memory.contents[part][pfns] == offsets + 1] for part, pfns, offsets in memory.tables]
    return np.concatenate(last) if last else np.zeros(0, np.int64)


def _references(
    state: Restored, tables: NDArray[np.int64], listed: PfnSet
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """(offset of a table, the listed pfns that it refers to), for tables at ascending offsets."""
    reading = Reading(state.source, "page tables")
    for first, count in _runs(tables):
        entries = reading.read(first, count).view(pages.PTE)
        pfns = (entries >> np.uint64(pages.PTE_PFN_SHIFT)) & np.uint64(pages.PTE_PFN_MASK)
        hits = ((entries & np.uint64(pages.PTE_PRESENT)) != 0) & listed.contains(pfns)
        for row in np.flatnonzero(hits.any(axis=1)).tolist():
            yield first + row * pages.PAGE_SIZE, pfns[row][hits[row]]


def _runs(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(offset, pages) of pages that lie next to each other, at most READ_PAGES."""
    breaks = np.flatnonzero(np.diff(offsets) != pages.PAGE_SIZE) + 1
    for run in np.split(offsets, breaks):
        for at in range(0, len(run), READ_PAGES):
            yield int(run[at]), len(run[at : at + READ_PAGES])
