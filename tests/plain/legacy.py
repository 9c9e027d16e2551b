"""Read a legacy image, from its first byte to its last (legacy-stream.md)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from . import delta, tmem

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

XEND_SIGNATURE = b"QemuDeviceModelRecord"
SIGNATURES = (XEND_SIGNATURE, b"DeviceModelRecord0002", b"RemusDeviceModelState")
SIGNATURE_SIZE = 21


class Invalid(Exception):
    """The image is not valid: a stream error of v2-stream.md 19."""


class Unsupported(Exception):
    """The image may be valid, but the converter refuses it."""


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
class Record:
    """A device-model record; head is what stands before the state, signature and length (section 7.3)."""

    head: bytes
    state: bytes


@dataclass(frozen=True)
class Hvm:
    """The HVM tail; record is None where the image ends without one."""

    ioreq: int
    bufioreq: int
    store: int
    context: bytes
    record: Record | None


@dataclass(frozen=True)
class Image:
    """A legacy image; `end` is the offset behind its last byte, `params` are (chunk id, value) pairs.

    `body` has the items of all checkpoints that count, the rest is what counts in the end (19.14).
    """

    guest: str
    width: int  # bits of the toolstack's unsigned long
    p2m_size: int
    body: tuple[Item, ...]
    params: tuple[tuple[int, int], ...]
    toolstack: tuple[bytes, ...]
    online: tuple[int, ...]
    pv: Pv | None
    hvm: Hvm | None
    checkpoints: int
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
        return self.data[self.at : self.at + SIGNATURE_SIZE]


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
    tmem: bool = False
    compression: bool = False  # chunk -13: the next body is compressed


@dataclass(frozen=True)
class _Rules:
    """What is asked for, and how the input can be read."""

    guest: str
    drop_tmem: bool
    pipe: bool


@dataclass
class _State:
    """What counts of the checkpoints so far."""

    p2m_size: int
    head: _Head | None
    rules: _Rules
    checkpoints: int = 0
    items: list[Item] = field(default_factory=list)
    params: list[tuple[int, int]] = field(default_factory=list)
    toolstack: list[bytes] = field(default_factory=list)
    online: tuple[int, ...] = (0,)  # D3
    pv: Pv | None = None
    hvm: Hvm | None = None
    last: bool = False
    compressed: bool = False
    pages: dict[int, bytes] = field(default_factory=dict)
    """The last copy of each page."""


def parse(
    data: bytes, width: int, guest: str, at: int = 0, *, drop_tmem: bool = False, pipe: bool = False
) -> Image:
    """The image of `guest` ("pv", "hvm") at offset `at`, saved by a toolstack of `width` bits (32, 64).

    `pipe`: tmem and compressed checkpoints cannot be read from one. Raises Invalid and Unsupported.
    """
    source = _Input(data, at, {32: "I", 64: "Q"}[width])
    p2m_size = source.number(source.ulong)
    if not 1 <= p2m_size <= MAX_P2M_SIZE:
        raise Invalid(f"p2m_size {p2m_size:#x}")  # D12
    head = _pv_head(source, p2m_size) if guest == "pv" else None
    state = _State(p2m_size, head, _Rules(guest, drop_tmem, pipe))
    _checkpoint(source, state)
    while not state.last and source.at < len(data):
        if state.compressed and pipe:
            raise Unsupported("compressed checkpoints, from a pipe")
        ahead = _Input(data, source.at, source.ulong)
        try:
            _checkpoint(ahead, state)
        except Invalid:
            break  # incomplete: dropped as a whole, or no checkpoint at all (section 1.1)
        source.at = ahead.at
    return Image(
        guest=guest,
        width=width,
        p2m_size=p2m_size,
        body=tuple(state.items),
        params=tuple(state.params),
        toolstack=tuple(state.toolstack),
        online=state.online,
        pv=state.pv,
        hvm=state.hvm,
        checkpoints=state.checkpoints,
        end=source.at,
    )


def _checkpoint(source: _Input, state: _State) -> None:
    """Read one, and let it count when it is complete; else `state` stays as it is (19.14)."""
    pages = dict(state.pages)
    body = _body(source, state, pages)
    if state.checkpoints and body.online is None:
        raise Invalid("no chunk -2 in a later body")  # padding with zeros has none
    online = state.online if body.online is None else body.online
    pv, hvm = _tail(source, state.p2m_size, state.head, online)

    later = state.checkpoints > 0
    state.checkpoints += 1
    state.items += body.items
    if body.tmem and not state.rules.drop_tmem:
        raise Unsupported("tmem")
    for param in body.params:
        _put(state.params, param, replacing=later)
    if body.toolstack:
        state.toolstack = body.toolstack
    state.online, state.pv, state.hvm, state.last, state.pages = online, pv, hvm, body.last, pages
    state.compressed |= body.compression
    if pv is not None and pv.guest_width == 4:
        _refuse_two_levels(pv, state.items)


def _put(params: list[tuple[int, int]], param: tuple[int, int], *, replacing: bool) -> None:
    """A parameter of a later body takes the place of the last one of its kind."""
    places = [place for place, (chunk, _) in enumerate(params) if chunk == param[0]]
    if replacing and places:
        params[places[-1]] = param
    else:
        params.append(param)


def _pv_head(source: _Input, p2m_size: int) -> _Head:
    """Extended information and p2m frame list (sections 2.2, 2.3)."""
    word = struct.calcsize("<" + source.ulong)
    if source.data[source.at : source.at + word] == b"\xff" * word:
        source.take(word)
        head = _extended_information(source)
    else:  # D30: the guest has the width of the toolstack
        head = _Head({4: 2800, 8: 5168}[word], extended=False, xsave=False)
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


def _body(source: _Input, state: _State, pages: dict[int, bytes]) -> _Body:
    """Chunks up to the 0 that ends them (section 3); `pages` takes the copies of the body."""
    body = _Body()
    encoded = _Encoded(pages) if state.compressed else None
    while (chunk := source.number("i")) != END:
        if 1 <= chunk <= MAX_BATCH:
            batch = _batch(source, state.p2m_size, chunk, encoded)
            body.items.append(batch)
            pages.update({word.pfn: word.page for word in batch.words if word.page is not None})
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
        elif chunk in (TMEM, TMEM_EXTRA):
            _tmem(source, chunk, state, body)
        elif chunk == ENABLE_COMPRESSION:
            body.compression = True
        elif chunk == COMPRESSED_DATA:
            if encoded is None:
                raise Invalid("compressed data in a body that is not compressed")
            (size,) = source.ulongs(1)
            if size > 16 * MIB:
                raise Invalid(f"compressed data of {size} bytes")
            encoded.data += source.take(size)
            encoded.decode()
        else:
            raise Invalid(f"chunk {chunk} before {source.at:#x}")
    if state.rules.guest == "pv" and body.params:
        raise Invalid("HVM parameters in a PV image")
    if encoded is not None:
        body.items = [encoded.filled(item) for item in body.items]
    return body


def _tmem(source: _Input, chunk: int, state: _State, body: _Body) -> None:
    if state.rules.pipe:
        raise Unsupported("tmem, from a pipe")
    try:
        source.at = tmem.end(source.data, source.at, chunk)
    except tmem.Invalid as error:
        raise Invalid("tmem") from error
    body.tmem = True
    if not state.checkpoints and not state.rules.drop_tmem:
        raise Unsupported("tmem")


class _Encoded:
    """Pages of a compressed body: announced by its batches, decoded from its chunks -12 (section 5)."""

    def __init__(self, pages: dict[int, bytes]) -> None:
        self.data = b""
        self._pages = pages
        self._waiting: list[int] = []
        self._decoded: list[bytes] = []

    def announce(self, pfns: list[int]) -> None:
        if pfns and not self._waiting and self.data:
            raise Invalid("page data before its batch")
        self._waiting += pfns

    def decode(self) -> None:
        at = 0
        while self._waiting and at < len(self.data):
            pfn = self._waiting[0]
            try:
                self._pages[pfn], at = delta.decode_page(self.data, at, self._pages.get(pfn))
            except delta.Invalid as error:
                if str(error) == "ends":
                    break  # the rest comes with the next chunk
                raise Invalid(f"page {pfn:#x}: {error}") from error
            self._decoded.append(self._pages[self._waiting.pop(0)])
        self.data = self.data[at:]

    def filled(self, item: Item) -> Item:
        """A batch with its pages; surplus data behind the last of them does not matter."""
        if self._waiting:
            raise Invalid("the body ends before the data of its pages")
        if not isinstance(item, Batch):
            return item
        words = [
            word._replace(page=self._decoded.pop(0)) if word.type < BROKEN else word for word in item.words
        ]
        return Batch(tuple(words))


def _batch(source: _Input, p2m_size: int, count: int, encoded: _Encoded | None) -> Batch:
    """Words, then a page for each whose type carries data (section 4); encoded pages come later."""
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
    if encoded is not None:
        encoded.announce([pfn for t, pfn in entries if t < BROKEN])
        return Batch(tuple(Word(t, pfn, None) for t, pfn in entries))
    return Batch(tuple(Word(t, pfn, source.take(PAGE) if t < BROKEN else None) for t, pfn in entries))


def _vcpu_map(source: _Input) -> tuple[int, ...]:
    highest = source.number("i")
    if not 0 <= highest <= MAX_VCPU_ID:
        raise Invalid(f"highest vcpu id {highest}")  # D10
    words = source.numbers(f"{highest // 64 + 1}Q")
    # bits above the highest id mean nothing (D9)
    return tuple(n for n in range(highest + 1) if words[n // 64] >> n % 64 & 1)


def _tail(
    source: _Input, p2m_size: int, head: _Head | None, online: tuple[int, ...]
) -> tuple[Pv | None, Hvm | None]:
    """The tail and the device-model record behind it (section 7)."""
    if head is None:
        hvm = _hvm_tail(source)
        return None, Hvm(*hvm, _device_model(source))
    pv = _pv_tail(source, p2m_size, head, online)
    if source.left() in SIGNATURES:
        _record(source)  # what a PV guest left there is dropped (19.9)
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


def _device_model(source: _Input) -> Record | None:
    """The record of an HVM guest, None where none begins here (section 7.3)."""
    signature = source.left()
    if signature in SIGNATURES:
        return _record(source)
    if signature and any(known.startswith(signature) for known in SIGNATURES):
        raise Invalid("the image ends inside the signature of a device-model record")
    return None


def _record(source: _Input) -> Record:
    """A record of any form (D7, containers.md 6)."""
    begin = source.at
    signature = source.take(SIGNATURE_SIZE)
    if signature != XEND_SIGNATURE:
        size = source.number("I")
    elif source.data[source.at : source.at + 1] == b"\n":  # XenServer
        source.take(1)
        (size,) = struct.unpack(">I", source.take(4))
    else:
        size = _size_without_field(source.data[source.at :])
    if size > 256 * MIB:
        raise Invalid(f"device-model record of {size} bytes")
    head = source.data[begin : source.at]
    return Record(head, source.take(size))


def _size_without_field(rest: bytes) -> int:
    """xend's record reaches to the end, unless QEMU's state of version 2 says how long it is."""
    if rest.startswith(b"QEVM\0\0\0\2") and len(rest) >= 16:
        (size,) = struct.unpack_from(">Q", rest, 8)
        return 16 + int(size)
    return len(rest)


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
