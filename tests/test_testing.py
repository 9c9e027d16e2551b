"""The builder and the strategies: what they write is what the format says, and all of the format is drawn."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import find as find_image
from hypothesis import strategies as st

from xenmig_np.carriers.recognise import Carried
from xenmig_np.errors import InvalidImage, NotSupported, TruncatedImage
from xenmig_np.io.source import open_source
from xenmig_np.read import events
from xenmig_np.read.detect import Detected
from xenmig_np.read.image import LegacyImage as Found
from xenmig_np.read.image import find
from xenmig_np.read.places import Event
from xenmig_np.read.reading import Shape
from xenmig_np.read.toolstack import physmaps
from xenmig_np.testing import builder, fields, pieces, strategies
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenmig_np.read.facts import Facts
    from xenmig_np.testing.builder import GuestKind, LegacyImage

E = TypeVar("E")
KINDS: tuple[tuple[GuestKind, int], ...] = tuple(
    (guest, width) for guest in strategies.GUESTS for width in strategies.WIDTHS
)
every_kind = pytest.mark.parametrize(("guest", "width"), KINDS)
many = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def shape_of(image: LegacyImage) -> Shape:
    return Shape(image.width, Guest.HVM if image.guest == "hvm" else Guest.PV)


def begin(image: LegacyImage) -> int:
    """Offset of the libxc image."""
    return image.part("p2m_size").offset


def read(image: LegacyImage, data: bytes | None = None) -> tuple[list[events.AnyEvent], Facts]:
    """Events of the image, or of ``data`` in its place, and remarks on how they fit each other."""
    with tempfile.TemporaryFile() as file:
        file.write(image.to_bytes() if data is None else data)
        file.seek(0)
        source = open_source(file.fileno())
        shape = shape_of(image)
        found = Found(source, Carried("bare", "legacy", begin(image)), Detected(shape, ()))
        facts = found.new_facts()
        return list(found.events(facts)), facts


def only(found: list[events.AnyEvent], kind: type[E]) -> list[E]:
    return [event for event in found if isinstance(event, kind)]


def span(image: LegacyImage, *names: str) -> tuple[int, int]:
    """Offset and length of the parts under these names, which follow each other."""
    under = tuple(f"{name}." for name in names)
    parts = [part for part in image.parts() if part.name in names or part.name.startswith(under)]
    return parts[0].offset, sum(len(part.data) for part in parts)


# ---- the builder -----------------------------------------------------------------------------------------


@every_kind
def test_parts_cover_the_image(guest: GuestKind, width: int) -> None:
    image = replace(builder.small_image(guest, width), xl=pieces.XlHeader(), trailing=b"behind")
    parts, whole = image.parts(), image.to_bytes()
    assert b"".join(part.data for part in parts) == whole
    assert all(whole[part.offset :].startswith(part.data) for part in parts)
    assert len({part.name for part in parts}) == len(parts)
    found = builder.boundaries(image)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (0, len(whole))
    assert {part.offset for part in parts} <= set(found)


@every_kind
def test_small_image_reads_without_remark(guest: GuestKind, width: int) -> None:
    image = builder.small_image(guest, width)
    found, facts = read(image)
    assert not only(found, events.Remark)
    assert facts.guest_name == guest
    assert facts.end == len(image.to_bytes())
    assert facts.online == (0,)


def test_small_pv_image_by_hand() -> None:
    data = builder.small_image("pv64", 64).to_bytes()
    assert struct.unpack_from("<QQI4sI", data) == (32, 2**64 - 1, 5168 + 8 + 8 + 12, b"vcpu", 5168)
    at = 20 + 8 + 5168
    assert struct.unpack_from("<4sI4sII", data, at) == (b"extv", 0, b"xcnt", 4, 608)
    assert struct.unpack_from("<QiIQII", data, at + 20) == (1, -7, 0, 1_000_000_000, 2_000_000, 0)
    at += 20 + 8 + 24
    assert struct.unpack_from("<i6Q", data, at) == (
        6,
        *(1, 2, 0x1000_0003, 0x2000_0004, 0x3000_0005, 0xC000_0006),
    )
    at += 4 + 6 * 8
    assert [struct.unpack_from("<Q", data, at + 4096 * index)[0] for index in range(2, 6)] == [
        0x2067,
        0x3067,
        0x4067,
        0x5067,
    ]
    at += 6 * 4096
    chunks = struct.unpack_from("<iiQiIIIiiI", data, at)
    assert chunks == (-2, 0, 1, -18, 8, 1, 0, -9, 0, 0)
    at += struct.calcsize("<iiQiIIIiiI")
    assert struct.unpack_from("<Q", data, at + 5008) == (6 << 12,)  # cr3
    assert struct.unpack_from("<II", data, at + 5168) == (0, 56)
    assert struct.unpack_from("<QQQQ", data, at + 5168 + 128) == (3, 592, 3, 3)
    assert data[at + 5168 + 128 + 16 + 592 :] == b"\x33" * 4096


def test_small_pv32_image_by_hand() -> None:
    data = builder.small_image("pv32", 32).to_bytes()
    assert struct.unpack_from("<III4sI", data) == (32, 2**32 - 1, 2800 + 28, b"vcpu", 2800)
    context = data[20 : 20 + 2800]
    assert struct.unpack_from("<I", context, 2728) == (5 << 12,)
    assert struct.unpack_from("<I", context, 524) == (2,)
    assert struct.unpack_from("<I", context, 2796) == (8,)
    assert struct.unpack_from("<IiI", data, 20 + 2800 + 20) == (1, -7, 0)


@pytest.mark.parametrize(("width", "size", "slack"), [(32, "<I", 0), (64, "<Q", 4)])
def test_small_hvm_image_by_hand(width: int, size: str, slack: int) -> None:
    data = builder.small_image("hvm", width).to_bytes()
    at = struct.calcsize(size)
    assert struct.unpack_from(size, data) == (32,)
    assert struct.unpack_from("<i20xi", data, at) == (-7, 4)
    at += 24 + 4 + 4 * struct.calcsize(size) + 4 * 4096
    assert struct.unpack_from("<iiQ", data, at) == (-2, 0, 1)
    params = [struct.unpack_from("<iIQ", data, at + 16 + 16 * index) for index in range(4)]
    assert params == [(-3, 0, 0x1F000), (-4, 0, 0x1E000), (-8, 0, 0x1D), (-10, 0, 1)]
    at += 16 + 4 * 16
    assert struct.unpack_from("<iIII", data, at) == (-18, 8 + 28 + 9 + slack, 1, 1)
    at += 16
    assert struct.unpack_from("<QQQI9s", data, at) == (0x1000, 0xF000_0000, 0x1000, 9, b"vga.vram\0")
    at += 28 + 9 + slack
    assert struct.unpack_from("<iiQQQI", data, at) == (-9, 0, 0x1A, 0x1B, 0x1C, 32 + 1032 + 8)
    at += 8 + 28
    assert data[at : at + 12] == bytes.fromhex("0100 0000 1800 0000 8612 3854")
    at += 32 + 1032 + 8
    assert struct.unpack_from("<21sI4s", data, at) == (b"DeviceModelRecord0002", 10, b"QEVM")
    assert len(data) == at + 25 + 10


def test_lies_are_written_as_told() -> None:
    image = builder.LegacyImage(
        guest="pv64",
        width=32,
        xl=pieces.XlHeader(None, optional_data_length=77, byteorder=0x04030201),
        p2m_size=2**32 + 5,
        blocks=(pieces.Block(b"xcnt", b"ab", length=9), pieces.Raw(b"raw")),
        blocks_total=1,
        body=(
            pieces.Batch((2**32 - 1, 1 << 40), count=2000),
            pieces.Control(-99),
            pieces.VcpuInfo((0, 70), highest=3),
            pieces.Toolstack((pieces.Physmap(1, 2, 3, b"n", namelen=8),), b"x", 2, count=4, length=5),
        ),
        end=None,
        unmapped=(1,),
        unmapped_count=6,
        vcpus=(pieces.Vcpu(b"context", b"e", pieces.Xsave(1, 2, 3, b"", length=8)), pieces.Raw(b"!")),
        shared_info=b"short",
        device_model=pieces.DeviceModel(b"s", b"RemusDeviceModelState", length=9),
    )
    expected = (
        b"Xen saved domain, xl format\n \0 \r"
        + struct.pack("<4I", 0x04030201, 0, 0, 77)
        + struct.pack("<III4sI2s3s", 5, 2**32 - 1, 1, b"xcnt", 9, b"ab", b"raw")
        + struct.pack("<iII", 2000, 2**32 - 1, 0)
        + struct.pack("<iiiQ", -99, -2, 3, 1)
        + struct.pack("<iIIIQQQI2s1s", -18, 5, 2, 4, 1, 2, 3, 8, b"n\0", b"x")
        + struct.pack("<II", 6, 1)
        + b"context"
        + b"e"
        + struct.pack("<4Q", 1, 8, 2, 3)
        + b"!short"
        + struct.pack("<21sI", b"RemusDeviceModelState", 9)
        + b"s"
    )
    assert image.to_bytes() == expected


def test_other_forms_of_the_device_model_record() -> None:
    def written(signature: bytes) -> bytes:
        image = replace(
            builder.small_image("hvm"), device_model=pieces.DeviceModel(b"QEVM", signature), trailing=b"."
        )
        return image.to_bytes()[image.part("device_model.signature").offset :]

    assert written(b"QemuDeviceModelRecord") == b"QemuDeviceModelRecordQEVM."
    assert written(b"QemuDeviceModelRecord\n") == b"QemuDeviceModelRecord\n\0\0\0\4QEVM."


def test_one_part_is_replaced() -> None:
    image = builder.small_image("hvm", 32)
    data = image.damaged("body.1.word.2", fields.le(0xFFFF_FFFF, 4))
    found, _ = read(
        image, data[: image.part("body.1.page.3").offset] + data[image.part("body.2.id").offset :]
    )
    assert only(found, events.PageBatch)[0].types.tolist() == [0, 0, 15, 0]
    with pytest.raises(KeyError):
        image.part("body.99")


# ---- valid images ----------------------------------------------------------------------------------------


def expected_events(image: LegacyImage) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, offset and length of what a reader has to tell."""
    names: dict[type, str] = {pieces.Batch: "PageBatch", pieces.VcpuInfo: "OnlineVcpus"}
    yield "P2mSize", span(image, "p2m_size")
    if image.guest != "hvm":
        info = span(image, "blocks") if image.blocks is not None else (span(image, "frames")[0], 0)
        yield "ExtendedInfo", info
        yield "P2mFrames", span(image, "frames")
    for index, piece in enumerate(image.body):
        yield names.get(type(piece), "Chunk"), span(image, f"body.{index}")
    yield "EndOfBody", span(image, "end")
    if image.guest == "hvm":
        yield "HvmMagic", span(image, "magic", "context.length")
        yield "HvmContext", span(image, *(f"context.{index}" for index in range(len(image.context))))
    else:
        yield "Unmapped", span(image, "unmapped")
        yield from (("Vcpu", span(image, f"vcpu.{index}")) for index in range(len(image.vcpus)))
        yield "SharedInfo", span(image, "shared_info")
    if image.device_model:
        yield "DeviceModel", span(image, "device_model")
    yield "EndOfImage", (image.part("trailing").offset, 0)


@many
@given(strategies.legacy_images())
def test_drawn_images_are_read_and_lie_where_the_parts_say(image: LegacyImage) -> None:
    found, _ = read(image)
    places = [(type(event).__name__, (event.offset, event.length)) for event in only(found, Event)]
    assert places == list(expected_events(image))


@many
@given(strategies.legacy_images())
def test_drawn_pages_are_read_as_drawn(image: LegacyImage) -> None:
    data = image.to_bytes()
    found, _ = read(image)
    drawn = [piece for piece in image.body if isinstance(piece, pieces.Batch)]
    for batch, event in zip(drawn, only(found, events.PageBatch), strict=True):
        entries = list(batch.entries())
        assert event.types.tolist() == [kind for kind, _, _ in entries]
        assert event.pfns.tolist() == [pfn for _, pfn, _ in entries]
        contents = data[event.pages.offset : event.pages.offset + event.pages.length]
        assert contents == b"".join(bytes(page) for _, _, page in entries if page is not None)


@many
@given(strategies.legacy_images())
def test_drawn_state_is_read_as_drawn(image: LegacyImage) -> None:
    found, facts = read(image)
    assert facts.params[: -3 if image.guest == "hvm" else None] == [
        (chunk.row.param, chunk.value) for chunk in only(found, events.Chunk) if chunk.row.param is not None
    ]
    values = [event.value for event in only(found, events.Chunk) if event.row.param is not None]
    assert values == [piece.value for piece in image.body if isinstance(piece, pieces.Param)]
    assert {pfn for event in only(found, events.Unmapped) for pfn in event.pfns.tolist()} == {
        pfn for pfn in image.unmapped if pfn < image.p2m_size
    }
    states = [vcpu for vcpu in image.vcpus if isinstance(vcpu, pieces.Vcpu)]
    for state, vcpu, number in zip(states, only(found, events.Vcpu), online(image), strict=True):
        assert vcpu.id == number
        assert vcpu.context == bytes(state.context)
        assert vcpu.extended == (None if state.extended is None else bytes(state.extended))
        assert len(vcpu.xsave or b"") == (16 + len(bytes(state.xsave.area)) if state.xsave else 0)
    chunks = [event for event in only(found, events.Chunk) if event.row.id == pieces.TOOLSTACK]
    drawn = [piece for piece in image.body if isinstance(piece, pieces.Toolstack)]
    for chunk, piece in zip(chunks, drawn, strict=True):
        entries = physmaps(chunk.payload, image.width, path="", offset=0)
        assert [(entry.phys_offset, entry.name) for entry in entries] == [
            (entry.phys_offset, entry.name)
            for entry in piece.entries or ()
            if isinstance(entry, pieces.Physmap)
        ]


def online(image: LegacyImage) -> tuple[int, ...]:
    infos = [piece for piece in image.body if isinstance(piece, pieces.VcpuInfo)]
    return (infos[-1].online if infos else (0,)) if image.guest != "hvm" else ()


@many
@given(strategies.legacy_images(detectable=True))
def test_detectable_images_are_detected(image: LegacyImage) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(image.to_bytes())
        file.seek(0)
        assert find(open_source(file.fileno())).detected.shape == shape_of(image)


@many
@given(strategies.legacy_images(guests=("pv32", "pv64"), consistent=True))
def test_consistent_images_get_no_remark_on_their_state(image: LegacyImage) -> None:
    found, _ = read(image)
    rules = {remark.note.rule for remark in only(found, events.Remark)}
    assert not rules & {"legacy 8.9", "legacy 8.11", "legacy 8.12", "legacy 8.13", "legacy 8.14"}


# ---- what is drawn ---------------------------------------------------------------------------------------


def of(image: LegacyImage, kind: type[E]) -> list[E]:
    return [piece for piece in image.body if isinstance(piece, kind)]


def batch_features(image: LegacyImage) -> Iterator[str]:
    batches = of(image, pieces.Batch)
    mentions: Counter[int] = Counter()
    for batch in batches:
        entries = list(batch.entries())
        kept = [pfn for kind, pfn, _ in entries if kind != fields.XTAB]
        mentions.update(set(kept))
        yield from (f"{image.guest}: type {kind:#x}" for kind, _, _ in entries)
        yield "1024 words" if len(entries) == 1024 else "fewer words"
        yield "some words kept" if kept else "all words XTAB"
        yield "pfn twice in a batch" if len(set(kept)) < len(kept) else "pfns once in a batch"
        yield "sign-extended words" if any(value >> 32 for value in batch.words) else "plain words"
        for low in (pfn for kind, pfn, _ in entries if kind == fields.XTAB):
            yield (
                "XTAB beyond p2m_size" if low >= image.p2m_size else "XTAB with bits" if low else "XTAB exact"
            )
    yield "batches" if batches else "no batch"
    yield "pfn in several batches" if any(times > 1 for times in mentions.values()) else "pfns once"
    yield "listed pfn was sent" if set(image.unmapped) & set(mentions) else "listed pfns were not sent"
    yield from given_back_features(image)


def given_back_features(image: LegacyImage) -> Iterator[str]:
    """Copies of page tables that name listed pfns and are followed by another copy in the same part."""
    last: dict[int, fields.Data] = {}
    for piece in image.body:
        if piece == pieces.Control(pieces.VERIFY_MODE):
            last.clear()
        if not isinstance(piece, pieces.Batch):
            continue
        for kind, pfn, page in piece.entries():
            if kind == fields.XTAB:
                continue
            entries = struct.unpack("<512Q", bytes(last.pop(pfn, bytes(4096))))
            named = {entry >> 12 & ((1 << 40) - 1) for entry in entries if entry & 1}
            yield "superseded table names listed pfn" if named & set(image.unmapped) else "nothing given back"
            if page is not None and kind & 7:
                last[pfn] = page


def control_features(image: LegacyImage) -> Iterator[str]:
    counts = Counter(type(piece).__name__ for piece in image.body)
    yield from (f"{counts[name]} {name}" for name in ("Tsc", "VcpuInfo", "Toolstack"))
    yield from (f"control {piece.id}" for piece in of(image, pieces.Control))
    yield "last checkpoint" if pieces.Control(pieces.LAST_CHECKPOINT) in image.body else "not told last"
    params = {param.id: param.value for param in of(image, pieces.Param)}
    yield from (f"param {number}" for number in params)
    yield from (f"param is {value}" for value in params.values() if value in (0, 1))
    yield "param twice" if len(params) < counts["Param"] else "params once"
    yield "-10 is 1" if params.get(-10) == 1 else "-10 is another" if -10 in params else "no -10"
    yield f"-19 {-19 in params}, -20 {-20 in params}"
    for info in of(image, pieces.VcpuInfo):
        yield "bits above" if len(info.online) < len(info.ids) else "no bits above"
        yield "ids above 63" if max(info.online, default=0) > 63 else "ids up to 63"
        yield "several vCPUs" if len(info.online) > 1 else "one vCPU"
        yield "vCPU 0 online" if 0 in info.online else "vCPU 0 offline"
    for chunk in of(image, pieces.Toolstack):
        yield "empty toolstack" if chunk.entries is None else f"{len(chunk.entries)} physmaps"
        yield from (
            name_feature(entry.name) for entry in chunk.entries or () if isinstance(entry, pieces.Physmap)
        )
    yield from place_features(image)


def name_feature(name: bytes | None) -> str:
    if not name:
        return "no name" if name is None else "empty name"
    return "name not UTF-8" if "\ufffd" in name.decode(errors="replace") else "UTF-8 name"


def place_features(image: LegacyImage) -> Iterator[str]:
    batches = [index for index, piece in enumerate(image.body) if isinstance(piece, pieces.Batch)]
    for index, piece in enumerate(image.body):
        if batches and not isinstance(piece, pieces.Batch):
            place = "before" if index < batches[0] else "behind" if index > batches[-1] else "between"
            control = f" {piece.id}" if isinstance(piece, pieces.Control) else ""
            yield f"{type(piece).__name__}{control} {place}"


def tail_features(image: LegacyImage) -> Iterator[str]:
    yield f"{image.guest} on {image.width}"
    yield "trailing" if image.trailing else "nothing trailing"
    yield "p2m tiny" if image.p2m_size < 16 else "p2m small" if image.p2m_size <= 3000 else "p2m large"
    if image.xl:
        kind = "JSON" if image.xl.mandatory_flags else "text" if image.xl.config else image.xl.config
        yield f"xl config {kind!r}"
        yield f"xl behind {bool(image.xl.behind)}"
    if image.guest == "hvm":
        yield f"device model {bool(image.device_model)}"
        yield "odd context" if span(image, *(f"context.{i}" for i in range(9)))[1] % 2 else "even context"
    else:
        yield from pv_features(image)


def pv_features(image: LegacyImage) -> Iterator[str]:
    ids = [block.id for block in image.blocks or () if isinstance(block, pieces.Block)]
    yield "extended info" if ids else "no extended info"
    if ids:
        yield f"extv {b'extv' in ids}, xcnt {b'xcnt' in ids}"
        yield "unknown block" if set(ids) - {b"vcpu", b"extv", b"xcnt"} else "known blocks"
        yield "vcpu block first" if ids[0] == b"vcpu" else "vcpu block not first"
    yield "several frames" if len(image.frames) > 1 else "one frame"
    yield (
        "listed beyond p2m_size" if any(pfn >= image.p2m_size for pfn in image.unmapped) else "listed inside"
    )
    xsaves = [vcpu.xsave for vcpu in image.vcpus if isinstance(vcpu, pieces.Vcpu) and vcpu.xsave]
    yield (
        "xsave sizes differ" if len({len(bytes(xsave.area)) for xsave in xsaves}) > 1 else "xsave sizes equal"
    )
    for xsave in xsaves:
        needed = {0: 0, 1: 576, 3: 576, 7: 832}.get(xsave.xcr0_accum)
        yield f"xcr0_accum {xsave.xcr0_accum}" if needed is not None else "xcr0_accum of another kind"
        yield "xsave too long" if needed is not None and len(bytes(xsave.area)) > needed else "xsave fits"


RARE = {
    *(f"{guest} on {width}" for guest, width in KINDS),
    *(f"pv64: type {kind:#x}" for kind in (0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15)),
    *(f"pv32: type {kind:#x}" for kind in (0, 1, 2, 3, 9, 10, 11, 13, 14, 15)),
    *(f"hvm: type {kind:#x}" for kind in (0, 13, 14, 15)),
    *("1024 words", "all words XTAB", "pfn twice in a batch", "sign-extended words", "no batch"),
    *("XTAB beyond p2m_size", "XTAB with bits", "XTAB exact"),
    *("pfn in several batches", "listed pfn was sent", "superseded table names listed pfn"),
    *(f"{count} {name}" for name in ("Tsc", "VcpuInfo", "Toolstack") for count in (0, 1, 2)),
    *("control -1", "control -9", "not told last"),
    *(f"param {number}" for number in strategies.PARAM_IDS),
    *("param is 0", "param twice", "-10 is 1", "-10 is another"),
    *("-19 True, -20 True", "-19 True, -20 False", "-19 False, -20 True"),
    *("bits above", "ids above 63", "several vCPUs", "vCPU 0 offline"),
    *("empty toolstack", "0 physmaps", "1 physmaps", "2 physmaps"),
    *("no name", "empty name", "name not UTF-8", "UTF-8 name"),
    *(
        f"{piece} {place}"
        for piece in ("Tsc", "VcpuInfo", "Param", "Toolstack", "Control -1", "Control -9")
        for place in ("before", "between", "behind")
    ),
    *("trailing", "p2m tiny", "p2m large", "xl behind True"),
    *(f"xl config {kind!r}" for kind in ("JSON", "text", b"", None)),
    *("device model True", "device model False", "odd context"),
    *("no extended info", "unknown block", "vcpu block not first", "several frames"),
    *(f"extv {extv}, xcnt {xcnt}" for extv in (True, False) for xcnt in (True, False)),
    *("listed beyond p2m_size", "xsave sizes differ", "xsave too long"),
    *("xcr0_accum 0", "xcr0_accum 1", "xcr0_accum 3", "xcr0_accum 7", "xcr0_accum of another kind"),
}
"""What an image can have and a strategy may fail to reach."""


def test_rare_things_are_drawn() -> None:
    counts: Counter[str] = Counter()
    sizes: list[int] = []

    @settings(many, derandomize=True, max_examples=1000)
    @given(strategies.legacy_images())
    def count(image: LegacyImage) -> None:
        for features in (batch_features, control_features, tail_features):
            counts.update(set(features(image)))
        sizes.append(len(image.to_bytes()))

    count()
    assert not RARE - set(counts)
    assert sum(sizes) / len(sizes) < 64 << 10
    assert max(sizes) < 512 << 10


def test_shrinks_to_something_plain() -> None:
    smallest = find_image(strategies.legacy_images(), lambda _: True, settings=settings(database=None))
    assert (smallest.guest, smallest.width, smallest.p2m_size, smallest.xl) == ("pv64", 64, 16, None)
    assert [type(piece) for piece in smallest.body] == [pieces.Batch]
    assert len(repr(smallest)) < 3000


PV_ONLY: dict[str, Any] = {"guests": ("pv32", "pv64")}
SWITCHES: dict[str, tuple[Callable[[LegacyImage], bool], dict[str, Any]]] = {
    "xl": (lambda image: image.xl is not None, {}),
    "verify": (lambda image: pieces.Control(pieces.VERIFY_MODE) in image.body, {}),
    "toolstack": (lambda image: bool(of(image, pieces.Toolstack)), {}),
    "trailing": (lambda image: bool(image.trailing), {}),
    "unmapped": (lambda image: bool(image.unmapped), PV_ONLY),
    "extended_info": (lambda image: image.blocks is not None, PV_ONLY),
    "device_model": (lambda image: image.device_model is not None, {"guests": ("hvm",)}),
}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("value", [True, False])
def test_switches_are_obeyed(switch: str, value: bool) -> None:  # noqa: FBT001 - a switch
    has, guests = SWITCHES[switch]
    options = {switch: value, **guests}

    @settings(many, max_examples=25)
    @given(strategies.legacy_images(**options))
    def obeys(image: LegacyImage) -> None:
        assert has(image) == value

    obeys()


@many
@given(strategies.legacy_images(guests=("hvm",), widths=(32,), param_ids=(-3, -4)))
def test_choices_are_obeyed(image: LegacyImage) -> None:
    assert (image.guest, image.width) == ("hvm", 32)
    assert {param.id for param in of(image, pieces.Param)} <= {-3, -4}


# ---- damage ----------------------------------------------------------------------------------------------


@many
@given(strategies.damaged_images())
def test_damage_is_one_change_and_raises_our_errors_only(damaged: strategies.Damaged) -> None:
    whole = damaged.image.to_bytes()
    assert damaged.data != whole
    assert len(damaged.data) == len(whole) or whole.startswith(damaged.data)
    with contextlib.suppress(InvalidImage, NotSupported):
        read(damaged.image, damaged.data)


@many
@given(strategies.damaged_images(strategies.legacy_images(xl=False)))
def test_flips_leave_pages_alone_and_lengths_lie(damaged: strategies.Damaged) -> None:
    whole = damaged.image.to_bytes()
    if len(damaged.data) < len(whole):
        return
    first = next(i for i, (old, new) in enumerate(zip(whole, damaged.data, strict=True)) if old != new)
    part = next(p for p in damaged.image.parts() if p.offset <= first < p.offset + len(p.data))
    assert part.name in damaged.change
    assert ".page." not in part.name


@many
@given(strategies.legacy_images(trailing=False), st.data())
def test_every_cut_is_noticed(image: LegacyImage, data: st.DataObject) -> None:
    whole = image.to_bytes()
    at = data.draw(st.sampled_from(builder.boundaries(image)[:-1]) | st.integers(0, len(whole) - 1))
    if image.device_model and at == image.part("device_model.signature").offset:
        read(image, whole[:at])  # an image without the record is one, too
        return
    with pytest.raises(TruncatedImage):
        read(image, whole[:at])


@pytest.mark.parametrize(
    "signature", [strategies.REMUS_RECORD, strategies.XEND_RECORD, strategies.XAPI_RECORD]
)
@many
@given(st.data())
def test_other_device_model_records_are_read(signature: bytes, data: st.DataObject) -> None:
    images = strategies.legacy_images(
        guests=("hvm",), device_model=True, trailing=False, signatures=(signature,)
    )
    image = data.draw(images)
    found, _ = read(image)
    record = only(found, events.DeviceModel)[0]
    assert (record.offset, record.length) == span(image, "device_model")
    assert (record.state.offset, record.state.length) == span(image, "device_model.state")
