"""What the parts of the legacy reader share: where it stands, and what it knows by now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from xenmig_np.errors import InvalidImage, Note
from xenmig_np.io.cursor import Cursor
from xenmig_np.read.events import Chunk, ExtendedInfo, Remark
from xenmig_np.wire import legacy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xenmig_np.io.source import Source
    from xenmig_np.read.delta import DeltaBody
    from xenmig_np.read.heldback import HeldBack
    from xenmig_np.read.pagestore import LastCopies
    from xenmig_np.wire.legacy import Guest

WRONG_PLACE = "an image of the other --width or --guest, or damage before this place"
"""The hint where a field that cannot be true is probably no such field."""


class Shape(NamedTuple):
    """What no field of an image says, and every field depends on."""

    width: int
    """Bits of the toolstack's ``unsigned long``."""
    guest: Guest

    @property
    def word(self) -> np.dtype[np.unsignedinteger]:
        return legacy.WORDS[self.width]


@dataclass(slots=True, eq=False)
class Decoded:
    """Pages of a compressed body, in the order of the entries that announce them."""

    places: NDArray[np.int64]
    source: Source
    note: Note | None
    """What is odd about the body."""

    def next(self, count: int) -> NDArray[np.int64]:
        """The places of the next ``count`` pages."""
        places, self.places = self.places[:count], self.places[count:]
        return places


@dataclass(slots=True, eq=False)
class Reading:
    """An image that is being read."""

    cursor: Cursor
    shape: Shape
    to_tail: bool = False
    """Nothing behind the tail is read, not even a device-model record."""
    body: int = 0
    p2m_size: int = 0
    info: ExtendedInfo | None = None
    batches: int = 0
    part: int = 0
    """0 before chunk -1, 1 behind it."""
    online: tuple[int, ...] = field(default=(0,))  # without chunk -2 (Xen 3.0) vCPU 0 alone, v2-stream.md D3
    vcpu_info: bool = False
    """Chunk -2 was seen in this body."""
    last_checkpoint: bool = False
    """Chunk -9 was seen."""
    stray_param: Chunk | None = None
    """The first HVM parameter in a PV image."""
    held: HeldBack | None = None
    """A pipe, since :meth:`hold`."""
    begin: int = 0
    """Where the image begins."""
    compression: bool = False
    """Chunk -13 was seen: the pages of later bodies come in chunks -12."""
    copies: LastCopies | None = None
    """Where the last copy of each page lies, once that is needed."""
    delta: DeltaBody | None = None
    """Decodes a compressed body."""
    surplus: Note | None = None
    """What it found behind the last page."""
    decoded: Decoded | None = None
    """The pages of a compressed body that was decoded and is now read again."""

    def hold(self) -> None:
        """From here on the input can be read again if it is a pipe."""
        if not self.cursor.source.seekable and self.held is None:
            from xenmig_np.read.heldback import HeldBack  # noqa: PLC0415 - of pipes alone

            self.held = HeldBack(self.cursor.source, self.cursor.at)
            self.cursor = Cursor(self.held, self.cursor.at)

    @property
    def final(self) -> bool:
        """Whether no other body is looked for behind this one (v2-stream.md 19.14)."""
        source = self.cursor.source
        return self.last_checkpoint or not (source.drained or (source.seekable and not self.to_tail))

    @property
    def path(self) -> str:
        return self.cursor.source.path

    @property
    def pv(self) -> ExtendedInfo:
        """The extended info of a PV image."""
        if self.info is None:
            raise RuntimeError("the extended info of a PV image comes before what depends on it")
        return self.info

    def invalid(
        self, offset: int, item: str, found: str, expected: str, hint: str | None = None
    ) -> InvalidImage:
        """The error that something at ``offset`` is not as it has to be."""
        return InvalidImage(
            path=self.path, offset=offset, item=item, found=found, expected=expected, hint=hint
        )


def remark(rule: str, text: str, offset: int) -> Remark:
    """An event that tells something odd."""
    return Remark(Note(rule, text, offset))
