"""From the lines of manifests to what a report says.

A manifest of any length is read line by line. What stays is a row of some 500 bytes for each image, whose
words that come again are one object; counts, runs and warnings are few.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from xenmig_np.batch.manifest import InvalidManifest, lines
from xenmig_np.batch.result import Result, Status
from xenmig_np.report.model import STREAM, Failure, Report, Row, Run, Warned
from xenmig_np.report.timeline import Span, timeline

if TYPE_CHECKING:
    from collections.abc import Iterable

TEXT_MAX: Final = 1000
"""Characters of a reason; a name can be 4096 long, and stands in its own column."""
RULES_MAX: Final = 1000
"""Kinds of warnings that are told apart; the specification has some hundred."""
BYTES_MAX: Final = 1 << 63
SECONDS_MAX: Final = 250_000_000_000
"""A time of the year 9892: later ones are no dates."""
UNTOLD: Final[dict[str, Any]] = {
    "host": "",
    "tool": "",
    "began": 0.0,
    "jobs": None,
    "seconds": None,
    "ended": "",
    "done_before": None,
    "others": {},
}
"""Facts of a run that no line tells."""


def read_report(manifests: Iterable[str]) -> Report:
    """The report on some manifests; of an image that was tried again the last result counts.

    Raises as :func:`xenmig_np.batch.manifest.lines`.
    """
    seen = _Seen()
    for path in manifests:
        for number, line in enumerate(lines(path), 1):
            try:
                seen.line(line)
            except (TypeError, ValueError, AttributeError, KeyError) as error:
                raise InvalidManifest(path=path, item=f"line {number}", found=str(error)[:200]) from error
    return seen.report()


@dataclass(slots=True)
class _Seen:
    """What the lines have said so far."""

    rows: dict[str, Row] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts of the first and the last line."""
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    bytes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """Texts of warnings, by rule."""
    same: dict[Any, Any] = field(default_factory=dict)
    """One object for all that are equal."""

    def line(self, line: dict[str, Any]) -> None:
        """Raises TypeError, ValueError and the like for values that no release writes."""
        match line["event"]:
            case "run":
                self.runs.setdefault(_text(line["run"]), {}).update(_run_facts(line))
            case "end":
                self.runs.setdefault(_text(line["run"]), {}).update(_end_facts(line))
            case "image":
                self._image(Result.from_dict(line))

    def _image(self, result: Result) -> None:
        path = _text(result.input)
        row = self._row(result)
        known = self.rows.get(path)
        if known is None or (known.attempt, known.began + known.seconds) <= (
            row.attempt,
            row.began + row.seconds,
        ):
            self.rows[path] = row
        run = self._one(_text(result.run))
        facts = self.runs.setdefault(run, {})
        facts.setdefault("host", self._one(_text(result.host)))
        facts.setdefault("tool", self._one(_text(result.tool)))
        facts["began"] = min(facts.get("began", math.inf), row.began)
        self.counts[run][row.status] += 1
        self.bytes[run] += row.input_bytes or 0

    def _row(self, result: Result) -> Row:
        image, stream = result.image or {}, result.stream or {}
        folder, name = os.path.split(_text(result.input))
        status = str(Status(result.status))
        legacy = status in {Status.CONVERTED, Status.FAILED}
        words = [
            status,
            folder,
            _text(image.get("guest")),
            _text(image.get("saved_by")) if legacy else STREAM,
            _text(image.get("carrier")),
            ", ".join(_text(stream[word]) for word in ("target", "format") if word in stream),
        ]
        status, folder, guest, release, carrier, becomes = map(self._one, words)
        return Row(
            status=status,
            folder=folder,
            name=name,
            guest=guest,
            release=release,
            carrier=carrier,
            title=_text(image.get("name")),
            becomes=becomes,
            input_bytes=_whole(result.input_bytes),
            output_bytes=_whole(result.output_bytes),
            began=_seconds(result.began),
            seconds=_seconds(result.seconds),
            attempt=_whole(result.attempt) or 1,
            proven=bool(result.proven),
            warnings=self._one(tuple(map(self._warned, result.warnings))),
            failure=self._failure(result) if status == Status.FAILED else None,
        )

    def _warned(self, warning: dict[str, Any]) -> str:
        rule = _text(warning["rule"])
        if rule not in self.examples and len(self.examples) >= RULES_MAX:
            rule = "others"
        self.examples.setdefault(rule, _text(warning["text"])[:TEXT_MAX])
        return str(self._one(rule))

    def _failure(self, result: Result) -> Failure:
        error = result.error or {}
        text = _text(error.get("message")).removeprefix(f"{_text(result.input)}: ")
        return Failure(
            reason=self._one(in_words(_text(error.get("class")))),
            text=text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]} …",
            offset=_whole(error.get("offset")),
            hint=self._one(_text(error.get("hint"))[:TEXT_MAX]),
        )

    def _one(self, value: Any) -> Any:  # noqa: ANN401 - the same as is given
        return self.same.setdefault(value, value)

    def report(self) -> Report:
        rows = tuple(sorted(self.rows.values(), key=lambda row: row.order))
        made = [row for row in rows if row.status in {Status.CONVERTED, Status.COPIED}]
        warned = Counter(rule for row in rows for rule in set(row.warnings))
        return Report(
            rows=rows,
            statuses=_by_count(row.status for row in rows),
            proven=sum(row.proven for row in rows),
            input_bytes=sum(row.input_bytes or 0 for row in made),
            output_bytes=sum(row.output_bytes or 0 for row in made),
            timeline=timeline(
                [Span(row.began, row.seconds, row.input_bytes or 0) for row in made],
                [Span(row.began, row.seconds, 0) for row in rows if row.failure],
            ),
            kinds=_by_count((row.release, row.guest) for row in rows),
            carriers=_by_count(row.carrier for row in rows if row.carrier),
            becomes=_by_count(row.becomes for row in rows if row.becomes),
            warnings=tuple(
                Warned(rule, images, self.examples[rule]) for rule, images in warned.most_common()
            ),
            runs=tuple(sorted((self._run(run) for run in self.runs), key=lambda run: run.began)),
        )

    def _run(self, run: str) -> Run:
        counts = self.counts[run]
        return Run(
            run=run,
            images=counts.total(),
            failed=counts[Status.FAILED],
            bytes=self.bytes[run],
            **(UNTOLD | self.runs[run]),
        )


def _by_count(values: Iterable[Any]) -> dict[Any, int]:
    return dict(Counter(values).most_common())


def _run_facts(line: dict[str, Any]) -> dict[str, Any]:
    return {
        "host": _text(line.get("host")),
        "tool": _text(line.get("tool")),
        "began": _seconds(line.get("began", 0)),
        "jobs": _whole(line.get("jobs")),
        "done_before": _whole(line.get("done_before")),
        "others": {_text(kind): _whole(count) or 0 for kind, count in line.get("others", {}).items()},
        "ended": "not ended",
    }


def _end_facts(line: dict[str, Any]) -> dict[str, Any]:
    if line.get("cut_off"):
        return {"ended": "cut off"}
    stopped = _text(line.get("stopped"))
    return {"ended": f"stopped: {stopped}" if stopped else "to its end", "seconds": _seconds(line["seconds"])}


def in_words(name: str) -> str:
    """``TruncatedImage``: ``truncated image``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower() or "not told"


def _text(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold, here and below
    if not isinstance(value, str | None):
        raise TypeError(f"{value!r:.80} is no text")
    return value or ""


def _whole(value: Any) -> int | None:  # noqa: ANN401
    if value is None or (type(value) is int and 0 <= value < BYTES_MAX):
        return value
    raise ValueError(f"{value!r:.80} is no count")


def _seconds(value: Any) -> float:  # noqa: ANN401
    if type(value) in {int, float} and 0 <= value < SECONDS_MAX:
        return float(value)
    raise ValueError(f"{value!r:.80} is no time")
