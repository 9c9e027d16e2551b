"""What a file is, by how it begins (containers.md 9.1, 9.3); bare legacy images have no magic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from xenmig_np.carriers import known, libvirt, xapi, xend
from xenmig_np.carriers import xl as xl_carrier
from xenmig_np.carriers.header import STREAMS, Header
from xenmig_np.carriers.xl import XlHeader
from xenmig_np.errors import Note, TruncatedImage
from xenmig_np.io.cursor import Cursor
from xenmig_np.wire import carriers, libxc, libxl, xl
from xenmig_np.wire import libvirt as libvirt_wire
from xenmig_np.wire import xapi as xapi_wire
from xenmig_np.wire import xend as xend_wire

if TYPE_CHECKING:
    from xenmig_np.carriers.known import Recognised
    from xenmig_np.io.source import Source


class Carrier(NamedTuple):
    """A carrier that is read."""

    name: str
    title: str
    magic: bytes
    unwrap: Callable[[Cursor], Header]
    """Reads the header at the cursor, which then stands at the stream."""


CARRIERS: Final = (
    Carrier("xl", "an xl file", xl.MAGIC, xl_carrier.unwrap),
    Carrier("xend", "a xend file", xend_wire.MAGIC, xend.unwrap),
    Carrier("libvirt", "a libvirt file", libvirt_wire.MAGIC, libvirt.unwrap),
    Carrier("xapi", "a XenServer (xapi) suspend image", xapi_wire.MAGIC, xapi.unwrap_legacy),
    Carrier(
        "xapi2",
        "a structured XenServer (xapi) suspend image",
        xapi_wire.STRUCTURED_MAGIC,
        xapi.unwrap_structured,
    ),
)
CARRIER_BY_NAME: Final = {carrier.name: carrier for carrier in CARRIERS}
MAGICS: Final = {carrier.magic: carrier.title for carrier in CARRIERS} | {libxl.IDENT: "a libxl stream"}
BEGIN: Final = max(len(magic) for magic in MAGICS)
"""Every image is longer: so much may be looked at where what follows it is somebody else's."""
PREAMBLES: Final = {
    xl.BANNER: "the receiver's banner of an xl migration",
    **dict.fromkeys(xend_wire.RELOCATION, "the request of a xend migration"),
}
"""What captures of migrations have before the carrier."""


class Carried(NamedTuple):
    """A carrier and where its stream begins."""

    carrier: str
    """A name of :data:`CARRIERS`, or ``bare``."""
    stream: str
    """``libxl`` or ``libxc`` (v2 or v3), or ``legacy``: anything else, which detection decides."""
    at: int
    """Offset of the stream."""
    header: Header | None = None
    """What stands before the stream; None: bare."""
    notes: tuple[Note, ...] = ()
    """What is odd."""
    otherwise: Recognised | None = None
    """What it is if it proves to be no legacy image."""
    reasons: tuple[str, ...] = ()
    """What was looked at and found, or not found."""

    @property
    def xl(self) -> XlHeader | None:
        """The header if it is one of xl."""
        return self.header if isinstance(self.header, XlHeader) else None


def recognise(source: Source) -> Carried:
    """Take off the carrier of what begins at the source's start.

    Raises :class:`NotSupported` for what is known and not read, :class:`NotRecognised` for what is blank,
    :class:`TruncatedImage`, :class:`InvalidImage`.
    """
    cursor = Cursor(source, source.start)
    notes, reasons = _skip_preamble(cursor)
    start = cursor.at
    begin = cursor.peek(carriers.LOOK if source.drained else BEGIN)
    carrier = next((row for row in CARRIERS if begin.startswith(row.magic)), None)
    if carrier is None:
        otherwise = _bare(begin, source, start)
        stream = _stream(begin)
        reasons += (_none_of_them(start, otherwise), _why(stream, start))
        return Carried("bare", stream, start, None, notes, otherwise, reasons)
    header = carrier.unwrap(cursor)
    stream = _stream(cursor.peek(len(libxc.MARKER)))
    ia64 = xend.perhaps_ia64(cursor) if carrier.name == "xend" and stream == "legacy" else None
    reasons += (
        f"the magic of {carrier.title} stands at {start:#x}",
        f"{header.length:,} bytes of it precede the stream, configuration: {header.config_kind}",
        _why(stream, cursor.at),
    )
    notes += tuple(header.notes(stream))
    return Carried(carrier.name, stream, cursor.at, header, notes, ia64, reasons)


def misplaced(source: Source) -> tuple[int, str] | None:
    """A magic that stands a little behind the beginning: its offset and name (containers.md 9.1)."""
    if not source.drained:
        return None
    begin = Cursor(source, source.start).peek(carriers.LOOK)
    found = [(at, name) for magic, name in MAGICS.items() if (at := begin.find(magic[:12])) > 0]
    return min(found) if found else None


def _skip_preamble(cursor: Cursor) -> tuple[tuple[Note, ...], tuple[str, ...]]:
    """Step over what precedes the carrier in a capture, once."""
    at = cursor.at
    begin = cursor.peek(BEGIN)
    for preamble, what in PREAMBLES.items():
        if begin.startswith(preamble[:BEGIN]) and cursor.peek(len(preamble)) == preamble:
            cursor.take(len(preamble), what)
            text = f"a capture: {what} precedes the image, {len(preamble)} bytes"
            return (Note("containers 9.1", text, at),), (f"{what} stands at {at:#x}",)
    return (), ()


def _stream(begin: bytes) -> str:
    """The stream behind a carrier decides by its own first bytes (containers.md 9.3)."""
    if begin.startswith(libxl.IDENT):
        return "libxl"
    return "libxc" if begin.startswith(libxc.MARKER) else "legacy"


def _bare(begin: bytes, source: Source, start: int) -> Recognised | None:
    """What else it may be that begins with no magic of ours. Raises as :func:`recognise`."""
    other = known.named(begin, source)
    if other and not other.doubtful:
        raise other.refusal(source.path, start)
    known.look_blank(begin, source)
    for magic, title in MAGICS.items():
        if 4 <= len(begin) < len(magic) and magic.startswith(begin):  # fewer bytes say nothing
            raise TruncatedImage(
                path=source.path,
                offset=start,
                item="beginning",
                found=f"{len(begin)} bytes",
                expected=f"more: it begins like {title}",
            )
    return other


def _none_of_them(start: int, otherwise: Recognised | None) -> str:
    titles = ", ".join(row.title for row in CARRIERS)
    if otherwise:
        return f"no magic stands at {start:#x}; it is {otherwise.name} if it reads as no image"
    return f"no magic stands at {start:#x}: not {titles}, nor any of the files that are known by name"


def _why(stream: str, at: int) -> str:
    if stream == "legacy":
        return f"no magic of a libxl or libxc stream stands at {at:#x}: a legacy image, or none"
    return f"the magic of {STREAMS[stream]} stands at {at:#x}"
