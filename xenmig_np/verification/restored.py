"""The state that a restore would give a guest: its memory by pfn, and all else as small items.

Of each pfn it is known where its content lies, and of which type its last mention was; pages are not held.
An original (:mod:`.restored_image`) and a stream (:mod:`.restored_stream`) give the same kind of state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.errors import InvalidImage
from xenmig_np.limits import MIB
from xenmig_np.wire import pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.io.source import Source
    from xenmig_np.read.places import Extent
    from xenmig_np.verification.comparison import Subject
    from xenmig_np.wire.legacy import Guest

NONE: Final = 0
"""In :attr:`Memory.types` and :attr:`Memory.contents`: there is none."""
NO_FRAME: Final = (1 << 64) - 1
ITEMS_MAX: Final = 512 * MIB
"""Bytes of all items: 4096 vCPUs with the largest xsave records that are read need half of it."""


class Memory:
    """Memory of a guest with pfns below ``size``.

    Behind a verify mark (chunk -1, record VERIFY) pages change no content, restore only compares them; they
    are kept apart, as a second part.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.types = np.zeros(size, np.uint8)
        """One more than the type of the last mention."""
        self.allocated = np.zeros(size, np.bool_)
        """Mentioned as XALLOC at some time."""
        self.contents = [np.zeros(size, np.int64)]
        """Of each part one more than the offset of the last copy."""
        self.tables: list[tuple[int, NDArray[np.unsignedinteger], NDArray[np.int64]]] = []
        """Part, pfns and offsets of all copies of page tables, by record."""

    def mark_verify(self) -> None:
        """What follows is only compared."""
        if not self.verified:
            self.contents.append(np.zeros(self.size, np.int64))

    @property
    def verified(self) -> bool:
        return len(self.contents) > 1

    def add(
        self,
        types: NDArray[np.uint8],
        pfns: NDArray[np.unsignedinteger],
        places: NDArray[np.int64],
        taken: NDArray[np.bool_],
    ) -> None:
        """Words in their order, shape (words,); ``places`` says where the page of each with data lies.

        Only those of ``taken`` count, whose pfns must be below ``size``.
        """
        has_data = pages.HAS_DATA[types]
        self.types[pfns[taken]] = types[taken] + np.uint8(1)
        self.allocated[pfns[taken & (types == pages.PageType.XALLOC)]] = True
        copies = taken & has_data
        at = places[copies[has_data]]
        self.contents[-1][pfns[copies]] = at + 1
        tables = pages.LEVEL[types[copies]] > 0
        if tables.any():
            self.tables.append((len(self.contents) - 1, pfns[copies][tables], at[tables]))

    def populated(self, pfns: slice) -> NDArray[np.bool_]:
        """Which of the pfns are given a page."""
        given = self.allocated[pfns].copy()
        for contents in self.contents:
            given |= contents[pfns] != NONE
        return given


def together(offset: int, types: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where the pages of words lie whose pages follow each other from ``offset`` on, shape (pages,)."""
    return offset + pages.PAGE_SIZE * np.arange(int(np.count_nonzero(pages.HAS_DATA[types])))


@dataclass(frozen=True, slots=True)
class Item:
    """A value, and where it begins in its file."""

    value: int | bytes | Extent
    offset: int
    shorter: bytes | None = None
    """Of an original: says the same (D25)."""


@dataclass(slots=True)
class Restored:
    """A guest as a restore would give it."""

    source: Source
    guest: Guest
    memory: Memory
    items: dict[Subject, Item] = field(default_factory=dict)
    frames: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """PV: by index the pfns of the frames that hold the p2m, or NO_FRAME."""
    frames_at: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Where each stands in the file."""
    _bytes: int = 0

    def put(self, subject: Subject, value: int | bytes | Extent, offset: int) -> None:
        """Set an item; the last value counts. Raises :class:`InvalidImage` for what grows beyond bounds."""
        if isinstance(value, bytes):
            self._bytes += len(value)
        if self._bytes > ITEMS_MAX or len(self.items) > ITEMS_MAX // pages.PAGE_SIZE:
            raise InvalidImage(
                path=self.source.path,
                offset=offset,
                item=str(subject),
                found="more state beside the memory",
                expected=f"at most {ITEMS_MAX:,} bytes",
            )
        self.items[subject] = Item(value, offset)
