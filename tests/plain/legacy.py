"""Read a legacy image of one body, from its first byte to its last (legacy-stream.md)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

PAGE = 4096
MAX_P2M_SIZE = 1 << 28  # a legacy word has 28 bits for the pfn
MAX_BATCH = 1024
MAX_VCPU_ID = 4095
MIB = 1 << 20

BROKEN, XALLOC, XTAB = 0xD, 0xE, 0xF  # the types without data (section 4)
INVALID_TYPES = (5, 6, 7, 8)
TABLE_TYPES = (1, 2, 3, 4, 9, 0xA, 0xB, 0xC)  # the level is type & 7, bit 3 says pinned

END, VERIFY, VCPU_INFO, TMEM, TMEM_EXTRA, TSC_INFO = 0, -1, -2, -5, -6, -7
LAST_CHECKPOINT, COMPRESSED_DATA, ENABLE_COMPRESSION, TOOLSTACK = -9, -12, -13, -18
PARAM_CHUNKS = (-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20, -21)

CONTEXT_LEVELS = {2800: (4, 3), 5168: (8, 4)}
"""Size of a vcpu context: width of the guest in bytes, levels of its page tables (section 2.2)."""
EXTENDED_SIZE = 128

SIGNATURES = (b"QemuDeviceModelRecord", b"DeviceModelRecord0002", b"RemusDeviceModelState")
SUPPORTED_SIGNATURE = SIGNATURES[1]


class Invalid(Exception):
    """The image is not valid: a stream error of v2-stream.md 19."""


class Unsupported(Exception):
    """The image may be valid, but the first version of the converter refuses it."""


class Word(NamedTuple):
    """One entry of a batch and the page that follows for it; the pfn of XTAB means nothing (section 4.1)."""

    type: int
    pfn: int
    page: bytes | None


@dataclass(frozen=True)
class Batch:
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Tsc:
    mode: int
    nsec: int
    khz: int
    incarnation: int


@dataclass(frozen=True)
class Verify:
    """Chunk -1: all memory is sent a second time behind it (section 4.4)."""


Item = Batch | Tsc | Verify


@dataclass(frozen=True)
class Vcpu:
    """One vcpu record of a PV tail; xsave without its two leading u64, mask and size (section 7.1)."""

    id: int
    context: bytes
    extended: bytes | None
    xsave: bytes | None


@dataclass(frozen=True)
class Pv:
    """What only PV images have: extended information and frame list before the body, the tail behind it."""

    guest_width: int  # bytes, 4 or 8
    levels: int
    frames: tuple[int, ...]
    unmapped: tuple[int, ...]
    vcpus: tuple[Vcpu, ...]
    shared_info: bytes


@dataclass(frozen=True)
class Hvm:
    """The HVM tail; record is the state of the device model, None where the image ends without one."""

    ioreq: int
    bufioreq: int
    store: int
    context: bytes
    record: bytes | None


@dataclass(frozen=True)
class Image:
    """A legacy image; `end` is the offset behind its last byte, `params` are (chunk id, value) pairs."""

    guest: str
    width: int  # bits of the toolstack's unsigned long
    p2m_size: int
    body: tuple[Item, ...]
    params: tuple[tuple[int, int], ...]
    toolstack: tuple[bytes, ...]
    online: tuple[int, ...]
    pv: Pv | None
    hvm: Hvm | None
    end: int


@dataclass
class _Input:
    """The bytes and how far they have been read; `ulong` is the struct code of the toolstack's word."""

    data: bytes
    at: int
    ulong: str

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise Invalid(f"truncated: {size} bytes expected at {self.at:#x}")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def number(self, code: str) -> int:
        return self.numbers(code)[0]

    def ulongs(self, count: int) -> tuple[int, ...]:
        return self.numbers(f"{count}{self.ulong}")

    def left(self) -> bytes:
        return self.data[self.at : self.at + len(SUPPORTED_SIGNATURE)]


@dataclass
class _Head:
    """What precedes the body of a PV image."""

    context_size: int
    extended: bool
    xsave: bool
    frames: tuple[int, ...] = ()


@dataclass
class _Body:
    items: list[Item] = field(default_factory=list)
    params: list[tuple[int, int]] = field(default_factory=list)
    toolstack: list[bytes] = field(default_factory=list)
    online: tuple[int, ...] | None = None
    last: bool = False  # chunk -9: no other body follows


def parse(data: bytes, width: int, guest: str, at: int = 0, *, record: bool = True) -> Image:
    """The image of `guest` ("pv", "hvm") at offset `at`, saved by a toolstack of `width` bits (32, 64).

    record=False reads nothing behind the first tail, as a converter that skips the device model does.
    Raises Invalid and Unsupported.
    """
    source = _Input(data, at, {32: "I", 64: "Q"}[width])
    p2m_size = source.number(source.ulong)
    if not 1 <= p2m_size <= MAX_P2M_SIZE:
        raise Invalid(f"p2m_size {p2m_size:#x}")  # D12
    head = _pv_head(source, p2m_size) if guest == "pv" else None

    body = _body(source, p2m_size, guest)
    pv, hvm = _tail(source, p2m_size, head, body, record=record)
    if pv is not None and pv.guest_width == 4:
        _refuse_two_levels(pv, body.items)
    if record and not body.last:
        _refuse_second_body(_Input(data, source.at, source.ulong), p2m_size, guest, head)
    return Image(
        guest=guest,
        width=width,
        p2m_size=p2m_size,
        body=tuple(body.items),
        params=tuple(body.params),
        toolstack=tuple(body.toolstack),
        online=_online(body),
        pv=pv,
        hvm=hvm,
        end=source.at,
    )


def _pv_head(source: _Input, p2m_size: int) -> _Head:
    """Extended information and p2m frame list (sections 2.2, 2.3)."""
    if source.number(source.ulong) != (1 << 8 * struct.calcsize("<" + source.ulong)) - 1:
        raise Unsupported("PV image without extended information")  # D30
    head = _extended_information(source)
    guest_width, _ = CONTEXT_LEVELS[head.context_size]
    per_frame = PAGE // guest_width
    head.frames = source.ulongs(-(-p2m_size // per_frame))
    return head


def _extended_information(source: _Input) -> _Head:
    left = source.number("I")
    if left > 64 * 1024:
        raise Invalid(f"extended information of {left} bytes")
    context_size: int | None = None
    extended = xsave = False
    while left:
        if left < 8:
            raise Invalid("extended information ends in the head of a block")
        name, size = source.take(4), source.number("I")
        left -= 8
        if size > left:
            raise Invalid(f"block {name!r} is longer than the extended information")
        left -= size
        payload = source.take(size)
        if name == b"vcpu":
            if context_size is not None or size not in CONTEXT_LEVELS:
                raise Invalid("second vcpu block, or one of unknown size")  # D11
            context_size = size
        elif name == b"extv":
            if size != 0:
                raise Invalid("extv block with a payload")
            extended = True
        elif name == b"xcnt":
            if size != 4:
                raise Invalid("xcnt block is not 4 bytes")
            (record_size,) = struct.unpack("<I", payload)
            if 1 <= record_size <= 15 or record_size > 64 * 1024:
                raise Invalid(f"xcnt {record_size}")
            xsave = record_size != 0
        # any other block is skipped (D26)
    if context_size is None:
        raise Invalid("no vcpu block")  # D11
    return _Head(context_size, extended, xsave)


def _body(source: _Input, p2m_size: int, guest: str) -> _Body:
    """Chunks up to the 0 that ends them (section 3)."""
    body = _Body()
    while (chunk := source.number("i")) != END:
        if 1 <= chunk <= MAX_BATCH:
            body.items.append(_batch(source, p2m_size, chunk))
        elif chunk == VERIFY:
            body.items.append(Verify())
        elif chunk == VCPU_INFO:
            body.online = _vcpu_map(source)  # a second one replaces the first (D8)
        elif chunk == TSC_INFO:
            body.items.append(Tsc(*source.numbers("IQII")))
        elif chunk == LAST_CHECKPOINT:
            body.last = True
        elif chunk == TOOLSTACK:
            size = source.number("I")
            if size > MIB:
                raise Invalid(f"toolstack data of {size} bytes")
            body.toolstack.append(source.take(size))
        elif chunk in PARAM_CHUNKS:
            _, value = source.numbers("IQ")
            body.params.append((chunk, value))
        elif chunk in (TMEM, TMEM_EXTRA, COMPRESSED_DATA, ENABLE_COMPRESSION):
            raise Unsupported(f"chunk {chunk}")
        else:
            raise Invalid(f"chunk {chunk} before {source.at:#x}")
    if guest == "pv" and body.params:
        raise Invalid("HVM parameters in a PV image")
    return body


def _batch(source: _Input, p2m_size: int, count: int) -> Batch:
    """Words, then a page for each whose type carries data (section 4)."""
    entries = []
    for entry in source.ulongs(count):
        low, high = entry & 0xFFFFFFFF, entry >> 32
        if high != 0 and not (high == 0xFFFFFFFF and low >> 31):
            raise Invalid(f"upper half of word {entry:#x}")  # D5
        page_type, pfn = low >> 28, low & 0x0FFFFFFF
        if page_type in INVALID_TYPES:
            raise Invalid(f"page type {page_type}")  # D6
        if page_type != XTAB and pfn >= p2m_size:
            raise Invalid(f"pfn {pfn:#x}")  # D31
        entries.append((page_type, pfn))
    return Batch(tuple(Word(t, pfn, source.take(PAGE) if t < BROKEN else None) for t, pfn in entries))


def _vcpu_map(source: _Input) -> tuple[int, ...]:
    highest = source.number("i")
    if not 0 <= highest <= MAX_VCPU_ID:
        raise Invalid(f"highest vcpu id {highest}")  # D10
    words = source.numbers(f"{highest // 64 + 1}Q")
    # bits above the highest id mean nothing (D9)
    return tuple(n for n in range(highest + 1) if words[n // 64] >> n % 64 & 1)


def _online(body: _Body) -> tuple[int, ...]:
    return (0,) if body.online is None else body.online  # D3


def _tail(
    source: _Input, p2m_size: int, head: _Head | None, body: _Body, *, record: bool
) -> tuple[Pv | None, Hvm | None]:
    """The tail and the device-model record behind it; what a PV guest left there is dropped (section 7)."""
    if head is None:
        hvm = _hvm_tail(source)
        state = _device_model(source) if record else None
        return None, Hvm(*hvm, state)
    pv = _pv_tail(source, p2m_size, head, _online(body))
    if record and source.left() in SIGNATURES:
        _drop_device_model(source)
    return pv, None


def _pv_tail(source: _Input, p2m_size: int, head: _Head, online: tuple[int, ...]) -> Pv:
    count = source.number("I")
    if count > p2m_size:
        raise Invalid(f"{count} unmapped pfns")
    unmapped = source.ulongs(count)
    vcpus = []
    for vcpu in online:
        context = source.take(head.context_size)
        extended = source.take(EXTENDED_SIZE) if head.extended else None
        xsave = None
        if head.xsave:
            _, size = source.numbers("QQ")  # each vcpu's own size, whatever xcnt says (D4)
            if not 16 <= size <= 64 * 1024:
                raise Invalid(f"xsave record of {size} bytes")
            xsave = source.take(size)
        vcpus.append(Vcpu(vcpu, context, extended, xsave))
    return Pv(
        *CONTEXT_LEVELS[head.context_size],
        head.frames,
        tuple(pfn for pfn in unmapped if pfn < p2m_size),
        tuple(vcpus),
        source.take(PAGE),
    )


def _hvm_tail(source: _Input) -> tuple[int, int, int, bytes]:
    ioreq, bufioreq, store, size = source.numbers("QQQI")
    if not 1 <= size <= 16 * MIB:
        raise Invalid(f"HVM context of {size} bytes")  # D27
    return ioreq, bufioreq, store, source.take(size)


def _device_model(source: _Input) -> bytes | None:
    """The device model's state, None where no record begins here (section 7.3)."""
    signature = source.left()
    if signature not in SIGNATURES:
        if signature and any(known.startswith(signature) for known in SIGNATURES):
            raise Invalid("the image ends inside the signature of a device-model record")
        return None
    if signature != SUPPORTED_SIGNATURE:
        raise Unsupported(f"device-model record {signature!r}")  # D7
    source.take(len(signature))
    size = source.number("I")
    if size > 256 * MIB:
        raise Invalid(f"device-model record of {size} bytes")
    return source.take(size)


def _drop_device_model(source: _Input) -> None:
    """A record behind a PV guest, whatever its form (19.9, containers.md 6.1)."""
    signature = source.take(len(SUPPORTED_SIGNATURE))
    if signature == SIGNATURES[0] and source.data[source.at : source.at + 1] != b"\n":
        source.at = len(source.data)
        return
    order = "<"
    if signature == SIGNATURES[0]:
        source.take(1)
        order = ">"
    (size,) = struct.unpack(order + "I", source.take(4))
    if size > 256 * MIB:
        raise Invalid(f"device-model record of {size} bytes")
    source.take(size)


def _refuse_two_levels(pv: Pv, items: list[Item]) -> None:
    """D29: vcpu 0's CR3, by either decoding, leads to an L2 table, and no L3 table exists (section 2.5)."""
    types = {
        word.pfn: word.type
        for item in items
        if isinstance(item, Batch)
        for word in item.words
        if word.type != XTAB
    }
    levels = {pfn: page_type & 7 for pfn, page_type in types.items() if page_type in TABLE_TYPES}
    for vcpu in pv.vcpus:
        if vcpu.id == 0:
            (cr3,) = struct.unpack_from("<I", vcpu.context, 2728)
            plain, folded = cr3 >> 12, (cr3 >> 12 | cr3 << 20) & 0xFFFFFFFF
            if 2 in (levels.get(plain), levels.get(folded)) and 3 not in levels.values():
                raise Unsupported("32-bit guest with two-level page tables")


def _refuse_second_body(rest: _Input, p2m_size: int, guest: str, head: _Head | None) -> None:
    """D28 comes later: refuse a second complete checkpoint; anything less is trailing bytes (section 1.1)."""
    try:
        body = _body(rest, p2m_size, guest)
        if body.online is None:
            return  # a later body holds chunk -2; padding with zeros does not
        _tail(rest, p2m_size, head, body, record=True)
    except Invalid:
        return
    raise Unsupported("a second body")
