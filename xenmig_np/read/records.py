"""What the reader of v2 and v3 streams tells: one located thing after another (v2-stream.md 3 to 8, 11, 12).

Every field of a header or head is told as it stands, reserved ones and padding too: judging them is a
verifier's business. Pages and bodies are an :class:`Extent` of the input. On a pipe the pages of a
:class:`PageData` can be read before the next event is asked for; other bodies have been passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final

from xenmig_np.read.places import Event, Extent
from xenmig_np.wire import libxc, libxl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OPTIONAL_NAME: Final = "OPTIONAL"
"""All records with the optional bit: none was ever defined."""


class NumberingName(StrEnum):
    """Whose record numbers a stream has (v2-stream.md 14)."""

    DRAFT_V7 = "draft-v7"
    RELEASED = "released"
    UNKNOWN = "unknown"
    """libxc version 2 without a libxl layer: both have the same numbers."""


@dataclass(slots=True, eq=False)
class Header(Event):
    """A header that begins a stream; its fields are those of ``layout``."""

    layout: ClassVar[np.dtype[np.void]]

    def at(self, field: str) -> int:
        """Offset of a field in the input."""
        return self.offset + field_offset(self.layout, field)


@dataclass(slots=True, eq=False)
class LibxlHeader(Header):
    """Beginning of a libxl stream."""

    layout = libxl.HEADER
    version: int
    options: int


@dataclass(slots=True, eq=False)
class ImageHeader(Header):
    """Beginning of a libxc stream."""

    layout = libxc.IMAGE_HEADER
    version: int
    options: int
    reserved1: int
    reserved2: int


@dataclass(slots=True, eq=False)
class DomainHeader(Header):
    """Directly behind the image header."""

    layout = libxc.DOMAIN_HEADER
    type: int
    page_shift: int
    reserved: int
    xen_major: int
    xen_minor: int


@dataclass(slots=True, eq=False)
class AnyLayerRecord(Event):
    """``offset`` and ``length`` cover header, body and padding."""

    type: int
    name: str
    head: Any
    """How the body begins: a scalar of the dtype that the type has; None: it has none, or is too short."""
    body: Extent
    """Without padding; begins with the head."""
    padding: bytes
    data: bytes | None
    """The body, where the reader was asked for bodies and reads this one."""

    def at(self, field: str) -> int:
        """Offset of a field of the head in the input."""
        return self.body.offset + field_offset(self.head.dtype, field)


@dataclass(slots=True, eq=False)
class LibxlRecord(AnyLayerRecord):
    """``name`` depends on the numbering; body and length of LIBXC_CONTEXT are without the libxc stream."""

    numbering: NumberingName


@dataclass(slots=True, eq=False)
class Record(AnyLayerRecord):
    """A libxc record."""


@dataclass(slots=True, eq=False)
class PageData(Record):
    """``head`` has count and reserved; a page for each word whose type has data, in their order."""

    words: NDArray[np.uint64]
    """Shape (count,), as they stand in the stream."""
    types: NDArray[np.uint8]
    """Shape (count,)."""
    pfns: NDArray[np.uint64]
    """Shape (count,): bits 51 to 0 of the words."""
    bits: int
    """Those that are set in any word: it tells most records to be ordinary without a look at each."""
    run: slice | None
    """The pfns, if each is one more than the one before, as most records of savers have them."""
    pages: Extent
    """All that is left of the body: exactly the pages, if no type is illegal (5 to 8)."""

    @property
    def count(self) -> int:
        return len(self.words)

    @property
    def reserved(self) -> int:
        return int(self.head["reserved"])

    def word_offset(self, index: int) -> int:
        """Offset of a word in the input."""
        return self.body.offset + libxc.PAGE_DATA.itemsize + index * libxc.PFN_WORD.itemsize


@dataclass(slots=True, eq=False)
class EndOfStream(Event):
    """Behind the END of the outer layer; always the last event, of length 0."""


AnyRecord = LibxlHeader | LibxlRecord | ImageHeader | DomainHeader | Record | PageData | EndOfStream


def field_offset(layout: np.dtype[np.void], field: str) -> int:
    """Bytes from the beginning of a structure to one of its fields."""
    return int(layout.fields[field][1])  # type: ignore[index]  # a structure has fields
