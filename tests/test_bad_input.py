"""Images that are broken, cut or lie: one located error, its exit code, no output, bounded memory."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ENVIRONMENT, KINDS, PATIENCE, converted, every_kind, open_file, piped, sample, xenmig
from plain.goldens import INPUTS

import xenmig_np
from xenmig_np.cli.app import app
from xenmig_np.errors import (
    ExitCode,
    InvalidImage,
    NotRecognised,
    TruncatedImage,
    XenmigError,
)
from xenmig_np.testing import fields, pieces
from xenmig_np.testing.builder import boundaries, small_image
from xenmig_np.testing.fields import BROKEN, NOTAB, XALLOC, XTAB, le, page, word
from xenmig_np.testing.pieces import Batch, Block, Control, DeviceModel, Param, Physmap, Toolstack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xenmig_np.testing.builder import LegacyImage

HVM, PV = small_image("hvm"), small_image("pv64")
PV32 = small_image("pv32", 32)


def small(guest: str, width: int) -> LegacyImage:
    return small_image(guest, width)  # type: ignore[arg-type]


def with_body(image: LegacyImage, *more: pieces.Piece, at: int = 2) -> LegacyImage:
    """Other pieces in the body, behind the first batch unless said otherwise."""
    return replace(image, body=(*image.body[:at], *more, *image.body[at:]))


def with_blocks(*blocks: Block, total: int | None = None) -> LegacyImage:
    return replace(PV, blocks=blocks, blocks_total=total)


# ---- cut at every boundary -------------------------------------------------------------------------------


def cuts(image: LegacyImage) -> list[int]:
    """Lengths at each boundary of the image's parts, and one byte around it."""
    size = len(image.to_bytes())
    return sorted({at + by for at in boundaries(image) for by in (-1, 0, 1) if 0 <= at + by < size})


def complete_without_record(image: LegacyImage) -> int | None:
    """Where a HVM image ends that has no device-model record."""
    return image.part("device_model.signature").offset if image.guest == "hvm" else None


def check_cut(error: InvalidImage, path: str, cut: int) -> None:
    """It says where the input ends and what should have followed."""
    assert (error.path, error.exit_code) == (path, ExitCode.INVALID)
    assert error.item
    assert error.offset is not None
    assert 0 <= error.offset <= cut
    short = isinstance(error, NotRecognised) and cut < error.offset + 16
    assert isinstance(error, TruncatedImage) or short
    assert error.found
    assert error.expected
    if isinstance(error, TruncatedImage) and error.item != "beginning":
        assert f"found the end of the input after {cut - error.offset:,} bytes" in str(error)


CARRIED = [(guest, width, xl) for guest, width in KINDS for xl in (False, True) if width == 64 or not xl]


@pytest.mark.parametrize(("guest", "width", "xl"), CARRIED)
def test_cut_file(guest: str, width: int, xl: bool, tmp_path: Path) -> None:  # noqa: FBT001
    image = replace(small(guest, width), xl=pieces.XlHeader() if xl else None)
    data = image.to_bytes()
    (tmp_path / "out").mkdir()
    old, new = tmp_path / "old", tmp_path / "out" / "new"
    for cut in reversed(cuts(image)):
        old.write_bytes(data[:cut])
        if cut == complete_without_record(image) and not xl:
            xenmig_np.convert(old, str(new))
            assert new.read_bytes() == converted(data[:cut], format="libxc")
            new.unlink()
            continue
        with pytest.raises(InvalidImage) as caught:
            xenmig_np.convert(old, str(new))
        if cut == complete_without_record(image):
            assert caught.value.item == "device-model record"
        else:
            check_cut(caught.value, str(old), cut)
        assert os.listdir(tmp_path / "out") == []


@every_kind
def test_cut_pipe(guest: str, width: int, tmp_path: Path) -> None:
    image = small(guest, width)
    data = image.to_bytes()
    for cut in cuts(image):
        with piped(data[:cut]) as fd, pytest.raises(InvalidImage) as caught:
            xenmig_np.convert(fd, str(tmp_path / "new"))
        if cut == complete_without_record(image):
            assert caught.value.item == "device-model record"
        else:
            check_cut(caught.value, f"descriptor {fd}", cut)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("cut", range(1, 60))
def test_hardly_anything(cut: int) -> None:
    for data in (HVM.to_bytes(), PV32.to_bytes(), replace(PV, xl=pieces.XlHeader()).to_bytes()):
        with open_file(data[:cut]) as fd, pytest.raises(InvalidImage):
            xenmig_np.info(fd)


# ---- named cases -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A broken image and what has to be said of it."""

    name: str
    data: bytes
    item: str
    offset: int
    found: str
    expected: str
    options: tuple[str, ...] = ()


def damaged(name: str, image: LegacyImage, part: str, data: bytes, *told: str) -> Case:
    """A case whose error is at the part that is damaged; ``told`` are item, found, expected."""
    item, found, expected = told
    return Case(name, image.damaged(part, data), item, image.part(part).offset, found, expected)


def built(name: str, image: LegacyImage, part: str, *told: str) -> Case:
    """A case whose error is at a part of an image that was built broken."""
    item, found, expected = told
    return Case(name, image.to_bytes(), item, image.part(part).offset, found, expected)


def words_of(image: LegacyImage, batch: int, *words: int, pages: int = 0) -> LegacyImage:
    return replace(
        image,
        body=(*image.body[:batch], Batch(words, (page(1),) * pages), *image.body[batch + 1 :]),
    )


def batches() -> Iterator[Case]:
    item, upper = "page batch 0", "an upper half of 0 (or of ones over bit 31) (D5)"
    legal = "a page type other than 5 to 8 (D6)"
    below = "a pfn below p2m_size 0x20 (D31)"
    for image in (HVM, PV):
        many = replace(image, body=(image.body[0], Batch((word(NOTAB, 1),) * 1025)))
        yield built(
            f"{image.guest}: 1025 entries", many, "body.1.count", item, "1,025 entries", "at most 1,024"
        )
        for kind in (5, 6, 7, 8):
            broken = words_of(image, 1, word(NOTAB, 1), word(kind, 2), pages=2)
            found = f"{word(kind, 2):#x}"
            yield built(
                f"{image.guest}: type {kind}", broken, "body.1.word.1", f"{item}, entry 1", found, legal
            )
        for value in (1 << 32 | 3, 0xFFFF_FFFF << 32 | 3, 0x7FFF_FFFF << 32 | word(XTAB, 0)):
            broken = words_of(image, 1, word(NOTAB, 1), word(NOTAB, 2), value, pages=3)
            found = f"{value:#x}"
            yield built(
                f"{image.guest}: upper {found}", broken, "body.1.word.2", f"{item}, entry 2", found, upper
            )
        for kind in (NOTAB, BROKEN, XALLOC):
            for pfn in (32, 0x0FFF_FFFF):
                broken = words_of(image, 1, word(kind, pfn), pages=1)
                found = f"{word(kind, pfn):#x}"
                yield built(
                    f"{image.guest}: {found} beyond",
                    broken,
                    "body.1.word.0",
                    f"{item}, entry 0",
                    found,
                    below,
                )
    damage = words_of(PV32, 1, word(NOTAB, 33), pages=1)
    yield built("pv32: beyond", damage, "body.1.word.0", f"{item}, entry 0", "0x21", below)


def chunks() -> Iterator[Case]:
    for number in (-22, -1000, -(1 << 31), 1025, (1 << 31) - 1):
        broken = with_body(HVM, Control(number))
        if number < 0:
            item, found, expected = "chunk", f"the unknown id {number}", "-21 to 1,024"
        else:
            item, found, expected = "page batch 1", f"{number:,} entries", "at most 1,024"
        yield built(f"chunk {number}", broken, "body.2.id", item, found, expected)
    for highest in (4096, -1, (1 << 31) - 1):
        data = HVM.damaged("body.2.max_vcpu_id", le(highest, 4))
        offset = HVM.part("body.2.id").offset
        found = f"highest vCPU id {highest}"
        yield Case(f"vCPU {highest}", data, "chunk -2 (vcpu_info)", offset, found, "0 to 4,095 (D10)")
    item = "chunk -18 (toolstack)"
    long = with_body(HVM, Toolstack(length=(1 << 20) + 1))
    yield built("toolstack too long", long, "body.2.id", item, "1,048,577 bytes", "at most 1,048,576")
    long = replace(HVM, body=(Toolstack(length=1 << 20),))
    at = long.part("body.0.length").offset + 4
    left = len(long.to_bytes()) - at
    found = f"the end of the input after {left:,} bytes"
    yield Case("toolstack beyond the end", long.to_bytes(), item, at, found, "1,048,576 bytes")
    for number, name in (
        (-3, "hvm_ident_pt"),
        (-14, "hvm_generation_id_addr"),
        (-19, "hvm_ioreq_server_pfn"),
    ):
        broken = with_body(PV, Param(number, 5))
        item = f"chunk {number} ({name})"
        yield built(
            f"PV with {number}", broken, "body.2.id", item, "it in a PV image", "it in HVM images only"
        )


def extended_info() -> Iterator[Case]:
    item = "extended info"
    vcpu = Block(b"vcpu", fields.Filled(5168))
    over = with_blocks(vcpu, Block(b"extv"), total=5176 + 7)
    yield built("7 bytes left", over, "blocks.1.id", item, "7 bytes left", "the 8-byte head of a block")
    over = with_blocks(vcpu, Block(b"xcnt", le(608, 4), 5000))
    place = f"{item}, block 'xcnt'"
    yield built("block overshoots", over, "blocks.1.id", place, "5,000 bytes", "at most the 4 left")
    long = with_blocks(vcpu, total=65537)
    yield built("total too long", long, "blocks.total", item, "65,537 bytes", "at most 65,536")
    for size in (0, 2799, 2801, 5167, 5169):
        broken = with_blocks(Block(b"vcpu", fields.Filled(size)), Block(b"extv"))
        expected = "2,800 or 5,168 (a vCPU context)"
        place = f"{item}, block 'vcpu'"
        yield built(f"context of {size}", broken, "blocks.0.id", place, f"{size:,} bytes", expected)
    yield built("no context", with_blocks(Block(b"extv")), "blocks.marker", item, "0 blocks 'vcpu'", "one")
    yield built("two contexts", with_blocks(vcpu, vcpu), "blocks.marker", item, "2 blocks 'vcpu'", "one")
    broken = with_blocks(vcpu, Block(b"extv", bytes(4)))
    yield built("extv of 4", broken, "blocks.1.id", f"{item}, block 'extv'", "4 bytes", "0")
    broken = with_blocks(vcpu, Block(b"xcnt", bytes(8)))
    yield built("xcnt of 8", broken, "blocks.1.id", f"{item}, block 'xcnt'", "8 bytes", "4")
    for value in (1, 15, 65537):
        broken = with_blocks(vcpu, Block(b"xcnt", le(value, 4)))
        place = f"{item}, block 'xcnt'"
        yield built(f"xcnt {value}", broken, "blocks.1.id", place, f"{value:,}", "0 or 16 to 65,536")


def tails() -> Iterator[Case]:
    count = "unmapped.count"
    item = "list of unmapped pfns"
    yield damaged("33 unmapped", PV, count, le(33, 4), item, "33 entries", "at most p2m_size 32")
    yield damaged(
        "2**32 - 1 unmapped", PV, count, le(-1, 4), item, "4,294,967,295 entries", "at most p2m_size 32"
    )
    for size in (0, 15, 65537, 1 << 63):
        found = f"{size:,} bytes"
        offset = PV.part("vcpu.0.xsave.mask").offset
        data = PV.damaged("vcpu.0.xsave.size", le(size, 8))
        yield Case(f"xsave of {size}", data, "vCPU 0, xsave", offset, found, "16 to 65,536")
    at = PV.part("vcpu.0.xsave.xcr0").offset
    left = len(PV.to_bytes()) - at
    data = PV.damaged("vcpu.0.xsave.size", le(65536, 8))
    found = f"the end of the input after {left:,} bytes"
    yield Case("xsave beyond the end", data, "vCPU 0, xsave", at, found, "65,536 bytes")
    expected = "1 to 16,777,216 (D27)"
    item, length = "HVM context", "context.length"
    yield damaged("no context at all", HVM, length, le(0, 4), item, "0 bytes", expected)
    yield damaged("context too long", HVM, length, le((1 << 24) + 1, 4), item, "16,777,217 bytes", expected)
    at = HVM.part(length).offset + 4
    found = f"the end of the input after {len(HVM.to_bytes()) - at:,} bytes"
    yield Case(
        "context beyond the end", HVM.damaged(length, le(1 << 24, 4)), item, at, found, "16,777,216 bytes"
    )


def device_models() -> Iterator[Case]:
    item = "device-model record"
    for size in ((1 << 28) + 1, (1 << 32) - 1):
        broken = replace(HVM, device_model=DeviceModel(length=size))
        found, expected = f"{size:,} bytes", "at most 268,435,456"
        yield built(f"device model of {size}", broken, "device_model.signature", item, found, expected)
    broken = replace(HVM, device_model=DeviceModel(length=11))
    found = "the end of the input after 10 bytes"
    yield built("device model beyond the end", broken, "device_model.state", item, found, "11 bytes")
    other = replace(HVM, device_model=DeviceModel(signature=b"DeviceModelRecord0003"), xl=pieces.XlHeader())
    expected = "one: libxl format needs it for an HVM guest (19.9)"
    yield built("another signature", other, "device_model.signature", item, "none", expected)


def toolstacks() -> Iterator[Case]:
    item = "toolstack data"

    def with_entry(**changes: Any) -> LegacyImage:
        entry = replace(Physmap(1, 2, 3, b"vga"), **changes)
        return with_body(HVM, Toolstack((entry,)))

    broken = with_body(HVM, Toolstack(version=2))
    yield built("version 2", broken, "body.2.version", item, "version 2", "version 1")
    broken = with_body(HVM, Toolstack(None, behind=b"1234567"))
    yield built("7 bytes", broken, "body.2.behind", item, "7 bytes", "at least 8")
    broken = with_body(HVM, Toolstack(count=1))
    yield built("count 1 of 0", broken, "body.2.behind", item, "0 bytes left", "entry 0 of 1")
    place = "body.2.physmap.0.phys_offset"
    found = "a name of 400 bytes in entry 0"
    yield built("long name", with_entry(namelen=400), place, item, found, "at most the 8 left")
    place = "body.2.physmap.0.name"
    for name, length in ((b"vg\0a", 5), (b"vga", 3)):
        found = f"the name {(name + bytes(1))[:length]!r} in entry 0"
        broken = with_entry(name=name, namelen=length)
        yield built(f"name {name!r}", broken, place, item, found, "one NUL, at its end")


def beginnings() -> Iterator[Case]:
    item, expected = "beginning", "a Xen image"
    for name, data in (
        ("p2m_size of 2**28 + 1", HVM.damaged("p2m_size", le((1 << 28) + 1, 8))),
        ("text", b"This is a file of text, not an image of a guest.\n" * 99),
    ):
        yield Case(name, data, item, 0, data[:16].hex(" "), expected)
    yield Case("nothing", b"", item, 0, "an empty file", expected)
    yield Case("zeros", bytes(8192), item, 0, "4,096 bytes of 00", expected)
    yield Case("ones", b"\xff" * 99, item, 0, "99 bytes of ff", expected)
    data = HVM.damaged("p2m_size", le(0, 8))
    options = ("--width", "64", "--guest", "hvm")
    yield Case("p2m_size of 0", data, "p2m_size", 0, "0", "1 to 268,435,456", options)
    image = replace(HVM, xl=pieces.XlHeader(byteorder=0x01020305))
    yield built("xl byte order", image, "xl.byteorder", "xl header", "byte order 0x1020305", "0x1020304")
    image = replace(HVM, xl=pieces.XlHeader(optional_data_length=(1 << 24) + 1))
    found = "16,777,217 bytes before the stream"
    yield built("xl data too long", image, "xl.optional_data_length", "xl header", found, "0 to 16,777,216")
    image = replace(HVM, xl=pieces.XlHeader(config_length=16))
    place, found, expected = "xl header, configuration", "16 bytes", "at most the 15 of the optional data"
    yield built("xl config too long", image, "xl.config_length", place, found, expected)
    image = replace(HVM, xl=pieces.XlHeader(optional_data_length=1 << 24))
    at = image.part("xl.config_length").offset
    found = f"the end of the input after {len(image.to_bytes()) - at:,} bytes"
    place = "xl header, optional data"
    yield Case("xl data beyond the end", image.to_bytes(), place, at, found, "16,777,216 bytes")


CASES = [
    case
    for group in (batches, chunks, extended_info, tails, device_models, toolstacks, beginnings)
    for case in group()
]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, list[str]]]]:
    """The command within this process: exit code, stdout, lines of stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as left:
            app([str(argument) for argument in arguments], prog_name="xenmig-np")
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err.splitlines()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_case(
    case: Case, put: Callable[..., Path], tmp_path: Path, command: Callable[..., tuple[int, str, list[str]]]
) -> None:
    old = put(case.data)
    code, out, lines = command("convert", old, tmp_path / "new", *case.options)
    facts = f"{case.item} at {case.offset:#x}: found {case.found}, expected {case.expected}"
    assert lines[0] == f"error: {old}: {facts}"
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
    assert (code, out, os.listdir(tmp_path)) == (1, "", ["old"])


@pytest.mark.parametrize("case", [case for case in CASES if case.data], ids=lambda case: case.name)
def test_named_case_on_a_pipe(case: Case, tmp_path: Path) -> None:
    """The same error where pages go out as they come; nothing is left of them."""
    options = dict(zip((name[2:] for name in case.options[::2]), case.options[1::2], strict=True))
    values: dict[str, Any] = options | ({"width": int(options["width"])} if options else {})
    with piped(case.data) as fd, pytest.raises(InvalidImage) as caught:
        xenmig_np.convert(fd, str(tmp_path / "new"), **values)
    error = caught.value
    assert (error.path, error.item, error.offset) == (f"descriptor {fd}", case.item, case.offset)
    if not case.name.startswith(("zeros", "text")):  # a pipe is not read as far ahead
        assert (error.found, error.expected) == (case.found, case.expected)
    assert os.listdir(tmp_path) == []


def test_named_case_as_a_process(put: Callable[..., Path], tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "hvm: type 7")
    ran = xenmig("convert", put(case.data), tmp_path / "new", "--json")
    error = ran.report["error"]
    assert (ran.code, error["exit_code"], error["class"]) == (1, 1, "InvalidImage")
    assert (error["item"], error["offset"]) == (case.item, case.offset)
    assert (error["found"], error["expected"]) == (case.found, case.expected)


# ---- recognised and refused ------------------------------------------------------------------------------

REFUSED = {
    "tmem": (with_body(HVM, pieces.Tmem(), at=1), "body.1.id", "chunk -5 (tmem)", "tmem"),
    "tmem_extra": (with_body(PV, pieces.TmemExtra()), "body.2.id", "chunk -6 (tmem_extra)", "tmem"),
    "big-endian": (
        replace(HVM, xl=pieces.XlHeader(byteorder=0x04030201)),
        "xl.byteorder",
        "xl header",
        "big-endian host",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(
    name: str, put: Callable[..., Path], tmp_path: Path, command: Callable[..., tuple[int, str, list[str]]]
) -> None:
    image, part, item, reason = REFUSED[name]
    old = put(image.to_bytes())
    code, out, lines = command("convert", old, tmp_path / "new")
    place = f"{item} at {image.part(part).offset:#x}"
    assert (code, out, os.listdir(tmp_path)) == (3, "", ["old"])
    assert lines[0].startswith(f"error: {old}: {place}: not supported: ")
    assert reason in lines[0]


@pytest.mark.parametrize("number", [-19, -20, -21])
def test_parameters_that_the_draft_has_not(
    number: int, put: Callable[..., Path], tmp_path: Path, command: Callable[..., tuple[int, str, list[str]]]
) -> None:
    image = with_body(HVM, Param(-19, 5), Param(-20, 2)) if number > -21 else with_body(HVM, Param(-21, 4))
    if number == -20:
        image = with_body(HVM, Param(-20, 2))
    old = put(image.to_bytes())
    code, _, lines = command("convert", old, tmp_path / "new", "--target", "draft-v7")
    assert (code, os.listdir(tmp_path)) == (3, ["old"])
    assert f"chunk {number} (" in lines[0]
    assert f"at {image.part('body.2.id').offset:#x}: not supported: target draft-v7 has no" in lines[0]
    assert lines[1] == "hint: give another --target"
    assert command("convert", old, tmp_path / "new")[0] == 0


# ---- odd, and converted all the same ---------------------------------------------------------------------


def rules(image: LegacyImage) -> list[tuple[str, int | None]]:
    with open_file(image.to_bytes()) as fd:
        return [(note.rule, note.offset) for note in xenmig_np.convert(fd, "/dev/null").warnings]


@pytest.mark.parametrize("image", [HVM, PV], ids=["hvm", "pv"])
def test_equal_words_are_kept_with_a_warning(image: LegacyImage) -> None:
    twice = with_body(
        image, Batch((word(NOTAB, 9), word(NOTAB, 8), word(NOTAB, 9)), (page(1), page(2), page(3)))
    )
    assert rules(twice) == [("D21", twice.part("body.2.count").offset)]
    with open_file(twice.to_bytes()) as fd:
        made = xenmig_np.convert(fd, "/dev/null")
    assert made.words["NOTAB"] == made.input.page_types["NOTAB"] == (7 if image is HVM else 5)
    assert converted(twice.to_bytes()).count(bytes(page(1))) == 1
    assert converted(twice.to_bytes()).count(bytes(page(3))) == 1


def test_repeated_words_without_a_page_are_not_remarked() -> None:
    twice = with_body(HVM, Batch((word(XTAB, 0), word(XTAB, 0), word(NOTAB, 9)), (page(1),)))
    assert rules(twice) == []


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (with_body(HVM, Param(-10, 2)), [("D18", "body.2.id")]),
        (with_body(HVM, Param(-19, 5)), [("D19", "body.2.id")]),
        (with_body(HVM, Param(-15, 0)), [("D24", "body.2.id")]),
        (with_body(HVM, pieces.Tsc(3)), [("19.5", "body.2.id")]),
        (with_body(HVM, pieces.VcpuInfo((0, 3), 2), at=3), [("D9", "body.3.id")]),
        (replace(HVM, trailing=b"more"), [("trailing", "trailing")]),
        (replace(PV, blocks=(*(PV.blocks or ()), Block(b"what"))), [("D26", "blocks.3.id")]),
        (replace(PV, unmapped=(20, 99)), [("legacy 7.1", "unmapped.count")]),
    ],
)
def test_oddities_are_told(image: LegacyImage, expected: list[tuple[str, str]]) -> None:
    assert rules(image) == [(rule, image.part(part).offset) for rule, part in expected]


# ---- flipped bits ----------------------------------------------------------------------------------------

OF_THE_INPUT = {ExitCode.INVALID, ExitCode.UNSUPPORTED, ExitCode.USAGE}
TINY = replace(HVM, context=(HVM.context[0], pieces.ContextRecord(2, bytes(8)), pieces.ContextRecord(0)))
"""A HVM image of few bytes that are not pages."""
OPAQUE = ("context", "payload", "extended", "area", "shared_info")


def flips(image: LegacyImage) -> Iterator[tuple[str, int, int]]:
    """Part, offset and bit of every bit outside of pages; of long opaque parts one bit in 31."""
    for part in image.parts():
        name = part.name.rpartition(".")[2]
        if ".page." in part.name:
            continue
        step = 31 if name in OPAQUE and len(part.data) > 64 else 1
        bits = range(0, 8 * len(part.data), step)
        yield from ((part.name, part.offset + number // 8, number % 8) for number in bits)


def outcome(act: Callable[[], object]) -> XenmigError | None:
    """The error of ours that it raises, if any."""
    try:
        act()
    except XenmigError as error:
        return error
    return None


def planned(fd: int) -> None:
    with xenmig_np.plan(fd) as made:
        assert made.size > 0


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("image", [TINY, PV32], ids=["hvm", "pv32"])
def test_flipped_bits(image: LegacyImage, quarter: int) -> None:
    """Each either converts or raises one of our errors, in its time."""
    data = image.to_bytes()
    outcomes = {True: 0, False: 0}
    with open_file(data) as fd:
        for part, at, bit in itertools.islice(flips(image), quarter, None, 4):
            os.pwrite(fd, bytes([data[at] ^ 1 << bit]), at)
            began = time.monotonic()
            error = outcome(functools.partial(planned, fd))
            assert time.monotonic() - began < 10, part
            os.pwrite(fd, data[at : at + 1], at)
            outcomes[error is None] += 1
            if error:
                assert error.exit_code in OF_THE_INPUT, part
                assert error.path
                assert error.offset is not None, (part, str(error))
    assert min(outcomes.values()) > 20


# ---- lying lengths, bounded memory -----------------------------------------------------------------------

MEMORY = 2 << 30
LIMITED = """
import atexit, re, resource

def tell():
    with open("/proc/self/status") as status, open({peak!r}, "w") as file:
        file.write(re.search("VmHWM:\\s*(\\d+)", status.read())[1])

atexit.register(tell)
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
from xenmig_np.__main__ import main
main()
"""
"""The kernel's figure of a child counts the process that it came from too, so this one tells its own."""
HUGE = 1 << 28


def limited(data: bytes, *options: str, route: str, folder: Path) -> tuple[int, int, str]:
    """Exit code, MiB of resident memory at most, and stderr of a conversion with a limit on its memory."""
    (folder / "old").write_bytes(data)
    program = LIMITED.format(memory=MEMORY, peak=str(folder / "peak"))
    command = [sys.executable, "-c", program, "convert", "-", "/dev/null", *options]
    with (
        subprocess.Popen(["cat", folder / "old"], stdout=subprocess.PIPE) as cat,
        open(folder / "old", "rb") as file,
        open(folder / "err", "wb") as err,
    ):
        stdin = cat.stdout if route == "pipe" else file
        process = subprocess.Popen(command, stdin=stdin, stderr=err, env=ENVIRONMENT)
        if cat.stdout:
            cat.stdout.close()
        process.wait(PATIENCE)
    peak = int((folder / "peak").read_text()) >> 10
    return process.returncode, peak, (folder / "err").read_text()


def frames_of(p2m_size: int) -> tuple[int, ...]:
    return (1,) * (p2m_size // 512)


LIES: dict[str, tuple[bytes, int]] = {
    "p2m_size hvm": (replace(HVM, p2m_size=HUGE).to_bytes(), 0),
    "p2m_size pv without its frames": (replace(PV, p2m_size=HUGE).to_bytes(), 1),
    "p2m_size pv": (replace(PV, p2m_size=HUGE, frames=frames_of(HUGE)).to_bytes(), 0),
    "unmapped count": (replace(PV, p2m_size=HUGE, frames=frames_of(HUGE), unmapped_count=HUGE).to_bytes(), 1),
    "toolstack length": (replace(HVM, body=(Toolstack(length=1 << 20),)).to_bytes(), 1),
    "context length": (HVM.damaged("context.length", le(1 << 24, 4)), 1),
    "device model length": (replace(HVM, device_model=DeviceModel(length=1 << 28)).to_bytes(), 1),
    "xl data length": (replace(HVM, xl=pieces.XlHeader(optional_data_length=1 << 24)).to_bytes(), 1),
    "batch without its pages": (words_of(HVM, 1, *range(32), *range(32), pages=1).to_bytes(), 1),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("route", ["file", "pipe"])
def test_lying_lengths(name: str, route: str, tmp_path: Path) -> None:
    data, expected = LIES[name]
    code, resident, told = limited(data, route=route, folder=tmp_path)
    assert code == expected, told
    assert resident < 160
    assert (
        told.startswith(("/dev/null: ", "warning: "))
        if code == 0
        else told.startswith("error: standard input: ")
    )


def test_pfns_all_over_the_largest_guest(tmp_path: Path) -> None:
    """A byte for each pfn that a guest can have is the bound, in each of two passes."""
    spread = Batch(tuple(word(BROKEN, number * (HUGE // 1024)) for number in range(1024)))
    image = with_body(replace(HVM, p2m_size=HUGE), spread)
    code, resident, told = limited(image.to_bytes(), route="file", folder=tmp_path)
    assert code == 0, told
    assert resident < 100 + 2 * (HUGE >> 20)


@pytest.mark.parametrize(
    ("piece", "item"),
    [
        (Param(-3, 5), "found more than 4,096 HVM parameters"),
        (Toolstack(behind=bytes((1 << 20) - 8)), "bytes of toolstack data in all"),
    ],
)
def test_things_that_are_kept_are_counted(piece: pieces.Piece, item: str, tmp_path: Path) -> None:
    image = with_body(HVM, *(piece,) * (5000 if isinstance(piece, Param) else 18))
    with open_file(image.to_bytes()) as fd, pytest.raises(InvalidImage, match=item):
        xenmig_np.convert(fd, str(tmp_path / "new"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("guest", ["pv", "hvm"])
@pytest.mark.parametrize("width", [32, 64])
def test_whatever_the_user_says(width: int, guest: str) -> None:
    """Right or wrong, there is an answer."""
    images = (sample("hvm", live=True), sample("pv64"), sample("pv32", 32))
    for data in (*images, INPUTS["H"].data, INPUTS["V"].data):
        with open_file(data) as fd:
            error = outcome(functools.partial(xenmig_np.convert, fd, "/dev/null", width=width, guest=guest))
            assert error is None or error.exit_code in OF_THE_INPUT
