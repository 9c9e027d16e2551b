"""X86_PV_INFO, X86_PV_P2M_FRAMES and SHARED_INFO (v2-stream.md 7.3, 7.4, 7.6, 15.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.read.records import Record
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.frames import are_referred, fault, unfit
from xenmig_np.verification.rule import Broken, Level, rule
from xenmig_np.verification.rules.misc import length_at
from xenmig_np.wire import libxc
from xenmig_np.wire.legacy import SHARED_INFO_SIZE, Guest
from xenmig_np.wire.vcpu import PV_BY_WIDTH, PV_GUESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
REFERENCE = Level.REFERENCE
INFO, FRAMES = "X86_PV_INFO", "X86_PV_P2M_FRAMES"
WIDTHS: Final = {guest.width for guest in PV_GUESTS}
LEVELS: Final = {guest.levels for guest in PV_GUESTS}

# ---- X86_PV_INFO -----------------------------------------------------------------------------------------


@rule(
    "V30",
    ERROR,
    "v2-stream 7.3",
    "a width of 4 or 8 and 3 or 4 levels in 8 bytes",
    on=Record,
    record=INFO,
    level=REFERENCE,
)
def info(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.head is None:
        yield Broken(length_at(event), f"{event.body.length} bytes", f"{libxc.PV_INFO.itemsize}")
        return
    for field, legal in (("width", WIDTHS), ("levels", LEVELS)):
        if (value := int(event.head[field])) not in legal:
            yield Broken(event.at(field), f"{field} {value}", " or ".join(map(str, sorted(legal))))
            return


@rule("V30a", WARNING, "v2-stream 7.3", "no more than 8 bytes", on=Record, record=INFO, level=REFERENCE)
def info_length(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.body.length > libxc.PV_INFO.itemsize:
        yield Broken(length_at(event), f"{event.body.length:,} bytes", f"{libxc.PV_INFO.itemsize}")


@rule("V30b", WARNING, "v2-stream 7.3", "reserved fields are 0", on=Record, record=INFO, level=REFERENCE)
def info_reserved(event: Record, _stream: Stream) -> Iterator[Broken]:
    for field in ("reserved1", "reserved2"):
        if event.head is not None and event.head[field]:
            yield Broken(event.at(field), f"{int(event.head[field]):#x}", "0")


@rule("X50", ERROR, "v2-stream 7.3", "a 64-bit guest has 4 levels, a 32-bit one 3", on=Record, record=INFO)
def info_pair(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.head is None or event.head["width"] not in WIDTHS or event.head["levels"] not in LEVELS:
        return
    width, levels = int(event.head["width"]), int(event.head["levels"])
    if (wanted := PV_BY_WIDTH[width].levels) != levels:
        yield Broken(event.at("levels"), f"width {width} with {levels} levels", f"{wanted}")


@rule("X51", ERROR, "v2-stream 15.4", "one X86_PV_INFO", on=Record, record=INFO)
def info_once(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.records[INFO]:
        yield Broken(event.offset, "another one", "one in the stream")


# ---- X86_PV_P2M_FRAMES -----------------------------------------------------------------------------------


@rule("V31", ERROR, "v2-stream 7.4", "at least 8 bytes", on=Record, record=FRAMES, level=REFERENCE)
def frames_head(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.head is None:
        yield Broken(length_at(event), f"{event.body.length} bytes", f"at least {libxc.P2M_FRAMES.itemsize}")


@rule("V32", ERROR, "v2-stream 7.4", "a multiple of 8 bytes", on=Record, record=FRAMES, level=REFERENCE)
def frames_length(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.head is not None and event.body.length % libxc.PFN_WORD.itemsize:
        yield Broken(length_at(event), f"{event.body.length:,} bytes", "a multiple of 8")


@rule("X52", ERROR, "v2-stream 7.4", "as many frames as the pfns need", on=Record, record=FRAMES)
def frames_count(event: Record, stream: Stream) -> Iterator[Broken]:
    per_frame = frames_per_page(stream)
    if event.head is None or not per_frame or event.body.length % libxc.PFN_WORD.itemsize:
        return
    start, end = int(event.head["start_pfn"]), int(event.head["end_pfn"])
    if start > end:
        yield Broken(event.at("start_pfn"), f"pfns {start:#x} to {end:#x}", "a first one that is not higher")
        return
    if end == 0 and stream.end_pfn < 0:
        yield Broken(event.at("end_pfn"), "a guest of one page", "more: Xen's restore crashes")
        return
    count = (event.body.length - libxc.P2M_FRAMES.itemsize) // libxc.PFN_WORD.itemsize
    if count != (wanted := end // per_frame - start // per_frame + 1):
        yield Broken(length_at(event), f"{count:,} frames", f"{wanted:,} for pfns {start:#x} to {end:#x}")


@rule("X53", ERROR, "v2-stream 7.4", "the frame list has no gap", on=Record, record=FRAMES)
def frames_gap(event: Record, stream: Stream) -> Iterator[Broken]:
    per_frame = frames_per_page(stream)
    if event.head is None or not per_frame:
        return
    first, known = int(event.head["start_pfn"]) // per_frame, len(stream.p2m_frames)
    if first > known and event.head["start_pfn"] <= event.head["end_pfn"]:
        yield Broken(event.at("start_pfn"), f"entry {first:,} of the list", f"entry {known:,} before it")


@rule("X54", WARNING, "v2-stream 15.4", "a frame of the list stays where it is", on=Record, record=FRAMES)
def frames_again(event: Record, stream: Stream) -> Iterator[Broken]:
    per_frame = frames_per_page(stream)
    if event.head is None or event.data is None or not per_frame or not stream.p2m_frames:
        return
    first = int(event.head["start_pfn"]) // per_frame
    words = (len(event.data) - libxc.P2M_FRAMES.itemsize) // libxc.PFN_WORD.itemsize
    frames = np.frombuffer(event.data, libxc.PFN_WORD, words, libxc.P2M_FRAMES.itemsize).tolist()
    for index, frame in enumerate(frames, first):
        if (before := stream.p2m_frames.get(index, (frame, 0))[0]) != frame:
            offset = event.body.offset + libxc.P2M_FRAMES.itemsize
            offset += (index - first) * libxc.PFN_WORD.itemsize
            yield Broken(offset, f"pfn {frame:#x} for entry {index:,}", f"{before:#x} as before")
            return


def frames_per_page(stream: Stream) -> int:
    """p2m entries in a frame; 0: not known."""
    guest = PV_BY_WIDTH.get(stream.width or 0)
    return guest.frames_per_page if guest else 0


@rule("X55", ERROR, "v2-stream 15.4", "the frames of the p2m are plain pages", on=Record, record="END")
def frames_plain(_event: Record, stream: Stream) -> Iterator[Broken]:
    if len(pfns := _listed(stream)):
        bad = np.flatnonzero(unfit(stream, pfns))
        if len(bad):
            frame, offset = list(stream.p2m_frames.values())[bad[0]]
            more = f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
            yield Broken(offset, f"{fault(stream, frame)}{more}", "plain pages that the stream holds")


@rule("X56", WARNING, "v2-stream 7.4", "the frames of the p2m are in the stream", on=Record, record="END")
def frames_sent(_event: Record, stream: Stream) -> Iterator[Broken]:
    if len(pfns := _listed(stream)):
        lost = are_referred(stream, pfns) & ~stream.populated.contains(pfns) & ~unfit(stream, pfns)
        if lost.any():
            frame, offset = list(stream.p2m_frames.values())[int(np.argmax(lost))]
            yield Broken(offset, f"pfn {frame:#x}, which was never sent", "its page")


def _listed(stream: Stream) -> NDArray[np.uint64]:
    """Pfns of the p2m, in the order of the state; empty for what is no PV guest with a p2m."""
    return np.array([frame for frame, _ in stream.p2m_frames.values()], np.uint64)


# ---- SHARED_INFO -----------------------------------------------------------------------------------------


@rule("V35", ERROR, "v2-stream 7.6", "4096 bytes", on=Record, record="SHARED_INFO", level=REFERENCE)
def shared_info(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.body.length != SHARED_INFO_SIZE:
        yield Broken(length_at(event), f"{event.body.length:,} bytes", f"{SHARED_INFO_SIZE:,}")


@rule("X57", ERROR, "v2-stream 6", "a PV stream has a SHARED_INFO", on=Record, record="END")
def shared_info_there(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.PV and not stream.records["SHARED_INFO"]:
        yield Broken(event.offset, "none", "one: nothing else restores the page")


@rule("X58", WARNING, "v2-stream 6", "one SHARED_INFO", on=Record, record="SHARED_INFO")
def shared_info_once(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.records["SHARED_INFO"] and not stream.records["CHECKPOINT"]:
        yield Broken(event.offset, "another one", "one: the last counts")
