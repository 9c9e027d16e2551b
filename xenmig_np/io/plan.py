"""An output as a sequence of segments: literal bytes, and ranges of the input that are never looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenmig_np.io.source import Source


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes of our own."""

    data: bytes | memoryview
    """A view must be of bytes and must not change until it is written."""

    @property
    def length(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Range:
    """``length`` bytes from ``offset`` on; ``item`` names them in an error."""

    offset: int
    length: int
    item: str
    source: Source | None = None
    """Where they lie; None: in the input."""


Segment = Literal | Range
