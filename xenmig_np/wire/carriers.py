"""How files begin that are mistaken for Xen images, or may hold one (containers.md 7)."""

from __future__ import annotations

from typing import Final, NamedTuple


class Beginning(NamedTuple):
    """A kind of file by fixed bytes; it is named and not converted."""

    name: str
    bytes_at: tuple[tuple[int, bytes], ...]
    """All of these (offset, bytes) must be there."""
    advice: str
    doubtful: bool = False
    """They may as well be the p2m_size of a legacy image: that is looked for first."""


def _at0(name: str, *magics: bytes, advice: str) -> tuple[Beginning, ...]:
    return tuple(Beginning(name, ((0, magic),), advice) for magic in magics)


_DECOMPRESS: Final = "decompress it first"
_DECRYPT: Final = "decrypt it first"
EXTRACT: Final = "a disk image: take the suspend image out of it first"
_DUMP: Final = "a memory dump, not a suspended guest"
_KVM: Final = "a KVM guest, not a Xen one"
_OTHER: Final = "of another hypervisor, not of Xen"
_PROGRAM: Final = "a program, not an image"

BEGINNINGS: Final = (
    Beginning("gzip data", ((0, b"\x1f\x8b\x08"),), _DECOMPRESS, doubtful=True),
    Beginning("bzip2 data", ((0, b"BZh"), (4, b"1AY&SY")), _DECOMPRESS),
    Beginning("lzma data", ((0, b"\x5d\x00\x00"), (5, b"\xff" * 8)), _DECOMPRESS),
    Beginning("lzma data", ((0, b"\x5d\x00\x00"),), _DECOMPRESS, doubtful=True),
    *_at0("xz data", b"\xfd7zXZ\x00", advice=_DECOMPRESS),
    *_at0("zstd data", b"\x28\xb5\x2f\xfd", advice=_DECOMPRESS),
    *_at0(
        "zstd or lz4 data",
        *(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60)),  # a frame to be skipped
        advice=_DECOMPRESS,
    ),
    *_at0("lz4 data", b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18", advice=_DECOMPRESS),
    *_at0("lzop data", b"\x89LZO\x00\r\n\x1a\n", advice=_DECOMPRESS),
    Beginning("compress data", ((0, b"\x1f\x9d"),), _DECOMPRESS, doubtful=True),
    *_at0("a libvirt KVM save file", b"LibvirtQemudSave", advice=_KVM),
    *_at0("an incomplete libvirt KVM save file", b"LibvirtQemudPart", advice=_KVM),
    *_at0("a QEMU state", b"QEVM\x00\x00\x00", advice="a device model's state without a guest's memory"),
    Beginning(
        "a Xen core dump",
        ((0, b"\x7fELF"), (8, b"\x01"), (16, b"\x04\x00"), (32, bytes(8))),  # ABI version 1, no segments
        _DUMP,
    ),
    Beginning("an ELF core file", ((0, b"\x7fELF"), (16, b"\x04\x00")), _DUMP),
    *_at0("an ELF file", b"\x7fELF", advice=_PROGRAM),
    *_at0("a Xen core dump of 3.0", b"\xed\xeb\x0f\xf0", b"\xee\xeb\x0f\xf0", advice=_DUMP),
    *_at0("a LiME memory dump", b"EMiL", advice=_DUMP),
    *_at0("an AVML memory dump", b"AVML", advice=_DUMP),
    *_at0("a Windows crash dump", b"PAGEDUMP", b"PAGEDU64", advice=_DUMP),
    *_at0(
        "a VMware state",
        *(bytes([first, second]) * 2 for first, second in ((0xD1, 0xBA), (0xD2, 0xBE), (0xD3, 0xBE))),
        b"\xd0\xbe\xd2\xbe",
        advice=_OTHER,
    ),
    *_at0("a VirtualBox saved state", b"\x7fVirtualBox SavedState V", advice=_OTHER),
    *_at0("a VHD disk", b"conectix", advice=EXTRACT),
    *_at0("a qcow disk", b"QFI\xfb", advice=EXTRACT),
    *_at0("a VMDK disk", b"KDMV", b"# Disk DescriptorFile", advice=EXTRACT),
    Beginning("a VDI disk", ((0, b"<<< "), (64, b"\x7f\x10\xda\xbe")), EXTRACT),
    *_at0(
        "an encrypted file",
        b"Salted__",
        b"age-encryption.org/",
        b"-----BEGIN PGP MESSAGE-----",
        advice=_DECRYPT,
    ),
    Beginning("a PGP message", ((0, b"\x85"), (3, b"\x03")), _DECRYPT, doubtful=True),
    *_at0("a Windows program", b"MZ\x90\x00\x03\x00\x00\x00", advice=_PROGRAM),
    Beginning("a Windows or DOS program", ((0, b"MZ"),), _PROGRAM, doubtful=True),
    Beginning(
        "an XVA archive", ((0, b"ova.xml\x00"), (257, b"ustar")), "take the suspend image out of it first"
    ),
    Beginning("a tar archive", ((257, b"ustar"),), "take the image out of it first"),
    Beginning(
        "an ext2, ext3 or ext4 file system",
        ((1080, b"\x53\xef"), (1049, bytes(3)), (1101, bytes(3))),  # magic, block size, revision
        "it may be a XenServer suspend disk: mount it, or use debugfs, and take the file suspend-image out",
    ),
)
VHD_FOOTER: Final = b"conectix"
VHD_FOOTER_SIZE: Final = 512
LOOK: Final = 4096
"""Bytes from the beginning that decide; magics are also sought in them to suggest what to skip."""
