"""HVM parameters and the HVM context (v2-stream.md 9, legacy-stream.md 7.2)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

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
