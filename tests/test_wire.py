"""Sizes and offsets of every structure, and the tables, against numbers copied from the specification."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from xenmig_np import wire
from xenmig_np.options import TargetName
from xenmig_np.wire import hvm, legacy, libxc, libxl, pages, qemu, targets, vcpu, xapi, xl
from xenmig_np.wire.hvm import HvmParam
from xenmig_np.wire.legacy import Guest, Payload
from xenmig_np.wire.pages import PageType

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZES = {
    # module, structure: bytes                     section of the specification
    ("legacy", "CHUNK_ID"): 4,  # legacy 3
    ("legacy", "U32"): 4,
    ("legacy", "HVM_PARAM"): 12,  # legacy 3: 16 with the id
    ("legacy", "VCPU_INFO"): 4,
    ("legacy", "VCPU_MAP"): 8,
    ("legacy", "TSC_INFO"): 20,  # legacy 3: 24 with the id
    ("legacy", "TOOLSTACK_HEAD"): 8,  # legacy 3.1
    ("legacy", "PHYSMAP"): 28,
    ("legacy", "EXTENDED_HEAD"): 4,  # legacy 2.2
    ("legacy", "BLOCK_HEAD"): 8,
    ("legacy", "XCNT"): 4,
    ("legacy", "HVM_TAIL"): 28,  # legacy 7.2
    ("legacy", "TMEM_HEAD"): 28,  # legacy 6
    ("legacy", "TMEM_POOL"): 24,
    ("legacy", "UNMAPPED_HEAD"): 4,  # legacy 7.1
    ("vcpu", "CONTEXT_64"): 0x1430,  # legacy 2.2, 7.1
    ("vcpu", "CONTEXT_32"): 0xAF0,
    ("vcpu", "EXTENDED"): 128,
    ("vcpu", "XSAVE_HEAD"): 16,
    ("vcpu", "XSAVE_AREA"): 16,
    ("hvm", "CONTEXT_RECORD"): 8,  # legacy 7.2
    ("hvm", "CONTEXT_HEADER"): 24,
    ("hvm", "CONTEXT_XSAVE"): 24,
    ("hvm", "CONTEXT_MSRS"): 8,
    ("hvm", "CONTEXT_MSR"): 16,
    ("qemu", "STATE_HEAD"): 8,  # containers 6.4
    ("qemu", "STATE_V2_HEAD"): 16,
    ("xl", "HEADER"): 48,  # v2 10
    ("xl", "CONFIG_LENGTH"): 4,
    ("xend", "HEADER"): 20,  # containers 2.1
    ("libvirt", "HEADER"): 64,  # containers 3.1
    ("xapi", "RECORD_HEAD"): 16,  # containers 4.2
    ("libxc", "IMAGE_HEADER"): 24,  # v2 3
    ("libxc", "DOMAIN_HEADER"): 16,  # v2 4
    ("libxc", "RECORD_HEADER"): 8,  # v2 5
    ("libxc", "PAGE_DATA"): 8,  # v2 7.2
    ("libxc", "PFN_WORD"): 8,
    ("libxc", "PV_INFO"): 8,  # v2 7.3
    ("libxc", "P2M_FRAMES"): 8,  # v2 7.4
    ("libxc", "VCPU"): 8,  # v2 7.5
    ("libxc", "TSC_INFO"): 24,  # v2 7.7
    ("libxc", "HVM_PARAMS"): 8,  # v2 7.9
    ("libxc", "HVM_PARAM"): 16,
    ("libxc", "CPUID_LEAF"): 24,  # v2 7.10
    ("libxc", "MSR_ENTRY"): 16,  # v2 7.11
    ("libxl", "HEADER"): 16,  # v2 11
    ("libxl", "EMULATOR"): 8,  # v2 12.2
    ("pages", "PTE"): 8,
}

OFFSETS: dict[tuple[str, str], tuple[tuple[str, int, int], ...]] = {
    # structure: field, offset, bytes
    ("legacy", "HVM_PARAM"): (("pad", 0, 4), ("value", 4, 8)),
    ("legacy", "TSC_INFO"): (("mode", 0, 4), ("nsec", 4, 8), ("khz", 12, 4), ("incarnation", 16, 4)),
    ("legacy", "TOOLSTACK_HEAD"): (("version", 0, 4), ("count", 4, 4)),
    ("legacy", "PHYSMAP"): (
        ("phys_offset", 0, 8),
        ("start_addr", 8, 8),
        ("size", 16, 8),
        ("namelen", 24, 4),
    ),
    ("legacy", "BLOCK_HEAD"): (("id", 0, 4), ("size", 4, 4)),
    ("legacy", "HVM_TAIL"): (("magic_pfns", 0, 24), ("context_length", 24, 4)),
    ("vcpu", "CONTEXT_64"): (
        ("flags", 512, 4),
        ("edx", 616, 8),
        ("gdt_frames", 4832, 128),
        ("gdt_ents", 4960, 8),
        ("ctrlreg", 4984, 64),
        ("vm_assist", 5136, 8),
    ),
    ("vcpu", "CONTEXT_32"): (
        ("flags", 512, 4),
        ("edx", 524, 4),
        ("gdt_frames", 2640, 64),
        ("gdt_ents", 2704, 4),
        ("ctrlreg", 2716, 32),
        ("vm_assist", 2796, 4),
    ),
    ("vcpu", "EXTENDED"): (
        ("vcpu", 0, 4),
        ("size", 4, 4),
        ("syscall32_eip", 8, 8),
        ("sysenter_eip", 16, 8),
    ),
    ("vcpu", "XSAVE_HEAD"): (("xfeature_mask", 0, 8), ("size", 8, 8)),
    ("vcpu", "XSAVE_AREA"): (("xcr0", 0, 8), ("xcr0_accum", 8, 8)),
    ("hvm", "CONTEXT_RECORD"): (("typecode", 0, 2), ("instance", 2, 2), ("length", 4, 4)),
    ("hvm", "CONTEXT_HEADER"): (
        ("magic", 0, 4),
        ("version", 4, 4),
        ("changeset", 8, 8),
        ("cpuid", 16, 4),
        ("gtsc_khz", 20, 4),
    ),
    ("xend", "HEADER"): (("magic", 0, 16), ("config_length", 16, 4)),
    ("libvirt", "HEADER"): (
        ("magic", 0, 16),
        ("version", 16, 4),
        ("xml_length", 20, 4),
        ("unused", 24, 40),
    ),
    ("xapi", "RECORD_HEAD"): (("type", 0, 8), ("length", 8, 8)),
    ("xl", "HEADER"): (
        ("magic", 0, 32),
        ("byteorder", 32, 4),
        ("mandatory_flags", 36, 4),
        ("optional_flags", 40, 4),
        ("optional_data_len", 44, 4),
    ),
    ("libxc", "IMAGE_HEADER"): (
        ("marker", 0, 8),
        ("id", 8, 4),
        ("version", 12, 4),
        ("options", 16, 2),
        ("reserved1", 18, 2),
        ("reserved2", 20, 4),
    ),
    ("libxc", "DOMAIN_HEADER"): (
        ("type", 0, 4),
        ("page_shift", 4, 2),
        ("reserved", 6, 2),
        ("xen_major", 8, 4),
        ("xen_minor", 12, 4),
    ),
    ("libxc", "RECORD_HEADER"): (("type", 0, 4), ("length", 4, 4)),
    ("libxc", "PAGE_DATA"): (("count", 0, 4), ("reserved", 4, 4)),
    ("libxc", "PV_INFO"): (("width", 0, 1), ("levels", 1, 1), ("reserved1", 2, 2), ("reserved2", 4, 4)),
    ("libxc", "P2M_FRAMES"): (("start_pfn", 0, 4), ("end_pfn", 4, 4)),
    ("libxc", "VCPU"): (("vcpu_id", 0, 4), ("reserved", 4, 4)),
    ("libxc", "TSC_INFO"): (
        ("mode", 0, 4),
        ("khz", 4, 4),
        ("nsec", 8, 8),
        ("incarnation", 16, 4),
        ("reserved", 20, 4),
    ),
    ("libxc", "HVM_PARAMS"): (("count", 0, 4), ("reserved", 4, 4)),
    ("libxc", "HVM_PARAM"): (("index", 0, 8), ("value", 8, 8)),
    ("libxl", "HEADER"): (("ident", 0, 8), ("version", 8, 4), ("options", 12, 4)),
    ("libxl", "EMULATOR"): (("id", 0, 4), ("index", 4, 4)),
}
BIG_ENDIAN = {
    *(("libxc", "IMAGE_HEADER"), ("libxl", "HEADER")),
    *(("qemu", "STATE_HEAD"), ("qemu", "STATE_V2_HEAD")),
    ("xend", "HEADER"),
}
"""The structures that begin a stream, and QEMU's; all else is little-endian (v2-stream.md 1)."""


def named(value: object) -> str:
    """A structure in the name of a test."""
    return ".".join(value) if isinstance(value, tuple) and isinstance(value[0], str) else ""


STRUCTURES = {
    (module.name, name): value
    for module in pkgutil.iter_modules(wire.__path__)
    for name, value in vars(importlib.import_module(f"xenmig_np.wire.{module.name}")).items()
    if isinstance(value, np.dtype)
}
"""Every dtype of every module."""


@pytest.mark.parametrize("place", STRUCTURES, ids=named)
def test_size(place: tuple[str, str]) -> None:
    assert STRUCTURES[place].itemsize == SIZES[place]


@pytest.mark.parametrize(("place", "fields"), OFFSETS.items(), ids=named)
def test_offsets(place: tuple[str, str], fields: tuple[tuple[str, int, int], ...]) -> None:
    found: Mapping[str, Any] = STRUCTURES[place].fields or {}
    assert tuple((name, at, dtype.itemsize) for name, (dtype, at) in found.items()) == fields


@pytest.mark.parametrize("place", STRUCTURES, ids=named)
def test_byte_order(place: tuple[str, str]) -> None:
    dtype = STRUCTURES[place]
    order = ">" if place in BIG_ENDIAN else "<"
    for field in [found[0] for found in (dtype.fields or {}).values()] or [dtype]:
        base = field.base
        big = base.str.startswith(">")
        assert base.kind in "SV" or base.itemsize == 1 or big == (order == ">")


def test_words_have_the_width_of_the_toolstack() -> None:
    assert {width: dtype.str for width, dtype in legacy.WORDS.items()} == {32: "<u4", 64: "<u8"}


# ---- page types ------------------------------------------------------------------------------------------

TYPES = (
    # nibble, data follows, legal, level, pinned, HVM (legacy-stream.md 4, v2-stream.md 8)
    (0x0, True, True, 0, False, True),
    (0x1, True, True, 1, False, False),
    (0x2, True, True, 2, False, False),
    (0x3, True, True, 3, False, False),
    (0x4, True, True, 4, False, False),
    (0x5, False, False, 0, False, False),
    (0x6, False, False, 0, False, False),
    (0x7, False, False, 0, False, False),
    (0x8, False, False, 0, False, False),
    (0x9, True, True, 1, True, False),
    (0xA, True, True, 2, True, False),
    (0xB, True, True, 3, True, False),
    (0xC, True, True, 4, True, False),
    (0xD, False, True, 0, False, True),
    (0xE, False, True, 0, False, True),
    (0xF, False, True, 0, False, True),
)


@pytest.mark.parametrize("row", TYPES, ids=lambda row: f"{row[0]:#x}")
def test_page_type(row: tuple[int, bool, bool, int, bool, bool]) -> None:
    nibble, data, legal, level, pinned, of_hvm = row
    found = pages.PAGE_TYPES[nibble]
    assert (found["has_data"], found["legal"], found["level"], found["pinned"]) == (
        data,
        legal,
        level,
        pinned,
    )
    assert (pages.HAS_DATA[nibble], pages.LEGAL[nibble], pages.LEVEL[nibble]) == (data, legal, level)
    assert pages.OF_HVM[nibble] == found["hvm"] == of_hvm
    if legal:
        assert getattr(PageType, found["name"]) == nibble
        assert data == (nibble & 7 <= 4)
    else:
        assert not hasattr(PageType, found["name"])


def test_page_types_are_all_sixteen() -> None:
    assert [row[0] for row in TYPES] == list(range(16)) == list(range(len(pages.PAGE_TYPES)))
    assert (pages.PAGE_SIZE, 1 << pages.PAGE_SHIFT) == (4096, 4096)


# ---- chunks ----------------------------------------------------------------------------------------------

PARAMETERS = {
    # chunk: HVM parameter (legacy-stream.md 3, v2-stream.md 9)
    -3: 12,
    -4: 15,
    -8: 17,
    -10: 19,
    -11: 9,
    -14: 34,
    -15: 27,
    -16: 28,
    -17: 29,
    -19: 32,
    -20: 33,
    -21: 36,
}
REFUSED = {-5, -6}
PAYLOAD_SIZES = {
    # bytes of a chunk with its id, where they are fixed
    Payload.NOTHING: 4,
    Payload.HVM_PARAM: 16,
    Payload.TSC_INFO: 24,
}


def test_chunks_are_all_there() -> None:
    assert [row.id for row in legacy.CHUNKS] == list(range(0, -22, -1))
    assert len(legacy.CHUNK_BY_ID) == len(legacy.CHUNK_BY_NAME) == len(legacy.CHUNKS)


@pytest.mark.parametrize("row", legacy.CHUNKS, ids=lambda row: row.name)
def test_chunk(row: legacy.ChunkType) -> None:
    assert row.param == PARAMETERS.get(row.id)
    assert (row.payload is Payload.HVM_PARAM) == (row.id in PARAMETERS)
    assert row.guests is (Guest.HVM if row.id in PARAMETERS else Guest.BOTH)
    assert bool(row.refused) == (row.id in REFUSED)


def test_payloads_of_fixed_size() -> None:
    of_payload = {Payload.NOTHING: 0, Payload.HVM_PARAM: legacy.HVM_PARAM.itemsize}
    of_payload[Payload.TSC_INFO] = legacy.TSC_INFO.itemsize
    assert {kind: 4 + size for kind, size in of_payload.items()} == PAYLOAD_SIZES


def test_bounds_of_the_format() -> None:
    assert (legacy.BATCH_MAX, legacy.VCPU_ID_MAX, legacy.SHARED_INFO_SIZE) == (1024, 4095, 4096)
    assert (legacy.PFN_MASK, legacy.TYPE_SHIFT) == (0x0FFFFFFF, 28)
    assert legacy.PHYSMAP_SLACK == {32: 0, 64: 4}
    assert legacy.BLOCK_SIZES == {b"extv": 0, b"xcnt": 4}
    assert legacy.TSC_MODE_MAX == 2


def test_parameters_by_number() -> None:
    assert [int(param) for param in hvm.MAGIC_PARAMS] == [5, 6, 1]
    assert {HvmParam(number).value for number in PARAMETERS.values()} == set(PARAMETERS.values())
    assert (HvmParam.STORE_PFN, HvmParam.CALLBACK_IRQ, HvmParam.MCA_CAP) == (1, 0, 38)


def test_start_of_a_context() -> None:
    head = np.array([(1, 0, 24)], hvm.CONTEXT_RECORD).tobytes()
    assert head + np.array(hvm.CONTEXT_MAGIC, "<u4").tobytes() == hvm.CONTEXT_START


# ---- guests, carriers, device models ---------------------------------------------------------------------


def test_kinds_of_pv_guests() -> None:
    rows = {guest.name: (guest.width, guest.levels, guest.context.itemsize) for guest in vcpu.PV_GUESTS}
    assert rows == {"pv32": (4, 3, 2800), "pv64": (8, 4, 5168)}
    assert {guest.name: guest.frames_per_page for guest in vcpu.PV_GUESTS} == {"pv32": 1024, "pv64": 512}
    assert vcpu.PV_BY_CONTEXT == {2800: vcpu.PV32, 5168: vcpu.PV64}
    assert vcpu.PV_BY_WIDTH == {4: vcpu.PV32, 8: vcpu.PV64}


def test_xsave_records_that_are_cut() -> None:
    assert vcpu.XSAVE_NEEDED == {0: 16, 1: 592, 3: 592, 7: 848}


def test_control_registers() -> None:
    fields = vcpu.CONTEXT_64.fields, vcpu.CONTEXT_32.fields
    assert [at["ctrlreg"][1] + size * vcpu.CR3 for at, size in zip(fields, (8, 4), strict=True) if at] == [
        5008,
        2728,
    ]
    assert vcpu.CR1 == 1


def test_xl_header() -> None:
    assert xl.MAGIC.hex(" ").endswith("74 0a 20 00 20 0d")
    assert (len(xl.MAGIC), xl.MAGIC[:28]) == (32, b"Xen saved domain, xl format\n")
    assert np.array(xl.BYTEORDER, "<u4").tobytes() == bytes.fromhex("04030201")
    assert (xl.FLAG_JSON, xl.FLAG_STREAM_V2) == (1, 2)


def test_records_of_xapi() -> None:
    rows = {row.name: (int(row.type), row.stream) for row in xapi.RECORDS}
    assert rows == {
        "Xenops": (0xF, None),
        "Libxc": (0xF0, "libxc"),
        "Libxl": (0xF1, "libxl"),
        "Libxc_legacy": (0xF2, "legacy"),
        "Qemu_trad": (0xF00, None),
        "Qemu_xen": (0xF01, None),
        "Demu": (0xF10, None),
        "Varstored": (0xF11, None),
        "Swtpm0": (0xF12, None),
        "Swtpm": (0xF13, None),
        "End_of_image": (0xFFFF, None),
    }


def test_device_model_signatures() -> None:
    rows = {row.signature: row.length and row.length.str for row in qemu.DEVICE_MODEL_RECORDS}
    assert rows == {
        b"DeviceModelRecord0002": "<u4",
        b"RemusDeviceModelState": "<u4",
        b"QemuDeviceModelRecord\n": ">u4",
        b"QemuDeviceModelRecord": None,
    }
    assert qemu.SIGNATURE_SIZE == 21
    assert {len(signature.rstrip()) for signature in rows} == {21}
    order = list(rows)
    assert order.index(b"QemuDeviceModelRecord\n") < order.index(b"QemuDeviceModelRecord")


# ---- records and targets ---------------------------------------------------------------------------------

RECORDS = {
    0x00: "END",
    0x01: "PAGE_DATA",
    0x02: "X86_PV_INFO",
    0x03: "X86_PV_P2M_FRAMES",
    0x04: "X86_PV_VCPU_BASIC",
    0x05: "X86_PV_VCPU_EXTENDED",
    0x06: "X86_PV_VCPU_XSAVE",
    0x07: "SHARED_INFO",
    0x08: "X86_TSC_INFO",
    0x09: "HVM_CONTEXT",
    0x0A: "HVM_PARAMS",
    0x0B: "TOOLSTACK",
    0x0C: "X86_PV_VCPU_MSRS",
    0x0D: "VERIFY",
    0x0E: "CHECKPOINT",
    0x0F: "CHECKPOINT_DIRTY_PFN_LIST",
    0x10: "STATIC_DATA_END",
    0x11: "X86_CPUID_POLICY",
    0x12: "X86_MSR_POLICY",
}
"""v2-stream.md 6."""


def test_libxc_records() -> None:
    assert {kind.value: kind.name for kind in libxc.RecordType} == RECORDS
    assert [row.type for row in libxc.RECORDS] == list(RECORDS)
    assert (libxc.RECORD_ALIGN, libxc.OPTIONAL) == (8, 1 << 31)
    assert (libxc.RECORD_MAX_46, libxc.RECORD_MAX_410) == (0x800000, 0x8000000)


def test_libxc_header() -> None:
    assert (libxc.MARKER, libxc.IDENT.to_bytes(4, "big")) == (b"\xff" * 8, b"XENF")
    assert {guest: int(kind) for guest, kind in libxc.DOMAIN_TYPE.items()} == {Guest.PV: 1, Guest.HVM: 2}
    assert (libxc.CONVERTER_MAJOR, libxc.CONVERTER_MINOR) == (0, 1)
    assert (libxc.PFN_TYPE_SHIFT, libxc.PFN_BITS) == (60, 52)


def test_libxl_records() -> None:
    assert [(kind.name, kind.value) for kind in libxl.RecordType] == [
        ("END", 0),
        ("LIBXC_CONTEXT", 1),
        ("EMULATOR_XENSTORE_DATA", 2),
        ("EMULATOR_CONTEXT", 3),
        ("CHECKPOINT_END", 4),
        ("CHECKPOINT_STATE", 5),
    ]
    assert [(kind.name, kind.value) for kind in libxl.DraftRecordType] == [
        ("END", 0),
        ("DOMAIN_JSON", 1),
        ("LIBXC_CONTEXT", 2),
        ("XENSTORE_DATA", 3),
        ("EMULATOR_CONTEXT", 4),
    ]
    assert (libxl.IDENT, libxl.VERSION, libxl.CONVERTED_OPTION) == (b"LibxlFmt", 2, 2)


TARGETS = (
    # name, libxc version, STATIC_DATA_END, libxl numbers, pairs, xl flag, generation id (v2 1, 19.1)
    ("draft-v7", 2, False, (0, 2, 3, 4), False, 1, 32),
    ("xen-4.6", 2, False, (0, 1, 2, 3), True, 2, 34),
    ("xen-4.14", 3, True, (0, 1, 2, 3), True, 2, 34),
)


@pytest.mark.parametrize("row", TARGETS, ids=lambda row: row[0])
def test_target(row: tuple[str, int, bool, tuple[int, ...], bool, int, int]) -> None:
    name, version, static, numbers, pairs, flag, generation = row
    target = targets.TARGET_BY_NAME[TargetName(name)]
    numbering = target.libxl
    found = (numbering.end, numbering.libxc_context, numbering.xenstore_data, numbering.emulator_context)
    assert (target.libxc_version, target.static_data_end, target.xl_flag) == (version, static, flag)
    assert (tuple(int(number) for number in found), numbering.xenstore_pairs) == (numbers, pairs)
    parameter = HvmParam.VM_GENERATION_ID_ADDR
    assert target.param_numbers.get(parameter, parameter) == generation


def test_targets_are_all_there() -> None:
    assert [target.name.value for target in targets.TARGETS] == [row[0] for row in TARGETS]
    unknown = {target.name.value: set(target.params_unknown) for target in targets.TARGETS}
    assert unknown == {"draft-v7": {32, 33, 36}, "xen-4.6": set(), "xen-4.14": set()}
    assert {target.name.value: set(target.params_recent) for target in targets.TARGETS} == {
        "draft-v7": set(),
        "xen-4.6": {36},
        "xen-4.14": set(),
    }
