"""Rows 210 to 265: state of PV vCPUs."""

from __future__ import annotations

from typing import Any

from behaviour.table import PV32, PV64, fine, pv, refused, resized, warned
from xenmig_np.testing import records as rec
from xenmig_np.testing.builder import ONLINE, extended
from xenmig_np.testing.fields import NOTAB, Data, le
from xenmig_np.testing.records import Page, msrs, vcpu
from xenmig_np.testing.streams import L1, L4, PV_LAST, START_INFO, Stream, basic, start_info, xsave

PLAIN = 20
BEYOND = PV_LAST + 1
BASIC, EXTENDED, XSAVE, MSRS = rec.VCPU_BASIC, rec.VCPU_EXTENDED, rec.VCPU_XSAVE, rec.VCPU_MSRS
GOOD = basic("pv64")
SECOND = (
    vcpu(BASIC, basic("pv64", start=0), id=1),
    vcpu(EXTENDED, extended(1), id=1),
    vcpu(XSAVE, xsave(), id=1),
)
"""All of vCPU 1."""
SIZE = PV64.record(BASIC).size
LARGEST = 0xFFFF_FFFF
TSC_AUX = 0xC000_0103


def state(**fields: Any) -> Stream:
    """Another basic state."""
    return PV64.instead(BASIC, vcpu(BASIC, basic("pv64", **fields)))


def unsent(**fields: Any) -> Stream:
    """The same, and one page is not sent."""
    return pv(unsent=PLAIN).instead(BASIC, vcpu(BASIC, basic("pv64", **fields)))


def cr1(pfn: int, present: int = 1) -> Stream:
    """A top table for user mode."""
    return state(user=pfn << 12 | present)


def rings(*, sent: int | None = None, **pfns: int) -> Stream:
    """The start info names other rings."""
    return pv(Page(START_INFO, NOTAB, start_info("pv64", **pfns)), unsent=sent)


NUMBERS = (
    refused(210, "vCPU 0 has no basic state", PV64.without(BASIC)),
    fine(211, "the domain has another vCPU", PV64, waiting="--vcpus 2"),
    refused(212, "vCPU 1 has a basic state, vCPU 0 none", PV64.instead(BASIC, vcpu(BASIC, GOOD, id=1))),
    warned(213, "vCPU 1 has an extended state alone", PV64.last(vcpu(EXTENDED, extended(1), id=1))),
    refused(214, "more vCPUs than the domain has", PV64.last(*SECOND), waiting="--vcpus 1"),
    refused(215, "the largest id", PV64.last(vcpu(BASIC, GOOD, id=LARGEST))),
    warned(216, "two, the first with a bad cr3", PV64.before(BASIC, vcpu(BASIC, basic("pv64", top=BEYOND)))),
    warned(217, "a record without state", PV64.last(vcpu(BASIC, id=LARGEST))),
)

BASICS = (
    refused(218, "half a head", resized(PV64, BASIC, 4)),
    refused(219, "8 bytes too few", resized(PV64, BASIC, SIZE - 8)),
    refused(220, "8 bytes too many", resized(PV64, BASIC, SIZE + 8)),
    refused(221, "64-bit guest, 32-bit state", PV64.instead(BASIC, vcpu(BASIC, basic("pv32")))),
    refused(222, "32-bit guest, 64-bit state", PV32.instead(BASIC, vcpu(BASIC, GOOD))),
    warned(223, "64-bit, before X86_PV_INFO", PV64.moved(BASIC, before=rec.PV_INFO)),
    refused(224, "32-bit, before X86_PV_INFO", PV32.moved(BASIC, before=rec.PV_INFO)),
    fine(225, "vCPUs before the pages", PV64.moved(BASIC, EXTENDED, XSAVE, before=rec.PAGE_DATA)),
    refused(226, "cr3 beyond end_pfn", state(top=BEYOND)),
    refused(227, "cr3 names a page that is not sent", unsent(top=PLAIN)),
    fine(228, "cr1 names an L4", cr1(L4)),
    refused(229, "cr1 names an L4, bit 0 is clear", cr1(L4, 0)),
    refused(230, "cr1 names a plain page", cr1(PLAIN)),
    refused(231, "cr1 beyond end_pfn", cr1(BEYOND)),
    refused(232, "in user mode without cr1", state(flags=ONLINE)),
    refused(233, "GDT beyond end_pfn", state(gdt=BEYOND)),
    refused(234, "GDT in a page table", state(gdt=L1)),
    refused(235, "7169 GDT entries", state(gdt_entries=7169)),
    fine(236, "7168 GDT entries, all frames 0", state(gdt_entries=7168, gdt=0)),
    refused(237, "GDT in a page that is not sent", unsent(gdt=PLAIN)),
    refused(238, "start info beyond end_pfn", state(start=BEYOND)),
    refused(239, "start info is a page table", state(start=L1)),
    refused(240, "start info is not sent", unsent(start=PLAIN)),
    refused(241, "xenstore ring beyond end_pfn", rings(store=99)),
    refused(242, "console ring beyond end_pfn", rings(console=99)),
    refused(243, "xenstore ring is not sent", rings(store=PLAIN, sent=PLAIN)),
    refused(244, "instruction pointer is not canonical", state(ip=1 << 47)),
)


def instead(number: int, data: Data = b"") -> Stream:
    """Another state of a kind."""
    return PV64.instead(number, vcpu(number, data))


EXTENDEDS = (
    warned(245, "no extended state", PV64.without(EXTENDED)),
    warned(246, "an empty one", instead(EXTENDED)),
    refused(247, "of 129 bytes", instead(EXTENDED, bytes(extended()) + b"\0")),
    fine(248, "of 64 bytes", instead(EXTENDED, bytes(extended())[:64])),
    fine(249, "of 32 bytes, which it says itself", instead(EXTENDED, le(0, 4) + le(32, 4) + bytes(24))),
    refused(250, "says that it has no bytes", instead(EXTENDED, bytes(128))),
    refused(251, "says that it is of vCPU 1", instead(EXTENDED, extended(1))),
)

XSAVES = (
    fine(252, "no xsave state", PV64.without(XSAVE)),
    fine(253, "an empty one", instead(XSAVE)),
    refused(254, "of 15 bytes", instead(XSAVE, bytes(15))),
    fine(255, "of 16 zero bytes", instead(XSAVE, bytes(16))),
    refused(256, "features, but no area", instead(XSAVE, xsave(area=0))),
    refused(257, "8 bytes more than the features need", instead(XSAVE, xsave(area=576 + 8))),
    refused(258, "an area of AVX for x87 and SSE", instead(XSAVE, xsave(area=832))),
    fine(259, "an area of AVX for AVX", instead(XSAVE, xsave(xcr0=7, accum=7, area=832))),
    refused(260, "xcr0 has more than xcr0_accum", instead(XSAVE, xsave(xcr0=7))),
)


def with_msrs(data: Data) -> Stream:
    """A record of MSRs."""
    return PV64.last(vcpu(MSRS, data))


MSR_LISTS = (
    fine(261, "no MSR", with_msrs(b"")),
    fine(262, "TSC_AUX", with_msrs(msrs((TSC_AUX, 1)))),
    refused(263, "20 bytes", with_msrs(msrs((TSC_AUX, 1)) + bytes(4))),
    refused(264, "an MSR that cannot be set", with_msrs(msrs((0x1234, 1)))),
    refused(265, "the reserved field is set", with_msrs(msrs((TSC_AUX, 1), reserved=1))),
)

ROWS = NUMBERS + BASICS + EXTENDEDS + XSAVES + MSR_LISTS
