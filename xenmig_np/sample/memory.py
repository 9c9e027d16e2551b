"""The memory of a synthetic guest: which pfns it has, of which types, and what is in the pages.

Everything follows from the seed, the pfn and the live round (``copy``) in which a page is sent, so any page
can be made at any time and nothing is kept. Random numbers are the raw words of PCG64, which NumPy keeps the
same over its releases (NEP 19), unlike the distributions drawn from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xenmig_np.wire.pages import PAGE_SIZE

Run = tuple[int, int]
"""Pfns from .. up to, not including."""
Pfns = NDArray[np.uint64]
PageWords = NDArray[np.uint64]
"""Pages as rows of 512 little-endian u64."""
Fill = Callable[[Pfns, int], PageWords]
"""Makes the pages of some pfns as they are in a round."""

U64: Final = np.dtype("<u8")
WORDS_PER_PAGE: Final = PAGE_SIZE // U64.itemsize


@dataclass(frozen=True, slots=True)
class Region:
    """Pages whose contents have a meaning."""

    run: Run
    type: int
    fill: Fill


@dataclass(frozen=True, slots=True)
class Guest:
    """What the image of a guest is made of; pages outside ``regions`` are ordinary ones."""

    p2m_size: int
    populated: tuple[Run, ...]
    """Ascending, disjoint: what the guest owns when the save begins."""
    holes: bool
    """The saver sends XTAB words for pfns that are not there (HVM)."""
    regions: tuple[Region, ...]
    given_up: Run
    """Ballooned out while round one goes on; empty in an image that is not live."""
    busy: tuple[Run, ...]
    """Pages that every later round sends again."""
    head: bytes
    """Between p2m_size and the body."""
    parameters: bytes
    """Chunks behind the vCPU map."""
    toolstack: bytes
    """Payload of the toolstack's chunk."""
    tail: bytes
    """What follows the body, to the end of the image."""


def inside(pfns: Pfns, *runs: Run) -> NDArray[np.bool_]:
    """Which of ``pfns``, of any shape, lie in one of ``runs``."""
    found = np.zeros(pfns.shape, bool)
    for start, stop in runs:
        found |= (pfns >= start) & (pfns < stop)
    return found


def noise(seed: int, purpose: int, words: int) -> NDArray[np.uint64]:
    """Random u64 of their own for each purpose."""
    raw: NDArray[np.uint64] = np.random.PCG64((seed, purpose)).random_raw(words)
    return raw.astype(U64, copy=False)


def mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of the u64 whose every bit depends on every bit (SplitMix64's last step)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class Contents:
    """Ordinary pages: zero by share, in runs of 16; of the rest three in eight are text and five random.

    A random page is a row of a pool that fits the processor's cache, combined with a number that is unique to
    pfn, copy and seed; a text page is such a row with pfn and copy written into it. So no two pages that
    are not zero are equal.
    """

    RUN_SHIFT: Final = np.uint64(4)
    """Memory that nobody has used yet lies together, so zero pages do."""
    NOISE_ROWS: Final = 192
    TEXT_ROWS: Final = 64
    HEADING: Final = b"page 00000000 copy 0: "
    PFN_DIGITS: Final = slice(5, 13)
    COPY_DIGIT: Final = 19
    HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
    SHIFTS: Final = np.arange(28, -1, -4, dtype=np.uint64)

    def __init__(self, seed: int, zeros: float) -> None:
        self._key = noise(seed, 0, 1)
        self._zeros = int(zeros * (1 << 53))
        self._pool = np.zeros((1 + self.NOISE_ROWS + self.TEXT_ROWS, WORDS_PER_PAGE), U64)
        random = self._pool[1 : 1 + self.NOISE_ROWS]
        random[:] = noise(seed, 1, random.size).reshape(random.shape)
        texts = _texts(noise(seed, 2, self.TEXT_ROWS * PAGE_SIZE // 2), self.TEXT_ROWS, self.HEADING)
        for row, text in zip(self._pool[1 + self.NOISE_ROWS :], texts, strict=True):
            row[:] = np.frombuffer(text, U64)

    def fill(self, pfns: Pfns, copy: int, out: PageWords) -> None:
        """Write the pages of ``pfns`` in round ``copy`` (1 to 9) to the rows of ``out``."""
        keys = mixed(self._key ^ (pfns | np.uint64(copy << 40)))
        zero = mixed(~self._key ^ (pfns >> self.RUN_SHIFT)) >> 11 < self._zeros
        text = ~zero & (keys & 7 < 3)
        choice = keys >> 3
        rows = np.where(text, 1 + self.NOISE_ROWS + choice % self.TEXT_ROWS, 1 + choice % self.NOISE_ROWS)
        rows[zero] = 0
        np.take(self._pool, rows.astype(np.intp), axis=0, out=out, mode="clip")
        keys[zero | text] = 0
        out ^= keys[:, np.newaxis]

        at = np.flatnonzero(text)
        characters = out.view(np.uint8)
        digits = pfns[at, np.newaxis] >> self.SHIFTS & 15
        characters[at, self.PFN_DIGITS] = self.HEX[digits.astype(np.intp)]
        characters[at, self.COPY_DIGIT] = ord("0") + copy


_SYLLABLES: Final = ("an", "be", "co", "do", "el", "fa", "gi", "ha", "in", "ju", "ka", "qui", "ra", "un")
_ENDS: Final = (" ", "", "", "\n", " ", ", ")


def _texts(choices: NDArray[np.uint64], rows: int, heading: bytes) -> list[bytes]:
    """Pages of made-up words behind a heading, from enough choices: each gives two letters or more."""
    count = len(_SYLLABLES)
    letters = "".join(
        _SYLLABLES[choice % count] + _ENDS[choice // count % len(_ENDS)] for choice in choices.tolist()
    ).encode()
    size = PAGE_SIZE - len(heading)
    return [heading + letters[row * size : (row + 1) * size] for row in range(rows)]
