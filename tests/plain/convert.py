"""Write the converted stream, record by record, from a legacy image (v2-stream.md 19, profile `default`)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .legacy import (
    BROKEN,
    MIB,
    TABLE_TYPES,
    XALLOC,
    XTAB,
    Batch,
    Hvm,
    Image,
    Invalid,
    Item,
    Pv,
    Tsc,
    Unsupported,
    Verify,
    Word,
    parse,
)

# libxc records (v2-stream.md 6)
END, PAGE_DATA, X86_PV_INFO, X86_PV_P2M_FRAMES = 0x00, 0x01, 0x02, 0x03
X86_PV_VCPU_BASIC, X86_PV_VCPU_EXTENDED, X86_PV_VCPU_XSAVE = 0x04, 0x05, 0x06
SHARED_INFO, TSC_INFO, HVM_CONTEXT, HVM_PARAMS, VERIFY, STATIC_DATA_END = 0x07, 0x08, 0x09, 0x0A, 0x0D, 0x10

PARAM_NUMBERS = {
    -3: 12, -4: 15, -8: 17, -10: 19, -11: 9, -15: 27, -16: 28, -17: 29, -19: 32, -20: 33, -21: 36,
}  # fmt: skip
"""Parameter number of each chunk (19.3), save -14, whose number depends on the target."""
ACPI_IOPORTS_LOCATION, GENERATION_ID = -10, -14
IOREQ_SERVER_CHUNKS = (-19, -20)
UNKNOWN_TO_DRAFT = (-19, -20, -21)

XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"
XL_HEAD = struct.Struct("<32sIIII")


@dataclass(frozen=True)
class Target:
    """One numbering: a row of v2-stream.md 3, 9, 12 and 19.11."""

    libxc_version: int
    libxc_context: int  # libxl record numbers
    xenstore: int
    emulator_context: int
    generation_id: int  # HVM parameter
    xl_flag: int
    draft: bool


TARGETS = {
    "draft-v7": Target(2, 2, 3, 4, generation_id=32, xl_flag=1, draft=True),
    "xen-4.6": Target(2, 1, 2, 3, generation_id=34, xl_flag=2, draft=False),
    "xen-4.14": Target(3, 1, 2, 3, generation_id=34, xl_flag=2, draft=False),
}


def convert(
    data: bytes,
    *,
    width: int,
    guest: str,
    target: str,
    format: str = "auto",  # noqa: A002 - the name of the option
    skip_qemu: bool = False,
    drop_tmem: bool = False,
    collapse: bool = False,
    pipe: bool = False,
) -> bytes:
    """The converted stream of a bare legacy image, or of one behind an xl header.

    width 32 or 64, guest "pv" or "hvm", target a key of TARGETS, format "libxc", "libxl" or "auto"
    (containers.md 9.4). skip_qemu matters with "libxc" only: the device-model record is not written.
    collapse leaves out what later words make needless.

    Raises Invalid and Unsupported.
    """
    numbering = TARGETS[target]
    xl, at = _xl_header(data)
    image = parse(data, width, guest, at, drop_tmem=drop_tmem, pipe=pipe)
    body = list(_without_unmapped(image))
    if collapse:
        body = _collapsed(body, image)
    if format == "auto":
        bare_without_record = not xl and image.hvm is not None and image.hvm.record is None
        format = "libxc" if bare_without_record else "libxl"  # noqa: A001 - as above
    if format == "libxc":
        return xl + _libxc(image, numbering, body) + (b"" if skip_qemu else _qemu_tail(image))
    return _with_flag(xl, numbering.xl_flag) + _libxl(image, numbering, body)


# ------------------------------------------------------------------------------------------------ framing


def _record(number: int, body: bytes = b"") -> bytes:
    """Type, length without padding, body, zeros up to a multiple of 8 (sections 5 and 12)."""
    return struct.pack("<II", number, len(body)) + body + bytes(-len(body) % 8)


def _xl_header(data: bytes) -> tuple[bytes, int]:
    """The xl header, empty where there is none, and the offset of what it precedes (containers.md 1.1)."""
    if not data.startswith(XL_MAGIC):
        return b"", 0
    if len(data) < XL_HEAD.size:
        raise Invalid("xl header cut off")
    _, byteorder, _, _, optional_size = XL_HEAD.unpack_from(data)
    if byteorder != 0x01020304:
        raise Invalid("xl header of another byte order")
    end = XL_HEAD.size + optional_size
    if optional_size > 16 * MIB or end > len(data):
        raise Invalid(f"optional data of {optional_size} bytes in the xl header")
    if optional_size:
        if optional_size < 4:
            raise Invalid("no room for the length of the configuration")
        (config_size,) = struct.unpack_from("<I", data, XL_HEAD.size)
        if config_size > optional_size - 4:
            raise Invalid(f"configuration of {config_size} bytes in {optional_size} bytes of optional data")
    return data[:end], end


def _with_flag(xl: bytes, flag: int) -> bytes:
    """The xl header with a bit set in mandatory_flags, the u32 at 36 (19.11)."""
    if not xl:
        return xl
    (flags,) = struct.unpack_from("<I", xl, 36)
    return xl[:36] + struct.pack("<I", flags | flag) + xl[40:]


# ------------------------------------------------------------------------------------------------ libxc


def _libxc(image: Image, target: Target, body: list[Item]) -> bytes:
    """19.1, from the image header to the END record."""
    records = [_libxc_headers(image, target)]
    if image.pv is not None:
        info = struct.pack("<BBHI", image.pv.guest_width, image.pv.levels, 0, 0)
        records.append(_record(X86_PV_INFO, info))
    if target.libxc_version == 3:
        records.append(_record(STATIC_DATA_END))
    if image.pv is not None:
        frames = image.pv.frames
        span = struct.pack(f"<II{len(frames)}Q", 0, image.p2m_size - 1, *frames)
        records.append(_record(X86_PV_P2M_FRAMES, span))
    records += [_item(item) for item in body]
    if image.pv is not None:
        records += _pv_records(image.pv)
    if image.hvm is not None:
        records += _hvm_records(image, image.hvm, target)
    records.append(_record(END))
    return b"".join(records)


def _libxc_headers(image: Image, target: Target) -> bytes:
    """Image header, big-endian, and domain header, little-endian: Xen version 0.1 says "converted" (19.2)."""
    start = b"\xff" * 8 + b"XENF" + struct.pack(">IHHI", target.libxc_version, 0, 0, 0)
    return start + struct.pack("<IHHII", {"pv": 1, "hvm": 2}[image.guest], 12, 0, 0, 1)


def _item(item: Item) -> bytes:
    match item:
        case Batch():
            return _page_data(item)
        case Tsc():
            body = struct.pack("<IIQII", item.mode, item.khz, item.nsec, item.incarnation, 0)
            return _record(TSC_INFO, body)
        case Verify():
            return _record(VERIFY)  # D16


def _page_data(batch: Batch) -> bytes:
    """19.4: XTAB words are dropped, whatever their low bits (D17); no words, no record (D1)."""
    words = [word for word in batch.words if word.type != XTAB]
    if not words:
        return b""
    body = struct.pack("<II", len(words), 0)
    body += b"".join(struct.pack("<Q", word.type << 60 | word.pfn) for word in words)
    body += b"".join(word.page for word in words if word.page is not None)
    return _record(PAGE_DATA, body)


def _without_unmapped(image: Image) -> Iterator[Item]:
    """The body without the words, and their pages, that D22 names."""
    unmapped = set(image.pv.unmapped) if image.pv is not None else set()
    last = {(part, word.pfn): place for place, part, word in _mentions(image.body)}
    leave_out = {
        place
        for place, part, word in _mentions(image.body)
        if word.pfn in unmapped  # (a)
        or (place != last[part, word.pfn] and _maps_any(word, unmapped))  # (b): a superseded table
    }
    for number, item in enumerate(image.body):
        if isinstance(item, Batch):
            words = enumerate(item.words)
            yield Batch(tuple(word for index, word in words if (number, index) not in leave_out))
        else:
            yield item


def _mentions(body: tuple[Item, ...]) -> Iterator[tuple[tuple[int, int], int, Word]]:
    """Each word that is not XTAB: its place (item, index), its part (before or after chunk -1) and itself."""
    part = 0
    for number, item in enumerate(body):
        if isinstance(item, Verify):
            part += 1
        elif isinstance(item, Batch):
            for index, word in enumerate(item.words):
                if word.type != XTAB:
                    yield (number, index), part, word


def _maps_any(word: Word, pfns: set[int]) -> bool:
    """Whether the page is a table that names one of the pfns."""
    return bool(pfns) and not pfns.isdisjoint(_mapped(word))


def _mapped(word: Word) -> set[int]:
    """The pfns (bits 51-12) in the present entries (bit 0) of a page that is a table."""
    if word.page is None or word.type not in TABLE_TYPES:
        return set()
    entries = struct.unpack("<512Q", word.page)
    return {entry >> 12 & (1 << 40) - 1 for entry in entries if entry & 1}


# ------------------------------------------------------------------------------------------------ collapsed


def _collapsed(body: list[Item], image: Image) -> list[Item]:
    """The body without what the guest would not miss (legacy-stream.md 4.3, 4.4).

    Before -1 the last word on a pfn stays, and the one that gives its page. What comes behind -1 goes, and
    the last words before it take its types, unless it says something that these cannot.
    """
    end = body.index(Verify()) if Verify() in body else len(body)
    mentions = [(place, word) for place, _, word in _mentions(tuple(body))]
    before = [(place, word) for place, word in mentions if place[0] < end]
    behind = [word for place, word in mentions if place[0] > end]
    last = {word.pfn: (place, word) for place, word in before}
    gives = {word.pfn: place for place, word in before if word.type == XALLOC}
    gives |= {word.pfn: place for place, word in before if word.type < BROKEN}

    def refers_to_missing(word: Word) -> bool:
        return image.pv is not None and any(
            pfn < image.p2m_size and pfn not in gives for pfn in _mapped(word)
        )

    keep = {place for place, _ in last.values()} | set(gives.values())
    keep |= {place for place, word in before if refers_to_missing(word)}
    stays = any(
        word.pfn not in last or _kind(word) != _kind(last[word.pfn][1]) or refers_to_missing(word)
        for word in behind
    )
    made: list[Item] = []
    types = {} if stays else {last[word.pfn][0]: word.type for word in behind}
    for number, item in enumerate(body):
        if isinstance(item, Batch) and number < end:
            places = [((number, index), word) for index, word in enumerate(item.words)]
            words = [
                word._replace(type=types.get(place, word.type)) for place, word in places if place in keep
            ]
            made.append(Batch(tuple(words)))
        elif stays or not isinstance(item, Batch | Verify):
            made.append(item)
    return made


def _kind(word: Word) -> int:
    """What a word is apart from a pin: a page or a table of some level, or one of those without data."""
    return word.type & 7 if word.type < BROKEN else word.type | 0x10


def _pv_records(pv: Pv) -> Iterator[bytes]:
    """19.7: online vcpus ascending, then the shared info page."""
    for vcpu in pv.vcpus:
        head = struct.pack("<II", vcpu.id, 0)
        yield _record(X86_PV_VCPU_BASIC, head + vcpu.context)
        if vcpu.extended is not None:
            yield _record(X86_PV_VCPU_EXTENDED, head + vcpu.extended)
        if vcpu.xsave is not None:
            yield _record(X86_PV_VCPU_XSAVE, head + _needed_xsave(vcpu.xsave))
    yield _record(SHARED_INFO, pv.shared_info)


def _needed_xsave(xsave: bytes) -> bytes:
    """The record cut to what xcr0_accum, its second u64, needs; copied where that is not known (D25)."""
    _, xcr0_accum = struct.unpack_from("<QQ", xsave)
    return xsave[: {0: 16, 1: 592, 3: 592, 7: 848}.get(xcr0_accum, len(xsave))]


def _hvm_records(image: Image, hvm: Hvm, target: Target) -> Iterator[bytes]:
    """19.6: PARAMS1 unless it is empty, PARAMS2 always; then the context."""
    if params := _chunk_params(image, target):
        yield _params_record(params)
    yield _params_record([(5, hvm.ioreq), (6, hvm.bufioreq), (1, hvm.store)])
    yield _record(HVM_CONTEXT, hvm.context)


def _params_record(params: list[tuple[int, int]]) -> bytes:
    body = struct.pack("<II", len(params), 0) + b"".join(struct.pack("<QQ", *param) for param in params)
    return _record(HVM_PARAMS, body)


def _chunk_params(image: Image, target: Target) -> list[tuple[int, int]]:
    """(number, value) of the chunks, in order of arrival, without what D18, D19, D20 and D24 leave out."""
    newest = dict(image.params)
    ioreq_server = all(newest.get(chunk, 0) for chunk in IOREQ_SERVER_CHUNKS)  # D19: both or none
    numbers = PARAM_NUMBERS | {GENERATION_ID: target.generation_id}
    params = []
    for chunk, value in image.params:
        if target.draft and chunk in UNKNOWN_TO_DRAFT:
            raise Unsupported(f"chunk {chunk} has no number in draft-v7")
        if value == 0:  # D24, D20, D19; and 0 is not 1 (D18)
            continue
        if chunk == ACPI_IOPORTS_LOCATION and value != 1:  # D18
            continue
        if chunk in IOREQ_SERVER_CHUNKS and not ioreq_server:
            continue
        params.append((numbers[chunk], value))
    return params


def _qemu_tail(image: Image) -> bytes:
    """19.9: the record as it came, behind the END record and not padded."""
    if image.hvm is None or image.hvm.record is None:
        return b""
    return image.hvm.record.head + image.hvm.record.state


# ------------------------------------------------------------------------------------------------ libxl


def _libxl(image: Image, target: Target, body: list[Item]) -> bytes:
    """19.1: header, LIBXC_CONTEXT, the libxc stream, what belongs to the device model, END."""
    libxc = _libxc(image, target, body)  # what it refuses stands before the record in the image
    if image.hvm is not None and image.hvm.record is None:
        raise Invalid("libxl format needs a device-model record")
    header = b"LibxlFmt" + struct.pack(">II", 2, 2)  # version; options: little-endian, converted
    records = [header, _record(target.libxc_context), libxc]
    blobs = [blob for blob in image.toolstack if blob]
    if target.draft:
        records += [_record(target.xenstore, blob) for blob in blobs]
    elif pairs := b"".join(_physmap_pairs(blob, image.width) for blob in blobs):
        records.append(_record(target.xenstore, bytes(8) + pairs))
    if image.hvm is not None and image.hvm.record is not None:
        records.append(_record(target.emulator_context, bytes(8) + image.hvm.record.state))
    records.append(_record(END))
    return b"".join(records)


def _physmap_pairs(blob: bytes, width: int) -> bytes:
    """19.8: `key NUL value NUL` of each physmap entry of one toolstack blob."""
    if len(blob) < 8:
        raise Invalid("toolstack data shorter than its head")
    version, count = struct.unpack_from("<II", blob)
    if version != 1:
        raise Invalid(f"toolstack data of version {version}")
    pairs: list[bytes] = []
    at = 8
    for _ in range(count):
        if at + 28 > len(blob):
            raise Invalid("physmap entry beyond the toolstack data")
        offset, start, size, name_size = struct.unpack_from("<QQQI", blob, at)
        name = blob[at + 28 : at + 28 + name_size]
        if len(name) < name_size:
            raise Invalid("physmap name beyond the toolstack data")
        key = b"physmap/%x/" % offset
        pairs += [key + b"start_addr", b"%x" % start, key + b"size", b"%x" % size]
        if name_size:  # else the entry has no name (D2)
            if name.find(b"\0") != name_size - 1:  # D13
                raise Invalid("physmap name without its NUL at the end, or with another one inside")
            pairs += [key + b"name", name[:-1]]
        at += 28 + name_size + (4 if width == 64 else 0)  # padding of the 64-bit C structure
    return b"".join(part + b"\0" for part in pairs)
