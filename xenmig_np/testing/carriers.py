"""Builds what toolstacks wrap round an image, and captures of migrations (containers.md 1 to 4).

As in :mod:`xenmig_np.testing.builder` nothing is checked, and each length can be told to lie. An xl header is
:class:`xenmig_np.testing.pieces.XlHeader`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xenmig_np.testing.fields import Data, Field, le, overridden, under
from xenmig_np.testing.pieces import Piece, XlHeader, each

if TYPE_CHECKING:
    from collections.abc import Iterator

SXP: Final = b"(domain (name small) (memory 1) (image (linux (kernel /boot/vmlinuz))))"
XML: Final = (
    b"<domain type='xen'>\n  <name>small</name>\n  <os>\n    <type>xen</type>\n  </os>\n</domain>\n\0"
)
XENOPS: Final = b"((time 20150312T10:13:09Z)(word_size 64)(vm_str '((name small)(ty PV))')(xs_subtree()))"
LIBXC_LEGACY, LIBXC, LIBXL, QEMU_TRAD, DEMU, VARSTORED, END_OF_IMAGE = (
    0xF2,
    0xF0,
    0xF1,
    0xF00,
    0xF10,
    0xF11,
    0xFFFF,
)
"""Types of XenServer's records."""
BANNER: Final = b"xl migration receiver ready, send binary domain data.\n"
HANDSHAKE: Final = b"domain is yours, you are cleared to unpause\0"
RECEIVE, SSL_RECEIVE = b"receive\n", b"sslreceive\n"
"""What captures of migrations hold besides the image."""


@dataclass(frozen=True, slots=True)
class XendHead:
    """What xend writes before an image; ``length`` is big-endian."""

    config: bytes = SXP
    length: int | None = None
    magic: bytes = b"LinuxGuestRecord"

    def fields(self, _size: int, /) -> Iterator[Field]:
        yield "magic", self.magic
        yield "length", le(overridden(self.length, len(self.config)), 4)[::-1]
        yield "config", self.config


@dataclass(frozen=True, slots=True)
class LibvirtHead:
    """The header of libvirt's libxl driver; ``xml`` has its NUL."""

    xml: bytes = XML
    version: int = 1
    length: int | None = None
    unused: bytes = bytes(40)
    magic: bytes = b"libvirt-xml\n \0 \r"

    def fields(self, _size: int, /) -> Iterator[Field]:
        yield "magic", self.magic
        yield "version", le(self.version, 4)
        yield "length", le(overridden(self.length, len(self.xml)), 4)
        yield "unused", self.unused
        yield "xml", self.xml


@dataclass(frozen=True, slots=True)
class XapiHead:
    """The signature of XenServer before 2014."""

    magic: bytes = b"XenSavedDomain\n"

    def fields(self, _size: int, /) -> Iterator[Field]:
        yield "magic", self.magic


@dataclass(frozen=True, slots=True)
class XapiRecord:
    """A record of a structured image of XenServer."""

    type: int = END_OF_IMAGE
    body: Data = b""
    length: int | None = None

    def fields(self, _size: int, /) -> Iterator[Field]:
        body = bytes(self.body)
        yield "type", le(self.type, 8)
        yield "length", le(overridden(self.length, len(body)), 8)
        yield "body", body


@dataclass(frozen=True, slots=True)
class StructuredHead:
    """Signature and records of a structured image, up to the header of the one that holds the stream."""

    records: tuple[Piece, ...] = (XapiRecord(0xF, XENOPS), XapiRecord(LIBXC_LEGACY))
    magic: bytes = b"XenSavedDomv2-\n"

    def fields(self, size: int, /) -> Iterator[Field]:
        yield "magic", self.magic
        yield from each("records", self.records, size)


@dataclass(frozen=True, slots=True)
class Carried:
    """A stream in a carrier; ``preamble`` is what a capture has before it."""

    head: Piece
    stream: bytes
    behind: tuple[Piece, ...] = ()
    trailing: bytes = b""
    preamble: bytes = b""

    def fields(self) -> Iterator[Field]:
        yield "preamble", self.preamble
        yield from under("head", self.head.fields(8))
        yield "stream", self.stream
        yield from each("behind", self.behind, 8)
        yield "trailing", self.trailing

    @property
    def at(self) -> int:
        """Offset of the stream."""
        return len(self.preamble) + sum(len(data) for _, data in self.head.fields(8))

    def to_bytes(self) -> bytes:
        """The file."""
        return b"".join(data for _, data in self.fields())


def in_every_carrier(stream: bytes) -> dict[str, Carried]:
    """The stream in each carrier as a saver writes it, and in captures of migrations."""
    return {
        "xl": Carried(XlHeader(), stream),
        "xend": Carried(XendHead(), stream),
        "libvirt": Carried(LibvirtHead(), stream),
        "xapi": Carried(XapiHead(), stream),
        "xapi2": Carried(StructuredHead(), stream, (XapiRecord(),)),
        "xapi2 on a raw disk": Carried(StructuredHead(), stream, (XapiRecord(),), bytes(4096)),
        "xl migrate": Carried(XlHeader(), stream, trailing=HANDSHAKE),
        "xl migrate, both ways": Carried(XlHeader(), stream, trailing=HANDSHAKE, preamble=BANNER),
        "xm migrate": Carried(XendHead(), stream, preamble=RECEIVE),
        "xm migrate over TLS": Carried(XendHead(), stream, preamble=SSL_RECEIVE),
    }
