"""Reads a legacy image: bytes in, located events out (legacy-stream.md 1 to 7, 13).

One pass, forward only, page contents stepped over. The checks here are those that keep a reader on its way
and those without which a word has no meaning; what savers never do but restore bears is remarked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import InvalidImage, Note, NotSupported
from xenmig_np.io.cursor import Cursor
from xenmig_np.read.events import (
    AnyEvent,
    Block,
    Chunk,
    DeviceModel,
    EndOfBody,
    EndOfImage,
    ExtendedInfo,
    Extent,
    HvmContext,
    HvmMagic,
    OnlineVcpus,
    P2mFrames,
    P2mSize,
    PageBatch,
    Remark,
    SharedInfo,
    Unmapped,
    Vcpu,
)
from xenmig_np.wire import hvm, legacy, pages, qemu, vcpu
from xenmig_np.wire.legacy import Guest, Payload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.io.source import Source

ALL_ONES: Final = {width: int(np.iinfo(dtype).max) for width, dtype in legacy.WORDS.items()}


@dataclass(frozen=True, slots=True)
class Shape:
    """What no field of an image says, and every field depends on."""

    width: int
    """Bits of the toolstack's ``unsigned long``."""
    guest: Guest

    @property
    def word(self) -> np.dtype[np.unsignedinteger]:
        return legacy.WORDS[self.width]


class LegacyReader:
    """Reads one image from ``at`` on; iterate over :meth:`events` once.

    Raises :class:`InvalidImage`, :class:`TruncatedImage`, :class:`NotSupported` (chunks and records that
    cannot be read past yet), :class:`InputOutputError`.
    """

    def __init__(self, source: Source, at: int, shape: Shape) -> None:
        self.shape = shape
        self.cursor = Cursor(source, at)
        self.path = source.path
        self.p2m_size = 0
        self._batches = 0
        self._part = 0
        self._last_checkpoint = False
        self._online: tuple[int, ...] = (0,)  # without chunk -2 (Xen 3.0) vCPU 0 alone, v2-stream.md D3
        self._info: ExtendedInfo | None = None
        self._stray_param: Chunk | None = None

    # ---- the image ---------------------------------------------------------------------------------------

    def events(self) -> Iterator[AnyEvent]:
        yield self._p2m_size()
        if self.shape.guest is Guest.PV:
            yield from self._extended_info()
            yield self._p2m_frames()
        yield from self._body()
        yield from TAILS[self.shape.guest](self)
        yield from self._device_model()
        yield from self._behind()

    def _p2m_size(self) -> P2mSize:
        at = self.cursor.at
        self.p2m_size = self.cursor.number(self.shape.word, "p2m_size")
        if not 1 <= self.p2m_size <= limits.P2M_SIZE_MAX:
            raise self._invalid(
                at,
                "p2m_size",
                f"{self.p2m_size:,}",
                f"1 to {limits.P2M_SIZE_MAX:,}",
                hint="a wrong --width, or no legacy image",
            )
        return P2mSize(at, self.cursor.at - at, self.p2m_size)

    def _extended_info(self) -> Iterator[AnyEvent]:
        at = self.cursor.at
        ones = self.cursor.peek(self.shape.word.itemsize)
        if len(ones) == self.shape.word.itemsize and ones.strip(b"\xff") == b"":
            self.cursor.take(self.shape.word.itemsize, "extended info")
            blocks, remarks = self._blocks()
            yield from remarks
            self._info = self._described(at, blocks)
        else:  # Xen 3.0 and 3.1: the guest has the toolstack's width (legacy-stream.md 2.4)
            guest = vcpu.PV_BY_WIDTH[self.shape.width // 8]
            self._info = ExtendedInfo(at, 0, guest, extended=False, xcnt=0, blocks=())
        yield self._info

    def _blocks(self) -> tuple[list[Block], list[Remark]]:
        item = "extended info"
        at = self.cursor.at
        total = int(self.cursor.one(legacy.EXTENDED_HEAD, item)["total"])
        if total > limits.EXTENDED_INFO_MAX:
            raise self._invalid(at, item, f"{total:,} bytes", f"at most {limits.EXTENDED_INFO_MAX:,}")
        end = self.cursor.at + total
        blocks, remarks = [], []
        while self.cursor.at < end:
            at = self.cursor.at
            left = end - at
            if left < legacy.BLOCK_HEAD.itemsize:
                raise self._invalid(at, item, f"{left} bytes left", "the 8-byte head of a block")
            head = self.cursor.one(legacy.BLOCK_HEAD, item)
            name, size = bytes(head["id"]), int(head["size"])
            if size > end - self.cursor.at:
                raise self._invalid(
                    at,
                    f"{item}, block {_shown(name)}",
                    f"{size:,} bytes",
                    f"at most the {end - self.cursor.at:,} left",
                )
            known = name == b"vcpu" or name in legacy.BLOCK_SIZES
            blocks.append(Block(name, at, size, self.cursor.take(size, item)))
            if not known:
                remarks.append(
                    _remark("D26", f"unknown block {_shown(name)} in the extended info skipped", at)
                )
        return blocks, remarks

    def _described(self, at: int, blocks: list[Block]) -> ExtendedInfo:
        """Check the blocks that have a meaning (legacy-stream.md 2.2)."""
        item = "extended info"
        contexts = [block for block in blocks if block.id == b"vcpu"]
        if len(contexts) != 1:
            raise self._invalid(at, item, f"{len(contexts)} blocks 'vcpu'", "one")
        guest = vcpu.PV_BY_CONTEXT.get(contexts[0].size)
        if guest is None:
            sizes = " or ".join(f"{size:,}" for size in vcpu.PV_BY_CONTEXT)
            raise self._invalid(
                contexts[0].offset,
                f"{item}, block 'vcpu'",
                f"{contexts[0].size:,} bytes",
                f"{sizes} (a vCPU context)",
            )
        xcnt = 0
        for block in blocks:
            fixed = legacy.BLOCK_SIZES.get(block.id)
            if fixed is not None and block.size != fixed:
                raise self._invalid(
                    block.offset, f"{item}, block {_shown(block.id)}", f"{block.size:,} bytes", f"{fixed}"
                )
            if block.id == b"xcnt":
                xcnt = int(np.frombuffer(block.payload, legacy.XCNT)[0]["size"])
                if xcnt and not limits.XSAVE_MIN <= xcnt <= limits.XSAVE_MAX:
                    raise self._invalid(
                        block.offset,
                        f"{item}, block 'xcnt'",
                        f"{xcnt:,}",
                        f"0 or {limits.XSAVE_MIN} to {limits.XSAVE_MAX:,}",
                    )
        extended = any(block.id == b"extv" for block in blocks)
        return ExtendedInfo(at, self.cursor.at - at, guest, extended, xcnt, tuple(blocks))

    def _p2m_frames(self) -> P2mFrames:
        at = self.cursor.at
        per_frame = self._pv.guest.frames_per_page
        frames = self.cursor.array(self.shape.word, -(-self.p2m_size // per_frame), "p2m frame list")
        return P2mFrames(at, self.cursor.at - at, frames)

    @property
    def _pv(self) -> ExtendedInfo:
        if self._info is None:
            raise RuntimeError("the extended info of a PV image comes before what depends on it")
        return self._info

    # ---- a body ------------------------------------------------------------------------------------------

    def _body(self) -> Iterator[AnyEvent]:
        while True:
            at = self.cursor.at
            number = self.cursor.number(legacy.CHUNK_ID, "chunk id")
            if number > 0:
                yield from self._batch(at, number)
                continue
            row = legacy.CHUNK_BY_ID.get(number)
            if row is None:
                lowest = min(legacy.CHUNK_BY_ID)
                raise self._invalid(
                    at, "chunk", f"the unknown id {number}", f"{lowest} to {legacy.BATCH_MAX:,}"
                )
            if row.id == legacy.END:
                self._no_stray_param()
                yield EndOfBody(at, self.cursor.at - at)
                return
            yield from self._chunk(at, row)

    def _batch(self, at: int, count: int) -> Iterator[AnyEvent]:
        item = f"page batch {self._batches}"
        if count > legacy.BATCH_MAX:
            raise self._invalid(
                at,
                item,
                f"{count:,} entries",
                f"at most {legacy.BATCH_MAX:,}",
                hint="an image of the other --width or --guest, or damage before this place",
            )
        words_at = self.cursor.at
        words = self.cursor.array(self.shape.word, count, item)
        types, pfns = self._split(words, words_at, item)
        length = int(np.count_nonzero(pages.HAS_DATA[types])) * pages.PAGE_SIZE
        if repeated := _repeated(words[types != pages.PageType.XTAB]):
            yield _remark("D21", f"{item}: {repeated} entries stand twice in it; the later copy counts", at)
        extent = Extent(self.cursor.skip(length, f"{item}, pages"), length)
        yield PageBatch(at, self.cursor.at - at, self._batches, self._part, types, pfns, extent)
        self._batches += 1

    def _split(
        self, words: NDArray[np.unsignedinteger], at: int, item: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """Types u1 and pfns u4 of the words; checks upper halves, types and pfns (legacy-stream.md 4)."""
        low = words.astype(np.uint32)
        types = (low >> legacy.TYPE_SHIFT).astype(np.uint8)
        pfns = low & np.uint32(legacy.PFN_MASK)
        if self.shape.width == 64:
            upper = words >> np.uint64(32)
            signed = (upper == legacy.UPPER_ONES) & (types >= 8)
            self._every(
                (upper == 0) | signed, words, at, item, "an upper half of 0 (or of ones over bit 31)", "D5"
            )
        self._every(pages.LEGAL[types], words, at, item, "a page type other than 5 to 8", "D6")
        inside = (pfns < self.p2m_size) | (types == pages.PageType.XTAB)
        self._every(inside, words, at, item, f"a pfn below p2m_size {self.p2m_size:#x}", "D31")
        return types, pfns

    def _every(  # noqa: PLR0913, PLR0917 - the facts of the error
        self,
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
        hint = "an image of the other --width or --guest, or damage before this place" if not first else None
        raise self._invalid(
            at + first * words.itemsize,
            f"{item}, entry {first}",
            f"{int(words[first]):#x}",
            f"{expected} ({rule})",
            hint=hint,
        )

    def _chunk(self, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
        if row.refused:
            raise NotSupported(
                f"{row.refused}",
                path=self.path,
                offset=at,
                item=f"chunk {row.id} ({row.name})",
            )
        yield from PAYLOADS[row.payload](self, at, row)

    def _nothing(self, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
        if row.id == legacy.VERIFY_MODE:
            self._part = 1
        self._last_checkpoint |= row.id == legacy.LAST_CHECKPOINT
        yield Chunk(at, self.cursor.at - at, row, b"")

    def _hvm_param(self, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
        payload = self.cursor.take(legacy.HVM_PARAM.itemsize, _item(row))
        value = int(np.frombuffer(payload, legacy.HVM_PARAM)[0]["value"])
        chunk = Chunk(at, self.cursor.at - at, row, payload, value)
        if self.shape.guest not in row.guests:
            self._stray_param = self._stray_param or chunk
        yield chunk

    def _no_stray_param(self) -> None:
        if self._stray_param:
            stray = self._stray_param
            raise self._invalid(stray.offset, _item(stray.row), "it in a PV image", "it in HVM images only")

    def _tsc_info(self, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
        payload = self.cursor.take(legacy.TSC_INFO.itemsize, _item(row))
        yield Chunk(at, self.cursor.at - at, row, payload, np.frombuffer(payload, legacy.TSC_INFO)[0])

    def _toolstack(self, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
        length = self.cursor.number(legacy.U32, _item(row))
        if length > limits.TOOLSTACK_MAX:
            raise self._invalid(at, _item(row), f"{length:,} bytes", f"at most {limits.TOOLSTACK_MAX:,}")
        payload = self.cursor.take(length, _item(row))
        yield Chunk(at, self.cursor.at - at, row, payload)

    def _vcpu_info(self, at: int, row: legacy.ChunkType) -> Iterator[AnyEvent]:
        highest = int(self.cursor.one(legacy.VCPU_INFO, _item(row))["max_vcpu_id"])
        if not 0 <= highest <= legacy.VCPU_ID_MAX:
            raise self._invalid(
                at, _item(row), f"highest vCPU id {highest}", f"0 to {legacy.VCPU_ID_MAX:,} (D10)"
            )
        payload = self.cursor.take((highest // 64 + 1) * legacy.VCPU_MAP.itemsize, _item(row))
        bits = np.flatnonzero(np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little"))
        online = tuple(int(bit) for bit in bits[bits <= highest])
        if len(online) < len(bits):
            yield _remark("D9", f"{_item(row)}: bits above the highest vCPU id {highest} ignored", at)
        if self.shape.guest is Guest.PV and 0 not in online:
            yield _remark("legacy 8.9", f"{_item(row)}: vCPU 0 is offline; Xen does not restore that", at)
        self._online = online
        yield OnlineVcpus(at, self.cursor.at - at, row, payload, highest, online)

    # ---- tails -------------------------------------------------------------------------------------------

    def _pv_tail(self) -> Iterator[AnyEvent]:
        yield from self._unmapped()
        for number in self._online:
            yield from self._vcpu(number)
        at = self.cursor.at
        page = self.cursor.take(legacy.SHARED_INFO_SIZE, "shared info page")
        yield SharedInfo(at, self.cursor.at - at, page)

    def _unmapped(self) -> Iterator[AnyEvent]:
        item = "list of unmapped pfns"
        at = self.cursor.at
        count = int(self.cursor.one(legacy.UNMAPPED_HEAD, item)["count"])
        if count > self.p2m_size:
            raise self._invalid(
                at,
                item,
                f"{count:,} entries",
                f"at most p2m_size {self.p2m_size:,}",
                hint="an image of the other --width or --guest, or damage before this place",
            )
        self.cursor.check(count * self.shape.word.itemsize, item)
        outside = 0
        while True:
            some = min(count, limits.MIB // self.shape.word.itemsize)
            pfns = self.cursor.array(self.shape.word, some, item)
            count -= some
            inside = pfns[pfns < self.p2m_size].astype(np.uint32)
            outside += some - len(inside)
            yield Unmapped(at, self.cursor.at - at, inside, last=not count)
            at = self.cursor.at
            if not count:
                break
        if outside:
            yield _remark("legacy 7.1", f"{item}: {outside:,} entries beyond p2m_size ignored", at)

    def _vcpu(self, number: int) -> Iterator[AnyEvent]:
        info = self._pv
        item = f"vCPU {number}"
        at = self.cursor.at
        context = self.cursor.take(info.guest.context.itemsize, f"{item}, context")
        extended = (
            self.cursor.take(vcpu.EXTENDED_SIZE, f"{item}, extended context") if info.extended else None
        )
        xsave = None
        if info.xcnt:
            head_at = self.cursor.at
            size = int(self.cursor.one(vcpu.XSAVE_HEAD, f"{item}, xsave")["size"])
            if not limits.XSAVE_MIN <= size <= limits.XSAVE_MAX:
                raise self._invalid(
                    head_at,
                    f"{item}, xsave",
                    f"{size:,} bytes",
                    f"{limits.XSAVE_MIN} to {limits.XSAVE_MAX:,}",
                )
            xsave = self.cursor.take(size, f"{item}, xsave")
            if size > info.xcnt - limits.XSAVE_MIN:
                text = (
                    f"{item}: xsave record of {size:,} bytes, the extended info announced {info.xcnt - 16:,}"
                )
                yield _remark("D4", text, head_at)
        yield Vcpu(at, self.cursor.at - at, number, context, extended, xsave)

    def _hvm_tail(self) -> Iterator[AnyEvent]:
        at = self.cursor.at
        tail = self.cursor.one(legacy.HVM_TAIL, "HVM tail")
        first, second, third = (int(value) for value in tail["magic_pfns"])
        yield HvmMagic(at, self.cursor.at - at, (first, second, third))
        at = self.cursor.at - legacy.U32.itemsize
        length = int(tail["context_length"])
        if not 1 <= length <= limits.HVM_CONTEXT_MAX:
            raise self._invalid(
                at,
                "HVM context",
                f"{length:,} bytes",
                f"1 to {limits.HVM_CONTEXT_MAX:,} (D27)",
                hint="an image of the other --width or --guest, or damage before this place"
                if length
                else None,
            )
        context = self.cursor.take(length, "HVM context")
        if not context.startswith(hvm.CONTEXT_START):
            yield _remark("legacy 11.1", "the HVM context does not begin with its header", at)
        yield HvmContext(at + legacy.U32.itemsize, length, context)

    # ---- behind the tail ---------------------------------------------------------------------------------

    def _device_model(self) -> Iterator[AnyEvent]:
        if not self.cursor.source.drained and self.shape.guest is Guest.PV:
            return  # the bytes behind a PV image belong to somebody else
        start = self.cursor.peek(qemu.SIGNATURE_SIZE)
        if qemu.DEVICE_MODEL_RECORDS[-1].signature == start:
            start = self.cursor.peek(qemu.SIGNATURE_SIZE + 1)
        row = next((row for row in qemu.DEVICE_MODEL_RECORDS if start.startswith(row.signature)), None)
        at = self.cursor.at
        if row is None:
            if start and any(row.signature.startswith(start) for row in qemu.DEVICE_MODEL_RECORDS):
                raise self.cursor.truncated(qemu.SIGNATURE_SIZE, "device-model record", len(start))
            return
        name = row.signature.decode().strip()
        self.cursor.take(len(row.signature), "device-model record")
        length = self._device_model_length(at, row)
        if length > limits.DEVICE_MODEL_MAX:
            raise self._invalid(
                at, "device-model record", f"{length:,} bytes", f"at most {limits.DEVICE_MODEL_MAX:,}"
            )
        if length > limits.DEVICE_MODEL_USUAL:
            yield _remark(
                "containers 6.2", f"the device-model state has {length:,} bytes, usual are some KiB", at
            )
        state = Extent(self.cursor.skip(length, "device-model record"), length)
        if self.shape.guest is Guest.PV:
            yield _remark("containers 2.2", f"a device-model record {name} behind a PV guest left out", at)
        yield DeviceModel(at, self.cursor.at - at, row, state)

    def _device_model_length(self, at: int, row: qemu.DeviceModelRecord) -> int:
        if row.length is not None:
            return self.cursor.number(row.length, "device-model record")
        if self.cursor.source.end is None:
            raise NotSupported(
                f"the device-model record of {row.writer}, which has no length, from a pipe",
                path=self.path,
                offset=at,
                item="device-model record",
                hint="give a file",
            )
        return self.cursor.source.end - self.cursor.at

    def _behind(self) -> Iterator[AnyEvent]:
        """Another body (a checkpoint), bytes that are none of ours, or nothing (legacy-stream.md 1.1)."""
        at = self.cursor.at
        source = self.cursor.source
        if source.drained:
            if not self._last_checkpoint and self._body_begins():
                raise NotSupported(
                    "a checkpointed (Remus) image with more than one state of the guest",
                    path=self.path,
                    offset=at,
                    item="second body",
                )
            begin = self.cursor.peek(limits.HEADS)
            if begin:
                yield _remark("trailing", self._trailing(begin), at)
        yield EndOfImage(at, 0)

    def _body_begins(self) -> bool:
        """Whether what stands here reads as the first chunk of a body."""
        head = self.cursor.peek(legacy.CHUNK_ID.itemsize)
        if len(head) < legacy.CHUNK_ID.itemsize:
            return False
        number = int(np.frombuffer(head, legacy.CHUNK_ID)[0])
        if number <= 0:
            return number != legacy.END and number in legacy.CHUNK_BY_ID
        size = legacy.CHUNK_ID.itemsize + number * self.shape.word.itemsize
        if number > legacy.BATCH_MAX or len(whole := self.cursor.peek(size)) < size:
            return False
        try:
            self._split(np.frombuffer(whole[len(head) :], self.shape.word), self.cursor.at, "")
        except InvalidImage:
            return False
        return True

    def _trailing(self, begin: bytes) -> str:
        source, at = self.cursor.source, self.cursor.at
        if source.end is not None:
            count = source.end - at
        else:
            count = len(begin)
            piece = memoryview(bytearray(limits.PIECE))
            while got := source.read_at(at + count, piece):
                count += got
        if not begin.strip(b"\0"):
            kind = "zeros" if count == len(begin) else "zeros at first"
        else:
            kind = "of a migration's hand-shake" if begin.startswith(HANDSHAKE) else "of unknown kind"
        return f"{count:,} bytes behind the image left out ({kind})"

    def _invalid(
        self, offset: int, item: str, found: str, expected: str, hint: str | None = None
    ) -> InvalidImage:
        return InvalidImage(
            path=self.path, offset=offset, item=item, found=found, expected=expected, hint=hint
        )


HANDSHAKE: Final = b"domain is yours, you are cleared to unpause\0"
"""Behind the image in a capture of ``xl migrate`` (containers.md 1.5)."""

TAILS: Final[dict[Guest, Callable[[LegacyReader], Iterator[AnyEvent]]]] = {
    Guest.PV: LegacyReader._pv_tail,  # noqa: SLF001 - the table of this class
    Guest.HVM: LegacyReader._hvm_tail,  # noqa: SLF001
}
PAYLOADS: Final[dict[Payload, Callable[[LegacyReader, int, legacy.ChunkType], Iterator[AnyEvent]]]] = {
    Payload.NOTHING: LegacyReader._nothing,  # noqa: SLF001
    Payload.HVM_PARAM: LegacyReader._hvm_param,  # noqa: SLF001
    Payload.VCPU_INFO: LegacyReader._vcpu_info,  # noqa: SLF001
    Payload.TSC_INFO: LegacyReader._tsc_info,  # noqa: SLF001
    Payload.TOOLSTACK: LegacyReader._toolstack,  # noqa: SLF001
}


def _item(row: legacy.ChunkType) -> str:
    return f"chunk {row.id} ({row.name})"


def _shown(name: bytes) -> str:
    return repr(name)[1:]


def _remark(rule: str, text: str, offset: int) -> Remark:
    return Remark(Note(rule, text, offset))


def _repeated(words: NDArray[np.unsignedinteger]) -> int:
    """How many words stand in the array a second time; savers write them ascending, which is fast to see."""
    low = words.astype(np.uint32)
    if len(low) < 2 or bool((low[1:] > low[:-1]).all()):
        return 0
    return len(low) - len(np.unique(low))
