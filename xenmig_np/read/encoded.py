"""Encoded pages of compressed checkpoints (legacy-stream.md 5.2).

Where a page begins is only known when the one before it has been walked. The walk is the only loop of
Python: it hops from head to head, whatever those are, by a table of 256 steps. 0x00 and 0x80 stand for a
whole page; so the words that each head covers, summed up, say where pages end and whether a head stands where
it must not. That, and moving the bytes, is done for thousands of heads at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.wire.pages import PAGE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNCHANGED: Final = 0x00
FULL: Final = 0x80
"""Heads that stand for a whole page; the others have bit 7 for a skip run and words in bits 6 to 0."""
WORD: Final = np.dtype("<u4")
"""Runs count words of 4 bytes, whatever the toolstack's width."""
WORDS: Final = PAGE_SIZE // WORD.itemsize

LONGEST: Final = 127
"""Words of a run; what is rewritten at a stretch comes in such runs."""

STEPS: Final = (1, *range(1 + 4, 2 + 4 * LONGEST, 4), 1 + PAGE_SIZE, *repeat(1, LONGEST))
"""From a head to the next, by the head."""
COVERS: Final = np.array(2 * [WORDS, *range(1, LONGEST + 1)], np.int64)
"""Words of a page that a head stands for, by the head."""

HEADS_MAX: Final = 1 << 14
"""Heads of one walk: a list of them takes some 600 KiB."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Whole pages found in a piece of encoded data."""

    begins: NDArray[np.int64]
    """Where each page begins in the data, shape (pages,)."""
    end: int
    """Where the last of them ends."""
    wrong: int | None
    """Where in the next page a head stands that must not; None: that page is right so far."""
    kinds: NDArray[np.uint8]
    """The first head of each page, shape (pages,)."""
    changed: NDArray[np.bool_]
    """Whether a page has copy runs, shape (pages,)."""
    page: NDArray[np.int64]
    """Of each copy run its page, shape (copies,) and ascending."""
    word: NDArray[np.int64]
    """The word of the page where it begins."""
    source: NDArray[np.int64]
    """Where its words are in the data."""
    length: NDArray[np.int64]
    """How many they are."""


def walk(data: memoryview, begin: int, pages_max: int) -> Walk:
    """Up to ``pages_max`` pages from ``begin`` on: as many as are all there, right, and have been walked."""
    at = _hop(data, begin)
    after, at = at[1:], at[:-1]
    heads = np.frombuffer(data, np.uint8)[at]
    covers = COVERS[heads]
    ends = np.cumsum(covers)
    begins = ends - covers
    # whole pages that begin within another, and runs beyond the end of theirs
    wrong = np.flatnonzero(begins // WORDS != (ends - 1) // WORDS)[:1]
    right = int(wrong[0]) if len(wrong) else len(at)
    there = np.searchsorted(after[:right], len(data), "right")  # what the last head stands for may not be
    closing = np.flatnonzero(ends[:there] % WORDS == 0)[:pages_max]
    opening = np.concatenate([[0], closing + 1])[: len(closing)]
    used = int(closing[-1]) + 1 if len(closing) else 0
    copies = np.flatnonzero((heads[:used] > UNCHANGED) & (heads[:used] < FULL))
    page = begins[copies] // WORDS
    changed = np.zeros(len(closing), np.bool_)
    changed[page] = True
    return Walk(
        begins=at[opening],
        end=int(after[used - 1]) if used else begin,
        wrong=int(at[right]) if right < len(at) and len(closing) < pages_max else None,
        kinds=heads[opening],
        changed=changed,
        page=page,
        word=begins[copies] % WORDS,
        source=at[copies] + 1,
        length=covers[copies],
    )


def _hop(data: memoryview, at: int) -> NDArray[np.int64]:
    """Where up to :data:`HEADS_MAX` heads are, and where the next would be, be it beyond the data."""
    found = [at]
    steps, add = STEPS, found.append
    try:
        for _ in repeat(None, HEADS_MAX):
            at += steps[data[at]]
            add(at)
    except IndexError:
        pass  # the end of the data: asking for it each time takes longer
    return np.fromiter(found, np.int64, len(found))


def windows(memory: memoryview, size: int) -> NDArray[np.uint8]:
    """All pieces of ``size`` bytes of some memory as rows of one array, which overlap."""
    count = len(memory) - size + 1
    return np.ndarray((count, size), np.uint8, memory, 0, (1, 1))


def overwrite(pages: NDArray[np.uint8], numbers: NDArray[np.intp], data: memoryview, found: Walk) -> None:
    """Put the copy runs of those pages of a walk that are ``numbers`` into ``pages``, shape (pages, 4096)."""
    first, end = np.searchsorted(found.page, [numbers[0], numbers[-1] + 1])
    length, source = found.length[first:end], found.source[first:end]
    into = np.searchsorted(numbers, found.page[first:end]) * WORDS + found.word[first:end]
    memory = pages.reshape(-1)

    longest = length == LONGEST
    if longest.any():
        size = LONGEST * WORD.itemsize
        rows = windows(data, size)[source[longest]]
        windows(memory.data, size)[into[longest] * WORD.itemsize] = rows
        length, source, into = length[~longest], source[~longest], into[~longest]

    done = np.cumsum(length) - length
    step = np.arange(length.sum())
    at = np.repeat(source - WORD.itemsize * done, length) + WORD.itemsize * step
    words = np.ndarray(len(data) - WORD.itemsize + 1, WORD, data, 0, (1,))
    memory.view(WORD)[np.repeat(into - done, length) + step] = words[at]
