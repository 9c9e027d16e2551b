"""A synthetic HVM guest as libxl of Xen 4.5 lays it out, with its context and device model.

See legacy-stream.md 3 (parameters), 3.1 (toolstack), 7.2 and 7.3 (tail).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from xenmig_np.sample.memory import Guest, noise
from xenmig_np.sample.processors import VCPUS, XCR0, XSAVE_SIZE, xsave
from xenmig_np.wire import hvm, legacy, qemu
from xenmig_np.wire.hvm import ContextType, HvmParam
from xenmig_np.wire.pages import PAGE_SHIFT, PAGE_SIZE

VGA_HOLE: Final = (0xA0, 0xC0)
DEVICES: Final = 0xF0000
"""Memory ends here and goes on at 4 GiB; between lie video memory, firmware and special pages."""
HIGH_MEMORY: Final = 0x100000
VIDEO_MAX: Final = (8 << 20) // PAGE_SIZE
FIRMWARE: Final = (0xFC000, 0xFC008)
SPECIAL: Final = (0xFEFF0, 0xFF000)
"""Eight pages for I/O servers, then those of the parameters below."""
PAGES_MAX: Final = (1 << 28) - 1 - (HIGH_MEMORY - DEVICES)
"""Savers refuse a p2m_size above 28 bits (legacy-stream.md 2.1)."""

IOREQ_SERVERS: Final = 8
PARAMETERS: Final = {
    HvmParam.VM_GENERATION_ID_ADDR: (FIRMWARE[0] << PAGE_SHIFT) + 0x1010,
    HvmParam.IDENT_PT: 0xFEFFE << PAGE_SHIFT,
    HvmParam.PAGING_RING_PFN: 0xFEFF8,
    HvmParam.MONITOR_RING_PFN: 0xFEFF9,
    HvmParam.SHARING_RING_PFN: 0xFEFFA,
    HvmParam.VM86_TSS: (FIRMWARE[0] << PAGE_SHIFT) + 0x2000,
    HvmParam.CONSOLE_PFN: 0xFEFFF,
    HvmParam.ACPI_IOPORTS_LOCATION: 1,
    HvmParam.IOREQ_SERVER_PFN: SPECIAL[0],
    HvmParam.NR_IOREQ_SERVER_PAGES: IOREQ_SERVERS,
}
"""In the order of a saver of 4.5."""
MAGIC: Final = {HvmParam.IOREQ_PFN: 0xFEFFD, HvmParam.BUFIOREQ_PFN: 0xFEFFB, HvmParam.STORE_PFN: 0xFEFFC}

CONTEXT: Final = (
    (ContextType.CPU, VCPUS, 1024),
    (ContextType.PIC, 2, 8),
    (ContextType.IOAPIC, 1, 400),
    (ContextType.LAPIC, VCPUS, 24),
    (ContextType.LAPIC_REGS, VCPUS, 1024),
    (ContextType.PCI_IRQ, 1, 16),
    (ContextType.ISA_IRQ, 1, 8),
    (ContextType.PCI_LINK, 1, 8),
    (ContextType.PIT, 1, 56),
    (ContextType.RTC, 1, 16),
    (ContextType.HPET, 1, 1048),
    (ContextType.PMTIMER, 1, 8),
    (ContextType.MTRR, VCPUS, 240),
    (ContextType.CPU_XSAVE, VCPUS, 8 + XSAVE_SIZE),
    (ContextType.VMCE_VCPU, VCPUS, 24),
    (ContextType.TSC_ADJUST, VCPUS, 8),
)
"""Records of a guest of 4.5 without Viridian: type, instances, length; all lengths are multiples of 8."""
DEVICE_MODEL_SIZE: Final = 4096


def hvm_guest(width: int, pages: int, seed: int) -> Guest:
    """A guest of ``pages`` pages, video memory among them, saved by tools of ``width`` bits."""
    video = min(VIDEO_MAX, pages // 8)
    low = min(pages - video, DEVICES)
    high = pages - video - low
    populated = (
        (0, VGA_HOLE[0]),
        (VGA_HOLE[1], low),
        (DEVICES, DEVICES + video),
        FIRMWARE,
        SPECIAL,
        (HIGH_MEMORY, HIGH_MEMORY + high),
    )
    ioreq = MAGIC[HvmParam.IOREQ_PFN]
    return Guest(
        p2m_size=HIGH_MEMORY + high if high else SPECIAL[1],
        populated=populated,
        holes=True,
        regions=(),
        given_up=(0, 0),
        busy=((ioreq, ioreq + 1),),
        head=b"",
        parameters=b"".join(_parameter(param, value) for param, value in PARAMETERS.items()),
        toolstack=_toolstack(width, pages, video),
        tail=_tail(seed),
    )


def _parameter(param: HvmParam, value: int) -> bytes:
    chunk = next(row.id for row in legacy.CHUNKS if row.param is param)
    payload = np.zeros(1, legacy.HVM_PARAM)
    payload["value"] = value
    return np.array(chunk, legacy.CHUNK_ID).tobytes() + payload.tobytes()


def _toolstack(width: int, pages: int, video: int) -> bytes:
    """One entry: the device model moved its video memory to where the guest wanted it."""
    name = b"vga.vram\x00"
    head = np.array([(1, 1)], legacy.TOOLSTACK_HEAD)
    entry = (pages << PAGE_SHIFT, DEVICES << PAGE_SHIFT, video << PAGE_SHIFT, len(name))
    slack = bytes(legacy.PHYSMAP_SLACK[width])
    return head.tobytes() + np.array([entry], legacy.PHYSMAP).tobytes() + name + slack


def _tail(seed: int) -> bytes:
    context = _context(seed)
    head = np.zeros(1, legacy.HVM_TAIL)
    head["magic_pfns"] = [MAGIC[param] for param in hvm.MAGIC_PARAMS]
    head["context_length"] = len(context)
    return head.tobytes() + context + _device_model(seed)


def _context(seed: int) -> bytes:
    """Records in the form of 4.5; what the devices' registers hold is invented."""
    header = np.zeros(1, hvm.CONTEXT_HEADER)
    header["magic"], header["version"] = hvm.CONTEXT_MAGIC, 1
    header["changeset"] = ~np.uint64(0)  # not known
    header["cpuid"], header["gtsc_khz"] = 0x206A7, 2_400_000
    records = [_record(ContextType.HEADER, 0, header.tobytes())]
    for kind, instances, length in CONTEXT:
        for index in range(instances):
            if kind is ContextType.CPU_XSAVE:
                payload = np.array(XCR0, "<u8").tobytes() + xsave(seed, index)
            else:
                payload = noise(seed, 1000 + 100 * index + kind, length // 8).tobytes()
            records.append(_record(kind, index, payload))
    return b"".join((*records, _record(ContextType.END, 0, b"")))


def _record(kind: ContextType, instance: int, payload: bytes) -> bytes:
    return np.array([(kind, instance, len(payload))], hvm.CONTEXT_RECORD).tobytes() + payload


def _device_model(seed: int) -> bytes:
    """The record as libxl writes it; the state begins as QEMU's do and has one invented section."""
    row = qemu.DEVICE_MODEL_RECORDS[0]
    state = np.array([(qemu.STATE_MAGIC, 3)], qemu.STATE_HEAD).tobytes()
    section = b"\x04" + (1).to_bytes(4, "big") + b"\x06sample" + bytes(4) + (1).to_bytes(4, "big")
    state += section + noise(seed, 3, DEVICE_MODEL_SIZE // 8).tobytes() + b"\x00"
    return row.signature + np.array(len(state), row.length).tobytes() + state
