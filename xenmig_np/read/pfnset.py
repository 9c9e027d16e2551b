"""A set of pfns as a bitmap: one bit for each pfn of the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xenmig_np.io.memory import lazy_zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PfnSet:
    """Pfns below ``size``; untouched parts of a large set take no memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bits: NDArray[np.uint8] = lazy_zeros(-(-size // 8))

    def add(self, pfns: NDArray[Any]) -> None:
        """Add pfns, all below ``size``; any unsigned dtype, any shape, repeats are fine."""
        if len(pfns) > 8 and pfns.ndim == 1 and _is_run(pfns):
            first = int(pfns[0])
            whole = slice(-(-first // 8), (first + len(pfns)) // 8)
            self._bits[whole] = 0xFF
            pfns = np.concatenate([pfns[: 8 * whole.start - first], pfns[8 * whole.stop - first :]])
        np.bitwise_or.at(self._bits, pfns >> 3, _bit(pfns))

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


def _is_run(pfns: NDArray[Any]) -> bool:
    """Whether each is one more than the one before, as savers write them."""
    return int(pfns[-1]) - int(pfns[0]) == len(pfns) - 1 and bool((pfns[1:] > pfns[:-1]).all())
