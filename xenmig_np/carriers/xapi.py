"""Suspend images of XenServer, legacy and structured: taken apart, written anew (containers.md 4, 9.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import numpy as np

from xenmig_np import limits
from xenmig_np.carriers.header import STREAMS, bounded
from xenmig_np.errors import InvalidImage, Note, NotSupported
from xenmig_np.io.cursor import Cursor
from xenmig_np.wire import xapi
from xenmig_np.wire.legacy import Guest
from xenmig_np.wire.xapi import RECORD_BY_TYPE, RecordType

if TYPE_CHECKING:
    from xenmig_np.io.source import Source

RECORDS_MAX: Final = 64
"""On either side of the stream; images have a handful."""
WORD_SIZE: Final = re.compile(rb"\(word_size\s+(32|64)\)")
NAME: Final = re.compile(rb"\(name\s+([^()\s\"']+)\)")
TYPE: Final = re.compile(rb"\(ty[\s(]+(HVM|PV)\b")
GUESTS: Final = {b"HVM": Guest.HVM, b"PV": Guest.PV}


class Record(NamedTuple):
    """A record of a structured image."""

    type: RecordType
    offset: int
    """Of its header, in the input."""
    length: int
    """Bytes behind its header, as that says."""

    @property
    def name(self) -> str:
        return RECORD_BY_TYPE[self.type].name

    @property
    def end(self) -> int:
        return self.offset + xapi.RECORD_HEAD.itemsize + self.length


@dataclass(frozen=True, slots=True)
class LegacyHeader:
    """The signature of an image from before 2014: nothing else precedes the stream."""

    length: ClassVar[int] = len(xapi.MAGIC)
    config: ClassVar[bytes] = b""
    config_kind: ClassVar[str] = "none"
    guest_name: ClassVar[str | None] = None
    guest: ClassVar[Guest | None] = None
    width: ClassVar[int | None] = xapi.WIDTH

    def notes(self, stream: str) -> list[Note]:
        """Nothing: the signature says nothing of the ``stream``."""
        del stream
        return []


@dataclass(frozen=True, slots=True)
class StructuredHeader:
    """Signature and records up to the header of the one that holds the stream."""

    data: bytes
    """All of it."""
    records: tuple[Record, ...]
    """The last one holds the stream."""
    at: int

    @property
    def length(self) -> int:
        return len(self.data)

    @property
    def config(self) -> bytes:
        xenops = next((record for record in self.records if record.type is RecordType.XENOPS), None)
        if xenops is None:
            return b""
        end = xenops.end - self.at
        return self.data[end - xenops.length : end]

    @property
    def config_kind(self) -> str:
        return "xenops" if self.config else "none"

    @property
    def guest_name(self) -> str | None:
        found = NAME.search(self.config)
        return found[1].decode(errors="replace") if found else None

    @property
    def guest(self) -> Guest | None:
        found = TYPE.search(self.config)
        return GUESTS[found[1]] if found else None

    @property
    def width(self) -> int | None:
        found = WORD_SIZE.search(self.config)
        return int(found[1]) if found else None

    def notes(self, stream: str) -> list[Note]:
        """What is odd about it (containers.md 4.2)."""
        holder, odd = self.records[-1], []
        if RECORD_BY_TYPE[holder.type].stream != stream:
            odd.append(
                Note("containers 4.2", f"a record {holder.name} holds {STREAMS[stream]}", holder.offset)
            )
        if holder.length:
            text = (
                f"a record {holder.name} says that it has {holder.length:,} bytes, its stream ends by itself"
            )
            odd.append(Note("containers 4.2", text, holder.offset))
        if self.records[0].type is not RecordType.XENOPS:
            odd.append(Note("containers 4.2", "the first record is not Xenops", self.records[0].offset))
        return odd

    def for_v2(self) -> bytes:
        """The same bytes with a record for a libxc v2 stream in place of the one for a legacy image."""
        return self.data[: -xapi.RECORD_HEAD.itemsize] + record(RecordType.LIBXC)


# ---- reading ---------------------------------------------------------------------------------------------


def unwrap_legacy(cursor: Cursor) -> LegacyHeader:
    """Step over the signature."""
    cursor.take(len(xapi.MAGIC), "xapi signature")
    return LegacyHeader()


def unwrap_structured(cursor: Cursor) -> StructuredHeader:
    """Read signature and records up to the stream, at which the cursor then stands.

    Raises :class:`InvalidImage`, :class:`TruncatedImage`, :class:`NotSupported` (a state before the stream
    whose length nothing says).
    """
    at = cursor.at
    data = cursor.take(len(xapi.STRUCTURED_MAGIC), "xapi signature")
    records: list[Record] = []
    while not records or RECORD_BY_TYPE[records[-1].type].stream is None:
        head = cursor.peek(xapi.RECORD_HEAD.itemsize)
        found = _next(cursor, len(records))
        records.append(found)
        data += head
        if found.type is RecordType.END_OF_IMAGE:
            raise InvalidImage(
                path=cursor.source.path,
                offset=found.offset,
                item="xapi record",
                found="the end of the image",
                expected="a record with a libxc stream before",
            )
        if RECORD_BY_TYPE[found.type].stream is None:
            bounded(cursor, len(data) + found.length, 0, f"xapi record {found.name}", found.offset + 8)
            data += cursor.take(found.length, f"xapi record {found.name}")
    return StructuredHeader(data, tuple(records), at)


def records_behind(source: Source, at: int) -> tuple[Record, ...]:
    """The records from ``at``, the end of the stream's record, up to and with End_of_image.

    Raises as :func:`unwrap_structured` does.
    """
    cursor = Cursor(source, at)
    records: list[Record] = []
    while not records or records[-1].type is not RecordType.END_OF_IMAGE:
        found = _next(cursor, len(records))
        if RECORD_BY_TYPE[found.type].stream is not None:
            raise NotSupported(
                "a second stream in one image", path=source.path, offset=found.offset, item="xapi record"
            )
        if found.length > limits.DEVICE_MODEL_MAX:
            raise InvalidImage(
                path=source.path,
                offset=found.offset + 8,
                item=f"xapi record {found.name}",
                found=f"{found.length:,} bytes",
                expected=f"at most {limits.DEVICE_MODEL_MAX:,}",
            )
        cursor.skip(found.length, f"xapi record {found.name}")
        records.append(found)
    return tuple(records)


def behind(source: Source, at: int) -> tuple[tuple[Record, ...], list[Note]]:
    """The records that follow the stream's own, which ends at ``at``, and what is worth telling there.

    There are no records if one of them cannot be read.
    """
    try:
        records = records_behind(source, at)
    except (InvalidImage, NotSupported) as error:
        text = f"behind the image: {error}".replace(f"{source.path}: ", "", 1)
        return (), [Note("containers 4.2", text, at)]
    notes = [
        Note("containers 4.2", f"a record {found.name} of {found.length:,} bytes follows", found.offset)
        for found in records[:-1]
    ]
    cursor = Cursor(source, records[-1].end)
    if count := cursor.left(limits.TRAILING_COUNTED):
        more = "more than " if source.end is None and count == limits.TRAILING_COUNTED else ""
        zeros = not Cursor(source, cursor.at).peek(limits.HEADS).strip(b"\0")
        kind = "zeros, as on a raw disk" if zeros else "of unknown kind"
        text = f"{more}{count:,} bytes behind End_of_image left out ({kind})"
        notes.append(Note("trailing", text, cursor.at))
    return records, notes


def _next(cursor: Cursor, count: int) -> Record:
    """The record whose header stands at the cursor, which then is behind that header."""
    at, path, item = cursor.at, cursor.source.path, "xapi record"
    head = cursor.one(xapi.RECORD_HEAD, item)
    number, length = int(head["type"]), int(head["length"])
    if number not in RECORD_BY_TYPE or count == RECORDS_MAX:
        expected = "one of " + ", ".join(f"{kind:#x}" for kind in RECORD_BY_TYPE)
        if count == RECORDS_MAX:
            expected = f"at most {RECORDS_MAX} records"
        raise InvalidImage(path=path, offset=at, item=item, found=f"type {number:#x}", expected=expected)
    if RECORD_BY_TYPE[number].delimited:
        what = f"a record {RECORD_BY_TYPE[number].name}, whose length nothing says"
        raise NotSupported(what, path=path, offset=at, item=item)
    return Record(RecordType(number), at, length)


# ---- writing ---------------------------------------------------------------------------------------------


def record(kind: RecordType, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A record; with ``length`` its header alone, that many bytes have to follow."""
    head = np.zeros((), xapi.RECORD_HEAD)
    head["type"] = kind
    head["length"] = len(body) if length is None else length
    return head.tobytes() + body


def start(width: int) -> bytes:
    """What precedes a libxc v2 stream whose original had no records; ``width``: bits of its tools' words."""
    xenops = xapi.XENOPS.format(width=width).encode()
    return xapi.STRUCTURED_MAGIC + record(RecordType.XENOPS, xenops) + record(RecordType.LIBXC)


def end() -> bytes:
    """The last record."""
    return record(RecordType.END_OF_IMAGE)
