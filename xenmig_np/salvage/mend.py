"""A batch with a few damaged words: their pfns are lost, and what stands behind decides where pages lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.read.events import PageBatch
from xenmig_np.read.places import Extent
from xenmig_np.salvage.proof import REPEATS, STRONG_WORDS, UNKNOWN_PFN
from xenmig_np.wire import legacy, pages
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.read.reading import Reading

FEW: Final = REPEATS
"""Of so many words one may be damaged, and one in any case."""


def mended(reading: Reading) -> tuple[PageBatch, ...]:
    """What a batch at the cursor can have been if it has damaged words, which get :data:`UNKNOWN_PFN`.

    Whether such words have pages is not known: either all of them, or none. No batch: it is not one.
    """
    at = reading.cursor.at
    size = reading.shape.word.itemsize
    head = reading.cursor.peek(legacy.CHUNK_ID.itemsize + legacy.BATCH_MAX * size)
    count = int.from_bytes(head[: legacy.CHUNK_ID.itemsize], "little", signed=True)
    length = legacy.CHUNK_ID.itemsize + count * size
    if not STRONG_WORDS <= count <= legacy.BATCH_MAX or length > len(head):
        return ()
    words = np.frombuffer(head, reading.shape.word, count, legacy.CHUNK_ID.itemsize)
    low = words.astype(np.uint32)
    types = (low >> legacy.TYPE_SHIFT).astype(np.uint8)
    pfns = low & np.uint32(legacy.PFN_MASK)
    bad = ~_possible(reading, words, types, pfns)
    if np.count_nonzero(bad) > max(count // FEW, 1):
        return ()
    made = []
    for kind in (pages.PageType.NOTAB, pages.PageType.BROKEN):
        fixed = np.where(bad, kind, types).astype(np.uint8)
        extent = Extent(at + length, int(np.count_nonzero(pages.HAS_DATA[fixed])) * pages.PAGE_SIZE)
        known = np.where(bad, UNKNOWN_PFN, pfns).astype(np.uint32)
        whole = length + extent.length
        made.append(PageBatch(at, whole, reading.batches, reading.part, fixed, known, extent, reading.body))
    return tuple(made)


def _possible(
    reading: Reading,
    words: NDArray[np.unsignedinteger],
    types: NDArray[np.uint8],
    pfns: NDArray[np.uint32],
) -> NDArray[np.bool_]:
    good: NDArray[np.bool_] = pages.LEGAL[types] & (
        (pfns < reading.p2m_size) | (types == pages.PageType.XTAB)
    )
    if reading.shape.guest is Guest.HVM:
        good &= pages.OF_HVM[types]
    if words.itemsize == legacy.WORDS[64].itemsize:
        upper = words >> np.uint64(32)
        good &= (upper == 0) | ((upper == legacy.UPPER_ONES) & (types >= 8))
    return good
