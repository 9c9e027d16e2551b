"""The reader of v2 and v3 streams, on the worked examples of v2-stream.md 20 and on what can go wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import lzma
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import debian
import numpy as np
import pytest

from xenmig_np.errors import InvalidImage, NotSupported, TruncatedImage, XenmigError
from xenmig_np.io.source import FileSource, Source, StreamSource
from xenmig_np.limits import MIB, REPLAY_MAX
from xenmig_np.options import Format, GuestName
from xenmig_np.read.places import Extent
from xenmig_np.read.records import (
    AnyRecord,
    DomainHeader,
    EndOfStream,
    LibxlRecord,
    NumberingName,
    PageData,
    Record,
)
from xenmig_np.read.v2 import StreamKind, StreamReader, identify, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARED = Path(__file__).parents[2] / "shared" / "samples"

# ---- the streams of v2-stream.md 20, profile `reference` ---------------------------------------------------


def rec(kind: int, body: bytes = b"", *, length: int | None = None, pad: bytes = b"\0") -> bytes:
    return struct.pack("<II", kind, len(body) if length is None else length) + body + pad * (-len(body) % 8)


def image(version: int, guest: int, *records: bytes) -> bytes:
    """A libxc stream: its headers, STATIC_DATA_END where the version has it behind the static part."""
    header = b"\xff" * 8 + struct.pack(">IIHHI", 0x58454E46, version, 0, 0, 0)
    return header + struct.pack("<IHHII", guest, 12, 0, 0, 1) + b"".join(records)


def static_end(version: int) -> list[bytes]:
    return [rec(0x10)] if version == 3 else []


def page_data(words: list[int], pages: bytes, *, count: int | None = None, reserved: int = 0) -> bytes:
    head = struct.pack("<II", len(words) if count is None else count, reserved)
    return rec(1, head + struct.pack(f"<{len(words)}Q", *words) + pages)


def params(*pairs: tuple[int, int]) -> bytes:
    return rec(
        0x0A, struct.pack("<II", len(pairs), 0) + b"".join(struct.pack("<QQ", *pair) for pair in pairs)
    )


TSC = rec(8, struct.pack("<IIQII", 2, 2500000, 1000000000, 1, 0))
H_WORDS = [0, 0xE000000000000001, 0xF000000000000002]
V_WORDS = [0x10, 0x2000000000000011, 0xF000000000000012]


def hvm(version: int) -> bytes:
    return image(
        version,
        2,
        *static_end(version),
        page_data(H_WORDS, b"\xa5" * 4096),
        TSC,
        params((12, 0xFEFFC000)),
        params((5, 0xFEFFE), (6, 0xFEFFF), (1, 0xFEFFD)),
        rec(9, b"HVMCONTEXT!!"),
        rec(0),
    )


def pv(version: int) -> bytes:
    return image(
        version,
        1,
        rec(2, struct.pack("<BBHI", 4, 3, 0, 0)),
        *static_end(version),
        rec(3, struct.pack("<IIQQ", 0, 0x401, 0x10, 0x11)),
        page_data(V_WORDS, b"\xa5" * 4096 + b"\x5a" * 4096),
        TSC,
        rec(4, bytes(8) + b"\xc3" * 2800),
        rec(5, bytes(8) + b"\xe7" * 128),
        rec(7, b"\x51" * 4096),
        rec(0),
    )


LIBXL = b"LibxlFmt" + struct.pack(">II", 2, 2)
PHYSMAP = (
    b"physmap/80000000/start_addr\0f0000000\0physmap/80000000/size\x00800000\0"
    b"physmap/80000000/name\0vga.vram\0"
)
BLOB = struct.pack("<IIQQQI", 1, 1, 0x80000000, 0xF0000000, 0x800000, 9) + b"vga.vram\0" + b"\xee" * 4


def libxl(inner: bytes, *records: bytes) -> bytes:
    return LIBXL + rec(1) + inner + b"".join(records) + rec(0)


def draft(inner: bytes, *records: bytes) -> bytes:
    return LIBXL + rec(2) + inner + b"".join(records) + rec(0)


EMULATOR = bytes(8) + b"QEMU!"
H_LIBXL = [rec(2, bytes(8) + PHYSMAP), rec(3, EMULATOR)]
H_DRAFT = [rec(3, BLOB), rec(4, EMULATOR)]
QEMU_TAIL = b"DeviceModelRecord0002" + struct.pack("<I", 5) + b"QEMU!"

GOLDENS = {
    "H draft-v7 libxl": draft(hvm(2), *H_DRAFT),
    "H xen-4.6 libxc": hvm(2) + QEMU_TAIL,
    "H xen-4.6 libxl": libxl(hvm(2), *H_LIBXL),
    "H xen-4.14 libxc": hvm(3) + QEMU_TAIL,
    "H xen-4.14 libxl": libxl(hvm(3), *H_LIBXL),
    "V xen-4.6 libxc": pv(2),
    "V draft-v7 libxl": draft(pv(2)),
    "V xen-4.6 libxl": libxl(pv(2)),
    "V xen-4.14 libxc": pv(3),
    "V xen-4.14 libxl": libxl(pv(3)),
}
SHA256 = {
    "H draft-v7 libxl": "d2f12bdc7bc4215f918826b59bd4a12bae9180e11f7953615b2250c418923d42",
    "H xen-4.6 libxc": "592c70f8fb3e92420cd21d92f27a0f6086408c0baca7f26b9ab91f55dcfc4522",
    "H xen-4.6 libxl": "b8046b608da06dae43d5cdaf614e33bf692296c11c2e227a0494a86a6a4cc613",
    "H xen-4.14 libxc": "ad888f6275cd7123b61b3a7e379cff2fc08eaacac0f13e20a687cf323ab09d0e",
    "H xen-4.14 libxl": "764e6541532fcaedde8ac53d47ac56b0d4eca38ea20135f6f36934e940deb613",
    "V xen-4.6 libxc": "20d9eeaffcf5d25f97ba294bacddf9691f78ad8a5be282ba9a22396d4d9ec521",
    "V draft-v7 libxl": "c5e74a1d7f82c2eb58ba080ea0957df9d1f80754fa2f5d327e44519d489832de",
    "V xen-4.6 libxl": "b93cfd3cb6f863433c68435d28f2ae96bf4b87a0ed230d62fd3fb6c6cda22fcb",
    "V xen-4.14 libxc": "76bf2c05386c8db11e0e0c57d7e3070656074eb2a4dadc6709e497b594c9be72",
    "V xen-4.14 libxl": "1ee8be1e69b4ff440e6eb18b3a2c9eaf29aacab561a040a6292f8aeb8f71f955",
}

# offsets as the tables of 20.2 and 20.4 have them; the last is the end
H_PLACES = {
    "LibxlHeader": 0x0, "LIBXC_CONTEXT": 0x10, "ImageHeader": 0x18, "DomainHeader": 0x30,
    "STATIC_DATA_END": 0x40, "PAGE_DATA": 0x48, "X86_TSC_INFO": 0x1070, "HVM_PARAMS": 0x1090,
    "HVM_PARAMS 2": 0x10B0, "HVM_CONTEXT": 0x10F0, "END": 0x1108, "EMULATOR_XENSTORE_DATA": 0x1110,
    "EMULATOR_CONTEXT": 0x1188, "END 2": 0x11A0, "EndOfStream": 0x11A8,
}  # fmt: skip
V_PLACES = {
    "ImageHeader": 0x0, "DomainHeader": 0x18, "X86_PV_INFO": 0x28, "STATIC_DATA_END": 0x38,
    "X86_PV_P2M_FRAMES": 0x40, "PAGE_DATA": 0x60, "X86_TSC_INFO": 0x2088, "X86_PV_VCPU_BASIC": 0x20A8,
    "X86_PV_VCPU_EXTENDED": 0x2BA8, "SHARED_INFO": 0x2C38, "END": 0x3C40, "EndOfStream": 0x3C48,
}  # fmt: skip


def without_static_end(places: dict[str, int]) -> dict[str, int]:
    gone = places["STATIC_DATA_END"]
    rest = {name: at for name, at in places.items() if name != "STATIC_DATA_END"}
    return {name: at - 8 if at > gone else at for name, at in rest.items()}


PLACES = [
    ("H xen-4.14 libxl", H_PLACES),
    ("H xen-4.6 libxl", without_static_end(H_PLACES)),
    ("V xen-4.14 libxc", V_PLACES),
    ("V xen-4.6 libxc", without_static_end(V_PLACES)),
]

# ---- reading them ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def as_file(data: bytes) -> Iterator[Source]:
    fd = os.memfd_create("stream")
    try:
        os.truncate(fd, len(data))
        os.pwrite(fd, data, 0)
        with FileSource(fd, "stream", owned=False) as source:
            yield source
    finally:
        os.close(fd)


@contextlib.contextmanager
def as_pipe(data: bytes, *, exact: bool = False) -> Iterator[Source]:
    """Nothing is released: this is what detection sees."""
    reader, writer = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(writer, "wb") as pipe:
            pipe.write(data)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield StreamSource(reader, "pipe", owned=False, exact=exact)
    finally:
        os.close(reader)
        feeder.join()


def events_of(source: Source, at: int = 0) -> list[AnyRecord]:
    source.release()
    return list(StreamReader(source, at).events())


def read(data: bytes, at: int = 0) -> list[AnyRecord]:
    with as_file(data) as source:
        return events_of(source, at)


def named(events: list[AnyRecord]) -> dict[str, AnyRecord]:
    """Events by class, or by the name of the record; ``2`` is behind the name of a second one."""
    found: dict[str, AnyRecord] = {}
    for event in events:
        name = event.name if isinstance(event, Record | LibxlRecord) else type(event).__name__
        found[f"{name} 2" if name in found else name] = event
    return found


def plain(value: Any) -> Any:
    """Equal for equal events; arrays and scalars of dtypes compare badly."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return (type(value).__name__, *(plain(getattr(value, field.name)) for field in fields))
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.tolist())
    return value.tolist() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("name", GOLDENS)
def test_streams_here_are_those_of_the_specification(name: str) -> None:
    assert hashlib.sha256(GOLDENS[name]).hexdigest() == SHA256[name]


@pytest.mark.parametrize(("name", "places"), PLACES)
def test_every_event_is_located_to_the_byte(name: str, places: dict[str, int]) -> None:
    events = read(GOLDENS[name])
    assert {key: event.offset for key, event in named(events).items()} == places
    ends = [event.offset + event.length for event in events]
    assert ends == [*list(places.values())[1:], len(GOLDENS[name])]


@pytest.mark.parametrize("name", GOLDENS)
def test_events_follow_each_other_without_gaps(name: str) -> None:
    events = read(b"before!" + GOLDENS[name], 7)
    assert events[0].offset == 7
    for event, following in itertools.pairwise(events):
        assert event.offset + event.length == following.offset
    tail = len(QEMU_TAIL) if "H" in name and "libxc" in name else 0
    assert isinstance(events[-1], EndOfStream)
    assert events[-1].offset == 7 + len(GOLDENS[name]) - tail


def test_draft_records_have_their_own_names() -> None:
    found = named(read(GOLDENS["H draft-v7 libxl"]))
    blob, emulator = found["XENSTORE_DATA"], found["EMULATOR_CONTEXT"]
    assert isinstance(blob, LibxlRecord)
    assert isinstance(emulator, LibxlRecord)
    assert (blob.type, blob.numbering, blob.offset, blob.length) == (3, "draft-v7", 0x1108, 64)
    assert (blob.body, blob.head, blob.padding) == (Extent(0x1110, 49), None, bytes(7))
    assert (emulator.type, emulator.offset, emulator.head.item()) == (4, 0x1148, (0, 0))


def test_draft_stream_with_json() -> None:
    json_record = rec(1, b'{"c_info": {}}')
    data = b"LibxlFmt" + struct.pack(">II", 2, 0) + json_record + rec(2) + pv(2) + rec(0)
    found = named(read(data))
    assert list(found)[:3] == ["LibxlHeader", "DOMAIN_JSON", "LIBXC_CONTEXT"]
    assert found["LIBXC_CONTEXT"].offset == 16 + len(json_record)


def test_page_data_fields() -> None:
    data = GOLDENS["V xen-4.14 libxc"]
    batch = named(read(data))["PAGE_DATA"]
    assert isinstance(batch, PageData)
    assert (batch.type, batch.count, batch.reserved, batch.padding) == (1, 3, 0, b"")
    assert plain(batch.types) == ("|u1", [0, 2, 15])
    assert plain(batch.pfns) == ("<u8", [0x10, 0x11, 0x12])
    assert batch.words.tolist() == V_WORDS
    assert (batch.body, batch.pages) == (Extent(0x68, 0x2020), Extent(0x88, 8192))
    assert data[batch.word_offset(2) :][:8] == struct.pack("<Q", V_WORDS[2])
    assert batch.at("reserved") == 0x6C


def test_heads_and_bodies() -> None:
    data = GOLDENS["H xen-4.14 libxl"]
    found = named(read(data))
    tsc, context, xenstore = (
        found[name] for name in ("X86_TSC_INFO", "HVM_CONTEXT", "EMULATOR_XENSTORE_DATA")
    )
    assert isinstance(tsc, Record)
    assert tsc.head.item() == (2, 2500000, 1000000000, 1, 0)
    assert tsc.at("nsec") == 0x1080
    assert isinstance(context, Record)
    assert (context.head, context.body, context.padding) == (None, Extent(0x10F8, 12), bytes(4))
    assert isinstance(xenstore, LibxlRecord)
    assert xenstore.head.dtype.names == ("id", "index")
    assert data[xenstore.body.offset :][: xenstore.body.length] == bytes(8) + PHYSMAP


def test_odd_but_legal_things_are_kept_as_fields() -> None:
    inner = bytearray(image(3, 2, rec(0x10, b"odd", pad=b"\x7f"), rec(0x80000000, b"?"), rec(8, b"short")))
    struct.pack_into(">HHI", inner, 16, 0x8000, 0x1234, 0x56789ABC)
    struct.pack_into("<HHII", inner, 28, 13, 7, 4, 17)
    inner += (
        page_data([0x5FF0000000000003, 1 << 52], b"strange", reserved=9) + page_data([], b"") + rec(0, b"12")
    )
    data = bytearray(libxl(bytes(inner), rec(5, b"\1\0\0\0"), rec(3, b"tiny"), rec(4)))
    struct.pack_into(">I", data, 12, 0xFFFFFFFE)
    events = read(bytes(data))
    found = named(events)
    assert plain(found["LibxlHeader"])[3:] == (2, 0xFFFFFFFE)
    assert plain(found["ImageHeader"])[3:] == (3, 0x8000, 0x1234, 0x56789ABC)
    assert plain(found["DomainHeader"])[3:] == (2, 13, 7, 4, 17)
    header = found["DomainHeader"]
    assert isinstance(header, DomainHeader)
    assert header.at("xen_major") == 0x30 + 8
    records = {name: event for name, event in found.items() if isinstance(event, Record | LibxlRecord)}
    assert (records["STATIC_DATA_END"].body.length, records["STATIC_DATA_END"].padding) == (3, b"\x7f" * 5)
    assert (records["OPTIONAL"].type, records["OPTIONAL"].body.length) == (0x80000000, 1)
    assert records["X86_TSC_INFO"].head is None
    assert records["END"].body.length == 2
    assert records["EMULATOR_CONTEXT"].head is None
    assert records["CHECKPOINT_STATE"].body.length == 4
    illegal, empty = (event for event in events if isinstance(event, PageData))
    assert (illegal.reserved, illegal.types.tolist(), illegal.pages.length) == (9, [5, 0], 7)
    assert illegal.pfns.tolist() == [3, 0]
    assert (illegal.padding, empty.count, empty.pages.length) == (b"\0", 0, 0)
    assert isinstance(events[-1], EndOfStream)


def test_a_checkpoint_leads_to_the_libxl_layer_and_back() -> None:
    part = [page_data([7], b"\1" * 4096), rec(9, b"HVMCONTEXT!!"), rec(0x0E)]
    inner = image(2, 2, *part)
    again = page_data([7], b"\2" * 4096) + rec(0)
    data = LIBXL + rec(1) + inner + rec(3, EMULATOR) + rec(4) + again + rec(4) + rec(0)
    names = list(named(read(data)))
    assert names[4:] == [
        "PAGE_DATA", "HVM_CONTEXT", "CHECKPOINT", "EMULATOR_CONTEXT", "CHECKPOINT_END",
        "PAGE_DATA 2", "END", "CHECKPOINT_END 2", "END 2", "EndOfStream",
    ]  # fmt: skip
    bare = [event.name for event in read(image(2, 2, *part) + again) if isinstance(event, Record)]
    assert bare == ["PAGE_DATA", "HVM_CONTEXT", "CHECKPOINT", "PAGE_DATA", "END"]


# ---- kinds and sums ----------------------------------------------------------------------------------------


def native(stream: bytes, major: int, minor: int) -> bytes:
    at = stream.index(b"\xff" * 8) + 24
    return stream[: at + 8] + struct.pack("<II", major, minor) + stream[at + 16 :]


LIBXC, LIBXL_FORMAT, PV, HVM = Format.LIBXC, Format.LIBXL, GuestName.PV, GuestName.HVM
DRAFT, RELEASED, UNKNOWN = NumberingName.DRAFT_V7, NumberingName.RELEASED, NumberingName.UNKNOWN
DRAFT_NATIVE = b"LibxlFmt" + struct.pack(">II", 2, 0) + rec(1, b"{}") + rec(2) + native(pv(2), 4, 5) + rec(0)
KINDS = [
    (GOLDENS["H draft-v7 libxl"], StreamKind(LIBXL_FORMAT, DRAFT, 2, HVM, converted=True, saved_by=None)),
    (GOLDENS["H xen-4.6 libxl"], StreamKind(LIBXL_FORMAT, RELEASED, 2, HVM, converted=True, saved_by=None)),
    (GOLDENS["V xen-4.14 libxl"], StreamKind(LIBXL_FORMAT, RELEASED, 3, PV, converted=True, saved_by=None)),
    (GOLDENS["H xen-4.14 libxc"], StreamKind(LIBXC, RELEASED, 3, HVM, converted=True, saved_by=None)),
    (GOLDENS["V xen-4.6 libxc"], StreamKind(LIBXC, UNKNOWN, 2, PV, converted=True, saved_by=None)),
    (native(hvm(3), 4, 17), StreamKind(LIBXC, RELEASED, 3, HVM, converted=False, saved_by="Xen 4.17")),
    (
        native(libxl(pv(2)), 4, 9),
        StreamKind(LIBXL_FORMAT, RELEASED, 2, PV, converted=True, saved_by="Xen 4.9"),
    ),
    (DRAFT_NATIVE, StreamKind(LIBXL_FORMAT, DRAFT, 2, PV, converted=False, saved_by="Xen 4.5")),
]


@pytest.mark.parametrize(("data", "kind"), KINDS)
@pytest.mark.parametrize("opened", [as_file, as_pipe])
def test_identify(
    data: bytes, kind: StreamKind, opened: Callable[[bytes], contextlib.AbstractContextManager[Source]]
) -> None:
    with opened(data) as source:
        assert identify(source, 0) == kind
        assert isinstance(events_of(source)[-1], EndOfStream)  # a pipe still has what was looked at


def test_identify_reads_headers_only() -> None:
    assert identify_bytes(GOLDENS["V xen-4.6 libxl"][: 16 + 8 + 24 + 16]).guest == "pv"


def identify_bytes(data: bytes) -> StreamKind:
    with as_file(data) as source:
        return identify(source, 0)


def test_identify_says_what_it_cannot_name() -> None:
    with pytest.raises(NotSupported, match="a guest of type ARM"):
        identify_bytes(image(2, 4, rec(0)))
    with pytest.raises(InvalidImage, match=r"domain header at 0x18: found type 0x9"):
        identify_bytes(image(2, 9, rec(0)))
    with pytest.raises(InvalidImage, match="expected LIBXC_CONTEXT"):
        identify_bytes(LIBXL + rec(1, b"{}") + rec(0))


def test_a_configuration_longer_than_the_replay_window_needs_a_file() -> None:
    data = LIBXL + rec(1, b"{" + b" " * REPLAY_MAX + b"}") + rec(2) + pv(2) + rec(0)
    assert identify_bytes(data).numbering == "draft-v7"
    with as_pipe(data) as source, pytest.raises(NotSupported, match="on a pipe"):
        identify(source, 0)


@pytest.mark.parametrize("opened", [as_file, as_pipe])
def test_tally(opened: Callable[[bytes], contextlib.AbstractContextManager[Source]]) -> None:
    with opened(GOLDENS["V xen-4.14 libxl"]) as source:
        sums = tally(source, 0)
    assert (sums.page_data, sums.pages, sums.vcpus) == (1, 2, 1)
    assert plain(sums.words) == ("<i8", [1, 0, 1] + [0] * 12 + [1])
    assert sums.end == len(GOLDENS["V xen-4.14 libxl"])
    assert sums.libxl_records == {"LIBXC_CONTEXT": 1, "END": 1}
    once = ["X86_PV_INFO", "STATIC_DATA_END", "X86_PV_P2M_FRAMES", "PAGE_DATA", "X86_TSC_INFO"]
    once += ["X86_PV_VCPU_BASIC", "X86_PV_VCPU_EXTENDED", "SHARED_INFO", "END"]
    assert sums.records == dict.fromkeys(once, 1)


def test_tally_of_a_pipe_longer_than_the_replay_window() -> None:
    batch = page_data(list(range(1024)), bytes(4 * MIB))
    with as_pipe(image(2, 2, batch, batch, rec(0))) as source:
        assert tally(source, 0).pages == 2048


# ---- pipes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDENS)
def test_a_pipe_gives_the_same_events(name: str) -> None:
    with as_pipe(GOLDENS[name]) as source:
        assert list(map(plain, events_of(source))) == list(map(plain, read(GOLDENS[name])))


def test_pages_of_a_pipe_can_be_read_when_they_are_told() -> None:
    with as_pipe(GOLDENS["V xen-4.14 libxl"]) as source:
        source.release()
        for event in StreamReader(source, 0).events():
            if isinstance(event, PageData):
                pages = bytearray(event.pages.length)
                assert source.read_at(event.pages.offset, memoryview(pages)) == len(pages)
                assert pages == b"\xa5" * 4096 + b"\x5a" * 4096
    assert isinstance(event, EndOfStream)


@pytest.mark.parametrize(
    "stream", [*GOLDENS.values(), image(2, 2, rec(0, b"a body")), libxl(pv(3))[:-8] + rec(0, b"!")]
)
def test_an_exact_pipe_is_left_behind_the_stream(stream: bytes) -> None:
    stream = stream.removesuffix(QEMU_TAIL)
    with as_pipe(stream + b"next reader's", exact=True) as source:
        events_of(source)
        assert os.read(source.fd, 100) == b"next reader's"


# ---- broken streams ----------------------------------------------------------------------------------------


def outcome(data: bytes) -> XenmigError | None:
    """The error of the whole walk; every other exception is let through."""
    try:
        read(data)
    except XenmigError as error:
        return error
    return None


@pytest.mark.parametrize("name", ["H xen-4.14 libxl", "H draft-v7 libxl", "V xen-4.6 libxc"])
def test_truncation_at_every_byte(name: str) -> None:
    whole = GOLDENS[name]
    with as_file(whole) as source:
        for length in range(len(whole) - 1, -1, -1):
            os.truncate(source.fd, length)
            source.end = length
            with pytest.raises(TruncatedImage) as caught:
                events_of(source)
            assert caught.value.offset is not None
            assert caught.value.offset <= length


@pytest.mark.parametrize(
    ("length", "item", "wanted"),
    [(0x10FA, "HVM_CONTEXT record", 16), (0x60, "PAGE_DATA record", 0x1020), (0x1180, "libxl record", 112)],
)
def test_truncation_names_the_whole_record(length: int, item: str, wanted: int) -> None:
    error = outcome(GOLDENS["H xen-4.14 libxl"][:length])
    assert isinstance(error, TruncatedImage)
    assert error.item
    assert error.item.startswith(item)
    assert error.expected == f"{wanted:,} bytes"


def test_truncation_of_a_pipe_at_every_byte() -> None:
    whole = GOLDENS["H xen-4.14 libxl"]
    for length in [*range(0x80), *range(0x1060, len(whole))]:
        with as_pipe(whole[:length]) as source, pytest.raises(TruncatedImage):
            events_of(source)


@pytest.mark.parametrize("body", [1, 6, 8, 8000])
def test_a_pipe_that_ends_in_the_last_body_is_noticed(body: int) -> None:
    whole = image(2, 2, rec(0, bytes(body)))
    for cut in range(1, min(body, 16)):
        with as_pipe(whole[:-cut]) as source, pytest.raises(TruncatedImage):
            events_of(source)


@pytest.mark.parametrize("name", ["H xen-4.14 libxl", "V draft-v7 libxl"])
def test_bit_flips_in_headers(name: str) -> None:
    """Each bit outside the pages and blobs: an error of ours, or a walk that ends."""
    whole = GOLDENS[name]
    blobs = [b"\xa5" * 64, b"\x5a" * 64, b"\xc3" * 64, b"\xe7" * 64, b"\x51" * 64]
    outside = [
        at
        for at in range(len(whole))
        if whole[at : at + 64] not in blobs and whole[at - 63 : at + 1] not in blobs
    ]
    refused = 0
    for at in outside:
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            refused += outcome(bytes(data)) is not None
            with contextlib.suppress(XenmigError):
                identify_bytes(bytes(data))
    assert 100 < refused < len(outside) * 8


def broken(inner: bytes) -> bytes:
    return image(2, 1, inner, rec(2, bytes(8)), rec(0))


MISFITS = {
    "shorter than its head": (rec(1, bytes(4)), 0x2C, "4 bytes"),
    "more words than fit": (page_data([1, 2], b"", count=3), 0x30, "3 words"),
    "count of all ones": (page_data([1, 2], b"", count=0xFFFFFFFF), 0x30, "4,294,967,295 words"),
    "a page too few": (page_data([1, 2], bytes(4096)), 0x2C, "4,096 bytes of pages"),
    "a page too many": (page_data([1], bytes(8192)), 0x2C, "8,192 bytes of pages"),
    "eight bytes too many": (page_data([1], bytes(4104)), 0x2C, "4,104 bytes of pages"),
    "pages of XTAB": (page_data([15 << 60], bytes(4096)), 0x2C, "4,096 bytes of pages"),
    "unknown type": (rec(0x13, b"what?"), 0x28, "type 0x13"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_reading_goes_on_behind_a_broken_record(misfit: str) -> None:
    record, offset, found = MISFITS[misfit]
    with as_file(broken(record)) as source:
        reader = StreamReader(source, 0)
        with pytest.raises(InvalidImage) as caught:
            list(reader.events())
        assert (caught.value.path, caught.value.offset, caught.value.found) == ("stream", offset, found)
        assert caught.value.item
        assert caught.value.expected
        rest = list(reader.events())
    assert [event.offset for event in rest] == [0x28 + len(record) + at for at in (0, 16, 24)]
    assert isinstance(rest[-1], EndOfStream)


def test_unknown_libxl_records_are_known_by_their_numbering() -> None:
    known = libxl(pv(2), rec(5, bytes(4)))
    unknown = draft(pv(2), rec(5, bytes(4)), rec(3, BLOB))
    assert outcome(known) is None
    with as_file(unknown) as source:
        reader = StreamReader(source, 0)
        with pytest.raises(InvalidImage, match=r"libxl record \(draft-v7\) at 0x.*type 0x5"):
            list(reader.events())
        assert list(named(list(reader.events()))) == ["XENSTORE_DATA", "END", "EndOfStream"]


NOT_STREAMS = {
    "nothing known": (b"\0" * 64, 0, "libxc image header"),
    "marker without ident": (b"\xff" * 64, 0, "libxc image header"),
    "first record END": (LIBXL + rec(0), 16, "first libxl record"),
    "LIBXC_CONTEXT without a libxc stream": (LIBXL + rec(1) + rec(0) * 4, 16, "first libxl record"),
    "record 1 with a body that is no JSON": (LIBXL + rec(1, bytes(8)) + hvm(2), 16, "first libxl record"),
    "LIBXC_CONTEXT, then a brace": (LIBXL + rec(1) + b"{      }" + hvm(2), 16, "first libxl record"),
    "a draft context without a libxc stream": (
        LIBXL + rec(1, b"{}") + rec(2) + bytes(64),
        40,
        "libxc image header",
    ),
    "records of June 2015 first": (LIBXL + rec(2, b"physmap/"), 16, "first libxl record"),
}


@pytest.mark.parametrize("case", NOT_STREAMS)
def test_what_is_no_stream_ends_at_once(case: str) -> None:
    data, offset, item = NOT_STREAMS[case]
    with as_file(data) as source:
        reader = StreamReader(source, 0)
        with pytest.raises(InvalidImage) as caught:
            list(reader.events())
        assert (type(caught.value), caught.value.offset, caught.value.item) == (InvalidImage, offset, item)
        assert list(reader.events()) == []


@pytest.mark.parametrize(
    ("data", "offset", "what"),
    [
        (LIBXL[:15] + b"\3" + rec(1) + hvm(2), 12, "big-endian"),
        (hvm(2)[:17] + b"\1" + hvm(2)[18:], 16, "big-endian"),
        (LIBXL[:11] + b"\3" + LIBXL[12:], 8, "version 3"),
        (hvm(2)[:15] + b"\4" + hvm(2)[16:], 12, "version 4"),
    ],
)
def test_not_supported(data: bytes, offset: int, what: str) -> None:
    error = outcome(data)
    assert isinstance(error, NotSupported)
    assert error.offset == offset
    assert what in str(error)


# ---- lengths that lie --------------------------------------------------------------------------------------

HUGE_LENGTHS = {
    "libxc record": image(2, 2, rec(9, b"context!", length=0x07FFFFFF)),
    "libxc record above the limit": image(2, 2, rec(9, b"context!", length=0xFFFFFFFF)),
    "PAGE_DATA of 2^24 words": image(2, 2, rec(1, struct.pack("<II", 0xFFFFFE, 0), length=128 << 20)),
    "PAGE_DATA without words": image(2, 2, rec(1, struct.pack("<II", 0xFFFFFFFF, 0), length=16)),
    "libxl record": libxl(pv(2), rec(3, EMULATOR, length=0xFFFFFFFF)),
    "draft configuration": LIBXL + rec(1, b"{}", length=0xFFFFFFF0),
}


@pytest.mark.parametrize("case", HUGE_LENGTHS)
@pytest.mark.parametrize("opened", [as_file, as_pipe])
def test_lengths_that_lie_cost_no_memory(
    case: str, opened: Callable[[bytes], contextlib.AbstractContextManager[Source]]
) -> None:
    with opened(HUGE_LENGTHS[case]) as source:
        tracemalloc.start()
        try:
            with pytest.raises(InvalidImage):
                events_of(source)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 16 * MIB


def test_the_longest_record_is_read() -> None:
    """128 MiB are allowed, a byte more is not; the hole in the file stands for the body."""
    head = image(2, 2)
    for length, found in [(128 << 20, None), ((128 << 20) + 1, "134,217,729 bytes")]:
        with as_file(head + struct.pack("<II", 9, length)) as source:
            end = len(head) + 8 + length + -length % 8
            os.pwrite(source.fd, rec(0), end)
            source.end = end + 8
            reader = StreamReader(source, 0)
            if found:
                with pytest.raises(InvalidImage) as caught:
                    list(reader.events())
                assert (caught.value.found, caught.value.offset) == (found, len(head) + 4)
            assert isinstance(list(reader.events())[-1], EndOfStream)


# ---- streams of Xen's own converter ------------------------------------------------------------------------


def converted(tmp_path: Path, name: str, form: str) -> tuple[bytes, dict[str, Any]]:
    """What Debian's converter makes of a sample, and the ground truth of the sample."""
    if not SHARED.is_dir():
        pytest.skip(f"no samples in {SHARED}")
    truth = json.loads((SHARED / f"{name}.json").read_text())
    legacy, stream = tmp_path / "legacy", tmp_path / "stream"
    legacy.write_bytes(lzma.decompress((SHARED / f"{name}.xz").read_bytes()))
    xen = debian.xen()
    shape = ["-w", str(truth["writer"]["toolstack_width"]), "-g", truth["guest"]["type"], "-f", form]
    command = [sys.executable, xen / "bin" / "convert-legacy-stream", "-i", legacy, "-o", stream, *shape]
    environment = os.environ | {
        "PYTHONPATH": str(xen / "lib" / "python"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return stream.read_bytes(), truth


@pytest.mark.parametrize("name", ["hvm-45-t64-basic", "pv32-45-t64-basic"])
@pytest.mark.parametrize("form", ["libxl", "libxc"])
def test_streams_of_xens_converter(tmp_path: Path, name: str, form: str) -> None:
    data, truth = converted(tmp_path, name, form)
    guest, seen = truth["guest"], truth["observed"]
    assert identify_bytes(data) == StreamKind(
        Format(form), RELEASED, 3, GuestName(guest["type"]), converted=True, saved_by=None
    )
    with as_file(data) as source:
        sums = tally(source, 0)
        found = named(events_of(source))
    assert (sums.page_data, sums.pages) == (seen["batches"], seen["data_pages_sent"])
    assert sums.vcpus == (len(guest["vcpus_online"]) if guest["type"] == "pv" else 0)
    tail = data[sums.end :]
    assert (
        tail.startswith(b"DeviceModelRecord0002") if form == "libxc" and guest["type"] == "hvm" else not tail
    )
    tsc = found["X86_TSC_INFO"]
    assert isinstance(tsc, Record)
    assert {key: int(tsc.head[key]) for key in ("mode", "khz", "incarnation")} == {
        key: truth["tsc"][key] for key in ("mode", "khz", "incarnation")
    }
