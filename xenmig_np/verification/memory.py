"""Compares the memory of two states: types by arrays, contents by reading both files in ascending order.

Each pfn has the type of its last mention. Its content is the last copy before the verify mark; a page that
was allocated and never filled holds zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np.errors import TruncatedImage
from xenmig_np.limits import MIB, PIECE
from xenmig_np.verification.comparison import Differences, Subject
from xenmig_np.verification.restored import NONE
from xenmig_np.wire import pages
from xenmig_np.wire.legacy import Guest
from xenmig_np.wire.pages import PAGE_SIZE, PageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from xenmig_np.io.source import Source
    from xenmig_np.read.pfnset import PfnSet
    from xenmig_np.verification.restored import Memory, Restored

    Progress = Callable[[int, int], object]
    """Called with the bytes of pages compared so far, and of all pages."""

SLICE: Final = MIB
"""Pfns looked at in one go."""
READ_PAGES: Final = PIECE // PAGE_SIZE
ZERO, NOTAB, BROKEN, XALLOC, XTAB = (
    0,
    *(kind + 1 for kind in (PageType.NOTAB, PageType.BROKEN, PageType.XALLOC, PageType.XTAB)),
)
"""Values of :attr:`Memory.types`; ZERO: not mentioned."""


@dataclass(slots=True)
class Reading:
    """Pages of one file, a piece at a time."""

    source: Source
    item: str
    _rows: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((READ_PAGES, PAGE_SIZE), np.uint8))

    def read(self, offset: int, count: int) -> NDArray[np.uint8]:
        """Rows of shape (count, 4096), until the next read; raises :class:`TruncatedImage`."""
        rows = self._rows[:count]
        if (got := self.source.read_at(offset, rows.reshape(-1).data)) < rows.nbytes:
            raise TruncatedImage(
                path=self.source.path,
                offset=offset,
                item=self.item,
                found=f"the end of the input after {got:,} bytes",
                expected=f"{rows.nbytes:,} bytes",
            )
        return rows


class MemoryComparison:
    """Compares once: :meth:`types`, then :meth:`contents`.

    ``listed`` are the pfns that the guest gave back: they have neither type nor content.
    """

    def __init__(self, found: Restored, expected: Restored, listed: PfnSet, differences: Differences) -> None:
        self._found = found.memory
        self._expected = expected.memory
        self._guest = expected.guest
        self._listed = listed
        self._any_listed = bool(listed)
        self._differences = differences
        self._sides = Reading(found.source, "pages"), Reading(expected.source, "pages")
        self.pages = 0
        """Pages whose contents were compared."""

    # ---- types ---------------------------------------------------------------------------------------------

    def types(self) -> None:
        """Pages that are missing, that should not be there, or are of another type."""
        for part in self._slices():
            listed = self._is_listed(part)
            found, expected = self._types(part)
            found[listed] = expected[listed] = ZERO
            wrong = np.flatnonzero(found != expected)
            for what, some in (
                ("missing page", wrong[found[wrong] == ZERO]),
                ("extra page", wrong[expected[wrong] == ZERO]),
                ("page type", wrong[(found[wrong] != ZERO) & (expected[wrong] != ZERO)]),
            ):
                self._tell(what, some + part.start, partial(_names, found, expected, part.start))
            given = np.flatnonzero(listed & self._found.populated(part)) + part.start
            self._tell("given-back page", given, lambda _: ("a page", "none: the guest gave it away"))

    def _types(self, part: slice) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """What a restore makes of the types, found and expected."""
        found, expected = self._found.types[part].copy(), self._expected.types[part].copy()
        found[(found == XTAB) & ~self._found.populated(part)] = ZERO
        if self._guest is Guest.HVM:  # the type of such a page is nowhere kept
            found[found == XALLOC] = expected[expected == XALLOC] = NOTAB
        return found, expected

    # ---- contents ------------------------------------------------------------------------------------------

    def contents(self, progress: Progress | None) -> None:
        """Every page that both have."""
        pairs = self._pairs()
        total = sum(len(pfns) for _, pfns, _, _ in pairs) * PAGE_SIZE
        done = 0
        for what, pfns, found, expected in pairs:
            for first, count, wrong in unequal(self._sides, found, expected):
                done += count * PAGE_SIZE
                if progress:
                    progress(done, total)
                at = first + np.flatnonzero(wrong)
                self._tell_contents(what, pfns[at], found[at], expected[at])
        self.pages = len(pairs[0][1])

    def _pairs(self) -> list[tuple[str, NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]]:
        """What to compare: its name, pfns, and offsets plus one (0: zeros) found and expected; by offset."""
        both = self._both()
        found, expected = self._found.contents, self._expected.contents
        here, there = found[0][both], expected[0][both]
        pairs = []
        if self._expected.verified:
            again = expected[1][both]
            late = there == NONE  # only behind the mark: such a page is left empty, or filled all the same
            there = np.where(late, again, there)
            if self._found.verified:
                here = np.where(late & (here == NONE), found[1][both], here)
                second = np.flatnonzero((again != NONE) & ~late)
                pairs.append(("page of the verify pass", both[second], found[1][both][second], again[second]))
        pairs.insert(0, ("page", both, here, there))
        return [(what, *_by_offset(pfns, first, second)) for what, pfns, first, second in pairs]

    def _both(self) -> NDArray[np.intp]:
        """Pfns that have a content on both sides."""
        some = []
        for part in self._slices():
            found, expected = self._types(part)
            have = (found != ZERO) & (expected != ZERO) & (found != BROKEN) & (expected != BROKEN)
            some.append(np.flatnonzero(have & ~self._is_listed(part)) + part.start)
        return np.concatenate(some) if some else np.zeros(0, np.intp)

    def _tell_contents(
        self,
        what: str,
        pfns: NDArray[np.intp],
        found: NDArray[np.int64],
        expected: NDArray[np.int64],
    ) -> None:
        told = min(len(pfns), self._differences.room)
        for pfn, *offsets in zip(
            pfns[:told].tolist(), found[:told].tolist(), expected[:told].tolist(), strict=True
        ):
            rows = [
                side.read(offset - 1, 1)[0] if offset != NONE else np.zeros(PAGE_SIZE, np.uint8)
                for side, offset in zip(self._sides, offsets, strict=True)
            ]
            first = int(np.argmax(rows[0] != rows[1]))
            here, there = (offset - 1 + first if offset != NONE else None for offset in offsets)
            shown = [row[first : first + 8].tobytes().hex(" ") for row in rows]
            self._differences.tell(Subject(what, pfn), (here, there), shown[0], shown[1])
        self._differences.count(what, len(pfns) - told)

    # ---- both ----------------------------------------------------------------------------------------------

    def _slices(self) -> Iterator[slice]:
        for first in range(0, self._expected.size, SLICE):
            yield slice(first, min(first + SLICE, self._expected.size))

    def _is_listed(self, part: slice) -> NDArray[np.bool_]:
        if not self._any_listed:
            return np.zeros(part.stop - part.start, np.bool_)
        return self._listed.contains(np.arange(part.start, part.stop))

    def _tell(self, what: str, pfns: NDArray[Any], texts: Callable[[int], tuple[str, str]]) -> None:
        told = min(len(pfns), self._differences.room)
        for pfn in pfns[:told].tolist():
            offsets = _offset(self._found, pfn), _offset(self._expected, pfn)
            self._differences.tell(Subject(what, pfn), offsets, *texts(pfn))
        self._differences.count(what, len(pfns) - told)


def _names(found: NDArray[np.uint8], expected: NDArray[np.uint8], first: int, pfn: int) -> tuple[str, str]:
    """Names of the types of a pfn, in arrays that begin with ``first``."""

    def name(kind: int) -> str:
        return "none" if kind == ZERO else str(pages.PAGE_TYPES["name"][kind - 1])

    return name(int(found[pfn - first])), name(int(expected[pfn - first]))


def _offset(memory: Memory, pfn: int) -> int | None:
    """Of the last copy of a page, in whatever part."""
    copies = [int(contents[pfn]) for contents in memory.contents if contents[pfn] != NONE]
    return copies[-1] - 1 if copies else None


def _by_offset(
    pfns: NDArray[np.intp], found: NDArray[np.int64], expected: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
    """In ascending order of the places found."""
    order = np.argsort(found, kind="stable")
    return pfns[order], found[order], expected[order]


def unequal(
    sides: tuple[Reading, Reading], found: NDArray[np.int64], expected: NDArray[np.int64]
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """(first row, count, which rows differ), for pages at offsets plus one, 0 being a page of zeros.

    Neighbours on both sides are read together.
    """
    zeros = np.zeros((READ_PAGES, PAGE_SIZE), np.uint8)
    for first, end in _runs(found, expected):
        for at in range(first, end, READ_PAGES):
            count = min(READ_PAGES, end - at)
            rows = []
            for side, offsets in zip(sides, (found, expected), strict=True):
                start = int(offsets[first])
                rows.append(
                    zeros[:count] if start == NONE else side.read(start - 1 + (at - first) * PAGE_SIZE, count)
                )
            same = rows[0].view(np.uint64) == rows[1].view(np.uint64)
            yield at, count, np.zeros(count, np.bool_) if same.all() else ~same.all(axis=1)


def _runs(found: NDArray[np.int64], expected: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(first, end) of rows that follow each other on both sides."""
    if not len(found):
        return
    follows = np.ones(len(found) - 1, np.bool_)
    for offsets in (found, expected):
        step = np.diff(offsets)
        follows &= np.where(offsets[:-1] == NONE, step == 0, step == PAGE_SIZE)
    breaks = np.flatnonzero(~follows) + 1
    yield from zip([0, *breaks.tolist()], [*breaks.tolist(), len(found)], strict=True)
