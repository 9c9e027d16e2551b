"""libxc streams, versions 2 and 3: headers, records and their bodies (v2-stream.md 3 to 8)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from xenmig_np.wire.legacy import Guest

MARKER: Final = b"\xff" * 8
IDENT: Final = 0x58454E46
IMAGE_HEADER: Final = np.dtype(
    [
        ("marker", ">u8"),
        ("id", ">u4"),
        ("version", ">u4"),
        ("options", ">u2"),
        ("reserved1", ">u2"),
        ("reserved2", ">u4"),
    ]
)
BIG_ENDIAN_OPTION: Final = 1
VERSION_46, VERSION_414 = 2, 3


class DomainType(IntEnum):
    """Types in the domain header; 3 and 4 were defined in version 2 and never produced."""

    X86_PV = 1
    X86_HVM = 2
    X86_PVH = 3
    ARM = 4


DOMAIN_TYPE: Final = {Guest.PV: DomainType.X86_PV, Guest.HVM: DomainType.X86_HVM}
DOMAIN_HEADER: Final = np.dtype(
    [("type", "<u4"), ("page_shift", "<u2"), ("reserved", "<u2"), ("xen_major", "<u4"), ("xen_minor", "<u4")]
)
CONVERTER_MAJOR, CONVERTER_MINOR = 0, 1
"""What a converted stream says: major 0 is a converter, minor its version (v2-stream.md 19.2)."""

RECORD_HEADER: Final = np.dtype([("type", "<u4"), ("length", "<u4")])
RECORD_ALIGN: Final = 8
OPTIONAL: Final = 0x8000_0000
RECORD_MAX_46: Final = 8 << 20
RECORD_MAX_410: Final = 128 << 20


class RecordType(IntEnum):
    """libxc record numbers, the same in every numbering."""

    END = 0x00
    PAGE_DATA = 0x01
    X86_PV_INFO = 0x02
    X86_PV_P2M_FRAMES = 0x03
    X86_PV_VCPU_BASIC = 0x04
    X86_PV_VCPU_EXTENDED = 0x05
    X86_PV_VCPU_XSAVE = 0x06
    SHARED_INFO = 0x07
    X86_TSC_INFO = 0x08
    HVM_CONTEXT = 0x09
    HVM_PARAMS = 0x0A
    TOOLSTACK = 0x0B
    X86_PV_VCPU_MSRS = 0x0C
    VERIFY = 0x0D
    CHECKPOINT = 0x0E
    CHECKPOINT_DIRTY_PFN_LIST = 0x0F
    STATIC_DATA_END = 0x10
    X86_CPUID_POLICY = 0x11
    X86_MSR_POLICY = 0x12


class Record(NamedTuple):
    """A row of the table of records (v2-stream.md 6): which guests, and how the body begins."""

    type: RecordType
    guests: Guest
    head: np.dtype[np.void] | None = None


PAGE_DATA: Final = np.dtype([("count", "<u4"), ("reserved", "<u4")])
PFN_WORD: Final = np.dtype("<u8")
PFN_TYPE_SHIFT: Final = 60
PFN_BITS: Final = 52
PV_INFO: Final = np.dtype([("width", "u1"), ("levels", "u1"), ("reserved1", "<u2"), ("reserved2", "<u4")])
P2M_FRAMES: Final = np.dtype([("start_pfn", "<u4"), ("end_pfn", "<u4")])
VCPU: Final = np.dtype([("vcpu_id", "<u4"), ("reserved", "<u4")])
TSC_INFO: Final = np.dtype(
    [("mode", "<u4"), ("khz", "<u4"), ("nsec", "<u8"), ("incarnation", "<u4"), ("reserved", "<u4")]
)
HVM_PARAMS: Final = np.dtype([("count", "<u4"), ("reserved", "<u4")])
HVM_PARAM: Final = np.dtype([("index", "<u8"), ("value", "<u8")])
CPUID_LEAF: Final = np.dtype([(name, "<u4") for name in ("leaf", "subleaf", "eax", "ebx", "ecx", "edx")])
MSR_ENTRY: Final = np.dtype([("index", "<u4"), ("flags", "<u4"), ("value", "<u8")])

RECORDS: Final = (
    Record(RecordType.END, Guest.BOTH),
    Record(RecordType.PAGE_DATA, Guest.BOTH, PAGE_DATA),
    Record(RecordType.X86_PV_INFO, Guest.PV, PV_INFO),
    Record(RecordType.X86_PV_P2M_FRAMES, Guest.PV, P2M_FRAMES),
    Record(RecordType.X86_PV_VCPU_BASIC, Guest.PV, VCPU),
    Record(RecordType.X86_PV_VCPU_EXTENDED, Guest.PV, VCPU),
    Record(RecordType.X86_PV_VCPU_XSAVE, Guest.PV, VCPU),
    Record(RecordType.SHARED_INFO, Guest.PV),
    Record(RecordType.X86_TSC_INFO, Guest.BOTH, TSC_INFO),
    Record(RecordType.HVM_CONTEXT, Guest.HVM),
    Record(RecordType.HVM_PARAMS, Guest.HVM, HVM_PARAMS),
    Record(RecordType.TOOLSTACK, Guest.BOTH),
    Record(RecordType.X86_PV_VCPU_MSRS, Guest.PV, VCPU),
    Record(RecordType.VERIFY, Guest.BOTH),
    Record(RecordType.CHECKPOINT, Guest.BOTH),
    Record(RecordType.CHECKPOINT_DIRTY_PFN_LIST, Guest.BOTH),
    Record(RecordType.STATIC_DATA_END, Guest.BOTH),
    Record(RecordType.X86_CPUID_POLICY, Guest.BOTH, CPUID_LEAF),
    Record(RecordType.X86_MSR_POLICY, Guest.BOTH, MSR_ENTRY),
)
RECORD_BY_TYPE: Final = {int(row.type): row for row in RECORDS}
