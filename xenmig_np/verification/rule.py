"""The table of rules: each a small function over one kind of event, with its number, severity and section.

A rule yields :class:`Broken` for each place that breaks it. It sees the state of the stream *before* its
event (:class:`xenmig_np.verification.state.Stream`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from types import UnionType
from typing import TYPE_CHECKING, Any, Final

from xenmig_np.verification.finding import Severity

if TYPE_CHECKING:
    from xenmig_np.verification.releases import Releases
    from xenmig_np.verification.state import Stream


class Level(StrEnum):
    """How much is checked."""

    REFERENCE = "reference"
    """What Xen's verify-stream-v2 checks, its defects mended (reference-tools.md 9)."""
    RESTORE = "restore"
    """And everything that a released Xen would refuse or misread."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A place that breaks a rule."""

    offset: int
    found: str
    expected: str = ""
    refused_by: Releases | None = None
    """Releases that refuse it, where it depends on them; the severity follows from it."""


Check = Callable[[Any, Any], Iterator[Broken]]
"""Of (event, stream)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table."""

    id: str
    severity: Severity
    """At level restore."""
    section: str
    text: str
    """What it asks for."""
    on: type | UnionType | None
    """The kind of event that it looks at; None: raised by the reader, or found by the engine."""
    record: str | None
    """Name of the records that it looks at; None: all of that kind."""
    check: Check | None
    level: Level
    """From which level on it is checked; at level reference every broken rule is an error."""


RULES: Final[dict[str, Rule]] = {}
"""By id, in the order of their modules."""


def rule(  # noqa: PLR0913 - the columns of the table
    number: str,
    severity: Severity,
    section: str,
    text: str,
    *,
    on: type | UnionType,
    record: str | None = None,
    level: Level = Level.RESTORE,
) -> Callable[[Check], Check]:
    """Enter a function into the table."""

    def enter(check: Check) -> Check:
        _add(Rule(number, severity, section, text, on, record, check, level))
        return check

    return enter


def of_reader(
    number: str, section: str, text: str, severity: Severity = Severity.ERROR, level: Level = Level.REFERENCE
) -> None:
    """Enter a rule that the reader or the engine finds broken."""
    _add(Rule(number, severity, section, text, None, None, None, level))


def _add(row: Rule) -> None:
    if row.id in RULES:
        raise ValueError(f"rule {row.id} is in the table already")
    RULES[row.id] = row


class Chosen:
    """The rules of a level, by the kind of event that they look at."""

    def __init__(self, level: Level) -> None:
        self._rules = [row for row in RULES.values() if row.check and row.level in {Level.REFERENCE, level}]
        self._by_kind: dict[tuple[type, str | None], list[tuple[Rule, Check]]] = {}

    def run(self, event: object, stream: Stream) -> Iterator[tuple[Rule, Broken]]:
        """What the event breaks."""
        kind = (type(event), getattr(event, "name", None))
        if (rules := self._by_kind.get(kind)) is None:
            rules = self._by_kind[kind] = list(self._for(*kind))
        for row, check in rules:
            for broken in check(event, stream):
                yield row, broken

    def _for(self, kind: type, name: str | None) -> Iterator[tuple[Rule, Check]]:
        for row in self._rules:
            if row.check and row.on and issubclass(kind, row.on) and row.record in {None, name}:
                yield row, row.check
