"""What stands above the table of images: failures by reason, small tables, the figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from xenmig_np.report.texts import duration, moment, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenmig_np.report.model import Report, Row
    from xenmig_np.report.timeline import Timeline

FAILURES_SHOWN: Final = 50
"""Of each reason, in the list of failures; the table has them all."""


class Reason(NamedTuple):
    """Images that failed alike."""

    title: str
    images: int
    rows: list[Row]
    """The first of them."""


def reasons(failed: Iterable[Row]) -> list[Reason]:
    """Failures by reason, the most frequent first."""
    found: dict[str, Reason] = {}
    for row in failed:
        title = row.failure.reason if row.failure else ""
        known = found.get(title, Reason(title, 0, []))
        if len(known.rows) < FAILURES_SHOWN:
            known.rows.append(row)
        found[title] = known._replace(images=known.images + 1)
    return sorted(found.values(), key=lambda reason: -reason.images)


def tables(report: Report) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """Small tables, by title: a word, how many images, and their share."""
    found = {"Carriers": report.carriers, "Results": report.becomes}
    total = max(len(report.rows), 1)
    return [
        (title, [(word, count, count / total) for word, count in counts.items()])
        for title, counts in found.items()
        if counts
    ]


class Kinds(NamedTuple):
    """Releases downwards, kinds of guest across; the number of images, and their share of the largest."""

    guests: list[str]
    rows: list[tuple[str, list[int], int]]
    """Of each release, the counts and their sum."""
    most: int

    @classmethod
    def of(cls, kinds: dict[tuple[str, str], int]) -> Kinds:
        guests = sorted({guest for _, guest in kinds}, key=lambda guest: (not guest, guest))
        releases = sorted({release for release, _ in kinds}, key=lambda release: (not release, release))
        rows = []
        for release in releases:
            counts = [kinds.get((release, guest), 0) for guest in guests]
            rows.append((release, counts, sum(counts)))
        return cls(guests, rows, max((total for _, _, total in rows), default=1))


class Bar(NamedTuple):
    """A bin of the figure, in units of its height."""

    x: int
    height: float
    failed: int
    text: str


class Chart(NamedTuple):
    """Throughput over time, as it is drawn."""

    bars: list[Bar]
    breaks: tuple[int, ...]
    height: int
    peak: str
    text: str
    """What it shows, for who cannot see it."""

    @classmethod
    def of(cls, line: Timeline) -> Chart:
        height = 100
        scale = height / line.peak if line.peak else 0.0
        bars = [
            Bar(x, round(one.rate * scale, 2), one.failed, _told(one.began, one.rate, one.failed))
            for x, one in enumerate(line.bins)
        ]
        peak = f"{size(line.peak)}/s"
        text = f"Throughput over {duration(line.seconds)} of work, at most {peak}"
        return cls(bars, line.breaks, height, peak, text)


def _told(began: float, rate: float, failed: int) -> str:
    return f"{moment(began)}: {size(rate)}/s" + (f", {failed:,} failed" if failed else "")
