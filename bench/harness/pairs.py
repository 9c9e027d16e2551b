"""Pairs of runs: a machine is fast or slow by turns, so only what ran side by side is compared.

Runs are interleaved and who goes first takes turns: A B, B A, A B. Every figure is made of one pair, and of
the figures the median counts, never a ratio of medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.processes import Usage

MIB = 1 << 20


@dataclass(frozen=True)
class Pair:
    """Two runs that stood next to each other."""

    ours: Usage
    theirs: Usage


def interleaved(ours: Callable[[], Usage], theirs: Callable[[], Usage], count: int, warm: int) -> list[Pair]:
    """``count`` pairs of runs, behind ``warm`` pairs that do not count: caches fill, bytecode is written."""
    pairs = []
    for number in range(warm + count):
        if number % 2:
            second = theirs()
            first = ours()
        else:
            first = ours()
            second = theirs()
        pairs.append(Pair(first, second))
    return pairs[warm:]


@dataclass(frozen=True)
class Figure:
    """A number that each pair gives."""

    name: str
    unit: str
    of: Callable[[Pair], float]


RATIO = Figure("wall, ratio", "", lambda pair: pair.ours.seconds / pair.theirs.seconds)
USER = Figure("user beyond", "s", lambda pair: pair.ours.user - pair.theirs.user)
PEAK = Figure("peak", "MiB", lambda pair: pair.ours.peak / MIB)
BEYOND = Figure("wall beyond, each", "ms", lambda pair: 1000 * (pair.ours.seconds - pair.theirs.seconds))
RATE = Figure("images per second", "", lambda pair: 1 / pair.ours.seconds)


@dataclass(frozen=True)
class Spread:
    """What the figures of some pairs come to."""

    median: float
    least: float
    most: float


def spread(figure: Figure, pairs: Sequence[Pair]) -> Spread:
    values = [figure.of(pair) for pair in pairs]
    return Spread(statistics.median(values), min(values), max(values))


def typical(runs: Sequence[Usage]) -> Usage:
    """The median of each number by itself; of memory the most."""
    return Usage(
        statistics.median(one.seconds for one in runs),
        statistics.median(one.user for one in runs),
        statistics.median(one.system for one in runs),
        max(one.peak for one in runs),
    )
