"""Records of PV vCPUs one by one (v2-stream.md 7.5, 15.4; xen-restore-behaviour.md 210 to 265)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.read.records import Record
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.releases import until
from xenmig_np.verification.rule import Broken, Level, rule
from xenmig_np.verification.rules.misc import length_at
from xenmig_np.wire import libxc, vcpu
from xenmig_np.wire.legacy import VCPU_ID_MAX, Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
REFERENCE = Level.REFERENCE
HEAD: Final = libxc.VCPU.itemsize
BASIC, EXTENDED = "X86_PV_VCPU_BASIC", "X86_PV_VCPU_EXTENDED"
XSAVE, MSRS = "X86_PV_VCPU_XSAVE", "X86_PV_VCPU_MSRS"
ALL_OF_VCPU: Final = (BASIC, EXTENDED, XSAVE, MSRS)
XSAVE_UNIT: Final = 16


def blob(event: Record) -> bytes:
    """What follows the id."""
    return event.data[HEAD:] if event.data else b""


def blob_at(event: Record, offset: int) -> int:
    """Offset in the input of a place in the blob."""
    return event.body.offset + HEAD + offset


# ---- form ------------------------------------------------------------------------------------------------


@rule("V33", ERROR, "v2-stream 7.5", "a vCPU record has its id", on=Record, level=REFERENCE)
def head(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.name in ALL_OF_VCPU and event.head is None:
        yield Broken(length_at(event), f"{event.body.length} bytes", f"at least {HEAD}")


@rule("V34", WARNING, "v2-stream 7.5", "the reserved field is 0", on=Record, level=REFERENCE)
def reserved(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.name in ALL_OF_VCPU and event.head is not None and (value := int(event.head["reserved"])):
        yield Broken(event.at("reserved"), f"{value:#x}", "0")


@rule("X59", WARNING, "v2-stream 15.4", "a vCPU record is not empty", on=Record)
def empty(event: Record, stream: Stream) -> Iterator[Broken]:
    """Readers since 4.11 skip it; those of version 3 alone are told nothing about optional state."""
    if event.name in ALL_OF_VCPU and event.body.length == HEAD:
        state_lost = event.name in {BASIC, EXTENDED} and stream.version >= libxc.VERSION_414
        yield Broken(
            length_at(event), f"an empty {event.name}", "its state", None if state_lost else until("4.10")
        )


@rule("X60", ERROR, "v2-stream 15.4", "a context has the size of the guest's", on=Record)
def size(event: Record, stream: Stream) -> Iterator[Broken]:
    length, guest = event.body.length, vcpu.PV_BY_WIDTH.get(stream.width or 0)
    if length <= HEAD:
        return
    if event.name == BASIC and guest and length != (wanted := HEAD + guest.context.itemsize):
        yield Broken(length_at(event), f"{length:,} bytes", f"{wanted:,}")
    if event.name == EXTENDED and length > (most := HEAD + vcpu.EXTENDED_SIZE):
        yield Broken(length_at(event), f"{length:,} bytes", f"at most {most:,}")


@rule("X61", ERROR, "v2-stream 7.5", "an extended context is a hypervisor's", on=Record, record=EXTENDED)
def extended(event: Record, _stream: Stream) -> Iterator[Broken]:
    state = blob(event)
    if not 0 < len(state) <= vcpu.EXTENDED_SIZE:
        return
    fields = np.frombuffer(state.ljust(vcpu.EXTENDED_SIZE, b"\0"), vcpu.EXTENDED, 1)[0]
    number, told = int(fields["vcpu"]), int(fields["size"])
    if number != event.head["vcpu_id"]:
        yield Broken(blob_at(event, 0), f"vCPU {number} inside", f"{int(event.head['vcpu_id'])}")
    elif told < vcpu.EXTENDED_MIN:
        yield Broken(blob_at(event, 4), f"a size of {told}", f"at least {vcpu.EXTENDED_MIN}")
    elif not canonical(np.array([fields["syscall32_eip"], fields["sysenter_eip"]])).all():
        yield Broken(blob_at(event, 8), "a callback address that is not canonical", "canonical ones")


@rule("X62", ERROR, "v2-stream 19.13 D25", "an xsave record fits its features", on=Record, record=XSAVE)
def xsave(event: Record, _stream: Stream) -> Iterator[Broken]:
    state = blob(event)
    least = vcpu.XSAVE_AREA.itemsize
    if not state:
        return
    if len(state) < least:
        yield Broken(length_at(event), f"{len(state)} bytes of state", f"at least {least}")
        return
    xcr0, accum = (int(word) for word in np.frombuffer(state, vcpu.XSAVE_AREA, 1)[0])
    if xcr0 & ~accum:
        yield Broken(blob_at(event, 0), f"xcr0 {xcr0:#x}", f"no more than xcr0_accum {accum:#x}")
    elif len(state) > least or accum:
        wanted = vcpu.XSAVE_NEEDED.get(accum, max(len(state), vcpu.XSAVE_NEEDED[1]))
        if len(state) != wanted:
            yield Broken(
                length_at(event), f"{len(state):,} bytes of state", f"{wanted:,} for xcr0_accum {accum:#x}"
            )


@rule("X63", WARNING, "v2-stream 15.4", "an xsave record is a multiple of 16", on=Record, record=XSAVE)
def xsave_unit(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.body.length > HEAD and (length := event.body.length - HEAD) % XSAVE_UNIT:
        yield Broken(length_at(event), f"{length:,} bytes", "a multiple of 16", until("4.13"))


@rule("X64", ERROR, "v2-stream 7.5", "MSRs are such that can be set", on=Record, record=MSRS)
def msrs(event: Record, _stream: Stream) -> Iterator[Broken]:
    state, unit = blob(event), libxc.MSR_ENTRY.itemsize
    if len(state) % unit:
        yield Broken(length_at(event), f"{len(state):,} bytes of entries", f"a multiple of {unit}")
        return
    entries = np.frombuffer(state, libxc.MSR_ENTRY)
    bad = np.flatnonzero(~np.isin(entries["index"], list(vcpu.MSRS_SETTABLE)) | (entries["flags"] != 0))
    if len(bad):
        index, flags, _ = entries[bad[0]]
        found = f"MSR {int(index):#x}" + (f" with {int(flags):#x} in the reserved field" if flags else "")
        yield Broken(blob_at(event, int(bad[0]) * unit), found, "those of a PV guest")


# ---- which of them there are -----------------------------------------------------------------------------


@rule("X65", WARNING, "v2-stream 6", "a vCPU has one record of a kind", on=Record)
def repeated(event: Record, stream: Stream) -> Iterator[Broken]:
    if event.name in ALL_OF_VCPU and event.body.length > HEAD and not stream.records["CHECKPOINT"]:
        number = int(event.head["vcpu_id"])
        if event.name in stream.vcpus.get(number, ()):
            yield Broken(event.offset, f"another one of vCPU {number}", "one: the last counts")


@rule("X66", ERROR, "v2-stream 15.4", "vCPU ids are those of a guest", on=Record)
def number(event: Record, stream: Stream) -> Iterator[Broken]:
    if event.name in ALL_OF_VCPU and event.body.length > HEAD and stream.guest is Guest.PV:
        identity = int(event.head["vcpu_id"])
        if identity > VCPU_ID_MAX:
            yield Broken(event.at("vcpu_id"), f"vCPU {identity:,}", f"at most {VCPU_ID_MAX:,}")


@rule("X67", ERROR, "v2-stream 15.4", "vCPU 0 has its context", on=Record, record="END")
def first_vcpu(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.PV and 0 not in stream.contexts:
        yield Broken(event.offset, "none", f"its {BASIC}")


@rule("X68", WARNING, "v2-stream 6", "a vCPU has context and extended context", on=Record, record="END")
def complete(event: Record, stream: Stream) -> Iterator[Broken]:
    for missing, lost in ((BASIC, "it stays offline"), (EXTENDED, "callback addresses are lost")):
        without = [number for number, names in stream.vcpus.items() if missing not in names]
        if missing == BASIC:
            without = [number for number in without if number]  # X67
        else:
            without = [number for number in without if BASIC in stream.vcpus[number]]
        if without:
            more = f" and {len(without) - 1} others" if len(without) > 1 else ""
            yield Broken(event.offset, f"no {missing} of vCPU {without[0]}{more}: {lost}", "one of each")


def canonical(addresses: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which addresses the processor knows, same shape: bits 63 to 47 are alike."""
    top = addresses.astype(np.int64) >> 47
    known: NDArray[np.bool_] = (top == 0) | (top == -1)
    return known
