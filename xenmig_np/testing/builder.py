"""Builds legacy images whose parts have names and places (legacy-stream.md 0 to 7).

Nothing is checked: numbers are cut to their fields, each count and length can be told to lie, and a
:class:`Raw` may stand in place of any piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from xenmig_np.testing.fields import (
    NOTAB,
    PAGE,
    PINNED,
    ZERO_PAGE,
    Data,
    Field,
    Filled,
    le,
    length_of,
    overridden,
    page,
    pte,
    under,
    word,
)
from xenmig_np.testing.pieces import (
    LAST_CHECKPOINT,
    Batch,
    Block,
    ContextRecord,
    Control,
    DeviceModel,
    Param,
    Physmap,
    Piece,
    Toolstack,
    Tsc,
    Vcpu,
    VcpuInfo,
    XlHeader,
    Xsave,
    each,
)

GuestKind = Literal["pv32", "pv64", "hvm"]


@dataclass(frozen=True, slots=True)
class Part:
    """A field of an image: ``body.3.word.0``, ``vcpu.0.xsave.size``. Numbers are positions, not ids."""

    name: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyImage:
    """One image, in the order of its fields; change one with :func:`dataclasses.replace`.

    ``guest`` decides which of the fields are written: those of PV images, or those of HVM images.
    """

    guest: GuestKind
    width: int
    """Bits of the toolstack's ``unsigned long``: 32 or 64."""
    xl: XlHeader | None = None
    p2m_size: int
    blocks: tuple[Piece, ...] | None = None
    """PV: of the extended info; None: there is none (Xen 3.0, 3.1)."""
    blocks_total: int | None = None
    frames: tuple[int, ...] = ()
    """PV: pfns of the p2m."""
    body: tuple[Piece, ...] = ()
    end: int | None = 0
    """The chunk that ends the body; None leaves it out."""
    unmapped: tuple[int, ...] = ()
    """PV."""
    unmapped_count: int | None = None
    vcpus: tuple[Piece, ...] = ()
    """PV."""
    shared_info: Data = ZERO_PAGE
    """PV."""
    magic: tuple[int, int, int] = (0, 0, 0)
    """HVM: pfns of ioreq, buffered ioreq and xenstore."""
    context: tuple[Piece, ...] = ()
    """HVM."""
    context_length: int | None = None
    device_model: DeviceModel | None = None
    later: tuple[LegacyImage, ...] = ()
    """Further checkpoints (Remus): body, tail and device-model record of each are written."""
    trailing: bytes = b""

    def parts(self) -> list[Part]:
        """Every field, in order and without gaps; some are empty."""
        parts, at = [], 0
        for name, data in self._fields():
            parts.append(Part(name, at, data))
            at += len(data)
        return parts

    def part(self, name: str) -> Part:
        """The part of that name. Raises :class:`KeyError`."""
        return {part.name: part for part in self.parts()}[name]

    def to_bytes(self) -> bytes:
        """The image."""
        return b"".join(data for _, data in self._fields())

    def damaged(self, name: str, data: bytes) -> bytes:
        """The image with other bytes, as many or not, in place of one part. Raises :class:`KeyError`."""
        part, whole = self.part(name), self.to_bytes()
        return whole[: part.offset] + data + whole[part.offset + len(part.data) :]

    def _fields(self) -> Iterator[Field]:
        size = self.width // 8
        if self.xl:
            yield from under("xl", self.xl.fields(size))
        yield "p2m_size", le(self.p2m_size, size)
        if self.guest != "hvm":
            yield from self._pv_head(size)
        yield from self.checkpoint(size)
        for index, image in enumerate(self.later):
            yield from under(f"later.{index}", image.checkpoint(size))
        yield "trailing", self.trailing

    def checkpoint(self, size: int) -> Iterator[Field]:
        """Fields of the body and of what belongs to it; ``size`` is the bytes of a word."""
        yield from each("body", self.body, size)
        if self.end is not None:
            yield "end", le(self.end, 4)
        yield from self._hvm_tail(size) if self.guest == "hvm" else self._pv_tail(size)
        if self.device_model:
            yield from under("device_model", self.device_model.fields(size))

    def _pv_head(self, size: int) -> Iterator[Field]:
        if self.blocks is not None:
            blocks = list(each("blocks", self.blocks, size))
            yield "blocks.marker", le(-1, size)
            yield "blocks.total", le(overridden(self.blocks_total, length_of(blocks)), 4)
            yield from blocks
        yield from ((f"frames.{index}", le(pfn, size)) for index, pfn in enumerate(self.frames))

    def _pv_tail(self, size: int) -> Iterator[Field]:
        yield "unmapped.count", le(overridden(self.unmapped_count, len(self.unmapped)), 4)
        yield from ((f"unmapped.{index}", le(pfn, size)) for index, pfn in enumerate(self.unmapped))
        yield from each("vcpu", self.vcpus, size)
        yield "shared_info", bytes(self.shared_info)

    def _hvm_tail(self, size: int) -> Iterator[Field]:
        context = list(each("context", self.context, size))
        yield from ((f"magic.{index}", le(pfn, 8)) for index, pfn in enumerate(self.magic))
        yield "context.length", le(overridden(self.context_length, length_of(context)), 4)
        yield from context


def boundaries(image: LegacyImage) -> list[int]:
    """Offsets at which a part begins or the image ends, ascending."""
    parts = image.parts()
    return sorted({part.offset for part in parts} | {parts[-1].offset + len(parts[-1].data)})


# ---- small valid images ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PvLayout:
    """A kind of PV guest: bytes of its word, levels of its page tables, offsets in its vCPU context."""

    word: int
    levels: int
    context: int
    edx: int
    gdt_entries: int
    cr3: int
    vm_assist: int

    def frames(self, p2m_size: int) -> int:
        """How many pages hold its p2m."""
        return -(-p2m_size // (PAGE // self.word))


PV_LAYOUTS: Final = {
    "pv32": PvLayout(4, 3, 2800, 524, 2704, 2728, 2796),
    "pv64": PvLayout(8, 4, 5168, 616, 4960, 5008, 5136),
}
ONLINE, FLAGS_AT = 1 << 5, 512
PAE_EXTENDED_CR3: Final = 1 << 3


def context(  # noqa: PLR0913 - the fields that mean something to a restore
    guest: GuestKind,
    *,
    top: int,
    start_info: int = 0,
    gdt_entries: int = 0,
    vm_assist: int = PAE_EXTENDED_CR3,
    fpu: int = 0,
) -> Filled:
    """State of a vCPU: ``top`` is the pfn of its top page table, ``fpu`` a byte in its FPU area."""
    layout = PV_LAYOUTS[guest]
    cr3 = top << 12 if guest == "pv64" else top << 12 | top >> 20
    fields = (
        (layout.edx, start_info),
        (layout.gdt_entries, gdt_entries),
        (layout.cr3, cr3),
        (layout.vm_assist, vm_assist),
    )
    patches = tuple((at, le(value, layout.word)) for at, value in fields)
    return Filled(layout.context, 0, ((0, bytes([fpu]) * 16), (FLAGS_AT, le(ONLINE, 4)), *patches))


def extended(vcpu: int = 0, fill: int = 0) -> Filled:
    """The 128 bytes behind a context, as Xen 4.3 and later write them."""
    return Filled(128, fill, ((0, le(vcpu, 4)), (4, le(56, 4))))


def context_header() -> ContextRecord:
    """How an HVM context begins."""
    return ContextRecord(1, le(0x5438_1286, 4) + le(1, 4) + le(-1, 8) + le(0x306C3, 4) + le(2_000_000, 4))


def small_image(guest: GuestKind = "pv64", width: int = 64) -> LegacyImage:
    """A valid image of a few pages, with what a libxl of Xen 4.5 writes on a plain save."""
    return _small_hvm(width) if guest == "hvm" else _small_pv(guest, width)


def _small_pv(guest: GuestKind, width: int) -> LegacyImage:
    layout = PV_LAYOUTS[guest]
    frame, start_info = 1, 2  # and behind them the tables, by level
    levels = range(1, layout.levels + 1)
    kinds = [level | (PINNED if level == layout.levels else 0) for level in levels]
    batch = Batch(
        (
            word(NOTAB, frame),
            word(NOTAB, start_info),
            *(word(kind, start_info + level) for kind, level in zip(kinds, levels, strict=True)),
        ),
        (page(0x11), page(0x22), *(page(0, [(0, pte(start_info + level - 1))]) for level in levels)),
    )
    state = context(guest, top=start_info + layout.levels, start_info=start_info)
    return LegacyImage(
        guest=guest,
        width=width,
        p2m_size=32,
        blocks=(Block(b"vcpu", state), Block(b"extv"), Block(b"xcnt", le(608, 4))),
        frames=(frame,),
        body=(
            Tsc(0, 1_000_000_000, 2_000_000),
            batch,
            VcpuInfo(),
            Toolstack(),
            Control(LAST_CHECKPOINT),
        ),
        vcpus=(Vcpu(state, extended(), Xsave()),),
        shared_info=Filled(PAGE, 0x33),
    )


def _small_hvm(width: int) -> LegacyImage:
    return LegacyImage(
        guest="hvm",
        width=width,
        p2m_size=32,
        body=(
            Tsc(0, 1_000_000_000, 2_000_000),
            Batch(tuple(word(NOTAB, pfn) for pfn in range(4)), tuple(page(0x11 * pfn) for pfn in range(4))),
            VcpuInfo(),
            Param(-3, 0x1F000),
            Param(-4, 0x1E000),
            Param(-8, 0x1D),
            Param(-10, 1),
            Toolstack((Physmap(0x1000, 0xF000_0000, 0x1000, b"vga.vram"),)),
            Control(LAST_CHECKPOINT),
        ),
        magic=(0x1A, 0x1B, 0x1C),
        context=(context_header(), ContextRecord(2, Filled(1024, 0x44)), ContextRecord(0)),
        device_model=DeviceModel(),
    )
