"""A row: what is odd, the streams that are, and what becomes of them; and the guests that rows begin with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

from xenmig_np.testing.records import PAGE_DATA, Record, page_data
from xenmig_np.testing.streams import (
    Built,
    PvKind,
    Stream,
    pv_memory,
    small_hvm,
    small_pv,
    small_pv32,
    small_pv64,
)

if TYPE_CHECKING:
    from xenmig_np.testing.records import Page

Verdict = Literal["accepted", "refused", "crashed"]
"""Of Xen's restore code."""
Judgement = Literal["fine", "warning", "error"]
"""Of a verifier."""

HVM, PV64, PV32 = small_hvm(), small_pv64(), small_pv32()


class Writable(Protocol):
    """What can be written into a file."""

    def write(self, file: BinaryIO, /) -> None:
        """All of it, into an empty file."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The beginning of a stream."""

    whole: Built
    size: int

    def write(self, file: BinaryIO) -> None:
        self.whole.write(file)
        file.truncate(self.size)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the specification; it has several streams where that one says "tried at"."""

    number: int
    xen: Verdict
    verifier: Judgement
    text: str
    streams: tuple[Writable, ...]
    waiting: tuple[str, ...] = ()
    """Options of xenrestore for another domain than the stream's own; a stream does not tell of it."""
    large: bool = False
    """Some hundred MiB of memory are filled."""


def _row(
    xen: Verdict,
    verifier: Judgement,
    number: int,
    text: str,
    *streams: Writable,
    waiting: str = "",
    large: bool = False,
) -> Row:
    return Row(number, xen, verifier, text, streams, tuple(waiting.split()), large)


fine = partial(_row, "accepted", "fine")
warned = partial(_row, "accepted", "warning")
unnoticed = partial(_row, "accepted", "error")
"""Xen takes it all the same."""
refused = partial(_row, "refused", "error")
crashed = partial(_row, "crashed", "error")
"""The restoring process dies."""


def part_of(stream: Stream, number: int, name: str) -> int:
    """Offset of a field of the first record of a type."""
    return stream.part(f"record.{stream.position(number)}.{name}").offset


def resized(stream: Stream, number: int, size: int) -> Stream:
    """With a record whose body has another size."""
    return stream.instead(number, stream.record(number).resized(size))


def pv(*changed: Page, guest: PvKind = "pv64", unsent: int | None = None) -> Stream:
    """The small PV guest with other pages, and one that is not sent."""
    memory = pv_memory(guest) | {page.pfn: page for page in changed}
    return small_pv(guest).instead(
        PAGE_DATA, page_data(*(page for pfn, page in memory.items() if pfn != unsent))
    )


def all_pages(stream: Stream) -> tuple[Record, ...]:
    """The PAGE_DATA records."""
    return tuple(record for record in stream.records if record.number == PAGE_DATA)
