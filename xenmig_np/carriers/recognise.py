"""What a file is, by how it begins (containers.md 9.1, 9.3); bare legacy images have no magic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from xenmig_np import limits
from xenmig_np.carriers import xl as xl_carrier
from xenmig_np.errors import Note, NotRecognised, NotSupported, TruncatedImage
from xenmig_np.io.cursor import Cursor
from xenmig_np.wire import carriers, libxc, libxl, xl

if TYPE_CHECKING:
    from xenmig_np.io.source import Source


@dataclass(frozen=True, slots=True)
class Recognised:
    """A file that is named and not read."""

    name: str
    advice: str = ""
    doubtful: bool = False
    """It may be a legacy image all the same."""

    def refusal(self, path: str, offset: int) -> NotSupported:
        """The error that says so."""
        return NotSupported(
            f"it is {self.name}", path=path, offset=offset, item="beginning", hint=self.advice or None
        )


@dataclass(frozen=True, slots=True)
class Carried:
    """A carrier and where its stream begins."""

    carrier: str
    """``xl`` or ``bare``."""
    stream: str
    """``libxl`` or ``libxc`` (v2 or v3), or ``legacy``: anything else, which detection decides."""
    at: int
    xl: xl_carrier.XlHeader | None = None
    notes: tuple[Note, ...] = field(default=())
    otherwise: Recognised | None = None
    """What it is if it proves to be no legacy image."""


def recognise(source: Source) -> Carried:
    """Take off the carrier of what begins at the source's start.

    Raises :class:`NotSupported` for what is known and not read, :class:`NotRecognised` for what is blank,
    :class:`TruncatedImage`, :class:`InvalidImage`.
    """
    cursor = Cursor(source, source.start)
    begin = cursor.peek(carriers.LOOK if source.drained else len(xl.MAGIC))
    if begin.startswith(xl.MAGIC):
        header = xl_carrier.unwrap(cursor)
        stream = _stream(cursor.peek(len(libxc.MARKER)))
        notes = tuple(header.notes()) if stream == "legacy" else ()
        return Carried("xl", stream, cursor.at, header, notes)
    known = next((known for test in CARRIERS if (known := test(begin))), None) or _fixed_vhd(source)
    if known and not known.doubtful:
        raise known.refusal(source.path, source.start)
    _look_blank(begin, source)
    _look_too_short(begin, source)
    return Carried("bare", _stream(begin), source.start, otherwise=known)


def _stream(begin: bytes) -> str:
    """The stream behind a carrier decides by its own first bytes (containers.md 9.3)."""
    if begin.startswith(libxl.IDENT):
        return "libxl"
    return "libxc" if begin.startswith(libxc.MARKER) else "legacy"


def _look_blank(begin: bytes, source: Source) -> None:
    enough = len(begin) >= len(xl.MAGIC)
    if not begin or (enough and begin in {bytes(len(begin)), b"\xff" * len(begin)}):
        found = f"{len(begin):,} bytes of {begin[:1].hex()}" if begin else "an empty file"
        hint = "blank or wiped" if begin else None
        raise NotRecognised(
            path=source.path,
            offset=source.start,
            item="beginning",
            found=found,
            expected="a Xen image",
            hint=hint,
        )


def _look_too_short(begin: bytes, source: Source) -> None:
    for magic, name in MAGICS.items():
        if 4 <= len(begin) < len(magic) and magic.startswith(begin):  # fewer bytes say nothing
            raise TruncatedImage(
                path=source.path,
                offset=source.start,
                item="beginning",
                found=f"{len(begin)} bytes",
                expected=f"more: it begins like {name}",
            )


def _xend(begin: bytes) -> Recognised | None:
    if not begin.startswith(carriers.XEND_MAGIC):
        return None
    length = int.from_bytes(begin[16:20], "big")
    if 8 <= length <= limits.CONFIG_MAX and begin[20:].lstrip().startswith(b"("):
        return Recognised("a xend file", _inside(20 + length))
    return Recognised("an image of Xen 2.0", "no Xen since 3.0 restores it")


def _libvirt(begin: bytes) -> Recognised | None:
    if not begin.startswith(carriers.LIBVIRT_MAGIC):
        return None
    length = int.from_bytes(begin[20:24], "little")
    return Recognised("a libvirt file of a Xen guest", _inside(64 + length))


def _xapi(begin: bytes) -> Recognised | None:
    if begin.startswith(carriers.XAPI_MAGIC):
        return Recognised("a XenServer (xapi) suspend image", _inside(len(carriers.XAPI_MAGIC)))
    if begin.startswith(carriers.XAPI2_MAGIC):
        return Recognised("a structured XenServer (xapi) suspend image")
    return None


def _capture(begin: bytes) -> Recognised | None:
    if not begin.startswith(carriers.XL_BANNER):
        return None
    return Recognised("a capture of xl migrate", f"the xl file begins at byte {len(carriers.XL_BANNER)}")


def _beginning(begin: bytes) -> Recognised | None:
    for row in carriers.BEGINNINGS:
        if all(begin[at : at + len(magic)] == magic for at, magic in row.bytes_at):
            return Recognised(row.name, row.advice, row.doubtful)
    return None


CARRIERS: Final[tuple[Callable[[bytes], Recognised | None], ...]] = (
    _xend,
    _libvirt,
    _xapi,
    _capture,
    _beginning,
)
MAGICS: Final = {
    xl.MAGIC: "an xl file",
    carriers.XEND_MAGIC: "a xend file",
    carriers.LIBVIRT_MAGIC: "a libvirt file",
    carriers.XAPI_MAGIC: "a XenServer (xapi) suspend image",
    carriers.XAPI2_MAGIC: "a structured XenServer (xapi) suspend image",
    libxl.IDENT: "a libxl stream",
}


def _inside(at: int) -> str:
    return f"bare images and xl files are read; the image in this file begins at byte {at:,}"


def _fixed_vhd(source: Source) -> Recognised | None:
    """A fixed VHD has its footer at the end alone (containers.md 7)."""
    magic = carriers.VHD_FOOTER
    if source.end is None or source.end - source.start < carriers.VHD_FOOTER_SIZE:
        return None
    footer = memoryview(bytearray(len(magic)))
    source.read_at(source.end - carriers.VHD_FOOTER_SIZE, footer)
    return Recognised("a VHD disk", carriers.EXTRACT) if footer == magic else None


def misplaced(source: Source) -> tuple[int, str] | None:
    """A magic that stands a little behind the beginning: its offset and name (containers.md 9.1)."""
    if not source.drained:
        return None
    begin = Cursor(source, source.start).peek(carriers.LOOK)
    found = [(at, name) for magic, name in MAGICS.items() if (at := begin.find(magic[:12])) > 0]
    return min(found) if found else None
