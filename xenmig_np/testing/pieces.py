"""The pieces that legacy images are built from (legacy-stream.md 2 to 7): a class for each, fields by name.

The layout is written down here a second time, without the tables of :mod:`xenmig_np.wire`, so that an error
in those shows. ``size`` is everywhere the bytes of the toolstack's ``unsigned long``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from xenmig_np.testing.fields import FIRST_WITHOUT_PAGE, Data, Field, Filled, le, length_of, overridden, under

if TYPE_CHECKING:
    from collections.abc import Iterator

TSC_INFO, VCPU_INFO, TOOLSTACK, VERIFY_MODE, LAST_CHECKPOINT = -7, -2, -18, -1, -9
TMEM, TMEM_EXTRA, COMPRESSED_DATA, ENABLE_COMPRESSION = -5, -6, -12, -13
"""Ids of control chunks."""
SSE_AREA: Final = Filled(576)
"""What a vCPU without AVX has to save."""


class Piece(Protocol):
    """Something with fields; ``size`` is the bytes of the toolstack's ``unsigned long``."""

    def fields(self, size: int, /) -> Iterator[Field]:
        """Its fields in their order."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Any bytes."""

    data: Data

    def fields(self, _size: int, /) -> Iterator[Field]:
        yield "data", bytes(self.data)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the extended info."""

    id: bytes
    payload: Data = b""
    length: int | None = None

    def fields(self, _size: int, /) -> Iterator[Field]:
        payload = bytes(self.payload)
        yield "id", self.id
        yield "size", le(overridden(self.length, len(payload)), 4)
        yield "payload", payload


@dataclass(frozen=True, slots=True)
class Batch:
    """A page batch: words as they stand, and the pages behind them, however many."""

    words: tuple[int, ...]
    pages: tuple[Data, ...] = ()
    count: int | None = None

    def fields(self, size: int, /) -> Iterator[Field]:
        yield "count", le(overridden(self.count, len(self.words)), 4)
        yield from ((f"word.{index}", le(value, size)) for index, value in enumerate(self.words))
        yield from ((f"page.{index}", bytes(data)) for index, data in enumerate(self.pages))

    def entries(self) -> Iterator[tuple[int, int, Data | None]]:
        """Type, low 28 bits and page (or None) of each word, of a batch that does not lie."""
        pages = iter(self.pages)
        for value in self.words:
            kind = value >> 28 & 0xF
            yield kind, value & 0x0FFF_FFFF, next(pages) if kind < FIRST_WITHOUT_PAGE else None


@dataclass(frozen=True, slots=True)
class Control:
    """A chunk without payload: -1, -9, or any number that is to stand there."""

    id: int

    def fields(self, _size: int, /) -> Iterator[Field]:
        yield "id", le(self.id, 4)


@dataclass(frozen=True, slots=True)
class Param:
    """An HVM parameter by its chunk id."""

    id: int
    value: int
    pad: int = 0

    def fields(self, _size: int, /) -> Iterator[Field]:
        yield "id", le(self.id, 4)
        yield "pad", le(self.pad, 4)
        yield "value", le(self.value, 8)


@dataclass(frozen=True, slots=True)
class Tsc:
    """Chunk -7."""

    mode: int = 0
    nsec: int = 0
    khz: int = 0
    incarnation: int = 0

    def fields(self, _size: int, /) -> Iterator[Field]:
        yield "id", le(TSC_INFO, 4)
        yield "mode", le(self.mode, 4)
        yield "nsec", le(self.nsec, 8)
        yield "khz", le(self.khz, 4)
        yield "incarnation", le(self.incarnation, 4)


@dataclass(frozen=True, slots=True)
class VcpuInfo:
    """Chunk -2: the bits of ``ids`` in as many u64 as ``highest`` asks for; ids beyond those are cut off."""

    ids: tuple[int, ...] = (0,)
    highest: int = 0

    def fields(self, _size: int, /) -> Iterator[Field]:
        bits = sum(1 << number for number in set(self.ids))
        yield "id", le(VCPU_INFO, 4)
        yield "max_vcpu_id", le(self.highest, 4)
        for index in range(self.highest // 64 + 1):
            yield f"map.{index}", le(bits >> 64 * index, 8)

    @property
    def online(self) -> tuple[int, ...]:
        """What restore makes of it."""
        return tuple(sorted(number for number in set(self.ids) if number <= self.highest))


@dataclass(frozen=True, slots=True)
class Physmap:
    """An entry of the toolstack's record; ``name`` goes with its NUL, None is no name."""

    phys_offset: int
    start_addr: int
    size: int
    name: bytes | None
    slack: bytes = bytes(4)
    """What 64-bit toolstacks leave behind the name."""
    namelen: int | None = None

    def fields(self, size: int, /) -> Iterator[Field]:
        name = b"" if self.name is None else self.name + b"\0"
        yield "phys_offset", le(self.phys_offset, 8)
        yield "start_addr", le(self.start_addr, 8)
        yield "size", le(self.size, 8)
        yield "namelen", le(overridden(self.namelen, len(name)), 4)
        yield "name", name
        if size == 8:
            yield "slack", self.slack


@dataclass(frozen=True, slots=True)
class Toolstack:
    """Chunk -18; ``entries`` None is a payload of no bytes, ``behind`` follows the last entry."""

    entries: tuple[Piece, ...] | None = ()
    behind: bytes = b""
    version: int = 1
    count: int | None = None
    length: int | None = None

    def fields(self, size: int, /) -> Iterator[Field]:
        payload = list(self._payload(size))
        yield "id", le(TOOLSTACK, 4)
        yield "length", le(overridden(self.length, length_of(payload)), 4)
        yield from payload

    def _payload(self, size: int) -> Iterator[Field]:
        if self.entries is not None:
            yield "version", le(self.version, 4)
            yield "count", le(overridden(self.count, len(self.entries)), 4)
            yield from each("physmap", self.entries, size)
        yield "behind", self.behind


@dataclass(frozen=True, slots=True)
class TmemPool:
    """Pages of one pool as (object id, index, data); ``ends`` puts an id of ones behind them."""

    id: int = 0
    flags: int = 1
    pages: tuple[tuple[bytes, int, Data], ...] = ()
    count: int | None = None
    ends: bytes = b""
    uuid: bytes = bytes(16)

    def fields(self, _size: int, /) -> Iterator[Field]:
        yield "id", le(self.id, 4)
        yield "flags", le(self.flags, 4)
        yield "n_pages", le(overridden(self.count, len(self.pages)), 4)
        yield "uuid", self.uuid
        for index, (oid, number, data) in enumerate(self.pages):
            yield f"object.{index}", oid + le(number, 4)
            yield f"content.{index}", bytes(data)
        yield "ends", self.ends


@dataclass(frozen=True, slots=True)
class Tmem:
    """Chunk -5."""

    pools: tuple[Piece, ...] = ()
    separators: tuple[int, int] = (-1, -1)

    def fields(self, size: int, /) -> Iterator[Field]:
        yield "id", le(TMEM, 4)
        yield "version", le(1, 4)
        yield "max_pools", le(16, 4)
        yield "separator.0", le(self.separators[0], 4)
        yield from ((name, le(0, 4)) for name in ("flags", "weight", "cap"))
        yield "separator.1", le(self.separators[1], 4)
        yield from each("pool", self.pools, size)
        yield "no_more_pools", le(-1, 4)


@dataclass(frozen=True, slots=True)
class TmemExtra:
    """Chunk -6: entries as (number of the pool, object id, index)."""

    entries: tuple[tuple[int, bytes, int], ...] = ()

    def fields(self, _size: int, /) -> Iterator[Field]:
        yield "id", le(TMEM_EXTRA, 4)
        for index, (pool, oid, number) in enumerate(self.entries):
            yield f"entry.{index}", le(pool, 4) + oid + le(number, 4)
        yield "no_more_entries", le(-1, 4)


@dataclass(frozen=True, slots=True)
class Compressed:
    """Chunk -12: encoded pages, or a piece of them."""

    payload: bytes
    length: int | None = None

    def fields(self, size: int, /) -> Iterator[Field]:
        yield "id", le(COMPRESSED_DATA, 4)
        yield "length", le(overridden(self.length, len(self.payload)), size)
        yield "payload", self.payload


@dataclass(frozen=True, slots=True)
class Xsave:
    """What a vCPU used of its extended states."""

    mask: int = 3
    xcr0: int = 3
    xcr0_accum: int = 3
    area: Data = SSE_AREA
    length: int | None = None

    def fields(self, _size: int, /) -> Iterator[Field]:
        area = bytes(self.area)
        yield "mask", le(self.mask, 8)
        yield "size", le(overridden(self.length, 16 + len(area)), 8)
        yield "xcr0", le(self.xcr0, 8)
        yield "xcr0_accum", le(self.xcr0_accum, 8)
        yield "area", area


@dataclass(frozen=True, slots=True)
class Vcpu:
    """A record of the PV tail."""

    context: Data
    extended: Data | None = None
    xsave: Xsave | None = None

    def fields(self, size: int, /) -> Iterator[Field]:
        yield "context", bytes(self.context)
        if self.extended is not None:
            yield "extended", bytes(self.extended)
        if self.xsave is not None:
            yield from under("xsave", self.xsave.fields(size))


@dataclass(frozen=True, slots=True)
class ContextRecord:
    """A record of the HVM context."""

    typecode: int
    data: Data = b""
    instance: int = 0
    length: int | None = None

    def fields(self, _size: int, /) -> Iterator[Field]:
        data = bytes(self.data)
        yield "typecode", le(self.typecode, 2)
        yield "instance", le(self.instance, 2)
        yield "length", le(overridden(self.length, len(data)), 4)
        yield "data", data


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """The record behind the image; how its length is written follows from the signature."""

    state: Data = b"QEVM\0\0\0\3\0\0"
    signature: bytes = b"DeviceModelRecord0002"
    length: int | None = None

    def fields(self, _size: int, /) -> Iterator[Field]:
        state = bytes(self.state)
        length = le(overridden(self.length, len(state)), 4)
        yield "signature", self.signature
        if self.signature.endswith(b"\n"):
            yield "length", length[::-1]
        elif self.signature != b"QemuDeviceModelRecord":  # that state reaches to the end of the file
            yield "length", length
        yield "state", state


@dataclass(frozen=True, slots=True)
class XlHeader:
    """The header of an xl file; ``config`` None leaves out its length word too."""

    config: bytes | None = b'name = "small"\n'
    behind: bytes = b""
    mandatory_flags: int = 0
    optional_flags: int = 0
    magic: bytes = b"Xen saved domain, xl format\n \0 \r"
    byteorder: int = 0x01020304
    config_length: int | None = None
    optional_data_length: int | None = None

    def fields(self, _size: int, /) -> Iterator[Field]:
        optional = list(self._optional())
        yield "magic", self.magic
        yield "byteorder", le(self.byteorder, 4)
        yield "mandatory_flags", le(self.mandatory_flags, 4)
        yield "optional_flags", le(self.optional_flags, 4)
        yield "optional_data_length", le(overridden(self.optional_data_length, length_of(optional)), 4)
        yield from optional

    def _optional(self) -> Iterator[Field]:
        if self.config is not None:
            yield "config_length", le(overridden(self.config_length, len(self.config)), 4)
            yield "config", self.config
        yield "behind", self.behind


def each(name: str, pieces: tuple[Piece, ...], size: int) -> Iterator[Field]:
    """The fields of the pieces, numbered."""
    for index, piece in enumerate(pieces):
        yield from under(f"{name}.{index}", piece.fields(size))
