"""An output as a sequence of segments: literal bytes, and ranges of the input that are never looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from xenmig_np.io.source import Source


class Literal(NamedTuple):
    """Bytes of our own."""

    data: bytes | memoryview
    """A view must be of bytes and must not change until it is written."""

    @property
    def length(self) -> int:
        return len(self.data)


class Range(NamedTuple):
    """``length`` bytes from ``offset`` on; ``item`` names them in an error."""

    offset: int
    length: int
    item: str
    source: Source | None = None
    """Where they lie; None: in the input."""


Segment = Literal | Range
