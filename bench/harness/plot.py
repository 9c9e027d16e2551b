"""A plot of the ratios: for each case the median, the range of its pairs, and the goal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness import report
from harness.pairs import RATIO, spread

if TYPE_CHECKING:
    from harness.measuring import Result
    from harness.pairs import Spread

INK, GOAL, EVEN = "#1f4e79", "#c0392b", "#888888"


def plot(results: Sequence[Result], path: str) -> str:
    """Draw into a file, whose name says the format; returns what stands in the way, or "".

    matplotlib comes only now: while it measures, this process has to stay small.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - see above
    except ImportError:
        return "no plot: matplotlib is not installed"
    drawn = list(_ratios(results))
    if not drawn:
        return "no plot: no ratio was measured"
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    for at, (_, found, goal) in enumerate(drawn):
        axes.plot([found.least, found.most], [at, at], color=INK, linewidth=2, alpha=0.4)
        axes.plot(found.median, at, "o", color=INK)
        axes.plot(goal, at, "|", color=GOAL, markersize=12, markeredgewidth=2)
    axes.plot([], [], "o", color=INK, label="median of pairs")
    axes.plot([], [], "|", color=GOAL, markersize=12, markeredgewidth=2, label="goal: at most")
    axes.axvline(1, color=EVEN, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("wall-clock time, ratio pair by pair (less is faster)")
    axes.set_yticks(range(len(drawn)), [label for label, _, _ in drawn], fontsize=8)
    axes.invert_yaxis()
    axes.legend(loc="best", fontsize=8)
    figure.savefig(path)
    return ""


def _ratios(results: Sequence[Result]) -> Iterator[tuple[str, Spread, float]]:
    """Name, ratios and goal, which is not a number if there is none. What took no time is not on the axis."""
    for result in results:
        for check in result.case.checks if result.pairs else ():
            found = spread(check.figure, result.pairs)
            if check.figure is RATIO and found.median > 0:
                goal = check.goal(result.memory)
                yield f"{result.case.name}  {report.name(result)}", found, math.nan if goal is None else goal
