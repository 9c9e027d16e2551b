"""The vCPUs of a synthetic guest: registers and extended state in the form of Xen 4.5.

See legacy-stream.md 7.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.sample.memory import noise
from xenmig_np.wire import vcpu

if TYPE_CHECKING:
    from xenmig_np.wire.vcpu import PvGuest

VCPUS: Final = 2
XCR0: Final = 7
"""x87, SSE and AVX."""
XSAVE_SIZE: Final = vcpu.XSAVE_NEEDED[XCR0]
"""Bytes of xcr0, xcr0_accum and the area."""
EXTENDED_SIZE: Final = 56
"""What an extended context of Xen 4.3 to 4.5 says of its size."""
GDT_ENTRIES: Final = 512

_FPU: Final = np.dtype(
    {"names": ["fcw", "mxcsr", "xstate_bv"], "formats": ["<u2", "<u4", "<u8"], "offsets": [0, 24, 512]}
)
_REGISTERS: Final = {
    4: np.dtype(
        {
            "names": ["ip", "cs", "flags", "sp", "ss"],
            "formats": ["<u4", "<u2", "<u4", "<u4", "<u2"],
            "offsets": [548, 552, 556, 560, 564],
            "itemsize": vcpu.CONTEXT_32.itemsize,
        }
    ),
    8: np.dtype(
        {
            "names": ["ip", "cs", "flags", "sp", "ss"],
            "formats": ["<u8", "<u2", "<u8", "<u8", "<u2"],
            "offsets": [648, 656, 664, 672, 680],
            "itemsize": vcpu.CONTEXT_64.itemsize,
        }
    ),
}
"""More of a vCPU context by the guest's word: where the vCPU stopped."""
_KERNEL: Final = {4: 0xC010_0000, 8: 0xFFFF_FFFF_8100_0000}
_KERNEL_CS: Final = {4: 0xE019, 8: 0xE030}
_KERNEL_SS: Final = {4: 0xE021, 8: 0xE02B}
_IN_KERNEL: Final = 1 << 2
_ASSISTS: Final = (1 << 2) | vcpu.VM_ASSIST_PAE_EXTENDED_CR3
"""Writable page tables; the second means something to a 32-bit guest alone."""
_CR0: Final = 0x8005_0033
_CR4: Final = 0x2660


def pv_context(guest: PvGuest, index: int, start_info: int, gdt: int, tables: tuple[int, int]) -> bytes:
    """vcpu_guest_context of a vCPU that stopped in its kernel.

    ``gdt`` and ``tables`` (kernel's and user's top table, the second for 64-bit guests) are frames: pfns
    as a tail has them, mfns as the extended info has them.
    """
    raw = bytearray(guest.context.itemsize)
    context = np.frombuffer(raw, guest.context)
    context["flags"] = _IN_KERNEL | vcpu.VGCF_ONLINE
    context["edx"] = start_info
    context["gdt_frames"][0, 0] = gdt
    context["gdt_ents"] = GDT_ENTRIES
    context["vm_assist"] = _ASSISTS
    kernel, user = tables
    folded = (kernel << 12 | kernel >> 20) & 0xFFFF_FFFF
    context["ctrlreg"][0, [0, 1, 3, 4]] = (
        (_CR0, user << 12 | 1, kernel << 12, _CR4) if guest.width == 8 else (_CR0, 0, folded, _CR4)
    )
    registers = np.frombuffer(raw, _REGISTERS[guest.width])
    registers["ip"] = _KERNEL[guest.width] + 0x13AA
    registers["sp"] = _KERNEL[guest.width] + 0x80_0000 + 0x2000 * index
    registers["cs"] = _KERNEL_CS[guest.width]
    registers["ss"] = _KERNEL_SS[guest.width]
    registers["flags"] = 0x246
    return bytes(raw)


def pv_extended(guest: PvGuest, index: int) -> bytes:
    """The 128 bytes behind a context."""
    extended = np.zeros(1, vcpu.EXTENDED)
    extended["vcpu"] = index
    extended["size"] = EXTENDED_SIZE
    extended["syscall32_eip"] = extended["sysenter_eip"] = _KERNEL[guest.width] + 0x2000
    return extended.tobytes()


def pv_xsave(seed: int, index: int) -> bytes:
    """A record with its legacy head."""
    head = np.zeros(1, vcpu.XSAVE_HEAD)
    head["xfeature_mask"] = XCR0
    head["size"] = XSAVE_SIZE
    return head.tobytes() + xsave(seed, index)


def xsave(seed: int, index: int) -> bytes:
    """xcr0, xcr0_accum and an area whose x87 and SSE parts are in use."""
    words = noise(seed, 16 + index, XSAVE_SIZE // 8)
    words[:2] = XCR0
    words[2:6] = 0  # control words
    words[66:74] = 0  # the area's header
    state = np.frombuffer(words.data, _FPU, 1, 16)
    state["fcw"] = 0x37F
    state["mxcsr"] = 0x1F80
    state["xstate_bv"] = 3
    return words.tobytes()
