"""Runs of consecutive numbers: pages that lie next to each other are moved together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def runs(numbers: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """(first number, count) of each run in ascending numbers of shape (n,)."""
    if not len(numbers):
        return
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    starts = np.concatenate([[0], breaks])
    counts = np.diff(np.concatenate([starts, [len(numbers)]]))
    yield from zip(numbers[starts].tolist(), counts.tolist(), strict=True)
