"""Save files of libvirt's libxl driver: taken apart, written anew (containers.md 3)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from xenmig_np.carriers.header import STREAMS, bounded
from xenmig_np.errors import InvalidImage, Note, NotSupported
from xenmig_np.wire import libvirt
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from xenmig_np.io.cursor import Cursor

ITEM: Final = "libvirt header"
NAME: Final = re.compile(rb"<name>([^<]*)</name>")
TYPE: Final = re.compile(rb"<os>[^<]*<type[^>]*>\s*(hvm|xen|linux)\s*</type>")
GUESTS: Final = {b"hvm": Guest.HVM, b"xen": Guest.PV, b"linux": Guest.PV}


@dataclass(frozen=True, slots=True)
class LibvirtHeader:
    """The header of a save file and the domain XML behind it."""

    width: ClassVar[int | None] = None
    """The carrier does not tell."""
    version: int
    config: bytes
    """XML and the NUL behind it."""
    unused: bytes = bytes(40)
    at: int = 0

    @property
    def length(self) -> int:
        return libvirt.HEADER.itemsize + len(self.config)

    @property
    def config_kind(self) -> str:
        return "xml"

    @property
    def guest_name(self) -> str | None:
        import html  # noqa: PLC0415 - 2 ms of every start, for this alone

        found = NAME.search(self.config)
        return html.unescape(found[1].decode(errors="replace")) if found else None

    @property
    def guest(self) -> Guest | None:
        found = TYPE.search(self.config)
        return GUESTS[found[1]] if found else None

    @property
    def mislabelled(self) -> bool:
        """Version 1, which is that of files that hold a legacy image."""
        return self.version == libvirt.VERSION_LEGACY

    def notes(self, stream: str) -> list[Note]:
        """What is odd about it (containers.md 3.1, 3.2)."""
        odd = []
        if (stream == "legacy") is not self.mislabelled:
            text = f"the libvirt header says version {self.version}, {STREAMS[stream]} follows"
            more = ": no libvirt restores that, convert sets it to 2" if self.mislabelled else ""
            odd.append(Note("containers 3.2", text + more, self.at + 16))
        if not self.config.endswith(b"\0"):
            odd.append(Note("containers 3.1", "no NUL behind the domain XML", self.at + self.length))
        if any(self.unused):
            odd.append(Note("containers 3.1", "unused bytes of the libvirt header are not 0", self.at + 24))
        return odd

    def to_bytes(self) -> bytes:
        """The header and the XML, as they stand in a file."""
        head = np.zeros((), libvirt.HEADER)
        head["magic"] = np.void(libvirt.MAGIC)
        head["version"] = self.version
        head["xml_length"] = len(self.config)
        head["unused"] = np.void(self.unused)
        return head.tobytes() + self.config

    def for_v2(self) -> LibvirtHeader:
        """The same with the version of a v2 stream; where one follows already, that repairs the file."""
        return replace(self, version=libvirt.VERSION_V2)


def made(xml: bytes) -> LibvirtHeader:
    """A header for a v2 stream with an XML of the user's, to which the NUL is added."""
    return LibvirtHeader(libvirt.VERSION_V2, xml.rstrip(b"\0") + b"\0")


def unwrap(cursor: Cursor) -> LibvirtHeader:
    """Read the header at the cursor, which then stands at the stream.

    Raises :class:`InvalidImage`, :class:`TruncatedImage`, :class:`NotSupported` (a big-endian saver).
    """
    at, path = cursor.at, cursor.source.path
    head = cursor.one(libvirt.HEADER, ITEM)
    version = int(head["version"])
    if version in libvirt.VERSIONS_SWAPPED:
        raise NotSupported("written by a big-endian host", path=path, offset=at + 16, item=ITEM)
    if version not in libvirt.VERSIONS:
        raise InvalidImage(
            path=path, offset=at + 16, item=ITEM, found=f"version {version:,}", expected="1 or 2"
        )
    length = bounded(cursor, int(head["xml_length"]), 1, ITEM, at + 20)
    config = cursor.take(length, f"{ITEM}, domain XML")
    if not config.lstrip().startswith(b"<"):
        raise InvalidImage(
            path=path,
            offset=at + libvirt.HEADER.itemsize,
            item=f"{ITEM}, domain XML",
            found=config[:16].hex(" "),
            expected="<domain",
        )
    return LibvirtHeader(version, config, head["unused"].tobytes(), at)
