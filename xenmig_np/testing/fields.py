"""What the pieces of a legacy image consist of: numbers, page words, long bytes that are short to print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Field = tuple[str, bytes]
"""A name and what stands there."""

PAGE: Final = 4096
FIRST_WITHOUT_PAGE: Final = 13
"""Words of the types from here to 15 have no page behind them."""
NOTAB, BROKEN, XALLOC, XTAB, PINNED = 0, 13, 14, 15, 8
"""Page types; 1 to 4 are page tables by level, ``PINNED`` is added to them."""


def le(value: int, size: int) -> bytes:
    """``size`` bytes, little-endian; what does not fit is cut off, negative numbers are two's complement."""
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


@dataclass(frozen=True, slots=True)
class Filled:
    """``length`` times one byte with ``patches`` (offset, bytes) over it: long, and short to print."""

    length: int
    fill: int = 0
    patches: tuple[tuple[int, bytes], ...] = ()

    def __bytes__(self) -> bytes:
        data = bytearray([self.fill]) * self.length
        for at, patch in self.patches:
            data[at : at + len(patch)] = patch
        return bytes(data)


Data = bytes | Filled
ZERO_PAGE: Final = Filled(PAGE)


def page(fill: int = 0, entries: Iterable[tuple[int, int]] = ()) -> Filled:
    """A page of one byte; ``entries`` (slot, u64) stand in it, as in a page table."""
    return Filled(PAGE, fill, tuple((8 * slot, le(entry, 8)) for slot, entry in entries))


def pte(pfn: int, flags: int = 0x67) -> int:
    """An entry of a page table, present unless bit 0 of ``flags`` is clear."""
    return pfn << 12 | flags


def word(kind: int, pfn: int, *, signed: bool = False) -> int:
    """A word of a batch; ``signed``: bit 31 goes on into the upper half, as Xen 3.0 had it."""
    low = kind << 28 | pfn
    return low | (0xFFFF_FFFF << 32 if signed and kind & PINNED else 0)


def overridden(override: int | None, value: int) -> int:
    """The value of a count or length: the true one, or the lie."""
    return value if override is None else override


def under(name: str, fields: Iterable[Field]) -> Iterator[Field]:
    """The fields with longer names."""
    return ((f"{name}.{field}", data) for field, data in fields)


def length_of(fields: Iterable[Field]) -> int:
    """Bytes in all of them."""
    return sum(len(data) for _, data in fields)
