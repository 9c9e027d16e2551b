"""PAGE_DATA (v2-stream.md 7.2, 8, 15.3; xen-restore-behaviour.md 106 to 152)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.read.records import PageData, field_offset
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.rule import Broken, Level, of_reader, rule
from xenmig_np.verification.rules.misc import length_at
from xenmig_np.wire import libxc, pages
from xenmig_np.wire.legacy import BATCH_MAX, Guest
from xenmig_np.wire.pages import PageType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
REFERENCE = Level.REFERENCE
RESERVED_BITS: Final = np.uint64(0xFF << libxc.PFN_BITS)
PFN_UNUSUAL: Final = np.uint64(1 << 28)
"""A guest of 1 TiB; the toolstack keeps a bitmap up to the highest pfn."""
PFN_ABSURD: Final = np.uint64(1 << 35)
"""That bitmap would have 8 GiB."""
XALLOC: Final = PageType.XALLOC

TABLES: Final = pages.LEGAL & ~pages.OF_HVM
"""Types of page tables, by nibble."""
BARE: Final = pages.LEGAL & ~pages.HAS_DATA
"""Types without a page."""

of_reader("V21", "v2-stream 7.2", "PAGE_DATA has a head")
of_reader("V23", "v2-stream 7.2", "PAGE_DATA has room for its words")
of_reader("V26", "v2-stream 7.2", "PAGE_DATA has a page for each word with data")


def _typed(event: PageData) -> bool:
    """Whether a word has another type than NOTAB."""
    return bool(event.bits >> libxc.PFN_TYPE_SHIFT)


def _pfn_bits(event: PageData) -> int:
    """At least the highest pfn."""
    return event.bits & ((1 << libxc.PFN_BITS) - 1)


def _words(event: PageData, wrong: NDArray[np.bool_], what: str, expected: str = "") -> Iterator[Broken]:
    """The first of the wrong words, and how many there are."""
    if number := int(np.count_nonzero(wrong)):
        first = int(wrong.argmax())
        name = str(pages.PAGE_TYPES["name"][event.types[first]])
        found = f"{what} {int(event.pfns[first]):#x} ({name})"
        others = f", and {number - 1:,} more" if number > 1 else ""
        yield Broken(event.word_offset(first), found + others, expected)


# ---- form ------------------------------------------------------------------------------------------------


@rule("V21a", ERROR, "v2-stream 15.3", "PAGE_DATA has a word", on=PageData, level=REFERENCE)
def count(event: PageData, _stream: Stream) -> Iterator[Broken]:
    if not event.count:
        yield Broken(event.body.offset, "count 0", "at least 1")


@rule("V22", WARNING, "v2-stream 7.2", "the reserved field is 0", on=PageData, level=REFERENCE)
def reserved(event: PageData, _stream: Stream) -> Iterator[Broken]:
    if event.reserved:
        at = event.body.offset + field_offset(libxc.PAGE_DATA, "reserved")
        yield Broken(at, f"{event.reserved:#x}", "0")


@rule("V24", WARNING, "v2-stream 7.2", "bits 59 to 52 of a word are 0", on=PageData, level=REFERENCE)
def reserved_bits(event: PageData, _stream: Stream) -> Iterator[Broken]:
    if event.bits & int(RESERVED_BITS):
        yield from _words(event, (event.words & RESERVED_BITS) != 0, "them set at pfn", "zeros")


@rule("V25", ERROR, "v2-stream 8", "page types are legal", on=PageData, level=REFERENCE)
def types(event: PageData, _stream: Stream) -> Iterator[Broken]:
    if _typed(event):
        yield from _words(event, ~pages.LEGAL[event.types], "an illegal type at pfn", "0 to 4, 9 to 15")


@rule("X30", WARNING, "v2-stream 8", "types are those of the guest", on=PageData)
def types_of_guest(event: PageData, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.HVM and _typed(event):
        yield from _words(event, TABLES[event.types], "a page table at pfn", "no page tables of HVM guests")


@rule("X31", WARNING, "v2-stream 7.2", "a record has at most 1024 words", on=PageData)
def batch(event: PageData, _stream: Stream) -> Iterator[Broken]:
    if event.count > BATCH_MAX:
        yield Broken(length_at(event), f"{event.count:,} words", f"at most {BATCH_MAX:,}: Xen writes no more")


# ---- pfns ------------------------------------------------------------------------------------------------


@rule("X32", WARNING, "v2-stream 15.3", "a record names a pfn once", on=PageData)
def repeated(event: PageData, _stream: Stream) -> Iterator[Broken]:
    if event.run or (event.pfns[1:] > event.pfns[:-1]).all():  # as savers write them
        return
    _, firsts = np.unique(event.pfns, return_index=True)
    if len(firsts) < event.count:
        again = np.ones(event.count, bool)
        again[firsts] = False
        yield from _words(event, again, "again pfn", "the last one wins")


@rule("X33", ERROR, "v2-stream 15.3", "pfns of a PV guest are within its p2m", on=PageData)
def beyond_p2m(event: PageData, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.PV and stream.end_pfn >= 0:
        most = f"at most {stream.end_pfn:#x}"
        yield from _words(event, event.pfns > np.uint64(stream.end_pfn), "pfn", most)


@rule("X34", ERROR, "xen-restore-behaviour 141", "pfns of an HVM guest fit an address", on=PageData)
def absurd_pfns(event: PageData, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.HVM and _pfn_bits(event) >= PFN_ABSURD:
        yield from _words(event, _absurd(event), "pfn", f"below {int(PFN_ABSURD):#x}")


@rule("X35", WARNING, "xen-restore-behaviour 139", "pfns of an HVM guest lie below 1 TiB", on=PageData)
def unusual(event: PageData, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.HVM and _pfn_bits(event) >= PFN_UNUSUAL:
        wrong = (event.pfns >= PFN_UNUSUAL) & ~_absurd(event)
        yield from _words(event, wrong, "pfn", f"below {int(PFN_UNUSUAL):#x}")


def _absurd(event: PageData) -> NDArray[np.bool_]:
    """Words that make restore look for room for a page far beyond any address."""
    populates = pages.HAS_DATA[event.types] | (event.types == XALLOC)
    absurd: NDArray[np.bool_] = populates & (event.pfns >= PFN_ABSURD)
    return absurd


# ---- words without a page --------------------------------------------------------------------------------


@rule("X36", WARNING, "v2-stream 15.3", "no word takes back a page", on=PageData)
def taken_back(event: PageData, stream: Stream) -> Iterator[Broken]:
    """XALLOC of what was only allocated so far changes nothing."""
    if _typed(event) and (bare := BARE[event.types]).any():
        allocated = (event.types == XALLOC) & (stream.last_types_of(event.pfns) == XALLOC + 1)
        wrong = bare & stream.populated.contains(event.pfns) & ~allocated
        yield from _words(event, wrong, "a type without page for pfn", "its earlier content stays")


@rule("X37", WARNING, "xen-restore-behaviour 118", "no page is broken", on=PageData)
def broken(event: PageData, stream: Stream) -> Iterator[Broken]:
    if _typed(event) and (wrong := event.types == PageType.BROKEN).any():
        holes = wrong & ~stream.populated.contains(event.pfns)
        yield from _words(event, holes, "a hole in memory at pfn")
