"""Throughput over time: bytes spread over the time that each image took, in bins of equal width.

Time in which nothing was at work for long, as between two runs, is left out of the axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BINS: Final = 120
PAUSE: Final = 60.0
"""Seconds of idleness that are left out."""
SHORTEST: Final = 0.001
"""Seconds of the axis that each stretch of work has at least: as exact as manifests are."""


class Span(NamedTuple):
    """An image while it was done."""

    began: float
    """Seconds since 1970."""
    seconds: float
    bytes: int


class Bin(NamedTuple):
    """A part of the time."""

    began: float
    """Seconds since 1970."""
    rate: float
    """Bytes per second."""
    failed: int
    """Images that failed in it."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """All bins, in order; none where no image was done."""

    bins: tuple[Bin, ...]
    width: float
    """Seconds of a bin."""
    seconds: float
    """Of all bins: the time in which anything was at work."""
    ended: float
    breaks: tuple[int, ...]
    """Bins before which time is left out."""

    @property
    def peak(self) -> float:
        return max((one.rate for one in self.bins), default=0.0)


def timeline(made: Sequence[Span], failed: Sequence[Span]) -> Timeline:
    """Bins of what was ``made``, with the ends of what ``failed``."""
    if not made and not failed:
        return Timeline((), 0.0, 0.0, 0.0, ())
    spans = np.array([*made, *failed], np.float64)
    began, ended = spans[:, 0], spans[:, 0] + spans[:, 1]
    axis = _Axis.of(began, ended)
    width = axis.seconds / BINS
    edges = np.linspace(0.0, width * BINS, BINS + 1)
    done = _bytes_until(edges, axis.of_time(ended[: len(made)]), spans[: len(made)], width)
    ends = axis.of_time(ended[len(made) :])
    failures = np.bincount(np.minimum(ends / width, BINS - 1).astype(np.int64), minlength=BINS)
    rates = np.diff(done) / width
    starts = axis.time(edges[:-1])
    return Timeline(
        bins=tuple(map(Bin, starts.tolist(), rates.tolist(), failures.tolist())),
        width=width,
        seconds=axis.seconds,
        ended=float(ended.max()),
        breaks=tuple(np.unique((axis.at[1:] / width).round().astype(np.int64)).tolist()),
    )


def _bytes_until(
    edges: NDArray[np.float64], ended: NDArray[np.float64], spans: NDArray[np.float64], width: float
) -> NDArray[np.float64]:
    """Bytes that are through at each edge, those before the first one with the first bin.

    An image is a ramp from its begin to its end, of a bin's width at least. The sum of ramps at a time is a
    line for each that has begun, less the same line from its end on.
    """
    lasted = np.maximum(spans[:, 1], width)
    slope = spans[:, 2] / lasted
    done = _lines(edges, ended - lasted, slope) - _lines(edges, ended, slope)
    done[0] = 0.0
    done[-1] = spans[:, 2].sum()
    return np.maximum.accumulate(done)


def _lines(
    edges: NDArray[np.float64], starts: NDArray[np.float64], slope: NDArray[np.float64]
) -> NDArray[np.float64]:
    """At each edge, the sum of ``slope * (edge - start)`` of all that start before it."""
    order = np.argsort(starts)
    starts, slope = starts[order], slope[order]
    count = np.searchsorted(starts, edges)
    slopes, offsets = (np.concatenate(([0.0], np.cumsum(each))) for each in (slope, slope * starts))
    result: NDArray[np.float64] = edges * slopes[count] - offsets[count]
    return result


class _Axis(NamedTuple):
    """Stretches of time in which something was at work, one after the other."""

    began: NDArray[np.float64]
    """Of each stretch, seconds since 1970."""
    at: NDArray[np.float64]
    """Where it begins on the axis, in seconds."""
    seconds: float

    @classmethod
    def of(cls, began: NDArray[np.float64], ended: NDArray[np.float64]) -> _Axis:
        order = np.argsort(began)
        began = began[order]
        until = np.maximum.accumulate(ended[order])
        first = np.flatnonzero(np.concatenate(([True], began[1:] - until[:-1] > PAUSE)))
        last = np.append(first[1:], len(began)) - 1
        lengths = np.maximum(until[last] - began[first], SHORTEST)
        at = np.concatenate(([0.0], np.cumsum(lengths)[:-1]))
        return cls(began[first], at, float(lengths.sum()))

    def of_time(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places of times that lie within a stretch."""
        stretch = np.searchsorted(self.began, times, "right") - 1
        result: NDArray[np.float64] = times - self.began[stretch] + self.at[stretch]
        return result

    def time(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        stretch = np.searchsorted(self.at, places, "right") - 1
        result: NDArray[np.float64] = places - self.at[stretch] + self.began[stretch]
        return result
