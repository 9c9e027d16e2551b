"""Pages that a PV guest gave back while it was saved (v2-stream.md 19.4, D22), against a plain statement.

From a file the words that D22 names are left out; from a pipe, where pages go out before the list of them
comes in, exactly those images are refused from which a file would lose something.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from conftest import open_file, piped
from drawn import UNSUPPORTED, converted, drawn, images_are_long
from hypothesis import given
from hypothesis import strategies as st
from real import PAGE_DATA, VERIFY, taken_apart

import xenmig_np
from xenmig_np.testing.builder import LegacyImage, small_image
from xenmig_np.testing.fields import BROKEN, NOTAB, PINNED, XALLOC, XTAB, Data, page, pte, word
from xenmig_np.testing.pieces import VERIFY_MODE, Batch, Control, Piece

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = images_are_long

Word = tuple[int, int, bytes | None]
Place = tuple[int, int]
"""Piece of the body and word of the batch."""

L1, L2, L4_PINNED = 1, 2, 4 | PINNED
PASS = Control(VERIFY_MODE)
BASE = small_image("pv64")
P2M_SIZE = BASE.p2m_size
TAIL = BASE.body[1:]  # the batch that a restore stands on, and what follows it
FREE = range(8, 14)
"""Pfns that this batch says nothing about."""

# ------------------------------------------------------------------------------------ what D22 says, plainly


def words(image: LegacyImage) -> Iterator[tuple[Place, int, Word]]:
    """Each mention of a pfn: its place, the part of the image it stands in, and the word with its page."""
    part = 0
    for number, piece in enumerate(image.body):
        part += piece == PASS
        if isinstance(piece, Batch):
            for index, (kind, pfn, contents) in enumerate(piece.entries()):
                if kind != XTAB:
                    yield (number, index), part, (kind, pfn, None if contents is None else bytes(contents))


def listed_words(image: LegacyImage) -> set[Place]:
    """(a)"""
    return {place for place, _, (_, pfn, _) in words(image) if pfn in image.unmapped}


def superseded_tables(image: LegacyImage) -> set[Place]:
    """(b), those of (a) too."""
    last = {(part, pfn): place for place, part, (_, pfn, _) in words(image)}
    return {
        place
        for place, part, (kind, pfn, contents) in words(image)
        if contents and kind != NOTAB and last[part, pfn] != place and maps_any(contents, image.unmapped)
    }


def maps_any(table: bytes, pfns: tuple[int, ...]) -> bool:
    inside = {pfn for pfn in pfns if pfn < P2M_SIZE}
    entries = struct.unpack("<512Q", table)
    return any(entry & 1 and entry >> 12 & (1 << 40) - 1 in inside for entry in entries)


def kept(image: LegacyImage) -> list[list[Word] | None]:
    """What PAGE_DATA records hold then, and None where a VERIFY record stands."""
    out = listed_words(image) | superseded_tables(image)
    records: list[list[Word] | None] = []
    for number, piece in enumerate(image.body):
        if piece == PASS:
            records.append(None)
        if some := [word for place, _, word in words(image) if place[0] == number and place not in out]:
            records.append(some)
    return records


def written(data: bytes) -> list[list[Word] | None]:
    """The same of a stream."""
    stream = taken_apart(data)
    found = ((kind, pfn, None if page is None else bytes(page)) for _, kind, pfn, page in stream.words())
    records: list[list[Word] | None] = []
    for number, body in stream.records:
        if number == VERIFY:
            records.append(None)
        elif number == PAGE_DATA:
            count = int.from_bytes(body[:4], "little")
            records.append([next(found) for _ in range(count)])
    return records


def check(image: LegacyImage) -> None:
    """The converter does what is said above, from a file and from a pipe."""
    data = image.to_bytes()
    out = len(listed_words(image) | superseded_tables(image))
    of_file = converted(data)
    assert isinstance(of_file, bytes)
    assert written(of_file) == kept(image)
    assert converted(data, pipe=True, width=64, guest="pv") == (UNSUPPORTED if out else of_file)


# ------------------------------------------------------------------------------------ drawn images


@st.composite
def tables(draw: st.DrawFn) -> Data:
    """Page tables that name few pfns, some beyond the guest's, in entries that are present or not."""
    pfns = st.sampled_from((*FREE, P2M_SIZE, 1 << 32 | FREE[0], (1 << 40) - 1))
    entries = st.builds(pte, pfns, st.sampled_from((1, 1, 0x67, 1 << 63 | 1, 0, 0x66)))
    return page(0, sorted(draw(st.dictionaries(st.sampled_from((0, 1, 511)), entries, max_size=3)).items()))


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Words about few pfns, which may come again within the batch."""
    made, pages = [], []
    for pfn in draw(st.lists(st.sampled_from(FREE), min_size=1, max_size=6)):
        kind = draw(st.sampled_from((NOTAB, L1, L1, L2, L4_PINNED, BROKEN, XALLOC, XTAB)))
        made.append(word(kind, pfn if kind != XTAB else draw(st.integers(0, (1 << 28) - 1))))
        if kind < BROKEN:
            pages.append(draw(tables()))
    return Batch(tuple(made), tuple(pages))


@st.composite
def live_saves(draw: st.DrawFn) -> LegacyImage:
    body: list[Piece] = draw(st.lists(batches(), max_size=6))
    if draw(st.booleans()):
        body.insert(draw(st.integers(0, len(body))), PASS)
    pfns = st.sampled_from((*FREE, P2M_SIZE, 1 << 32 | FREE[0]))
    listed = draw(st.lists(pfns, max_size=4, unique=True))
    return replace(BASE, body=(*body, *TAIL), unmapped=tuple(sorted(listed)))


@drawn(300)
@given(live_saves())
def test_drawn(image: LegacyImage) -> None:
    check(image)


# ------------------------------------------------------------------------------------ cases


def batch(*entries: tuple[int, int] | tuple[int, int, Data]) -> Batch:
    """Of (type, pfn) and (type, pfn, page)."""
    return Batch(
        tuple(word(entry[0], entry[1]) for entry in entries),
        tuple(entry[2] for entry in entries if len(entry) == 3),
    )


MAPS_9, MAPS_10, EMPTY = page(0, [(3, pte(9))]), page(0, [(511, pte(10))]), page()
TABLE, OTHER, PLAIN = (L1, 8, MAPS_9), (L1, 8, MAPS_10), (NOTAB, 8, MAPS_9)

CASES: dict[str, tuple[list[Piece], int, int]] = {
    "nothing": ([batch(TABLE)], 0, 0),
    "a listed page": ([batch((NOTAB, 9, EMPTY), TABLE)], 1, 0),
    "a listed page without data": ([batch((BROKEN, 9), (XALLOC, 9))], 2, 0),
    "a listed table": ([batch((L1, 9, MAPS_9)), batch((L1, 9, MAPS_9))], 2, 0),
    "an XTAB word with the bits of a listed pfn": ([batch((XTAB, 9), TABLE)], 0, 0),
    "an XTAB word beyond p2m_size beside a table": ([batch((XTAB, 0x0FFF_FFFF), TABLE), batch(OTHER)], 0, 1),
    "an XTAB word supersedes nothing": ([batch(TABLE), batch((XTAB, 8))], 0, 0),
    "superseded by a table": ([batch(TABLE), batch(OTHER)], 0, 1),
    "superseded by the same table": ([batch(TABLE), batch(TABLE)], 0, 1),
    "superseded by an ordinary page": ([batch(TABLE), batch(PLAIN)], 0, 1),
    "superseded by a broken page": ([batch(TABLE), batch((BROKEN, 8))], 0, 1),
    "superseded by an allocation": ([batch(TABLE), batch((XALLOC, 8))], 0, 1),
    "an ordinary page superseded": ([batch(PLAIN), batch(TABLE)], 0, 0),
    "superseded twice": ([batch(TABLE), batch(PLAIN), batch(TABLE), batch(OTHER)], 0, 2),
    "superseded within the batch": ([batch(TABLE, OTHER)], 0, 1),
    "superseded within the batch by a broken page": ([batch(TABLE, (BROKEN, 8))], 0, 1),
    "superseded within the batch and then again": ([batch(TABLE, PLAIN, TABLE), batch(PLAIN)], 0, 2),
    "superseded, but maps another pfn": ([batch(OTHER), batch(OTHER)], 0, 0),
    "superseded, but the entry is not present": (
        [batch((L1, 8, page(0, [(3, pte(9, 0x66))]))), batch(OTHER)],
        0,
        0,
    ),
    "superseded, but maps a pfn that ends alike": (
        [batch((L1, 8, page(0, [(3, pte(1 << 32 | 9))]))), batch(OTHER)],
        0,
        0,
    ),
    "superseded, maps it with bits above the frame": (
        [batch((L1, 8, page(0, [(3, 0xFFF << 52 | pte(9))]))), batch(OTHER)],
        0,
        1,
    ),
    "apart before and behind -1": ([batch(TABLE), PASS, batch(OTHER)], 0, 0),
    "superseded before -1": ([batch(TABLE), batch(OTHER), PASS, batch(TABLE)], 0, 1),
    "superseded behind -1": ([batch(TABLE), PASS, batch(TABLE), batch(OTHER)], 0, 1),
    "a listed page behind -1": ([PASS, batch((NOTAB, 9, EMPTY))], 1, 0),
    "both": ([batch((NOTAB, 9, EMPTY), TABLE), batch(OTHER), batch((NOTAB, 9, EMPTY))], 2, 1),
}


@pytest.mark.parametrize(("body", "pages", "superseded"), CASES.values(), ids=CASES)
def test_case(body: list[Piece], pages: int, superseded: int) -> None:
    image = replace(BASE, body=(*body, *TAIL), unmapped=(9, P2M_SIZE, 1 << 32 | 10))
    assert len(listed_words(image)) == pages
    assert len(superseded_tables(image) - listed_words(image)) == superseded
    check(image)


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    body, _, _ = CASES["both"]
    image = replace(BASE, body=(*body, *TAIL), unmapped=(9,))
    with open_file(image.to_bytes()) as old:
        done = xenmig_np.convert(old, str(tmp_path / "new"), sync=False)
    assert done.left_out == 3
    told = [note.text for note in done.input.warnings if note.rule == "D22"]
    assert len(told) == 1
    assert "entries of pages that the guest gave back (2)" in told[0]
    assert "superseded page tables that refer to such pages (1)" in told[0]


def test_the_refusal_tells_a_way_out() -> None:
    body, _, _ = CASES["a listed page"]
    image = replace(BASE, body=(*body, *TAIL), unmapped=(9,))
    with piped(image.to_bytes()) as old, open_file() as new, pytest.raises(xenmig_np.XenmigError) as caught:
        xenmig_np.convert(old, new)
    assert "give a file" in str(caught.value.hint)
    assert "--spool" in str(caught.value.hint)


def test_spooled(tmp_path: Path) -> None:
    body, _, _ = CASES["both"]
    data = replace(BASE, body=(*body, *TAIL), unmapped=(9,)).to_bytes()
    assert converted(data, pipe=True, spool=str(tmp_path)) == converted(data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("position", [0, 131_071, 131_072, 199_999])
def test_a_long_list(position: int) -> None:
    """The list comes in pieces of 1 MiB; each of its entries counts."""
    p2m_size = 400_000
    listed = tuple(range(150_000, 350_000))
    early = batch((L1, 8, page(0, [(7, pte(listed[position]))])))
    frames = tuple(range(20, 20 + -(-p2m_size // 512)))
    image = replace(BASE, p2m_size=p2m_size, frames=frames, unmapped=listed)
    image = replace(image, body=(early, batch(OTHER), *TAIL))
    of_file = converted(image.to_bytes())
    assert isinstance(of_file, bytes)
    assert written(of_file) == kept(replace(image, body=(batch(OTHER), *TAIL), unmapped=()))
    assert converted(image.to_bytes(), pipe=True) == UNSUPPORTED


@pytest.mark.parametrize("rounds", [1, 3])
def test_many_tables_on_a_pipe(rounds: int) -> None:
    """What is remembered of tables grows and is used again; those of the last round are not superseded."""
    p2m_size, count = 4096, 700
    pfns = range(100, 100 + count)
    body = tuple(
        batch(*((L1, pfn, page(0, [(turn, pte(1000 + turn * count + pfn - 100))])) for pfn in pfns))
        for turn in range(rounds)
    )
    image = replace(BASE, p2m_size=p2m_size, frames=tuple(range(20, 28)), body=(*body, *TAIL))
    of_last, of_first = 1000 + rounds * count - 1, 1000
    for listed, out in ((of_last, False), (of_first, rounds > 1), (1000 + rounds * count, False)):
        data = replace(image, unmapped=(listed,)).to_bytes()
        of_file = converted(data)
        assert isinstance(of_file, bytes)
        assert len(written(of_file)[0] or ()) == count - out
        assert converted(data, pipe=True) == (UNSUPPORTED if out else of_file)
