"""A broken rule at a place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from xenmig_np.verification.releases import in_words


class Severity(IntEnum):
    """How bad a finding is."""

    NOTE = 0
    WARNING = 1
    """Xen takes it, but the stream breaks the format's rules, loses something, or fails in some releases."""
    ERROR = 2
    """No good guest can come out, or only by accident."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found."""

    rule: str
    severity: Severity
    path: str
    offset: int
    """Byte offset in the input."""
    record: int | None
    """Number of the record in its layer, from 0; None: no record."""
    item: str
    """Name of the record or header."""
    text: str
    """What the rule asks for."""
    found: str
    expected: str
    section: str
    """Of the specification."""
    releases: tuple[str, ...] = ()
    """Releases that refuse it, where not all are alike."""

    def __str__(self) -> str:
        number = "" if self.record is None else f" {self.record}"
        facts = ", ".join(
            part
            for part in (
                self.text,
                self.found and f"found {self.found}",
                self.expected and f"expected {self.expected}",
            )
            if part
        )
        refusing = f"; Xen {in_words(frozenset(self.releases))} refuse it" if self.releases else ""
        return f"{self.path}: {self.item}{number} at {self.offset:#x}: {facts}{refusing} [{self.rule}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "rule": self.rule,
            "severity": self.severity.name.lower(),
            "path": self.path,
            "offset": self.offset,
            "record": self.record,
            "item": self.item,
            "text": self.text,
            "found": self.found,
            "expected": self.expected,
            "section": self.section,
            "releases": list(self.releases),
        }
