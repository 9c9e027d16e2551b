"""Compressed page data of checkpoints equals what the plain decoder makes of it, wherever it is cut."""

from __future__ import annotations

import os
import struct
import tempfile
import tracemalloc
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import plain.delta
import pytest
from conftest import open_file
from drawn import drawn
from hypothesis import given
from hypothesis import strategies as st
from plain.delta import CACHED, FULL, PAGE, UNCHANGED, Invalid, Sender, decode_body, encode_page
from real import ALL, Sample, each

from xenmig_np.errors import InputOutputError, InvalidImage, Note, TruncatedImage
from xenmig_np.io.source import FileSource, Source, StreamSource
from xenmig_np.read.delta import PARTS_MAX, PIECE, DeltaBody, distinct
from xenmig_np.read.pagestore import NOWHERE, STORED, LastCopies, PageStore
from xenmig_np.wire.compression import COMPRESSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

MIB: Final = 1 << 20
ORDINARY, TABLE = 0, 1
HEAD: Final = 8
"""Bytes before each payload in these inputs, as a chunk has them."""
SIZE: Final = 24
"""Pfns of a guest here."""


class Decoding:
    """An input that grows, and what is known of its pages. With ``pipe`` nothing is read a second time."""

    def __init__(self, size: int = SIZE, *, pipe: bool = False, contents: bool = True) -> None:
        self.fd = os.memfd_create("image")
        self.end = 0
        self.add(bytes(HEAD))
        kind = StreamSource if pipe else FileSource
        self.source: Source = kind(self.fd, "image", owned=True)
        self.store = PageStore()
        self.copies = LastCopies(size, self.source, self.store, contents=contents)
        self.size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()
        self.source.close()

    def add(self, data: bytes) -> int:
        """Where the data lies."""
        at = self.end
        self.end += os.pwrite(self.fd, data, at)
        return at

    def plain(self, pages: dict[int, bytes]) -> None:
        """Pages as the first body has them."""
        pfns, data = np.array([*pages], np.uint32), b"".join(pages.values())
        if self.source.seekable:
            self.copies.plain(pfns, self.add(data), "page batch 0")
        else:
            self.copies.keep(pfns, np.frombuffer(data, np.uint8).reshape(-1, PAGE))

    def body(self) -> DeltaBody:
        return DeltaBody(self.copies, "image")

    def chunk(self, body: DeltaBody, payload: bytes) -> int:
        at = self.add(bytes(HEAD) + payload) + HEAD
        body.feed(memoryview(payload), at)
        return at

    def pages(self, addresses: np.ndarray[Any, np.dtype[np.int64]]) -> list[bytes]:
        return [page.tobytes() for page in self.copies.read(addresses, "pages")]

    def last(self) -> dict[int, bytes]:
        """The last copy of each pfn."""
        pfns = np.flatnonzero(self.copies.of(np.arange(self.size)) != NOWHERE)
        return dict(zip(pfns.tolist(), self.pages(self.copies.of(pfns)), strict=True))


def decoded(base: bytes | None, data: bytes) -> tuple[list[bytes], Note | None]:
    """Both decoders on one page, pfn 1."""
    with Decoding() as decoding:
        if base is not None:
            decoding.plain({1: base})
        body = decoding.body()
        body.announce(np.array([1], np.uint32))
        decoding.chunk(body, data)
        note = body.finish(decoding.end)
        pages = decoding.pages(body.places)
    assert pages[0] == plain.delta.decode_page(data, 0, base)[0]
    return pages, note


# ---- the worked bytes (legacy-stream.md 5.4) ---------------------------------------------------------------

ZERO: Final = bytes(PAGE)
WORKED: Final = {
    "word 2": (bytes(8) + bytes.fromhex("11223344") + bytes(PAGE - 12), "820111223344ffffffffffffffff85", 15),
    "128 words": (b"\x07" * 512 + bytes(PAGE - 512), "7f" + "07" * 508 + "0107070707" + "ff" * 7 + "87", 522),
    "last word": (bytes(PAGE - 4) + bytes.fromhex("aabbccdd"), "ff" * 8 + "8701aabbccdd", 14),
    "every word": (b"\x09" * PAGE, ("7f" + "09" * 508) * 8 + "08" + "09" * 32, 4105),
    "unchanged": (ZERO, "00", 1),
    "in full": (ZERO, "80" + "00" * PAGE, 4097),
}


@pytest.mark.parametrize(("page", "encoded", "length"), WORKED.values(), ids=[*WORKED])
def test_worked_bytes(page: bytes, encoded: str, length: int) -> None:
    data = bytes.fromhex(encoded)
    assert len(data) == length
    assert decoded(ZERO, data) == ([page], None)
    if data[0] != FULL:
        assert encode_page(ZERO, page) == data


def test_worked_sender() -> None:
    sender = Sender()
    changed = bytes(8) + b"\x11\x22\x33\x44" + bytes(PAGE - 12)
    lengths = [
        len(sender.encode(1, kind, page))
        for kind, page in [
            (ORDINARY, ZERO), (ORDINARY, ZERO), (ORDINARY, changed), (TABLE, changed), (ORDINARY, changed)
        ]
    ]  # fmt: skip
    assert lengths == [4097, 1, 15, 4097, 4097]


def test_sender_forgets() -> None:
    sender = Sender(size=2)
    assert [sender.encode(pfn, ORDINARY, ZERO)[0] for pfn in (1, 2, 1, 3, 1, 2)] == [
        FULL, FULL, UNCHANGED, FULL, UNCHANGED, FULL
    ]  # fmt: skip


# ---- drawn bodies ------------------------------------------------------------------------------------------

Change = list[tuple[int, int, int]]
"""First word, words and the byte that fills them."""
changes: Final = st.lists(
    st.tuples(st.integers(0, 1023), st.integers(1, 300), st.integers(0, 255)), max_size=4
)


@dataclass(frozen=True)
class Body:
    """Pages in order, as (pfn, how it is encoded, change), their batches and chunks."""

    pages: list[tuple[int, str, Change, list[int]]]
    batch: int
    """Pages of a batch."""
    cuts: list[float]
    """Where chunks end, as parts of what has been announced; the last one is used for all others."""
    keeps: bool
    """Whether the checkpoint completes."""
    ends: float
    """The part of its data that is there where it does not."""


bodies: Final = st.builds(
    Body,
    pages=st.lists(
        st.tuples(
            st.integers(0, SIZE - 1),
            st.sampled_from(["full", "sender", "least", "ragged"]),
            changes,
            st.lists(st.integers(1, 127), min_size=1, max_size=6),
        ),
        max_size=20,
    ),
    batch=st.integers(1, 7),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    keeps=st.booleans(),
    ends=st.floats(0, 1),
)


def changed(page: bytes, change: Change) -> bytes:
    new = bytearray(page)
    for first, words, byte in change:
        size = min(words * 4, PAGE - first * 4)
        new[first * 4 : first * 4 + size] = bytes([byte]) * size
    return bytes(new)


def ragged(old: bytes, new: bytes, lengths: list[int]) -> bytes:
    """Runs of given lengths, again and again: copies also of words that are the same, skips in pieces."""
    data = b""
    at = turn = 0
    while at < PAGE:
        words = min(lengths[turn % len(lengths)], (PAGE - at) // 4)
        piece = slice(at, at + 4 * words)
        skipped = old[piece] == new[piece] and turn % 3
        data += bytes([0x80 | words]) if skipped else bytes([words]) + new[piece]
        at += 4 * words
        turn += 1
    return data


@dataclass
class Guest:
    """What is sent, page by page."""

    pages: dict[int, bytes]
    sender: Sender = field(default_factory=lambda: Sender(size=5))

    def encoded(self, body: Body) -> list[bytes]:
        data = []
        for pfn, how, change, lengths in body.pages:
            old = self.pages.get(pfn)
            new = changed(old or bytes(PAGE), change)
            sent = self.sender.encode(pfn, ORDINARY, new)
            if how == "full" or old is None:
                sent = bytes([FULL]) + new
            elif how == "least":
                sent = encode_page(old, new)
            elif how == "ragged":
                sent = ragged(old, new, lengths)
            self.pages[pfn] = new
            data.append(sent)
        return data


def fed(
    decoding: Decoding, body: DeltaBody, drawn_body: Body, encoded: list[bytes], part: float = 1.0
) -> bytes:
    """Announce and feed a body: never more data than pages announced. Returns what was fed."""
    data = b"".join(encoded)
    data = data[: int(len(data) * part)]
    pfns = np.array([pfn for pfn, *_ in drawn_body.pages], np.uint32)
    ready = at = turn = 0
    for first in range(0, len(pfns), drawn_body.batch):
        body.announce(pfns[first : first + drawn_body.batch])
        ready = min(ready + sum(map(len, encoded[first : first + drawn_body.batch])), len(data))
        cut = at + int((ready - at) * drawn_body.cuts[turn % len(drawn_body.cuts)])
        decoding.chunk(body, data[at:cut])
        at, turn = cut, turn + 1
    while at < len(data):
        cut = at + max(int((len(data) - at) * drawn_body.cuts[-1]), 1000)
        decoding.chunk(body, data[at:cut])
        at = cut
    return data


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
@given(
    first=st.dictionaries(st.integers(0, SIZE - 1), st.integers(0, 255), max_size=SIZE),
    drawn_bodies=st.lists(bodies, min_size=1, max_size=5),
)
@drawn(60)
def test_as_the_plain_decoder(pipe: bool, first: dict[int, int], drawn_bodies: list[Body]) -> None:  # noqa: FBT001 - a parameter
    guest = Guest({pfn: bytes([fill]) * PAGE for pfn, fill in first.items()})
    known = dict(guest.pages)
    with Decoding(pipe=pipe) as decoding:
        decoding.plain(guest.pages)
        for drawn_body in drawn_bodies:
            before = dict(known), Guest(dict(guest.pages), guest.sender)
            encoded = guest.encoded(drawn_body)
            body = decoding.body()
            decoding.copies.begin()
            data = fed(decoding, body, drawn_body, encoded, 1.0 if drawn_body.keeps else drawn_body.ends)
            if drawn_body.keeps:
                pages, surplus = decode_body(data, [pfn for pfn, *_ in drawn_body.pages], known)
                assert (body.finish(decoding.end), surplus) == (None, 0)
                assert decoding.pages(body.places) == pages
                assert body.announced == body.delivered == len(pages)
                decoding.copies.commit()
                assert decoding.pages(body.places) == pages  # they hold until the next body
            else:
                if len(data) < sum(map(len, encoded)):
                    with pytest.raises(InvalidImage, match="as its batches announce"):
                        body.finish(decoding.end)
                decoding.copies.rollback()
                known, guest = before
                guest.sender = Sender(size=5)  # who starts anew, in full
            assert decoding.last() == known


heads: Final = st.one_of(
    st.just(b"\x00"),
    st.binary(min_size=1, max_size=1),
    st.integers(0, 255).map(lambda byte: bytes([FULL]) + bytes([byte]) * PAGE),
    st.just(encode_page(ZERO, b"\x09" * PAGE)),
    st.just(b"\xff" * 8 + b"\x88"),
    st.integers(1, 127).map(lambda words: bytes([words]) + bytes(range(256)) * 2),
    st.just(b"\x01abcd\x81" * 512),
)
SAYS: Final = {
    "ends": "the end of the body behind",
    "no words": "a run of no words",
    "beyond": "one that ends with word 1,024",
    "never came": "a change of a page that never came",
}


@given(
    st.lists(heads, max_size=12).map(b"".join),
    st.lists(st.integers(0, 9), max_size=12),
    st.lists(st.integers(1, 6000), max_size=6),
)
@drawn(300)
def test_any_bytes_have_the_verdict_of_the_plain_decoder(
    data: bytes, pfns: list[int], lengths: list[int]
) -> None:
    known = {pfn: bytes([pfn]) * PAGE for pfn in range(5)}
    verdict: str | tuple[list[bytes], int]
    with Decoding() as decoding:
        decoding.plain(known)
        body = decoding.body()
        decoding.copies.begin()
        body.announce(np.array(pfns, np.uint32))
        try:
            verdict = decode_body(data, pfns, known)
        except Invalid as error:
            verdict = str(error)
        told, note = "", None
        try:
            at = 0
            for length in [*lengths, len(data)]:
                decoding.chunk(body, data[at : at + length])
                at += length
            note = body.finish(decoding.end)
        except InvalidImage as error:
            told = str(error)
        if isinstance(verdict, str):
            assert SAYS[verdict] in told
        else:
            assert told == ""
            assert (decoding.pages(body.places), body.surplus) == verdict
            assert bool(note) == bool(body.surplus)
            assert decoding.last() == known


def test_a_walk_stops_and_goes_on() -> None:
    """More heads than are walked at a time, more data than waits, more chunks than wait."""
    old = {pfn: bytes([pfn]) * PAGE for pfn in range(SIZE)}
    single = b"\x01abcd\x81" * 512
    encoded = [single, b"\x00", bytes([FULL]) + b"\x05" * PAGE] * 400
    pfns = [pfn % SIZE for pfn in range(len(encoded))]
    data = b"".join(encoded)
    assert len(data) > PIECE
    small = 1000
    assert len(data) > small * PARTS_MAX
    pages, _ = decode_body(data, pfns, dict(old))
    for length in (len(data), small):
        with Decoding() as decoding:
            decoding.plain(old)
            body = decoding.body()
            decoding.copies.begin()
            body.announce(np.array(pfns, np.uint32))
            for at in range(0, len(data), length):
                decoding.chunk(body, data[at : at + length])
            assert body.finish(decoding.end) is None
            assert decoding.pages(body.places) == pages


@pytest.mark.parametrize(
    ("pfns", "parts"),
    [
        ([], [(0, 0)]),
        ([4], [(0, 1)]),
        ([4, 5, 9], [(0, 3)]),
        ([9, 5, 4], [(0, 3)]),
        ([4, 4, 4], [(0, 1), (1, 2), (2, 3)]),
        ([1, 2, 1, 3, 2, 3, 4], [(0, 2), (2, 5), (5, 7)]),
    ],
)
def test_parts_without_a_pfn_twice(pfns: list[int], parts: list[tuple[int, int]]) -> None:
    assert list(distinct(np.array(pfns, np.uint32))) == parts


# ---- errors and notes --------------------------------------------------------------------------------------


@pytest.fixture
def decoding() -> Iterator[Decoding]:
    """One where pfns 1 and 2 have pages."""
    with Decoding() as found:
        found.plain({1: b"\x01" * PAGE, 2: b"\x02" * PAGE})
        yield found


LAST_WORD: Final = b"\xff" * 8 + b"\x87\x01abcd"
NO_WORDS: Final = ("a run of no words", "1 to 127 words")
NO_BASE: Final = ("a change of a page that never came", "its first copy in full")
BEYOND: Final = "one that ends with word 1,024 of the page"


@pytest.mark.parametrize(
    ("data", "at", "page", "found", "expected"),
    [
        pytest.param(b"\x00\x82\x00", 2, "1 of the body (pfn 0x2)", *NO_WORDS, id="no words"),
        pytest.param(b"\x00\x82" + b"\x80" * 5000, 2, "1 of the body (pfn 0x2)", *NO_WORDS, id="0x80 inside"),
        pytest.param(b"\xff" * 9, 8, "0 of the body (pfn 0x1)", "a run of 127 words", BEYOND, id="skip"),
        pytest.param(
            b"\xff" * 8 + b"\x09" + bytes(36), 8, "0 of the body (pfn 0x1)", "a run of 9 words", BEYOND,
            id="copy",
        ),
        pytest.param(LAST_WORD * 3, 28, "2 of the body (pfn 0x7)", *NO_BASE, id="no base"),
        pytest.param(LAST_WORD * 2 + b"\x00\x81\x00", 28, "2 of the body (pfn 0x7)", *NO_BASE, id="same"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(
    decoding: Decoding, data: bytes, at: int, page: str, found: str, expected: str
) -> None:
    body = decoding.body()
    body.announce(np.array([1, 2, 7, 8, 9], np.uint32))
    payload = decoding.chunk(body, data)
    with pytest.raises(InvalidImage) as caught:
        body.finish(decoding.end)
    error = caught.value
    assert (error.path, error.offset) == ("image", payload + at)
    assert error.item == f"chunk -12 (compressed_data), page {page}"
    assert (error.found, error.expected) == (found, expected)


def test_a_run_beyond_the_page_is_told_though_its_words_are_not_there(decoding: Decoding) -> None:
    body = decoding.body()
    body.announce(np.array([1], np.uint32))
    decoding.chunk(body, b"\xff" * 8 + b"\x09")
    with pytest.raises(InvalidImage, match="a run of 9 words"):
        body.finish(decoding.end)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "the end of the body behind 0 pages"),
        (LAST_WORD, "the end of the body behind 1 pages"),
        (LAST_WORD + LAST_WORD[:-1], "the end of the body behind 1 pages and a part of one"),
        (LAST_WORD + bytes([FULL]) + bytes(PAGE - 1), "the end of the body behind 1 pages and a part of one"),
    ],
)
def test_fewer_pages_than_announced(decoding: Decoding, data: bytes, told: str) -> None:
    body = decoding.body()
    body.announce(np.array([1, 2], np.uint32))
    decoding.chunk(body, data)
    with pytest.raises(InvalidImage, match="2 pages, as its batches announce") as caught:
        body.finish(77)
    assert (caught.value.offset, caught.value.found) == (77, told)


def test_bytes_behind_the_last_page(decoding: Decoding) -> None:
    body = decoding.body()
    body.announce(np.array([1], np.uint32))
    payload = decoding.chunk(body, LAST_WORD + b"\x00\x01")
    decoding.chunk(body, b"\x80\x80\x80")
    note = body.finish(decoding.end)
    text = "chunk -12 (compressed_data): 5 bytes behind the last page of a body ignored"
    assert note == Note("legacy 5.3", text, payload + len(LAST_WORD))
    assert (body.announced, body.delivered, body.surplus) == (1, 1, 5)


def test_many_bytes_behind_the_last_page(decoding: Decoding) -> None:
    body = decoding.body()
    body.announce(np.array([1], np.uint32))
    payload = decoding.chunk(body, b"\x00" + bytes(2 * PIECE))
    decoding.chunk(body, bytes(PIECE))
    note = body.finish(decoding.end)
    assert note is not None
    assert (note.offset, body.surplus) == (payload + 1, 3 * PIECE)


def test_small_chunks_do_not_pile_up(decoding: Decoding) -> None:
    """Of each that waits more is kept than its bytes."""
    body = decoding.body()
    body.announce(np.array([1, 2] * PARTS_MAX, np.uint32))
    for _ in range(PARTS_MAX + 7):
        decoding.chunk(body, b"\x00")
    assert body.delivered == PARTS_MAX


def test_data_before_its_batch(decoding: Decoding) -> None:
    body = decoding.body()
    body.announce(np.array([1], np.uint32))
    payload = decoding.chunk(body, LAST_WORD + b"\x00")
    body.announce(np.array([], np.uint32))  # a batch without data is none
    with pytest.raises(InvalidImage, match="page data before the batch that it belongs to") as caught:
        body.announce(np.array([2], np.uint32))
    assert caught.value.offset == payload + len(LAST_WORD)


def test_part_of_a_page_before_the_next_batch(decoding: Decoding) -> None:
    body = decoding.body()
    body.announce(np.array([1, 2], np.uint32))
    decoding.chunk(body, LAST_WORD + LAST_WORD[:3])
    body.announce(np.array([1], np.uint32))
    decoding.chunk(body, LAST_WORD[3:])
    decoding.chunk(body, b"\x00")
    assert body.finish(decoding.end) is None
    assert decoding.last() == {pfn: bytes([pfn]) * (PAGE - 4) + b"abcd" for pfn in (1, 2)}


def test_empty_body(decoding: Decoding) -> None:
    body = decoding.body()
    decoding.chunk(body, b"")
    assert body.finish(decoding.end) is None
    assert body.places.tolist() == []


# ---- where pages lie ---------------------------------------------------------------------------------------


def test_pages_in_full_stay_in_the_input(decoding: Decoding) -> None:
    body = decoding.body()
    body.announce(np.array([3, 4, 5, 1], np.uint32))
    data = b"".join(bytes([FULL]) + bytes([fill]) * PAGE for fill in (3, 4, 5)) + b"\x00"
    first = decoding.chunk(body, data[:6000])  # the second page lies in two chunks
    second = decoding.chunk(body, data[6000:])
    assert body.finish(decoding.end) is None
    assert body.places[[0, 2]].tolist() == [first + 1, second + 2 * 4097 + 1 - 6000]
    assert body.places[1] >= STORED
    assert body.places[3] == 2 * HEAD - HEAD
    assert decoding.store.size == PAGE
    assert decoding.last() == {pfn: bytes([pfn]) * PAGE for pfn in range(1, 6)}


def test_of_an_archive_all_is_kept() -> None:
    """It can be read again, from its beginning on: not a page here and a page there."""
    with Decoding() as decoding:
        decoding.source.compression = COMPRESSIONS[0]
        decoding.copies = LastCopies(SIZE, decoding.source, decoding.store)
        assert not decoding.copies.rereads
        decoding.plain({1: b"\x01" * PAGE, 2: b"\x02" * PAGE})
        assert (decoding.copies.of(np.arange(1, 3)) >= STORED).all()
        assert decoding.last() == {1: b"\x01" * PAGE, 2: b"\x02" * PAGE}
        with pytest.raises(TruncatedImage, match="page batch 0"):
            decoding.copies.plain(np.array([3], np.uint32), decoding.end, "page batch 0")
        dry = LastCopies(SIZE, decoding.source, decoding.store, contents=False)
        dry.plain(np.array([3], np.uint32), decoding.end, "page batch 0")  # which nobody reads
        assert dry.of(np.array([3]))[0] >= STORED


def test_of_a_pipe_all_is_kept() -> None:
    with Decoding(pipe=True) as decoding:
        decoding.plain({1: b"\x01" * PAGE})
        body = decoding.body()
        decoding.copies.begin()
        body.announce(np.array([3, 1, 2], np.uint32))
        decoding.chunk(body, b"\x80" + b"\x03" * PAGE + LAST_WORD + b"\x80" + b"\x02" * PAGE)
        assert body.finish(decoding.end) is None
        decoding.copies.commit()
        assert (decoding.copies.of(np.arange(1, 4)) >= STORED).all()
        assert decoding.store.size == 4 * PAGE
        assert decoding.last()[1] == b"\x01" * (PAGE - 4) + b"abcd"


@pytest.mark.parametrize("completes", [True, False])
def test_the_store_does_not_grow_with_checkpoints(*, completes: bool) -> None:
    known = {pfn: bytes([pfn]) * PAGE for pfn in range(SIZE)}
    with Decoding() as decoding:
        decoding.plain(known)
        for turn in range(40):
            pfns = list(range(turn % 5, SIZE, 2))
            word = struct.pack("<I", turn)
            body = decoding.body()
            decoding.copies.begin()
            body.announce(np.array(pfns, np.uint32))
            data = (b"\xff" * 8 + b"\x87\x01" + word) * len(pfns)
            decoding.chunk(body, data)
            assert body.finish(decoding.end) is None
            if completes or turn % 2:
                decode_body(data, pfns, known)
                decoding.copies.commit()
            else:
                decoding.copies.rollback()
            assert decoding.last() == known
        assert decoding.store.size <= (SIZE + SIZE // 2) * PAGE


def test_plain_pages_that_are_kept_supersede_at_once() -> None:
    """A live first body on a pipe sends pages again and again, even within one batch."""
    with Decoding(pipe=True) as decoding:
        for fill in range(20):
            pages = np.arange(fill, fill + 3, dtype=np.uint8).repeat(PAGE).reshape(3, PAGE)
            decoding.copies.keep(np.array([5, 6, 5], np.uint32), pages)
            assert decoding.last() == {5: bytes([fill + 2]) * PAGE, 6: bytes([fill + 1]) * PAGE}
        assert decoding.store.size <= 5 * PAGE


def test_without_contents_nothing_is_written() -> None:
    """The verdict and the places alone, for who wants to know what a conversion will give."""
    with Decoding(contents=False) as decoding:
        decoding.plain({1: bytes(PAGE)})
        body = decoding.body()
        body.announce(np.array([1, 3, 1], np.uint32))
        payload = decoding.chunk(body, LAST_WORD + b"\x80" + bytes(PAGE) + LAST_WORD)
        assert body.finish(decoding.end) is None
        assert (body.places >= STORED).tolist() == [True, False, True]
        assert body.places[1] == payload + len(LAST_WORD) + 1
        decoding.copies.keep(np.array([4], np.uint32), np.zeros((1, PAGE), np.uint8))
        assert decoding.store.read_at(0, memoryview(bytearray(1))) == 0
        body = decoding.body()
        body.announce(np.array([1, 2], np.uint32))
        decoding.chunk(body, LAST_WORD + b"\x00")
        with pytest.raises(InvalidImage, match="page that never came"):
            body.finish(decoding.end)


def test_one_source_for_both_kinds_of_addresses(decoding: Decoding) -> None:
    source = decoding.copies.source
    place = int(decoding.copies.keep(np.array([5], np.uint32), np.full((1, PAGE), 5, np.uint8))[0])
    into = bytearray(PAGE)
    assert source.read_at(place, memoryview(into)) == PAGE
    assert into == b"\x05" * PAGE
    assert source.read_at(HEAD, memoryview(into)) == PAGE
    assert into == b"\x01" * PAGE
    assert (source.seekable, source.path, source.start) == (True, "image", 0)
    source.leave(77)
    assert os.lseek(decoding.fd, 0, os.SEEK_CUR) == 77
    source.close()
    assert os.fstat(decoding.fd).st_size == decoding.end  # still open


def test_released_through_it() -> None:
    with Decoding(pipe=True) as decoding:
        out, into = os.pipe()
        os.dup2(out, decoding.fd)
        os.write(into, b"abcd")
        os.close(into)
        os.close(out)
        decoding.copies.source.release()
        assert decoding.copies.source.read_at(2, memoryview(bytearray(2))) == 2
        with pytest.raises(ValueError, match="cannot be read at"):
            decoding.copies.source.read_at(0, memoryview(bytearray(2)))


# ---- bounds and failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_memory_is_bounded(*, pipe: bool) -> None:
    count = 9000
    assert count > CACHED
    with Decoding(count, pipe=pipe) as decoding:
        for first in range(0, count, 100):
            decoding.plain({pfn: pfn.to_bytes(4, "little") * 1024 for pfn in range(first, first + 100)})
        kinds = (
            LAST_WORD,
            LAST_WORD,
            b"\x80" + bytes(PAGE),
            b"\x00",
            b"\x7f" + bytes(508) + b"\xff" * 7 + b"\x88",
        )
        data = b"".join(kinds * (count // len(kinds)))
        view = memoryview(data)
        body = decoding.body()
        decoding.copies.begin()
        tracemalloc.start()
        for first in range(0, count, 1000):
            body.announce(np.arange(first, first + 1000, dtype=np.uint32))
        for at in range(0, len(data), 3000):
            body.feed(view[at : at + 3000], decoding.end + at)
        assert body.finish(decoding.end) is None
        decoding.copies.commit()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        decoding.add(data)
        assert peak < 8 * MIB
        assert body.delivered == count
        last = decoding.pages(decoding.copies.of(np.arange(count - 5, count)))
    old = [pfn.to_bytes(4, "little") * 1024 for pfn in range(count - 5, count)]
    assert last == [
        old[0][:-4] + b"abcd", old[1][:-4] + b"abcd", bytes(PAGE), old[3], bytes(508) + old[4][508:]
    ]  # fmt: skip


def test_the_folder_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a file when one is needed and not before."""
    folders = []
    real = tempfile.TemporaryFile

    def temporary(**how: Any) -> Any:
        folders.append(how["dir"])
        return real(**how)

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary)
    with PageStore(str(tmp_path)) as store:
        assert folders == []
        assert store.read_at(0, memoryview(bytearray(1))) == 0
    assert folders == [str(tmp_path)]


def test_a_store_leaves_nothing(tmp_path: Path) -> None:
    with PageStore(str(tmp_path)) as store:
        store.write(store.take(1), np.zeros((1, PAGE), np.uint8))
        assert os.listdir(tmp_path) == []


def test_no_such_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "none")
    with (
        PageStore(folder) as store,
        pytest.raises(InputOutputError, match="cannot keep decoded pages") as caught,
    ):
        store.write(store.take(1), np.zeros((1, PAGE), np.uint8))
    assert caught.value.path == folder


def _fails(*_: object) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["pwrite", "preadv"])
def test_the_system_fails(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    with PageStore() as store:
        addresses = store.take(1)
        store.write(addresses, np.zeros((1, PAGE), np.uint8))
        use: Callable[[], object] = (
            (lambda: store.write(addresses, np.zeros((1, PAGE), np.uint8)))
            if call == "pwrite"
            else (lambda: store.read_at(0, memoryview(bytearray(9))))
        )
        monkeypatch.setattr(os, call, _fails)
        with pytest.raises(InputOutputError, match="No space left on device"):
            use()


def test_writes_and_reads_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take and give less than it is asked for."""
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
    monkeypatch.setattr(os, "preadv", lambda fd, into, at: preadv(fd, [into[0][:1000]], at))
    page = np.arange(PAGE, dtype=np.uint16).astype(np.uint8).reshape(1, PAGE)
    with PageStore() as store:
        store.write(store.take(1), page)
        into = bytearray(PAGE)
        assert store.read_at(0, memoryview(into)) == PAGE
        assert into == page.tobytes()


def test_the_input_has_become_shorter(decoding: Decoding) -> None:
    os.ftruncate(decoding.fd, HEAD + 100)
    body = decoding.body()
    body.announce(np.array([1], np.uint32))
    body.feed(memoryview(LAST_WORD), 5000)
    with pytest.raises(TruncatedImage, match="the end of the input after 100 bytes") as caught:
        body.finish(6000)
    assert caught.value.offset == HEAD


# ---- images that Xen wrote ---------------------------------------------------------------------------------

COMPRESSED: Final = [
    sample for sample in ALL if not sample.ran and (sample.truth["remus"] or {}).get("compressed")
]


def chunks(
    image: bytes, at: int, width: int, *, plain_body: bool
) -> Iterator[tuple[int, list[int], int, int]]:
    """Id (or entries), pfns that have data, and place and length of the payload of each chunk up to 0."""
    word, size = ("I", 4) if width == 32 else ("Q", 8)
    while number := struct.unpack_from("<i", image, at)[0]:
        at += 4
        pfns: list[int] = []
        length = 0 if number in (-1, -9, -13) else 12
        if number > 0:
            entries = struct.unpack_from(f"<{number}{word}", image, at)
            at += number * size
            pfns = [entry & 0xFFFFFFF for entry in entries if entry >> 28 & 15 < 13]
            length = PAGE * len(pfns) * plain_body
        elif number == -2:
            length = 4 + 8 * (struct.unpack_from("<i", image, at)[0] // 64 + 1)
        elif number == -7:
            length = 20
        elif number in (-12, -18):
            code = word if number == -12 else "I"
            length = struct.unpack_from(f"<{code}", image, at)[0]
            at += struct.calcsize(code)
        yield number, pfns, at, length
        at += length


def first_chunk(image: bytes, sample: Sample) -> int:
    """Behind the head of the image."""
    width = sample.width // 8
    if sample.kind == "hvm":
        return width
    total: int
    (total,) = struct.unpack_from("<I", image, 2 * width)
    per_frame = PAGE // (8 if sample.guest == "pv64" else 4)
    return 2 * width + 4 + total + width * -(-int(sample.truth["guest"]["p2m_size"]) // per_frame)


@pytest.mark.parametrize("sample", each(COMPRESSED))
def test_images_of_xen(sample: Sample) -> None:
    image = sample.unpacked()
    ends = sample.truth["remus"]["checkpoint_ends"]
    with open_file(image) as fd, PageStore() as store:
        copies = LastCopies(
            int(sample.truth["guest"]["p2m_size"]), FileSource(fd, "image", owned=False), store
        )
        for _, pfns, at, _ in chunks(image, first_chunk(image, sample), sample.width, plain_body=True):
            copies.plain(np.array(pfns, np.uint32), at, "page batch")
        for begin in ends[:-1]:
            body = DeltaBody(copies, "image")
            copies.begin()
            for number, pfns, at, length in chunks(image, begin, sample.width, plain_body=False):
                body.announce(np.array(pfns, np.uint32))
                if number == -12:
                    body.feed(memoryview(image)[at : at + length], at)
            assert body.finish(begin) is None
            assert body.delivered > 0
            copies.commit()
        memory = sample.truth["memory"]
        present = np.array(
            [pfn for first, count in memory["present_runs"] for pfn in range(first, first + count)]
        )
        pages = copies.read(copies.of(present), "pages")
        sums = "".join(f"{zlib.crc32(page.tobytes()):08x}" for page in pages)
        assert sums == memory["crc32"]
