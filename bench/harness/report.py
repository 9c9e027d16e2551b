"""What is told of results: a table that reads as text and as Markdown, a JSON document, a section to keep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness import cases
from harness.pairs import MIB, RATIO, spread, typical

if TYPE_CHECKING:
    from harness.cases import Check
    from harness.measuring import Result, Settings
    from harness.pairs import Spread

SCHEMA = "xenmig-np/bench"
SCHEMA_VERSION = 1
TITLES = (
    "case", "memory", "ours", "against", "wall s", "against s", "user s", "system s",
    "peak MiB", "figure", "median", "least to most", "goal", "met",
)  # fmt: skip


def memory(size: int) -> str:
    """As ``--memory`` takes it."""
    for unit, name in ((cases.GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


def name(result: Result) -> str:
    """The memory of a slope is two."""
    if result.case.slope:
        return f"{memory(result.memory // cases.SMALLER)} to {memory(result.memory)}"
    return memory(result.memory)


def number(value: float) -> str:
    """Three digits that say something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) >= 1 else 3 if abs(value) >= 0.1 else 4}f}"


def goal(check: Check, size: int) -> str:
    """In words; "" where there is none."""
    if (most := check.goal(size)) is None:
        return ""
    return f"at most {number(most)}" + (f", aim {number(check.aim)}" if check.aim else "")


# ---- table -------------------------------------------------------------------------------------------------


def rows(result: Result) -> Iterator[list[str]]:
    """A row for each figure; what belongs to the runs stands in the first."""
    ours = typical([pair.ours for pair in result.pairs])
    theirs = typical([pair.theirs for pair in result.pairs])
    times = [number(one) for one in (ours.seconds, theirs.seconds, ours.user, ours.system)]
    start = [result.case.name, name(result), result.ours, result.theirs, *times, number(ours.peak / MIB)]
    for check in result.case.checks:
        found = spread(check.figure, result.pairs)
        median = f"{number(found.median)} {check.figure.unit}".strip()
        between = f"{number(found.least)} to {number(found.most)}"
        told = [median, between, goal(check, result.memory), verdict(check, result, found)]
        yield [*start, check.figure.name, *told]
        start = [""] * len(start)


def verdict(check: Check, result: Result, found: Spread) -> str:
    """Whether the goal is met; "" if there is none, "noise" if the other side's slope is below nothing."""
    if (most := check.goal(result.memory)) is None:
        return ""
    if check.figure is RATIO and min(pair.theirs.seconds for pair in result.pairs) <= 0:
        return "noise"
    return "yes" if found.median <= most else "NO"


def absence(result: Result) -> str:
    """Why there are no runs."""
    why = f"failed: {result.failed}" if result.failed else f"skipped: {result.skipped}"
    return f"{result.case.name} {name(result)} {why}"


def table(results: Sequence[Result]) -> str:
    """All results. What has no runs stands below, in sentences."""
    lines = [list(TITLES), *(row for result in results if result.pairs for row in rows(result))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    absent = [f"- {absence(result)}" for result in results if not result.pairs]
    return "\n".join([*text, "", *absent] if absent else text)


def line(result: Result) -> str:
    """One result while others are still to come."""
    if not result.pairs:
        return absence(result)
    first, *more = rows(result)
    told = "; ".join(f"{row[9]} {row[10]} ({row[11]})" for row in (first, *more))
    return f"{first[0]}  {first[1]}: {first[4]} s against {first[5]} s; {told}"


# ---- JSON --------------------------------------------------------------------------------------------------


def document(results: Sequence[Result], settings: Settings, machine: dict[str, str], command: str) -> str:
    """Every run of every case, and the figures of the table."""
    report = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "machine": machine,
        "settings": asdict(settings),
        "results": [_result(one) for one in results],
    }
    return json.dumps(report, indent=2) + "\n"


def _result(result: Result) -> dict[str, Any]:
    case = result.case
    return {
        "case": case.name,
        "memory": result.memory,
        "guest": case.guest,
        "width": case.width,
        "slope": case.slope,
        "ours": result.ours,
        "theirs": result.theirs,
        "pairs": [asdict(pair) for pair in result.pairs],
        "figures": [_figure(check, result) for check in case.checks if result.pairs],
        "skipped": result.skipped or None,
        "failed": result.failed or None,
    }


def _figure(check: Check, result: Result) -> dict[str, Any]:
    found = spread(check.figure, result.pairs)
    return {
        "name": check.figure.name,
        "unit": check.figure.unit,
        "of_each_pair": [check.figure.of(pair) for pair in result.pairs],
        **asdict(found),
        "goal": check.goal(result.memory),
        "met": {"yes": True, "NO": False}.get(verdict(check, result, found)),
    }


# ---- RESULTS.md --------------------------------------------------------------------------------------------


def section(
    results: Sequence[Result], settings: Settings, machine: dict[str, str], command: str, day: str
) -> str:
    """A section of RESULTS.md: when, on what, how, and the table."""
    how = [
        f"{settings.pairs} pairs",
        f"zero pages {settings.zeros:.0%}",
        f"{settings.count:,} small images",
        "cold cache" if settings.cold else "warm cache",
    ]
    if settings.steady:
        how.append(f"{settings.steady / MIB:,.0f} MiB of memory held in pieces")
    told = [f"- {key}: {value}" for key, value in machine.items()] + [f"- runs: {', '.join(how)}"]
    heading = f"## {day}, {machine['file system']}"
    return "\n".join(["", heading, "", *told, "", "```sh", command, "```", "", table(results), ""])
