"""Every carrier is taken off, with what it says; what cannot be is refused; headers are written anew."""

from __future__ import annotations

import hashlib
import random
import struct
from dataclasses import replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import converted, every_kind, open_file, piped
from drawn import drawn
from hypothesis import given
from hypothesis import strategies as st
from plain.carriers import Broken
from plain.carriers import carried as plainly_carried
from real import ALL, Sample, each

import xenmig_np
from xenmig_np.carriers import libvirt, xapi
from xenmig_np.carriers import xl as xl_carrier
from xenmig_np.carriers.libvirt import LibvirtHeader
from xenmig_np.carriers.recognise import Carried, recognise
from xenmig_np.carriers.xapi import StructuredHeader, records_behind
from xenmig_np.errors import InvalidImage, NotSupported, TruncatedImage, XenmigError
from xenmig_np.io.source import open_source
from xenmig_np.read.image import find
from xenmig_np.read.listing import entries
from xenmig_np.testing import carriers as built
from xenmig_np.testing.builder import small_image
from xenmig_np.testing.carriers import (
    Carried as Built,
)
from xenmig_np.testing.carriers import (
    LibvirtHead,
    StructuredHead,
    XapiHead,
    XapiRecord,
    XendHead,
    in_every_carrier,
)
from xenmig_np.testing.pieces import DeviceModel, XlHeader
from xenmig_np.wire.legacy import Guest
from xenmig_np.wire.xapi import RecordType

if TYPE_CHECKING:
    from collections.abc import Callable

PV, HVM = small_image("pv64").to_bytes(), small_image("hvm").to_bytes()
OLD: Final = ("xend", "libvirt", "xapi", "xapi2")
"""Carriers without a form for v2 streams, or whose form is another one."""
files_and_pipes = pytest.mark.parametrize("given_as", [open_file, piped], ids=["file", "pipe"])


def recognised(data: bytes, *, pipe: bool = False) -> Carried:
    with (piped if pipe else open_file)(data) as fd, open_source(fd) as source:
        return recognise(source)


def notes(data: bytes, *, pipe: bool = False) -> list[tuple[str, str]]:
    """Rule and text of all that is told of an image."""
    with (piped if pipe else open_file)(data) as fd:
        return [(note.rule, note.text) for note in xenmig_np.info(fd).warnings]


# ---- images in carriers ----------------------------------------------------------------------------------


@every_kind
@files_and_pipes
@pytest.mark.parametrize("name", in_every_carrier(b""))
def test_the_image_inside_is_read(name: str, given_as: Callable[..., Any], guest: Any, width: int) -> None:
    image = small_image(guest, width).to_bytes()
    file = in_every_carrier(image)[name]
    with open_file(image) as fd:
        bare = xenmig_np.info(fd)
    with given_as(file.to_bytes()) as fd:
        found = xenmig_np.info(fd)
    carrier = name.split(maxsplit=1)[0].replace("xm", "xend")
    assert (found.carrier, found.stream_offset) == (carrier, file.at)
    assert found.end_offset == file.at + len(image)
    for field in ("guest", "width", "p2m_size", "page_types", "pages", "vcpus", "hvm_params", "device_model"):
        assert getattr(found, field) == getattr(bare, field)
    detected = bare.reasons[2:]  # behind what is said of the carrier
    assert found.reasons[-len(detected) :] == detected


@pytest.mark.parametrize("carrier", OLD)
@pytest.mark.parametrize("guest", ["hvm", "pv64", "pv32"])
@files_and_pipes
def test_the_image_inside_is_converted(guest: Any, carrier: str, given_as: Callable[..., Any]) -> None:
    image = small_image(guest).to_bytes()
    with given_as(in_every_carrier(image)[carrier].to_bytes()) as old, open_file() as new:
        xenmig_np.convert(old, new, container="none")
        with open_source(new) as made:
            data = memoryview(bytearray((made.end or 0) + 1))
            assert bytes(data[: made.read_at(0, data)]) == converted(image)


@pytest.mark.parametrize("name", in_every_carrier(b""))
def test_verify_and_dump_read_it(name: str) -> None:
    file = in_every_carrier(HVM)[name]
    with open_file(file.to_bytes()) as fd:
        report = xenmig_np.verify(fd)
        assert (report.kind.startswith("legacy image"), report.good()) == (True, True)
    with open_file(file.to_bytes()) as fd, open_source(fd) as source:
        head = next(entry for entry in entries(source) if entry.name != "preamble")
    assert (head.name, head.offset + head.length) == (
        f"{recognised(file.to_bytes()).carrier} header",
        file.at,
    )


IN_CARRIERS: Final = [sample for sample in ALL if not sample.ran and sample.carrier != "bare"]


@pytest.mark.parametrize("sample", each(IN_CARRIERS))
@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_samples(sample: Sample, *, pipe: bool) -> None:
    data, known = sample.unpacked(), sample.truth["carrier_info"]
    found = recognised(data, pipe=pipe)
    assert (found.carrier, found.stream, found.at) == (sample.carrier, "legacy", sample.stream_offset)
    assert not found.notes
    assert found.header is not None
    config = found.header.config
    assert len(config) == known.get("config_len", 0)
    if config:
        assert hashlib.sha256(config).hexdigest() == known["config_sha256"]
        assert found.header.guest_name is not None
        said = found.header.guest or (found.carrier == "xl" and Guest.PV)  # what xl takes it for
        assert said is {"hvm": Guest.HVM, "pv": Guest.PV}[sample.kind]
    assert plainly_carried(data) == (found.carrier, found.at, config)


@pytest.mark.parametrize("sample", each([sample for sample in IN_CARRIERS if sample.carrier in OLD]))
def test_samples_are_read_to_their_end(sample: Sample) -> None:
    with open_file(sample.unpacked()) as fd, open_source(fd) as source:
        facts = find(source).survey()
    memory = sample.truth["memory"]
    assert facts.distinct_pages - facts.unmapped_sent == memory["count"]
    behind = 0 if sample.carrier == "xapi" else sample.truth["carrier_info"]["suffix_len"]  # its record
    assert facts.end == sample.truth["image"]["size"] - behind
    trailing = [note.text for note in facts.notes.all() if note.rule == "trailing"]
    padded = sample.truth["carrier_info"].get("padding")
    expected = "65,536 bytes behind End_of_image left out (zeros, as on a raw disk)"
    assert trailing == ([expected] if padded else [])


# ---- what carriers say -----------------------------------------------------------------------------------

SXPS: Final = {
    b"(domain (name web01) (image (hvm (kernel x))))": ("web01", Guest.HVM),
    b"(vm (name 'it' 's')(image(linux)))": (None, Guest.PV),
    b"(domain (device (vif (name inner) (image (hvm))))\n (name\t'o\\'k\\x41\\\\') )": ("o'kA\\", None),
    b'(domain (name "don\'t") (image (vmx)))': ("don't", Guest.HVM),
    b"(domain # (name comment)\n (notes '(name quoted)') (name n) (image ()))": ("n", None),
    b"(domain (name ()) (image ia64))": (None, None),
    b"(domain (name n\xff))": ("n\xff", None),
    b"(domain (name)": (None, None),
    b"(domain 'open": (None, None),
}


@pytest.mark.parametrize("config", SXPS)
def test_name_and_guest_in_a_sxp(config: bytes) -> None:
    header = recognised(Built(XendHead(config), PV).to_bytes()).header
    assert header is not None
    assert (header.guest_name, header.guest) == SXPS[config]
    assert (header.config, header.config_kind) == (config, "sxp")


def test_a_hostile_sxp_takes_no_time() -> None:
    for filling in (b"(", b"'\\", b"\\'", b"((name", b"a'"):
        config = (b"(" + filling * (1 << 21))[: 3 << 20]
        header = recognised(Built(XendHead(config), PV).to_bytes()).header
        assert header is not None
        assert header.guest is None


XMLS: Final = {
    built.XML: ("small", Guest.PV),
    b"<domain type='xen'><name>a&amp;b</name><os><type arch='x86_64'>hvm</type></os></domain>\0": (
        "a&b",
        Guest.HVM,
    ),
    b"<domain><os>\n<type machine='xenpv'>linux</type></os></domain>\0": (None, Guest.PV),
    b"<domain><name>x</name><type>hvm</type></domain>\0": ("x", None),
}


@pytest.mark.parametrize("xml", XMLS)
def test_name_and_guest_in_xml(xml: bytes) -> None:
    header = recognised(Built(LibvirtHead(xml), PV).to_bytes()).header
    assert header is not None
    assert (header.guest_name, header.guest) == XMLS[xml]
    assert (header.config, header.config_kind) == (xml, "xml")


XL_CONFIGS: Final = {
    b'builder = "hvm"\nname = "a"\n': Guest.HVM,
    b"name='a'\n type='pv'": Guest.PV,
    b'name="a"\nkernel="builder = hvm"\n': None,
    b'{"c_info": {"type": "hvm", "name": "a"}}\0': Guest.HVM,
    b'{"c_info": {"type": "pv", "name": "a"}}\0': Guest.PV,
    b'{"c_info": {"type": 7, "name": "a"}}\0': None,
}


@pytest.mark.parametrize("config", XL_CONFIGS)
def test_guest_in_a_configuration_of_xl(config: bytes) -> None:
    header = recognised(Built(XlHeader(config), PV).to_bytes()).header
    assert header is not None
    assert (header.guest, header.guest_name) == (XL_CONFIGS[config], "a")


def test_a_configuration_of_the_other_kind_of_guest() -> None:
    told = ("containers 3.5", "the configuration is of a PV guest, the image of a HVM one")
    for head in (XendHead(), LibvirtHead(), StructuredHead(), XlHeader(b'type="pv"')):
        assert told in notes(Built(head, HVM, (XapiRecord(),)).to_bytes())
        assert told not in notes(Built(head, PV, (XapiRecord(),)).to_bytes())


@pytest.mark.skipif(not ALL, reason="the samples are not there")
def test_the_configuration_decides_where_nothing_else_does() -> None:
    """The beginning of this image reads as both kinds of guest, and of a pipe there is nothing else."""
    image = next(sample for sample in ALL if sample.name == "pv32-304-t32-noext").unpacked()
    data = Built(XendHead(), image).to_bytes()
    found = next(reason for reason in _reasons(data, pipe=True) if "configuration says" in reason)
    assert found == "it reads as PV and as HVM, its configuration says pv"
    assert not any("configuration says" in reason for reason in _reasons(data, pipe=False))


def _reasons(data: bytes, *, pipe: bool) -> tuple[str, ...]:
    with (piped if pipe else open_file)(data) as fd, open_source(fd) as source:
        return find(source).detected.reasons


@pytest.mark.parametrize("width", [64, 32])
def test_the_width_that_xapi_says(width: int) -> None:
    image = small_image("pv64", width).to_bytes()
    told = [text for rule, text in notes(Built(XapiHead(), image).to_bytes()) if rule == "containers 4.2"]
    other = ["the carrier is of 32-bit tools, the image of 64-bit ones"]
    assert told == ([] if width == 32 else other)


BEHIND_AT: Final = f"behind the image: xapi record at {Built(StructuredHead(), PV).at + len(PV):#x}"
ODD: Final = {
    "version 2": (
        Built(LibvirtHead(version=2), PV),
        "the libvirt header says version 2, a legacy image follows",
    ),
    "no NUL": (Built(LibvirtHead(built.XML[:-1]), PV), "no NUL behind the domain XML"),
    "unused": (
        Built(LibvirtHead(unused=bytes(39) + b"x"), PV),
        "unused bytes of the libvirt header are not 0",
    ),
    "flags": (
        Built(XlHeader(mandatory_flags=2), PV),
        "the flags say that a v2 stream follows, a legacy image does",
    ),
    "record of v2": (
        Built(StructuredHead((XapiRecord(0xF, built.XENOPS), XapiRecord(built.LIBXC))), PV, (XapiRecord(),)),
        "a record Libxc holds a legacy image",
    ),
    "length": (
        Built(
            StructuredHead((XapiRecord(0xF, built.XENOPS), XapiRecord(built.LIBXC_LEGACY, length=7))),
            PV,
            (XapiRecord(),),
        ),
        "a record Libxc_legacy says that it has 7 bytes, its stream ends by itself",
    ),
    "no Xenops": (
        Built(StructuredHead((XapiRecord(built.LIBXC_LEGACY),)), PV, (XapiRecord(),)),
        "the first record is not Xenops",
    ),
    "a sxp without its end": (
        Built(XendHead(b"(domain (name x)"), PV),
        "the last ) of the configuration is missing",
    ),
    "a sxp that is none": (
        Built(XendHead(b"(domain 'open"), PV),
        "not to be read: configuration at 0x1c: found 'open, expected its closing quote",
    ),
    "capture": (
        Built(XendHead(), PV, preamble=built.RECEIVE),
        "a capture: the request of a xend migration precedes the image, 8 bytes",
    ),
    "no end": (
        Built(StructuredHead(), PV),
        f"{BEHIND_AT}: found the end of the input after 0 bytes, expected 16 bytes",
    ),
    "vGPU": (
        Built(StructuredHead(), PV, (XapiRecord(built.DEMU, b"state"), XapiRecord())),
        f"{BEHIND_AT}: not supported: a record Demu, whose length nothing says",
    ),
    "UEFI": (
        Built(StructuredHead(), PV, (XapiRecord(built.VARSTORED, bytes(99)), XapiRecord())),
        "a record Varstored of 99 bytes follows",
    ),
    "more": (
        Built(StructuredHead(), PV, (XapiRecord(),), b"more"),
        "4 bytes behind End_of_image left out (of unknown kind)",
    ),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_what_is_odd_is_told(name: str, *, pipe: bool) -> None:
    file, text = ODD[name]
    assert [told for _, told in notes(file.to_bytes(), pipe=pipe)] == [text]


# ---- what is refused -------------------------------------------------------------------------------------

BROKEN: Final[dict[str, tuple[bytes, type[XenmigError], int | None, str]]] = {
    "xend: a short configuration": (
        Built(XendHead(b"(domain"), PV).to_bytes(),
        InvalidImage,
        16,
        "xend head at 0x10: found 7 bytes before the stream, expected 8 to 16,777,216",
    ),
    "xend: a negative length": (
        Built(XendHead(length=-1), PV).to_bytes(),
        InvalidImage,
        16,
        "found -1 bytes",
    ),
    "xend: a long configuration": (
        Built(XendHead(length=(1 << 24) + 1), PV).to_bytes(),
        InvalidImage,
        16,
        "found 16,777,217 bytes",
    ),
    "xend: cut": (
        Built(XendHead(length=1 << 20), PV).to_bytes(),
        TruncatedImage,
        20,
        "xend head, configuration at 0x14: found the end of the input",
    ),
    "xend: cut in its head": (
        b"LinuxGuestRecord\0\0",
        TruncatedImage,
        0,
        "xend head at 0x0: found the end of the input after 18 bytes, expected 20 bytes",
    ),
    "Xen 2.0": (
        Built(XendHead(b"\x40\x10\0\0" * 1024 + b"(vm (name x))"), PV).to_bytes(),
        NotSupported,
        0,
        "it is an image of Xen 2.0",
    ),
    "libvirt: version 3": (
        Built(LibvirtHead(version=3), PV).to_bytes(),
        InvalidImage,
        16,
        "libvirt header at 0x10: found version 3, expected 1 or 2",
    ),
    "libvirt: big-endian": (
        Built(LibvirtHead(version=1 << 24), PV).to_bytes(),
        NotSupported,
        16,
        "written by a big-endian host",
    ),
    "libvirt: no XML": (Built(LibvirtHead(b""), PV).to_bytes(), InvalidImage, 20, "expected 1 to 16,777,216"),
    "libvirt: long XML": (
        Built(LibvirtHead(length=0xFFFF_FFFF), PV).to_bytes(),
        InvalidImage,
        20,
        "found 4,294,967,295 bytes",
    ),
    "libvirt: other text": (
        Built(LibvirtHead(b"{}\0"), PV).to_bytes(),
        InvalidImage,
        64,
        "libvirt header, domain XML at 0x40: found 7b 7d 00, expected <domain",
    ),
    "libvirt: cut": (Built(LibvirtHead(), b"").to_bytes()[:-1], TruncatedImage, 64, "domain XML at 0x40"),
    "xapi: an unknown record": (
        Built(StructuredHead((XapiRecord(0x1234, b"x"),)), PV).to_bytes(),
        InvalidImage,
        15,
        "xapi record at 0xf: found type 0x1234, expected one of 0xf, 0xf0",
    ),
    "xapi: a long record": (
        Built(StructuredHead((XapiRecord(0xF, b"", 1 << 63),)), PV).to_bytes(),
        InvalidImage,
        23,
        "xapi record Xenops at 0x17: found 9,223,372,036,854,775,8",
    ),
    "xapi: many records": (
        Built(StructuredHead((XapiRecord(0xF),) * 65), PV).to_bytes(),
        InvalidImage,
        15 + 64 * 16,
        "expected at most 64 records",
    ),
    "xapi: no stream": (
        Built(StructuredHead((XapiRecord(0xF, b"()"), XapiRecord())), PV).to_bytes(),
        InvalidImage,
        33,
        "found the end of the image, expected a record with a libxc stream before",
    ),
    "xapi: a vGPU first": (
        Built(StructuredHead((XapiRecord(0xF, b"()"), XapiRecord(built.DEMU))), PV).to_bytes(),
        NotSupported,
        33,
        "a record Demu, whose length nothing says",
    ),
    "xapi: cut": (
        Built(StructuredHead((XapiRecord(0xF, b"()", 3),)), b"").to_bytes(),
        TruncatedImage,
        31,
        "xapi record Xenops at 0x1f",
    ),
    "xl: big-endian": (
        Built(XlHeader(byteorder=0x04030201), PV).to_bytes(),
        NotSupported,
        32,
        "written by a big-endian host",
    ),
    "xl: long": (
        Built(XlHeader(optional_data_length=(1 << 24) + 1), PV).to_bytes(),
        InvalidImage,
        44,
        "found 16,777,217 bytes before the stream",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@files_and_pipes
@pytest.mark.parametrize("preamble", [b"", built.RECEIVE], ids=["", "capture"])
def test_refused(name: str, given_as: Callable[..., Any], preamble: bytes) -> None:
    data, error, offset, text = BROKEN[name]
    with given_as(preamble + data) as fd, pytest.raises(error) as caught:
        xenmig_np.info(fd)
    if not preamble:
        assert text in str(caught.value)
    assert caught.value.offset == (offset or 0) + len(preamble)
    assert caught.value.path


def test_a_stream_of_v2_in_a_carrier_is_named() -> None:
    stream = converted(PV, format="libxl")
    for head in (XlHeader(mandatory_flags=2), LibvirtHead(version=2)):
        with open_file(Built(head, stream).to_bytes()) as fd, pytest.raises(NotSupported) as caught:
            xenmig_np.info(fd)
        assert "it already is a migration v2 stream, libxl format" in str(caught.value)
        assert caught.value.hint == "it needs no conversion"


def test_a_wrong_label_of_libvirt_is_named() -> None:
    file = Built(LibvirtHead(version=1), converted(PV, format="libxl"))
    with open_file(file.to_bytes()) as fd, pytest.raises(NotSupported) as caught:
        xenmig_np.info(fd)
    assert caught.value.hint == (
        "the libvirt header says version 1, a libxl stream follows: "
        "no libvirt restores that, convert sets it to 2"
    )


def test_where_each_carrier_may_be_cut() -> None:
    """At every byte of a head: an error of ours, and no other."""
    for file in in_every_carrier(PV).values():
        data = file.to_bytes()
        for length in range(4, file.at):
            with open_file(data[:length]) as fd, pytest.raises((InvalidImage, NotSupported)):
                xenmig_np.info(fd)


HEADS: Final = [XendHead(), LibvirtHead(), StructuredHead(), XapiHead(), XlHeader()]


@drawn(300)
@given(st.sampled_from(HEADS), st.integers(0, 1 << 32), st.integers(1, 4))
def test_the_plain_twin_agrees_on_damaged_heads(head: Any, seed: int, flips: int) -> None:
    file = Built(head, PV, (XapiRecord(),))
    data = bytearray(file.to_bytes())
    chance = random.Random(seed)
    for _ in range(flips):
        data[chance.randrange(16, max(file.at, 17))] = chance.choice(
            (0, 1, 2, 0x28, 0xF0, 0xFF, chance.randrange(256))
        )
    try:
        found = recognised(bytes(data))
    except XenmigError:
        found = None
    try:
        plain = plainly_carried(bytes(data))
    except (Broken, struct.error):
        plain = None
    if found is None or plain is None:
        assert found is None  # the other way round ours is stricter: bounds, and Xen 2.0
        return
    config = found.header.config if found.header else b""
    assert (found.carrier, found.at, config) == plain


# ---- writing ---------------------------------------------------------------------------------------------


def header(data: bytes) -> Any:
    return recognised(data).header


def test_the_libvirt_header_of_a_v2_stream() -> None:
    old = Built(LibvirtHead(unused=bytes(range(40))), PV).to_bytes()
    made = header(old).for_v2().to_bytes()
    assert made[:16] + b"\1" + made[17:] == old[: len(made)]
    assert made[16:20] == b"\2\0\0\0"
    assert header(old).to_bytes() == old[: len(made)]
    mended = recognised(made + converted(PV, format="libxl"))
    assert (mended.stream, mended.at, mended.notes[1:]) == ("libxl", len(made), ())


@pytest.mark.parametrize("xml", [b"<domain/>", b"<domain/>\0", b"<domain/>\0\0"])
def test_a_libvirt_header_for_an_xml_of_the_users(xml: bytes) -> None:
    made = libvirt.made(xml)
    assert made == LibvirtHeader(2, b"<domain/>\0")
    assert made.to_bytes() == b"libvirt-xml\n \0 \r\2\0\0\0\x0a\0\0\0" + bytes(40) + b"<domain/>\0"
    assert header(made.to_bytes() + PV) == made


def test_an_xl_header_for_a_text() -> None:
    made = xl_carrier.made(b"name = 'x'\n")
    assert made == b"".join(
        (
            b"Xen saved domain, xl format\n \0 \r",
            struct.pack("<5I", 0x01020304, 2, 0, 15, 11),
            b"name = 'x'\n",
        )
    )
    assert header(made + PV).config == b"name = 'x'\n"


def test_records_of_xapi_before_a_libxc_stream() -> None:
    made = xapi.start(32)
    text = b'((time 19700101T00:00:00Z)(word_size 32)(vm_str "")(xs_subtree()))'
    heads = struct.pack("<QQ", 0xF, len(text)), struct.pack("<QQ", 0xF0, 0)
    assert made == b"XenSavedDomv2-\n" + heads[0] + text + heads[1]
    found = recognised(made + converted(PV, format="libxc"))
    assert (found.carrier, found.stream, found.at, found.notes) == ("xapi2", "libxc", len(made), ())
    assert found.header is not None
    assert (found.header.width, found.header.guest, found.header.guest_name) == (32, None, None)


def test_a_structured_image_is_made_one_of_v2() -> None:
    records = (XapiRecord(0xF, built.XENOPS), XapiRecord(built.VARSTORED, b"vars"))
    old = Built(StructuredHead((*records, XapiRecord(built.LIBXC_LEGACY))), PV, (XapiRecord(),))
    new = Built(StructuredHead((*records, XapiRecord(built.LIBXC))), b"")
    head = header(old.to_bytes())
    assert isinstance(head, StructuredHeader)
    assert head.for_v2() == new.to_bytes()
    assert [record.name for record in head.records] == ["Xenops", "Varstored", "Libxc_legacy"]


def test_records_behind_a_stream() -> None:
    behind = (XapiRecord(built.VARSTORED, b"vars"), XapiRecord(built.QEMU_TRAD, b"QEVM"), XapiRecord())
    file = Built(StructuredHead(), HVM, behind, b"rest")
    at = file.at + len(HVM)
    with open_file(file.to_bytes()) as fd, open_source(fd) as source:
        found = records_behind(source, at)
    assert [(it.type, it.offset - at, it.length) for it in found] == [
        (RecordType.VARSTORED, 0, 4),
        (RecordType.QEMU_TRAD, 20, 4),
        (RecordType.END_OF_IMAGE, 40, 0),
    ]
    made = xapi.record(RecordType.VARSTORED, b"vars") + xapi.record(RecordType.QEMU_TRAD, length=4) + b"QEVM"
    assert file.to_bytes()[at:] == made + xapi.end() + b"rest"


BEHIND: Final[dict[str, tuple[XapiRecord, type[XenmigError]]]] = {
    "a second stream": (XapiRecord(built.LIBXC), NotSupported),
    "a long record": (XapiRecord(built.VARSTORED, b"", (256 << 20) + 1), InvalidImage),
    "an unknown record": (XapiRecord(0x1234), InvalidImage),
    "a cut record": (XapiRecord(built.VARSTORED, b"x", 2), TruncatedImage),
    "a vGPU": (XapiRecord(built.DEMU), NotSupported),
}


@pytest.mark.parametrize("name", BEHIND)
def test_records_behind_a_stream_that_are_refused(name: str) -> None:
    record, error = BEHIND[name]
    file = Built(StructuredHead(), HVM, (record,))
    with open_file(file.to_bytes()) as fd, open_source(fd) as source, pytest.raises(error) as caught:
        records_behind(source, file.at + len(HVM))
    assert (caught.value.offset or 0) >= file.at + len(HVM)


def test_a_xapi_record_of_a_device_model() -> None:
    """The one with a newline, in the image, and the one of xenopsd-xl."""
    for signature in (b"QemuDeviceModelRecord\n", b"DeviceModelRecord0002"):
        image = replace(small_image("hvm", 32), device_model=DeviceModel(signature=signature)).to_bytes()
        with open_file(Built(XapiHead(), image).to_bytes()) as fd:
            assert xenmig_np.info(fd).device_model == signature.decode().strip()


def test_a_wrapped_sample_converts_as_bare() -> None:
    """What is in `*-xend` and in its like is what the carrier holds: nothing of the carrier comes through."""
    samples = [
        sample for sample in IN_CARRIERS if fnmatch(sample.name, "*-xapi2") or sample.carrier == "libvirt"
    ]
    if not samples:
        pytest.skip("the samples are not there")
    for sample in samples:
        data, image = sample.unpacked(), sample.truth["image"]
        inner = data[sample.stream_offset : sample.stream_offset + image["stream_len"]]
        assert converted(data, container="none") == converted(inner)
