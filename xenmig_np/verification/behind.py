"""What stands behind the last END of a stream; read where those bytes are nobody else's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from xenmig_np.carriers.xapi import Record, records_behind
from xenmig_np.errors import InvalidImage, NotSupported, TruncatedImage
from xenmig_np.io.cursor import Cursor
from xenmig_np.limits import KIB
from xenmig_np.wire import qemu

if TYPE_CHECKING:
    from xenmig_np.io.source import Source

LOOK: Final = 16 * KIB
"""Bytes that are looked at, the device-model record apart."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The device-model record that may follow a libxc stream, and what follows then."""

    device_model: bool
    cut: bool
    """The input ends within that record."""
    offset: int
    """Behind it."""
    rest: bytes
    """What begins there, up to :data:`LOOK` bytes."""
    length: int | None
    """Of all that is left; None: a pipe with more than was looked at."""
    records: tuple[Record, ...] = ()
    """Those of XenServer, up to End_of_image."""
    failure: InvalidImage | NotSupported | None = None
    """Why they cannot be read."""


def look_behind(source: Source, at: int, *, device_model: bool) -> Behind:
    """Read on from ``at``; ``device_model``: such a record may stand there. A pipe is read on."""
    cursor = Cursor(source, at)
    row = _device_model(cursor) if device_model else None
    if row is not None:
        try:
            bounded = _step_over(cursor, row)
        except TruncatedImage:
            return Behind(device_model=True, cut=True, offset=at, rest=b"", length=0)
        if not bounded:
            return Behind(device_model=True, cut=False, offset=cursor.at, rest=b"", length=0)
    return _rest(cursor, device_model=row is not None)


def look_at_records(source: Source, at: int) -> Behind:
    """Read on from ``at``, where XenServer's records go on (containers.md 4.2). A pipe is read on.

    Zeros behind the last are no rest: such an image lies on a disk of its own.
    """
    try:
        records = records_behind(source, at)
    except (InvalidImage, NotSupported) as failure:
        return Behind(device_model=False, cut=False, offset=at, rest=b"", length=0, failure=failure)
    found = _rest(Cursor(source, records[-1].end), device_model=False)
    return replace(found, records=records, rest=found.rest if any(found.rest) else b"")


def _rest(cursor: Cursor, *, device_model: bool) -> Behind:
    rest, end = cursor.peek(LOOK), cursor.source.end
    if end is not None:
        length: int | None = max(end - cursor.at, 0)
    else:
        length = len(rest) if len(rest) < LOOK else None
    return Behind(device_model, cut=False, offset=cursor.at, rest=rest, length=length)


def _device_model(cursor: Cursor) -> qemu.DeviceModelRecord | None:
    """The form of the record that begins here, be it cut within its signature."""
    start = cursor.peek(qemu.SIGNATURE_SIZE + 1)
    rows = [row for row in qemu.DEVICE_MODEL_RECORDS if start.startswith(row.signature)]
    if not rows and start:
        rows = [row for row in qemu.DEVICE_MODEL_RECORDS if row.signature.startswith(start)]
    return rows[0] if rows else None


def _step_over(cursor: Cursor, row: qemu.DeviceModelRecord) -> bool:
    """Whether the record has an end; it reaches to that of the input otherwise.

    Raises :class:`TruncatedImage`.
    """
    item = "device-model record"
    cursor.take(len(row.signature), item)
    length = cursor.number(row.length, item) if row.length is not None else _own_length(cursor)
    if length:
        cursor.skip(length - 1, item)
        cursor.take(1, item)
    return length is not None


def _own_length(cursor: Cursor) -> int | None:
    """What a state says of its own length, with its head (v2-stream.md 19.9); None: nothing."""
    begin = cursor.peek(qemu.STATE_V2_HEAD.itemsize)
    if len(begin) < qemu.STATE_V2_HEAD.itemsize or begin[:8] != qemu.STATE_V2_BEGIN:
        return None
    return len(begin) + int.from_bytes(begin[8:], "big")
