"""The synthetic images: the same bytes every time, and what a saver of Xen 4.5 would have written."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from xenmig_np.errors import UsageError
from xenmig_np.options import SampleGuest, Width
from xenmig_np.sample import SampleOptions, image, memory, sample_image, sample_size

if TYPE_CHECKING:
    from collections.abc import Iterator

HVM, PV64, PV32 = SampleGuest.HVM, SampleGuest.PV64, SampleGuest.PV32
MIB = 1 << 20
PAGE = 4096
ZERO = bytes(PAGE)
XALLOC, XTAB = 0xE, 0xF
WORD = {32: "I", 64: "Q"}
CONTEXT = {PV64: 5168, PV32: 2800}

ALL = [
    SampleOptions(guest, width, 6 * MIB, live, seed=3)
    for guest, width, live in itertools.product(SampleGuest, Width, (False, True))
]
LIVE = [options for options in ALL if options.live]
PLAIN = [options for options in ALL if not options.live]
PV = [options for options in ALL if options.guest is not HVM]
PV_LIVE = [options for options in PV if options.live]


def name(options: object) -> str | None:
    """How a test is called that has these options."""
    if not isinstance(options, SampleOptions):
        return None
    live = "-live" if options.live else ""
    return f"{options.guest.value}-{options.width.value}{live}"


def made(options: SampleOptions) -> bytes:
    return b"".join(bytes(piece) for piece in sample_image(options))


@dataclass
class Sent:
    """One page word."""

    pfn: int
    type: int
    page: bytes


@dataclass
class Walked:
    """An image taken apart with nothing but struct."""

    p2m_size: int = 0
    frames: tuple[int, ...] = ()
    batches: list[list[Sent]] = field(default_factory=list)
    chunks: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Id, number of batches before it, payload."""
    unmapped: tuple[int, ...] = ()
    vcpus: list[bytes] = field(default_factory=list)
    shared_info: bytes = b""
    magic: tuple[int, ...] = ()
    context: bytes = b""
    device_model: bytes = b""
    left: int = 0

    def words(self) -> Iterator[Sent]:
        return itertools.chain.from_iterable(self.batches)

    def last(self) -> dict[int, Sent]:
        """The last copy of each pfn, without what the tail takes back."""
        return {
            sent.pfn: sent for sent in self.words() if sent.type != XTAB and sent.pfn not in self.unmapped
        }

    def copies(self, pfn: int) -> list[Sent]:
        return [sent for sent in self.words() if sent.type != XTAB and sent.pfn == pfn]


class Bytes:
    """Reads structs one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def get(self, form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))


def walk(data: bytes, guest: SampleGuest, width: int) -> Walked:
    source, out, word = Bytes(data), Walked(), WORD[width]
    (out.p2m_size,) = source.get(word)
    if guest is not HVM:
        walk_head(source, out, guest, width)
    while True:
        (number,) = source.get("i")
        if number == 0:
            break
        if number > 0:
            words = source.get(f"{number}{word}")
            kinds = [(entry & 0xFFFFFFF, entry >> 28) for entry in words]
            out.batches.append([Sent(p, t, source.take(PAGE) if t < 0xD else b"") for p, t in kinds])
            continue
        sizes = {-2: 12, -7: 20, -9: 0}
        size = source.get("I")[0] if number == -18 else sizes.get(number, 12)
        out.chunks.append((number, len(out.batches), source.take(size)))
    if guest is HVM:
        out.magic = source.get("3Q")
        out.context = source.take(source.get("I")[0])
        assert source.take(21) == b"DeviceModelRecord0002"
        out.device_model = source.take(source.get("I")[0])
    else:
        out.unmapped = source.get(f"{source.get('I')[0]}{word}")
        for _ in range(2):
            context = source.take(CONTEXT[guest] + 128)
            mask, size = source.get("QQ")
            assert mask == 7
            out.vcpus.append(context + source.take(size))
        out.shared_info = source.take(PAGE)
    out.left = len(data) - source.at
    return out


def walk_head(source: Bytes, out: Walked, guest: SampleGuest, width: int) -> None:
    assert source.take(width // 8) == b"\xff" * (width // 8)
    end = source.get("I")[0] + source.at
    blocks = {}
    while source.at < end:
        name = source.take(4)
        blocks[name] = source.take(source.get("I")[0])
    assert list(blocks) == [b"vcpu", b"extv", b"xcnt"]
    assert len(blocks[b"vcpu"]) == CONTEXT[guest]
    assert struct.unpack("<I", blocks[b"xcnt"]) == (16 + 848,)
    per_frame = 512 if guest is PV64 else 1024
    out.frames = source.get(f"{-(-out.p2m_size // per_frame)}{WORD[width]}")


# ---- the bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        (SampleOptions(memory=MIB), "d50a6a7a47af08102203f3d8559858e13d234644e3e22044dd6f7c59055fcca2"),
        (
            SampleOptions(HVM, Width.BITS_32, MIB, live=True, xl=True, seed=7, zeros=0.5),
            "44889ab1ebdec922c59e194cab9572c0b2adfb932ffda87e9a3c2e6015b0a0be",
        ),
        (SampleOptions(PV64, memory=MIB), "9240b4d162f8212d45f202cf883cfc07fbc664e2f983d5d82116426a180c6ca0"),
        (
            SampleOptions(PV64, Width.BITS_32, 2 * MIB, live=True),
            "769385445b5a527bbb260fea36563465ff85111d3874a042cc7aa1cf924f0e82",
        ),
        (
            SampleOptions(PV32, Width.BITS_32, MIB, xl=True),
            "1caacfb9b17e869a99c8863347c58afc701a58216f5898d32183a1e203e0db45",
        ),
        (
            SampleOptions(PV32, memory=2 * MIB, live=True, seed=1 << 70, zeros=0),
            "7da7d233172529615c70018b5db95a6b31c9cb30c670f0797a082e3bc0f0da42",
        ),
    ],
    ids=["hvm", "hvm-32-live-xl", "pv64", "pv64-32-live", "pv32-32-xl", "pv32-live"],
)
def test_bytes_never_change(options: SampleOptions, digest: str) -> None:
    assert hashlib.sha256(made(options)).hexdigest() == digest


@pytest.mark.parametrize("options", ALL, ids=name)
def test_same_options_same_bytes(options: SampleOptions) -> None:
    first = made(options)
    assert made(options) == first
    assert made(replace(options, seed=4)) != first


@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize("options", ALL, ids=name)
def test_size_is_that_of_the_bytes(options: SampleOptions, xl: bool) -> None:  # noqa: FBT001 - a parameter
    options = replace(options, xl=xl)
    assert sample_size(options) == len(made(options))


def test_size_needs_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(image, "Contents")
    assert 8 << 30 < sample_size(SampleOptions(memory=8 << 30)) < (8 << 30) + (32 << 20)


def test_pieces_are_small() -> None:
    pieces = [len(piece) for piece in sample_image(SampleOptions(memory=12 * MIB))]
    assert max(pieces) == 4 * MIB
    assert min(pieces) > 0


# ---- the structure ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ALL, ids=name)
def test_structure(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    assert walked.left == 0
    assert all(1 <= len(batch) <= 1024 for batch in walked.batches)
    for batch in walked.batches:
        pfns = [sent.pfn for sent in batch if sent.type != XTAB]
        assert pfns == sorted(set(pfns))
        assert pfns
        assert pfns[-1] < walked.p2m_size
    assert all(sent.pfn == 0 for sent in walked.words() if sent.type == XTAB)
    legal = {0, XALLOC, XTAB} if options.guest is HVM else {0, 1, 2, 3, 4, 0xB, 0xC}
    assert {sent.type for sent in walked.words()} <= legal


@pytest.mark.parametrize("options", ALL, ids=name)
def test_order_of_chunks(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    parameters = [-14, -3, -15, -16, -17, -4, -8, -10, -19, -20] if options.guest is HVM else []
    assert [number for number, _, _ in walked.chunks] == [-7, -2, *parameters, -18, -9]
    (tsc_at,) = [at for number, at, _ in walked.chunks if number == -7]
    assert (0 < tsc_at < len(walked.batches)) if options.live else tsc_at == 0
    assert {at for number, at, _ in walked.chunks if number != -7} == {len(walked.batches)}
    chunks = {number: payload for number, _, payload in walked.chunks}
    assert struct.unpack("<iQ", chunks[-2]) == (1, 0b11)
    assert all(chunks[number][:4] == bytes(4) and any(chunks[number][4:]) for number in parameters)


@pytest.mark.parametrize("width", Width)
def test_batches_are_full(width: Width) -> None:
    walked = walk(made(SampleOptions(PV64, width, 9 * MIB)), PV64, width)
    assert [len(batch) for batch in walked.batches] == [1024, 1024, 256]


def test_memory_of_a_pv_guest() -> None:
    walked = walk(made(SampleOptions(PV32, memory=5 * MIB)), PV32, 64)
    assert walked.p2m_size == 5 * MIB // PAGE
    assert sorted(walked.last()) == list(range(walked.p2m_size))
    assert walked.unmapped == ()


def test_memory_of_an_hvm_guest() -> None:
    walked = walk(made(SampleOptions(memory=8 * MIB)), HVM, 64)
    assert walked.p2m_size == 0xFF000
    ram = [*range(0xA0), *range(0xC0, 0x700)]
    devices = [*range(0xF0000, 0xF0100), *range(0xFC000, 0xFC008), *range(0xFEFF0, 0xFF000)]
    assert sorted(walked.last()) == ram + devices


def test_memory_goes_on_at_4_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest with more than fits below the devices, seen by its words alone."""
    options = SampleOptions(memory=4 << 30)
    monkeypatch.setattr(memory.Contents, "fill", lambda *_: None)
    heads = [bytes(piece) for piece in sample_image(options) if isinstance(piece, bytes)]
    (p2m_size,) = struct.unpack("<Q", heads[0])
    entries = [e for head in heads[2:-1] for e in struct.unpack(f"<{(len(head) - 4) // 8}Q", head[4:])]
    pfns = {entry for entry in entries if entry >> 28 != XTAB}
    above = (4 << 30) // PAGE - 2048 - 0xF0000
    assert p2m_size == 0x100000 + above
    assert {pfn for pfn in pfns if pfn >= 0x100000} == set(range(0x100000, p2m_size))
    assert len(pfns) == (4 << 30) // PAGE - 0x20 + 8 + 16


# ---- contents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_share_of_zero_pages(share: float) -> None:
    walked = walk(made(SampleOptions(memory=64 * MIB, zeros=share)), HVM, 64)
    pages = [sent.page for sent in walked.last().values()]
    found = sum(page == ZERO for page in pages) / len(pages)
    assert found == share if share in {0, 1} else abs(found - share) < 0.03


def test_zero_pages_lie_together() -> None:
    walked = walk(made(SampleOptions(memory=16 * MIB, zeros=0.5)), HVM, 64)
    zero = {pfn for pfn, sent in walked.last().items() if sent.page == ZERO}
    assert sum(pfn + 1 in zero for pfn in zero) > 0.9 * len(zero)


def test_pages_are_of_three_kinds_and_all_different() -> None:
    walked = walk(made(SampleOptions(memory=8 * MIB, zeros=0.25, live=True)), HVM, 64)
    pages = [sent.page for sent in walked.words() if sent.page and sent.page != ZERO]
    assert len(set(pages)) == len(pages)
    texts = [page for page in pages if page.isascii()]
    assert 0.3 < len(texts) / len(pages) < 0.45
    noises = [page for page in pages if not page.isascii()]
    assert all(len(zlib.compress(page)) > 0.9 * PAGE for page in noises)
    assert all(0.2 * PAGE < len(zlib.compress(page)) < 0.6 * PAGE for page in texts)


def test_text_pages_say_where_they_are() -> None:
    walked = walk(made(SampleOptions(memory=8 * MIB, live=True)), HVM, 64)
    texts = [sent for sent in walked.words() if sent.page.startswith(b"page ")]
    assert all(sent.page.startswith(b"page %08x copy " % sent.pfn) for sent in texts)
    assert {sent.page[19:20] for sent in texts} == {b"1", b"2", b"3", b"4"}


def test_no_page_is_shared_by_seeds() -> None:
    one, two = (
        {sent.page for sent in walk(made(SampleOptions(memory=MIB, seed=seed)), HVM, 64).words()}
        for seed in (1, 2)
    )
    assert one & two == {ZERO, b""}


# ---- live ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", PLAIN, ids=name)
def test_plain_saves_send_each_page_once(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    pfns = [sent.pfn for sent in walked.words() if sent.type != XTAB]
    assert pfns == sorted(set(pfns))
    assert XALLOC not in {sent.type for sent in walked.words()}


@pytest.mark.parametrize("options", LIVE, ids=name)
def test_live_saves_have_rounds(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    pfns = [sent.pfn for sent in walked.words() if sent.type != XTAB]
    rounds = 1 + sum(after < before for before, after in itertools.pairwise(pfns))
    assert rounds == 4
    again = [pfn for pfn in set(pfns) if len(walked.copies(pfn)) > 1]
    assert 0.1 < len(again) / len(walked.last()) < 0.4
    changed = [pfn for pfn in again if len({sent.page for sent in walked.copies(pfn)}) > 1]
    assert len(changed) > len(again) // 2


@pytest.mark.parametrize("width", Width)
def test_allocate_only_words_get_their_data_later(width: Width) -> None:
    walked = walk(made(SampleOptions(HVM, width, 6 * MIB, live=True)), HVM, width)
    early = [sent.pfn for sent in walked.words() if sent.type == XALLOC]
    assert early
    assert all([sent.type for sent in walked.copies(pfn)][:2] == [XALLOC, 0] for pfn in early)


@pytest.mark.parametrize("options", PV_LIVE, ids=name)
def test_ballooned_out_pages_have_early_copies_alone(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    gone = set(walked.unmapped)
    assert list(walked.unmapped) == sorted(gone)
    assert 0 < len(gone) < walked.p2m_size // 32
    assert all(len(walked.copies(pfn)) == 1 for pfn in gone)
    assert all(sent.pfn not in gone for batch in walked.batches[2:] for sent in batch)


@pytest.mark.parametrize("options", PV_LIVE, ids=name)
def test_a_superseded_table_still_maps_ballooned_out_pages(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    gone = set(walked.unmapped)
    mapping = [sent for sent in walked.words() if 1 <= sent.type & 7 <= 4 and gone & set(targets(sent.page))]
    assert len(mapping) == 1
    assert gone <= set(targets(mapping[0].page))
    assert mapping[0].type == 1
    assert walked.copies(mapping[0].pfn)[0] is mapping[0]
    assert len(walked.copies(mapping[0].pfn)) > 1


# ---- PV --------------------------------------------------------------------------------------------------


def entries(page: bytes) -> list[int]:
    return [entry for entry in struct.unpack("<512Q", page) if entry & 1]


def targets(page: bytes) -> list[int]:
    return [entry >> 12 & (1 << 40) - 1 for entry in entries(page)]


def cr3(options: SampleOptions, context: bytes) -> int:
    if options.guest is PV64:
        return int.from_bytes(context[5008:5016], "little") >> 12
    folded = int.from_bytes(context[2728:2732], "little")
    return (folded >> 12 | folded << 20) & 0xFFFFFFFF


@pytest.mark.parametrize("options", PV, ids=name)
def test_page_tables_fit_their_types(options: SampleOptions) -> None:
    """From the top down every entry names a table one level lower, and no mapping of one is writable."""
    walked = walk(made(options), options.guest, options.width)
    last, levels = walked.last(), 4 if options.guest is PV64 else 3
    tops = {pfn for pfn, sent in last.items() if sent.type == 8 + levels}
    assert {cr3(options, context) for context in walked.vcpus} <= tops
    used = set(tops)
    level_of = dict.fromkeys(tops, levels)
    for level in range(levels, 1, -1):
        for pfn in [pfn for pfn, at in level_of.items() if at == level]:
            for target in targets(last[pfn].page):
                assert last[target].type == level - 1
                level_of[target] = level - 1
                used.add(target)
    assert used == {pfn for pfn, sent in last.items() if sent.type}
    leaves = [entry for pfn in used if level_of[pfn] == 1 for entry in entries(last[pfn].page)]
    mapped = {entry >> 12 & (1 << 40) - 1 for entry in leaves}
    assert mapped == set(last)
    writable = {entry >> 12 & (1 << 40) - 1 for entry in leaves if entry & 2}
    assert not writable & used
    assert len(writable) > len(last) * 0.9


@pytest.mark.parametrize("options", PV, ids=name)
def test_state_names_ordinary_pages(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    last, wide = walked.last(), options.guest is PV64
    form, edx, gdt, store, console = ("<Q", 616, 4832, 56, 72) if wide else ("<I", 524, 2640, 44, 52)
    start_info = struct.unpack_from(form, walked.vcpus[0], edx)[0]
    gdts = [struct.unpack_from(form, context, gdt)[0] for context in walked.vcpus]
    info = last[start_info].page
    assert info.startswith(b"xen-3.0-x86_")
    rings = [struct.unpack_from(form, info, at)[0] for at in (store, console)]
    named = [*walked.frames, start_info, *gdts, *rings]
    assert len(set(named)) == len(named)
    assert all(last[pfn].type == 0 for pfn in named)
    assert struct.unpack_from(form, walked.shared_info, 3088 if wide else 2316) == (walked.p2m_size,)


@pytest.mark.parametrize("options", PV, ids=name)
def test_p2m_has_the_pages_that_are_there(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    last = walked.last()
    form, none = ("<512Q", (1 << 64) - 1) if options.guest is PV64 else ("<1024I", (1 << 32) - 1)
    p2m = [mfn for pfn in walked.frames for mfn in struct.unpack(form, last[pfn].page)]
    assert [pfn for pfn, mfn in enumerate(p2m) if mfn != none] == sorted(last)
    owned = [mfn for mfn in p2m if mfn != none]
    assert len(set(owned)) == len(owned)
    assert min(owned) >= walked.p2m_size


@pytest.mark.parametrize("options", PV, ids=name)
def test_extended_state(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    for index, state in enumerate(walked.vcpus):
        extended = state[CONTEXT[options.guest] :][:128]
        assert struct.unpack_from("<II", extended) == (index, 56)
        xsave = state[CONTEXT[options.guest] + 128 :]
        assert struct.unpack_from("<QQ", xsave) == (7, 7)
        assert struct.unpack_from("<8Q", xsave, 16 + 512) == (3, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("options", PV, ids=name)
def test_toolstack_of_a_pv_guest(options: SampleOptions) -> None:
    walked = walk(made(options), options.guest, options.width)
    assert {number: payload for number, _, payload in walked.chunks}[-18] == struct.pack("<II", 1, 0)


def test_32_bit_guest_maps_its_low_memory_alone() -> None:
    """Beyond 768 MiB a 32-bit guest has more p2m frames (8 bytes each) and no more tables."""
    below, above = (
        sample_size(SampleOptions(PV32, Width.BITS_64, memory)) for memory in (768 * MIB, 1024 * MIB)
    )
    pages = (1024 - 768) * MIB // PAGE
    assert above - below == pages * (PAGE + 8) + pages // 1024 * (8 + 4)


# ---- HVM -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", Width)
def test_hvm_context_has_the_records_of_4_5(width: Width) -> None:
    source = Bytes(walk(made(SampleOptions(HVM, width, MIB)), HVM, width).context)
    records: list[tuple[int, ...]] = []
    while not records or records[-1][0]:
        kind, instance, length = source.get("HHI")
        records.append((kind, instance, length))
        source.take(length)
    assert source.at == len(source.data)
    assert records[0] == (1, 0, 24)
    assert records[-1] == (0, 0, 0)
    lengths = {2: 1024, 3: 8, 4: 400, 5: 24, 6: 1024, 7: 16, 8: 8, 9: 8, 10: 56, 11: 16, 12: 1048, 13: 8}
    lengths |= {14: 240, 16: 24 + 832, 18: 24, 19: 8}
    twice = {2, 3, 5, 6, 14, 16, 18, 19}
    assert records[1:-1] == [
        (kind, instance, length)
        for kind, length in lengths.items()
        for instance in range(1 + (kind in twice))
    ]


@pytest.mark.parametrize("width", Width)
def test_pages_that_hvm_parameters_name_are_there(width: Width) -> None:
    walked = walk(made(SampleOptions(HVM, width, MIB)), HVM, width)
    values = {number: struct.unpack("<Q", p[4:])[0] for number, _, p in walked.chunks if len(p) == 12}
    pfns = [values[number] for number in (-15, -16, -17, -8, -19)]
    pfns += [values[number] >> 12 for number in (-14, -3, -4)]
    assert {*pfns, *walked.magic} <= set(walked.last())


@pytest.mark.parametrize(("width", "slack"), [(32, 0), (64, 4)])
def test_toolstack_of_an_hvm_guest(width: Width, slack: int) -> None:
    walked = walk(made(SampleOptions(HVM, width, 8 * MIB)), HVM, width)
    (payload,) = [payload for number, _, payload in walked.chunks if number == -18]
    assert len(payload) == 8 + 28 + 9 + slack
    assert struct.unpack("<IIQQQI", payload[:36]) == (1, 1, 8 * MIB, 0xF0000000, MIB, 9)
    assert payload[36:45] == b"vga.vram\0"


def test_device_model_begins_as_qemu_writes_it() -> None:
    walked = walk(made(SampleOptions(memory=MIB)), HVM, 64)
    assert walked.device_model.startswith(b"QEVM" + struct.pack(">I", 3))


# ---- xl --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guest", SampleGuest)
def test_xl_header(guest: SampleGuest) -> None:
    options = SampleOptions(guest, memory=2 * MIB, xl=True, seed=5)
    data = made(options)
    assert data[:32] == b"Xen saved domain, xl format\n \0 \r"
    order, mandatory, optional, length = struct.unpack_from("<4I", data, 32)
    assert (order, mandatory, optional) == (0x01020304, 1, 0)
    assert struct.unpack_from("<I", data, 48) == (length - 4,)
    text = data[52 : 48 + length]
    assert text.endswith(b"}\0")
    config = json.loads(text[:-1])
    assert config["c_info"]["type"] == ("hvm" if guest is HVM else "pv")
    assert config["c_info"]["name"] == f"sample-{guest.value}-5"
    assert config["b_info"]["max_memkb"] == 2048
    assert config["b_info"]["max_vcpus"] == 2
    assert data[48 + length :] == made(replace(options, xl=False))


# ---- options that cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "item", "found", "expected"),
    [
        (SampleOptions(zeros=1.01), "share of zero pages", "1.01", "0 to 1"),
        (SampleOptions(zeros=-0.5), "share of zero pages", "-0.5", "0 to 1"),
        (SampleOptions(zeros=float("nan")), "share of zero pages", "nan", "0 to 1"),
        (SampleOptions(memory=MIB + 512), "memory", "1,049,088 bytes", "a multiple of 4,096"),
        (SampleOptions(memory=MIB - PAGE), "memory", "1,044,480 bytes", "1,048,576 to 1,099,243,188,224"),
        (
            SampleOptions(PV64, memory=1 << 40),
            "memory",
            f"{1 << 40:,} bytes",
            f"{MIB:,} to {(1 << 40) - PAGE:,}",
        ),
        (SampleOptions(PV32, memory=65 << 30), "memory", f"{65 << 30:,} bytes", f"{MIB:,} to {64 << 30:,}"),
        (SampleOptions(seed=-1), "seed", "-1", "0 or more"),
    ],
)
def test_impossible_options(options: SampleOptions, item: str, found: str, expected: str) -> None:
    for ask in (sample_image, sample_size):
        with pytest.raises(UsageError) as caught:
            ask(options)
        assert (caught.value.item, caught.value.found, caught.value.expected) == (item, found, expected)
