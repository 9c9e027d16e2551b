"""Whether a legacy image is whole: what its reader says, and the checks of legacy-stream.md 8 and 11.1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import ExitCode, XenmigError
from xenmig_np.read.events import Chunk, StartOfBody
from xenmig_np.verification.finding import Finding, Severity
from xenmig_np.wire import pages
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from xenmig_np.errors import Note
    from xenmig_np.read.facts import Facts
    from xenmig_np.read.image import LegacyImage


@dataclass(frozen=True, slots=True)
class Seen:
    """A whole image that was read."""

    facts: Facts
    bodies: list[Counter[str]]
    """Chunks of each body, by name."""


Check = tuple[str, str, str, Callable[[Seen], Iterator[tuple[str, str]]]]
NOT_RESTORED: Final = frozenset({"legacy 8.9", "legacy 8.11", "legacy 8.12", "legacy 8.13", "legacy 8.14"})
"""Remarks of the reader on what does not stop a conversion, and that no Xen restores."""
INFORMATION: Final = frozenset({"trailing", "containers 9.1", "containers 9.4"})
"""Remarks on what is not the image's fault: a capture, a device model that later releases do not have."""


def legacy_findings(image: LegacyImage) -> tuple[list[Finding], Facts]:
    """All findings, and what the image says as far as it could be read."""
    facts = image.new_facts()
    bodies: list[Counter[str]] = [Counter()]
    found = []
    try:
        for event in image.events(facts):
            if isinstance(event, StartOfBody):
                bodies.append(Counter())
            elif isinstance(event, Chunk):
                bodies[-1][event.row.name] += 1
    except XenmigError as error:
        if error.exit_code not in {ExitCode.INVALID, ExitCode.UNSUPPORTED}:
            raise
        found.append(_of_reader(error, image))
    else:
        seen = Seen(facts, bodies)
        found += [_of_check(image, facts, row, *broken) for row in CHECKS for broken in row[-1](seen)]
    return [_of_note(note, image) for note in facts.notes.all()] + found, facts


def _of_note(note: Note, image: LegacyImage) -> Finding:
    severity = Severity.ERROR if note.rule in NOT_RESTORED else Severity.WARNING
    if note.rule in INFORMATION:
        severity = Severity.NOTE
    at = note.offset if note.offset is not None else image.carried.at
    return Finding(note.rule, severity, image.source.path, at, None, "image", note.text, "", "", note.rule)


def _of_reader(error: XenmigError, image: LegacyImage) -> Finding:
    return Finding(
        rule="L1",
        severity=Severity.ERROR,
        path=image.source.path,
        offset=error.offset if error.offset is not None else image.carried.at,
        record=None,
        item=error.item or "image",
        text="" if error.found else error.message,
        found=error.found or "",
        expected=error.expected or "",
        section="legacy-stream 1 to 7",
    )


def _of_check(image: LegacyImage, facts: Facts, row: Check, seen: str, expected: str) -> Finding:
    rule, section, text, _ = row
    at = facts.end
    return Finding(
        rule, Severity.WARNING, image.source.path, at, None, "image", text, seen, expected, section
    )


def _tables_in_hvm(seen: Seen) -> Iterator[tuple[str, str]]:
    facts = seen.facts
    if facts.shape.guest is Guest.HVM and (count := int(facts.type_counts[~pages.OF_HVM].sum())):
        yield f"{count:,} entries of page tables", "none in an HVM image"


def _vcpu_info(seen: Seen) -> Iterator[tuple[str, str]]:
    """Images of Xen 3.0, of PV guests, have none; the reader wants it in later bodies."""
    for number, chunks in enumerate(seen.bodies):
        count = chunks["vcpu_info"]
        if count > 1 or (not count and seen.facts.shape.guest is Guest.HVM):
            yield f"{count} of them{_where(seen, number)}", "one"


def _last_checkpoint(seen: Seen) -> Iterator[tuple[str, str]]:
    chunks = seen.facts.chunks
    later = ("hvm_console_pfn", "hvm_acpi_ioports_location", "toolstack")
    since_41 = any(chunks[name] for name in later)
    of_remus = len(seen.bodies) > 1 or chunks["enable_compression"]
    if since_41 and not (chunks["last_checkpoint"] or of_remus):
        yield "none", "one, unless the image is of Remus"


def _covered(seen: Seen) -> Iterator[tuple[str, str]]:
    """PV: each pfn is in a batch or in the unmapped list, but for pages that could not be mapped."""
    facts = seen.facts
    if facts.shape.guest is Guest.HVM:
        return
    missing = 0
    for at in range(0, facts.p2m_size, limits.MIB):
        pfns = np.arange(at, min(at + limits.MIB, facts.p2m_size), dtype=np.uint32)
        missing += int(np.count_nonzero((facts.last_types[pfns] == 0) & ~facts.unmapped.contains(pfns)))
    if missing > facts.dropped_words:
        yield f"{missing:,} pfns in no batch and not unmapped", f"at most {facts.dropped_words:,}"


def _only_in_the_first(seen: Seen) -> Iterator[tuple[str, str]]:
    for number, chunks in enumerate(seen.bodies[1:], 1):
        if names := [name for name in ONCE if chunks[name]]:
            yield f"{', '.join(names)}{_where(seen, number)}", "none behind the first"


def _compression(seen: Seen) -> Iterator[tuple[str, str]]:
    later = sum(chunks["enable_compression"] for chunks in seen.bodies[1:])
    if (count := seen.bodies[0]["enable_compression"]) > 1 or later:
        yield f"{count} of them, and {later} behind the first checkpoint", "one at most, in the first"


def _where(seen: Seen, number: int) -> str:
    return f" in checkpoint {number}" if len(seen.bodies) > 1 else ""


ONCE: Final = ("enable_verify_mode", "tmem", "tmem_extra", "tsc_info")
"""Chunks that no saver repeats (legacy-stream.md 1.1)."""
CHECKS: Final[tuple[Check, ...]] = (
    ("L2", "legacy-stream 11.1", "page types fit the kind of guest", _tables_in_hvm),
    ("L3", "legacy-stream 11.1", "chunk -2 stands once in a body", _vcpu_info),
    ("L4", "legacy-stream 11.1", "chunk -9 ends images since Xen 4.1", _last_checkpoint),
    ("L5", "legacy-stream 11.1", "batches and unmapped list cover the guest", _covered),
    ("L6", "legacy-stream 1.1", "chunks -1 and -5 to -7 stand in the first body", _only_in_the_first),
    ("L7", "legacy-stream 5.1", "chunk -13 stands once, in the first body", _compression),
)
"""Rule, section, what it asks for, and what of the image breaks it: (found, expected)."""
