"""The comparison of a stream with its original: equal states are told as equal, and nothing else is.

What restore would make of a stream is worked out a second time (:class:`restores.Plain`), one word at a time;
whatever is done to a stream, both must agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import debian
import pytest
import real
from conftest import KINDS, every_kind, piped, sample
from conftest import converted as made
from drawn import FORMATS, TARGETS, converted, drawn, shape
from hypothesis import assume, given
from hypothesis import strategies as st
from restores import (
    EMULATOR,
    HVM_CONTEXT,
    HVM_PARAMS,
    P2M_FRAMES,
    PAGE_DATA,
    SHARED_INFO,
    TSC,
    VCPUS,
    VERIFY,
    XENSTORE,
    ZERO,
    Word,
    compared,
    edited,
    joined,
    packed,
    plain,
    same,
    sources,
    told,
    unpacked,
)

from xenmig_np.errors import InvalidImage, NotRecognised, NotSupported, UsageError, XenmigError
from xenmig_np.io.source import open_source
from xenmig_np.testing.builder import LegacyImage, small_image
from xenmig_np.testing.fields import BROKEN, XALLOC, page, pte, word
from xenmig_np.testing.pieces import Batch, Control, Param, Vcpu, Xsave
from xenmig_np.testing.strategies import legacy_images
from xenmig_np.verification.against import compare

if TYPE_CHECKING:
    from xenmig_np.verification.comparison import Comparison, Difference

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of images that fail


# ---- conversions say the same ----------------------------------------------------------------------------


def lossless(guest: str, form: str) -> bool:
    """Whether a stream of that format holds the whole guest."""
    return guest != "hvm" or form != "libxc"


def check_same(comparison: Comparison, guest: str, form: str) -> None:
    assert comparison.counts == {}
    assert comparison.deletable == lossless(guest, form)
    sentence = "the original can be deleted: " if comparison.deletable else "do not delete the original: "
    assert comparison.verdict.startswith(sentence)
    assert comparison.complete == comparison.deletable


@every_kind
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("xl", [False, True])
def test_conversions_of_synthetic_images(guest: str, width: int, live: bool, xl: bool) -> None:  # noqa: FBT001
    old = sample(guest, width, live=live, xl=xl)
    for target in TARGETS:
        for form in ("libxl", "libxc"):
            if guest == "hvm" and target == "draft-v7":
                continue  # the draft knows no ioreq servers
            check_same(compared(made(old, target=target, format=form), old), guest, form)


def test_the_sentence() -> None:
    old = sample("pv64", live=False)
    verdict = compared(made(old), old).verdict
    assert verdict.startswith("the original can be deleted: 256 pages, 2 vCPUs, ")
    assert verdict.endswith(" identical")


@drawn(150)
@given(legacy_images(), st.sampled_from(TARGETS), st.sampled_from(FORMATS))
def test_conversions_of_drawn_images(image: LegacyImage, target: str, form: str) -> None:
    data = image.to_bytes()
    new = converted(data, target=target, format=form, **shape(image))
    assume(isinstance(new, bytes))
    assume(not (image.unmapped and allocated(image)))
    assert isinstance(new, bytes)
    if form == "auto":
        form = "libxl" if b"LibxlFmt" in new else "libxc"
    check_same(compared(new, data, **shape(image)), image.guest, form)


def allocated(image: LegacyImage) -> bool:
    """Whether an XALLOC word is in it: where it follows a page table that D22 names, a page is lost."""
    return any(
        low >> 28 & 0xF == XALLOC for piece in image.body if isinstance(piece, Batch) for low in piece.words
    )


@pytest.mark.parametrize("form", ["libxl", "libxc"])
@pytest.mark.parametrize("name", real.each(real.COVERED))
def test_conversions_of_real_images(name: real.Sample, form: str) -> None:
    old = name.unpacked()
    comparison = compared(made(old, format=form, width=name.width, guest=name.kind), old, width=name.width)
    check_same(comparison, name.guest, form)
    if not name.ran:
        assert comparison.pages == sum(count for _, count in name.truth["memory"]["present_runs"])


# ---- streams of Xen's own converter ----------------------------------------------------------------------

GAVE_BACK: Final = frozenset({"pv32-45-t64-live", "pv64-44-t64-live", "pv64-45-t32-live", "pv64-45-t64-live"})
"""Debian's converter keeps the pages that these guests gave away (v2-stream.md D22)."""


def has_extended_info(image: real.Sample) -> bool:
    """Debian's converter knows no PV image without (v2-stream.md D30)."""
    return image.ran or image.kind == "hvm" or bool(image.truth["pv"]["extended_info"])


def of_debian(old: bytes, folder: Path, image: real.Sample, form: str) -> bytes:
    xen = debian.xen()
    (folder / "old").write_bytes(old)
    options = ["-w", str(image.width), "-g", image.kind, "-f", form]
    command: list[str | Path] = [sys.executable, xen / "bin" / "convert-legacy-stream"]
    command += ["-i", folder / "old", "-o", folder / "new"]
    environment = os.environ | {
        "PYTHONPATH": str(xen / "lib" / "python"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    subprocess.run([*command, *options], env=environment, check=True, capture_output=True)
    return (folder / "new").read_bytes()


@pytest.mark.parametrize("form", ["libxl", "libxc"])
@pytest.mark.parametrize("image", real.each([one for one in real.COVERED if has_extended_info(one)]))
def test_streams_of_xens_converter(tmp_path: Path, image: real.Sample, form: str) -> None:
    old = image.unpacked()[image.stream_offset :]  # its -x option does not work
    comparison = compared(of_debian(old, tmp_path, image, form), old, width=image.width, guest=image.kind)
    if image.name in GAVE_BACK:
        assert told(comparison) == ["given-back page"]
        assert not comparison.deletable
    else:
        check_same(comparison, image.guest, form)
    verify = "verify" in image.name
    assert ("D16" in [note.rule for note in comparison.left_out]) == verify


# ---- other forms of the same state -----------------------------------------------------------------------


def one_word_each(stream: real.Stream) -> real.Stream:
    records: list[real.Record] = []
    for number, body in stream.records:
        if number == PAGE_DATA:
            records += [(number, packed([one])) for one in unpacked(body)]
        else:
            records.append((number, body))
    return replace(stream, records=records)


def last_copies_only(stream: real.Stream) -> real.Stream:
    words = [one for number, body in stream.records if number == PAGE_DATA for one in unpacked(body)]
    last = packed([*{pfn: (kind, pfn, content) for kind, pfn, content in words}.values()])
    rest = [record for record in stream.records if record[0] != PAGE_DATA]
    at = next(index for index, (number, _) in enumerate(rest) if number == TSC)
    return replace(stream, records=[*rest[:at], (PAGE_DATA, last), *rest[at:]])


def as_xen_orders_it(stream: real.Stream) -> real.Stream:
    order = {SHARED_INFO: 1, HVM_CONTEXT: 1, TSC: 2, HVM_PARAMS: 3, **dict.fromkeys(VCPUS, 4)}
    return replace(stream, records=sorted(stream.records, key=lambda record: order.get(record[0], 0)))


def one_params_record(stream: real.Stream) -> real.Stream:
    bodies = stream.of(HVM_PARAMS)
    whole = struct.pack("<II", sum(len(body) - 8 for body in bodies) // 16, 0)
    whole += b"".join(body[8:] for body in reversed(bodies))
    rest = [record for record in stream.records if record[0] != HVM_PARAMS]
    return replace(stream, records=[*rest, (HVM_PARAMS, whole)] if bodies else rest)


@every_kind
@pytest.mark.parametrize("change", [one_word_each, last_copies_only, as_xen_orders_it, one_params_record])
def test_other_forms(guest: str, width: int, change: Any) -> None:
    old = sample(guest, width, live=True, xl=True)
    new = change(real.taken_apart(made(old, format="libxl", target="xen-4.14")))
    check_same(compared(joined(new, libxl=True), old), guest, "libxl")


# ---- whatever is done to a stream ------------------------------------------------------------------------


@st.composite
def changed(draw: st.DrawFn, stream: real.Stream) -> real.Stream:
    """A stream with one change somewhere."""
    kind = draw(st.sampled_from([flipped, dropped, other_word, swapped, moved]))
    return draw(kind(stream))


@st.composite
def flipped(draw: st.DrawFn, stream: real.Stream) -> real.Stream:
    """One bit of a record's body."""
    outer = draw(st.booleans())
    records = layer(stream, outer=outer)
    at = draw(st.integers(0, len(records) - 1))
    number, body = records[at]
    assume(body)
    place = draw(st.integers(0, len(body) - 1) | st.integers(0, min(64, len(body)) - 1))
    bit = 1 << draw(st.integers(0, 7))
    records[at] = number, body[:place] + bytes([body[place] ^ bit]) + body[place + 1 :]
    return with_layer(stream, records, outer=outer)


def layer(stream: real.Stream, *, outer: bool) -> list[real.Record]:
    records = list(stream.outer if outer else stream.records)
    assume(records)
    return records


def with_layer(stream: real.Stream, records: list[real.Record], *, outer: bool) -> real.Stream:
    return replace(stream, outer=records) if outer else replace(stream, records=records)


@st.composite
def dropped(draw: st.DrawFn, stream: real.Stream) -> real.Stream:
    """A whole record."""
    outer = draw(st.booleans())
    records = layer(stream, outer=outer)
    del records[draw(st.integers(0, len(records) - 1))]
    return with_layer(stream, records, outer=outer)


def batches(stream: real.Stream) -> list[int]:
    return [at for at, (number, _) in enumerate(stream.records) if number == PAGE_DATA]


@st.composite
def other_word(draw: st.DrawFn, stream: real.Stream) -> real.Stream:
    """A word of another type or pfn, or none, or one more."""
    assume(batches(stream))
    at = draw(st.sampled_from(batches(stream)))
    words = unpacked(stream.records[at][1])
    place = draw(st.integers(0, len(words) - 1))
    kind, pfn, content = words[place]
    other = draw(st.sampled_from([0, 1, 2, 9, 0xC, BROKEN, XALLOC, 0xF]))
    new: Word = (
        other,
        pfn,
        (content or bytes([draw(st.integers(0, 1))]) * real.PAGE) if other < BROKEN else None,
    )
    how = draw(st.sampled_from(["type", "pfn", "drop", "more"]))
    if how == "pfn":
        words[place] = kind, draw(st.integers(0, 70)), content
    elif how == "drop":
        del words[place]
    else:
        words[place : place + (how == "type")] = [new]
    return edited(stream, at, packed(words) if words else None)


@st.composite
def swapped(draw: st.DrawFn, stream: real.Stream) -> real.Stream:
    """Two pages in each other's place."""
    places = [
        (at, index)
        for at in batches(stream)
        for index, (_, _, content) in enumerate(unpacked(stream.records[at][1]))
        if content is not None
    ]
    assume(len(places) > 1)
    (one, first), (two, second) = draw(st.lists(st.sampled_from(places), min_size=2, max_size=2, unique=True))
    found = {at: unpacked(stream.records[at][1]) for at in (one, two)}
    a, b = found[one][first], found[two][second]
    found[one][first], found[two][second] = (*a[:2], b[2]), (*b[:2], a[2])
    for at, words in found.items():
        stream = edited(stream, at, packed(words))
    return stream


@st.composite
def moved(draw: st.DrawFn, stream: real.Stream) -> real.Stream:
    """Two records in each other's place."""
    records = list(stream.records)
    one, two = (draw(st.integers(0, len(records) - 1)) for _ in range(2))
    records[one], records[two] = records[two], records[one]
    return replace(stream, records=records)


@drawn(200)
@given(legacy_images(unmapped=False, detectable=True), st.sampled_from(("xen-4.6", "xen-4.14")), st.data())
def test_any_change(image: LegacyImage, target: str, data: st.DataObject) -> None:
    """The original can be deleted exactly if restore would give the same guest."""
    old = image.to_bytes()
    new = converted(old, target=target, format="libxl", **shape(image))
    assume(isinstance(new, bytes))
    assert isinstance(new, bytes)
    before = real.taken_apart(new)
    after = data.draw(changed(before))
    try:
        unchanged = same(plain(after), plain(before))
    except (ValueError, struct.error):
        unchanged = False
    comparison = compared(joined(after, libxl=True), old, **shape(image))
    assert comparison.deletable == unchanged, comparison.verdict
    assert comparison.verdict.startswith("the original" if unchanged else "do not delete the original: ")


@drawn(200)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(TARGETS),
    st.lists(
        st.tuples(st.integers(0, 400) | st.integers(0, 30_000), st.integers(0, 8), st.binary(max_size=8)),
        min_size=1,
        max_size=3,
    ),
)
def test_any_damage(kind: tuple[Any, int], target: str, damage: list[tuple[int, int, bytes]]) -> None:
    """Whatever the file is, there is an answer, or an error of ours."""
    image = small_image(*kind)
    old = image.to_bytes()
    new = bytearray(made(old, target=target, **shape(image)))
    for at, length, instead in damage:
        new[at : at + length] = instead
    with contextlib.suppress(XenmigError):
        comparison = compared(bytes(new), old, **shape(image))
        assert comparison.verdict.startswith(("the original can be", "do not delete the original"))
        assert json.dumps(comparison.to_dict())


BIG: Final = [(guest, width) for guest, width in KINDS if width == 64]


@pytest.mark.parametrize(("guest", "width"), BIG)
@drawn(25)
@given(data=st.data())
def test_a_flipped_byte_of_a_page(guest: str, width: int, data: st.DataObject) -> None:
    old = sample(guest, width, xl=True)
    stream = real.taken_apart(made(old, format="libxl"))
    at = data.draw(st.sampled_from(batches(stream)))
    words = unpacked(stream.records[at][1])
    index = data.draw(st.sampled_from([index for index, one in enumerate(words) if one[2]]))
    kind, pfn, content = words[index]
    assert content
    place = data.draw(st.integers(0, real.PAGE - 1))
    words[index] = kind, pfn, content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :]
    new = joined(edited(stream, at, packed(words)), libxl=True)
    comparison = compared(new, old)
    assert comparison.counts == {"page": 1}
    (difference,) = comparison.differences
    assert (difference.what, difference.which) == ("page", pfn)
    assert difference.offset is not None
    assert difference.original_offset is not None
    assert new[difference.offset] == content[place] ^ 0x40
    assert old[difference.original_offset] == content[place]
    assert new[difference.offset :].startswith(bytes.fromhex(difference.found))
    assert old[difference.original_offset :].startswith(bytes.fromhex(difference.expected))


# ---- definite changes ------------------------------------------------------------------------------------


def first_of(stream: real.Stream, number: int) -> int:
    return next(at for at, record in enumerate(stream.records) if record[0] == number)


def taken(guest: str, **options: Any) -> tuple[bytes, real.Stream]:
    old = sample(guest, 64, **options)
    return old, real.taken_apart(made(old, format="libxl"))


def of_edit(old: bytes, stream: real.Stream) -> Comparison:
    return compared(joined(stream, libxl=True), old)


@pytest.mark.parametrize(
    ("guest", "number", "what"),
    [
        ("pv64", 4, "vCPU context"),
        ("pv64", 5, "vCPU extended context"),
        ("pv64", 6, "vCPU xsave record"),
        ("pv64", SHARED_INFO, "shared info"),
        ("pv64", P2M_FRAMES, "p2m frame"),
        ("hvm", HVM_CONTEXT, "HVM context"),
        ("hvm", HVM_PARAMS, "HVM parameter"),
        ("hvm", TSC, "TSC value"),
    ],
)
def test_a_changed_record(guest: str, number: int, what: str) -> None:
    old, stream = taken(guest)
    at = first_of(stream, number)
    body = stream.records[at][1]
    place = {P2M_FRAMES: 8, TSC: 9}.get(number, len(body) - 8)
    new = edited(stream, at, body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
    comparison = of_edit(old, new)
    assert comparison.counts == {what: 1}
    difference = comparison.differences[0]
    assert difference.offset is not None
    assert difference.original_offset is not None
    assert not comparison.deletable
    gone = of_edit(old, edited(stream, at, None))
    assert what in gone.counts
    assert not gone.deletable


@pytest.mark.parametrize("number", [XENSTORE, EMULATOR])
def test_a_dropped_record_of_the_device_model(number: int) -> None:
    old, stream = taken("hvm")
    left = replace(stream, outer=[record for record in stream.outer if record[0] != number])
    comparison = of_edit(old, left)
    assert told(comparison) == [{XENSTORE: "xenstore key", EMULATOR: "device model"}[number]]
    assert comparison.differences[0].found == "none"


def test_a_changed_device_model() -> None:
    old, stream = taken("hvm")
    outer = [(number, body[:-1] + b"?" if number == EMULATOR else body) for number, body in stream.outer]
    difference = of_edit(old, replace(stream, outer=outer)).differences[0]
    assert difference.what == "device model"
    assert difference.original_offset is not None
    assert difference.offset is not None
    assert joined(replace(stream, outer=outer), libxl=True)[difference.offset : difference.offset + 1] == b"?"


def test_words() -> None:
    old, stream = taken("pv64")
    at = first_of(stream, PAGE_DATA)
    words = unpacked(stream.records[at][1])
    index = next(index for index, one in enumerate(words) if one[0] == 0)
    _, pfn, content = words[index]

    def told_of(*new: Word) -> tuple[dict[str, int], Difference]:
        comparison = of_edit(old, edited(stream, at, packed([*words[:index], *new, *words[index + 1 :]])))
        return comparison.counts, comparison.differences[0]

    assert told_of()[0] == {"missing page": 1}
    counts, difference = told_of((9, pfn, content))
    assert counts == {"page type": 1}
    assert (difference.found, difference.expected, difference.which) == ("L1TAB_PINNED", "NOTAB", pfn)
    counts, difference = told_of((0, pfn, content), (0, 0x7000, content))
    assert (counts, difference.which) == ({"extra page": 1}, 0x7000)
    assert f"{difference}".startswith("extra page 0x7000 at 0x")


def test_no_pages_of_another_size() -> None:
    old = sample("hvm")
    new = made(old, format="libxl")
    at = new.index(struct.pack("<IHHII", 2, 12, 0, 0, 1)) + 4
    comparison = compared(new[:at] + b"\x0d" + new[at + 1 :], old)
    assert comparison.broken
    assert f"libxc domain header at {at:#x}: found page shift 13" in comparison.verdict


def test_illegal_types_are_no_stream() -> None:
    old, stream = taken("pv64")
    at = first_of(stream, PAGE_DATA)
    (_, pfn, content), *rest = unpacked(stream.records[at][1])
    comparison = of_edit(old, edited(stream, at, packed([(8, pfn, content), *rest])))
    assert comparison.broken
    assert "page type 8" in comparison.verdict


# ---- what is never deletable -----------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("target", ["xen-4.6", "xen-4.14"])
def test_libxc_format_of_hvm_guests(target: str, skip: bool) -> None:  # noqa: FBT001
    old = sample("hvm", 64, xl=True)
    comparison = compared(made(old, target=target, format="libxc", skip_qemu=skip), old)
    assert (comparison.counts, comparison.deletable) == ({}, False)
    assert "it lacks the device model" in comparison.verdict
    assert "physmap" in comparison.verdict
    assert ("device model" in comparison.identical) != skip


def test_libxc_format_has_a_record_behind_it() -> None:
    old = sample("hvm", 64)
    new = made(old, format="libxc")
    assert told(compared(new[:-1] + b"?", old)) == ["device model"]


@pytest.mark.parametrize("guest", ["pv64", "pv32"])
def test_configuration(guest: str) -> None:
    old, stream = taken(guest, xl=True)
    missing = of_edit(old, replace(stream, xl=b""))
    assert (missing.counts, missing.deletable) == ({}, False)
    assert missing.verdict.endswith("it lacks the configuration of the xl file")
    other = of_edit(old, replace(stream, xl=stream.xl.replace(b'"', b"'", 1)))
    assert told(other) == ["configuration"]
    flags = stream.xl[:36] + bytes([stream.xl[36] ^ 1]) + stream.xl[37:]
    assert told(of_edit(old, replace(stream, xl=flags))) == ["xl header field"]
    bare = old[len(stream.xl) :]
    assert of_edit(bare, stream).deletable


@every_kind
@drawn(25)
@given(data=st.data())
def test_cut_off(guest: str, width: int, data: st.DataObject) -> None:
    old = sample(guest, width)
    new = made(old, format="libxl")
    comparison = compared(new[: data.draw(st.integers(24, len(new) - 1))], old)
    assert not comparison.deletable
    assert comparison.verdict.startswith("do not delete the original: the stream cannot be read to its end: ")


def test_another_guest() -> None:
    other = made(sample("pv64", seed=1), format="libxl")
    assert not compared(other, sample("pv64")).deletable
    assert told(compared(other, sample("hvm"))) == ["kind of guest"]
    assert "PV value" in told(compared(other, sample("pv32")))


# ---- what is left out ------------------------------------------------------------------------------------


def with_body(image: LegacyImage, *more: Any) -> LegacyImage:
    return replace(image, body=(*image.body, *more))


def rules(comparison: Comparison) -> list[str]:
    return [note.rule for note in comparison.left_out]


GIVEN: Final = 9
"""A pfn that the small image does not hold."""


def of_image(image: LegacyImage, **options: Any) -> tuple[bytes, bytes, Comparison]:
    old = image.to_bytes()
    new = made(old, **shape(image), **options)
    return old, new, compared(new, old, **shape(image))


def given_back() -> LegacyImage:
    """A page that was sent and given back, and an early copy of a page table that names it."""
    image = small_image("pv64")
    early = Batch((word(0, GIVEN), word(1, GIVEN + 1)), (page(7), page(0, [(3, pte(GIVEN))])))
    late = Batch((word(1, GIVEN + 1),), (page(0, [(3, pte(1))]),))
    return replace(with_body(image, early, late), unmapped=(GIVEN,), p2m_size=max(image.p2m_size, 16))


def test_pages_given_back() -> None:
    image = given_back()
    old, new, comparison = of_image(image, format="libxl")
    assert comparison.deletable
    assert "D22" in rules(comparison)
    stream = real.taken_apart(new)
    at = first_of(stream, PAGE_DATA)

    def with_words(*words: Word) -> dict[str, int]:
        records = [*stream.records[:at], (PAGE_DATA, packed([*words])), *stream.records[at:]]
        told = compared(joined(replace(stream, records=records), libxl=True), old, **shape(image))
        assert not told.deletable
        assert {one.which for one in told.differences} == {GIVEN}
        return told.counts

    table = bytes(page(0, [(3, pte(GIVEN))]))
    assert with_words((0, GIVEN, bytes(page(7)))) == {"given-back page": 1}
    assert with_words((XALLOC, GIVEN, None)) == {"given-back page": 1}
    assert with_words((1, GIVEN + 1, table)) == {"given-back page": 1}
    assert with_words((0, GIVEN, ZERO), (1, GIVEN + 1, table)) == {"given-back page": 1}


def test_a_last_table_that_names_a_given_back_page_is_no_loss() -> None:
    image = given_back()
    again = Batch((word(1, GIVEN + 1),), (page(0, [(4, pte(GIVEN))]),))
    old, new, comparison = of_image(with_body(image, again), format="libxl")
    assert comparison.deletable
    stream = real.taken_apart(new)
    more = (PAGE_DATA, packed([(1, GIVEN + 1, bytes(page(0, [(3, pte(GIVEN))])))]))
    at = first_of(stream, PAGE_DATA)
    records = [*stream.records[:at], more, *stream.records[at:]]
    assert compared(joined(replace(stream, records=records), libxl=True), old, **shape(image)).deletable


def test_harmless_mentions_of_given_back_pages() -> None:
    image = given_back()
    old, new, _ = of_image(image, format="libxl")
    stream = real.taken_apart(new)
    more = (PAGE_DATA, packed([(real.XTAB, GIVEN, None), (real.XTAB, GIVEN + 2, None)]))
    at = first_of(stream, PAGE_DATA)
    records = [*stream.records[:at], more, *stream.records[at:]]
    assert compared(joined(replace(stream, records=records), libxl=True), old, **shape(image)).deletable


def test_parameters_left_out() -> None:
    image = with_body(small_image("hvm"), Param(-10, 2), Param(-19, 5), Param(-8, 0), Param(-11, 1))
    old, new, comparison = of_image(image, format="libxl")
    assert comparison.deletable
    assert {"D18", "D19", "D24"} <= set(rules(comparison))
    stream = real.taken_apart(new)
    scripts = struct.pack("<II6Q", 3, 0, 19, 2, 32, 5, 17, 0)
    kept = replace(stream, records=[*stream.records, (HVM_PARAMS, scripts)])
    comparison = compared(joined(kept, libxl=True), old, **shape(image))
    assert comparison.counts == {"HVM parameter": 3}
    assert {(one.which, one.found, one.expected) for one in comparison.differences} == {
        (19, "0x2", "0x1"),
        (32, "0x5", "none"),
        (17, "0x0", "0x1d"),
    }


def test_cut_xsave_records() -> None:
    image = small_image("pv64")
    vcpu = image.vcpus[0]
    assert isinstance(vcpu, Vcpu)
    area = bytes(576) + bytes(range(64))
    body = struct.pack("<QQ", 1, 1) + area
    image = replace(image, vcpus=(replace(vcpu, xsave=Xsave(1, 1, 1, area)),))
    old, new, comparison = of_image(image, format="libxl")
    assert comparison.deletable
    assert "D25" in rules(comparison)
    stream = real.taken_apart(new)
    at = first_of(stream, 6)
    whole = stream.records[at][1][:8] + body
    assert compared(joined(edited(stream, at, whole), libxl=True), old).deletable
    other = compared(joined(edited(stream, at, whole[:-1]), libxl=True), old)
    assert told(other) == ["vCPU xsave record"]


def test_the_drafts_generation_id() -> None:
    image = with_body(small_image("hvm"), Param(-14, 0x1000))
    for form in ("libxl", "libxc"):
        _, _, comparison = of_image(image, format=form, target="draft-v7")
        check_same(comparison, "hvm", form)
        assert "D14" in rules(comparison)
    old, new, _ = of_image(image, format="libxl", target="xen-4.6")
    stream = real.taken_apart(new)
    at = first_of(stream, HVM_PARAMS)
    wrong = edited(stream, at, stream.records[at][1].replace(bytes([34]), bytes([32])))
    assert not compared(joined(wrong, libxl=True), old, **shape(image)).deletable


def verified() -> LegacyImage:
    """Verify mode: pfn 9 comes in both passes, and differs; pfn 10 comes in the second only."""
    second = Batch((word(0, 9), word(0, 10)), (page(2), page(3)))
    image = with_body(small_image("hvm"), Batch((word(0, 9),), (page(1),)), Control(-1), second)
    return replace(image, p2m_size=max(image.p2m_size, 16))


def test_verify_mode() -> None:
    image = verified()
    old, new, comparison = of_image(image, format="libxl")
    assert comparison.deletable
    stream = real.taken_apart(new)
    at = first_of(stream, VERIFY)

    def of(*words: Word) -> Comparison:
        records = [*stream.records[: at + 1], (PAGE_DATA, packed([*words])), *stream.records[at + 2 :]]
        return compared(joined(replace(stream, records=records), libxl=True), old, **shape(image))

    two, three, four = (bytes(page(fill)) for fill in (2, 3, 4))
    assert of((0, 9, two), (0, 10, three)).deletable
    assert of((0, 9, four), (0, 10, three)).counts == {"page of the verify pass": 1}
    assert of((0, 9, two), (0, 10, four)).counts == {"page": 1}
    assert of((0, 9, two)).counts == {"missing page": 1}
    assert of((0, 10, three)).counts == {"page of the verify pass": 1}
    replaced = compared(joined(edited(stream, at, None), libxl=True), old, **shape(image))
    assert replaced.counts == {"page": 1}  # pfn 9 has the content of the second pass
    early = replace(stream, records=[(VERIFY, b""), *stream.records])
    assert "page" in compared(joined(early, libxl=True), old, **shape(image)).counts


def test_a_page_of_zeros_is_a_page_without_content() -> None:
    image = with_body(small_image("hvm"), Batch((word(XALLOC, 9),), ()))
    image = replace(image, p2m_size=max(image.p2m_size, 16))
    old, new, comparison = of_image(image, format="libxl")
    assert comparison.deletable
    stream = real.taken_apart(new)
    (at,) = [at for at in batches(stream) if unpacked(stream.records[at][1]) == [(XALLOC, 9, None)]]
    assert compared(
        joined(edited(stream, at, packed([(0, 9, ZERO)])), libxl=True), old, **shape(image)
    ).deletable
    full = compared(
        joined(edited(stream, at, packed([(0, 9, b"\1" + ZERO[1:])])), libxl=True), old, **shape(image)
    )
    assert full.counts == {"page": 1}
    assert full.differences[0].original_offset is None


# ---- how it is told --------------------------------------------------------------------------------------


def test_differences_beyond_the_most_are_counted() -> None:
    old = sample("hvm")
    comparison = compared(made(sample("hvm", seed=1), format="libxl"), old, most=3)
    assert len(comparison.differences) == 3
    assert comparison.counts["page"] > 100
    none = compared(made(sample("hvm", seed=1), format="libxl"), old, most=0)
    assert none.counts == comparison.counts
    assert not none.deletable


def test_as_plain_values() -> None:
    old, stream = taken("pv64")
    report = json.loads(json.dumps(of_edit(old, edited(stream, first_of(stream, PAGE_DATA), None)).to_dict()))
    assert report["schema"] == "xenmig-np/comparison"
    assert report["deletable"] is False
    assert report["complete"] is True
    assert report["counts"].keys() >= {"missing page"}
    assert report["differences"][0].keys() == {
        "what",
        "which",
        "offset",
        "original_offset",
        "found",
        "expected",
    }


def test_progress() -> None:
    old = sample("hvm", live=True)
    calls: list[tuple[int, int]] = []
    comparison = compared(made(old), old, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (comparison.pages * real.PAGE, comparison.pages * real.PAGE)
    assert calls == sorted(calls)


def test_bad_inputs() -> None:
    old = sample("pv64")
    new = made(old)
    with pytest.raises(NotRecognised):
        compared(old, old)
    with pytest.raises(NotSupported):
        compared(new, new)
    with pytest.raises(InvalidImage):
        compared(new, old[:-1])
    for pipe_first in (True, False):
        with piped(old) as end, open_source(end) as pipe, sources(old) as (file,), pytest.raises(UsageError):
            compare(*((pipe, file) if pipe_first else (file, pipe)))


def test_nothing_of_the_converter_is_used() -> None:
    code = (
        "import sys, xenmig_np.verification.against\n"
        "print([name for name in sys.modules if name.startswith('xenmig_np.conversion')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
