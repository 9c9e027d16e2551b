"""Large arrays of which little is used."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = 1 << 20


def lazy_zeros(count: int, dtype: type[np.generic] = np.uint8) -> NDArray[Any]:
    """Zeros of shape (count,) that take memory by the 4 KiB where something is written.

    numpy asks the kernel for huge pages, of which a few thousand spread pfns would fill gigabytes.
    """
    size = count * np.dtype(dtype).itemsize
    if size <= SMALL:
        return np.zeros(count, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype)
