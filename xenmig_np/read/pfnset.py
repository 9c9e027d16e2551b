"""A set of pfns as a bitmap: one bit for each pfn of the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np.io.memory import lazy_zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray


RUN_MIN: Final = 8
"""Fewer pfns are not worth a look: a run longer than this ends in another byte of a bitmap."""


class PfnSet:
    """Pfns below ``size``; untouched parts of a large set take no memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bits: NDArray[np.uint8] = lazy_zeros(-(-size // 8))

    def add(self, pfns: NDArray[Any]) -> None:
        """Add pfns, all below ``size``; any unsigned dtype, any shape, repeats are fine."""
        if pfns.ndim == 1 and (run := run_of(pfns)):
            self.add_run(run)
        else:
            np.bitwise_or.at(self._bits, pfns >> 3, _bit(pfns))

    def add_run(self, run: slice) -> None:
        """Add all pfns of a slice that is longer than :data:`RUN_MIN`, below ``size``."""
        first, last = run.start >> 3, (run.stop - 1) >> 3
        self._bits[first + 1 : last] = 0xFF
        self._bits[first] |= 0xFF & (0xFF << (run.start & 7))
        self._bits[last] |= 0xFF >> (7 - ((run.stop - 1) & 7))

    def contains(self, pfns: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the pfns are in the set, same shape; those beyond ``size`` are not."""
        inside: NDArray[np.bool_] = pfns < self.size
        at = np.where(inside, pfns, 0)
        inside &= (self._bits[at >> 3] & _bit(at)) != 0
        return inside

    def __len__(self) -> int:
        step = 1 << 17  # unpacked bits take eight times the room
        parts = (self._bits[at : at + step] for at in range(0, len(self._bits), step))
        return sum(int(np.count_nonzero(np.unpackbits(part))) for part in parts)

    def __bool__(self) -> bool:
        return bool(self._bits.any())


def _bit(pfns: NDArray[Any]) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (pfns & 7).astype(np.uint8))


def run_of(pfns: NDArray[Any]) -> slice | None:
    """The pfns as a slice, if there are more than 8 and each is one more than the one before."""
    if len(pfns) <= RUN_MIN or int(pfns[-1]) - int(pfns[0]) != len(pfns) - 1:
        return None
    return slice(int(pfns[0]), int(pfns[-1]) + 1) if (pfns[1:] > pfns[:-1]).all() else None
