"""Looking for heads at any byte of a region: few pass, and those are read in earnest.

All places of a piece are looked at in one go, with arrays. A head that is found begins a batch of at least
:data:`STRONG_WORDS` words, or is a control chunk, or the head of an HVM tail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np.limits import MIB
from xenmig_np.salvage.proof import STRONG_WORDS
from xenmig_np.wire import hvm, legacy, pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.io.source import Source

PIECE: Final = MIB
IDS: Final = [row.id & 0xFF for row in legacy.CHUNKS if row.id < legacy.VERIFY_MODE]
OF_IDS: Final = np.isin(np.arange(256), IDS)
LEAD: Final = 3 * legacy.CHUNK_ID.itemsize
"""Bytes before a place that are looked at."""
SMALL: Final = range(STRONG_WORDS // 2, STRONG_WORDS)
"""Words of a batch that is not strong, and whose words can be taken for another head all the same."""
TAIL_BEFORE_CONTEXT: Final = legacy.CHUNK_ID.itemsize + legacy.HVM_TAIL.itemsize
"""From chunk 0 to the HVM context."""


def candidates(source: Source, begin: int, end: int, width: int, p2m_size: int) -> Iterator[int]:
    """Offsets from ``begin`` up to ``end``, ascending, where a chunk may begin that nothing points to.

    ``width`` is that of the words in bits, ``p2m_size`` a bound of the pfns.
    """
    overlap = LEAD + legacy.CHUNK_ID.itemsize + STRONG_WORDS * width // 8
    buffer = memoryview(bytearray(PIECE + max(overlap, TAIL_BEFORE_CONTEXT + len(hvm.CONTEXT_START))))
    for at in range(begin, end, PIECE):
        lead = min(at, LEAD)
        whole = np.frombuffer(buffer, np.uint8, source.read_at(at - lead, buffer))
        data = whole[lead:]
        count = min(PIECE, end - at, max(len(data) - legacy.CHUNK_ID.itemsize, 0))
        batches = _batches(data, count, width, p2m_size)
        found = [
            batches[~_in_series(whole, batches + lead)],
            _controls(data, count),
            _tails(buffer[lead : len(whole)], count),
        ]
        for place in np.unique(np.concatenate(found)).tolist():
            yield at + place


def _in_series(data: NDArray[np.uint8], places: NDArray[np.intp]) -> NDArray[np.bool_]:
    """At which places a count stands in the steps of its neighbours: memory is full of tables."""
    size = legacy.CHUNK_ID.itemsize
    near = np.where(places >= LEAD, places, LEAD)
    third, second, before, count, first = (_numbers(data, near + step * size) for step in range(-3, 2))
    ascending = (before > 0) & (before < count) & (count < first)
    even = count - before == first - count
    series: NDArray[np.bool_] = ascending & (even | ((third > 0) & (third < second) & (second < before)))
    return series & (places >= LEAD)


def lone(source: Source, place: int, width: int, p2m_size: int) -> bool:
    """Whether a batch at ``place`` is neither a part of a table nor of the words of a small batch."""
    size, word = legacy.CHUNK_ID.itemsize, width // 8
    lead = min(place, size + word * STRONG_WORDS)
    buffer = memoryview(bytearray(lead + size + word * STRONG_WORDS))
    data = np.frombuffer(buffer, np.uint8, source.read_at(place - lead, buffer))
    if lead >= LEAD and _in_series(data, np.array([lead], np.intp))[0]:
        return False
    for at in range(lead - size, -1, -word):
        count = int(_numbers(data, np.array([at], np.intp))[0])
        inside = at + size + count * word > lead
        if count in SMALL and inside and _possible(data, np.array([at], np.intp), count, word, p2m_size)[0]:
            return False
    return True


def batch_places(source: Source, begin: int, end: int, width: int, p2m_size: int) -> list[int]:
    """Of the offsets from ``begin`` up to ``end``, which are few, those where a batch may begin."""
    length = legacy.CHUNK_ID.itemsize + STRONG_WORDS * width // 8
    lead = min(begin, LEAD)
    buffer = memoryview(bytearray(lead + end - begin + length))
    whole = np.frombuffer(buffer, np.uint8, source.read_at(begin - lead, buffer))
    places = _batches(whole[lead:], end - begin, width, p2m_size)
    return [begin + place for place in places[~_in_series(whole, places + lead)].tolist()]


def _batches(data: NDArray[np.uint8], count: int, width: int, p2m_size: int) -> NDArray[np.intp]:
    """Places with a number of words before words that can be pages of the guest."""
    size = width // 8
    count = min(count, len(data) - legacy.CHUNK_ID.itemsize - STRONG_WORDS * size)
    if count <= 0:
        return np.zeros(0, np.intp)
    most = legacy.BATCH_MAX >> 8
    near = (data[2 : count + 2] == 0) & (data[3 : count + 3] == 0) & (data[1 : count + 1] <= most)
    near &= (data[1 : count + 1] > 0) | (data[:count] >= STRONG_WORDS)
    places = np.flatnonzero(near)
    if size == 8:
        upper = _numbers(data, places + 8)
        places = places[(upper == 0) | (upper == legacy.UPPER_ONES)]
    for some in (2, STRONG_WORDS):  # two rule out most places, at little cost
        places = places[_possible(data, places, some, size, p2m_size)]
    return places


def _numbers(data: NDArray[np.uint8], places: NDArray[np.intp]) -> NDArray[np.uint32]:
    """The u32 at any places; shape as that of ``places``."""
    numbers = np.zeros(places.shape, np.uint32)
    for byte in range(4):
        numbers |= data[places + byte].astype(np.uint32) << np.uint32(8 * byte)
    return numbers


def _possible(
    data: NDArray[np.uint8], places: NDArray[np.intp], some: int, size: int, p2m_size: int
) -> NDArray[np.bool_]:
    """Behind which places the first words can be words of a batch; shape (places,)."""
    at = places[:, None] + (legacy.CHUNK_ID.itemsize + size * np.arange(some))
    words = _numbers(data, at)
    types = words >> np.uint32(legacy.TYPE_SHIFT)
    pfns = words & np.uint32(legacy.PFN_MASK)
    xtab = types == pages.PageType.XTAB
    good = pages.LEGAL[types] & ((pfns < p2m_size) | xtab)
    if size == 8:
        upper = _numbers(data, at + 4)
        good &= (upper == 0) | ((upper == legacy.UPPER_ONES) & (types >= 8))
    fine: NDArray[np.bool_] = good.all(axis=1)
    if some >= SMALL.start:
        apart = np.where(xtab, legacy.PFN_MASK + 1 + np.arange(some), pfns)
        apart.sort(axis=1)
        fine &= np.count_nonzero(apart[:, 1:] == apart[:, :-1], axis=1) <= 1
    return fine


def _controls(data: NDArray[np.uint8], count: int) -> NDArray[np.intp]:
    """Places with a chunk id below -1."""
    near = OF_IDS[data[:count]]
    for byte in range(1, 4):
        near &= data[byte : count + byte] == 0xFF
    return np.flatnonzero(near)


def _tails(buffer: memoryview, count: int) -> NDArray[np.intp]:
    """Places of chunk 0 before an HVM tail, by how a context begins."""
    data: Any = bytes(buffer)
    found = []
    at = data.find(hvm.CONTEXT_START)
    while at >= 0:
        if 0 <= at - TAIL_BEFORE_CONTEXT < count:
            found.append(at - TAIL_BEFORE_CONTEXT)
        at = data.find(hvm.CONTEXT_START, at + 1)
    return np.array(found, np.intp)
