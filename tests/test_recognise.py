"""What a file is, by how it begins (containers.md 7, 9.1); nothing else is taken for an image."""

from __future__ import annotations

import os
import random
import struct
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import converted, open_file, piped, xenmig

import xenmig_np
from xenmig_np.carriers.recognise import recognise
from xenmig_np.errors import InvalidImage, NotRecognised, NotSupported, TruncatedImage, UsageError
from xenmig_np.io.source import open_source
from xenmig_np.read.image import find
from xenmig_np.testing.builder import small_image
from xenmig_np.testing.carriers import BANNER, Carried, XendHead, in_every_carrier
from xenmig_np.testing.fields import le
from xenmig_np.wire.carriers import BEGINNINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xenmig_np.carriers.recognise import Carried as Recognised

PV, HVM = small_image("pv64").to_bytes(), small_image("hvm").to_bytes()


def recognised(data: bytes) -> Recognised:
    with open_file(data) as fd, open_source(fd) as source:
        return recognise(source)


def begin(*parts: tuple[int, bytes], length: int = 4096) -> bytes:
    """A file with those bytes at those offsets, and text between them."""
    data = bytearray(b"some text; " * (length // 11 + 1))[:length]
    for at, part in parts:
        data[at : at + len(part)] = part
    return bytes(data)


# ---- containers.md 7, row by row -------------------------------------------------------------------------

DYNAMIC_VHD = begin((0, b"conectix"), (512, b"cxsparse"))
EXT = bytes(1024) + begin((56, b"\x53\xef"), (24, le(2, 4)), (76, le(1, 4)))
ROWS: Final = {
    "Xen 2.0": (
        Carried(XendHead(b"\x40\x10\0\0" * 1024 + b"(vm (name x))", 0x1000), b"").to_bytes(),
        "an image of Xen 2.0",
        "no Xen since 3.0",
    ),
    "ia64": (
        Carried(XendHead(), struct.pack("<QQ", 0x4000, 2) + bytes(range(256)) * 16).to_bytes(),
        "an image of an ia64 guest",
        "Xen 4.2 was the last",
    ),
    "pre-ELF core, PV": (begin((0, bytes.fromhex("ed eb 0f f0"))), "a Xen core dump of 3.0", "memory dump"),
    "pre-ELF core, HVM": (begin((0, bytes.fromhex("ee eb 0f f0"))), "a Xen core dump of 3.0", "memory dump"),
    "dump-core": (
        begin((0, b"\x7fELF\2\1\1\0\1" + bytes(7) + b"\4\0"), (32, bytes(8))),
        "a Xen core dump",
        "memory dump",
    ),
    "ELF core": (begin((0, b"\x7fELF\2\1\1" + bytes(9) + b"\4\0")), "an ELF core file", "memory dump"),
    "ELF program": (begin((0, b"\x7fELF\2\1\1" + bytes(9) + b"\3\0")), "an ELF file", "a program"),
    "KVM": (begin((0, b"LibvirtQemudSave")), "a libvirt KVM save file", "not a Xen one"),
    "KVM, incomplete": (
        begin((0, b"LibvirtQemudPart")),
        "an incomplete libvirt KVM save file",
        "not a Xen one",
    ),
    "qemu state": (begin((0, b"QEVM\0\0\0\3")), "a QEMU state", "without a guest's memory"),
    "ext": (EXT, "an ext2, ext3 or ext4 file system", "suspend-image"),
    "VHD": (DYNAMIC_VHD, "a VHD disk", "take the suspend image out"),
    "fixed VHD": (begin((4096 - 512, b"conectix")), "a VHD disk", "take the suspend image out"),
    "qcow": (begin((0, b"QFI\xfb\0\0\0\1")), "a qcow disk", "take the suspend image out"),
    "qcow2": (begin((0, b"QFI\xfb\0\0\0\3")), "a qcow disk", "take the suspend image out"),
    "VMDK": (begin((0, b"KDMV")), "a VMDK disk", "take the suspend image out"),
    "VMDK descriptor": (begin((0, b"# Disk DescriptorFile")), "a VMDK disk", "take the suspend image out"),
    "VDI": (begin((0, b"<<< Oracle"), (64, b"\x7f\x10\xda\xbe")), "a VDI disk", "take the suspend image out"),
    "XVA": (begin((0, b"ova.xml\0"), (257, b"ustar")), "an XVA archive", "take the suspend image out"),
    "tar": (begin((0, b"other\0"), (257, b"ustar")), "a tar archive", "take the image out"),
    **{
        f"VMware {magic}": (begin((0, bytes.fromhex(magic))), "a VMware state", "another hypervisor")
        for magic in ("d0bed2be", "d1bad1ba", "d2bed2be", "d3bed3be")
    },
    "VirtualBox": (begin((0, b"\x7fVirtualBox SavedState V2.0")), "a VirtualBox saved state", "another hyp"),
    "LiME": (begin((0, b"EMiL")), "a LiME memory dump", "memory dump"),
    "AVML": (begin((0, b"AVML")), "an AVML memory dump", "memory dump"),
    "Windows crash dump": (begin((0, b"PAGEDUMP")), "a Windows crash dump", "memory dump"),
    "Windows crash dump, 64": (begin((0, b"PAGEDU64")), "a Windows crash dump", "memory dump"),
    "lzma": (begin((0, b"\x5d\0\0\x80\0" + b"\xff" * 8)), "lzma data", "decompress it"),
    "lzma of known size": (begin((0, b"\x5d\0\0\x80\0" + le(4711, 8))), "lzma data", "decompress it"),
    "lz4 of old": (begin((0, b"\x02\x21\x4c\x18")), "lz4 data", "decompress it"),
    "lzop": (begin((0, b"\x89LZO\0\r\n\x1a\n")), "lzop data", "decompress it"),
    "compress": (begin((0, b"\x1f\x9d")), "compress data", "decompress it"),
    "openssl": (begin((0, b"Salted__")), "an encrypted file", "decrypt it"),
    "age": (begin((0, b"age-encryption.org/v1")), "an encrypted file", "decrypt it"),
    "PGP": (begin((0, b"\x85\x02\x0c\x03")), "a PGP message", "decrypt it"),
    "PGP in ASCII": (begin((0, b"-----BEGIN PGP MESSAGE-----")), "an encrypted file", "decrypt it"),
    "PE": (begin((0, b"MZ\x90\0\3\0\0\0")), "a Windows program", "a program"),
    "MZ": (begin((0, b"MZ")), "a Windows or DOS program", "a program"),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("given_as", [open_file, piped], ids=["file", "pipe"])
def test_named_with_advice(name: str, given_as: Callable[..., Any]) -> None:
    data, what, advice = ROWS[name]
    if name == "fixed VHD" and given_as is piped:
        pytest.skip("nothing but its end tells, and a pipe's end is not looked at")
    with given_as(data) as fd, pytest.raises(NotSupported) as caught:
        xenmig_np.info(fd)
    assert caught.value.what == f"it is {what}"
    assert advice in (caught.value.hint or "")


@pytest.mark.parametrize("level", ["libxc", "libxl"])
def test_a_stream_of_v2_is_named(level: str) -> None:
    with open_file(converted(HVM, format=level)) as fd, pytest.raises(NotSupported) as caught:
        xenmig_np.info(fd)
    assert f"it already is a migration v2 stream, {level} format" in caught.value.what


def test_every_beginning_is_named_by_a_row() -> None:
    """Those apart that are decompressed and never seen."""
    compressed = {"gzip data", "bzip2 data", "xz data", "zstd data", "zstd or lz4 data"}
    assert {row.name for row in BEGINNINGS} - compressed == {
        what
        for _, what, _ in ROWS.values()
        if what not in {"an image of Xen 2.0", "an image of an ia64 guest"}
    }


def test_an_earlier_beginning_hides_no_later_one() -> None:
    """A row that is a part of another stands behind it."""
    for index, row in enumerate(BEGINNINGS):
        later = [other for other in BEGINNINGS[index + 1 :] if set(row.bytes_at) < set(other.bytes_at)]
        assert not later, row


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_blank(fill: bytes) -> None:
    with open_file(fill * 8192) as fd, pytest.raises(NotRecognised) as caught:
        xenmig_np.info(fd)
    assert caught.value.hint == "blank or wiped"


# ---- how it was decided ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", in_every_carrier(b""))
def test_reasons(name: str) -> None:
    file = in_every_carrier(PV)[name]
    found = recognised(file.to_bytes())
    assert found.reasons[-1] == (
        f"no magic of a libxl or libxc stream stands at {file.at:#x}: a legacy image, or none"
    )
    assert found.reasons[-3].endswith(f"stands at {len(file.preamble):#x}")
    assert (found.reasons[0].startswith("the magic")) is not bool(file.preamble)


def test_reasons_without_a_carrier() -> None:
    bare, reasons = recognised(PV), recognised(PV).reasons
    assert (bare.carrier, bare.at, bare.header) == ("bare", 0, None)
    assert reasons[0] == (
        "no magic stands at 0x0: not an xl file, a xend file, a libvirt file, "
        "a XenServer (xapi) suspend image, a structured XenServer (xapi) suspend image, "
        "nor any of the files that are known by name"
    )
    assert "it is compress data if it reads as no image" in recognised(b"\x1f\x9d" + PV).reasons[0]
    assert recognised(converted(PV, format="libxc")).reasons[-1] == (
        "the magic of a libxc stream stands at 0x0"
    )


def test_info_tells_the_reasons(put: Callable[..., Path]) -> None:
    file = in_every_carrier(PV)["xend"]
    out = xenmig("info", "-v", put(file.to_bytes())).out.decode()
    assert out.splitlines()[0].endswith(": legacy Xen image, in a xend file")
    because = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("  because")]
    assert because[0] == "the magic of a xend file stands at 0x0"
    assert because[-1] == "the marker of extended info stands behind p2m_size"
    assert "  config       small, 71 bytes, sxp" in out
    assert "because" not in xenmig("info", put(file.to_bytes())).out.decode()


# ---- what precedes or follows ----------------------------------------------------------------------------


def test_a_preamble_is_skipped_once() -> None:
    data = in_every_carrier(PV)["xl"].to_bytes()
    assert recognised(BANNER + data).notes[0].text == (
        "a capture: the receiver's banner of an xl migration precedes the image, 54 bytes"
    )
    with pytest.raises(NotRecognised):
        find_in(BANNER + BANNER + data)
    with pytest.raises(NotRecognised):
        find_in(BANNER[:-1] + data)


def find_in(data: bytes) -> Any:
    with open_file(data) as fd, open_source(fd) as source:
        return find(source).carried


@pytest.mark.parametrize("name", ["xl", "xend", "libvirt", "xapi", "xapi2"])
def test_what_stands_before_a_magic_can_be_skipped(name: str) -> None:
    """It is not guessed at: the number of bytes is told, and with it the image is found."""
    file = in_every_carrier(PV)[name]
    data = b"a line that does not belong here\n" + file.to_bytes()
    with pytest.raises(NotRecognised) as caught:
        find_in(data)
    assert (caught.value.hint or "").endswith("begins at byte 33: try --skip 33")
    for given_as in (open_file, piped):
        with given_as(data) as fd, open_source(fd) as source:
            source.start += 33
            found = find(source)
            assert (found.carried.carrier, found.carried.at) == (name, 33 + file.at)
            assert found.survey().end == 33 + file.at + len(PV)


@pytest.mark.parametrize("name", in_every_carrier(b""))
def test_no_more_is_taken_than_an_image_has(name: str) -> None:
    """Where what follows is somebody else's: behind the carrier 32 bytes, which the shortest image has."""
    file = in_every_carrier(PV[:32])[name]
    data = file.to_bytes()[: file.at + 32]
    reading, writing = os.pipe()
    try:
        os.write(writing, data + b"next")
        with open_source(reading, exact=True) as source:
            assert recognise(source).at == file.at
        left = os.read(reading, 1 << 16)
    finally:
        os.close(reading)
        os.close(writing)
    assert left.endswith(b"next")


@pytest.mark.parametrize("name", ["xl", "xend", "libvirt", "xapi", "xapi2"])
def test_a_beginning_that_is_cut(name: str) -> None:
    magic = in_every_carrier(b"")[name].to_bytes()[: {"xl": 32, "xapi": 15, "xapi2": 15}.get(name, 16)]
    for length in range(12, len(magic)):
        with pytest.raises(TruncatedImage) as caught:
            recognised(magic[:length])
        assert "more: it begins like a" in str(caught.value)


# ---- nothing else is an image ----------------------------------------------------------------------------

NO_IMAGE: Final = (NotRecognised, NotSupported, InvalidImage, UsageError)
SECONDS: Final = 90.0
ENOUGH: Final = 5000


def files(folders: tuple[str, ...]) -> Iterator[str]:
    """Readable ordinary files, in an order drawn anew each time, so that many runs see all of them."""
    found = [os.path.join(root, name) for top in folders for root, _, names in os.walk(top) for name in names]
    random.Random().shuffle(found)
    for path in found:
        if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK):
            yield path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_files_of_a_system_are_no_images() -> None:
    end, seen = time.monotonic() + SECONDS, 0
    for path in files(("/usr", "/etc", "/lib", "/opt", "/var/lib")):
        if time.monotonic() > end:
            break
        with pytest.raises(NO_IMAGE) as caught, open_source(path) as source:
            find(source)
        assert not isinstance(caught.value, UsageError), f"{path} could be an image of either kind of guest"
        seen += 1
    assert seen > ENOUGH


@pytest.mark.slow
def test_most_files_are_refused_by_their_first_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = [0]
    preadv = os.preadv

    def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
        got = preadv(fd, buffers, offset)
        read[-1] += got
        return got

    monkeypatch.setattr(os, "preadv", counted)
    for path, _ in pairwise(files(("/etc", "/usr/share"))):
        with pytest.raises(NO_IMAGE), open_source(path) as source:
            find(source)
        read.append(0)
        if len(read) > 3000:
            break
    assert sorted(read)[len(read) * 95 // 100] <= 64 * 1024
