"""The plain twin against the goldens of v2-stream.md 21, and against single rows of its section 19.13."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from plain.convert import TARGETS, convert
from plain.goldens import GOLDENS, INPUTS, XL_FLAGS, XL_HEADER
from plain.legacy import Batch, Invalid, Unsupported, parse

PAGE_DATA, BASIC, EXTENDED, XSAVE, TSC, PARAMS, VERIFY = 0x01, 0x04, 0x05, 0x06, 0x08, 0x0A, 0x0D
L1, L1_PINNED, L2, L3, BROKEN, XALLOC, XTAB = 0x1, 0x9, 0x2, 0x3, 0xD, 0xE, 0xF

Word = tuple[int, int, bytes | None]


# ------------------------------------------------------------------------------ tiny images, 64-bit toolstack


def filled(byte: int) -> bytes:
    return bytes([byte]) * 4096


def table(*entries: int) -> bytes:
    return struct.pack(f"<{len(entries)}Q", *entries).ljust(4096, b"\0")


def batch(*words: Word) -> bytes:
    """(type, pfn, page or None) of each word."""
    entries = [page_type << 28 | pfn for page_type, pfn, _ in words]
    pages = b"".join(page or b"" for _, _, page in words)
    return struct.pack(f"<i{len(words)}Q", len(words), *entries) + pages


def raw_batch(*entries: int) -> bytes:
    """Entries as given, none of which may carry data."""
    return struct.pack(f"<i{len(entries)}Q", len(entries), *entries)


def param(chunk: int, value: int) -> bytes:
    return struct.pack("<iIQ", chunk, 0xDEAD, value)


def vcpu_map(highest: int, *words: int) -> bytes:
    return struct.pack(f"<ii{len(words)}Q", -2, highest, *words)


def chunk(number: int) -> bytes:
    return struct.pack("<i", number)


def toolstack(*entries: bytes, version: int = 1) -> bytes:
    blob = struct.pack("<II", version, len(entries)) + b"".join(entries)
    return struct.pack("<iI", -18, len(blob)) + blob


def physmap(name: bytes) -> bytes:
    return struct.pack("<QQQI", 0xA0, 0xB0, 0, len(name)) + name + b"\xee" * 4


def block(name: bytes, payload: bytes = b"") -> bytes:
    return name + struct.pack("<I", len(payload)) + payload


VCPU_BLOCK = block(b"vcpu", bytes(5168))
RECORD = b"DeviceModelRecord0002" + struct.pack("<I", 3) + b"dev"
LAST = chunk(-9)


def hvm(*chunks: bytes, record: bytes = RECORD, context: bytes = b"context", p2m_size: int = 0x100) -> bytes:
    tail = struct.pack("<QQQI", 5, 6, 7, len(context)) + context
    return struct.pack("<Q", p2m_size) + b"".join(chunks) + chunk(0) + tail + record


def pv(
    *chunks: bytes,
    unmapped: Sequence[int] = (),
    vcpus: bytes = b"\xc0" * 5168,
    blocks: bytes = VCPU_BLOCK,
    frames: int = 1,
    p2m_size: int = 0x100,
) -> bytes:
    head = struct.pack("<QQI", p2m_size, (1 << 64) - 1, len(blocks)) + blocks + bytes(8 * frames)
    tail = struct.pack(f"<I{len(unmapped)}Q", len(unmapped), *unmapped) + vcpus + filled(0x51)
    return head + b"".join(chunks) + chunk(0) + tail


# ------------------------------------------------------------------------------ what came out


def records(data: bytes, guest: str, target: str = "xen-4.6", **options: Any) -> list[tuple[int, bytes]]:
    """(type, body) of the libxc records, from behind the headers up to END."""
    stream = convert(data, width=64, guest=guest, target=target, format="libxc", **options)
    found = []
    at = 40
    while True:
        number, length = struct.unpack_from("<II", stream, at)
        found.append((number, stream[at + 8 : at + 8 + length]))
        if number == 0:
            return found
        at += 8 + length + -length % 8


def bodies(number: int, found: list[tuple[int, bytes]]) -> list[bytes]:
    return [body for this, body in found if this == number]


def words(data: bytes, guest: str = "pv") -> list[list[Word]]:
    """Of each PAGE_DATA record its (type, pfn, page or None)."""
    out = []
    for body in bodies(PAGE_DATA, records(data, guest)):
        (count,) = struct.unpack_from("<Q", body)  # u32 count, u32 0
        at = 8 + 8 * count
        found: list[Word] = []
        for word in struct.unpack_from(f"<{count}Q", body, 8):
            page = body[at : at + 4096] if word >> 60 < BROKEN else None
            at += len(page or b"")
            found.append((word >> 60, word & (1 << 52) - 1, page))
        assert at == len(body)
        out.append(found)
    return out


def params(*chunks: bytes, target: str = "xen-4.6") -> list[tuple[int, int]]:
    """Entries of PARAMS1, [] where it is absent."""
    found = bodies(PARAMS, records(hvm(*chunks), "hvm", target))
    assert found[-1] == struct.pack("<QQQQQQQ", 3, 5, 5, 6, 6, 1, 7)  # PARAMS2
    if len(found) == 1:
        return []
    count, *numbers = struct.unpack(f"<{len(found[0]) // 8}Q", found[0])
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    assert len(found) == 2
    assert len(pairs) == count > 0
    return pairs


# ------------------------------------------------------------------------------ goldens


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_are_those_of_the_specification(name: str) -> None:
    data, _, _, size, sha256 = INPUTS[name]
    assert len(data) == size
    assert sha256 in (None, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(("name", "target", "format_", "size", "sha256"), GOLDENS)
def test_goldens(name: str, target: str, format_: str, size: int, sha256: str) -> None:
    data, width, guest, _, _ = INPUTS[name]
    out = convert(data, width=width, guest=guest, target=target, format=format_)
    assert len(out) == size
    assert hashlib.sha256(out).hexdigest() == sha256


@pytest.mark.parametrize(("target", "format_"), XL_FLAGS)
def test_xl_header_is_kept_and_flagged(target: str, format_: str) -> None:
    bare = convert(INPUTS["H"].data, width=64, guest="hvm", target=target, format=format_)
    out = convert(INPUTS["xl-H"].data, width=64, guest="hvm", target=target, format=format_)
    header = XL_HEADER[:36] + struct.pack("<I", XL_FLAGS[target, format_]) + XL_HEADER[40:]
    assert out == header + bare


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(32, 0x04030201, id="byte order"),
        pytest.param(44, 3, id="no room for a length"),
        pytest.param(44, 1 << 20, id="beyond the file"),
        pytest.param(48, 3, id="configuration beyond the optional data"),
    ],
)
def test_bad_xl_header(offset: int, value: int) -> None:
    data = bytearray(INPUTS["xl-H"].data)
    struct.pack_into("<I", data, offset, value)
    with pytest.raises(Invalid):
        convert(bytes(data), width=64, guest="hvm", target="xen-4.6")


def test_automatic_format() -> None:
    def auto(data: bytes) -> bytes:
        return convert(data, width=64, guest="hvm", target="xen-4.6")

    assert auto(hvm()).startswith(b"LibxlFmt")
    assert auto(hvm(record=b"")).startswith(b"\xff" * 8 + b"XENF")
    assert auto(XL_HEADER + hvm())[len(XL_HEADER) :].startswith(b"LibxlFmt")
    with pytest.raises(Invalid, match="device-model record"):
        auto(XL_HEADER + hvm(record=b""))


def test_skipping_the_device_model() -> None:
    data = hvm(record=b"QemuDeviceModelRecord" + b"QEVM")
    skipped = convert(data, width=64, guest="hvm", target="xen-4.6", format="libxc", skip_qemu=True)
    kept = convert(hvm(), width=64, guest="hvm", target="xen-4.6", format="libxc")
    assert kept == skipped + RECORD
    libxl = convert(hvm(), width=64, guest="hvm", target="xen-4.6", format="libxl", skip_qemu=True)
    assert b"dev" in libxl


# ------------------------------------------------------------------------------ batches


def test_d1_a_batch_without_pages_gives_no_record() -> None:
    assert words(hvm(raw_batch(0xF0000000, 0xF0000000)), "hvm") == []


@pytest.mark.parametrize("entry", [0xF0000000, 0xF0000001, 0xFFFFFFFF, 0xFFFFFFFF_F0000002])
def test_d17_xtab_words_are_dropped_whatever_their_low_bits(entry: int) -> None:
    assert words(pv(raw_batch(0xD0000003, entry, 0xE0000004))) == [[(BROKEN, 3, None), (XALLOC, 4, None)]]


@pytest.mark.parametrize(
    "entry", [0x1_D0000003, 0xFFFFFFFE_D0000003, 0xFFFFFFFF_00000003, 0x80000000_F0000000]
)
def test_d5_upper_half_of_a_word(entry: int) -> None:
    with pytest.raises(Invalid, match="upper half"):
        parse(pv(raw_batch(entry)), 64, "pv")


def test_d5_sign_extension_is_accepted() -> None:
    assert words(pv(raw_batch(0xFFFFFFFF_D0000003))) == [[(BROKEN, 3, None)]]


@pytest.mark.parametrize("page_type", [5, 6, 7, 8])
def test_d6_page_types(page_type: int) -> None:
    with pytest.raises(Invalid, match="page type"):
        parse(pv(batch((page_type, 3, filled(0)))), 64, "pv")


def test_d31_pfns_end_at_p2m_size() -> None:
    assert words(pv(raw_batch(0xD00000FF))) == [[(BROKEN, 0xFF, None)]]
    with pytest.raises(Invalid, match="pfn"):
        parse(pv(raw_batch(0xD0000100)), 64, "pv")


def test_d21_equal_words_are_kept() -> None:
    twice: list[Word] = [(0, 3, filled(1)), (0, 3, filled(2))]
    assert words(hvm(batch(*twice)), "hvm") == [twice]


def test_d16_verify_record_stands_where_the_chunk_stood() -> None:
    tsc = struct.pack("<iIQII", -7, 1, 2, 3, 4)
    page = batch((0, 3, filled(1)))
    found = records(hvm(page, chunk(-1), tsc, page), "hvm")
    assert [number for number, _ in found[:4]] == [PAGE_DATA, VERIFY, TSC, PAGE_DATA]
    assert found[1] == (VERIFY, b"")
    assert found[2] == (TSC, struct.pack("<IIQII", 1, 3, 2, 4, 0))


# ------------------------------------------------------------------------------ D22: pages given back


MAPS_9 = table(0, 0, 0x8000_0000_0000_9067)  # present, NX, pfn 9
LAST_ENTRY_MAPS_9 = bytes(4088) + struct.pack("<Q", 0x9001)
NOT_PRESENT_9 = table(0x9066)
MAPS_OTHERS = table(0xA067, 0x1_0000_0000_9067)  # pfns 10 and 0x100000009


def test_d22a_every_word_of_a_listed_pfn_goes() -> None:
    data = pv(
        batch((0, 8, filled(8)), (0, 9, filled(9)), (0, 10, filled(10))),
        batch((XALLOC, 9, None)),
        batch((BROKEN, 9, None), (L1, 11, table())),
        unmapped=[9, 0x100],  # the second is no pfn of the guest: ignored
    )
    assert words(data) == [[(0, 8, filled(8)), (0, 10, filled(10))], [(L1, 11, table())]]


@pytest.mark.parametrize("page_type", [1, 2, 3, 4, 9, 0xA, 0xB, 0xC])
@pytest.mark.parametrize("page", [MAPS_9, LAST_ENTRY_MAPS_9], ids=["third", "last"])
def test_d22b_superseded_table_that_maps_a_listed_pfn_goes(page_type: int, page: bytes) -> None:
    early: Word = (page_type, 3, page)
    final: Word = (L1, 3, MAPS_9)  # the last copy stays, whatever it maps
    assert words(pv(batch(early), batch(final), unmapped=[9])) == [[final]]
    assert words(pv(batch(early), batch(final))) == [[early], [final]]
    assert words(pv(batch(early, final), unmapped=[9])) == [[final]]


@pytest.mark.parametrize(
    "early",
    [
        pytest.param((L1, 3, NOT_PRESENT_9), id="entry not present"),
        pytest.param((L1_PINNED, 3, MAPS_OTHERS), id="other pfns"),
        pytest.param((0, 3, MAPS_9), id="no table"),
    ],
)
def test_d22b_other_superseded_pages_stay(early: Word) -> None:
    final: Word = (L1, 3, table())
    assert words(pv(batch(early), batch(final), unmapped=[9])) == [[early], [final]]


def test_d22_ignores_listed_pfns_beyond_p2m_size() -> None:
    early: Word = (L1, 3, table(0x100 << 12 | 1))
    assert words(pv(batch(early, early), unmapped=[0x100])) == [[early, early]]


@pytest.mark.parametrize("later", [(BROKEN, 3, None), (XALLOC, 3, None), (0, 3, filled(0))])
def test_d22b_any_later_mention_supersedes(later: Word) -> None:
    assert words(pv(batch((L1, 3, MAPS_9)), batch(later), unmapped=[9])) == [[later]]


def test_d22b_an_xtab_word_is_no_mention() -> None:
    only: Word = (L1, 3, MAPS_9)
    assert words(pv(batch(only), batch((XTAB, 3, None)), unmapped=[9])) == [[only]]


def test_d22b_counts_apart_on_both_sides_of_verify() -> None:
    old: Word = (L1, 3, MAPS_9)
    new: Word = (L1, 3, LAST_ENTRY_MAPS_9)
    data = pv(batch(old), batch(new), chunk(-1), batch(old), batch(new), unmapped=[9])
    assert words(data) == [[new], [new]]
    data = pv(batch(old), chunk(-1), batch(new), unmapped=[9])
    assert words(data) == [[old], [new]]
    data = pv(batch((0, 9, filled(1))), chunk(-1), batch((0, 9, filled(1)), new), unmapped=[9])
    assert words(data) == [[new]]  # (a) knows no parts


# ------------------------------------------------------------------------------ vcpus


def xsave(accum: int, size: int) -> bytes:
    """A record as it stands in a tail: mask, size, then xcr0, xcr0_accum and the area."""
    body = struct.pack("<QQ", 0x77, accum) + bytes(index % 251 for index in range(size - 16))
    return struct.pack("<QQ", 0xFF, size) + body


XCNT = VCPU_BLOCK + block(b"xcnt", struct.pack("<I", 16 + 848))


@pytest.mark.parametrize(
    ("accum", "size", "kept"),
    [
        (0, 16, 16), (0, 17, 16), (0, 864, 16),
        (1, 592, 592), (1, 656, 592), (3, 593, 592), (1, 16, 16),
        (7, 848, 848), (7, 1000, 848), (7, 592, 592),
        (2, 864, 864), (15, 1000, 1000), (1 << 62 | 7, 864, 864),
    ],
)  # fmt: skip
def test_d25_xsave_is_cut_to_what_xcr0_accum_needs(accum: int, size: int, kept: int) -> None:
    record = xsave(accum, size)
    found = records(pv(blocks=XCNT, vcpus=b"\xc0" * 5168 + record), "pv")
    assert bodies(XSAVE, found) == [bytes(8) + record[16 : 16 + kept]]


def test_d4_each_vcpu_has_its_own_xsave_size() -> None:
    vcpus = b"".join(b"\xc0" * 5168 + xsave(15, size) for size in (16, 600))
    found = records(pv(vcpu_map(1, 3), blocks=XCNT, vcpus=vcpus), "pv")
    assert [len(body) for body in bodies(XSAVE, found)] == [8 + 16, 8 + 600]


@pytest.mark.parametrize("size", [15, 64 * 1024 + 1])
def test_xsave_size_out_of_bounds(size: int) -> None:
    record = struct.pack("<QQ", 0xFF, size) + bytes(size)
    with pytest.raises(Invalid, match="xsave"):
        parse(pv(blocks=XCNT, vcpus=bytes(5168) + record), 64, "pv")


def contexts(*bytes_: int) -> bytes:
    return b"".join(bytes([byte]) * 5168 for byte in bytes_)


@pytest.mark.parametrize(
    ("chunks", "online"),
    [
        pytest.param([], [0], id="D3 no map"),
        pytest.param([vcpu_map(1, 0b11)], [0, 1], id="two"),
        pytest.param([vcpu_map(2, 0b1101)], [0, 2], id="D9 a bit above the highest id"),
        pytest.param([vcpu_map(63, 1 << 63)], [63], id="last bit of the first word"),
        pytest.param([vcpu_map(64, 1, 0b11)], [0, 64], id="D9 in the second word"),
        pytest.param([vcpu_map(3, 0b1111), vcpu_map(0, 1)], [0], id="D8 the second map replaces"),
    ],
)
def test_online_vcpus(chunks: list[bytes], online: list[int]) -> None:
    found = bodies(BASIC, records(pv(*chunks, vcpus=contexts(*online)), "pv"))
    assert found == [struct.pack("<II", vcpu, 0) + contexts(vcpu) for vcpu in online]


@pytest.mark.parametrize("highest", [-1, 4096])
def test_d10_highest_vcpu_id(highest: int) -> None:
    with pytest.raises(Invalid, match="vcpu id"):
        parse(pv(vcpu_map(highest, *[0] * 65)), 64, "pv")


def test_extended_contexts_follow_extv() -> None:
    found = records(pv(blocks=VCPU_BLOCK + block(b"extv"), vcpus=contexts(1) + b"\xe7" * 128), "pv")
    assert bodies(EXTENDED, found) == [bytes(8) + b"\xe7" * 128]


# ------------------------------------------------------------------------------ parameters


def test_parameter_numbers() -> None:
    chunks = [-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20, -21]
    numbers = [12, 15, 17, 19, 9, 34, 27, 28, 29, 32, 33, 36]
    assert params(*(param(number, 1) for number in chunks)) == [(number, 1) for number in numbers]
    assert params(param(-14, 5), target="draft-v7") == [(32, 5)]  # D14
    assert params(param(-3, 1), param(-3, 2)) == [(12, 1), (12, 2)]  # repeats are kept


@pytest.mark.parametrize(("value", "kept"), [(0, False), (1, True), (2, False), (1 << 32 | 1, False)])
def test_d18_ioports_location_only_if_1(value: int, kept: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert params(param(-10, value)) == ([(19, value)] if kept else [])


@pytest.mark.parametrize(
    ("chunks", "kept"),
    [
        pytest.param([(-19, 7)], [], id="-19 alone"),
        pytest.param([(-20, 7)], [], id="-20 alone"),
        pytest.param([(-19, 7), (-20, 0)], [], id="one is 0"),
        pytest.param([(-20, 8), (-3, 1), (-19, 7)], [(33, 8), (12, 1), (32, 7)], id="order of arrival"),
        pytest.param([(-19, 7), (-20, 8), (-19, 0)], [], id="the last value is 0"),
        pytest.param([(-19, 0), (-20, 8), (-19, 9)], [(33, 8), (32, 9)], id="the first value is 0"),
        pytest.param([(-19, 7), (-20, 8), (-19, 9)], [(32, 7), (33, 8), (32, 9)], id="a repeat"),
    ],
)
def test_d19_ioreq_server_pages_only_as_a_pair(
    chunks: list[tuple[int, int]], kept: list[tuple[int, int]]
) -> None:
    assert params(*(param(*pair) for pair in chunks)) == kept


@pytest.mark.parametrize("number", [-3, -4, -8, -11, -14, -15, -16, -17, -21])
def test_d24_d20_zero_is_no_parameter(number: int) -> None:
    assert params(param(number, 0)) == []
    assert len(params(param(number, 0), param(-3, 1), param(number, 2))) == 2


@pytest.mark.parametrize("number", [-19, -20, -21])
def test_draft_does_not_know_the_newest_parameters(number: int) -> None:
    with pytest.raises(Unsupported, match="draft-v7"):
        convert(hvm(param(number, 0)), width=64, guest="hvm", target="draft-v7")


def test_hvm_parameters_in_a_pv_image() -> None:
    with pytest.raises(Invalid, match="HVM parameters"):
        parse(pv(param(-3, 0)), 64, "pv")


# ------------------------------------------------------------------------------ toolstack data


def xenstore(*chunks: bytes, target: str = "xen-4.6", guest: str = "hvm") -> bytes:
    """What a libxl stream has between the END of its libxc stream and its EMULATOR_CONTEXT or END."""
    image = hvm if guest == "hvm" else pv
    libxl = convert(image(*chunks), width=64, guest=guest, target=target, format="libxl")
    libxc = convert(image(*chunks), width=64, guest=guest, target=target, format="libxc", skip_qemu=True)
    assert libxl[24 : 24 + len(libxc)] == libxc
    emulator = struct.pack("<IIQ", TARGETS[target].emulator_context, 11, 0) + b"dev" + bytes(5)
    rest = libxl[24 + len(libxc) :].removesuffix(bytes(8))
    return rest.removesuffix(emulator) if guest == "hvm" else rest


def emulator_xenstore(pairs: bytes) -> bytes:
    body = bytes(8) + pairs
    return struct.pack("<II", 2, len(body)) + body + bytes(-len(body) % 8)


def test_d2_physmap_without_a_name_gives_two_pairs() -> None:
    unnamed = b"physmap/a0/start_addr\0b0\0physmap/a0/size\x000\0"
    named = unnamed + b"physmap/a0/name\0vga\0"
    assert xenstore(toolstack(physmap(b""), physmap(b"vga\0"))) == emulator_xenstore(unnamed + named)
    twice = [toolstack(physmap(b"")), struct.pack("<iI", -18, 0), toolstack(physmap(b"vga\0"))]
    assert xenstore(*twice) == emulator_xenstore(unnamed + named)


@pytest.mark.parametrize("guest", ["pv", "hvm"])
def test_toolstack_data_without_entries(guest: str) -> None:
    assert xenstore(toolstack(), guest=guest) == b""
    blob = struct.pack("<IIII", 3, 8, 1, 0)
    assert xenstore(toolstack(), struct.pack("<iI", -18, 0), target="draft-v7", guest=guest) == blob


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(toolstack(physmap(b"vga")), id="no NUL"),
        pytest.param(toolstack(physmap(b"v\0a\0")), id="D13 NUL inside"),
        pytest.param(toolstack(physmap(b"vga\0")[:30]), id="name beyond"),
        pytest.param(toolstack(physmap(b"vga\0")[:27]), id="entry beyond"),
        pytest.param(toolstack(version=2), id="version"),
        pytest.param(struct.pack("<iII", -18, 4, 1), id="short"),
    ],
)
def test_bad_toolstack_data(bad: bytes) -> None:
    with pytest.raises(Invalid):
        xenstore(bad)
    records(hvm(bad), "hvm")  # libxc format drops it unread


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("p2m_size", [0, (1 << 28) + 1])
def test_d12_p2m_size(p2m_size: int) -> None:
    with pytest.raises(Invalid, match="p2m_size"):
        parse(hvm(p2m_size=p2m_size), 64, "hvm")


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(block(b"extv"), id="D11 no vcpu block"),
        pytest.param(VCPU_BLOCK + VCPU_BLOCK, id="D11 two vcpu blocks"),
        pytest.param(block(b"vcpu", bytes(100)), id="size of the vcpu block"),
        pytest.param(VCPU_BLOCK + block(b"extv", bytes(4)), id="extv with a payload"),
        pytest.param(VCPU_BLOCK + block(b"xcnt", bytes(8)), id="xcnt of 8 bytes"),
        pytest.param(VCPU_BLOCK + block(b"xcnt", struct.pack("<I", 15)), id="xcnt 15"),
        pytest.param(VCPU_BLOCK + b"extv" + struct.pack("<I", 1), id="longer than the rest"),
        pytest.param(VCPU_BLOCK + b"ext", id="half a head"),
    ],
)
def test_bad_extended_information(blocks: bytes) -> None:
    with pytest.raises(Invalid):
        parse(pv(blocks=blocks), 64, "pv")


def test_d26_unknown_blocks_are_skipped() -> None:
    assert records(pv(blocks=block(b"news", b"abc") + VCPU_BLOCK), "pv") == records(pv(), "pv")


def test_d27_empty_hvm_context() -> None:
    with pytest.raises(Invalid, match="HVM context"):
        parse(hvm(context=b""), 64, "hvm")


@pytest.mark.parametrize("number", [-22, 1025, -(1 << 31)])
def test_unknown_chunks(number: int) -> None:
    with pytest.raises(Invalid, match="chunk"):
        parse(hvm(chunk(number)), 64, "hvm")


# ------------------------------------------------------------------------------ tmem


def pool(number: int, flags: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<3I", number, flags, count) + bytes(16) + body


def entry(oid: bytes, size: int = 4096) -> bytes:
    return oid + struct.pack("<I", 7) + b"\x5a" * size


def tmem(*pools: bytes, ones: int = 0xFFFFFFFF) -> bytes:
    return struct.pack("<i7I", -5, 1, 16, ones, 0, 0, 0, ones) + b"".join(pools) + b"\xff" * 4


def tmem_extra(*oids: bytes) -> bytes:
    entries = (struct.pack("<I", 3) + oid + struct.pack("<I", 9) for oid in oids)
    return struct.pack("<i", -6) + b"".join(entries) + b"\xff" * 4


PAGE_9 = batch((0, 9, filled(9)))


@pytest.mark.parametrize("size", [8, 24])
@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(lambda _: [tmem()], id="no pool"),
        pytest.param(lambda oid: [tmem(pool(0, 1, 2, entry(oid) * 2), pool(1, 0, 0))], id="two pools"),
        pytest.param(lambda oid: [tmem(pool(0, 0x21, 1, entry(oid, 16384)))], id="larger pages"),
        pytest.param(lambda oid: [tmem(pool(0, 1, 9, entry(oid) + b"\xff" * len(oid)))], id="early end"),
        pytest.param(lambda oid: [tmem(pool(0, 1, 1, entry(oid))), tmem_extra(oid, oid)], id="-6 too"),
        pytest.param(lambda _: [tmem_extra()], id="-6 alone"),
    ],
)
def test_tmem_is_dropped_if_wanted(chunks: Callable[[bytes], list[bytes]], size: int) -> None:
    there = chunks(b"\x11" * size)
    with pytest.raises(Unsupported, match="tmem"):
        records(pv(*there, PAGE_9), "pv")
    assert records(pv(*there, PAGE_9), "pv", drop_tmem=True) == records(pv(PAGE_9), "pv")


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(tmem(ones=0), id="separator"),
        pytest.param(tmem(pool(0, 0x31, 1, entry(bytes(8), 32768))), id="page size"),
        pytest.param(tmem(pool(0, 1, 2, entry(bytes(8)))), id="a page too few"),
        pytest.param(tmem_extra(bytes(24))[:-4], id="no end"),
    ],
)
def test_bad_tmem(bad: bytes) -> None:
    with pytest.raises(Invalid, match="tmem"):
        parse(pv(bad, PAGE_9), 64, "pv", drop_tmem=True)


# ------------------------------------------------------------------------------ generations


QEVM = b"QEVM\0\0\0"
LENGTH_8 = struct.pack(">Q", 3)


@pytest.mark.parametrize(
    ("record", "state"),
    [
        pytest.param(b"RemusDeviceModelState" + struct.pack("<I", 3) + b"dev", b"dev", id="Remus"),
        pytest.param(b"QemuDeviceModelRecord\n" + struct.pack(">I", 3) + b"dev", b"dev", id="XenServer"),
        pytest.param(b"QemuDeviceModelRecord" + QEVM + b"\3dev\0", QEVM + b"\3dev\0", id="to the end"),
        pytest.param(
            b"QemuDeviceModelRecord" + QEVM + b"\2" + LENGTH_8 + b"dev", QEVM + b"\2" + LENGTH_8 + b"dev",
            id="its own length",
        ),
        pytest.param(b"QemuDeviceModelRecord" + QEVM + b"\2dev", QEVM + b"\2dev", id="too short for one"),
    ],
)  # fmt: skip
def test_d7_device_model_records(record: bytes, state: bytes) -> None:
    libxc = convert(hvm(record=record), width=64, guest="hvm", target="xen-4.6", format="libxc")
    assert libxc.endswith(bytes(8) + record)
    libxl = convert(hvm(record=record), width=64, guest="hvm", target="xen-4.6", format="libxl")
    body = bytes(8) + state
    assert libxl.endswith(struct.pack("<II", 3, len(body)) + body + bytes(-len(body) % 8) + bytes(8))


def test_d7_what_follows_a_state_of_known_length_is_no_part_of_it() -> None:
    record = b"QemuDeviceModelRecord" + QEVM + b"\2" + LENGTH_8 + b"dev"
    data = hvm(LAST, record=record)
    assert parse(data + bytes(99), 64, "hvm").end == len(data)
    with pytest.raises(Invalid):
        parse(data[:-1], 64, "hvm")


@pytest.mark.parametrize("context", [2800, 5168])
def test_d30_pv_image_without_extended_information(context: int) -> None:
    word, width = {2800: ("I", 32), 5168: ("Q", 64)}[context]
    data = struct.pack(f"<{word}{word}iI", 0x100, 5, 0, 0) + b"\xc3" * context + filled(0x51)
    image = parse(data, width, "pv")
    assert image.pv is not None
    assert (image.pv.guest_width, image.pv.levels) == {2800: (4, 3), 5168: (8, 4)}[context]
    assert (image.pv.frames, len(image.pv.vcpus), image.online) == ((5,), 1, (0,))
    (vcpu,) = image.pv.vcpus
    assert (vcpu.context, vcpu.extended, vcpu.xsave) == (b"\xc3" * context, None, None)


def two_level(*pages: Word, cr3: int, p2m_size: int = 0x100) -> bytes:
    context = bytearray(2800)
    struct.pack_into("<I", context, 2728, cr3)
    return pv(
        batch(*pages),
        blocks=block(b"vcpu", bytes(2800)),
        vcpus=bytes(context),
        frames=-(-p2m_size // 1024),
        p2m_size=p2m_size,
    )


@pytest.mark.parametrize("page_type", [L2, L2 | 8])
@pytest.mark.parametrize("cr3", [0x3000, 0x3123])
def test_d29_two_level_guests(page_type: int, cr3: int) -> None:
    top: Word = (page_type, 3, table())
    with pytest.raises(Unsupported, match="two-level"):
        parse(two_level(top, cr3=cr3), 64, "pv")
    assert parse(two_level(top, (L3, 4, table()), cr3=cr3), 64, "pv").pv  # an L3 table: PAE
    assert parse(two_level((L1, 3, table()), cr3=cr3), 64, "pv").pv
    assert parse(two_level(top, cr3=0x4000), 64, "pv").pv


def test_d29_cr3_folded_as_pae_does() -> None:
    with pytest.raises(Unsupported, match="two-level"):
        parse(two_level((L2, 0x100003, table()), cr3=0x3001, p2m_size=0x100100), 64, "pv")


# ------------------------------------------------------------------------------ checkpoints


def later(image: Callable[..., bytes], *chunks: bytes, **options: Any) -> bytes:
    """A checkpoint behind the first: `image` without what precedes its body."""
    size = len(image()) - len(image()[image().rindex(chunk(0) + tail_of(image)) :])
    return image(*chunks, **options)[size:]


def tail_of(image: Callable[..., bytes]) -> bytes:
    return struct.pack("<QQQ", 5, 6, 7) if image is hvm else struct.pack("<I", 0) + b"\xc0" * 16


ONLINE = vcpu_map(0, 1)


@pytest.mark.parametrize(("image", "guest"), [(pv, "pv"), (hvm, "hvm")])
def test_d28_checkpoints(image: Callable[..., bytes], guest: str) -> None:
    page, other = batch((0, 3, filled(1))), batch((0, 3, filled(2)))
    first = image(page, ONLINE)
    second = first + later(image, other, ONLINE)
    found = parse(second, 64, guest)
    assert (found.checkpoints, found.end) == (2, len(second))
    assert words(second, guest) == [[(0, 3, filled(1))], [(0, 3, filled(2))]]
    third = later(image, batch((0, 4, filled(3))), ONLINE)
    for size in range(0, len(third), 7):
        assert parse(second + third[:size], 64, guest).body == found.body
    for trailing in (bytes(16384), b"\xff" * 8, later(image, other)):  # the last has no chunk -2
        assert parse(first + trailing, 64, guest).end == len(first)
    closed = image(page, ONLINE, LAST)
    assert parse(closed + third, 64, guest).end == len(closed)


def test_d28_the_last_tail_counts() -> None:
    data = pv(PAGE_9, ONLINE, unmapped=[9], vcpus=contexts(1))
    data += later(pv, vcpu_map(1, 3), vcpus=contexts(2, 3), unmapped=[4])
    image = parse(data, 64, "pv")
    assert image.pv is not None
    assert (image.online, image.pv.unmapped) == ((0, 1), (4,))
    assert [vcpu.context for vcpu in image.pv.vcpus] == [contexts(2), contexts(3)]
    assert words(data) == [[(0, 9, filled(9))]]  # listed before, and no more


def test_d28_parameters_and_toolstack_data() -> None:
    data = hvm(param(-3, 1), param(-8, 2), param(-3, 3), toolstack(physmap(b"a\0")), ONLINE)
    data += later(hvm, ONLINE, param(-3, 4), param(-11, 5), toolstack(physmap(b"b\0")))
    image = parse(data + later(hvm, ONLINE, record=RECORD[:-1] + b"x"), 64, "hvm")
    assert image.params == ((-3, 1), (-8, 2), (-3, 4), (-11, 5))
    assert [blob[36:38] for blob in image.toolstack] == [b"b\0"]
    assert image.hvm is not None
    assert image.hvm.record is not None
    assert image.hvm.record.state == b"dex"


COMPRESSION = chunk(-13)


def encoded(*pages: bytes) -> bytes:
    data = b"".join(pages)
    return struct.pack("<iQ", -12, len(data)) + data


def heads(*pfns: int) -> bytes:
    return raw_batch(*pfns)


WORD_2 = b"\x82\x01\x11\x22\x33\x44" + b"\xff" * 8 + b"\x85"


def test_compressed_checkpoints() -> None:
    data = hvm(batch((0, 3, filled(1)), (0, 4, filled(2))), ONLINE, COMPRESSION)
    data += later(hvm, heads(3, 0xE0000005, 4), encoded(b"\x80" + filled(7), WORD_2), ONLINE)
    changed = filled(2)[:8] + b"\x11\x22\x33\x44" + filled(2)[12:]
    assert words(data, "hvm")[1:] == [[(0, 3, filled(7)), (XALLOC, 5, None), (0, 4, changed)]]
    data += later(hvm, heads(4), encoded(b""), heads(3), encoded(b"\0"), encoded(b"\0!"), ONLINE)
    assert words(data, "hvm")[2:] == [[(0, 4, changed)], [(0, 3, filled(7))]]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param([heads(3), encoded()], id="no data"),
        pytest.param([heads(3), encoded(b"\x81" + WORD_2)], id="beyond the page"),
        pytest.param([heads(3), encoded(b"\x82\x80")], id="a run of no words"),
        pytest.param([heads(5), encoded(b"\0")], id="no base"),
        pytest.param([encoded(b"\0"), heads(3)], id="data before its batch"),
        pytest.param([heads(3), struct.pack("<iQ", -12, 1 << 25)], id="length"),
    ],
)
def test_bad_compressed_checkpoints_are_dropped(bad: list[bytes]) -> None:
    data = hvm(batch((0, 3, filled(1))), ONLINE, COMPRESSION)
    assert parse(data + later(hvm, *bad, ONLINE), 64, "hvm").end == len(data)


def test_compressed_data_in_a_plain_body() -> None:
    with pytest.raises(Invalid, match="not compressed"):
        parse(hvm(COMPRESSION, encoded(b"\0")), 64, "hvm")


def test_a_record_behind_a_pv_guest_is_dropped() -> None:
    data = pv()
    assert records(data + RECORD, "pv") == records(data, "pv")
    assert parse(data + RECORD, 64, "pv").end == len(data + RECORD)


def test_every_truncation_is_invalid() -> None:
    data, width, guest, _, _ = INPUTS["H"]
    without_record = data.index(b"DeviceModelRecord0002")
    for size in range(len(data)):
        if size != without_record:
            with pytest.raises(Invalid):
                parse(data[:size], width, guest)
    data, width, guest, _, _ = INPUTS["V"]
    for size in range(0, len(data), 61):
        with pytest.raises(Invalid):
            parse(data[:size], width, guest)


def test_image_keeps_what_a_reader_wants_to_know() -> None:
    image = parse(INPUTS["V"].data, 32, "pv")
    assert image.pv is not None
    assert (image.p2m_size, image.pv.guest_width, image.pv.levels) == (0x402, 4, 3)
    assert (image.pv.frames, image.pv.unmapped, image.online) == ((0x10, 0x11), (0x13,), (0,))
    first = image.body[0]
    assert isinstance(first, Batch)
    assert [(word.type, word.pfn) for word in first.words] == [(0, 0x10), (2, 0x11), (XTAB, 0x12)]
    assert image.end == len(INPUTS["V"].data)
