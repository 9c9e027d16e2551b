"""Steps over transcendent memory, which no stream can carry (legacy-stream.md 6).

Nothing tells how long an object id is: the longer form is tried first, and the first form counts behind
which a chunk begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.errors import InvalidImage
from xenmig_np.limits import MIB
from xenmig_np.wire import legacy, pages

if TYPE_CHECKING:
    from xenmig_np.read.reading import Reading

ITEM: Final = "tmem"


def tmem(reading: Reading, extra: bool) -> int:  # noqa: FBT001 - which of the two chunks it is
    """Pass the payload of chunk -5, or of -6 if ``extra``; returns the number of pages or entries in it.

    The input must be one that can be read again. Raises :class:`InvalidImage`, what the first form raised
    if none fits.
    """
    at = reading.cursor.at
    failure: InvalidImage | None = None
    for oid in legacy.TMEM_OID_SIZES:
        reading.cursor.at = at
        try:
            count = _entries(reading, 4, 4 + oid + 4, None) if extra else _pools(reading, oid)
            _chunk_follows(reading)
        except InvalidImage as error:
            failure = failure or error
        else:
            return count
    if failure is None:
        raise RuntimeError("there is no form of object ids")
    raise failure


def _pools(reading: Reading, oid: int) -> int:
    cursor, at = reading.cursor, reading.cursor.at
    head = cursor.one(legacy.TMEM_HEAD, ITEM)
    for name in ("ones", "ones_2"):
        if head[name] != legacy.ONES:
            raise reading.invalid(at, f"{ITEM}, separator", f"{int(head[name]):#x}", f"{legacy.ONES:#x}")
    count = 0
    while cursor.number(legacy.U32, f"{ITEM}, pool") != legacy.ONES:
        at = cursor.at
        pool = cursor.one(legacy.TMEM_POOL, f"{ITEM}, pool")
        order = int(pool["flags"]) >> legacy.TMEM_ORDER_SHIFT & legacy.TMEM_ORDER_MASK
        if order > legacy.TMEM_ORDER_MAX:
            found = f"pages of 4096 << {order} bytes"
            raise reading.invalid(at, f"{ITEM}, pool", found, f"at most 4096 << {legacy.TMEM_ORDER_MAX}")
        size = oid + 4 + (pages.PAGE_SIZE << order)
        count += _entries(reading, oid, size, int(pool["n_pages"]))
    return count


def _entries(reading: Reading, mark: int, size: int, most: int | None) -> int:
    """Pass entries of ``size`` bytes up to ``most``, or up to one of which ``mark`` bytes of ones are there.

    Returns how many they are.
    """
    cursor = reading.cursor
    count = 0
    while most is None or count < most:
        some = MIB // size if most is None else min(MIB // size, most - count)
        piece = np.zeros((some, size), np.uint8)
        got = cursor.source.read_at(cursor.at, piece.reshape(-1).data)
        ends = np.flatnonzero((piece[:, :mark] == 0xFF).all(axis=1))
        passed = int(ends[0]) if len(ends) else some
        count += passed
        if (needed := passed * size + mark * bool(len(ends))) > got:
            raise cursor.truncated(needed, f"{ITEM}, entries", got)
        cursor.at += needed
        if len(ends):
            break
    return count


def _chunk_follows(reading: Reading) -> None:
    number = reading.cursor.number(legacy.CHUNK_ID, "chunk id behind tmem")
    reading.cursor.at -= legacy.CHUNK_ID.itemsize
    if not 0 < number <= legacy.BATCH_MAX and number not in legacy.CHUNK_BY_ID:
        expected = "a chunk id, with object ids of 24 or 8 bytes before it"
        raise reading.invalid(reading.cursor.at, ITEM, f"{number} behind it", expected)
