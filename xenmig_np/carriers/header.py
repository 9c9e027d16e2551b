"""What every carrier puts before a stream, under the same names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from xenmig_np import limits
from xenmig_np.errors import InvalidImage

if TYPE_CHECKING:
    from xenmig_np.errors import Note
    from xenmig_np.io.cursor import Cursor
    from xenmig_np.wire.legacy import Guest

STREAMS: Final = {"legacy": "a legacy image", "libxl": "a libxl stream", "libxc": "a libxc stream"}
"""What a carrier can hold, in words."""


class Header(Protocol):
    """The bytes before the stream. None of what they say is believed where the stream itself tells."""

    @property
    def length(self) -> int:
        """Bytes from the magic to the stream."""

    @property
    def config(self) -> bytes:
        """The configuration as it is stored, a NUL behind it included; empty if there is none."""

    @property
    def config_kind(self) -> str:
        """``text``, ``json``, ``sxp``, ``xml``, ``xenops`` (of XenServer) or ``none``."""

    @property
    def guest_name(self) -> str | None:
        """Name of the guest, if the configuration says so in a usual way."""

    @property
    def guest(self) -> Guest | None:
        """Kind of guest that the configuration is for, if it says so in a usual way."""

    @property
    def width(self) -> int | None:
        """Bits of a word of the tools that wrote it, if the carrier tells."""

    def notes(self, stream: str) -> list[Note]:
        """What is odd about it, with a stream of that kind (a key of :data:`STREAMS`) behind it."""


def bounded(cursor: Cursor, length: int, least: int, item: str, at: int) -> int:
    """The length of what precedes the stream, as said at ``at``. Raises :class:`InvalidImage`."""
    if not least <= length <= limits.CONFIG_MAX:
        raise InvalidImage(
            path=cursor.source.path,
            offset=at,
            item=item,
            found=f"{length:,} bytes before the stream",
            expected=f"{least:,} to {limits.CONFIG_MAX:,}",
        )
    return length
