"""Hypothesis strategies that draw checkpointed (Remus) images (legacy-stream.md 1.1, 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from xenmig_np.testing.builder import PV_LAYOUTS, context, context_header, extended
from xenmig_np.testing.fields import (
    FIRST_WITHOUT_PAGE,
    NOTAB,
    PINNED,
    XALLOC,
    XTAB,
    Data,
    Filled,
    page,
    pte,
    word,
)
from xenmig_np.testing.pieces import (
    LAST_CHECKPOINT,
    VERIFY_MODE,
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
    Xsave,
)

if TYPE_CHECKING:
    from xenmig_np.testing.builder import LegacyImage

BYTE: Final = st.integers(0, 255)
LAST: Final = Control(LAST_CHECKPOINT)
UNBOUNDED: Final = b"QemuDeviceModelRecord"
"""A device-model record that reaches to the end: of the last checkpoint only."""


@st.composite
def checkpointed_images(draw: st.DrawFn, images: st.SearchStrategy[LegacyImage]) -> LegacyImage:
    """Drawn images of one body with one to three more behind it, about the same pages.

    Chunk -9 and a record without end, where the image has them, are those of the last checkpoint.
    """
    image = draw(images)
    model = image.device_model
    unbounded = model is not None and model.signature == UNBOUNDED
    body = tuple(piece for piece in image.body if piece != LAST)
    if body[:1] == (Control(VERIFY_MODE),):  # ones behind p2m_size are the marker of a PV image
        body = body[1:] + body[:1]
    first = replace(image, body=body, trailing=b"")
    if unbounded:
        first = replace(first, device_model=DeviceModel())
    later = [draw(_checkpoints(first)) for _ in range(draw(st.integers(1, 3)))]
    if LAST in image.body:
        later[-1] = replace(later[-1], body=(*later[-1].body, LAST))
    if unbounded:
        later[-1] = replace(later[-1], device_model=model)
    return replace(first, later=tuple(later), trailing=image.trailing)


@st.composite
def _checkpoints(draw: st.DrawFn, image: LegacyImage) -> LegacyImage:
    infos = [draw(_vcpu_infos()) for _ in range(draw(st.sampled_from((1, 1, 2))))]
    pool = draw(_pools(image))
    body: list[Piece] = [*infos, *draw(st.lists(_batches(image, pool), max_size=3))]
    body += draw(st.lists(st.builds(Tsc, st.integers(0, 2), BYTE, BYTE, BYTE), max_size=1))
    if image.guest == "hvm":
        params = st.builds(Param, st.sampled_from((-3, -8, -10, -14, -19, -20)), st.integers(0, 3))
        body += draw(st.lists(params, max_size=4))
    body += draw(st.lists(_toolstacks(), max_size=2))
    made = replace(image, body=tuple(draw(st.permutations(body))))
    if image.guest == "hvm":
        model = DeviceModel(b"QEVM\0\0\0\3" + bytes([draw(BYTE)]), draw(st.sampled_from(LENGTHS)))
        records = (context_header(), ContextRecord(2, Filled(1024, draw(BYTE))), ContextRecord(0))
        magic = draw(st.tuples(*[st.integers(0, image.p2m_size - 1)] * 3))
        return replace(made, magic=magic, context=records, device_model=image.device_model and model)
    listed = draw(st.lists(st.sampled_from(pool), max_size=2, unique=True))
    online = [piece for piece in made.body if isinstance(piece, VcpuInfo)][-1].online
    vcpus = tuple(draw(_vcpus(image, number, pool)) for number in online)
    return replace(made, unmapped=tuple(sorted(listed)), vcpus=vcpus, shared_info=page(draw(BYTE)))


LENGTHS: Final = (b"DeviceModelRecord0002", b"RemusDeviceModelState")
"""Signatures of device-model records that say how long they are."""


@st.composite
def _pools(draw: st.DrawFn, image: LegacyImage) -> list[int]:
    """Pfns that the first body is about, and others."""
    batches = [piece for piece in image.body if isinstance(piece, Batch) and len(piece.words) < 64]
    pool = {pfn for batch in batches for kind, pfn, _ in batch.entries() if kind != XTAB}
    return sorted(pool | draw(st.sets(st.integers(0, image.p2m_size - 1), min_size=1, max_size=3)))


def _vcpu_infos() -> st.SearchStrategy[VcpuInfo]:
    return st.sampled_from((VcpuInfo(), VcpuInfo((0, 1), 1), VcpuInfo((0, 65), 70)))


def _toolstacks() -> st.SearchStrategy[Toolstack]:
    entries = st.builds(Physmap, BYTE, BYTE, BYTE, st.sampled_from((None, b"vga.vram")))
    return st.lists(entries, max_size=1).map(lambda some: Toolstack(tuple(some)))


@st.composite
def _batches(draw: st.DrawFn, image: LegacyImage, pool: list[int]) -> Batch:
    kinds = [NOTAB, NOTAB, XALLOC, XTAB]
    if image.guest != "hvm":
        kinds += [1, 2, 3, PV_LAYOUTS[image.guest].levels | PINNED]
    words: list[int] = []
    pages: list[Data] = []
    for pfn in draw(st.lists(st.sampled_from(pool), min_size=1, max_size=6, unique=True)):
        kind = draw(st.sampled_from(kinds))
        words.append(word(kind, pfn))
        if kind < FIRST_WITHOUT_PAGE:
            entries = draw(st.dictionaries(st.integers(0, 511), st.sampled_from(pool).map(pte), max_size=3))
            pages.append(page(draw(BYTE) if kind == NOTAB else 0, sorted(entries.items())))
    return Batch(tuple(words), tuple(pages))


@st.composite
def _vcpus(draw: st.DrawFn, image: LegacyImage, number: int, pool: list[int]) -> Vcpu:
    """A record with the parts that the extended info announces."""
    blocks = {block.id: bytes(block.payload) for block in image.blocks or () if isinstance(block, Block)}
    return Vcpu(
        context(image.guest, top=draw(st.sampled_from(pool)), fpu=draw(BYTE)),
        extended(number, draw(BYTE)) if b"extv" in blocks else None,
        Xsave(xcr0_accum=draw(st.sampled_from((3, 1, 0)))) if any(blocks.get(b"xcnt", b"")) else None,
    )
