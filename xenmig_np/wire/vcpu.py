"""vCPU state of PV guests, and what depends on the width of the guest (legacy-stream.md 7.1, 2.2)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

GDT_FRAMES: Final = 16
CONTEXT_64: Final = np.dtype(
    {
        "names": ["flags", "edx", "gdt_frames", "gdt_ents", "ctrlreg", "vm_assist"],
        "formats": ["<u4", "<u8", ("<u8", GDT_FRAMES), "<u8", ("<u8", 8), "<u8"],
        "offsets": [512, 616, 4832, 4960, 4984, 5136],
        "itemsize": 5168,
    }
)
"""vcpu_guest_context of a 64-bit guest: the fields that a converter or verifier looks at."""
CONTEXT_32: Final = np.dtype(
    {
        "names": ["flags", "edx", "gdt_frames", "gdt_ents", "ctrlreg", "vm_assist"],
        "formats": ["<u4", "<u4", ("<u4", GDT_FRAMES), "<u4", ("<u4", 8), "<u4"],
        "offsets": [512, 524, 2640, 2704, 2716, 2796],
        "itemsize": 2800,
    }
)
"""The same of a 32-bit guest."""

ADDRESSES_64: Final = {
    "rip": 648,
    "rsp": 672,
    "kernel_sp": 4976,
    "event_callback_eip": 5112,
    "failsafe_callback_eip": 5120,
    "syscall_callback_eip": 5128,
    "fs_base": 5144,
    "gs_base_kernel": 5152,
    "gs_base_user": 5160,
}
"""Offsets of 64-bit context fields that must be canonical addresses (xen-restore-behaviour.md 244)."""
TRAPS_64, TRAPS_64_AT = 256, 720
"""So are those of its trap handlers: 16 bytes each, the address last."""

VGCF_IN_KERNEL: Final = 1 << 2
VGCF_ONLINE: Final = 1 << 5
VM_ASSIST_PAE_EXTENDED_CR3: Final = 1 << 3
GDT_ENTRIES_MAX: Final = 7168
"""Restore refuses more (xen-restore-behaviour.md 235); legacy restore took 8192."""
CR1, CR3 = 1, 3

EXTENDED_SIZE: Final = 128
EXTENDED_MIN: Final = 32
"""What Xen 4.0 wrote; a context that says it has less is refused (xen-restore-behaviour.md 249, 250)."""
EXTENDED: Final = np.dtype(
    {
        "names": ["vcpu", "size", "syscall32_eip", "sysenter_eip"],
        "formats": ["<u4", "<u4", "<u8", "<u8"],
        "offsets": [0, 4, 8, 16],
        "itemsize": EXTENDED_SIZE,
    }
)

XSAVE_HEAD: Final = np.dtype([("xfeature_mask", "<u8"), ("size", "<u8")])
"""Before each legacy xsave record; ``size`` bytes follow."""
XSAVE_AREA: Final = np.dtype([("xcr0", "<u8"), ("xcr0_accum", "<u8")])
"""How those bytes, and the body of X86_PV_VCPU_XSAVE, begin."""
XSAVE_NEEDED: Final = {0: 16, 1: 16 + 576, 3: 16 + 576, 7: 16 + 832}
"""Bytes that a record with this xcr0_accum can hold; restore refuses longer ones (v2-stream.md D25)."""
MSRS_SETTABLE: Final = frozenset(
    {0x48, 0x140, 0xC000_0103, 0xC001_1019, 0xC001_101A, 0xC001_101B, 0xC001_1027}
)
"""MSRs that Xen sets for a PV vCPU: SPEC_CTRL, MISC_FEATURES_ENABLES, TSC_AUX, DRn_ADDRESS_MASK."""


class PvGuest(NamedTuple):
    """A kind of PV guest, told by the size of its vCPU context."""

    name: str
    width: int
    """Bytes of the guest's word: 4 or 8."""
    levels: int
    """Levels of its page tables, as a stream states them."""
    context: np.dtype[np.void]

    @property
    def frames_per_page(self) -> int:
        """p2m entries in one 4096-byte frame."""
        return 4096 // self.width


PV32: Final = PvGuest("pv32", 4, 3, CONTEXT_32)
PV64: Final = PvGuest("pv64", 8, 4, CONTEXT_64)
PV_GUESTS: Final = (PV32, PV64)
PV_BY_CONTEXT: Final = {guest.context.itemsize: guest for guest in PV_GUESTS}
PV_BY_WIDTH: Final = {guest.width: guest for guest in PV_GUESTS}
