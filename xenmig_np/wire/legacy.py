"""The legacy libxc image, migration v1 (legacy-stream.md): words, chunks, extended info, tails."""

from __future__ import annotations

from enum import Enum, Flag, auto
from typing import Final, NamedTuple

import numpy as np

from xenmig_np.options import GuestName
from xenmig_np.wire.hvm import HvmParam

BATCH_MAX: Final = 1024
VCPU_ID_MAX: Final = 4095
SHARED_INFO_SIZE: Final = 4096

CHUNK_ID: Final = np.dtype("<i4")
U32: Final = np.dtype("<u4")

PFN_MASK: Final = 0x0FFF_FFFF
TYPE_SHIFT: Final = 28
UPPER_ONES: Final = 0xFFFF_FFFF

WORDS: Final[dict[int, np.dtype[np.unsignedinteger]]] = {32: np.dtype("<u4"), 64: np.dtype("<u8")}
"""``unsigned long`` of the toolstack by its width in bits: p2m_size, frames, pfn words, unmapped pfns."""


class Guest(Flag):
    """The two kinds of guest; no field of a legacy image says which it holds."""

    PV = auto()
    HVM = auto()
    BOTH = PV | HVM


GUEST_BY_NAME: Final = {GuestName.PV: Guest.PV, GuestName.HVM: Guest.HVM}


class Payload(Enum):
    """What follows a chunk's id."""

    NOTHING = "nothing"
    HVM_PARAM = "hvm_param"
    VCPU_INFO = "vcpu_info"
    TSC_INFO = "tsc_info"
    TOOLSTACK = "toolstack"
    TMEM = "tmem"
    COMPRESSED = "compressed"


class ChunkType(NamedTuple):
    """A row of the table of chunks (legacy-stream.md 3)."""

    id: int
    name: str
    guests: Guest
    payload: Payload
    since: str
    """First release that wrote it."""
    param: HvmParam | None = None
    refused: str | None = None
    """Why an image with this chunk is not converted, unless the user has it dropped."""


_TMEM = "the guest used transcendent memory (tmem), which migration v2 cannot carry"

CHUNKS: Final = (
    ChunkType(0, "end", Guest.BOTH, Payload.NOTHING, "3.0"),
    ChunkType(-1, "enable_verify_mode", Guest.BOTH, Payload.NOTHING, "3.0"),
    ChunkType(-2, "vcpu_info", Guest.BOTH, Payload.VCPU_INFO, "3.1"),
    ChunkType(-3, "hvm_ident_pt", Guest.HVM, Payload.HVM_PARAM, "3.3", HvmParam.IDENT_PT),
    ChunkType(-4, "hvm_vm86_tss", Guest.HVM, Payload.HVM_PARAM, "3.4", HvmParam.VM86_TSS),
    ChunkType(-5, "tmem", Guest.BOTH, Payload.TMEM, "4.0", refused=_TMEM),
    ChunkType(-6, "tmem_extra", Guest.BOTH, Payload.TMEM, "4.0", refused=_TMEM),
    ChunkType(-7, "tsc_info", Guest.BOTH, Payload.TSC_INFO, "4.0"),
    ChunkType(-8, "hvm_console_pfn", Guest.HVM, Payload.HVM_PARAM, "4.1", HvmParam.CONSOLE_PFN),
    ChunkType(-9, "last_checkpoint", Guest.BOTH, Payload.NOTHING, "4.1"),
    ChunkType(
        -10, "hvm_acpi_ioports_location", Guest.HVM, Payload.HVM_PARAM, "4.1", HvmParam.ACPI_IOPORTS_LOCATION
    ),
    ChunkType(-11, "hvm_viridian", Guest.HVM, Payload.HVM_PARAM, "4.1.3", HvmParam.VIRIDIAN),
    ChunkType(-12, "compressed_data", Guest.BOTH, Payload.COMPRESSED, "4.2"),
    ChunkType(-13, "enable_compression", Guest.BOTH, Payload.NOTHING, "4.2"),
    ChunkType(
        -14, "hvm_generation_id_addr", Guest.HVM, Payload.HVM_PARAM, "4.2", HvmParam.VM_GENERATION_ID_ADDR
    ),
    ChunkType(-15, "hvm_paging_ring_pfn", Guest.HVM, Payload.HVM_PARAM, "4.2", HvmParam.PAGING_RING_PFN),
    ChunkType(-16, "hvm_access_ring_pfn", Guest.HVM, Payload.HVM_PARAM, "4.2", HvmParam.MONITOR_RING_PFN),
    ChunkType(-17, "hvm_sharing_ring_pfn", Guest.HVM, Payload.HVM_PARAM, "4.2", HvmParam.SHARING_RING_PFN),
    ChunkType(-18, "toolstack", Guest.BOTH, Payload.TOOLSTACK, "4.2"),
    ChunkType(-19, "hvm_ioreq_server_pfn", Guest.HVM, Payload.HVM_PARAM, "4.5", HvmParam.IOREQ_SERVER_PFN),
    ChunkType(
        -20, "hvm_nr_ioreq_server_pages", Guest.HVM, Payload.HVM_PARAM, "4.5", HvmParam.NR_IOREQ_SERVER_PAGES
    ),
    ChunkType(-21, "hvm_x87_fip_width", Guest.HVM, Payload.HVM_PARAM, "4.5.4", HvmParam.X87_FIP_WIDTH),
)
CHUNK_BY_ID: Final = {row.id: row for row in CHUNKS}
CHUNK_BY_NAME: Final = {row.name: row for row in CHUNKS}
END, VERIFY_MODE, TMEM_EXTRA, LAST_CHECKPOINT, ENABLE_COMPRESSION = 0, -1, -6, -9, -13

COMPRESSED_MAX: Final = 16 << 20
"""Bytes of page data in one chunk -12: savers gather them in a buffer of this size (legacy-stream.md 5.5)."""

HVM_PARAM: Final = np.dtype([("pad", "<u4"), ("value", "<u8")])
"""Behind the id of a parameter chunk, on both widths."""
VCPU_INFO: Final = np.dtype([("max_vcpu_id", "<i4")])
VCPU_MAP: Final = np.dtype("<u8")
"""Then ``max_vcpu_id // 64 + 1`` words of online vCPUs."""
TSC_INFO: Final = np.dtype([("mode", "<u4"), ("nsec", "<u8"), ("khz", "<u4"), ("incarnation", "<u4")])
TSC_MODE_MAX: Final = 2
"""Mode 3 existed up to 4.11; later releases refuse it."""

TOOLSTACK_HEAD: Final = np.dtype([("version", "<u4"), ("count", "<u4")])
PHYSMAP: Final = np.dtype(
    [("phys_offset", "<u8"), ("start_addr", "<u8"), ("size", "<u8"), ("namelen", "<u4")]
)
PHYSMAP_SLACK: Final = {32: 0, 64: 4}
"""Stray bytes behind each name by toolstack width (legacy-stream.md 3.1)."""

ONES: Final = 0xFFFF_FFFF
TMEM_HEAD: Final = np.dtype(
    [
        ("version", "<u4"),
        ("max_pools", "<u4"),
        ("ones", "<u4"),
        ("flags", "<u4"),
        ("weight", "<u4"),
        ("cap", "<u4"),
        ("ones_2", "<u4"),
    ]
)
"""Of chunk -5; pools follow, then :data:`ONES` in place of a pool's number (legacy-stream.md 6)."""
TMEM_POOL: Final = np.dtype([("flags", "<u4"), ("n_pages", "<u4"), ("uuid", "<u8", 2)])
"""Behind a pool's number; its pages follow, each behind an object id and a u32."""
TMEM_OID_SIZES: Final = (24, 8)
"""Bytes of an object id, of Xen 4.1 and later, and of 4.0; nothing tells which."""
TMEM_ORDER_SHIFT, TMEM_ORDER_MASK, TMEM_ORDER_MAX = 4, 15, 2
"""In the flags of a pool: its pages have 4096 << order bytes."""

EXTENDED_HEAD: Final = np.dtype([("total", "<u4")])
BLOCK_HEAD: Final = np.dtype([("id", "V4"), ("size", "<u4")])
XCNT: Final = np.dtype([("size", "<u4")])
BLOCK_SIZES: Final = {b"extv": 0, b"xcnt": XCNT.itemsize}
"""Blocks of a fixed size; ``vcpu`` has that of a vCPU context."""

HVM_TAIL: Final = np.dtype([("magic_pfns", "<u8", 3), ("context_length", "<u4")])
UNMAPPED_HEAD: Final = np.dtype([("count", "<u4")])
