"""The body of a legacy image: page batches and control chunks up to chunk 0 (legacy-stream.md 3, 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import NotSupported
from xenmig_np.read.events import AnyEvent, Chunk, EndOfBody, OnlineVcpus, PageBatch, Remark
from xenmig_np.read.pfnset import run_of
from xenmig_np.read.places import Extent
from xenmig_np.read.reading import WRONG_PLACE, Reading, remark
from xenmig_np.read.tmem import tmem
from xenmig_np.wire import legacy, pages
from xenmig_np.wire.legacy import Payload

if TYPE_CHECKING:
    from numpy.typing import NDArray


def body(reading: Reading) -> Iterator[AnyEvent]:
    """The events of one body, its end among them."""
    reading.vcpu_info = False
    while True:
        at = reading.cursor.at
        number = reading.cursor.number(legacy.CHUNK_ID, "chunk id")
        if number > 0:
            yield from _batch(reading, at, number)
            continue
        row = legacy.CHUNK_BY_ID.get(number)
        if row is None:
            lowest = min(legacy.CHUNK_BY_ID)
            raise reading.invalid(
                at, "chunk", f"the unknown id {number}", f"{lowest} to {legacy.BATCH_MAX:,}"
            )
        if row.id == legacy.END:
            _no_stray_param(reading)
            yield from _end_of_pages(reading, at)
            yield EndOfBody(at, reading.cursor.at - at, reading.final)
            return
        yield from PAYLOADS[row.payload](reading, at, row)


def _batch(reading: Reading, at: int, count: int) -> Iterator[AnyEvent]:
    item = f"page batch {reading.batches}"
    if count > legacy.BATCH_MAX:
        raise reading.invalid(
            at,
            item,
            f"{count:,} entries",
            f"at most {legacy.BATCH_MAX:,}",
            hint=WRONG_PLACE,
        )
    words_at = reading.cursor.at
    words = reading.cursor.array(reading.shape.word, count, item)
    types, pfns, run = split(reading, words, words_at, item)
    if not run and (repeated := _repeated(words[types != pages.PageType.XTAB])):
        yield remark("D21", f"{item}: entries that stand twice in it: {repeated}; the later copy counts", at)
    extent, places = _pages(reading, pfns[pages.HAS_DATA[types]], item)
    length = reading.cursor.at - at
    yield PageBatch(at, length, reading.batches, reading.part, types, pfns, extent, reading.body, places, run)
    reading.batches += 1


def _pages(reading: Reading, pfns: NDArray[np.uint32], item: str) -> tuple[Extent, NDArray[np.int64] | None]:
    """Where the pages of a batch lie; in a compressed body they come later (legacy-stream.md 5.1)."""
    length = len(pfns) * pages.PAGE_SIZE
    if reading.delta:
        reading.delta.announce(pfns)
        return Extent(reading.cursor.at, 0), None
    if reading.decoded:
        places = reading.decoded.next(len(pfns))
        first = int(places[0]) if len(places) else reading.cursor.at
        return Extent(first, length, reading.decoded.source), places
    return Extent(reading.cursor.skip(length, f"{item}, pages"), length, reading.held), None


def _end_of_pages(reading: Reading, at: int) -> Iterator[AnyEvent]:
    if reading.delta:
        reading.surplus = reading.delta.finish(at)
    if reading.decoded and reading.decoded.note:
        yield Remark(reading.decoded.note)


def split(
    reading: Reading, words: NDArray[np.unsignedinteger], at: int, item: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint32], slice | None]:
    """Types u1 and pfns u4 of the words, and their run if they are ordinary pages in a row.

    Checks upper halves, types and pfns (legacy-stream.md 4).
    """
    low = words.astype(np.uint32)
    untyped = not int(np.bitwise_or.reduce(words)) >> legacy.TYPE_SHIFT
    if untyped and (run := run_of(low)) and run.stop <= reading.p2m_size:
        return np.zeros(len(low), np.uint8), low, run
    types = (low >> legacy.TYPE_SHIFT).astype(np.uint8)
    pfns = low & np.uint32(legacy.PFN_MASK)
    if reading.shape.width == 64:
        upper = words >> np.uint64(32)
        signed = (upper == legacy.UPPER_ONES) & (types >= 8)
        _every(
            reading,
            (upper == 0) | signed,
            words,
            at,
            item,
            "an upper half of 0 (or of ones over bit 31)",
            "D5",
        )
    _every(reading, pages.LEGAL[types], words, at, item, "a page type other than 5 to 8", "D6")
    inside = (pfns < reading.p2m_size) | (types == pages.PageType.XTAB)
    _every(reading, inside, words, at, item, f"a pfn below p2m_size {reading.p2m_size:#x}", "D31")
    return types, pfns, None


def _every(  # noqa: PLR0913, PLR0917 - the facts of the error
    reading: Reading,
    good: NDArray[np.bool_],
    words: NDArray[np.unsignedinteger],
    at: int,
    item: str,
    expected: str,
    rule: str,
) -> None:
    if good.all():
        return
    first = int(np.argmin(good))
    hint = WRONG_PLACE if not first else None
    raise reading.invalid(
        at + first * words.itemsize,
        f"{item}, entry {first}",
        f"{int(words[first]):#x}",
        f"{expected} ({rule})",
        hint=hint,
    )


def _nothing(reading: Reading, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
    if row.id == legacy.VERIFY_MODE:
        reading.part = 1
    reading.last_checkpoint |= row.id == legacy.LAST_CHECKPOINT
    reading.compression |= row.id == legacy.ENABLE_COMPRESSION
    yield Chunk(at, reading.cursor.at - at, row, b"")


def _hvm_param(reading: Reading, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
    payload = reading.cursor.take(legacy.HVM_PARAM.itemsize, _item(row))
    value = int(np.frombuffer(payload, legacy.HVM_PARAM)[0]["value"])
    chunk = Chunk(at, reading.cursor.at - at, row, payload, value)
    if reading.shape.guest not in row.guests:
        reading.stray_param = reading.stray_param or chunk
    yield chunk


def _no_stray_param(reading: Reading) -> None:
    if reading.stray_param:
        stray = reading.stray_param
        raise reading.invalid(stray.offset, _item(stray.row), "it in a PV image", "it in HVM images only")


def _tsc_info(reading: Reading, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
    payload = reading.cursor.take(legacy.TSC_INFO.itemsize, _item(row))
    yield Chunk(at, reading.cursor.at - at, row, payload, np.frombuffer(payload, legacy.TSC_INFO)[0])


def _toolstack(reading: Reading, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
    length = reading.cursor.number(legacy.U32, _item(row))
    if length > limits.TOOLSTACK_MAX:
        raise reading.invalid(at, _item(row), f"{length:,} bytes", f"at most {limits.TOOLSTACK_MAX:,}")
    payload = reading.cursor.take(length, _item(row))
    yield Chunk(at, reading.cursor.at - at, row, payload)


def _vcpu_info(reading: Reading, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
    highest = int(reading.cursor.one(legacy.VCPU_INFO, _item(row))["max_vcpu_id"])
    if not 0 <= highest <= legacy.VCPU_ID_MAX:
        raise reading.invalid(
            at, _item(row), f"highest vCPU id {highest}", f"0 to {legacy.VCPU_ID_MAX:,} (D10)"
        )
    payload = reading.cursor.take((highest // 64 + 1) * legacy.VCPU_MAP.itemsize, _item(row))
    bits = np.flatnonzero(np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little"))
    online = tuple(int(bit) for bit in bits[bits <= highest])
    if len(online) < len(bits):
        yield remark("D9", f"{_item(row)}: bits above the highest vCPU id {highest} ignored", at)
    if reading.body and online != reading.online:
        text = "the online vCPUs are others than those of the checkpoint before: Xen misread the tail then"
        yield remark("legacy 1.1", text, at)
    reading.online = online
    reading.vcpu_info = True
    yield OnlineVcpus(at, reading.cursor.at - at, row, payload, highest, online)


def _tmem(reading: Reading, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
    if not reading.cursor.source.seekable:
        raise NotSupported(
            f"{row.refused}, from a pipe",
            path=reading.path,
            offset=at,
            item=_item(row),
            hint="give a file, or --spool DIR",
        )
    pages_in_it = tmem(reading, row.id == legacy.TMEM_EXTRA)
    yield Chunk(at, reading.cursor.at - at, row, b"", pages_in_it)


def _compressed(reading: Reading, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
    """Chunk -12; its pages belong to batches of the body (5.1)."""
    if not (reading.delta or reading.decoded):
        expected = "it behind a checkpoint with chunk -13 only"
        raise reading.invalid(at, _item(row), "it in a body whose batches hold their pages", expected)
    length = left = reading.cursor.number(reading.shape.word, _item(row))
    if length > legacy.COMPRESSED_MAX:
        raise reading.invalid(at, _item(row), f"{length:,} bytes", f"at most {legacy.COMPRESSED_MAX:,}")
    while reading.delta and left:
        begin = reading.cursor.at
        piece = reading.cursor.take(min(left, limits.MIB), _item(row))
        reading.delta.feed(memoryview(piece), begin)
        left -= len(piece)
    reading.cursor.skip(left, _item(row))
    yield Chunk(at, reading.cursor.at - at, row, b"")


PAYLOADS: Final[dict[Payload, Callable[[Reading, int, legacy.ChunkType], Iterator[AnyEvent]]]] = {
    Payload.NOTHING: _nothing,
    Payload.HVM_PARAM: _hvm_param,
    Payload.VCPU_INFO: _vcpu_info,
    Payload.TSC_INFO: _tsc_info,
    Payload.TOOLSTACK: _toolstack,
    Payload.TMEM: _tmem,
    Payload.COMPRESSED: _compressed,
}


def _item(row: legacy.ChunkType) -> str:
    return f"chunk {row.id} ({row.name})"


def _repeated(words: NDArray[np.unsignedinteger]) -> int:
    """How many words stand in the array a second time; savers write them ascending, which is fast to see."""
    low = words.astype(np.uint32)
    if len(low) < 2 or bool((low[1:] > low[:-1]).all()):
        return 0
    return len(low) - len(np.unique(low))
