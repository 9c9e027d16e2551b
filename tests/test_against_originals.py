"""The comparison with originals of all carriers and generations, checkpointed, compressed, with tmem."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import real
from conftest import converted as made
from conftest import open_file, sample, xenmig
from drawn import converted, drawn, images_are_long, shape, twin
from hypothesis import assume, given
from hypothesis import strategies as st
from restores import compared, plain, same, told
from test_checkpoints import checkpoint, compressed_images, remus

from xenmig_np.errors import XenmigError
from xenmig_np.read import pagestore
from xenmig_np.testing.builder import LegacyImage, small_image
from xenmig_np.testing.carriers import (
    LIBXC_LEGACY,
    QEMU_TRAD,
    VARSTORED,
    XENOPS,
    Carried,
    LibvirtHead,
    StructuredHead,
    XapiHead,
    XapiRecord,
    XendHead,
)
from xenmig_np.testing.checkpoints import checkpointed_images
from xenmig_np.testing.fields import NOTAB, page, word
from xenmig_np.testing.pieces import VERIFY_MODE, Batch, Control, DeviceModel, Param, Toolstack
from xenmig_np.testing.strategies import legacy_images
from xenmig_np.verification.run import compare, verify

if TYPE_CHECKING:
    from pathlib import Path

    from xenmig_np.verification.comparison import Comparison

    Put = Callable[..., Path]

pytestmark = images_are_long
TMEM: Final = frozenset({"pv64-40-t64-tmem", "pv64-45-t64-tmem", "pv64-45-t64-tmem-live"})
"""Samples whose guests used transcendent memory."""
CONVERTIBLE: Final = [one for one in real.ALL if one.whole or one.name in TMEM]
BIG: Final = frozenset({"pv64_linux_xl"})
PACKED: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
}


def options(image: real.Sample) -> dict[str, Any]:
    return {"width": image.width, "guest": image.kind, "drop_tmem": image.name in TMEM}


def proven(stream: bytes, original: bytes) -> Comparison:
    """As the command does it: the rules of verification are asked too."""
    with open_file(stream) as new, open_file(original) as old:
        return compare(new, old)


# ---- samples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", real.each(CONVERTIBLE, slow=BIG))
def test_samples(image: real.Sample) -> None:
    old = image.unpacked()
    comparison = proven(made(old, **options(image)), old)
    assert (comparison.counts, comparison.errors) == ({}, 0), comparison.verdict
    assert comparison.deletable == (image.name not in TMEM)
    if image.name in TMEM:
        assert "it lacks the guest's transcendent memory (tmem, " in comparison.verdict
    if not image.ran:
        assert comparison.pages == sum(count for _, count in image.truth["memory"]["present_runs"])


@pytest.mark.parametrize("image", real.each(CONVERTIBLE, slow=BIG))
def test_streams_of_samples_are_good(image: real.Sample) -> None:
    with open_file(made(image.unpacked(), **options(image))) as fd:
        report = verify(fd)
    assert report.good(), report.findings


SOME: Final = [
    one
    for one in CONVERTIBLE
    if one.name
    in {"hvm-44-t64-xapi2", "hvm-45-t32-remus-comp", "pv64-41-t64-xend-live", "pv32-45-t64-remus-comp"}
]


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("image", real.each(SOME))
def test_compressed_files(image: real.Sample, kind: str) -> None:
    old = image.unpacked()
    new = made(old, **options(image))
    pack = PACKED[kind]
    assert proven(pack(new), pack(old)).deletable
    at = new.rindex(bytes(64)) + 32  # zeros of the last page that has any
    flipped = new[:at] + b"\1" + new[at + 1 :]
    assert proven(pack(flipped), pack(old)).differences == proven(flipped, old).differences != ()


@pytest.mark.parametrize(
    "image", real.each([one for one in CONVERTIBLE if one.carrier not in {"bare", "xapi"}])
)
def test_what_a_bare_stream_lacks_is_named(image: real.Sample) -> None:
    """XenServer had no configuration in its images before 2014; its records are in none but its own."""
    old = image.unpacked()
    comparison = proven(made(old, container="none", **options(image)), old)
    what = {
        "xl": "the configuration of the xl file",
        "xend": "the configuration of the xend file",
        "libvirt": "the configuration of the libvirt file",
        "xapi2": "the record Xenops of the structured XenServer (xapi) suspend image",
    }[image.carrier]
    empty = b"name" not in old[: image.stream_offset] and image.carrier == "xl"
    assert comparison.counts == {}
    assert (what in comparison.verdict) != empty
    assert comparison.deletable == empty


# ---- checkpoints -----------------------------------------------------------------------------------------

IMAGES: Final = checkpointed_images(legacy_images())


def is_clear(image: LegacyImage) -> bool:
    """No pass to compare with, no pages given back: a plain restore is easily told then."""
    return not image.unmapped and Control(VERIFY_MODE) not in image.body


@drawn(100)
@given(IMAGES | compressed_images())
def test_conversions_of_checkpointed_images(image: LegacyImage) -> None:
    old = image.to_bytes()
    new = converted(old, format="libxl", **shape(image))
    assume(isinstance(new, bytes) and is_clear(image) and not image.later[-1].unmapped)
    assert isinstance(new, bytes)
    comparison = compared(new, old, **shape(image))
    assert comparison.deletable, comparison.verdict
    assert "D28" in [note.rule for note in comparison.left_out]


@drawn(150)
@given(IMAGES | compressed_images(), st.data())
def test_a_flipped_byte_of_a_page(image: LegacyImage, data: st.DataObject) -> None:
    """It is a difference exactly if it is one for the guest: in the last copy, not in superseded ones."""
    old = image.to_bytes()
    new = converted(old, format="libxl", target="xen-4.6", **shape(image))
    assume(isinstance(new, bytes) and is_clear(image) and not any(one.unmapped for one in image.later))
    assert isinstance(new, bytes)
    parts = [part for part in image.parts() if ".page." in part.name or part.name.endswith(".payload")]
    parts = [part for part in parts if len(bytes(part.data)) >= real.PAGE]
    assume(parts)
    part = data.draw(st.sampled_from(parts))
    at = part.offset + data.draw(st.integers(0, len(bytes(part.data)) - 1))
    flipped = old[:at] + bytes([old[at] ^ 0x41]) + old[at + 1 :]
    expected = twin(flipped, format="libxl", target="xen-4.6", **shape(image))
    unchanged = isinstance(expected, bytes) and same(
        plain(real.taken_apart(new)), plain(real.taken_apart(expected))
    )
    try:
        comparison = compared(new, flipped, **shape(image))
    except XenmigError:
        assert isinstance(expected, str)
    else:
        assert comparison.deletable == unchanged, comparison.verdict


@pytest.mark.parametrize("guest", ["hvm", "pv64", "pv32"])
@pytest.mark.parametrize("where", ["first", "superseded", "last", "dropped"])
def test_where_a_byte_counts(guest: Any, where: str) -> None:
    image, pfn = remus(guest), 5
    fills = {"first": 0xA0, "superseded": 0xA1, "last": 0xA2, "dropped": 0xA3}
    copies = [Batch((word(NOTAB, pfn),), (page(fill),)) for fill in fills.values()]
    later = [checkpoint(image, index, copy) for index, copy in enumerate(copies[1:], 1)]
    whole = replace(image, body=(copies[0], *image.body), later=tuple(later))
    old = whole.to_bytes()[:-10]
    new = made(old, format="libxl", **shape(image))
    assert compared(new, old, **shape(image)).deletable
    at = old.index(bytes([fills[where]]) * real.PAGE) + 77
    flipped = old[:at] + b"?" + old[at + 1 :]
    comparison = compared(new, flipped, **shape(image))
    assert comparison.deletable == (where != "last")
    if where == "last":
        (difference,) = comparison.differences
        assert (difference.what, difference.which, difference.original_offset) == ("page", pfn, at)
    assert any("incomplete checkpoint" in note.text for note in comparison.left_out)


def test_a_stream_of_an_earlier_checkpoint_is_another_guest() -> None:
    image = remus("pv64")
    more = checkpoint(image, 1, Batch((word(NOTAB, 5),), (page(9),)))
    comparison = compared(made(image.to_bytes()), replace(image, later=(more,)).to_bytes())
    assert "page" in comparison.counts or "missing page" in comparison.counts
    assert not comparison.deletable


def test_the_tail_of_the_last_checkpoint_counts() -> None:
    """State of vCPUs that have gone, and a device model that is not sent again, are none."""
    image = remus("hvm")
    assert image.device_model
    more = replace(checkpoint(image, 1), device_model=DeviceModel(b"QEVM\0\0\0\3 another"))
    old = replace(image, later=(more,)).to_bytes()
    new = made(old, format="libxl")
    assert compared(new, old).deletable
    assert told(compared(new.replace(b"another", b"anodyne"), old)) == ["device model"]


def test_parameters_and_toolstack_data_of_checkpoints() -> None:
    image = remus("hvm")
    first = replace(image, body=(*image.body, Param(-3, 7), Param(-8, 3)))
    more = checkpoint(image, 1, Param(-3, 0), Toolstack())
    old = replace(first, later=(more,)).to_bytes()
    comparison = compared(made(old, format="libxl"), old)
    assert comparison.deletable, comparison.verdict
    assert "D24" in [note.rule for note in comparison.left_out]


@pytest.mark.skipif(not real.ALL, reason="the samples are not there")
def test_decoded_pages_are_kept_in_a_file_while_they_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer: it is closed then."""
    sizes: list[int] = []
    close = pagestore.PageStore.close

    def noted(store: pagestore.PageStore) -> None:
        sizes.append(store.size)
        close(store)

    monkeypatch.setattr(pagestore.PageStore, "close", noted)
    image = next(one for one in real.ALL if one.name == "pv32-45-t64-remus-comp")
    old = image.unpacked()
    new = made(old)
    sizes.clear()
    assert compared(new, old).deletable
    assert any(sizes)


# ---- carriers --------------------------------------------------------------------------------------------

HVM_IMAGE: Final = sample("hvm")
PV_IMAGE: Final = sample("pv64")


def in_records(*behind: XapiRecord, image: bytes = HVM_IMAGE) -> bytes:
    head = StructuredHead((XapiRecord(0xF, XENOPS), XapiRecord(LIBXC_LEGACY)))
    return Carried(head, image, (*behind, XapiRecord())).to_bytes()


def in_bytes(record: XapiRecord) -> bytes:
    return b"".join(data for _, data in record.fields(8))


def test_records_of_xenserver() -> None:
    old = in_records(XapiRecord(VARSTORED, b"variables"))
    new = made(old)
    comparison = proven(new, old)
    assert "physmap" in comparison.verdict  # libxc format has no place for what only libxl wrote
    assert comparison.counts == {}
    assert comparison.identical["XenServer record"] == 2
    assert comparison.identical["device model"] == 1
    other = proven(new.replace(b"variables", b"variation"), old)
    assert other.counts == {"XenServer record": 1}
    assert other.differences[0].which == "Varstored"
    without = new.replace(in_bytes(XapiRecord(VARSTORED, b"variables")), b"")
    assert proven(without, old).counts == {"XenServer record": 1}


@pytest.mark.parametrize("behind", [XapiRecord(0x77), XapiRecord(0xF10)], ids=["unknown", "Demu"])
def test_records_that_cannot_be_read_are_missed(behind: XapiRecord) -> None:
    old = in_records(behind, image=PV_IMAGE)
    comparison = proven(made(PV_IMAGE), old)
    assert "the records behind the original's stream, which cannot be read" in comparison.missing


def test_the_device_model_of_a_xapi_image_goes_into_a_record() -> None:
    image = small_image("hvm")
    model = DeviceModel(b"QEVM\0\0\0\3 state", b"QemuDeviceModelRecord\n")
    body = tuple(piece for piece in image.body if not isinstance(piece, Toolstack))
    old = Carried(XapiHead(), replace(image, body=body, device_model=model).to_bytes()).to_bytes()
    new = made(old)
    assert compared(new, old).deletable
    assert compared(new.replace(b" state", b" stage"), old).counts == {"device model": 1}
    gone = new.replace(in_bytes(XapiRecord(QEMU_TRAD, bytes(model.state))), b"")
    assert proven(gone, old).counts == {"device model": 1}
    assert proven(gone, old).errors == proven(new, old).errors + 1  # X140


def test_the_xml_of_libvirt() -> None:
    old = Carried(LibvirtHead(), PV_IMAGE).to_bytes()
    new = made(old)
    assert proven(new, old).deletable
    assert proven(new.replace(b"small", b"smart"), old).counts == {"configuration": 1}
    elsewhere = made(old, container="xl", config=b'name = "small"\n')
    assert (
        "the configuration of the libvirt file, in whose place another one stands"
        in proven(elsewhere, old).missing
    )


def xend(*settings: bytes) -> bytes:
    config = b"(domain (name small) (memory 1) %s (image (linux (kernel /boot/vmlinuz))))" % b" ".join(
        settings
    )
    return Carried(XendHead(config), PV_IMAGE).to_bytes()


def test_the_configuration_of_xend_is_translated() -> None:
    old = xend()
    new = made(old)
    comparison = proven(new, old)
    assert comparison.deletable, comparison.verdict
    assert comparison.identical["configuration"] == 1
    assert proven(new.replace(b"'small'", b'"small"'), old).deletable  # the same to xl
    other = proven(new.replace(b"'small'", b"'smart'"), old)
    assert other.counts == {"configuration": 1}
    assert other.differences[0].which == "name"
    assert not other.deletable


def test_what_xl_has_no_place_for() -> None:
    of_its_own = xend(b"(on_xend_stop suspend)")
    comparison = proven(made(of_its_own), of_its_own)
    assert comparison.deletable
    assert [note.rule for note in comparison.left_out] == ["containers 9.5"]
    device = xend(b"(device (vscsi (backend 0)))")
    comparison = proven(made(device), device)
    assert comparison.missing == ("what xend's configuration says of device vscsi",)
    assert not comparison.deletable


def test_a_configuration_of_xend_that_makes_no_sense() -> None:
    old = Carried(XendHead(b"(domain (name small) (((((((((((("), PV_IMAGE).to_bytes()
    new = made(old, config=b'name = "small"\n')
    assert "the configuration of the xend file, which makes no sense" in proven(new, old).verdict


def test_more_memory_than_xend_said_is_fine() -> None:
    old = xend(b"(maxmem 1)")
    raised = made(old, config=b"name = 'small'\nkernel = '/boot/vmlinuz'\nmemory = 1\nmaxmem = 900\n")
    assert "maxmem" not in {one.which for one in proven(raised, old).differences}
    lowered = made(old, config=b"name = 'small'\nkernel = '/boot/vmlinuz'\nmemory = 1\nmaxmem = 0\n")
    assert "maxmem" in {one.which for one in proven(lowered, old).differences}


# ---- the command -----------------------------------------------------------------------------------------


CUT: Final = [one for one in real.ALL if one.name == "hvm-45-t64-remus-cut"]


@pytest.mark.parametrize("image", real.each(CUT))
def test_command_on_a_checkpointed_image(image: real.Sample, put: Put) -> None:
    old = image.unpacked()
    ran = xenmig("verify", "--against", put(gzip.compress(old), "old.gz"), put(made(old), "new"))
    assert ran.code == 0, ran.out
    lines = ran.out.decode().splitlines()
    assert any("incomplete checkpoint left out" in line and line.endswith("[D28]") for line in lines)
    assert ": the original can be deleted: " in lines[-1]
