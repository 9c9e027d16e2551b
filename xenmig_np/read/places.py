"""Places of an input: what all events of both readers have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from xenmig_np.io.source import Source


class Extent(NamedTuple):
    """Bytes of the input, or of ``source`` if there is one: what a pipe delivered, pages that were made."""

    offset: int
    length: int
    source: Source | None = None


@dataclass(slots=True, eq=False)
class Event:
    """Something at a place of the input.

    Events are made by the thousand and compared by nobody: neither frozen nor comparable, their classes take
    half the time of a start.
    """

    offset: int
    length: int
