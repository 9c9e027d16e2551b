"""Rows 1 to 49: good streams, headers, truncation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from behaviour.table import HVM, PV32, PV64, Cut, fine, part_of, refused, unnoticed, warned
from xenmig_np.testing import records as rec

if TYPE_CHECKING:
    from xenmig_np.testing.streams import Stream

RECORDS_AT = 40
"""Where they begin, behind both headers."""
FIRSTS = [
    (stream, part_of(stream, number, "type"))
    for stream in (HVM, PV64)
    for number in dict.fromkeys(record.number for record in stream.records)
]
"""Where the first record of each kind begins."""


def half_body(stream: Stream, number: int) -> Cut:
    """The end comes in the middle of the body of the first record of that kind."""
    return Cut(stream, part_of(stream, number, "length") + 4 + stream.record(number).size // 2)


SHORT = HVM.last(rec.record(rec.OPTIONAL | 0xB, b"abc"))
"""Its last record but one is padded."""

GOOD = (
    fine(1, "HVM, version 2", HVM),
    fine(2, "64-bit PV, version 2", PV64),
    fine(3, "32-bit PV, version 2", PV32),
    fine(4, "HVM, version 3", HVM.version3()),
    fine(5, "64-bit PV, version 3", PV64.version3()),
    fine(6, "32-bit PV, version 3", PV32.version3()),
)

HEADERS = (
    refused(7, "a file of no bytes", Cut(HVM, 0)),
    refused(8, "ten bytes of the image header", Cut(HVM, 10)),
    refused(9, "the image header alone", Cut(HVM, 24)),
    refused(10, "a part of the domain header", Cut(HVM, 34)),
    refused(11, "the headers alone", Cut(HVM, RECORDS_AT)),
    refused(12, "marker of zeros", replace(HVM, marker=0)),
    refused(13, "another ident", replace(HVM, ident=0x12345678)),
    refused(14, "ident in little-endian order", replace(HVM, ident=0x464E4558)),
    refused(15, "version 0", replace(HVM, version=0)),
    refused(16, "version 1", replace(HVM, version=1)),
    refused(17, "version 4", replace(HVM, version=4)),
    refused(18, "version 2 in little-endian order", replace(HVM, version=2 << 24)),
    refused(19, "option: a big-endian stream", replace(HVM, options=1)),
    warned(20, "an option that is not defined", replace(HVM, options=0x8000)),
    warned(21, "reserved fields of the image header not zero", replace(HVM, reserved=(1, 2))),
    warned(22, "reserved field of the domain header not zero", replace(HVM, domain_reserved=1)),
    refused(23, "HVM with page_shift 0", replace(HVM, page_shift=0)),
    refused(24, "HVM with page_shift 11", replace(HVM, page_shift=11)),
    refused(25, "HVM with page_shift 13", replace(HVM, page_shift=13)),
    refused(26, "HVM with page_shift 16", replace(HVM, page_shift=16)),
    unnoticed(27, "HVM with page_shift 44", replace(HVM, page_shift=44)),
    refused(28, "PV with page_shift 13", replace(PV64, page_shift=13)),
    refused(29, "a PV stream for an HVM domain", PV64, waiting="--domain hvm"),
    refused(30, "an HVM stream for a PV domain", HVM, waiting="--domain pv"),
    refused(31, "domain type 0", replace(HVM, type=0)),
    refused(32, "domain type 3", replace(HVM, type=3)),
    fine(33, "made by a converter", replace(HVM, xen=(0, 1))),
    fine(34, "made by Xen 99.99", replace(HVM, xen=(99, 99))),
)

TRUNCATION = (
    refused(35, "ends within a record header, of each kind", *(Cut(stream, at + 4) for stream, at in FIRSTS)),
    refused(36, "ends between two records, before each kind", *(Cut(stream, at) for stream, at in FIRSTS)),
    refused(37, "HVM: ends within PAGE_DATA", half_body(HVM, rec.PAGE_DATA)),
    refused(38, "HVM: ends within X86_TSC_INFO", half_body(HVM, rec.TSC_INFO)),
    refused(39, "HVM: ends within HVM_CONTEXT", half_body(HVM, rec.HVM_CONTEXT)),
    refused(40, "HVM: ends within HVM_PARAMS", half_body(HVM, rec.HVM_PARAMS)),
    refused(41, "PV: ends within X86_PV_INFO", half_body(PV64, rec.PV_INFO)),
    refused(42, "PV: ends within X86_PV_P2M_FRAMES", half_body(PV64, rec.P2M_FRAMES)),
    refused(43, "PV: ends within PAGE_DATA", half_body(PV64, rec.PAGE_DATA)),
    refused(44, "PV: ends within X86_TSC_INFO", half_body(PV64, rec.TSC_INFO)),
    refused(45, "PV: ends within SHARED_INFO", half_body(PV64, rec.SHARED_INFO)),
    refused(46, "PV: ends within X86_PV_VCPU_BASIC", half_body(PV64, rec.VCPU_BASIC)),
    refused(47, "PV: ends within X86_PV_VCPU_EXTENDED", half_body(PV64, rec.VCPU_EXTENDED)),
    refused(48, "PV: ends within X86_PV_VCPU_XSAVE", half_body(PV64, rec.VCPU_XSAVE)),
    refused(49, "ends where padding should be", Cut(SHORT, part_of(SHORT, rec.OPTIONAL | 0xB, "padding"))),
)

ROWS = GOOD + HEADERS + TRUNCATION
