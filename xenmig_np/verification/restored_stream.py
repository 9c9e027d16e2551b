"""The state that Xen's restore of a v2 or v3 stream would give (v2-stream.md 7, 8, 15, 18)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import InvalidImage
from xenmig_np.io.cursor import Cursor
from xenmig_np.read.events import DeviceModel
from xenmig_np.read.places import Extent
from xenmig_np.read.reading import Reading, Shape
from xenmig_np.read.records import (
    DomainHeader,
    EndOfStream,
    ImageHeader,
    LibxlHeader,
    LibxlRecord,
    NumberingName,
    PageData,
    Record,
)
from xenmig_np.read.tails import device_model
from xenmig_np.read.v2 import StreamReader
from xenmig_np.verification.comparison import Subject
from xenmig_np.verification.restored import NO_FRAME, Memory, Restored, together
from xenmig_np.wire import libxc, libxl, pages
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.io.source import Source
    from xenmig_np.read.records import AnyRecord

GUESTS: Final = {int(number): guest for guest, number in libxc.DOMAIN_TYPE.items()}
VCPU_SUBJECTS: Final = {
    "X86_PV_VCPU_BASIC": "vCPU context",
    "X86_PV_VCPU_EXTENDED": "vCPU extended context",
    "X86_PV_VCPU_XSAVE": "vCPU xsave record",
    "X86_PV_VCPU_MSRS": "vCPU MSRs",
}
BLOBS: Final = {
    "SHARED_INFO": "shared info",
    "HVM_CONTEXT": "HVM context",
    "X86_CPUID_POLICY": "CPUID policy",
    "X86_MSR_POLICY": "MSR policy",
}


@dataclass(slots=True)
class Streamed(Restored):
    """State of a stream, with what its layers are."""

    libxl: bool = False
    numbering: NumberingName = NumberingName.UNKNOWN
    version: int = 0
    beyond: int = 0
    """Words whose pfn the original's guest cannot have."""
    first_beyond: tuple[int, int] | None = None
    """Pfn and offset of the first such word."""
    end: int = 0
    """Offset behind the last END."""

    @property
    def draft(self) -> bool:
        """Perhaps of the 2014 draft: nothing says otherwise."""
        return self.numbering is not NumberingName.RELEASED and self.version == libxc.VERSION_46


def restored_stream(source: Source, at: int, size: int) -> Streamed:
    """Read the stream at ``at`` to its end; memory is that of a guest with pfns below ``size``.

    Raises as :class:`StreamReader` does, and :class:`InvalidImage` for what no restore takes and nobody could
    make sense of: page types, the size of pages, the number of parameters.
    """
    state = Streamed(source, Guest.BOTH, Memory(size))
    for event in StreamReader(source, at, bodies=True).events():
        _see(state, event)
    return state


def _see(state: Streamed, event: AnyRecord) -> None:
    match event:
        case LibxlHeader():
            state.libxl = True
        case ImageHeader():
            state.version = event.version
        case DomainHeader():
            _see_domain(state, event)
        case PageData():
            _see_pages(state, event)
        case LibxlRecord():
            state.numbering = event.numbering
            _see_libxl(state, event)
        case Record():
            _see_record(state, event)
        case EndOfStream():
            state.end = event.offset
            if not state.libxl and state.guest is Guest.HVM:
                _see_tail(state, event.offset)


def _invalid(state: Streamed, offset: int, item: str, found: str, expected: str) -> InvalidImage:
    return InvalidImage(path=state.source.path, offset=offset, item=item, found=found, expected=expected)


def _see_domain(state: Streamed, event: DomainHeader) -> None:
    state.guest = GUESTS.get(event.type, Guest.BOTH)
    if event.page_shift != pages.PAGE_SHIFT:
        found = f"page shift {event.page_shift}"
        raise _invalid(state, event.at("page_shift"), "libxc domain header", found, f"{pages.PAGE_SHIFT}")


def _see_pages(state: Streamed, event: PageData) -> None:
    if not (legal := pages.LEGAL[event.types]).all():
        first = int(np.argmin(legal))
        raise _invalid(
            state,
            event.word_offset(first),
            f"PAGE_DATA record, word {first}",
            f"page type {event.types[first]}",
            "0 to 4 or 9 to 15",
        )
    pfns = event.pfns
    inside = pfns < state.memory.size
    counted = np.ones(len(pfns), np.bool_)
    if state.guest is Guest.HVM:  # restore of an HVM guest does nothing about such a word
        counted = event.types != pages.PageType.XTAB
    beyond = np.flatnonzero(counted & ~inside)
    if len(beyond):
        first = int(beyond[0])
        state.first_beyond = state.first_beyond or (int(pfns[first]), event.word_offset(first))
        state.beyond += len(beyond)
    state.memory.add(event.types, pfns, together(event.pages.offset, event.types), counted & inside)


def _see_record(state: Streamed, event: Record) -> None:
    data = event.data or b""
    at = event.body.offset
    if event.name == "VERIFY":
        state.memory.mark_verify()
    elif event.name in BLOBS:
        state.put(Subject(BLOBS[event.name]), data, at)
    elif event.head is None:
        return  # no body, or one too short to say something
    elif event.name == "X86_PV_INFO":
        state.put(Subject("PV value", "bytes of a word"), int(event.head["width"]), event.at("width"))
        state.put(Subject("PV value", "page-table levels"), int(event.head["levels"]), event.at("levels"))
    elif event.name == "X86_PV_P2M_FRAMES":
        _see_frames(state, event, data)
    elif event.name in VCPU_SUBJECTS:
        head = libxc.VCPU.itemsize
        subject = Subject(VCPU_SUBJECTS[event.name], int(event.head["vcpu_id"]))
        state.put(subject, data[head:], at + head)
    elif event.name == "X86_TSC_INFO":
        for name in ("mode", "khz", "nsec", "incarnation"):
            state.put(Subject("TSC value", name), int(event.head[name]), event.at(name))
    elif event.name == "HVM_PARAMS":
        _see_params(state, event, data)


def _see_frames(state: Streamed, event: Record, data: bytes) -> None:
    """Frames by their index in the list; those that no record names stay NO_FRAME."""
    start, end = int(event.head["start_pfn"]), int(event.head["end_pfn"])
    highest = Subject("PV value", "highest pfn")
    known = state.items.get(highest)
    if known is None or int(end) > known.value:  # type: ignore[operator]  # put below as a number
        state.put(highest, end, event.at("end_pfn"))
    word = state.items.get(Subject("PV value", "bytes of a word"))
    if word is None or word.value not in {4, 8}:
        return
    per_frame = pages.PAGE_SIZE // int(word.value)
    first = start // per_frame
    count = end // per_frame - first + 1
    if start > end or len(data) != libxc.P2M_FRAMES.itemsize + count * libxc.PFN_WORD.itemsize:
        return
    frames = np.frombuffer(data, libxc.PFN_WORD, count, libxc.P2M_FRAMES.itemsize)
    if first + len(frames) > len(state.frames):
        state.frames = _grown(state.frames, first + len(frames), NO_FRAME)
        state.frames_at = _grown(state.frames_at, first + len(frames), 0)
    place = slice(first, first + len(frames))
    state.frames[place] = frames
    at = event.body.offset + libxc.P2M_FRAMES.itemsize
    state.frames_at[place] = at + frames.itemsize * np.arange(len(frames))


def _grown(values: NDArray[Any], size: int, fill: int) -> NDArray[Any]:
    grown = np.full(size, fill, values.dtype)
    grown[: len(values)] = values
    return grown


def _see_params(state: Streamed, event: Record, data: bytes) -> None:
    room = (len(data) - libxc.HVM_PARAMS.itemsize) // libxc.HVM_PARAM.itemsize
    count, most = int(event.head["count"]), min(room, limits.PARAMETERS_MAX)
    if count > most:
        raise _invalid(state, event.at("count"), "HVM_PARAMS record", f"count {count:,}", f"at most {most:,}")
    at = event.body.offset + libxc.HVM_PARAMS.itemsize
    for place, (number, value) in enumerate(
        np.frombuffer(data, libxc.HVM_PARAM, count, libxc.HVM_PARAMS.itemsize).tolist()
    ):
        state.put(Subject("HVM parameter", number), value, at + place * libxc.HVM_PARAM.itemsize)


def _see_libxl(state: Streamed, event: LibxlRecord) -> None:
    data, at = event.data or b"", event.body.offset
    head = libxl.EMULATOR.itemsize
    if event.name == "EMULATOR_CONTEXT" and event.head is not None:
        place = Extent(at + head, event.body.length - head)
        state.put(Subject("device model"), place, place.offset)
    elif event.name == "XENSTORE_DATA":
        subject = Subject("toolstack data")
        before = state.items.get(subject)
        if before is not None and isinstance(before.value, bytes):
            data, at = before.value + data, before.offset
        state.put(subject, data, at)
    elif event.name == "EMULATOR_XENSTORE_DATA":
        _see_pairs(state, data[head:], at + head)


def _see_pairs(state: Streamed, data: bytes, at: int) -> None:
    """``key NUL value NUL``; a key without value is told as one without."""
    *strings, rest = data.split(b"\0")
    for index in range(0, len(strings), 2):
        key, *value = strings[index : index + 2]
        state.put(Subject("xenstore key", key.decode(errors="backslashreplace")), b"".join(value), at)
        at += len(key) + 1 + sum(len(part) + 1 for part in value)
    if rest or len(strings) % 2:
        state.put(Subject("xenstore key", "without an end"), rest, at)


def _see_tail(state: Streamed, at: int) -> None:
    """The device-model record that a converter to libxc format puts behind the stream."""
    for event in device_model(Reading(Cursor(state.source, at), Shape(64, Guest.HVM))):
        if isinstance(event, DeviceModel):
            state.put(Subject("device model"), event.state, event.state.offset)
