"""The state that a legacy restore would give (legacy-stream.md 1.1, 4, 7, 8, 13).

Of a checkpointed image it is that of the last complete checkpoint. What a conversion rightly leaves out
(v2-stream.md D17 to D25, D28) is noted and not part of it; what no stream can hold is missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np.errors import Note
from xenmig_np.read.events import (
    Chunk,
    DeviceModel,
    ExtendedInfo,
    HvmContext,
    HvmMagic,
    P2mFrames,
    P2mSize,
    PageBatch,
    SharedInfo,
    StartOfBody,
    Vcpu,
)
from xenmig_np.verification.comparison import Subject
from xenmig_np.verification.restored import Memory, Restored, together
from xenmig_np.wire import hvm, legacy, pages, vcpu
from xenmig_np.wire.hvm import HvmParam
from xenmig_np.wire.legacy import Guest, Payload

if TYPE_CHECKING:
    from xenmig_np.read.facts import Facts
    from xenmig_np.read.image import LegacyImage

PAIR: Final = frozenset({HvmParam.IOREQ_SERVER_PFN, HvmParam.NR_IOREQ_SERVER_PAGES})
ACPI_IOPORTS_APPLIED: Final = 1
OF_TAILS: Final = frozenset(
    {
        "vCPU context",
        "vCPU extended context",
        "vCPU xsave record",
        "shared info",
        "HVM context",
        "device model",
    }
)
"""What each checkpoint says anew."""
TOLD: Final = frozenset({"trailing", "containers 4.2", "containers 9.1", "D26", "D28"})
"""Remarks of the reader on bytes that nothing is made of."""


@dataclass(slots=True)
class Original(Restored):
    """State of a legacy image, with what belongs to one that no stream has in the same form."""

    facts: Facts = field(kw_only=True)
    toolstack: list[tuple[bytes, int]] = field(default_factory=list)
    """Payloads that are not empty, and their offsets: of the last checkpoint that has any such chunk."""
    params: list[tuple[HvmParam, int, int]] = field(default_factory=list)
    """From chunks: number, value, offset."""
    body: int = 0
    """Number of the checkpoint."""
    toolstack_body: int = 0
    has_tmem: bool = False
    tmem_pages: int = 0
    """Of transcendent memory, for which no stream has a place."""
    left_out: list[Note] = field(default_factory=list)
    """What the rules of conversion leave out of every stream."""


def restored_image(image: LegacyImage) -> Original:
    """Read the heads of an image, and decode compressed pages into its ``store``. Raises as its reader does.

    The state can be looked at for as long as the store is open.
    """
    facts = image.new_facts()
    guest = image.detected.shape.guest
    state = Original(image.source, guest, Memory(0), facts=facts)
    for event in image.events(facts):
        if (seer := SEERS.get(type(event))) is not None:
            seer(state, event)
    _apply_params(state)
    _note_left_out(state)
    return state


def _see_p2m_size(state: Original, event: P2mSize) -> None:
    state.memory = Memory(event.value)
    if state.guest is Guest.PV:
        state.put(Subject("PV value", "highest pfn"), event.value - 1, event.offset)


def _see_info(state: Original, event: ExtendedInfo) -> None:
    state.put(Subject("PV value", "bytes of a word"), event.guest.width, event.offset)
    state.put(Subject("PV value", "page-table levels"), event.guest.levels, event.offset)


def _see_frames(state: Original, event: P2mFrames) -> None:
    state.frames = event.frames.astype(np.uint64)
    state.frames_at = event.offset + event.frames.itemsize * np.arange(len(event.frames))


def _see_batch(state: Original, event: PageBatch) -> None:
    mentions = event.types != pages.PageType.XTAB
    places = event.places if event.places is not None else together(event.pages.offset, event.types)
    state.memory.add(event.types, event.pfns, places, mentions)
    if event.pages.source is not None:  # it reads the input too
        state.source = event.pages.source


def _see_body(state: Original, event: StartOfBody) -> None:
    """What the tail before said does not count; parameters and memory stay (legacy-stream.md 1.1)."""
    state.body = event.body
    for subject in [subject for subject in state.items if subject.what in OF_TAILS]:
        del state.items[subject]


def _see_magic(state: Original, event: HvmMagic) -> None:
    for index, (param, value) in enumerate(zip(hvm.MAGIC_PARAMS, event.values, strict=True)):
        state.put(Subject("HVM parameter", int(param)), value, event.offset + 8 * index)


def _see_shared_info(state: Original, event: SharedInfo) -> None:
    state.put(Subject("shared info"), event.page, event.offset)


def _see_context(state: Original, event: HvmContext) -> None:
    state.put(Subject("HVM context"), event.context, event.offset)


def _see_device_model(state: Original, event: DeviceModel) -> None:
    if state.guest is Guest.HVM:
        state.put(Subject("device model"), event.state, event.state.offset)


def _see_chunk(state: Original, event: Chunk) -> None:
    at = event.offset + event.length - len(event.payload)
    if event.row.id == legacy.VERIFY_MODE:
        state.memory.mark_verify()
    elif event.row.param is not None:
        _see_param(state, event.row.param, event.value, at)
    elif event.row.payload is Payload.TSC_INFO:
        for name in legacy.TSC_INFO.names or ():
            state.put(Subject("TSC value", name), int(event.value[name]), at)
    elif event.row.payload is Payload.TOOLSTACK:
        if state.toolstack_body != state.body:
            state.toolstack_body = state.body
            state.toolstack.clear()
        if event.payload:
            state.toolstack.append((event.payload, at))
    elif event.row.payload is Payload.TMEM:
        state.has_tmem = True
        state.tmem_pages += event.value if event.row.id != legacy.TMEM_EXTRA else 0


def _see_param(state: Original, number: HvmParam, value: int, at: int) -> None:
    """One of a later checkpoint takes the place of the last with its number (v2-stream.md 19.14)."""
    if state.body:
        for index in range(len(state.params) - 1, -1, -1):
            if state.params[index][0] is number:
                state.params[index] = number, value, at
                return
    state.params.append((number, value, at))


def _see_vcpu(state: Original, event: Vcpu) -> None:
    state.put(Subject("vCPU context", event.id), event.context, event.offset)
    if event.extended is not None:
        at = event.offset + len(event.context)
        state.put(Subject("vCPU extended context", event.id), event.extended, at)
    if event.xsave is not None:
        subject = Subject("vCPU xsave record", event.id)
        state.put(subject, event.xsave, event.offset + event.length - len(event.xsave))
        accum = int(np.frombuffer(event.xsave, vcpu.XSAVE_AREA, 1)[0]["xcr0_accum"])
        if (needed := vcpu.XSAVE_NEEDED.get(accum, len(event.xsave))) < len(event.xsave):  # D25
            state.items[subject] = replace(state.items[subject], shorter=event.xsave[:needed])


SEERS: Final[dict[type, Callable[[Original, Any], None]]] = {
    P2mSize: _see_p2m_size,
    ExtendedInfo: _see_info,
    P2mFrames: _see_frames,
    PageBatch: _see_batch,
    StartOfBody: _see_body,
    Chunk: _see_chunk,
    Vcpu: _see_vcpu,
    SharedInfo: _see_shared_info,
    HvmMagic: _see_magic,
    HvmContext: _see_context,
    DeviceModel: _see_device_model,
}
"""OnlineVcpus says nothing more: a PV image has a record of each, an HVM context is whole."""


def _apply_params(state: Original) -> None:
    """Those that a restore applies (v2-stream.md D18 to D20, D24)."""
    last = {number: value for number, value, _ in state.params}
    whole_pair = all(last.get(number) for number in PAIR)
    for number, value, at in state.params:
        if number in PAIR and not (whole_pair and value):
            why = "D19", "it counts only with its pair, both not zero"
        elif number is HvmParam.ACPI_IOPORTS_LOCATION and value != ACPI_IOPORTS_APPLIED:
            why = "D18", "restore applied only the value 1"
        elif not value:
            why = "D24", "zero means absent"
        else:
            state.put(Subject("HVM parameter", int(number)), value, at)
            continue
        text = f"HVM parameter {int(number)} ({number.name}) = {value:#x}: {why[1]}"
        state.left_out.append(Note(why[0], text, at))


def _note_left_out(state: Original) -> None:
    facts = state.facts
    if words := facts.dropped_words:
        state.left_out.append(Note("D17", f"{words} entries without a page (XTAB)"))
    if sent := facts.unmapped_sent:
        text = (
            f"{sent} pages that the image holds and the guest had given back, and page tables that name them"
        )
        state.left_out.append(Note("D22", text))
    if state.guest is Guest.PV and (model := facts.device_model):
        text = "the device-model record behind a PV guest (its frame buffer)"
        state.left_out.append(Note("19.9", text, model.offset))
    state.left_out += [note for note in facts.notes.all() if note.rule in TOLD]
