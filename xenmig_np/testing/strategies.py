"""Hypothesis strategies that draw legacy images: valid ones in all their variety, and damaged ones.

What a switch is left at None for is drawn; True and False force it. Everything shrinks to the plain save of a
64-bit PV guest with one vCPU and hardly a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from hypothesis import strategies as st

from xenmig_np.testing.builder import (
    PAE_EXTENDED_CR3,
    PV_LAYOUTS,
    GuestKind,
    LegacyImage,
    boundaries,
    context,
    context_header,
    extended,
)
from xenmig_np.testing.fields import (
    BROKEN,
    FIRST_WITHOUT_PAGE,
    NOTAB,
    PAGE,
    PINNED,
    XALLOC,
    XTAB,
    Data,
    Filled,
    le,
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
    Raw,
    Toolstack,
    Tsc,
    Vcpu,
    VcpuInfo,
    XlHeader,
    Xsave,
)

GUESTS: Final[tuple[GuestKind, ...]] = ("pv64", "pv32", "hvm")
WIDTHS: Final = (64, 32)
PARAM_IDS: Final = (-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20, -21)
"""Chunks that hold HVM parameters."""
U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
BYTE: Final = st.integers(0, 255)
TSCS: Final = st.builds(Tsc, st.integers(0, 3), U64, U32, U32)
LIBXL_RECORD, REMUS_RECORD = b"DeviceModelRecord0002", b"RemusDeviceModelState"
XEND_RECORD, XAPI_RECORD = b"QemuDeviceModelRecord", b"QemuDeviceModelRecord\n"
"""Signatures of device-model records; the state of xend's reaches to the end of the file."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """An image with one change, which ``change`` tells; ``image`` is as it was."""

    image: LegacyImage
    change: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the pieces of one image have to agree on."""

    guest: GuestKind
    width: int
    p2m_size: int
    consistent: bool
    detectable: bool
    pool: tuple[int, ...]
    """Pfns that batches, page tables and the unmapped list are about: few, so that they meet."""
    pillars: tuple[int, ...] = ()
    """Pfns whose pages a restored PV guest stands on: its p2m, start info and top page table."""
    frames: tuple[int, ...] = ()

    @property
    def kinds(self) -> tuple[int, ...]:
        """Page types of its kind of guest, those without a page last."""
        if self.guest == "hvm":
            return (NOTAB, NOTAB, BROKEN, XALLOC)
        levels = range(1, PV_LAYOUTS[self.guest].levels + 1)
        return (NOTAB, *levels, *(level | PINNED for level in levels), BROKEN, XALLOC)


def _rarely(one_in: int = 8) -> st.SearchStrategy[bool]:
    return st.integers(0, one_in - 1).map(lambda number: number == one_in - 1)


def _mostly(one_in: int = 8) -> st.SearchStrategy[bool]:
    return _rarely(one_in).map(lambda rare: not rare)


def _choice(
    switch: bool | None,  # noqa: FBT001 - it is one
    usual: st.SearchStrategy[bool],
) -> st.SearchStrategy[bool]:
    """What a switch says, else a draw."""
    return usual if switch is None else st.just(switch)


@st.composite
def legacy_images(  # noqa: PLR0913 - the switches
    draw: st.DrawFn,
    *,
    guests: Sequence[GuestKind] = GUESTS,
    widths: Sequence[int] = WIDTHS,
    xl: bool | None = None,
    extended_info: bool | None = None,
    verify: bool | None = None,
    unmapped: bool | None = None,
    toolstack: bool | None = None,
    param_ids: Sequence[int] = PARAM_IDS,
    device_model: bool | None = None,
    signatures: Sequence[bytes] = (LIBXL_RECORD,),
    trailing: bool | None = None,
    consistent: bool | None = None,
    detectable: bool = False,
) -> LegacyImage:
    """Valid images of one body, some dozens of pages at most.

    ``consistent``: a PV guest has vCPU 0, and its p2m frames, start info and cr3 name pages of the right type
    (legacy-stream.md 8, rows 9 and 11 to 14); what its page tables hold is not looked at. ``detectable``: as
    regular as savers write, so that width and kind of guest can be found. ``device_model`` is about HVM
    guests, ``signatures`` are the forms of its record; xend's is drawn only where nothing trails the image.
    """
    fits = [
        (guest, width)
        for guest in guests
        for width in widths
        if guest == "hvm" or extended_info is not False or PV_LAYOUTS[guest].word * 8 == width
    ]
    guest, width = draw(st.sampled_from(fits))
    steady = guest != "hvm" and draw(_choice(consistent, _mostly(4)))
    scene = draw(_scenes(guest, width, consistent=steady, detectable=detectable))
    behind = draw(_trailing()) if draw(_choice(trailing, _rarely())) else b""
    controls = draw(_controls(scene, param_ids, toolstack=toolstack, last=bool(behind)))
    if draw(_choice(verify, _rarely(3))):
        controls.append(Control(VERIFY_MODE))
    image = LegacyImage(
        guest=guest,
        width=width,
        p2m_size=scene.p2m_size,
        xl=draw(xl_headers()) if draw(_choice(xl, st.booleans())) else None,
        body=draw(_bodies(scene, controls)),
        trailing=behind,
    )
    if guest == "hvm":
        ends = [form for form in signatures if form != XEND_RECORD or not behind]
        with_record = bool(ends) and draw(_choice(device_model, _mostly(4)))
        return draw(_hvm(image, ends if with_record else []))
    info = width != PV_LAYOUTS[guest].word * 8 or draw(_choice(extended_info, _mostly()))
    listed = draw(_unmapped(scene)) if draw(_choice(unmapped, st.booleans())) else ()
    return draw(_pv(replace(image, frames=scene.frames, unmapped=listed), scene, info=info))


# ---- the guest -------------------------------------------------------------------------------------------


@st.composite
def _scenes(draw: st.DrawFn, guest: GuestKind, width: int, *, consistent: bool, detectable: bool) -> _Scene:
    sizes = [st.integers(16, 64), st.integers(16, 3000)]
    if not (consistent or detectable):
        sizes.append(st.integers(1, 15))
    if not consistent:
        sizes.append(st.just(40_000) if guest != "hvm" else st.integers(1 << 20, (1 << 20) + 3000))
    p2m_size = draw(st.one_of(sizes))
    needed = 0 if guest == "hvm" else PV_LAYOUTS[guest].frames(p2m_size)
    pillars = needed + 2 if consistent else 0
    room = max(needed, pillars)
    base = draw(st.integers(min(1, p2m_size - room), p2m_size - room))
    taken = range(base, base + pillars)
    pool = st.integers(0, p2m_size - 1).filter(lambda pfn: pfn not in taken)
    most = min(10, p2m_size - len(taken))
    return _Scene(
        guest=guest,
        width=width,
        p2m_size=p2m_size,
        consistent=consistent,
        detectable=detectable,
        pool=tuple(draw(st.lists(pool, min_size=1, max_size=most, unique=True))),
        pillars=tuple(taken),
        frames=tuple(range(base, base + needed)),
    )


# ---- pages -----------------------------------------------------------------------------------------------


def _pages(scene: _Scene, kind: int) -> st.SearchStrategy[Filled]:
    """One byte all over, or a page table whose entries name pfns of the pool."""
    if kind == NOTAB:
        return BYTE.map(page)
    names = st.builds(pte, st.sampled_from(scene.pool), st.sampled_from((0x67, 1, 1 << 63 | 0x27, 0x66, 0)))
    entries = st.dictionaries(st.integers(0, PAGE // 8 - 1), names, max_size=4)
    return entries.map(lambda some: page(0, sorted(some.items())))


def _xtab_words(scene: _Scene) -> st.SearchStrategy[int]:
    """Words whose low bits are no pfn: nothing, or a piece of a machine frame's number."""
    low = st.just(0) | st.integers(0, scene.p2m_size - 1) | st.integers(scene.p2m_size, (1 << 28) - 1)
    return low.map(lambda bits: word(XTAB, bits))


@st.composite
def _batches(draw: st.DrawFn, scene: _Scene) -> Batch:
    if draw(_rarely(16)):
        return draw(_full_batches(scene))
    repeats = not scene.detectable and draw(_rarely(16))
    pfns = draw(st.lists(st.sampled_from(scene.pool), max_size=8, unique=not repeats))
    if repeats and pfns:
        pfns.append(pfns[0])
    entries: list[tuple[int, Data | None]] = []
    for pfn in pfns:
        kind = draw(st.sampled_from(scene.kinds))
        entries.append((word(kind, pfn), draw(_pages(scene, kind)) if kind < FIRST_WITHOUT_PAGE else None))
    for dropped in draw(st.lists(_xtab_words(scene), min_size=not entries, max_size=3)):
        entries.insert(draw(st.integers(0, len(entries))), (dropped, None))
    signed = scene.width == 64 and draw(_rarely())
    return Batch(
        tuple(word(low >> 28, low & 0x0FFF_FFFF, signed=signed) for low, _ in entries),
        tuple(content for _, content in entries if content is not None),
    )


@st.composite
def _full_batches(draw: st.DrawFn, scene: _Scene) -> Batch:
    """1024 words, none with a page."""
    kinds = [XTAB, XTAB] if scene.p2m_size < 1024 or scene.pillars else [XTAB, BROKEN, XALLOC]
    kind = draw(st.sampled_from(kinds))
    first = (
        draw(st.integers(0, scene.p2m_size - 1024)) if kind != XTAB else draw(st.sampled_from((0, 1 << 20)))
    )
    step = 1 if kind != XTAB or first else 0
    return Batch(tuple(word(kind, first + step * index) for index in range(1024)))


@st.composite
def _pillar_batches(draw: st.DrawFn, scene: _Scene) -> Batch:
    *plain, top = scene.pillars
    kind = PV_LAYOUTS[scene.guest].levels | draw(st.sampled_from((PINNED, 0)))
    return Batch(
        (*(word(NOTAB, pfn) for pfn in plain), word(kind, top)),
        (*(page(draw(BYTE)) for _ in plain), draw(_pages(scene, kind))),
    )


# ---- the body --------------------------------------------------------------------------------------------


@st.composite
def _controls(
    draw: st.DrawFn, scene: _Scene, param_ids: Sequence[int], *, toolstack: bool | None, last: bool
) -> list[Piece]:
    found: list[Piece] = draw(st.lists(TSCS, max_size=2))
    found += draw(st.lists(_vcpu_infos(scene), min_size=scene.guest == "hvm", max_size=2))
    if scene.guest == "hvm" and param_ids:
        found += draw(st.lists(_params(param_ids), max_size=16))
    if draw(_choice(toolstack, st.booleans())):
        found += draw(st.lists(_toolstacks(scene), min_size=1, max_size=2))
    if last or draw(st.booleans()):
        found.append(Control(LAST_CHECKPOINT))
    return found


@st.composite
def _bodies(draw: st.DrawFn, scene: _Scene, controls: list[Piece]) -> tuple[Piece, ...]:
    """Batches and control chunks in any order."""
    batches: list[Piece] = draw(st.lists(_batches(scene), min_size=scene.detectable, max_size=4))
    if scene.pillars:
        batches.append(draw(_pillar_batches(scene)))
    body = tuple(draw(st.permutations(batches + controls)))
    if scene.guest == "hvm" and body[0] == Control(VERIFY_MODE):
        return body[1:] + body[:1]  # ones behind p2m_size are the marker of a PV image
    return body


@st.composite
def _vcpu_infos(draw: st.DrawFn, scene: _Scene) -> VcpuInfo:
    """Few vCPUs with few or many ids; now and then with bits above the highest, and with vCPU 0 offline."""
    numbers = st.one_of(st.integers(0, 3), st.integers(0, 70), st.integers(0, 4095))
    ids = set(draw(st.lists(numbers, max_size=3)))
    if scene.consistent or not draw(_rarely()):
        ids.add(0)
    highest = min(max(ids, default=0) + draw(st.integers(0, 2)), 4095)
    above = draw(st.lists(st.integers(highest + 1, highest | 63), max_size=2)) if highest % 64 < 63 else ()
    return VcpuInfo(tuple(sorted(ids.union(above))), highest)


def _params(param_ids: Sequence[int]) -> st.SearchStrategy[Param]:
    values = st.one_of(st.just(1), st.sampled_from((0, 2)), st.integers(0, 1 << 20), U64)
    return st.builds(Param, st.sampled_from(param_ids), values, st.just(0) | U32)


@st.composite
def _toolstacks(draw: st.DrawFn, scene: _Scene) -> Toolstack:
    if draw(_rarely()):
        return Toolstack(None)
    chars = st.integers(1, 255).map(lambda code: bytes([code]))
    names = st.none() | st.sampled_from((b"vga.vram", b"")) | st.lists(chars, max_size=6).map(b"".join)
    numbers = st.integers(0, 1 << 32) | U64
    slack = st.binary(min_size=4, max_size=4) if scene.width == 64 else st.just(bytes(4))
    physmaps = st.builds(Physmap, numbers, numbers, numbers, names, slack)
    most = 2 if scene.guest == "hvm" or draw(_rarely()) else 0
    return Toolstack(
        tuple(draw(st.lists(physmaps, max_size=most))),
        draw(st.binary(max_size=8)) if draw(_rarely()) else b"",
    )


# ---- PV --------------------------------------------------------------------------------------------------


@st.composite
def _unmapped(draw: st.DrawFn, scene: _Scene) -> tuple[int, ...]:
    """Pfns of the pool, others, and such as lie beyond p2m_size; at least one."""
    beyond = st.integers(scene.p2m_size, (1 << scene.width) - 1)
    others = st.integers(0, scene.p2m_size - 1).filter(lambda pfn: pfn not in scene.pillars)
    pfns = st.one_of(st.sampled_from(scene.pool), others, beyond)
    most = min(8, scene.p2m_size)
    return tuple(sorted(draw(st.lists(pfns, min_size=1, max_size=most, unique=True))))


@st.composite
def _pv(draw: st.DrawFn, image: LegacyImage, scene: _Scene, *, info: bool) -> LegacyImage:
    with_extended = info and not draw(_rarely(4))
    xcnt = draw(st.sampled_from((608, 864, 32, 0))) if info and draw(st.booleans()) else None
    infos = [piece for piece in image.body if isinstance(piece, VcpuInfo)]
    vcpus = [
        Vcpu(
            draw(_contexts(image, scene)),
            extended(number, draw(BYTE)) if with_extended else None,
            draw(_xsaves()) if xcnt else None,
        )
        for number in (infos[-1].online if infos else (0,))
    ]
    blocks = None
    if info:
        known = [Block(b"vcpu", draw(_contexts(image, scene)))]
        known += [Block(b"extv")] if with_extended else []
        known += [Block(b"xcnt", le(xcnt, 4))] if xcnt is not None else []
        blocks = tuple(draw(st.permutations(known + draw(st.lists(_unknown_blocks(), max_size=2)))))
    return replace(image, blocks=blocks, vcpus=tuple(vcpus), shared_info=page(draw(BYTE)))


def _unknown_blocks() -> st.SearchStrategy[Block]:
    names = st.binary(min_size=4, max_size=4).filter(lambda name: name not in (b"vcpu", b"extv", b"xcnt"))
    return st.builds(Block, names, st.binary(max_size=20))


@st.composite
def _contexts(draw: st.DrawFn, image: LegacyImage, scene: _Scene) -> Filled:
    if scene.consistent:
        *_, start_info, top = scene.pillars
        entries = 0
    else:
        start_info = draw(st.sampled_from(scene.pool))
        top = draw(st.sampled_from((scene.p2m_size, *_top_tables(image))))
        entries = draw(st.sampled_from((0, 512, 8192)))
    return context(
        image.guest,
        top=top,
        start_info=start_info,
        gdt_entries=entries,
        vm_assist=draw(st.sampled_from((PAE_EXTENDED_CR3, 0))),
        fpu=draw(BYTE),
    )


def _top_tables(image: LegacyImage) -> list[int]:
    """Pfns that are top page tables in the end; a cr3 naming an L2 table would make a two-level guest."""
    last: dict[int, int] = {}
    for batch in image.body:
        if isinstance(batch, Batch):
            last.update({pfn: kind for kind, pfn, _ in batch.entries() if kind != XTAB})
    levels = PV_LAYOUTS[image.guest].levels
    return [pfn for pfn, kind in last.items() if kind in (levels, levels | PINNED)]


@st.composite
def _xsaves(draw: st.DrawFn) -> Xsave:
    """Records as long as xcr0_accum needs, longer, and shorter."""
    accum = draw(st.sampled_from((3, 7, 1, 0, 2, 1 << 62 | 3, 0xE7)))
    length = draw(st.sampled_from((576, 832, 0, 640, 896, 1088, 1)))
    return Xsave(
        draw(st.sampled_from((3, 7))), draw(st.sampled_from((3, 1, 7))), accum, Filled(length, draw(BYTE))
    )


# ---- HVM -------------------------------------------------------------------------------------------------

CONTEXT_LENGTHS: Final = ((3, 8), (5, 24), (6, 1024), (7, 16), (14, 240), (16, 24 + 832), (18, 24), (20, 24))
"""Some records of an HVM context by type code; the longest form where releases differ."""


@st.composite
def _hvm(draw: st.DrawFn, image: LegacyImage, signatures: Sequence[bytes]) -> LegacyImage:
    cpus = [
        ContextRecord(2, Filled(draw(st.sampled_from((1024, 1016))), draw(BYTE)), number)
        for number in range(draw(st.integers(1, 3)))
    ]
    others = [
        ContextRecord(code, Filled(length, code))
        for code, length in sorted(draw(st.sets(st.sampled_from(CONTEXT_LENGTHS), max_size=3)))
    ]
    tail = draw(st.just(b"") | st.binary(min_size=1, max_size=7))
    states = st.binary(max_size=40).map(lambda sections: b"QEVM\0\0\0\3" + sections)
    records = st.builds(DeviceModel, states, st.sampled_from(signatures)) if signatures else st.none()
    return replace(
        image,
        magic=draw(st.tuples(*[st.integers(0, image.p2m_size - 1) | U64] * 3)),
        context=(context_header(), *cpus, *others, ContextRecord(0), Raw(tail)),
        device_model=draw(records),
    )


# ---- around the image ------------------------------------------------------------------------------------


@st.composite
def xl_headers(draw: st.DrawFn) -> XlHeader:
    """Headers of xl 4.0.1 to 4.5: text, JSON with its NUL, or no configuration; rarely more behind it."""
    name = draw(st.text("abz0-", max_size=4)).encode()
    configs = (
        (0, b'name = "%s"\n' % name),
        (1, b'{"c_info": {"name": "%s"}}\n\0' % name),
        (0, b""),
        (0, None),
    )
    flags, config = draw(st.sampled_from(configs))
    behind = draw(st.binary(min_size=1, max_size=8)) if config is not None and draw(_rarely(4)) else b""
    return XlHeader(config, behind, flags)


def _trailing() -> st.SearchStrategy[bytes]:
    """Bytes that are not taken for a device-model record."""
    shake = b"domain is yours, you are cleared to unpause\0"
    some = st.just(shake) | st.integers(1, 40).map(bytes) | st.binary(min_size=1, max_size=40)
    records = (LIBXL_RECORD, REMUS_RECORD, XEND_RECORD)
    return some.filter(lambda data: not any(data.startswith(name[: len(data)]) for name in records))


# ---- damage ----------------------------------------------------------------------------------------------

LENGTHS: Final = ("count", "length", "size", "total", "namelen", "max_vcpu_id")
"""How the names of parts end that say how much follows: ``p2m_size`` and ``config_length`` too."""
LIES: Final = (0, 1, 15, 1025, 4096, (1 << 28) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


@st.composite
def damaged_images(draw: st.DrawFn, images: st.SearchStrategy[LegacyImage] | None = None) -> Damaged:
    """A valid image cut at any byte, or with one bit flipped outside its pages, or with one length lying."""
    image = draw(legacy_images() if images is None else images)
    return draw(st.one_of(_cut(image), _flipped(image), _lying(image)))


@st.composite
def _cut(draw: st.DrawFn, image: LegacyImage) -> Damaged:
    whole = image.to_bytes()
    at = draw(st.sampled_from(boundaries(image)[:-1]) | st.integers(0, len(whole) - 1))
    return Damaged(image, f"cut at {at:#x}", whole[:at])


@st.composite
def _flipped(draw: st.DrawFn, image: LegacyImage) -> Damaged:
    part = draw(st.sampled_from([part for part in image.parts() if part.data and ".page." not in part.name]))
    bit = draw(st.integers(0, 8 * len(part.data) - 1))
    data = bytearray(part.data)
    data[bit // 8] ^= 1 << bit % 8
    return Damaged(image, f"bit {bit} of {part.name} flipped", image.damaged(part.name, bytes(data)))


@st.composite
def _lying(draw: st.DrawFn, image: LegacyImage) -> Damaged:
    parts = [part for part in image.parts() if part.data and part.name.endswith(LENGTHS)]
    part = draw(st.sampled_from(parts))
    true = int.from_bytes(part.data, "little")
    lies = {le(lie, len(part.data)) for lie in (*LIES, true - 1, true + 1)} - {part.data}
    lie = draw(st.sampled_from(sorted(lies)))
    return Damaged(image, f"{part.name} says {lie.hex()}", image.damaged(part.name, lie))
