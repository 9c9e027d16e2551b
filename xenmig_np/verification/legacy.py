"""Whether a legacy image is whole: what its reader says, and the checks of legacy-stream.md 8 and 11.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import ExitCode, XenmigError
from xenmig_np.verification.finding import Finding, Severity
from xenmig_np.wire import pages
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenmig_np.errors import Note
    from xenmig_np.read.facts import Facts
    from xenmig_np.read.image import LegacyImage

Check = tuple[str, str, str, "Callable[[Facts], Iterator[tuple[str, str]]]"]
NOT_RESTORED: Final = frozenset({"legacy 8.9", "legacy 8.11", "legacy 8.12", "legacy 8.13", "legacy 8.14"})
"""Remarks of the reader on what does not stop a conversion, and that no Xen restores."""
INFORMATION: Final = frozenset({"trailing"})


def legacy_findings(image: LegacyImage) -> tuple[list[Finding], Facts]:
    """All findings, and what the image says as far as it could be read."""
    facts = image.new_facts()
    found = []
    try:
        for _ in image.events(facts):
            pass
    except XenmigError as error:
        if error.exit_code not in {ExitCode.INVALID, ExitCode.UNSUPPORTED}:
            raise
        found.append(_of_reader(error, image))
    else:
        found += [_of_check(image, facts, row, *broken) for row in CHECKS for broken in row[-1](facts)]
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


def _tables_in_hvm(facts: Facts) -> Iterator[tuple[str, str]]:
    if facts.shape.guest is Guest.HVM and (count := int(facts.type_counts[~pages.OF_HVM].sum())):
        yield f"{count:,} entries of page tables", "none in an HVM image"


def _vcpu_info(facts: Facts) -> Iterator[tuple[str, str]]:
    count = facts.chunks["vcpu_info"]
    if count > 1 or (not count and facts.shape.guest is Guest.HVM):
        yield f"{count} of them", "one"


def _last_checkpoint(facts: Facts) -> Iterator[tuple[str, str]]:
    later = ("hvm_console_pfn", "hvm_acpi_ioports_location", "toolstack")
    since_41 = any(facts.chunks[name] for name in later)
    if since_41 and not facts.chunks["last_checkpoint"]:
        yield "none", "one, unless the image is of Remus"


def _covered(facts: Facts) -> Iterator[tuple[str, str]]:
    """PV: each pfn is in a batch or in the unmapped list, but for pages that could not be mapped."""
    if facts.shape.guest is Guest.HVM:
        return
    missing = 0
    for at in range(0, facts.p2m_size, limits.MIB):
        pfns = np.arange(at, min(at + limits.MIB, facts.p2m_size), dtype=np.uint32)
        missing += int(np.count_nonzero((facts.last_types[pfns] == 0) & ~facts.unmapped.contains(pfns)))
    if missing > facts.dropped_words:
        yield f"{missing:,} pfns in no batch and not unmapped", f"at most {facts.dropped_words:,}"


CHECKS: Final[tuple[Check, ...]] = (
    ("L2", "legacy-stream 11.1", "page types fit the kind of guest", _tables_in_hvm),
    ("L3", "legacy-stream 11.1", "chunk -2 stands once in a body", _vcpu_info),
    ("L4", "legacy-stream 11.1", "chunk -9 ends images since Xen 4.1", _last_checkpoint),
    ("L5", "legacy-stream 11.1", "batches and unmapped list cover the guest", _covered),
)
"""Rule, section, what it asks for, and what of the image breaks it: (found, expected)."""
