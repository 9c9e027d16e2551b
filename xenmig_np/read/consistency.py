"""Looks at the state of a PV guest as a whole, once its pages are known (legacy-stream.md 8, 2.5).

Guests with page tables of two levels are told apart (v2-stream.md D29); what Xen's restore will not take
is remarked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xenmig_np.read.events import EndOfBody, Vcpu
from xenmig_np.read.reading import remark
from xenmig_np.wire import pages, vcpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.read.events import AnyEvent, P2mFrames, Remark
    from xenmig_np.read.facts import Facts


def remarks(event: AnyEvent, facts: Facts) -> Iterator[Remark]:
    """What is odd about an event in the light of ``facts``, which know all that came before.

    Notes in them if the guest has page tables of two levels.
    """
    if isinstance(event, EndOfBody) and facts.info and 0 not in facts.online:
        yield remark("legacy 8.9", "vCPU 0 is offline: Xen does not restore that", event.offset)
    if isinstance(event, Vcpu):
        if event.id == facts.online[0] and facts.frames is not None:
            yield from _frames(facts.frames, facts)
        yield from _vcpu(event, facts)


def _type(facts: Facts, pfn: int) -> int | None:
    """Type of the last mention of a pfn, None without one."""
    known = int(facts.last_types[pfn]) if pfn < facts.p2m_size else 0
    return known - 1 if known else None


def _frames(event: P2mFrames, facts: Facts) -> Iterator[Remark]:
    frames: NDArray[np.unsignedinteger] = event.frames
    good = frames < facts.p2m_size
    good &= facts.last_types[np.where(good, frames, 0)] == pages.PageType.NOTAB + 1
    if bad := int(np.count_nonzero(~good)):
        first = int(np.argmin(good))
        text = f"p2m frame list: {bad:,} entries name no ordinary page, first {int(frames[first]):#x}"
        yield remark("legacy 8.14", text, event.offset + first * frames.itemsize)


def _vcpu(event: Vcpu, facts: Facts) -> Iterator[Remark]:
    if facts.info is None:
        return
    guest = facts.info.guest
    context = np.frombuffer(event.context, guest.context)[0]
    cr3 = int(context["ctrlreg"][vcpu.CR3])
    tops = top_tables(guest, cr3)
    levels = [_level(facts, pfn) for pfn in tops]
    if event.id == 0 and guest is vcpu.PV32 and 2 in levels and not _any_level(facts, 3):
        facts.two_levels = True
    if facts.two_levels:
        return
    if levels[0] != guest.levels:
        yield remark("legacy 8.13", f"vCPU {event.id}: cr3 names no L{guest.levels} page table", event.offset)
    if int(context["gdt_ents"]) > vcpu.GDT_ENTRIES_MAX:
        text = (
            f"vCPU {event.id}: {int(context['gdt_ents']):,} GDT entries, Xen takes {vcpu.GDT_ENTRIES_MAX:,}"
        )
        yield remark("legacy 8.12", text, event.offset)
    if event.id:
        return
    if _type(facts, int(context["edx"])) != pages.PageType.NOTAB:
        yield remark(
            "legacy 8.11", "vCPU 0: the start info page is no ordinary page of the image", event.offset
        )
    if guest is vcpu.PV32 and not int(context["vm_assist"]) & vcpu.VM_ASSIST_PAE_EXTENDED_CR3:
        text = "the guest does without extended cr3: its L3 tables may have to lie below 4 GiB"
        yield remark("legacy 8.15", text, event.offset)


def top_tables(guest: vcpu.PvGuest, cr3: int) -> list[int]:
    """Pfns that a cr3 may mean, the usual reading first (legacy-stream.md 7.1: PAE values are folded)."""
    if guest is vcpu.PV64:
        return [cr3 >> pages.PAGE_SHIFT]
    folded = ((cr3 >> 12) | (cr3 << 20)) & 0xFFFF_FFFF
    return [folded, cr3 >> pages.PAGE_SHIFT]


def _level(facts: Facts, pfn: int) -> int:
    kind = _type(facts, pfn)
    return int(pages.LEVEL[kind]) if kind is not None else 0


def _any_level(facts: Facts, level: int) -> bool:
    return bool(facts.last_type_counts[level == pages.LEVEL].any())
