"""Streams that break rules of verification, with the places where they do: what tests of rules share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conftest import open_file, piped

from xenmig_np.carriers.recognise import recognise
from xenmig_np.io.source import open_source
from xenmig_np.verification.engine import Verification
from xenmig_np.verification.rule import RULES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenmig_np.testing.streams import Built
    from xenmig_np.verification.finding import Finding


@dataclass(frozen=True)
class Case:
    """A stream, the rules it breaks with the parts where they are broken, and what Xen says of it."""

    text: str
    stream: Built
    broken: tuple[tuple[str, str], ...]
    xen: str

    @property
    def expected(self) -> list[tuple[str, int]]:
        """Rules and offsets, in order."""
        return sorted((rule, place(self.stream, part)) for rule, part in self.broken)


def case(text: str, stream: Built, *broken: str, xen: str = "refused") -> Case:
    """``broken``: ``rule part``, ``rule part+4``."""
    return Case(
        text, stream, tuple((rule, part) for rule, _, part in (it.partition(" ") for it in broken)), xen
    )


def taken(text: str, stream: Built, *broken: str) -> Case:
    """Xen restores it all the same."""
    return case(text, stream, *broken, xen="accepted")


def place(stream: Built, part: str) -> int:
    """Offset of a part, or of so many bytes behind its beginning."""
    name, _, more = part.partition("+")
    return stream.part(name).offset + int(more or 0)


def rules_of(*modules: str) -> frozenset[str]:
    """Rules that the modules check."""
    return frozenset(
        rule.id
        for rule in RULES.values()
        if rule.check and rule.check.__module__.rpartition(".")[2] in modules
    )


def findings(data: bytes, *, pipe: bool = False, **options: Any) -> list[Finding]:
    """All findings of a stream."""
    with (piped if pipe else open_file)(data) as fd:
        source = open_source(fd)
        carried = recognise(source)
        return list(Verification(source, carried.at, carried=carried, **options).findings())


def places(found: Iterable[Finding]) -> list[tuple[str, int]]:
    """Rules and offsets, in order."""
    return sorted((finding.rule, finding.offset) for finding in found)


def told(found: Iterable[Finding]) -> list[tuple[str, str, frozenset[str]]]:
    """Rules, severities and the releases that refuse."""
    return [(finding.rule, finding.severity.name, frozenset(finding.releases)) for finding in found]
