"""Rows 266 to 325: SHARED_INFO, X86_TSC_INFO, HVM_CONTEXT and HVM_PARAMS."""

from __future__ import annotations

from behaviour.table import HVM, PV64, fine, refused, resized, unnoticed, warned
from xenmig_np.testing import records as rec
from xenmig_np.testing.fields import PAGE, Filled, le
from xenmig_np.testing.pieces import ContextRecord
from xenmig_np.testing.records import Record, hvm_context, hvm_params, record, tsc_info
from xenmig_np.testing.streams import CONTEXT, CPU_SIZE, IOREQ, PARAMS, STORE, Stream

SHARED, TSC, CONTEXTS, PARAM = rec.SHARED_INFO, rec.TSC_INFO, rec.HVM_CONTEXT, rec.HVM_PARAMS


def tsc(mode: int = 0, khz: int = 2_000_000, reserved: int = 0) -> Stream:
    """Another X86_TSC_INFO."""
    return HVM.instead(TSC, tsc_info(mode, khz, reserved=reserved))


SHARED_INFO = (
    unnoticed(266, "no SHARED_INFO", PV64.without(SHARED)),
    refused(267, "8 bytes too few", resized(PV64, SHARED, PAGE - 8)),
    refused(268, "two pages", resized(PV64, SHARED, 2 * PAGE)),
    warned(269, "twice", PV64.last(record(SHARED, Filled(PAGE, 0x44)))),
    refused(270, "before X86_PV_INFO", PV64.moved(SHARED, before=rec.PV_INFO)),
    fine(273, "before the pages", PV64.moved(SHARED, before=rec.PAGE_DATA)),
)

TSC_INFO = (
    warned(271, "HVM without X86_TSC_INFO", HVM.without(TSC)),
    warned(272, "PV without X86_TSC_INFO", PV64.without(TSC)),
    warned(274, "twice", HVM.last(tsc_info())),
    fine(275, "first of all", HVM.moved(TSC, before=rec.PAGE_DATA)),
    refused(276, "16 bytes", resized(HVM, TSC, 16)),
    refused(277, "20 bytes", resized(HVM, TSC, 20)),
    refused(278, "32 bytes", resized(HVM, TSC, 32)),
    fine(279, "mode 1", tsc(1)),
    fine(280, "mode 2", tsc(2)),
    refused(281, "mode 3", tsc(3)),
    refused(282, "mode 9", tsc(9)),
    warned(283, "the reserved field is set", tsc(reserved=1)),
    fine(284, "0 kHz", tsc(khz=0)),
)

HEADER, CPU, CONTEXT_END = CONTEXT
OLD_HEADER = ContextRecord(1, le(0x5438_1286, 4) + le(2, 4) + bytes(16))
GARBAGE = record(CONTEXTS, Filled(100, 0xEE))


def context(*entries: ContextRecord) -> Stream:
    """Another HVM_CONTEXT."""
    return HVM.instead(CONTEXTS, hvm_context(*entries))


def followed(size: int) -> Stream:
    """HVM_CONTEXT of that size, with garbage behind its end entry."""
    good = HVM.record(CONTEXTS)
    return HVM.instead(CONTEXTS, Record(CONTEXTS, (*good.body, ("behind", Filled(size - good.size, 0xEE)))))


HVM_CONTEXT = (
    refused(285, "none", HVM.without(CONTEXTS)),
    refused(286, "no body", HVM.instead(CONTEXTS, record(CONTEXTS, b""))),
    warned(287, "two, the first of garbage", HVM.before(CONTEXTS, GARBAGE)),
    fine(288, "before the pages", HVM.moved(CONTEXTS, before=rec.PAGE_DATA)),
    refused(289, "of garbage", HVM.instead(CONTEXTS, GARBAGE)),
    refused(290, "no end entry", context(HEADER, CPU)),
    refused(291, "version 2", context(OLD_HEADER, CPU, CONTEXT_END)),
    fine(292, "8 zero bytes behind the end entry", context(*CONTEXT, CONTEXT_END)),
    warned(293, "8 KiB, garbage behind the end entry", followed(8192)),
    refused(
        294, "an entry longer than the rest", context(HEADER, ContextRecord(2, Filled(8), length=CPU_SIZE))
    ),
    refused(295, "an entry of kind 30", context(HEADER, ContextRecord(30, bytes(8)), CPU, CONTEXT_END)),
    refused(
        296,
        "state of a vCPU that the domain does not have",
        context(HEADER, CPU, ContextRecord(2, CPU.data, instance=1), CONTEXT_END),
        waiting="--vcpus 1",
    ),
    fine(297, "a shorter CPU entry", context(HEADER, ContextRecord(2, Filled(1024)), CONTEXT_END)),
    refused(298, "a shorter LAPIC_REGS", context(HEADER, CPU, ContextRecord(6, Filled(1000)), CONTEXT_END)),
)


def params(*pairs: tuple[int, int], count: int | None = None, reserved: int = 0) -> Stream:
    """Another HVM_PARAMS."""
    return HVM.instead(PARAM, hvm_params(*pairs, count=count, reserved=reserved))


def added(*pairs: tuple[int, int]) -> Stream:
    """More parameters behind the good ones."""
    return params(*PARAMS, *pairs)


def with_store(index: int, value: int) -> Stream:
    """Another parameter in place of STORE_PFN."""
    return params((index, value), *PARAMS[1:])


HVM_PARAMS = (
    unnoticed(299, "none", HVM.without(PARAM)),
    refused(300, "no body", HVM.instead(PARAM, record(PARAM, b""))),
    warned(301, "a record of no parameters", HVM.last(hvm_params())),
    refused(302, "the count is too high", params(*PARAMS, count=9)),
    refused(303, "the count is too low", params(*PARAMS, count=2)),
    warned(304, "the reserved word is set", params(*PARAMS, reserved=1)),
    refused(305, "a count of 2^28 and nothing more", params(count=1 << 28)),
    refused(306, "a parameter beyond the last", added((39, 1))),
    unnoticed(307, "2^32 added to the index of STORE_PFN", with_store(1 << 32 | 1, STORE)),
    fine(308, "PAE_ENABLED", added((4, 1))),
    refused(309, "MEMORY_EVENT parameters", *(added((index, 1)) for index in (20, 21, 22, 23, 25, 30))),
    refused(310, "NESTEDHVM", added((24, 0))),
    refused(311, "BUFIOREQ_EVTCHN", added((26, 3))),
    refused(312, "DM_DOMAIN", added((13, 0))),
    warned(313, "a parameter without a meaning", added((3, 1))),
    warned(314, "TIMER_MODE twice with two values", added((10, 2))),
    refused(315, "IOREQ_PFN twice with two values", added((5, IOREQ + 1))),
    fine(316, "the record twice", HVM.last(hvm_params(*PARAMS))),
    fine(317, "in two records", HVM.instead(PARAM, hvm_params(*PARAMS[:3]), hvm_params(*PARAMS[3:]))),
    refused(318, "TIMER_MODE 4", added((10, 4))),
    refused(319, "VIRIDIAN without the bit that all else needs", added((9, 2))),
    refused(320, "ACPI_S_STATE 4", added((14, 4))),
    fine(321, "ACPI_IOPORTS_LOCATION 1", added((19, 1))),
    refused(322, "VM86_TSS at 4 GiB", added((15, 1 << 32))),
    unnoticed(323, "STORE_PFN names a page that is not there", with_store(1, STORE + 0x100)),
    warned(324, "before the pages", HVM.moved(PARAM, before=rec.PAGE_DATA)),
    warned(325, "IOREQ_PFN alone", params((5, IOREQ))),
)

ROWS = SHARED_INFO + TSC_INFO + HVM_CONTEXT + HVM_PARAMS
