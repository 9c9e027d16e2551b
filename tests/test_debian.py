"""For xen-4.14 we give the bytes of Debian's converter wherever it succeeds and its result is valid.

Where the two part is written down in data/divergences.toml: each row is shown here by the smallest image, and
no other difference is let pass, neither on samples nor on drawn images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import pytest
from conftest import sample as synthetic
from debian import Debian, Missing, Ran
from divergences import FORMATS, HOLE, MISREAD, ROWS, explaining
from drawn import INVALID, UNSUPPORTED, converted, drawn, images_are_long, shape
from hypothesis import HealthCheck, assume, event, given, settings
from real import ALL, VERIFY, XL_MAGIC, Sample, Stream, each, taken_apart

from xenmig_np.testing.builder import LegacyImage, small_image
from xenmig_np.testing.fields import NOTAB, XTAB, Filled, le, page, word
from xenmig_np.testing.pieces import (
    ENABLE_COMPRESSION,
    VERIFY_MODE,
    Batch,
    Block,
    Compressed,
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
)
from xenmig_np.testing.strategies import legacy_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = images_are_long

PAGE_DATA, BASIC, XSAVE, TSC_INFO, HVM_PARAMS = 1, 4, 6, 8, 10
FAILS, DIFFERENT, SAME, CONVERTED = "fails", "different", "same", "converted"
OURS: Final = [
    sample for sample in ALL if sample.carrier in ("bare", "xl") and not sample.name.startswith("cut-")
]
"""Samples of the carriers that are read, refused ones too."""


@pytest.fixture(scope="module")
def debian() -> Iterator[Debian]:
    try:
        started = Debian()
    except Missing as missing:
        pytest.skip(str(missing))
    with started:
        yield started


# ---------------------------------------------------------------------------------------- comparing


@dataclass
class Compared:
    """One image through both converters."""

    ours: bytes | str
    theirs: Ran
    valid: bool
    """Whether the libxc part of what Debian's converter wrote passes Debian's verifier."""

    @property
    def debian(self) -> str:
        if self.theirs.code:
            return FAILS
        if not self.valid:
            return INVALID
        return SAME if self.theirs.made == self.ours else DIFFERENT

    @property
    def outcome(self) -> str:
        return self.ours if isinstance(self.ours, str) else CONVERTED


def compare(debian: Debian, data: bytes, form: str, width: int, guest: str) -> Compared:
    """The xl header is taken off for Debian's converter, which cannot read it, and off what ours makes."""
    ours = converted(data, target="xen-4.14", format=form, width=width, guest=guest)
    xl = 48 + int.from_bytes(data[44:48], "little") if data.startswith(XL_MAGIC) else 0
    theirs = debian.convert(data[xl:], width, guest, form)
    valid = theirs.code == 0 and debian.verify(_libxc(theirs.made)).code == 0
    if isinstance(ours, bytes):
        ours = ours[xl:]
        checked = debian.verify(_libxc(ours))
        assert checked.code == 0, checked.said
    return Compared(ours, theirs, valid)


def _libxc(stream: bytes) -> bytes:
    """Without what the libxl layer puts before it; the verifier stops at its END record."""
    return stream[24:] if stream.startswith(b"LibxlFmt") else stream


# ---------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("sample", each(OURS))
def test_samples(sample: Sample, form: str, debian: Debian) -> None:
    """Each is the same, or refused by both, or listed with the row that explains it."""
    found = compare(debian, sample.unpacked(), form, sample.width, sample.kind)
    rows = {row.row for row in ROWS.values() if sample.name in row.samples and form in row.formats}
    if rows:
        assert {(ROWS[row].debian, ROWS[row].ours) for row in rows} == {(found.debian, found.outcome)}
    elif sample.covered:
        assert (found.debian, found.outcome) == (SAME, CONVERTED)
    else:
        assert (found.debian, found.outcome) == (FAILS, UNSUPPORTED)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("width", [64, 32])
@pytest.mark.parametrize("guest", ["hvm", "pv64", "pv32"])
def test_synthetic_samples(guest: str, width: int, form: str, debian: Debian) -> None:
    for live in (False, True):
        data = synthetic(guest, width, live=live, xl=live)
        found = compare(debian, data, form, width, guest[:2] if guest != "hvm" else guest)
        gave_back = live and guest != "hvm"  # D22
        assert (found.debian, found.outcome) == (DIFFERENT if gave_back else SAME, CONVERTED)


# ---------------------------------------------------------------------------------------- rows


HVM, PV64 = small_image("hvm"), small_image("pv64")


def with_pieces(image: LegacyImage, *pieces: Piece) -> LegacyImage:
    return replace(image, body=(*pieces, *image.body))


def without(image: LegacyImage, *kinds: type[Piece]) -> LegacyImage:
    return replace(image, body=tuple(piece for piece in image.body if not isinstance(piece, kinds)))


def physmap(name: bytes | None) -> LegacyImage:
    return with_pieces(HVM, Toolstack((Physmap(0x1000, 0xF000_0000, 0x1000, name),)))


def one_vcpu(xsave: Xsave, announced: int) -> LegacyImage:
    """A PV image whose extended info announces xsave records of so many bytes, head included."""
    (vcpu,) = PV64.vcpus
    assert isinstance(vcpu, Vcpu)
    blocks = (*(PV64.blocks or ())[:2], Block(b"xcnt", le(announced, 4)))
    return replace(PV64, blocks=blocks, vcpus=(replace(vcpu, xsave=xsave),))


def two_levels() -> LegacyImage:
    """A 32-bit guest whose top page table is an L2 table, and no L3 table."""
    image = small_image("pv32")
    batches = [piece for piece in image.body if isinstance(piece, Batch)]
    (batch,) = batches
    words_ = tuple(word(0xA, value & 0xFFF) if value >> 28 == 0xB else value for value in batch.words)
    body = tuple(replace(batch, words=words_) if piece == batch else piece for piece in image.body)
    return replace(image, body=body)


def twice(image: LegacyImage, *, compressed: bool = False) -> LegacyImage:
    """The body and the tail a second time, as a checkpoint."""
    first = without(image, Control)
    if not compressed:
        return replace(first, later=(first,))
    sent = [piece for piece in first.body if isinstance(piece, Batch)]
    pages = b"".join(b"\x80" + bytes(data) for batch in sent for data in batch.pages)
    heads = tuple(replace(batch, pages=()) for batch in sent)
    later = replace(first, body=(*heads, Compressed(pages), VcpuInfo()))
    return replace(first, body=(*first.body, Control(ENABLE_COMPRESSION)), later=(later,))


SMALLEST: Final[dict[str, Callable[[], LegacyImage]]] = {
    "D1": lambda: with_pieces(HVM, Batch((HOLE, HOLE))),
    "D2": lambda: physmap(None),
    "D3": lambda: without(PV64, VcpuInfo),
    "D4": lambda: one_vcpu(Xsave(), 16 + 16 + 832),
    "D5": lambda: with_pieces(HVM, Batch((1 << 32 | 5,), (page(),))),
    "D5 sign": lambda: with_pieces(HVM, Batch((word(NOTAB, 5), word(XTAB, 0, signed=True)), (page(),))),
    "D6": lambda: with_pieces(HVM, Batch((word(5, 5),), (page(),))),
    "D8": lambda: with_pieces(PV64, VcpuInfo()),
    "D9": lambda: replace(without(PV64, VcpuInfo), body=(*PV64.body[:-1], VcpuInfo((0, 5), 0))),
    "D10": lambda: with_pieces(without(PV64, VcpuInfo), VcpuInfo((), -1)),
    "D11": lambda: replace(PV64, blocks=((PV64.blocks or ())[0], *(PV64.blocks or ()))),
    "D12": lambda: replace(HVM, p2m_size=(1 << 28) + 1),
    "D13": lambda: physmap(b"vga\0vram"),
    "D16": lambda: with_pieces(HVM, Control(VERIFY_MODE)),
    "D17": lambda: with_pieces(HVM, Batch((word(NOTAB, 5), HOLE | 6), (page(),))),
    "D18": lambda: with_pieces(without(HVM, Param), Param(-10, 2)),
    "D19": lambda: with_pieces(HVM, Param(-19, 0x1F)),
    "D20": lambda: with_pieces(HVM, Param(-21, 4)),
    "D21": lambda: with_pieces(HVM, Batch((word(NOTAB, 5),) * 2, (page(), page()))),
    "D22": lambda: replace(with_pieces(PV64, Batch((word(NOTAB, 9),), (page(),))), unmapped=(9,)),
    "D24": lambda: with_pieces(HVM, Param(-8, 0)),
    "D25": lambda: one_vcpu(Xsave(area=Filled(832)), 16 + 16 + 832),
    "D26": lambda: replace(PV64, blocks=(Block(b"what", b"ever"), *(PV64.blocks or ()))),
    "D27": lambda: replace(HVM, context=()),
    "D7": lambda: replace(HVM, device_model=DeviceModel(signature=b"RemusDeviceModelState")),
    "D28": lambda: twice(PV64),
    "D28 -12": lambda: twice(PV64, compressed=True),
    "D29": two_levels,
    "D30": lambda: replace(without(PV64, Tsc), blocks=None, vcpus=(Vcpu(Filled(5168)),)),
    "D31": lambda: with_pieces(HVM, Batch((word(NOTAB, HVM.p2m_size),), (page(),))),
    "19.9": lambda: replace(HVM, device_model=None),
    "D-12": lambda: physmap(b"\xff\xfe"),
}


def more(kind: int, some: Stream, other: Stream) -> list[bytes]:
    """Bodies of the libxc records of that type that only the first stream has."""
    return [body for body in some.of(kind) if body not in other.of(kind)]


def sent(stream: Stream) -> set[tuple[int, int]]:
    """Types and pfns."""
    return {(kind, pfn) for _, kind, pfn, _ in stream.words()}


SHOWN: Final[dict[str, Callable[[Stream, Stream], bool]]] = {
    "D3": lambda ours, theirs: len(ours.of(BASIC)) == 1 and not theirs.of(BASIC),
    "D5 sign": lambda ours, theirs: sent(theirs) - sent(ours) == {(XTAB, 0)},
    "D16": lambda ours, theirs: ours.kinds - theirs.kinds == {VERIFY: 1},
    "D17": lambda ours, theirs: sent(theirs) - sent(ours) == {(XTAB, 6)},
    "D18": lambda ours, theirs: theirs.kinds - ours.kinds == {HVM_PARAMS: 1},
    "D19": lambda ours, theirs: more(HVM_PARAMS, theirs, ours)[0][8:16] == le(32, 8),
    "D22": lambda ours, theirs: sent(theirs) - sent(ours) == {(NOTAB, 9)},
    "D28": lambda ours, theirs: ours.kinds - theirs.kinds == {PAGE_DATA: 1, TSC_INFO: 1},
    "D24": lambda ours, theirs: more(HVM_PARAMS, theirs, ours)[0][8:24] == le(17, 8) + le(0, 8),
    "D25": lambda ours, theirs: [len(s.of(XSAVE)[0]) - 8 for s in (ours, theirs)] == [592, 848],
}
"""Of the rows by which both convert: what the difference is."""


def test_every_row_is_shown() -> None:
    assert SMALLEST.keys() | {"D-02"} == ROWS.keys()
    both = {row.row for row in ROWS.values() if (row.debian, row.ours) == (DIFFERENT, CONVERTED)}
    assert SHOWN.keys() == both


@pytest.mark.parametrize(("row", "form"), [(row, form) for row in SMALLEST for form in ROWS[row].formats])
def test_row(row: str, form: str, debian: Debian) -> None:
    image = SMALLEST[row]()
    found = compare(debian, image.to_bytes(), form, 64, "hvm" if image.guest == "hvm" else "pv")
    assert (found.debian, found.outcome) == (ROWS[row].debian, ROWS[row].ours), found.theirs.said
    if row in SHOWN:
        assert isinstance(found.ours, bytes)
        assert SHOWN[row](taken_apart(found.ours), taken_apart(found.theirs.made))


def test_row_xl(debian: Debian) -> None:
    image = replace(HVM, xl=XlHeader())
    found = debian.convert(image.to_bytes(), 64, "hvm", "libxl", "-x")
    assert "No xl header" in found.said
    assert (FAILS if found.code else CONVERTED, found.made) == (ROWS["D-02"].debian, b"")
    assert isinstance(converted(image.to_bytes(), target="xen-4.14"), bytes)


# ---------------------------------------------------------------------------------------- drawn images


def check(debian: Debian, image: LegacyImage) -> None:
    for form in FORMATS:
        rows = explaining(image, form)
        found = compare(debian, image.to_bytes(), form, **shape(image))
        event(f"{form} {found.debian}" + (", explained" if rows else ""))
        if image.guest == "hvm" and image.device_model is None and form == "libxl":
            assert (found.debian, found.outcome) == (FAILS, INVALID)
        elif image.guest != "hvm" and image.blocks is None:  # D30
            assert (found.debian, found.outcome) == (FAILS, CONVERTED)
        else:
            assert found.outcome == CONVERTED
            assert rows & MISREAD or found.debian in {SAME, *(ROWS[row].debian for row in rows)}


@drawn(50)
@given(image=legacy_images())
def test_drawn_images(debian: Debian, image: LegacyImage) -> None:
    """A difference has a row that says that this happens."""
    check(debian, image)


@settings(drawn(50), suppress_health_check=list(HealthCheck))
@given(image=legacy_images(extended_info=True, verify=False, param_ids=(-3, -4, -8, -14), device_model=True))
def test_drawn_images_without_oddities(debian: Debian, image: LegacyImage) -> None:
    """Where no row applies there is no difference."""
    assume(not explaining(image, "libxl"))
    check(debian, image)
