"""Pages of PV page tables, the only ones that are looked into (xen-restore-behaviour.md 153 to 170)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.read.records import PageData, Record
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.pagetables import NOTHING, SLICE, WRITABLE
from xenmig_np.verification.rule import Broken, rule
from xenmig_np.wire import pages
from xenmig_np.wire.legacy import Guest
from xenmig_np.wire.vcpu import PV32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
PAE_TOP_ENTRIES: Final = 4
"""All that the processor looks at in the highest table of a 32-bit guest."""
XEN_SLOT: Final = 428
"""First entry of a level 2 table of a 32-bit guest that may be the hypervisor's: nobody checks those."""
UNSENT: Final = 0xFF
"""Stands for the level of a pfn whose content the stream does not give."""


@rule("X76", ERROR, "v2-stream 15.3", "entries of page tables refer to pfns of the guest", on=PageData)
def entries_inside(event: PageData, stream: Stream) -> Iterator[Broken]:
    """Xen's restore is killed by such an entry in any copy; this is also where tables are read."""
    if stream.guest is not Guest.PV or stream.end_pfn < 0:
        return
    kept = not stream.records["VERIFY"]
    watched = len(stream.last_types)
    if beyond := stream.tables.look(stream.source, event, stream.end_pfn, watched=watched, kept=kept):
        more = f" and {beyond.count - 1:,} more like it" if beyond.count > 1 else ""
        yield Broken(
            beyond.offset, f"a present entry with pfn {beyond.pfn:#x}{more}", f"at most {stream.end_pfn:#x}"
        )


@rule("X77", WARNING, "v2-stream 15.3", "page tables refer to pages that were sent", on=Record, record="END")
def entries_sent(_event: Record, stream: Stream) -> Iterator[Broken]:
    pfns = np.flatnonzero(stream.tables.referred_at)
    lost = pfns[~stream.populated.contains(pfns)]
    if len(lost):
        more = f" and to {len(lost) - 1:,} others" if len(lost) > 1 else ""
        yield Broken(
            int(stream.tables.referred_at[lost[0]]),
            f"an entry to pfn {lost[0]:#x}{more} that never came",
            "none: restore gives the guest empty pages",
        )


@rule("X78", ERROR, "v2-stream 15.3", "tables fit each other", on=Record, record="END")
def tables_fit(_event: Record, stream: Stream) -> Iterator[Broken]:
    """A hypervisor takes no table with entries to other than tables below, or that let a table be written."""
    if stream.guest is not Guest.PV:
        return
    level_of = _levels(stream)
    pfns, numbers = stream.tables.last.tables()
    for first in range(0, len(pfns), SLICE):
        some = slice(first, first + SLICE)
        levels = level_of[pfns[some]]
        misfits = _misfits(stream, levels, stream.tables.last.rows(numbers[some]), level_of)
        if misfits.any():
            table, entry = np.argwhere(misfits)[0].tolist()
            table_pfn = int(pfns[first + table])
            to = int(stream.tables.last.rows(numbers[some])[table, entry]) & ~WRITABLE
            yield Broken(
                int(stream.tables.last_at[table_pfn]) + entry * pages.PTE.itemsize,
                f"entry {entry} of the level {levels[table]} table {table_pfn:#x}: "
                f"pfn {to:#x} of level {level_of[to]}",
                "tables of the level below, and none that can be written to",
            )
            return


def _levels(stream: Stream) -> NDArray[np.uint8]:
    """The level of each pfn by its last type: 0 a plain page, :data:`UNSENT` no content."""
    known = stream.last_types
    kinds = np.where(known, known - np.uint8(1), np.uint8(pages.PageType.XTAB))
    return np.where(pages.HAS_DATA[kinds], pages.LEVEL[kinds], np.uint8(UNSENT))


def _misfits(
    stream: Stream,
    levels: NDArray[np.uint8],
    rows: NDArray[np.uint32],
    level_of: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """Entries that no hypervisor takes, shape (tables, 512); ``levels`` of the tables, shape (tables,)."""
    named = rows != NOTHING
    to = np.where(named, level_of[np.where(named, rows & ~np.uint32(WRITABLE), 0)], np.uint8(UNSENT))
    writable = named & (rows & np.uint32(WRITABLE) != 0)
    named &= to != UNSENT
    above = levels[:, None]
    itself = (to == above) & ~writable  # a linear page table
    if stream.width == PV32.width:
        named[levels == PV32.levels, PAE_TOP_ENTRIES:] = False
        named[levels == PV32.levels - 1, XEN_SLOT:] = False
    named &= (above > 0) & (above != UNSENT)
    misfits: NDArray[np.bool_] = named & np.where(above > 1, (to != above - 1) & ~itself, writable & (to > 0))
    return misfits


@rule("X79", WARNING, "v2-stream 7.3", "a 32-bit guest has no level 4 tables", on=PageData)
def tables_of_32_bit(event: PageData, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.PV and stream.width == PV32.width:
        at = np.flatnonzero(pages.LEVEL[event.types] > PV32.levels)
        if len(at):
            yield Broken(event.word_offset(int(at[0])), f"{len(at):,} words of level 4", "levels 1 to 3")
