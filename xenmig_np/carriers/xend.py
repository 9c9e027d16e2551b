"""The head of xend's files, which Xen 2.0 and ia64 began alike (containers.md 2, 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from xenmig_np.carriers.header import bounded
from xenmig_np.carriers.known import Recognised
from xenmig_np.errors import InvalidImage, Note
from xenmig_np.wire import xend
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from xenmig_np.carriers.config.domain import Entries
    from xenmig_np.io.cursor import Cursor

BLANKS: Final = 12
"""That may precede the first parenthesis; every file has as many bytes."""
XEN_2: Final = Recognised("an image of Xen 2.0", "no Xen since 3.0 restores it")
IA64: Final = Recognised(
    "an image of an ia64 guest", "Xen 4.2 was the last for ia64: nothing later restores it", doubtful=True
)


@dataclass(frozen=True, slots=True)
class XendHeader:
    """The head of a xend file: magic, length, s-expression."""

    width: ClassVar[int | None] = None
    """The carrier does not tell."""
    config: bytes
    at: int

    @property
    def length(self) -> int:
        return xend.HEADER.itemsize + len(self.config)

    @property
    def config_kind(self) -> str:
        return "sxp"

    @property
    def guest_name(self) -> str | None:
        from xenmig_np.carriers.config.sxp import decode  # noqa: PLC0415 - of xend's files alone

        name = self._entries.get(b"name")
        return decode(name) if isinstance(name, bytes) else None

    @property
    def guest(self) -> Guest | None:
        from xenmig_np.carriers.config.domain import HVM_HEADS, PV_HEADS  # noqa: PLC0415 - as above

        image = self._entries.get(b"image")
        head = image[0] if isinstance(image, tuple) else None
        if head in HVM_HEADS:
            return Guest.HVM
        return Guest.PV if head in PV_HEADS else None

    @property
    def _entries(self) -> Entries:
        from xenmig_np.carriers.config.domain import entries  # noqa: PLC0415 - as above
        from xenmig_np.carriers.config.sxp import parse  # noqa: PLC0415

        try:
            return entries(parse(self.config).tree[1:])
        except InvalidImage:
            return {}

    def notes(self, stream: str) -> list[Note]:
        """What is odd about the syntax of the configuration, whatever the ``stream``."""
        from xenmig_np.carriers.config.sxp import parse  # noqa: PLC0415 - as above

        del stream
        offset = self.at + xend.HEADER.itemsize
        try:
            return list(parse(self.config, offset=offset).notes)
        except InvalidImage as error:
            return [Note("containers 2.4", f"not to be read: {error}", error.offset)]


def unwrap(cursor: Cursor) -> XendHeader:
    """Read the head at the cursor, which then stands at the stream.

    Raises :class:`InvalidImage`, :class:`TruncatedImage`, and :class:`NotSupported` for Xen 2.0.
    """
    at, path = cursor.at, cursor.source.path
    begin = cursor.peek(xend.HEADER.itemsize + BLANKS)[xend.HEADER.itemsize :].lstrip()
    if begin and not begin.startswith(b"("):
        raise XEN_2.refusal(path, at)
    item = "xend head"
    length = int(cursor.one(xend.HEADER, item)["config_length"])
    bounded(cursor, length, xend.CONFIG_MIN, item, at + len(xend.MAGIC))
    return XendHeader(cursor.take(length, "xend head, configuration"), at)


def perhaps_ia64(cursor: Cursor) -> Recognised | None:
    """The image at the cursor, which stands behind a head, if its second u64 could be a version of ia64."""
    begin = cursor.peek(16)
    if len(begin) < 16:
        return None
    return IA64 if int(np.frombuffer(begin, "<u8")[1]) in xend.IA64_VERSIONS else None
