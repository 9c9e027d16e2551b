"""What stands in an input, one entry for each chunk or record, legacy and v2 alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.carriers.recognise import recognise
from xenmig_np.carriers.xapi import StructuredHeader, records_behind
from xenmig_np.io.cursor import Cursor
from xenmig_np.read import records
from xenmig_np.read.events import (
    Chunk,
    DeviceModel,
    EndOfBody,
    EndOfImage,
    ExtendedInfo,
    HvmContext,
    HvmMagic,
    OnlineVcpus,
    P2mFrames,
    P2mSize,
    PageBatch,
    Remark,
    SharedInfo,
    StartOfBody,
    Unmapped,
    Vcpu,
)
from xenmig_np.read.image import find
from xenmig_np.read.info import type_names
from xenmig_np.read.reading import Reading, Shape
from xenmig_np.read.tails import device_model
from xenmig_np.read.v2 import StreamReader
from xenmig_np.wire import legacy, libxc, pages
from xenmig_np.wire.legacy import Guest, Payload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.carriers.recognise import Carried
    from xenmig_np.io.source import Source

LEFT_OUT: Final = frozenset({"D28", "trailing"})
"""Remarks of the reader on bytes behind an image; the last of them counts."""
VALUES_SHOWN: Final = 64
"""Parameters of one record that are listed; the count tells how many there are."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something at a place of the input."""

    offset: int
    length: int
    name: str
    details: dict[str, Any] = field(default_factory=dict)


def entries(
    source: Source, *, every: bool = False, width: int | None = None, guest: Guest | None = None
) -> Iterator[Entry]:
    """Entries in order; consecutive page batches as one, unless ``every`` of them is wanted.

    Raises as the readers do, behind what could be read.
    """
    carried = recognise(source)
    yield from _before(source, carried)
    if carried.stream == "legacy":
        image = find(source, width=width, guest=guest)
        events: Iterator[Any] = image.events(image.new_facts())
    else:
        source.release()
        events = StreamReader(source, carried.at, bodies=True).events()
    batches = _Batches()
    end = _End()
    for event in events:
        end.see(event)
        if isinstance(event, PageBatch | records.PageData) and not every:
            batches.add(event)
            continue
        yield from batches.taken()
        if (describe := DESCRIBE.get(type(event))) is not None:
            name, details = describe(event)
            yield Entry(event.offset, event.length, name, details)
    yield from batches.taken()
    if source.drained and (source.seekable or carried.stream != "legacy"):  # else it has been read already
        yield from _behind(source, carried, end)


# ---- around the stream -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _End:
    """What is known of the end when that is reached."""

    at: int = 0
    why: str | None = None
    """What the reader of legacy images says of the bytes behind it."""
    libxl: bool = False
    hvm: bool = False
    """The guest of a stream is one."""

    def see(self, event: object) -> None:
        match event:
            case Remark() if event.note.rule in LEFT_OUT:
                self.why = event.note.text
            case records.LibxlHeader():
                self.libxl = True
            case records.DomainHeader():
                self.hvm = event.type == libxc.DOMAIN_TYPE[Guest.HVM]
            case EndOfImage() | records.EndOfStream():
                self.at = event.offset


def _before(source: Source, carried: Carried) -> Iterator[Entry]:
    length = carried.header.length if carried.header else 0
    if begin := carried.at - length - source.start:
        yield Entry(source.start, begin, "preamble", {})
    if header := carried.header:
        details: dict[str, Any] = {"config": header.config_kind}
        if carried.xl:
            details = {"mandatory_flags": carried.xl.mandatory_flags, **details}
        if isinstance(header, StructuredHeader):
            details["records"] = [record.name for record in header.records]
        yield Entry(carried.at - length, length, f"{carried.carrier} header", details)


def _behind(source: Source, carried: Carried, end: _End) -> Iterator[Entry]:
    at = end.at
    reading = Reading(Cursor(source, at), Shape(64, Guest.HVM))
    if isinstance(carried.header, StructuredHeader):
        for record in records_behind(source, at):
            yield Entry(at, record.end - at, f"xapi record {record.name}", {"bytes": record.length})
            at = record.end
    elif end.hvm and not end.libxl:  # a device-model record may follow
        for event in device_model(reading):
            if isinstance(event, DeviceModel):
                yield Entry(event.offset, event.length, *_device_model(event))
                at = event.offset + event.length
    reading.cursor.at = at
    if count := reading.cursor.left(limits.TRAILING_COUNTED):
        yield Entry(at, count, "left out", {"because": end.why} if end.why else {})


class _Batches:
    """Consecutive page batches as one entry."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._first: PageBatch | records.PageData | None = None
        self._count = self._length = self._pages = 0
        self._types: NDArray[np.int64] = np.zeros(16, np.int64)

    def add(self, event: PageBatch | records.PageData) -> None:
        self._first = self._first or event
        self._count += 1
        self._length += event.length
        self._types += np.bincount(event.types, minlength=16)

    def taken(self) -> Iterator[Entry]:
        if self._first:
            name = "page batches" if isinstance(self._first, PageBatch) else "PAGE_DATA"
            details = {"count": self._count, **_words(self._types)}
            yield Entry(self._first.offset, self._length, name, details)
            self._clear()


def _words(counts: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "entries": int(counts.sum()),
        "pages": int(counts[pages.HAS_DATA].sum()),
        "types": type_names(counts),
    }


# ---- legacy ----------------------------------------------------------------------------------------------

Described = tuple[str, dict[str, Any]]


def _extended(event: ExtendedInfo) -> Described:
    blocks = [block.id.decode("latin-1") for block in event.blocks]
    return "extended info", {"guest": event.guest.name, "blocks": blocks, "xcnt": event.xcnt}


def _chunk(event: Chunk) -> Described:
    details: dict[str, Any] = {}
    match event.row.payload:
        case Payload.HVM_PARAM:
            details = {"value": event.value}
        case Payload.TSC_INFO:
            details = {name: int(event.value[name]) for name in legacy.TSC_INFO.names or ()}
        case Payload.TOOLSTACK:
            details = {"bytes": len(event.payload)}
        case Payload.TMEM:
            details = {"entries" if event.row.id == legacy.TMEM_EXTRA else "pages": event.value}
    return f"chunk {event.row.id} ({event.row.name})", details


def _online(event: OnlineVcpus) -> Described:
    return f"chunk {event.row.id} ({event.row.name})", {"vcpus": list(event.ids)}


def _vcpu(event: Vcpu) -> Described:
    parts = {"context": event.context, "extended": event.extended, "xsave": event.xsave}
    return f"vCPU {event.id}", {name: len(part) for name, part in parts.items() if part is not None}


def _device_model(event: DeviceModel) -> Described:
    details = {"signature": event.row.signature.decode().strip(), "bytes": event.state.length}
    if event.version is not None:
        details["version"] = event.version
    return "device-model record", details


def _batch(event: PageBatch) -> Described:
    return event.item, _words(np.bincount(event.types, minlength=16))


# ---- v2 and v3 -------------------------------------------------------------------------------------------


def _record(event: records.Record) -> Described:
    details: dict[str, Any] = {"bytes": event.body.length}
    if event.head is not None:
        details |= {
            name: int(event.head[name]) for name in event.head.dtype.names if not name.startswith("reserved")
        }
    if event.name == "HVM_PARAMS" and event.head is not None and event.data is not None:
        room = (len(event.data) - libxc.HVM_PARAMS.itemsize) // libxc.HVM_PARAM.itemsize
        count = min(int(event.head["count"]), room, VALUES_SHOWN)
        params = np.frombuffer(event.data, libxc.HVM_PARAM, count, libxc.HVM_PARAMS.itemsize)
        details["params"] = {str(index): value for index, value in params.tolist()}
    return event.name, details


def _page_data(event: records.PageData) -> Described:
    return event.name, _words(np.bincount(event.types, minlength=16))


def _libxl_record(event: records.LibxlRecord) -> Described:
    name, details = _record(event)  # type: ignore[arg-type]  # the two layers share their form
    return f"libxl {name}", details


DESCRIBE: Final[dict[type, Callable[[Any], Described]]] = {
    P2mSize: lambda event: ("p2m_size", {"value": event.value}),
    ExtendedInfo: _extended,
    P2mFrames: lambda event: ("p2m frame list", {"frames": len(event.frames)}),
    PageBatch: _batch,
    Chunk: _chunk,
    OnlineVcpus: _online,
    StartOfBody: lambda event: ("start of checkpoint", {"number": event.body}),
    EndOfBody: lambda _: ("chunk 0 (end)", {}),
    Unmapped: lambda event: ("unmapped pfns", {"count": len(event.pfns)}),
    Vcpu: _vcpu,
    SharedInfo: lambda _: ("shared info", {}),
    HvmMagic: lambda event: ("magic pfns", {"values": list(event.values)}),
    HvmContext: lambda event: ("HVM context", {"bytes": event.length}),
    DeviceModel: _device_model,
    EndOfImage: lambda _: ("end of image", {}),
    records.LibxlHeader: lambda event: ("libxl header", {"version": event.version, "options": event.options}),
    records.LibxlRecord: _libxl_record,
    records.ImageHeader: lambda event: ("libxc image header", {"version": event.version}),
    records.DomainHeader: lambda event: (
        "libxc domain header",
        {"type": event.type, "xen": f"{event.xen_major}.{event.xen_minor}"},
    ),
    records.Record: _record,
    records.PageData: _page_data,
    records.EndOfStream: lambda _: ("end of stream", {}),
}
