"""What a reader tells: one located thing after another.

Each event knows its offset in the input and its length, pages included; heads and small payloads are in it,
pages and long blobs are an :class:`Extent` of the input. On a pipe an extent can be read only before the
next event is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xenmig_np.io.runs import runs
from xenmig_np.read.places import Event, Extent
from xenmig_np.wire.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.errors import Note
    from xenmig_np.wire.legacy import ChunkType
    from xenmig_np.wire.qemu import DeviceModelRecord
    from xenmig_np.wire.vcpu import PvGuest


@dataclass(slots=True, eq=False)
class P2mSize(Event):
    """Beginning of an image: one more than the highest pfn."""

    value: int


@dataclass(slots=True, eq=False)
class Block:
    """A block of the extended info."""

    id: bytes
    offset: int
    size: int
    payload: bytes


@dataclass(slots=True, eq=False)
class ExtendedInfo(Event):
    """PV: kind of guest, and what its vCPU records hold. ``length`` 0: the image has none (Xen 3.0, 3.1)."""

    guest: PvGuest
    extended: bool
    """128 bytes follow each vCPU context."""
    xcnt: int
    """Bytes of an xsave record as vCPU 0 had it, 0: there are none."""
    blocks: tuple[Block, ...]


@dataclass(slots=True, eq=False)
class P2mFrames(Event):
    """PV: pfns of the frames that hold the guest's p2m; u4 or u8 of shape (frames,)."""

    frames: NDArray[np.unsignedinteger]


@dataclass(slots=True, eq=False)
class PageBatch(Event):
    """Up to 1024 words, and a page for each word whose type has data, in their order."""

    index: int
    """Number of the batch in the image, from 0."""
    part: int
    """0 before chunk -1, 1 behind it (verify mode)."""
    types: NDArray[np.uint8]
    """Shape (words,)."""
    pfns: NDArray[np.uint32]
    """Shape (words,); of XTAB words whatever their low bits hold."""
    pages: Extent
    body: int
    """Of which checkpoint, from 0."""
    places: NDArray[np.int64] | None = None
    """Where in the source of ``pages`` each page lies, shape (pages,), if they do not lie together."""
    run: slice | None = None
    """The pfns, if all words are ordinary pages and each pfn is one more than the one before."""

    @property
    def item(self) -> str:
        return f"page batch {self.index}"

    def extents(self, numbers: NDArray[np.intp]) -> Iterator[Extent]:
        """Where pages of the batch lie by their ascending numbers; neighbours are one extent."""
        source = self.pages.source
        if self.places is None:
            for first, count in runs(numbers):
                yield Extent(self.pages.offset + first * PAGE_SIZE, count * PAGE_SIZE, source)
            return
        places = self.places[numbers]
        ends = [*(np.flatnonzero(np.diff(places) != PAGE_SIZE) + 1).tolist(), len(places)]
        first = 0
        for end in ends if len(places) else ():
            yield Extent(int(places[first]), (end - first) * PAGE_SIZE, source)
            first = end


@dataclass(slots=True, eq=False)
class Chunk(Event):
    """A control chunk."""

    row: ChunkType
    payload: bytes
    """Without id and length fields."""
    value: Any = None
    """Of a chunk with a fixed payload: a scalar of its dtype (an HVM parameter: int)."""


@dataclass(slots=True, eq=False)
class OnlineVcpus(Chunk):
    """Chunk -2."""

    ids: tuple[int, ...] = ()
    """Online vCPUs, ascending; bits above the highest id are left out."""


@dataclass(slots=True, eq=False)
class StartOfBody(Event):
    """Another checkpoint begins, a complete one: its tail counts, not the one before (v2-stream.md 19.14)."""

    body: int
    """Its number; the first body is 0 and has no such event."""


@dataclass(slots=True, eq=False)
class EndOfBody(Event):
    """Chunk 0."""

    final: bool
    """Nothing of another checkpoint can follow."""


@dataclass(slots=True, eq=False)
class Unmapped(Event):
    """PV tail: pfns that the guest gave back, all below p2m_size.

    A long list comes in several events; ``last`` tells the last of them. There is always one.
    """

    pfns: NDArray[np.uint32]
    last: bool


@dataclass(slots=True, eq=False)
class Vcpu(Event):
    """PV tail: state of one online vCPU."""

    id: int
    context: bytes
    extended: bytes | None
    xsave: bytes | None
    """The record behind mask and size: xcr0, xcr0_accum, area."""
    xsave_mask: int
    """What stands before its size, 0 without one."""


@dataclass(slots=True, eq=False)
class SharedInfo(Event):
    """PV tail: the page."""

    page: bytes


@dataclass(slots=True, eq=False)
class HvmMagic(Event):
    """HVM tail: parameters 5, 6 and 1."""

    values: tuple[int, int, int]


@dataclass(slots=True, eq=False)
class HvmContext(Event):
    """HVM tail: the hypervisor's record of the machine."""

    context: bytes


@dataclass(slots=True, eq=False)
class DeviceModel(Event):
    """The record behind the image; ``offset`` and ``length`` cover signature, length field and state."""

    row: DeviceModelRecord
    state: Extent
    version: int | None
    """Of a state that begins with ``QEVM`` (containers.md 6.4)."""


@dataclass(slots=True, eq=False)
class EndOfImage(Event):
    """Behind everything that belongs to the image; always the last event but for :class:`Remark`."""


@dataclass(slots=True, eq=False)
class Remark:
    """Something worth telling, at its place among the events."""

    note: Note


AnyEvent = Event | Remark
