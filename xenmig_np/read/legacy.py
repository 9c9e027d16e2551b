"""Reads a legacy image: bytes in, located events out (legacy-stream.md 1, 13).

One pass, forward only, page contents stepped over. The checks here are those that keep a reader on its way
and those without which a word has no meaning; what savers never do but restore bears is remarked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import InvalidImage, NotSupported
from xenmig_np.io.cursor import Cursor
from xenmig_np.read.body import body, split
from xenmig_np.read.events import EndOfImage
from xenmig_np.read.reading import Reading, Shape, remark
from xenmig_np.read.start import extended_info, p2m_frames, p2m_size
from xenmig_np.read.tails import TAILS, device_model
from xenmig_np.wire import legacy, xl
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.io.source import Source
    from xenmig_np.read.events import AnyEvent


class LegacyReader:
    """Reads one image from ``at`` on; iterate over :meth:`events` once.

    With ``to_tail`` nothing behind its tail is read, not even a device-model record. Raises
    :class:`InvalidImage`, :class:`TruncatedImage`, :class:`NotSupported` (chunks and records that cannot be
    read past yet), :class:`InputOutputError`.
    """

    def __init__(self, source: Source, at: int, shape: Shape, *, to_tail: bool = False) -> None:
        self.reading = Reading(Cursor(source, at), shape, to_tail)

    def events(self) -> Iterator[AnyEvent]:
        """All events, in the order of the image."""
        reading = self.reading
        yield p2m_size(reading)
        if reading.shape.guest is Guest.PV:
            yield from extended_info(reading)
            yield p2m_frames(reading)
        yield from body(reading)
        yield from TAILS[reading.shape.guest](reading)
        if not reading.to_tail:
            yield from device_model(reading)
        yield from _behind(reading)


def _behind(reading: Reading) -> Iterator[AnyEvent]:
    """Another body (a checkpoint), bytes that are none of ours, or nothing (legacy-stream.md 1.1)."""
    at = reading.cursor.at
    source = reading.cursor.source
    looking = source.drained or (source.seekable and not reading.to_tail)
    if looking and not reading.last_checkpoint and _body_begins(reading):
        raise NotSupported(
            "a checkpointed (Remus) image with more than one state of the guest",
            path=reading.path,
            offset=at,
            item="second body",
        )
    if source.drained and (begin := reading.cursor.peek(limits.HEADS)):
        yield remark("trailing", _trailing(reading, begin), at)
    yield EndOfImage(at, 0)


def _body_begins(reading: Reading) -> bool:
    """Whether what stands here reads as the first chunk of a body."""
    head = reading.cursor.peek(legacy.CHUNK_ID.itemsize)
    if len(head) < legacy.CHUNK_ID.itemsize:
        return False
    number = int(np.frombuffer(head, legacy.CHUNK_ID)[0])
    if number <= 0:
        return number != legacy.END and number in legacy.CHUNK_BY_ID
    size = legacy.CHUNK_ID.itemsize + number * reading.shape.word.itemsize
    if number > legacy.BATCH_MAX or len(whole := reading.cursor.peek(size)) < size:
        return False
    try:
        split(reading, np.frombuffer(whole[len(head) :], reading.shape.word), reading.cursor.at, "")
    except InvalidImage:
        return False
    return True


def _trailing(reading: Reading, begin: bytes) -> str:
    count = reading.cursor.left(limits.TRAILING_COUNTED)
    more = "more than " if reading.cursor.source.end is None and count == limits.TRAILING_COUNTED else ""
    if not begin.strip(b"\0"):
        kind = "zeros" if count == len(begin) else "zeros at first"
    else:
        kind = "of a migration's hand-shake" if begin.startswith(xl.HANDSHAKE) else "of unknown kind"
    return f"{more}{count:,} bytes behind the image left out ({kind})"
