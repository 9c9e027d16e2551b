"""Rows 50 to 105: records in general, static data, order, VERIFY and CHECKPOINT."""

from __future__ import annotations

from dataclasses import replace

from behaviour.table import (
    HVM,
    PV64,
    Cut,
    all_pages,
    fine,
    part_of,
    refused,
    resized,
    unnoticed,
    warned,
)
from xenmig_np.testing import records as rec
from xenmig_np.testing.builder import extended
from xenmig_np.testing.fields import PAGE, Filled
from xenmig_np.testing.records import Record, record
from xenmig_np.testing.streams import Stream, basic, hvm_memory

MIB = 1 << 20
END, STATIC_END = Record(rec.END), Record(rec.STATIC_DATA_END)
UNKNOWN = rec.OPTIONAL | 0x99
PADDED = replace(rec.vcpu(rec.VCPU_EXTENDED, bytes(extended())[:53]), padding=b"\1\2\3")

RECORDS = (
    refused(50, "a mandatory record beyond the known ones", HVM.last(record(0x13, bytes(8)))),
    refused(51, "the last mandatory number", HVM.last(record(0x7FFF_FFFF, bytes(8)))),
    fine(52, "an optional record at the end", HVM.last(record(rec.OPTIONAL | 0x13, bytes(8)))),
    fine(53, "an optional record before the pages", HVM.first(record(rec.OPTIONAL | 0x13, bytes(8)))),
    warned(
        54,
        "PAGE_DATA with the bit of optional records",
        HVM.instead(rec.PAGE_DATA, replace(HVM.record(rec.PAGE_DATA), number=rec.OPTIONAL | rec.PAGE_DATA)),
    ),
    refused(55, "HVM with TOOLSTACK", HVM.last(record(rec.TOOLSTACK, bytes(8)))),
    refused(56, "PV with TOOLSTACK", PV64.last(record(rec.TOOLSTACK, bytes(8)))),
    refused(57, "CHECKPOINT_DIRTY_PFN_LIST", HVM.last(record(rec.DIRTY_PFNS, bytes(8)))),
    refused(58, "HVM with X86_PV_INFO", HVM.first(rec.pv_info(8, 4))),
    refused(59, "HVM with SHARED_INFO", HVM.last(record(rec.SHARED_INFO, Filled(PAGE, 0x33)))),
    refused(60, "HVM with X86_PV_VCPU_BASIC", HVM.last(rec.vcpu(rec.VCPU_BASIC, basic("pv64")))),
    refused(61, "PV with HVM_PARAMS", PV64.last(HVM.record(rec.HVM_PARAMS))),
    refused(62, "PV with HVM_CONTEXT", PV64.last(HVM.record(rec.HVM_CONTEXT))),
    warned(63, "padding of ones", HVM.last(record(UNKNOWN, b"abc", padding=b"\1\1\1\1\1"))),
    warned(64, "the same behind an extended context", PV64.instead(rec.VCPU_EXTENDED, PADDED)),
    warned(65, "END of 8 bytes", HVM.instead(rec.END, record(rec.END, bytes(8)))),
    refused(66, "END says 8 bytes and has none", HVM.instead(rec.END, replace(END, length=8))),
    warned(67, "bytes behind END", replace(HVM, trailing=b"something else")),
    warned(68, "another stream behind END", replace(HVM, trailing=HVM.to_bytes())),
    refused(69, "no END", HVM.without(rec.END)),
    refused(70, "HVM: END before all else", HVM.first(END)),
    refused(71, "PV: END before all else", PV64.first(END)),
    fine(72, "an optional record of 8 MiB", HVM.last(record(UNKNOWN, Filled(8 * MIB)))),
    fine(73, "one a little larger", HVM.last(record(UNKNOWN, Filled(8 * MIB + 8)))),
    fine(74, "one of 128 MiB", HVM.last(record(UNKNOWN, Filled(128 * MIB))), large=True),
    refused(75, "one of a byte more", HVM.last(record(UNKNOWN, Filled(128 * MIB + 1)))),
    refused(76, "a record that says 4 GiB - 1", HVM.last(replace(Record(UNKNOWN), length=0xFFFF_FFFF))),
    warned(77, "2100 pages in a record", HVM.before(rec.TSC_INFO, rec.zero_pages(0x1000, 2100))),
    warned(
        78, "32000 pages in a record", HVM.before(rec.TSC_INFO, rec.zero_pages(0x1000, 32000)), large=True
    ),
)

HVM3, PV3 = HVM.version3(), PV64.version3()
CPUID = rec.cpuid_policy((0, 0xFFFF_FFFF, 1, 0, 0, 0))
MSRS = record(rec.MSR_POLICY, rec.msrs((0xCE, 1 << 31)))

STATIC = (
    refused(79, "HVM, version 3 without STATIC_DATA_END", replace(HVM, version=3)),
    refused(80, "PV, version 3 without STATIC_DATA_END", replace(PV64, version=3)),
    warned(81, "version 2 that begins with STATIC_DATA_END", HVM.first(STATIC_END)),
    refused(82, "version 2 with STATIC_DATA_END behind pages", HVM.before(rec.TSC_INFO, STATIC_END)),
    refused(83, "version 3, it stands behind the pages", HVM3.moved(STATIC_END.number, before=rec.TSC_INFO)),
    refused(84, "PV, behind the p2m frames", PV3.moved(STATIC_END.number, before=rec.PAGE_DATA)),
    warned(85, "PV, before X86_PV_INFO", PV3.moved(STATIC_END.number, before=rec.PV_INFO)),
    refused(86, "version 3 with two", HVM3.first(STATIC_END)),
    warned(87, "version 3, with a body", resized(HVM3, STATIC_END.number, 8)),
    unnoticed(
        88, "version 3, neither pages nor STATIC_DATA_END", HVM3.without(rec.PAGE_DATA, STATIC_END.number)
    ),
    warned(89, "version 2 with X86_CPUID_POLICY", HVM.first(CPUID)),
    fine(90, "version 3 with both policies", HVM3.first(CPUID, MSRS)),
    unnoticed(91, "version 3, policy behind STATIC_DATA_END", HVM3.after(STATIC_END.number, CPUID)),
    fine(92, "PV: TSC first", PV64.moved(rec.TSC_INFO, before=rec.PV_INFO)),
    fine(
        93,
        "PV: TSC, shared info and vCPUs before the p2m frames",
        PV64.moved(
            *(rec.TSC_INFO, rec.SHARED_INFO, rec.VCPU_BASIC, rec.VCPU_EXTENDED, rec.VCPU_XSAVE),
            before=rec.P2M_FRAMES,
        ),
    ),
    fine(94, "HVM: pages at the end", HVM.moved(rec.PAGE_DATA, before=rec.END)),
    refused(95, "X86_CPUID_POLICY without leaves", HVM3.first(rec.cpuid_policy())),
    refused(96, "X86_CPUID_POLICY of 25 bytes", HVM3.first(CPUID.resized(25))),
    refused(97, "X86_MSR_POLICY of 8 bytes", HVM3.first(MSRS.resized(8))),
)

VERIFY, CHECKPOINT = Record(rec.VERIFY), Record(rec.CHECKPOINT)
OTHER = rec.page_data(*(page._replace(content=Filled(PAGE, 0xEE)) for page in hvm_memory()[:8]))
CHECKPOINTED = HVM.last(CHECKPOINT)


def verified(*records: Record) -> Stream:
    """These behind the pages, before anything rewrites them."""
    return HVM.before(rec.TSC_INFO, *records)


MODES = (
    fine(98, "VERIFY and the same pages again", verified(VERIFY, *all_pages(HVM))),
    warned(99, "VERIFY and other pages", verified(VERIFY, OTHER)),
    unnoticed(100, "VERIFY before all pages", HVM.first(VERIFY)),
    warned(101, "VERIFY with a body", verified(VERIFY.resized(8), *all_pages(HVM))),
    refused(102, "CHECKPOINT in a plain stream", CHECKPOINTED),
    fine(103, "CHECKPOINT in a checkpointed stream", CHECKPOINTED, waiting="--checkpointed"),
    warned(
        104,
        "a checkpointed stream that ends with the checkpoint",
        Cut(CHECKPOINTED, part_of(CHECKPOINTED, rec.END, "type")),
        waiting="--checkpointed",
    ),
    fine(105, "a plain stream where checkpoints are expected", HVM, waiting="--checkpointed"),
)

ROWS = RECORDS + STATIC + MODES
