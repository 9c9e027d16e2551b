"""The inputs of v2-stream.md 20, byte for byte, and the digests of section 21 for profile `default`."""

from __future__ import annotations

import struct
from typing import NamedTuple


class Input(NamedTuple):
    data: bytes
    width: int
    guest: str
    size: int
    sha256: str | None  # None: section 21 gives no digest of this input


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)


TSC = _hex("f9ffffff 02000000 00ca9a3b00000000 a0252600 01000000")  # both inputs: 2, 1 s, 2.5 GHz, 1

PHYSMAP = b"".join(
    (
        struct.pack("<II", 1, 1),  # version, count
        struct.pack("<QQQ", 0x80000000, 0xF0000000, 0x800000),  # phys_offset, start_addr, size
        struct.pack("<I", 9),
        b"vga.vram\0",
        _hex("eeeeeeee"),  # padding that a 64-bit libxl leaks
    )
)

INPUT_H = b"".join(
    (
        struct.pack("<Q", 3),  # p2m_size
        struct.pack("<i4Q", 4, 0x00000000, 0xF0000000, 0xE0000001, 0xF0000002),
        b"\xa5" * 4096,
        struct.pack("<iIQ", -3, 0, 0xFEFFC000),
        TSC,
        struct.pack("<iI", -18, len(PHYSMAP)),
        PHYSMAP,
        struct.pack("<ii", -9, 0),
        struct.pack("<QQQ", 0xFEFFE, 0xFEFFF, 0xFEFFD),  # ioreq, bufioreq, store
        struct.pack("<I", 12),
        b"HVMCONTEXT!!",
        b"DeviceModelRecord0002",
        struct.pack("<I", 5),
        b"QEMU!",
    )
)

INPUT_V = b"".join(
    (
        struct.pack("<I", 0x402),  # p2m_size
        struct.pack("<II", 0xFFFFFFFF, 0xB00),
        b"vcpu" + struct.pack("<I", 2800) + bytes(2800),
        b"extv" + struct.pack("<I", 0),
        struct.pack("<II", 0x10, 0x11),  # p2m frame list
        struct.pack("<i3I", 3, 0x00000010, 0x20000011, 0xF0000012),
        b"\xa5" * 4096 + b"\x5a" * 4096,
        struct.pack("<iiQ", -2, 0, 1),
        TSC,
        struct.pack("<i", 0),
        struct.pack("<II", 1, 0x13),  # unmapped pfns
        b"\xc3" * 2800 + b"\xe7" * 128,  # vcpu 0
        b"\x51" * 4096,  # shared info
    )
)

XL_HEADER = b"".join(
    (
        _hex("58656e20736176656420646f6d61696e2c20786c20666f726d61740a2000200d"),
        struct.pack("<IIII", 0x01020304, 1, 0, 6),
        struct.pack("<I", 2) + b"{}",
    )
)

INPUTS = {
    "H": Input(INPUT_H, 64, "hvm", 4315, "c169af5697339373f9fbcc6af76c2a5d6b354b478de7e6e55d54899d3b4cb0ad"),
    "V": Input(INPUT_V, 32, "pv", 18120, "e0d9ce24128eabee01d76276f5810af3cf372253ceb12c091e26ea70a384ef64"),
    "xl-H": Input(XL_HEADER + INPUT_H, 64, "hvm", 4369, None),
}

_H_LIBXC = "d74a93987cb39687990492449090e77ff70605aa706a03f4c3129c05e766d5ba"
_V_LIBXC = "6127fbde355159189342731f2bcafb7c8db156edf0f85474146bf42d7fea89c1"

GOLDENS: tuple[tuple[str, str, str, int, str], ...] = (
    # input, target, format, bytes, SHA-256
    ("H", "draft-v7", "libxc", 4358, _H_LIBXC),
    ("H", "xen-4.6", "libxc", 4358, _H_LIBXC),
    ("H", "draft-v7", "libxl", 4448, "a2bac3eee80de984343b0f5be2d0d7d859cd33e977b935d1c9f814f799458019"),
    ("H", "xen-4.6", "libxl", 4504, "e79fc86291c94062f3e5fb2299846ecdaf0bb39fd75d36036a8848cfc1129d7b"),
    ("H", "xen-4.14", "libxc", 4366, "b1d1a7cc7dc52d59c00e47e4f84fb4616ffd647a2d7dffc442f015290f462fca"),
    ("H", "xen-4.14", "libxl", 4512, "17229c400a1fcc6e84c0bd931f4e05811510e0ff282f053c3ecdd548d27fda15"),
    ("V", "draft-v7", "libxc", 15416, _V_LIBXC),
    ("V", "xen-4.6", "libxc", 15416, _V_LIBXC),
    ("V", "draft-v7", "libxl", 15448, "862d5a84ccf4ebb7c6716e2f95d6dafe1d2b483067b451a643bc84056b0d007f"),
    ("V", "xen-4.6", "libxl", 15448, "0bd02ab22d18fcec6d1f74c9dc444b0388b05395c05f7fae3dc041b88cae1a60"),
    ("V", "xen-4.14", "libxc", 15424, "56962940841ee9714c2bce8e2da4a1f868eade8c9c024fb5ec6cd1bfa184c0c1"),
    ("V", "xen-4.14", "libxl", 15456, "32ffcbcceb2e0154eba2b094bac55c26af07eafb4025c49db07d263ecc4094d9"),
)
"""Outputs of the bare inputs; those of xl-H are the same bytes behind its header (19.11)."""

XL_FLAGS = {
    ("draft-v7", "libxc"): 1,
    ("draft-v7", "libxl"): 1,
    ("xen-4.6", "libxc"): 1,
    ("xen-4.6", "libxl"): 3,
    ("xen-4.14", "libxc"): 1,
    ("xen-4.14", "libxl"): 3,
}
"""mandatory_flags behind the xl header of xl-H, which has 1 there (19.11)."""
