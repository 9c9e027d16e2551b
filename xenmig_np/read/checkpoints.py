"""The bodies of a legacy image with their tails: one, or as many as a checkpointed (Remus) image has.

A checkpoint counts when it is complete (legacy-stream.md 1.1, v2-stream.md 19.14). So each but the first is
read ahead, and again when it is known to count; what breaks off has left no trace then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import InvalidImage, NotSupported
from xenmig_np.io.cursor import Cursor
from xenmig_np.read.body import body
from xenmig_np.read.events import PageBatch, StartOfBody
from xenmig_np.read.reading import Decoded, Reading, remark
from xenmig_np.read.start import extended_info, p2m_frames, p2m_size
from xenmig_np.read.tails import TAILS, device_model
from xenmig_np.wire import legacy, pages, xl
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenmig_np.read.events import AnyEvent, Remark
    from xenmig_np.read.pagestore import PageStore


def head(reading: Reading) -> Iterator[AnyEvent]:
    """What precedes the first body."""
    yield p2m_size(reading)
    if reading.shape.guest is Guest.PV:
        yield from extended_info(reading)
        yield p2m_frames(reading)


def checkpoint(reading: Reading) -> Iterator[AnyEvent]:
    """A body and what belongs to it: its tail and the device-model record."""
    yield from body(reading)
    yield from TAILS[reading.shape.guest](reading)
    if not reading.to_tail:
        yield from device_model(reading)


def later_checkpoints(reading: Reading, kept: Callable[[], PageStore]) -> Iterator[AnyEvent]:
    """Further checkpoints as long as they are complete; what follows them is none of ours (1.1).

    Pages that have to be put together are kept in what ``kept`` gives.
    """
    failure = None
    while not reading.final and failure is None:
        reading.hold()
        if not reading.cursor.peek(1):
            break
        if reading.compression:
            _prepare(reading, kept())
        failure = _failure(reading)
        if failure is None:
            reading.body += 1
            at = reading.cursor.at
            if reading.held:
                reading.held.forget(at)
            yield StartOfBody(at, 0, reading.body)
            yield from checkpoint(reading)
    if reading.body:
        text = f"a checkpointed (Remus) image: the last of {reading.body + 1:,} complete checkpoints counts"
        yield remark("D28", text, reading.cursor.at)
    if reading.cursor.source.drained and (begin := reading.cursor.peek(limits.HEADS)):
        yield _left_out(reading, begin, failure)


def _failure(reading: Reading) -> InvalidImage | None:
    """Why what stands here is no complete checkpoint, if it is none.

    ``reading`` stays as it is, but for the pages of a compressed body that is complete.
    """
    at = reading.cursor.at
    ahead = replace(reading, cursor=Cursor(reading.cursor.source, at), body=reading.body + 1, decoded=None)
    copies = reading.copies
    if copies:
        from xenmig_np.read.delta import DeltaBody  # noqa: PLC0415 - as below

        copies.begin()
        ahead.delta = DeltaBody(copies, reading.path)
    failure: InvalidImage | None = None
    try:
        for _ in checkpoint(ahead):
            pass
    except InvalidImage as error:
        failure = error
    if failure is None and ahead.held and not ahead.held.reaches(ahead.cursor.at):
        failure = ahead.cursor.truncated(0, "checkpoint", 0)
    if failure is None and not ahead.vcpu_info:  # zeros read as an empty body and an empty tail
        failure = reading.invalid(at, "body", "no chunk -2", "one in every checkpoint")
    if copies and failure:
        copies.rollback()
    elif copies and ahead.delta:
        copies.commit()
        reading.decoded = Decoded(ahead.delta.places, copies.source, ahead.surplus)
    return failure


def _prepare(reading: Reading, store: PageStore) -> None:
    """Compressed bodies follow: find the last copies of all pages so far.

    That they follow is known behind the pages, which are walked once more. Raises :class:`NotSupported` for
    pipes.
    """
    source = reading.cursor.source
    if not source.seekable:
        raise NotSupported(
            "a checkpointed (Remus) image with compressed page data, from a pipe",
            path=reading.path,
            offset=reading.cursor.at,
            item="second body",
            hint="give a file, or --spool DIR",
        )
    if reading.copies:
        return
    from xenmig_np.read.pagestore import LastCopies  # noqa: PLC0415 - of compressed images alone

    reading.copies = LastCopies(reading.p2m_size, source, store)
    again = Reading(Cursor(source, reading.begin), reading.shape, reading.to_tail)
    for _ in head(again):
        pass
    for _ in range(reading.body + 1):
        for event in checkpoint(again):
            if isinstance(event, PageBatch):
                pfns = event.pfns[pages.HAS_DATA[event.types]]
                reading.copies.note(pfns, event.pages.offset + pages.PAGE_SIZE * np.arange(len(pfns)))


def _left_out(reading: Reading, begin: bytes, failure: InvalidImage | None) -> Remark:
    """What is told of the bytes behind the last complete checkpoint."""
    at = reading.cursor.at
    count = reading.cursor.left(limits.TRAILING_COUNTED)
    more = "more than " if reading.cursor.source.end is None and count == limits.TRAILING_COUNTED else ""
    many = f"{more}{count:,} bytes"
    if failure and begin.strip(b"\0") and _begins_like_a_body(begin):
        return remark("D28", f"{many} of an incomplete checkpoint left out: {failure}", at)
    if not begin.strip(b"\0"):
        kind = "zeros" if count == len(begin) else "zeros at first"
    else:
        kind = "of a migration's hand-shake" if begin.startswith(xl.HANDSHAKE) else "of unknown kind"
    return remark("trailing", f"{many} behind the image left out ({kind})", at)


def _begins_like_a_body(begin: bytes) -> bool:
    size = legacy.CHUNK_ID.itemsize
    number = int.from_bytes(begin[:size], "little", signed=True)
    return len(begin) >= size and (0 < number <= legacy.BATCH_MAX or number in legacy.CHUNK_BY_ID)
