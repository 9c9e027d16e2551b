"""Records of the libxl layer (reference-tools.md 9.4; v2-stream.md 12, 16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.read.records import OPTIONAL_NAME, LibxlRecord, NumberingName
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.releases import ALL, since
from xenmig_np.verification.rule import Broken, Level, rule
from xenmig_np.verification.rules.misc import length_at
from xenmig_np.wire import libxc, libxl
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.verification.state import Stream

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
REFERENCE = Level.REFERENCE
EMULATORS: Final = {"EMULATOR_XENSTORE_DATA", "EMULATOR_CONTEXT"}
"""Records with the sub-header of an emulator."""
CHECKPOINTS: Final = {"CHECKPOINT_END", "CHECKPOINT_STATE"}
IDS: Final = ", ".join(str(int(row)) for row in libxl.EmulatorId)
HEAD: Final = libxl.EMULATOR.itemsize
SOME: Final = 40
"""Bytes of a key that a finding shows."""

# ---- bodies ----------------------------------------------------------------------------------------------


@rule("V54", WARNING, "v2-stream 12", "END is empty", on=LibxlRecord, record="END", level=REFERENCE)
@rule(
    "V55",
    WARNING,
    "v2-stream 12.1",
    "LIBXC_CONTEXT is empty",
    on=LibxlRecord,
    record="LIBXC_CONTEXT",
    level=REFERENCE,
)
@rule(
    "V58",
    WARNING,
    "v2-stream 12.6",
    "CHECKPOINT_END is empty",
    on=LibxlRecord,
    record="CHECKPOINT_END",
    level=REFERENCE,
)
def empty(event: LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    if event.body.length:
        yield Broken(length_at(event), f"{event.body.length:,} bytes", "none")


@rule(
    "V59",
    ERROR,
    "v2-stream 12.6",
    "CHECKPOINT_STATE says which",
    on=LibxlRecord,
    record="CHECKPOINT_STATE",
    level=REFERENCE,
)
@rule(
    "V60",
    ERROR,
    "v2-stream 12.5",
    "DOMAIN_JSON has a configuration",
    on=LibxlRecord,
    record="DOMAIN_JSON",
    level=REFERENCE,
)
@rule(
    "V60a",
    ERROR,
    "v2-stream 12.4",
    "XENSTORE_DATA has data",
    on=LibxlRecord,
    record="XENSTORE_DATA",
    level=REFERENCE,
)
def not_empty(event: LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    if not event.body.length:
        yield Broken(length_at(event), "no bytes", "some")


@rule(
    "V56",
    ERROR,
    "v2-stream 12.2",
    "EMULATOR_XENSTORE_DATA has its sub-header",
    on=LibxlRecord,
    record="EMULATOR_XENSTORE_DATA",
    level=REFERENCE,
)
@rule(
    "V57",
    ERROR,
    "v2-stream 12.2",
    "EMULATOR_CONTEXT has its sub-header",
    on=LibxlRecord,
    record="EMULATOR_CONTEXT",
    level=REFERENCE,
)
def sub_header(event: LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    if event.head is None:
        yield Broken(length_at(event), f"{event.body.length} bytes", f"at least {HEAD}")


@rule(
    "V56a",
    WARNING,
    "v2-stream 12.2",
    "the emulator is known",
    on=LibxlRecord,
    record="EMULATOR_XENSTORE_DATA",
    level=REFERENCE,
)
@rule(
    "V57a",
    WARNING,
    "v2-stream 12.2",
    "the emulator is known",
    on=LibxlRecord,
    record="EMULATOR_CONTEXT",
    level=REFERENCE,
)
def emulator(event: LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    if event.head is not None and event.head["id"] not in set(libxl.EmulatorId):
        yield Broken(event.at("id"), f"emulator {int(event.head['id']):#x}", f"one of {IDS}")


@rule("X110", WARNING, "v2-stream 12.2", "the index of an emulator is 0", on=LibxlRecord)
def emulator_index(event: LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    if event.name in EMULATORS and event.head is not None and (index := int(event.head["index"])):
        yield Broken(event.at("index"), f"index {index:,}", "0")


@rule(
    "V56b",
    ERROR,
    "v2-stream 12.3",
    "keys and values end with NUL, in pairs",
    on=LibxlRecord,
    record="EMULATOR_XENSTORE_DATA",
    level=REFERENCE,
)
def pairs(event: LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    data = (event.data or b"")[HEAD:]
    end = event.body.offset + HEAD + len(data)
    if data and not data.endswith(b"\0"):
        yield Broken(end - 1, f"{data[-1:]!r} at the end", "NUL")
    elif (strings := data.count(b"\0")) % 2:
        yield Broken(event.body.offset + HEAD, f"{strings} strings", "an even number: keys and values")


@rule(
    "X111",
    ERROR,
    "v2-stream 12.3",
    "keys are relative and not empty",
    on=LibxlRecord,
    record="EMULATOR_XENSTORE_DATA",
)
def keys(event: LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    data = (event.data or b"")[HEAD:]
    if not data.endswith(b"\0") or data.count(b"\0") % 2:
        return
    at = event.body.offset + HEAD
    strings = data.split(b"\0")[:-1]
    for key, value in zip(strings[::2], strings[1::2], strict=True):
        if not key or key.startswith(b"/"):
            found = key[:SOME].decode(errors="backslashreplace")
            yield Broken(at, f"the key {found!r}", "a name, without a / before it")
            return
        at += len(key) + len(value) + 2


@rule(
    "X112",
    WARNING,
    "v2-stream 12.2",
    "EMULATOR_CONTEXT has a state",
    on=LibxlRecord,
    record="EMULATOR_CONTEXT",
)
def state(event: LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    if event.body.length == HEAD:
        yield Broken(length_at(event), "the sub-header alone", "a device model's state")


# ---- order and number ------------------------------------------------------------------------------------


@rule("V52a", ERROR, "v2-stream 12", "no record is optional", on=LibxlRecord, level=REFERENCE)
def optional(event: LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    if event.name == OPTIONAL_NAME:
        yield Broken(event.offset, f"type {event.type:#x}", "none: libxl skips nothing")


@rule("X113", ERROR, "v2-stream 12.7", "LIBXC_CONTEXT comes first, and once", on=LibxlRecord)
def libxc_context(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    seen = stream.libxl_records["LIBXC_CONTEXT"]
    if event.name == "LIBXC_CONTEXT":
        if seen:
            yield Broken(event.offset, "another one", "one: it would start a second restore")
    elif not seen and event.name != "DOMAIN_JSON" and not stream.libxl_records.keys() - {"DOMAIN_JSON"}:
        yield Broken(event.offset, f"{event.name} before it", "LIBXC_CONTEXT")


@rule("X114", WARNING, "v2-stream 12.7", "EMULATOR_CONTEXT comes last, and once", on=LibxlRecord)
def emulator_order(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    again = event.name in EMULATORS and stream.libxl_records["EMULATOR_CONTEXT"]
    if again and not stream.records["CHECKPOINT"]:
        yield Broken(event.offset, f"{event.name} behind it", "END")


@rule("X115", WARNING, "v2-stream 16", "a PV guest has no emulator", on=LibxlRecord)
def emulator_of_pv(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    if event.name in EMULATORS and stream.guest is Guest.PV and not stream.draft:
        yield Broken(event.offset, event.name, "END", since("4.10"))


@rule(
    "X116",
    ERROR,
    "v2-stream 19.9",
    "a converted HVM guest has its device model",
    on=LibxlRecord,
    record="END",
)
def device_model_of_converted(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    if _lacks_device_model(stream) and _converted(stream):
        yield Broken(event.offset, "no EMULATOR_CONTEXT", "one")


@rule("X117", WARNING, "v2-stream 16", "an HVM guest has a device model", on=LibxlRecord, record="END")
def device_model(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    if _lacks_device_model(stream) and not _converted(stream):
        yield Broken(event.offset, "no EMULATOR_CONTEXT", "one, unless the guest is PVH")


def _lacks_device_model(stream: Stream) -> bool:
    return stream.guest is Guest.HVM and not stream.libxl_records["EMULATOR_CONTEXT"]


def _converted(stream: Stream) -> bool:
    """No legacy image was one of a PVH guest, which is saved as HVM too."""
    by_libxl = stream.libxl is not None and bool(stream.libxl.options & libxl.CONVERTED_OPTION)
    return by_libxl or (stream.domain is not None and stream.domain.xen_major == libxc.CONVERTER_MAJOR)


@rule("X118", ERROR, "v2-stream 12.6", "checkpoint records stand in a checkpoint", on=LibxlRecord)
def checkpoint(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    if event.name in CHECKPOINTS and not _checkpointed(stream):
        yield Broken(event.offset, event.name, "none outside of one")


def _checkpointed(stream: Stream) -> bool:
    """Records stand between CHECKPOINT of the libxc layer and CHECKPOINT_END."""
    return stream.records["CHECKPOINT"] > stream.libxl_records["CHECKPOINT_END"]


@rule("X119", NOTE, "v2-stream 17", "released numbering", on=LibxlRecord)
def draft(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    if event.numbering is NumberingName.DRAFT_V7 and not stream.libxl_records:
        found = "the draft of 2014: no released Xen restores its libxl form"
        yield Broken(event.offset, found, "", ALL if stream.release else None)
