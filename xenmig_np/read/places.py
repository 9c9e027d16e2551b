"""Places of an input: what all events of both readers have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of the input."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something at a place of the input."""

    offset: int
    length: int
