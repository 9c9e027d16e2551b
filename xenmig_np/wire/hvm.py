"""HVM parameters and the HVM context (v2-stream.md 9, legacy-stream.md 7.2)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np


class HvmParam(IntEnum):
    """Parameter numbers that an image or a stream can carry."""

    CALLBACK_IRQ = 0
    STORE_PFN = 1
    STORE_EVTCHN = 2
    PAE_ENABLED = 4
    IOREQ_PFN = 5
    BUFIOREQ_PFN = 6
    VIRIDIAN = 9
    TIMER_MODE = 10
    HPET_ENABLED = 11
    IDENT_PT = 12
    DM_DOMAIN = 13
    ACPI_S_STATE = 14
    VM86_TSS = 15
    VPT_ALIGN = 16
    CONSOLE_PFN = 17
    CONSOLE_EVTCHN = 18
    ACPI_IOPORTS_LOCATION = 19
    NESTEDHVM = 24
    BUFIOREQ_EVTCHN = 26
    PAGING_RING_PFN = 27
    MONITOR_RING_PFN = 28
    SHARING_RING_PFN = 29
    TRIPLE_FAULT_REASON = 31
    IOREQ_SERVER_PFN = 32
    NR_IOREQ_SERVER_PAGES = 33
    VM_GENERATION_ID_ADDR = 34
    ALTP2M = 35
    X87_FIP_WIDTH = 36
    VM86_TSS_SIZED = 37
    MCA_CAP = 38


class ContextType(IntEnum):
    """Type codes of the records in an HVM context."""

    END = 0
    HEADER = 1
    CPU = 2
    PIC = 3
    IOAPIC = 4
    LAPIC = 5
    LAPIC_REGS = 6
    PCI_IRQ = 7
    ISA_IRQ = 8
    PCI_LINK = 9
    PIT = 10
    RTC = 11
    HPET = 12
    PMTIMER = 13
    MTRR = 14
    VIRIDIAN_DOMAIN = 15
    CPU_XSAVE = 16
    VIRIDIAN_VCPU = 17
    VMCE_VCPU = 18
    TSC_ADJUST = 19
    CPU_MSR = 20


CONTEXT_RECORD: Final = np.dtype([("typecode", "<u2"), ("instance", "<u2"), ("length", "<u4")])
CONTEXT_HEADER: Final = np.dtype(
    [("magic", "<u4"), ("version", "<u4"), ("changeset", "<u8"), ("cpuid", "<u4"), ("gtsc_khz", "<u4")]
)
CONTEXT_MAGIC: Final = 0x54381286
CONTEXT_START: Final = bytes.fromhex("0100 0000 1800 0000 8612 3854")
"""How every HVM context begins: the head of HEADER and its magic (legacy-stream.md 11.1)."""

MAGIC_PARAMS: Final = (HvmParam.IOREQ_PFN, HvmParam.BUFIOREQ_PFN, HvmParam.STORE_PFN)
"""What the three u64 of the legacy HVM tail are, in their order there."""

# ---- what the hypervisor takes (v2-stream.md 9, 15.5; xen-restore-behaviour.md 285 to 325) ---------------

PARAM_INDEX_BITS: Final = 32
"""A number is cut to them on its way to the hypervisor."""
PARAMS_END: Final = 39
"""One more than the highest number that any release knows."""
PARAM_SINCE: Final[dict[int, str]] = {
    HvmParam.X87_FIP_WIDTH: "4.7",
    HvmParam.VM86_TSS_SIZED: "4.9",
    HvmParam.MCA_CAP: "4.10",
}
"""First release that takes it, where a release that restores streams refuses it."""
PARAMS_OBSOLETE: Final = frozenset(
    {HvmParam.DM_DOMAIN, 20, 21, 22, 23, HvmParam.NESTEDHVM, 25, HvmParam.BUFIOREQ_EVTCHN, 30}
)
"""Memory events and others; the hypervisor refuses to set them."""
PARAMS_UNUSED: Final = frozenset({3, 7, 8})
"""Numbers without a meaning; the hypervisor stores them."""
PARAMS_ONCE: Final = frozenset(
    {
        HvmParam.IOREQ_PFN,
        HvmParam.BUFIOREQ_PFN,
        HvmParam.VIRIDIAN,
        HvmParam.IOREQ_SERVER_PFN,
        HvmParam.NR_IOREQ_SERVER_PAGES,
        HvmParam.ALTP2M,
        HvmParam.MCA_CAP,
    }
)
"""Once one is not zero, the hypervisor refuses another value."""
PARAMS_CLEARED: Final = (
    HvmParam.STORE_PFN,
    HvmParam.IOREQ_PFN,
    HvmParam.BUFIOREQ_PFN,
    HvmParam.CONSOLE_PFN,
)
"""Restore empties the page that one of these names."""

VIRIDIAN_BASE: Final = 1
VIRIDIAN_FEATURES: Final = (1 << 13) - 1
TIMER_MODE_MAX: Final = 3
TRIPLE_FAULT_MAX: Final = 5
ALTP2M_MAX: Final = 3
MCA_CAPS: Final = 1
IOREQ_PAGES_MAX: Final = 64
TSS_SIZE: Final = 104
"""Bytes of a 32-bit TSS."""

VCPUS_MAX: Final = 128
"""vCPUs that an HVM guest can have."""
CONTEXT_VERSION: Final = 1


class ContextForm(NamedTuple):
    """A row of the table of context records: lengths without the record's head (legacy-stream.md 7.2)."""

    lengths: tuple[int, ...] = ()
    """Those that releases wrote, ascending; empty: it depends on the content."""
    grows: bool = False
    """The hypervisor fills a shorter one up with zeros."""
    instances: int = 1


CONTEXT_FORMS: Final[dict[int, ContextForm]] = {
    ContextType.HEADER: ContextForm((CONTEXT_HEADER.itemsize,)),
    ContextType.CPU: ContextForm((1016, 1024, 1032), grows=True, instances=VCPUS_MAX),
    ContextType.PIC: ContextForm((8,), instances=2),
    ContextType.IOAPIC: ContextForm((400,)),
    ContextType.LAPIC: ContextForm((16, 24), grows=True, instances=VCPUS_MAX),
    ContextType.LAPIC_REGS: ContextForm((1024,), instances=VCPUS_MAX),
    ContextType.PCI_IRQ: ContextForm((16,)),
    ContextType.ISA_IRQ: ContextForm((8,)),
    ContextType.PCI_LINK: ContextForm((8,)),
    ContextType.PIT: ContextForm((56,)),
    ContextType.RTC: ContextForm((16, 24), grows=True),
    ContextType.HPET: ContextForm((1048,)),
    ContextType.PMTIMER: ContextForm((8,)),
    ContextType.MTRR: ContextForm((240,), instances=VCPUS_MAX),
    ContextType.VIRIDIAN_DOMAIN: ContextForm((16, 24, 32), grows=True),
    ContextType.CPU_XSAVE: ContextForm(instances=VCPUS_MAX),
    ContextType.VIRIDIAN_VCPU: ContextForm((8, 16, 216), grows=True, instances=VCPUS_MAX),
    ContextType.VMCE_VCPU: ContextForm((8, 24, 32), grows=True, instances=VCPUS_MAX),
    ContextType.TSC_ADJUST: ContextForm((8,), instances=VCPUS_MAX),
    ContextType.CPU_MSR: ContextForm(instances=VCPUS_MAX),
}
CONTEXT_LENGTH_SINCE: Final[dict[tuple[int, int], str]] = {(ContextType.CPU, 1032): "4.7"}
"""First release that takes a length, where a release that restores streams refuses it."""
CONTEXT_RECORDS_MAX: Final = 1 << 13
"""Far more than all types have instances."""

CONTEXT_XSAVE: Final = np.dtype([("xfeature_mask", "<u8"), ("xcr0", "<u8"), ("xcr0_accum", "<u8")])
XSAVE_AREA_MIN: Final = 576
CONTEXT_MSRS: Final = np.dtype([("count", "<u4"), ("reserved", "<u4")])
CONTEXT_MSR: Final = np.dtype([("index", "<u4"), ("reserved", "<u4"), ("value", "<u8")])
