"""Verifying one input from beginning to end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from xenmig_np.carriers.recognise import CARRIER_BY_NAME, recognise
from xenmig_np.errors import UsageError
from xenmig_np.io.source import Input, open_source
from xenmig_np.read.image import skip as skip_junk
from xenmig_np.verification.engine import Verification
from xenmig_np.verification.finding import Finding, Severity
from xenmig_np.verification.releases import RELEASES
from xenmig_np.verification.rule import Level

if TYPE_CHECKING:
    from xenmig_np.carriers.recognise import Carried
    from xenmig_np.io.source import Source
    from xenmig_np.verification.comparison import Comparison
    from xenmig_np.verification.memory import Progress

SCHEMA_VERSION = 1
FINDINGS_MAX = 100
"""Findings of one input that are kept, by default."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in one input."""

    path: str
    kind: str
    """``legacy image``, ``libxl stream`` or ``libxc stream``, and what carries it."""
    level: str
    release: str | None
    findings: tuple[Finding, ...]
    cut: bool
    """There are more findings than were asked for; the rest of the input was not looked at."""
    records: int
    """libxc records, or chunks and batches of a legacy image."""
    pages: int
    """Pages in the input, each copy counted."""

    def count(self, severity: Severity) -> int:
        """Findings of one severity."""
        return sum(finding.severity is severity for finding in self.findings)

    @property
    def errors(self) -> int:
        """Findings that make the input bad."""
        return self.count(Severity.ERROR)

    @property
    def warnings(self) -> int:
        """Findings that do not."""
        return self.count(Severity.WARNING)

    def good(self, *, strict: bool = False) -> bool:
        """Without errors; ``strict``: without warnings too."""
        return not (self.errors or (strict and self.warnings))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "schema": "xenmig-np/verification",
            "schema_version": SCHEMA_VERSION,
            "path": self.path,
            "kind": self.kind,
            "level": self.level,
            "release": self.release,
            "good": self.good(),
            "errors": self.errors,
            "warnings": self.warnings,
            "cut": self.cut,
            "records": self.records,
            "pages": self.pages,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def verify(  # noqa: PLR0913 - each is an option of the command
    source: Input,
    *,
    level: str = Level.RESTORE,
    release: str | None = None,
    max_findings: int = FINDINGS_MAX,
    width: int | None = None,
    guest: str | None = None,
    skip: int = 0,
) -> Report:
    """Check a v2 or v3 stream, or a legacy image, ``skip`` bytes behind the beginning.

    ``release`` is the release of Xen that must take a stream, by default any. Raises :class:`UsageError`,
    :class:`NotRecognised`, :class:`NotSupported`, :class:`InputOutputError`: what is wrong with a stream or
    image is in the report.
    """
    if release not in {None, *RELEASES}:
        raise UsageError("release", found=repr(release), expected=", ".join(RELEASES))
    if level not in set(Level):
        raise UsageError("level", found=repr(level), expected=", ".join(Level))
    with open_source(source) as opened:
        skip_junk(opened, skip)
        carried = recognise(opened)
        if carried.stream == "legacy":
            return _legacy(opened, Level(level), width, guest, max_findings)
        return _stream(opened, carried, Level(level), release, max_findings)


def compare(  # noqa: PLR0913 - as above
    stream: Input,
    original: Input,
    *,
    width: int | None = None,
    guest: str | None = None,
    skip: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a converted stream with its legacy original, contents of all pages included; both are files.

    ``width``, ``guest`` and ``skip``, bytes that precede the image, are about the original.
    The stream has to be good too. Raises as :func:`xenmig_np.verification.against.compare` does; what
    differs is in the result.
    """
    from xenmig_np.verification import against  # noqa: PLC0415 - only here, and not small

    with open_source(stream) as made, open_source(original) as old:
        skip_junk(old, skip)
        found = against.compare(made, old, width=width, guest=guest, progress=progress)
        rules = _stream(made, recognise(made), Level.RESTORE, None, FINDINGS_MAX)
    return replace(found, errors=rules.errors)


def _stream(source: Source, carried: Carried, level: Level, release: str | None, max_findings: int) -> Report:
    run = Verification(source, carried.at, level, release, carried)
    findings = tuple(islice(run.findings(), max_findings + 1))
    return Report(
        path=source.path,
        kind=f"{carried.stream} stream{_within(carried)}",
        level=level,
        release=release,
        findings=findings[:max_findings],
        cut=len(findings) > max_findings,
        records=sum(run.stream.records.values()),
        pages=run.stream.pages,
    )


def _within(carried: Carried) -> str:
    carrier = CARRIER_BY_NAME.get(carried.carrier)
    return f" in {carrier.title}" if carrier else ""


def _legacy(source: Source, level: Level, width: int | None, guest: str | None, max_findings: int) -> Report:
    from xenmig_np.options import GuestName, Width  # noqa: PLC0415 - the reader of legacy images is not small
    from xenmig_np.read.image import find  # noqa: PLC0415
    from xenmig_np.verification.legacy import legacy_findings  # noqa: PLC0415
    from xenmig_np.wire.legacy import GUEST_BY_NAME  # noqa: PLC0415

    image = find(
        source,
        width=Width(width) if width else None,
        guest=GUEST_BY_NAME[GuestName(guest)] if guest else None,
    )
    findings, facts = legacy_findings(image)
    return Report(
        path=source.path,
        kind=f"legacy image{_within(image.carried)}",
        level=level,
        release=None,
        findings=tuple(findings[:max_findings]),
        cut=len(findings) > max_findings,
        records=facts.batches + Counter(facts.chunks).total(),
        pages=facts.pages,
    )
