"""What a comparison found: differences, what was left out on purpose, and what to do about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from xenmig_np.errors import Note

SCHEMA_VERSION: Final = 1
PAGES: Final = frozenset(
    {
        "page",
        "page type",
        "missing page",
        "extra page",
        "given-back page",
        "page of the verify pass",
    }
)
"""Subjects that a pfn names."""


class Subject(NamedTuple):
    """A piece of a guest's state."""

    what: str
    which: int | str | None = None
    """Pfn, id of a vCPU, number of a parameter, key; None: there is one only."""

    def __str__(self) -> str:
        if self.which is None:
            return self.what
        return f"{self.what} {self.which:#x}" if self.what in PAGES else f"{self.what} {self.which}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where the stream does not say what the original says."""

    what: str
    which: int | str | None
    """As in :class:`Subject`."""
    offset: int | None
    """In the stream: of the first byte that differs, or of what it belongs to; None: it has no such thing."""
    original_offset: int | None
    found: str
    expected: str

    def __str__(self) -> str:
        places = [
            f"{where} {at:#x}"
            for where, at in (("at", self.offset), ("in the original at", self.original_offset))
            if at is not None
        ]
        place = " ".join([str(Subject(self.what, self.which)), ", ".join(places)]).strip()
        return f"{place}: found {self.found}, expected {self.expected}"


class Differences:
    """Differences, the first ``most`` of them word for word; the rest is counted."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.kept: list[Difference] = []
        self.counts: Counter[str] = Counter()

    @property
    def room(self) -> int:
        return max(self.most - len(self.kept), 0)

    def tell(
        self, subject: Subject, offsets: tuple[int | None, int | None], found: str, expected: str
    ) -> None:
        """Note one; ``offsets`` in the stream and in the original."""
        if self.room:
            self.kept.append(Difference(*subject, *offsets, found, expected))
        self.counts[subject.what] += 1

    def count(self, what: str, more: int) -> None:
        """Note some of which nothing else is kept."""
        if more:
            self.counts[what] += more


@dataclass(frozen=True, slots=True)
class Comparison:
    """A converted stream beside its original."""

    path: str
    original: str
    guest: str
    """``hvm``, ``pv64`` or ``pv32``: what the original holds."""
    pages: int
    """Pages whose contents were compared."""
    vcpus: int
    identical: dict[str, int]
    """How many of each other thing are the same."""
    differences: tuple[Difference, ...]
    """The first of them."""
    counts: dict[str, int]
    """All of them, by what differs."""
    left_out: tuple[Note, ...]
    """What a rule of the conversion or the format leaves out, and no guest misses."""
    missing: tuple[str, ...]
    """What the guest needs and the stream's format cannot say, or its file does not."""
    errors: int = 0
    """Places where the stream breaks a rule of verification, so that no Xen takes it."""
    broken: str | None = None
    """Why the stream could not be read to its end; nothing was compared then."""

    @property
    def complete(self) -> bool:
        """Whether nothing of the guest is missing."""
        return not (self.missing or self.broken)

    @property
    def deletable(self) -> bool:
        """Whether the original says nothing that the stream does not say as well."""
        return self.complete and not (self.counts or self.errors)

    @property
    def verdict(self) -> str:
        """What to do with the original, in one sentence."""
        if self.deletable:
            return f"the original can be deleted: {', '.join(self._same())} identical"
        reasons = []
        if self.broken:
            reasons.append(f"the stream cannot be read to its end: {self.broken}")
        if self.counts:
            reasons.append(f"not the same: {', '.join(_several(self.counts))}; the first: {self._first()}")
        if self.errors:
            reasons.append(f"places of the stream that break a rule of verification: {self.errors}")
        if self.missing:
            rest = "" if self.counts else "what the stream holds is identical, but "
            reasons.append(f"{rest}it lacks {' and '.join(self.missing)}")
        return f"do not delete the original: {'; '.join(reasons)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "schema": "xenmig-np/comparison",
            "schema_version": SCHEMA_VERSION,
            **asdict(self),
            "complete": self.complete,
            "deletable": self.deletable,
            "verdict": self.verdict,
        }

    def _same(self) -> list[str]:
        main = {"page": self.pages, "vCPU": self.vcpus}
        rest = {what: count for what, count in self.identical.items() if not what.startswith("vCPU")}
        return _several(main, single=True) + _several(rest)

    def _first(self) -> str:
        return str(self.differences[0]) if self.differences else "not kept"


def _several(counts: dict[str, int], *, single: bool = False) -> list[str]:
    """``3 pages``, ``HVM context``; ``single``: ``1 page`` too."""
    return [
        what if count == 1 and not single else f"{count} {what}{'' if count == 1 else 's'}"
        for what, count in counts.items()
    ]
