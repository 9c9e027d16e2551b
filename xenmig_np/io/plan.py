"""An output as a sequence of segments: literal bytes, and ranges of the input that are never looked at."""

from __future__ import annotations

from dataclasses import dataclass


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
    """``length`` bytes of the input from ``offset`` on; ``item`` names them in an error."""

    offset: int
    length: int
    item: str


Segment = Literal | Range
