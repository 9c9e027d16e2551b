"""Damaged images: no page is ever exported under a wrong pfn, and what cannot be proven is in the map."""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer
from conftest import converted, every_kind, sample, xenmig
from drawn import drawn, images_are_long
from hypothesis import assume, event, given
from hypothesis import strategies as st
from real import WHOLE, Sample, each, memory, taken_apart
from typer.testing import CliRunner

import xenmig_np
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.salvage import salvage_image
from xenmig_np.errors import (
    InputOutputError,
    InvalidImage,
    NotRecognised,
    NotSupported,
    OutputExists,
    UsageError,
)
from xenmig_np.io.source import FileSource
from xenmig_np.salvage.run import Salvaged, salvage
from xenmig_np.salvage.tolerant import Ranges
from xenmig_np.testing.builder import FLAGS_AT, ONLINE, LegacyImage, small_image
from xenmig_np.testing.carriers import Carried, XendHead
from xenmig_np.testing.fields import NOTAB, Filled, le, word
from xenmig_np.testing.pieces import Batch, Control

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

pytestmark = images_are_long

PAGE: Final = 4096
P2M: Final = 512
IN_KERNEL: Final = 1 << 2
SAVED, OLDER, LOST, ABSENT = "+/-?"
COPIES: Final = ("hvm", "pv64", "pv32")


# ---- what is there, and what became of it ----------------------------------------------------------------


@dataclass
class Outcome:
    """What was salvaged, read back without any code of ours."""

    report: Salvaged
    status: str = ""
    """A sign for each pfn."""
    pages: dict[int, bytes] = field(default_factory=dict)
    """Of every pfn of a small guest, of a large one those that are saved."""

    def pfns(self, *signs: str) -> set[int]:
        """Those of such a status."""
        return {found.start() for found in re.finditer("|".join(map(re.escape, signs)), self.status)}

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.status)

    @property
    def recovered(self) -> int:
        return self.counts[SAVED] + self.counts[OLDER]


def salvaged(data: bytes, folder: Path, **options: Any) -> Outcome:
    """Salvage an image; every byte of the map and of the memory is accounted for."""
    old, new = folder / "old", folder / "new"
    old.write_bytes(data)
    report = salvage(str(old), str(new), sync=False, force=True, **options)
    made = Outcome(report)
    if report.damage is None:
        assert not (folder / "new.raw").exists()
        assert not (folder / "new.map").exists()
        return made
    assert (report.raw, report.map) == (f"{new}.raw", f"{new}.map")
    assert new.exists() == (report.stream is not None) == (report.no_stream is None)
    rows = [line.split() for line in (folder / "new.map").read_text().splitlines() if line[0] != "#"]
    assert rows[0][1] == SAVED
    for position, size, status in rows[1:]:
        assert int(position, 16) == len(made.status) * PAGE
        made.status += status * (int(size, 16) // PAGE)
    assert len(made.status) * PAGE == report.p2m_size * PAGE == (folder / "new.raw").stat().st_size
    with (folder / "new.raw").open("rb") as raw:
        small = len(made.status) <= 4 * P2M
        for pfn in range(len(made.status)) if small else made.pfns(SAVED, OLDER):
            raw.seek(pfn * PAGE)
            made.pages[pfn] = raw.read(PAGE)
    assert report.pages == {
        name: made.counts[sign]
        for name, sign in zip(("saved", "older", "lost", "absent"), (SAVED, OLDER, LOST, ABSENT), strict=True)
    }
    return made


def check(made: Outcome, copies: dict[int, list[bytes]], spoilt: Collection[int] = ()) -> None:
    """Every page is the last copy of its pfn, or one of its copies where the map says so.

    ``spoilt``: pfns whose contents were damaged, which nothing can tell.
    """
    known = {pfn for pfn in copies if pfn < len(made.status)}
    for pfn in (known | set(made.pages)) - set(spoilt):
        status, page, had = made.status[pfn], made.pages.get(pfn, bytes(PAGE)), copies.get(pfn, [])
        if status == SAVED:
            assert page == had[-1], f"{pfn:#x} is not the last copy"
        elif status == OLDER:
            assert page in had, f"{pfn:#x} is none of its copies"
        else:
            assert not any(page), f"{pfn:#x} is {status} and has contents"
            assert not (status == ABSENT and had), f"{pfn:#x} was sent"


# ---- images with known pages -----------------------------------------------------------------------------


def contents(kind: str, pfn: int, copy: int) -> bytes:
    """A page that no other is equal to, of bytes that look like heads, or like nothing."""
    tag = struct.pack("<III", 0xABCD_0000 | copy, pfn, 0xEEEE_EEEE)
    fill = {
        "zeros": bytes(PAGE),
        "ones": b"\xff" * PAGE,
        "table": bytes(4 * (pfn % 500)) + struct.pack("<400I", *range(1, 401)) + bytes(4 * (624 - pfn % 500)),
        "wide": bytes(1000 + pfn % 500) + struct.pack("<300Q", *range(16, 316)) + bytes(696 - pfn % 500),
        "units": struct.pack("<1024I", *([1] * 1024)),
        "noise": random.Random(pfn).randbytes(PAGE),
    }[kind]
    at = 4 * (1 + pfn % 900)
    return fill[:at] + tag + fill[at + len(tag) :]


FILLS: Final = ("zeros", "ones", "table", "wide", "units", "noise")


def guest_image(guest: str, width: int, batches: list[list[int]], fill: str = "noise") -> LegacyImage:
    """An image with these pfns; the page tables of PV guests are in a batch of their own before them."""
    small = small_image(guest, width)  # type: ignore[arg-type]
    first = next(piece for piece in small.body if isinstance(piece, Batch))
    sent: Counter[int] = Counter()
    body: list[Batch] = []
    for pfns in batches:
        pages = tuple(contents(fill, pfn, sent[pfn]) for pfn in pfns)
        body.append(Batch(tuple(word(NOTAB, pfn) for pfn in pfns), pages))
        sent.update(pfns)
    at = small.body.index(first)
    rest = small.body[at + 1 :]
    start = small.body[:at]
    vcpus = tuple(replace(vcpu, context=_in_kernel(vcpu.context)) for vcpu in small.vcpus)  # type: ignore[attr-defined,type-var]
    return replace(small, p2m_size=P2M, vcpus=vcpus, body=(*start, first, *body, *rest))


def _in_kernel(state: Filled) -> Filled:
    """A vCPU in kernel mode, which needs no page table for user mode."""
    return replace(state, patches=(*state.patches, (FLAGS_AT, le(ONLINE | IN_KERNEL, 4))))


def copies_of(image: LegacyImage) -> dict[int, list[bytes]]:
    """All copies of each page, in the order of the image."""
    copies: dict[int, list[bytes]] = {}
    for batch in image.body:
        for kind, pfn, page in batch.entries() if isinstance(batch, Batch) else ():
            if kind < 13:
                assert page is not None
                copies.setdefault(pfn, []).append(bytes(page))
    return copies


def ranges(first: int, *counts: int) -> list[list[int]]:
    """Batches of so many consecutive pfns."""
    made = []
    for count in counts:
        made.append(list(range(first, first + count)))
        first += count
    return made


@dataclass(frozen=True)
class Place:
    """Where a batch lies."""

    head: int
    pages: int
    pfns: tuple[int, ...]
    """Of its pages."""


def places(image: LegacyImage) -> list[Place]:
    """Of all batches."""
    at = {part.name: part.offset for part in image.parts()}
    return [
        Place(
            at[f"body.{number}.count"],
            at[f"body.{number}.page.0"],
            tuple(pfn for kind, pfn, _ in piece.entries() if kind < 13),
        )
        for number, piece in enumerate(image.body)
        if isinstance(piece, Batch)
    ]


def spoilt_by(placed: list[Place], begin: int, end: int) -> set[int]:
    """Pfns of pages that have bytes from ``begin`` up to ``end``."""
    return {
        pfn
        for place in placed
        for number, pfn in enumerate(place.pfns)
        if place.pages + number * PAGE < end and begin < place.pages + (number + 1) * PAGE
    }


# ---- nothing is wrong ------------------------------------------------------------------------------------


@every_kind
def test_an_undamaged_image_is_converted_as_ever(guest: str, width: int, tmp_path: Path) -> None:
    data = sample(guest, width)
    made = salvaged(data, tmp_path)
    assert made.report.exit_code == 0
    assert (tmp_path / "new").read_bytes() == converted(data)


@pytest.mark.parametrize("truth", each(WHOLE))
def test_no_whole_image_is_called_damaged(truth: Sample, tmp_path: Path) -> None:
    assert salvaged(truth.unpacked(), tmp_path).report.damage is None


def test_what_is_no_image_stays_none(tmp_path: Path) -> None:
    for number, data in enumerate((random.Random(1).randbytes(300_000), bytes(5000), b"text " * 4000)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(NotRecognised):
            salvaged(data, folder)
        assert [path.name for path in folder.iterdir()] == ["old"]


# ---- one damage ------------------------------------------------------------------------------------------

BATCHES: Final = ranges(16, 40, 50, 60, 70)
"""Behind the first batch of the small image, of positions 2 to 5 in the body."""


def _count(data: bytearray, head: int, _pages: int) -> None:
    data[head + 1] ^= 0x80


def _insert(data: bytearray, _head: int, pages: int) -> None:
    data[pages + 5000 : pages + 5000] = b"\x01\x02\x03"


def _delete(data: bytearray, _head: int, pages: int) -> None:
    del data[pages + 5000 : pages + 9100]


def _noise(data: bytearray, head: int, _pages: int) -> None:
    data[head : head + 64] = random.Random(2).randbytes(64)


def _zeros(data: bytearray, head: int, _pages: int) -> None:
    data[head : head + 512] = bytes(512)


DAMAGES: Final = (_count, _insert, _delete, _noise, _zeros)


@every_kind
@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_batch(
    damage: Callable[[bytearray, int, int], None], guest: str, width: int, tmp_path: Path
) -> None:
    """The batches behind it are found again, with the tail; the one before it may go as well."""
    image = guest_image(guest, width, BATCHES)
    data = bytearray(image.to_bytes())
    damaged = places(image)[3]
    damage(data, damaged.head, damaged.pages)
    made = salvaged(bytes(data), tmp_path)
    copies = copies_of(image)
    check(made, copies)
    assert made.report.exit_code == 7
    lost = {pfn for pfn in copies if made.status[pfn] == LOST}
    assert set(BATCHES[2]) <= lost <= {*BATCHES[1], *BATCHES[2]}
    assert set(BATCHES[3]) <= made.pfns(SAVED)
    assert made.report.stream
    stream = memory(taken_apart((tmp_path / "new").read_bytes()))
    assert {pfn: bytes(page) for pfn, page in stream.pages.items()} == {
        pfn: made.pages[pfn] for pfn in copies if pfn not in lost
    }
    assert xenmig_np.verify(str(tmp_path / "new")).good()


@every_kind
def test_a_damaged_word_costs_its_page(guest: str, width: int, tmp_path: Path) -> None:
    """A type that is none, a pfn too large, one out of order: of the others nothing is lost."""
    image = guest_image(guest, width, BATCHES)
    copies = copies_of(image)
    for value, most in ((0x7000_0020, 1), (0x0FFF_0000, 1), (word(NOTAB, 300), 2)):
        part = image.part("body.4.word.20")
        made = salvaged(
            _broken(image, image.damaged(part.name, value.to_bytes(width // 8, "little"))), tmp_path
        )
        check(made, copies)
        lost = {pfn for pfn in copies if made.status[pfn] == LOST}
        assert BATCHES[2][20] in lost
        assert len(lost) <= most


def _broken(image: LegacyImage, data: bytes) -> bytes:
    """The same, cut off in its tail: so that it does not pass for whole."""
    tail = image.part("unmapped.count" if image.guest != "hvm" else "magic.0").offset
    return data[: tail + 2]


@every_kind
def test_cut_off_in_the_pages(guest: str, width: int, tmp_path: Path) -> None:
    image = guest_image(guest, width, BATCHES)
    pages = places(image)[3].pages
    made = salvaged(image.to_bytes()[: pages + 10_000], tmp_path)
    check(made, copies_of(image))
    assert made.report.stream is None
    assert made.recovered == len({pfn for pfns in BATCHES[:2] for pfn in pfns} | set(copies_of(image))) - 130


@every_kind
def test_p2m_size_lost(guest: str, width: int, tmp_path: Path) -> None:
    """The memory is saved; an HVM guest needs nothing else of the beginning."""
    image = guest_image(guest, width, BATCHES)
    data = bytearray(image.to_bytes())
    data[: width // 8] = b"\xfe" * (width // 8)
    made = salvaged(bytes(data), tmp_path, width=width, guest="hvm" if guest == "hvm" else "pv")
    check(made, copies_of(image))
    assert made.report.p2m_size_guessed
    assert made.report.p2m_size == BATCHES[-1][-1] + 1
    assert (made.report.stream is not None) == (guest == "hvm")
    assert made.recovered >= sum(map(len, BATCHES)) - 1


@every_kind
def test_nothing_is_known_of_the_beginning(guest: str, width: int, tmp_path: Path) -> None:
    """Width and kind of guest are found by what reads well."""
    image = guest_image(guest, width, BATCHES)
    data = random.Random(3).randbytes(PAGE) + image.to_bytes()[200:]
    made = salvaged(data, tmp_path)
    assert made.report.width == width
    check(made, copies_of(image))
    assert made.recovered >= sum(map(len, BATCHES[1:]))


@pytest.mark.parametrize("guest", COPIES)
def test_a_live_image_keeps_older_copies(guest: str, tmp_path: Path) -> None:
    rounds = [list(range(16, 116)), list(range(20, 60)), list(range(30, 70)), list(range(40, 80))]
    image = guest_image(guest, 64, rounds)
    image = replace(image, body=(*image.body[1:2], *image.body[2:6], image.body[0], *image.body[6:]))
    data = bytearray(image.to_bytes())
    head = places(image)[3].head
    data[head : head + 4] = b"\xff\xfe\xfd\xfc"
    made = salvaged(bytes(data), tmp_path)
    check(made, copies_of(image))
    assert {made.status[pfn] for pfn in range(20, 40)} <= {OLDER, LOST}
    assert {made.status[pfn] for pfn in range(40, 80)} == {SAVED}
    assert (tmp_path / "new.map").read_text().count(" /\n")


def test_pages_lost_before_chunk_1_come_from_behind_it(tmp_path: Path) -> None:
    """Verify mode sends all pages again."""
    image = guest_image("hvm", 64, [*BATCHES[:3], *BATCHES[:3]])
    copies = {pfn: [page[0]] for pfn, page in copies_of(image).items()}
    first = [piece for piece in image.body if isinstance(piece, Batch)][1:4]
    second = [replace(batch) for batch in first]
    image = replace(image, body=(*image.body[:5], Control(-1), *second, *image.body[8:]))
    data = bytearray(image.to_bytes())
    head = places(image)[2].head
    data[head + 1] ^= 0x80
    made = salvaged(bytes(data), tmp_path)
    check(made, copies)
    assert {made.status[pfn] for pfns in BATCHES[:3] for pfn in pfns} == {SAVED}
    stream = taken_apart((tmp_path / "new").read_bytes())
    assert not stream.kinds[13]
    assert len(memory(stream).pages) == len(copies)


# ---- unreadable blocks -----------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Let reading any of those blocks of 4 KiB of an input fail."""
    original = FileSource.read_at

    def read_at(self: FileSource, offset: int, into: memoryview) -> int:
        blocks = range(offset // PAGE, (offset + max(len(into), 1) - 1) // PAGE + 1)
        if self.path.endswith("old") and bad & set(blocks):
            raise InputOutputError("reading failed", path=self.path, cause=OSError(5, "Input/output error"))
        return original(self, offset, into)

    monkeypatch.setattr(FileSource, "read_at", read_at)


@every_kind
def test_blocks_that_cannot_be_read(
    guest: str, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages: those alone are lost. Nothing tells before they are read."""
    image = guest_image(guest, width, BATCHES)
    pages = places(image)[3].pages
    bad = {pages // PAGE + 3, pages // PAGE + 9}
    failing(monkeypatch, bad)
    made = salvaged(image.to_bytes(), tmp_path)
    copies = copies_of(image)
    check(made, copies)
    expected = set().union(*(spoilt_by(places(image), block * PAGE, block * PAGE + PAGE) for block in bad))
    assert {pfn for pfn in copies if made.status[pfn] == LOST} == expected
    assert 3 <= len(expected) <= 4
    assert [part.why for part in made.report.unread] == ["unreadable"] * 2
    assert made.report.stream
    assert set(memory(taken_apart((tmp_path / "new").read_bytes())).pages) == set(copies) - expected


def test_an_unreadable_page_gives_way_to_an_older_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = guest_image("hvm", 64, [list(range(16, 60)), list(range(16, 60))])
    pages = places(image)[2].pages
    block = pages // PAGE + 5
    failing(monkeypatch, {block})
    made = salvaged(image.to_bytes(), tmp_path)
    check(made, copies_of(image))
    assert made.pfns(OLDER) == spoilt_by(places(image), block * PAGE, block * PAGE + PAGE)


@pytest.mark.parametrize("guest", COPIES)
def test_a_head_that_cannot_be_read(guest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = guest_image(guest, 64, BATCHES)
    head = places(image)[3].head
    failing(monkeypatch, {head // PAGE})
    made = salvaged(image.to_bytes(), tmp_path)
    check(made, copies_of(image))
    assert {made.status[pfn] for pfn in BATCHES[2]} == {LOST}
    assert {made.status[pfn] for pfn in BATCHES[3]} == {SAVED}


def test_what_a_rescue_could_not_read(tmp_path: Path) -> None:
    """A copy of ddrescue has zeros there, which nothing in the image tells from a guest's."""
    image = guest_image("hvm", 64, BATCHES)
    data = bytearray(image.to_bytes())
    pages = places(image)[3].pages
    begin, end = pages + 5000, pages + 9000
    data[begin:end] = bytes(end - begin)
    assert salvaged(bytes(data), tmp_path).report.damage is None
    rescue = tmp_path / "rescue.map"
    rescue.write_text(
        "# Mapfile. Created by GNU ddrescue version 1.27\n0x00000000     +               1\n"
        f"0x00000000  0x{begin:X}  +\n0x{begin:X}  0x{end - begin:X}  -\n0x{end:X}  0x{len(data):X}  +\n"
    )
    made = salvaged(bytes(data), tmp_path, unreadable=str(rescue))
    check(made, copies_of(image))
    assert made.pfns(LOST) == spoilt_by(places(image), begin, end)
    for text in ("no map", "0 + 1\n0 zero +\n", "0 + 1\n0 1 x\n", "0 + 1\n0 1\n"):
        rescue.write_text(text)
        with pytest.raises(UsageError, match="no mapfile"):
            salvage(str(tmp_path / "old"), str(tmp_path / "new"), unreadable=str(rescue), force=True)


# ---- any damage ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wound:
    """One damage: where in the image, or from the beginning of a batch on."""

    kind: str
    batch: int | None
    at: int
    length: int

    def place(self, placed: list[Place], end: int) -> int:
        begin = 0 if self.batch is None else placed[self.batch % len(placed)].head
        return min(begin + self.at, end - 1)


@dataclass(frozen=True)
class Case:
    """An image and what happens to it."""

    guest: str
    width: int
    sizes: list[int]
    """Pages of each batch."""
    live: bool
    permuted: bool
    fill: str
    seed: int
    wounds: list[Wound]

    def image(self) -> LegacyImage:
        rng = random.Random(self.seed)
        batches = ranges(16, *self.sizes)
        if self.live:
            batches = [sorted(rng.sample(range(16, 120), size)) for size in self.sizes]
        if self.permuted:
            for batch in batches:
                rng.shuffle(batch)
        image = guest_image(self.guest, self.width, batches, self.fill)
        if self.live:  # Xen 4.0 and later: the TSC comes behind the first rounds
            image = replace(image, body=(*image.body[1:], image.body[0]))
        return image

    def broken(self, image: LegacyImage) -> tuple[bytes, set[int]]:
        """The image damaged, and the pfns whose contents that spoils."""
        data = bytearray(image.to_bytes())
        placed = places(image)
        spoilt: set[int] = set()
        for wound in sorted(self.wounds, key=lambda wound: -wound.place(placed, len(data))):
            at = wound.place(placed, len(data))
            if wound.kind == "cut":
                del data[max(at, 64) :]
            elif wound.kind == "delete":
                del data[at : at + wound.length]
            elif wound.kind == "insert":
                data[at:at] = rng_bytes(wound)
            else:
                new = bytes(wound.length) if wound.kind == "zeros" else rng_bytes(wound)
                data[at : at + wound.length] = new[: max(len(data) - at, 0)]
                spoilt |= spoilt_by(placed, at, at + wound.length)
                spoilt |= self.renamed(placed, data, at, at + wound.length)
        return bytes(data), spoilt

    def renamed(self, placed: list[Place], data: bytearray, begin: int, end: int) -> set[int]:
        """Pfns that overwritten words had and have: nothing tells that a word was another that fits."""
        names = set()
        for place in placed:
            for number, pfn in enumerate(place.pfns):
                at = place.head + 4 + number * self.width // 8
                if at < end and begin < at + 4:
                    names |= {pfn, int.from_bytes(data[at : at + 4], "little") & 0x0FFF_FFFF}
        return names


def rng_bytes(wound: Wound) -> bytes:
    return random.Random(wound.at).randbytes(wound.length)


WOUNDS: Final = st.builds(
    Wound,
    st.sampled_from(("cut", "insert", "delete", "zeros", "noise")),
    st.none() | st.integers(0, 7),
    st.integers(0, 8) | st.integers(0, 600) | st.integers(0, 1 << 20),
    st.sampled_from((1, 2, 4, 8, 12, 16, 32, 100, 512, 4096, 5000)),
)
CASES: Final = st.builds(
    Case,
    st.sampled_from(COPIES),
    st.sampled_from((32, 64)),
    st.lists(st.sampled_from((1, 3, 15, 16, 17, 40, 64)), min_size=2, max_size=7),
    st.booleans(),
    st.booleans(),
    st.sampled_from(FILLS),
    st.integers(0, 99),
    st.lists(WOUNDS, min_size=1, max_size=3),
)


@drawn(100)
@given(case=CASES)
def test_no_page_comes_under_a_wrong_pfn(case: Case, tmp_path_factory: Any) -> None:
    """Whatever is cut, inserted, deleted or overwritten, and whatever the pages look like."""
    kinds = {wound.kind for wound in case.wounds}
    assume(not {"insert", "delete"} <= kinds)  # one can undo the other, and move what is between
    image = case.image()
    broken, spoilt = case.broken(image)
    guest = "hvm" if image.guest == "hvm" else "pv"
    try:
        made = salvaged(broken, tmp_path_factory.mktemp("any"), width=image.width, guest=guest)
    except (InvalidImage, UsageError, NotSupported):
        event("nothing is saved")
        return
    event("stream" if made.report.stream else "memory alone" if made.report.damage else "whole")
    if made.report.damage:
        check(made, copies_of(image), spoilt)


KINDS: Final = ("count", "insert", "delete", "cut", "noise")
LONG: Final = [
    one for one in WHOLE if not one.ran and not one.truth["remus"] and one.truth["observed"]["batches"] > 2
]
"""Of fewer batches nothing may be left."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("truth", each(LONG))
def test_samples_damaged_anywhere(truth: Sample, kind: str, tmp_path: Path) -> None:
    """Pages of the samples, against what is known of them from elsewhere."""
    data = truth.unpacked()
    with_tables = tmp_path / "whole"
    with_tables.write_bytes(data)
    with xenmig_np.open_image(str(with_tables)) as image:
        table = image.page_table
    rng = random.Random(f"{truth.name}{kind}")
    batches = sorted(set(table["batch"].tolist()))
    chosen = table[table["batch"] == rng.choice(batches[2:])]
    with_data = chosen[chosen["offset"] >= 0]
    first = int(with_data["offset"][0])
    head = first - 4 - len(chosen) * truth.width // 8
    broken = bytearray(data)
    place = rng.randrange(first, first + len(with_data) * PAGE)
    if kind == "count":
        broken[head + rng.randrange(2)] ^= 1 << rng.randrange(8)
    elif kind == "insert":
        broken[place:place] = bytes(rng.randrange(1, 9))
    elif kind == "delete":
        del broken[place : place + rng.randrange(1, 5000)]
    elif kind == "cut":
        del broken[place:]
    else:
        broken[head : head + 40] = rng.randbytes(40)
    made = salvaged(bytes(broken), tmp_path)
    known = truth.truth["memory"]
    pfns = [first + at for first, count in known["present_runs"] for at in range(count)]
    crc = {pfn: int(known["crc32"][8 * at : 8 * at + 8], 16) for at, pfn in enumerate(pfns)}
    for pfn in made.pfns(SAVED):
        assert zlib.crc32(made.pages[pfn]) == crc[pfn]
    for pfn in made.pfns(OLDER):
        offsets = table["offset"][(table["pfn"] == pfn) & (table["offset"] >= 0)].tolist()
        assert made.pages[pfn] in [data[offset : offset + PAGE] for offset in offsets]
    assert not made.pfns(ABSENT) & set(crc)


# ---- checkpoints, options, the command -------------------------------------------------------------------


def test_checkpoints_behind_a_damaged_first_body(tmp_path: Path) -> None:
    """Those that are complete count, as in an image that is whole."""
    first = guest_image("hvm", 64, BATCHES)
    first = replace(first, body=first.body[:-1])
    later = replace(first, body=tuple(piece for piece in first.body if not isinstance(piece, Batch)))
    again = Batch(
        tuple(word(NOTAB, pfn) for pfn in range(100, 140)), tuple(b"%04d" % n * 1024 for n in range(40))
    )
    later = replace(later, body=(again, *later.body[1:]))
    image = replace(first, later=(later,))
    data = bytearray(image.to_bytes())
    head = places(image)[3].head
    data[head + 1] ^= 0x80
    made = salvaged(bytes(data), tmp_path)
    assert [made.pages[100 + n] for n in range(40)] == [b"%04d" % n * 1024 for n in range(40)]
    assert made.report.stream
    assert not made.report.no_stream


def test_what_a_configuration_loses_is_told(tmp_path: Path) -> None:
    """As it is of an image that is whole."""
    config = b"(domain (name small) (memory 4) (image (linux)) (device (vtpm (backend 0))))"
    image = guest_image("pv64", 64, BATCHES)
    carried = Carried(XendHead(config), image.to_bytes())
    data, head = bytearray(carried.to_bytes()), carried.at + places(image)[3].head
    data[head : head + 64] = bytes(64)
    made = salvaged(bytes(data), tmp_path)
    assert made.report.stream
    assert any("vtpm in domain 0" in note.text for note in made.report.warnings)


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    data = guest_image("hvm", 64, BATCHES).to_bytes()[:500_000]
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(data)
    for name in ("new", "new.raw", "new.map"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputExists):
            salvage(str(old), str(new), sync=False)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["old", name])
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match="writes files"):
        salvage(str(old), "-")


def test_names_may_be_paths(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(sample("hvm"))
    assert salvage(old, new, sync=False).conversion
    assert new.read_bytes() == converted(sample("hvm"))
    old.write_bytes(guest_image("hvm", 64, BATCHES).to_bytes()[:500_000])
    raw, map_, rescue = tmp_path / "memory", tmp_path / "lost", tmp_path / "rescue"
    made = salvage(old, new, raw=raw, map_=map_, force=True, sync=False)
    assert (made.raw, made.map) == (str(raw), str(map_))
    assert (raw.exists(), map_.exists()) == (True, True)
    rescue.write_text("none")
    with pytest.raises(UsageError, match=f"^{re.escape(str(rescue))}: no mapfile"):
        salvage(old, new, unreadable=rescue, force=True)


@pytest.mark.parametrize("cut", [500_000, None], ids=["damaged", "whole"])
@pytest.mark.parametrize(
    ("option", "told", "hint"),
    [
        ("spool", "--salvage reads a file in any order: --spool has nothing to do", "leave --spool away"),
        ("keep_config", "--keep-config does not go with --salvage", "xenmig-np config show INPUT > FILE"),
    ],
)
def test_options_that_do_nothing_are_refused(
    option: str, told: str, hint: str, cut: int | None, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.write_bytes(guest_image("hvm", 64, BATCHES).to_bytes()[:cut])
    ran = xenmig(
        "convert", "--salvage", f"--{option.replace('_', '-')}", tmp_path / "it", old, tmp_path / "new"
    )
    assert (ran.code, ran.lines) == (2, [f"error: {told}", f"hint: {hint}"])
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_the_report_is_plain(tmp_path: Path) -> None:
    made = salvaged(guest_image("pv64", 64, BATCHES).to_bytes()[:500_000], tmp_path)
    report = json.loads(json.dumps(made.report.to_dict()))
    assert report["schema"] == "xenmig-np/salvage"
    assert report["unread"][-1]["end"] == 500_000


def run(*arguments: str) -> Any:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.command()
    @guarded
    def convert(old: str, new: str, force: bool = False, json: bool = False) -> None:  # noqa: FBT001, FBT002
        salvage_image(old, new, {}, force=force, as_json=json)

    return CliRunner().invoke(app, arguments)


def test_the_command(tmp_path: Path) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    Path(old).write_bytes(sample("hvm"))
    whole = run(old, new)
    assert (whole.exit_code, whole.stdout) == (0, "")
    image = guest_image("hvm", 64, BATCHES)
    Path(old).write_bytes(image.to_bytes()[: places(image)[3].pages + 10_000])
    broken = run(old, new, "--force")
    assert (broken.exit_code, broken.stdout) == (7, "")
    assert f"{new}.raw: 94 pages saved" in broken.stderr
    assert "no stream: the end of the image is lost" in broken.stderr
    told = run(old, new, "--force", "--json")
    assert told.exit_code == 7
    assert json.loads(told.stdout)["pages"]["saved"] == 94


# ---- ranges ----------------------------------------------------------------------------------------------

SPANS: Final = st.tuples(st.integers(0, 40), st.integers(1, 6)).map(lambda span: (span[0], sum(span)))


@drawn(300)
@given(spans=st.lists(SPANS, max_size=8), span=SPANS)
def test_ranges(spans: list[tuple[int, int]], span: tuple[int, int]) -> None:
    made = Ranges()
    for begin, end in spans:
        made.add(begin, end)
    plain = {at for span in spans for at in range(*span)}
    inside = set(range(*span))
    assert {at for part in made for at in range(*part)} == plain
    assert made.total == len(plain)
    assert made.meet(*span) == bool(plain & inside)
    assert {at for part in made.within(*span) for at in range(*part)} == plain & inside
    assert {at for part in made.gaps(*span) for at in range(*part)} == inside - plain
    assert all(before[1] < behind[0] for before, behind in zip(list(made), list(made)[1:], strict=False))
