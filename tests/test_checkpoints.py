"""Checkpointed (Remus) images: the result is the last complete checkpoint (v2-stream.md 19.14)."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import MIB, open_file, piped
from drawn import INVALID, UNSUPPORTED, converted, drawn, images_are_long, shape, twin
from hypothesis import assume, event, given
from hypothesis import strategies as st
from plain.delta import encode_page
from plain.legacy import Unsupported, parse
from real import memory, taken_apart

import xenmig_np
from xenmig_np.errors import InvalidImage, NotSupported
from xenmig_np.io.source import open_source
from xenmig_np.read.events import DeviceModel, EndOfBody, EndOfImage, PageBatch, StartOfBody
from xenmig_np.read.image import find
from xenmig_np.testing import pieces
from xenmig_np.testing.builder import LegacyImage, small_image
from xenmig_np.testing.checkpoints import checkpointed_images
from xenmig_np.testing.fields import FIRST_WITHOUT_PAGE, NOTAB, XALLOC, page, word
from xenmig_np.testing.pieces import (
    Batch,
    Compressed,
    Control,
    Param,
    Piece,
    Toolstack,
    VcpuInfo,
)
from xenmig_np.testing.strategies import (
    LIBXL_RECORD,
    REMUS_RECORD,
    XAPI_RECORD,
    XEND_RECORD,
    Damaged,
    damaged_images,
    legacy_images,
)

if TYPE_CHECKING:
    from xenmig_np.errors import Note

pytestmark = images_are_long

SIGNATURES: Final = (LIBXL_RECORD, REMUS_RECORD, XAPI_RECORD, XEND_RECORD)
IMAGES: Final = checkpointed_images(legacy_images(signatures=SIGNATURES))
LAST: Final = Control(pieces.LAST_CHECKPOINT)
COMPRESSION: Final = Control(pieces.ENABLE_COMPRESSION)
GUESTS: Final = ("hvm", "pv64", "pv32")


def wanted(image: LegacyImage, target: str = "xen-4.6", form: str = "auto") -> dict[str, Any]:
    """The options; an image whose bytes 4 to 7 say 64 bit though it has 32 is none that a saver writes."""
    assume(image.width == 64 or image.blocks is not None or image.guest == "hvm" or image.frames[0])
    return {"target": target, "format": form, **shape(image)}


choices: Final = st.tuples(
    st.sampled_from(("draft-v7", "xen-4.6", "xen-4.14")), st.sampled_from(("libxc", "libxl", "auto"))
)

# ------------------------------------------------------------------------------------------------ compressed


@st.composite
def compressed_images(draw: st.DrawFn) -> LegacyImage:
    """Checkpointed images whose later bodies are compressed, in chunks cut anywhere."""
    image = draw(checkpointed_images(legacy_images()))
    copies: dict[int, bytes] = {}
    for batch in image.body:
        if isinstance(batch, Batch):
            copies.update({pfn: bytes(data) for _, pfn, data in batch.entries() if data is not None})
    later = []
    for checkpoint in image.later:
        body: list[Piece] = []
        waiting = b""
        for piece in checkpoint.body:
            if isinstance(piece, Batch):
                body.append(replace(piece, pages=()))
                waiting += b"".join(draw(_encoded(piece, copies)))
            else:
                body.append(piece)
            cut = draw(st.integers(0, len(waiting)))
            if draw(st.booleans()):
                body.append(Compressed(waiting[:cut]))
                waiting = waiting[cut:]
        later.append(replace(checkpoint, body=(*body, Compressed(waiting))))
    return replace(image, body=(*image.body, COMPRESSION), later=tuple(later))


@st.composite
def _encoded(draw: st.DrawFn, batch: Batch, copies: dict[int, bytes]) -> list[bytes]:
    """Pages in full, or as changes of the copy before."""
    found = []
    for kind, pfn, data in batch.entries():
        if kind < FIRST_WITHOUT_PAGE:
            new, old = bytes(data or b""), copies.get(pfn)
            as_changes = old is not None and draw(st.booleans())
            found.append(encode_page(old, new) if as_changes and old is not None else b"\x80" + new)
            copies[pfn] = new
    return found


# ------------------------------------------------------------------------------------------------ parity


@drawn(150)
@given(IMAGES, choices)
def test_from_a_file(image: LegacyImage, choice: tuple[str, str]) -> None:
    options = wanted(image, *choice)
    found = converted(image.to_bytes(), **options)
    event(f"{len(image.later) + 1} checkpoints, {'converted' if isinstance(found, bytes) else found}")
    assert found == twin(image.to_bytes(), **options)


@drawn(150)
@given(IMAGES, choices, st.booleans())
def test_from_a_pipe(image: LegacyImage, choice: tuple[str, str], into_pipe: bool) -> None:  # noqa: FBT001
    options = wanted(image, *choice)
    found = converted(image.to_bytes(), pipe=True, into_pipe=into_pipe, **options)
    assert found == twin(image.to_bytes(), pipe=True, **options)


@drawn(150)
@given(compressed_images(), choices)
def test_compressed(image: LegacyImage, choice: tuple[str, str]) -> None:
    options = wanted(image, *choice)
    assert converted(image.to_bytes(), **options) == twin(image.to_bytes(), **options)
    with contextlib.suppress(Unsupported):  # page tables of two levels
        whole = parse(replace(image, xl=None).to_bytes(), image.width, options["guest"])
        assert whole.checkpoints == len(image.later) + 1


@drawn(100)
@given(st.one_of(IMAGES, compressed_images()), st.data(), st.booleans())
def test_cut_anywhere(image: LegacyImage, data: st.DataObject, pipe: bool) -> None:  # noqa: FBT001
    """What a checkpoint that breaks off has brought is not in the result."""
    options = wanted(image)
    whole = image.to_bytes()
    first = image.part(
        "later.0.body.0.id" if not _begins_with_batch(image) else "later.0.body.0.count"
    ).offset
    cut = whole[: data.draw(st.integers(first, len(whole)))]
    assert converted(cut, pipe=pipe, **options) == twin(cut, pipe=pipe, **options)


def _begins_with_batch(image: LegacyImage) -> bool:
    return isinstance(image.later[0].body[0], Batch)


@drawn(150)
@given(damaged_images(st.one_of(IMAGES, compressed_images())), st.booleans())
def test_damage_of_later_checkpoints(damaged: Damaged, pipe: bool) -> None:  # noqa: FBT001
    """It is dropped, or read otherwise; never does it harm what precedes it."""
    options = wanted(damaged.image)
    whole = damaged.image.to_bytes()
    first = min(part.offset for part in damaged.image.parts() if part.name.startswith("later.0."))
    assume(damaged.data[:first] == whole[:first])
    found, wished = converted(damaged.data, pipe=pipe, **options), twin(damaged.data, pipe=pipe, **options)
    if pipe and found != wished == INVALID:  # what is not converted from pipes is told before damage is met
        assert found == UNSUPPORTED == converted(whole, pipe=True, **options)
    else:
        assert found == wished


# ------------------------------------------------------------------------------------------------ by hand


def remus(guest: Any = "hvm", width: int = 64, *, later: int = 1) -> LegacyImage:
    """Small checkpoints, in each of which page 1 holds another byte and the tail is another one."""
    small = small_image(guest, width)
    body = tuple(piece for piece in small.body if piece != LAST)
    first = replace(small, body=body, device_model=small.device_model and pieces.DeviceModel(b"QEVM first"))
    return replace(first, later=tuple(checkpoint(first, number + 1) for number in range(later)))


def checkpoint(image: LegacyImage, number: int, *more: Piece) -> LegacyImage:
    body: tuple[Piece, ...] = (Batch((word(NOTAB, 9),), (page(number),)), VcpuInfo(), *more)
    state = image.device_model and pieces.DeviceModel(b"QEVM later" + bytes([number]))
    return replace(image, body=body, shared_info=page(0x40 + number), device_model=state)


def notes(data: bytes, *, pipe: bool = False) -> list[Note]:
    with (piped if pipe else open_file)(data) as old:
        return list(xenmig_np.convert(old, "/dev/null").warnings)


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("width", [64, 32])
@pytest.mark.parametrize("guest", GUESTS)
def test_the_last_checkpoint_counts(guest: str, width: int, pipe: bool) -> None:  # noqa: FBT001
    image = remus(guest, width, later=3)
    made = converted(image.to_bytes(), pipe=pipe, target="xen-4.6")
    assert isinstance(made, bytes)
    stream = taken_apart(made)
    assert memory(stream).pages[9] == bytes(page(3))
    assert stream.of(7) == ([] if guest == "hvm" else [bytes(page(0x43))])
    if guest == "hvm":
        assert b"QEVM later\3" in made
        assert b"QEVM first" not in made
        assert b"QEVM later\2" not in made


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("guest", GUESTS)
def test_pages_of_an_incomplete_checkpoint_do_not_leak(guest: str, pipe: bool) -> None:  # noqa: FBT001
    image = remus(guest, later=2)
    whole = image.to_bytes()
    begins = image.part("later.1.body.0.count").offset
    complete = converted(whole[:begins], pipe=pipe, target="xen-4.6")
    for cut in (begins + 3, begins + 12 + 4096, len(whole) - 1):
        assert converted(whole[:cut], pipe=pipe, target="xen-4.6") == complete
        dropped = notes(whole[:cut], pipe=pipe)
        assert [(note.rule, note.offset) for note in dropped if note.rule == "trailing"] == (
            [("trailing", begins)] if cut < begins + 4 else []
        )
        if cut >= begins + 4:
            told = [note for note in dropped if "incomplete" in note.text]
            assert [(note.rule, note.offset) for note in told] == [("D28", begins)]
            assert f"{cut - begins:,} bytes of an incomplete checkpoint left out" in told[0].text


def test_how_many_there_were_is_told() -> None:
    told = [note.text for note in notes(remus(later=3).to_bytes())]
    assert told == ["a checkpointed (Remus) image: the last of 4 complete checkpoints counts"]


@pytest.mark.parametrize(
    ("behind", "kind"),
    [
        (bytes(20000), "zeros at first"),
        (bytes(99), "zeros"),
        (b"\x7f" * 20, "of unknown kind"),
        (b"\1\0", "of"),
    ],
)
def test_other_bytes_are_no_checkpoint(behind: bytes, kind: str) -> None:
    for guest in GUESTS:
        for image in (remus(guest), remus(guest, later=0)):
            data = image.to_bytes()
            (note,) = [note for note in notes(data + behind) if note.rule == "trailing"]
            assert (note.offset, note.text.startswith(f"{len(behind):,} bytes")) == (len(data), True)
            assert f"({kind}" in note.text


def test_a_later_body_needs_chunk_2() -> None:
    image = remus("pv64")
    bad = replace(image.later[0], body=image.later[0].body[:1])
    data = replace(image, later=(bad,)).to_bytes()
    assert converted(data) == converted(replace(image, later=()).to_bytes())
    assert any("no chunk -2" in note.text for note in notes(data))


def test_nothing_follows_the_last_checkpoint() -> None:
    image = remus("pv64", later=2)
    closed = replace(image.later[0], body=(*image.later[0].body, LAST))
    data = replace(image, later=(closed, image.later[1])).to_bytes()
    assert converted(data) == converted(replace(image, later=(closed,)).to_bytes())
    assert [note.rule for note in notes(data)] == ["D28", "trailing"]


def test_other_vcpus_than_before_are_told() -> None:
    image = remus("pv64")
    second = replace(image.later[0], body=(VcpuInfo((0, 1), 1),), vcpus=image.vcpus * 2)
    third = replace(image.later[0], body=(VcpuInfo((0, 1), 1),), vcpus=image.vcpus * 2)
    data = replace(image, later=(second, third)).to_bytes()
    assert [note.rule for note in notes(data)] == ["legacy 1.1", "D28"]
    with open_file(data) as fd:
        assert xenmig_np.info(fd).vcpus == (0, 1)


def test_notes_about_a_tail_that_does_not_count_are_not_told() -> None:
    """A p2m frame that comes with the second checkpoint alone."""
    image = remus("pv64")
    bad = replace(image, frames=(9,))
    with open_file(replace(bad, later=()).to_bytes()) as fd:
        assert "legacy 8.14" in [note.rule for note in xenmig_np.info(fd).warnings]
    with open_file(bad.to_bytes()) as fd:
        assert "legacy 8.14" not in [note.rule for note in xenmig_np.info(fd).warnings]


def test_info_knows_what_counts() -> None:
    image = remus("hvm")
    more = checkpoint(image, 1, Param(-3, 0x77), Param(-11, 1), Toolstack((), b"12345678"))
    with open_file(replace(image, later=(more,)).to_bytes()) as fd:
        info = xenmig_np.info(fd)
    assert info.hvm_params["IDENT_PT"] == 0x77
    assert info.hvm_params["VIRIDIAN"] == 1
    assert info.toolstack_bytes == 16
    assert info.device_model_bytes == 11
    assert (info.refused, info.batches, info.end_offset) == (None, 2, info.bytes)


def test_parameters_of_many_checkpoints_are_not_too_many() -> None:
    image = remus("hvm")
    more = checkpoint(image, 1, *(Param(-3, number) for number in range(1, 900)))
    data = replace(image, later=(more,) * 6).to_bytes()
    options = {"target": "xen-4.6", "format": "libxl", **shape(image)}
    assert converted(data, **options) == twin(data, **options)


def test_events_say_which_checkpoint() -> None:
    image = remus("hvm", later=2)
    with open_file(image.to_bytes()) as fd, open_source(fd) as source:
        found = find(source)
        events = list(found.events(found.new_facts()))
    assert [event.body for event in events if isinstance(event, PageBatch)] == [0, 1, 2]
    assert [event.body for event in events if isinstance(event, StartOfBody)] == [1, 2]
    assert [event.final for event in events if isinstance(event, EndOfBody)] == [False] * 3
    assert sum(isinstance(event, DeviceModel) for event in events) == 3
    starts = [event.offset for event in events if isinstance(event, StartOfBody)]
    assert starts == [image.part(f"later.{number}.body.0.count").offset for number in (0, 1)]
    (end,) = [event.offset for event in events if isinstance(event, EndOfImage)]
    assert end == len(image.to_bytes())


# ------------------------------------------------------------------------------------------------ pipes


def test_a_compressed_image_from_a_pipe_is_refused_by_name(tmp_path: Any) -> None:
    image = remus("hvm")
    later = replace(
        image.later[0], body=(Batch((word(NOTAB, 9),)), Compressed(b"\x80" + bytes(4096)), VcpuInfo())
    )
    data = replace(image, body=(*image.body, COMPRESSION), later=(later,)).to_bytes()
    with piped(data) as old, pytest.raises(NotSupported, match="compressed page data, from a pipe") as caught:
        xenmig_np.convert(old, str(tmp_path / "new"))
    assert caught.value.hint == "give a file, or --spool DIR"
    assert os.listdir(tmp_path) == []
    with piped(data) as old:
        xenmig_np.convert(old, str(tmp_path / "new"), spool=str(tmp_path))
    assert (tmp_path / "new").read_bytes() == converted(data)
    alone = replace(image, body=(*image.body, COMPRESSION), later=()).to_bytes()
    assert converted(alone, pipe=True, format="libxl") == converted(alone, format="libxl")


def test_checkpoints_on_a_pipe_are_kept_in_a_file_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds 4 MiB: a little stays in memory, and what has gone out is forgotten."""
    import tempfile  # noqa: PLC0415

    files: list[Any] = []
    make = tempfile.TemporaryFile

    def counted(*arguments: Any, **options: Any) -> Any:
        files.append(make(*arguments, **options))
        assert sum(not file.closed for file in files) <= 3
        return files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", counted)
    image = replace(remus("pv64"), p2m_size=2048, frames=(1, 2, 3, 4))
    batch = Batch(tuple(word(NOTAB, pfn) for pfn in range(1024, 2048)), (page(7),) * 1024)
    later = replace(image.later[0], body=(batch, VcpuInfo()))
    data = replace(image, later=(later,) * 6).to_bytes()
    assert converted(data, pipe=True, target="xen-4.6") == converted(data, target="xen-4.6", format="libxl")
    assert len(files) == 6
    assert all(file.closed for file in files)


def test_a_pipe_needs_no_file_for_a_usual_record(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile  # noqa: PLC0415

    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    for signature in SIGNATURES:
        image = replace(
            small_image("hvm"), device_model=pieces.DeviceModel(b"QEVM\0\0\0\3" + bytes(7000), signature)
        )
        data = image.to_bytes()
        assert converted(data, pipe=True, target="xen-4.6") == converted(data, target="xen-4.6")


def test_where_no_file_can_be_made_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile  # noqa: PLC0415

    def fails(**_options: Any) -> io.BytesIO:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tempfile, "TemporaryFile", fails)
    image = replace(
        small_image("hvm"), device_model=pieces.DeviceModel(b"QEVM" + bytes(3 * MIB), XEND_RECORD)
    )
    assert converted(image.to_bytes(), pipe=True) == "io"


# ------------------------------------------------------------------------------------------------ pages back


@pytest.mark.parametrize("pipe", [False, True])
def test_the_last_list_of_pages_given_back_counts(pipe: bool) -> None:  # noqa: FBT001
    """Listed by the first checkpoint and sent again by the second, page 9 is there."""
    image = replace(remus("pv64"), unmapped=(9, 20))
    kept = replace(image, later=(replace(image.later[0], unmapped=(20,)),)).to_bytes()
    made = converted(kept, pipe=pipe, target="xen-4.6")
    assert isinstance(made, bytes)
    assert memory(taken_apart(made)).pages[9] == bytes(page(1))
    gone = replace(image, later=(replace(image.later[0], unmapped=(9,)),)).to_bytes()
    made = converted(gone, pipe=pipe, target="xen-4.6")
    if pipe:
        assert made == UNSUPPORTED
    else:
        assert isinstance(made, bytes)
        assert 9 not in memory(taken_apart(made)).mentioned


def test_superseded_tables_among_decoded_pages() -> None:
    """D22 looks into copies that lie in the input, in chunks, and in the store."""
    image = remus("pv64", later=0)
    maps_9, maps_8 = page(0, [(3, 0x9067)]), page(0, [(3, 0x8067)])
    first = (*image.body, Batch((word(1, 12),), (page(0),)), COMPRESSION)
    changes = encode_page(bytes(page(0)), bytes(maps_9))

    def compressed(*encoded: bytes) -> LegacyImage:
        body = (Batch((word(1, 12), word(XALLOC, 13))), Compressed(b"".join(encoded)), VcpuInfo())
        return replace(image, body=body, unmapped=(9,))

    later = (
        compressed(changes),
        compressed(b"\x80" + bytes(maps_8)),
        compressed(b"\x80" + bytes(maps_9)),
        compressed(encode_page(bytes(maps_9), bytes(maps_8))),
    )
    data = replace(image, body=first, later=later).to_bytes()
    options = {"target": "xen-4.6", "format": "libxl", **shape(image)}
    made = converted(data, **options)
    assert made == twin(data, **options)
    assert isinstance(made, bytes)
    copies = [bytes(content or b"") for _, _, pfn, content in taken_apart(made).words() if pfn == 12]
    assert copies == [bytes(page(0)), bytes(maps_8), bytes(maps_8)]


# ------------------------------------------------------------------------------------------------ compressed


def compressed_error(*body: Piece) -> str:
    """Why a compressed checkpoint is dropped."""
    image = remus("hvm", later=0)
    later = replace(image, body=(*body, VcpuInfo()))
    data = replace(image, body=(*image.body, COMPRESSION), later=(later,)).to_bytes()
    assert converted(data) == converted(replace(image, body=(*image.body, COMPRESSION)).to_bytes())
    (note,) = [note for note in notes(data) if note.rule == "D28"]
    return note.text


ONE: Final = Batch((word(NOTAB, 1),))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ((ONE,), "1 pages, as its batches announce"),
        ((ONE, Compressed(b"\0", length=(16 << 20) + 1)), "at most 16,777,216"),
        ((Batch((word(NOTAB, 30),)), Compressed(b"\0")), "a change of a page that never came"),
        ((ONE, Compressed(b"\x80")), "and a part of one"),
    ],
)
def test_compressed_checkpoints_that_are_none(body: tuple[Piece, ...], reason: str) -> None:
    assert reason in compressed_error(*body)


def test_surplus_data_is_told() -> None:
    image = remus("hvm", later=0)
    later = replace(image, body=(ONE, Compressed(b"\0!!"), VcpuInfo()))
    data = replace(image, body=(*image.body, COMPRESSION), later=(later,)).to_bytes()
    told = [note.text for note in notes(data)]
    assert [text for text in told if "2 bytes behind the last page" in text]
    with open_file(data) as fd:
        assert xenmig_np.info(fd).pages == 5


def test_decoded_pages_are_to_be_read_in_order() -> None:
    image = remus("hvm", later=0)
    later = replace(image, body=(ONE, Compressed(b"\0"), VcpuInfo()))
    for made, in_order in (
        (replace(image, body=(*image.body, COMPRESSION), later=(later,)), True),
        (image, False),
    ):
        with open_file(made.to_bytes()) as fd, xenmig_np.plan(fd) as plan:
            assert plan.in_order is in_order


@pytest.mark.parametrize("compression", [False, True])
def test_compressed_data_in_a_plain_body(compression: bool) -> None:  # noqa: FBT001
    image = remus("hvm", later=0)
    more = (COMPRESSION,) if compression else ()
    data = replace(image, body=(*more, *image.body, Compressed(b"\0"))).to_bytes()
    with open_file(data) as fd, pytest.raises(InvalidImage, match="whose batches hold their pages"):
        xenmig_np.convert(fd, "/dev/null")
