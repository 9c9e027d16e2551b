"""HVM_PARAMS, and whether an HVM guest has all its records.

See v2-stream.md 7.9, 9, 15.5 and xen-restore-behaviour.md 299 to 325.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.read.records import PageData, Record
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.releases import ALL, since
from xenmig_np.verification.rule import Broken, Level, rule
from xenmig_np.verification.rules.misc import length_at
from xenmig_np.verification.state import parameters
from xenmig_np.wire import hvm, libxc, pages
from xenmig_np.wire.hvm import HvmParam
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
REFERENCE = Level.REFERENCE
PARAMS: Final = "HVM_PARAMS"
FEW: Final = 4
"""Places that are told of one record and rule."""

VALUES: Final[dict[int, tuple[str, Callable[[int], bool]]]] = {
    HvmParam.VIRIDIAN: (
        "its base bit and known features",
        lambda value: bool(value & hvm.VIRIDIAN_BASE) and not value & ~hvm.VIRIDIAN_FEATURES,
    ),
    HvmParam.TIMER_MODE: (f"at most {hvm.TIMER_MODE_MAX}", lambda value: value <= hvm.TIMER_MODE_MAX),
    HvmParam.ACPI_S_STATE: ("0 or 3", lambda value: value in {0, 3}),
    HvmParam.VM86_TSS: ("an address below 4 GiB", lambda value: not value >> 32),
    HvmParam.ACPI_IOPORTS_LOCATION: ("0 or 1", lambda value: value <= 1),
    HvmParam.TRIPLE_FAULT_REASON: (
        f"at most {hvm.TRIPLE_FAULT_MAX}",
        lambda value: value <= hvm.TRIPLE_FAULT_MAX,
    ),
    HvmParam.NR_IOREQ_SERVER_PAGES: (
        f"1 to {hvm.IOREQ_PAGES_MAX}",
        lambda value: 0 < value <= hvm.IOREQ_PAGES_MAX,
    ),
    HvmParam.ALTP2M: (f"at most {hvm.ALTP2M_MAX}", lambda value: value <= hvm.ALTP2M_MAX),
    HvmParam.X87_FIP_WIDTH: ("0, 4 or 8", lambda value: value in {0, 4, 8}),
    HvmParam.VM86_TSS_SIZED: (
        f"a size of at least {hvm.TSS_SIZE}",
        lambda value: value >> 32 >= hvm.TSS_SIZE,
    ),
    HvmParam.MCA_CAP: (f"bits in {hvm.MCA_CAPS:#x}", lambda value: not value & ~hvm.MCA_CAPS),
}
"""What the hypervisor takes, in words and as a test."""


def named(index: int) -> str:
    return HvmParam(index).name if index in set(HvmParam) else f"parameter {index:#x}"


# ---- form ------------------------------------------------------------------------------------------------


@rule(
    "V38",
    ERROR,
    "v2-stream 7.9",
    "a record has room for its entries",
    on=Record,
    record=PARAMS,
    level=REFERENCE,
)
def length(event: Record, _stream: Stream) -> Iterator[Broken]:
    count = 0 if event.head is None else int(event.head["count"])
    wanted = libxc.HVM_PARAMS.itemsize + count * libxc.HVM_PARAM.itemsize
    if event.body.length != wanted:
        yield Broken(length_at(event), f"{event.body.length:,} bytes", f"{wanted:,} for {count:,} entries")


@rule("V38a", WARNING, "v2-stream 7.9", "the reserved field is 0", on=Record, record=PARAMS, level=REFERENCE)
def reserved(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.head is not None and (value := int(event.head["reserved"])):
        yield Broken(event.at("reserved"), f"{value:#x}", "0")


@rule("X84", WARNING, "v2-stream 15.5", "HVM_PARAMS has entries", on=Record, record=PARAMS)
def count(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.head is not None and not event.head["count"]:
        yield Broken(event.at("count"), "0", "at least 1")


# ---- entries ---------------------------------------------------------------------------------------------


@rule("X85", ERROR, "v2-stream 9", "a parameter number is known", on=Record, record=PARAMS)
def known(event: Record, _stream: Stream) -> Iterator[Broken]:
    yield from islice(_unknown(event), FEW)


def _unknown(event: Record) -> Iterator[Broken]:
    for at, index, _ in parameters(event):
        if index >= hvm.PARAMS_END:
            yield Broken(at, _number(index), f"at most {hvm.PARAMS_END - 1}")
        elif first := hvm.PARAM_SINCE.get(index):
            yield Broken(at, named(index), f"Xen {first} or later", ALL - since(first))


def _number(index: int) -> str:
    cut = index % (1 << hvm.PARAM_INDEX_BITS)
    return f"{index:#x}" + (f", which acts as {named(cut)}" if cut != index else "")


@rule("X86", ERROR, "v2-stream 9", "a parameter can be set", on=Record, record=PARAMS)
def settable(event: Record, _stream: Stream) -> Iterator[Broken]:
    wrong = (Broken(at, named(index)) for at, index, _ in parameters(event) if index in hvm.PARAMS_OBSOLETE)
    yield from islice(wrong, FEW)


@rule("X87", WARNING, "xen-restore-behaviour 313", "a parameter means something", on=Record, record=PARAMS)
def unused(event: Record, _stream: Stream) -> Iterator[Broken]:
    wrong = (Broken(at, named(index)) for at, index, _ in parameters(event) if index in hvm.PARAMS_UNUSED)
    yield from islice(wrong, FEW)


@rule("X88", ERROR, "xen-restore-behaviour 318", "a parameter's value is legal", on=Record, record=PARAMS)
def values(event: Record, stream: Stream) -> Iterator[Broken]:
    """Numbers from 32 on mean something else in the draft."""
    wrong = (
        Broken(at + 8, f"{named(index)} = {value:#x}", VALUES[index][0])
        for at, index, value in parameters(event)
        if index in VALUES and not (stream.draft and index >= HvmParam.IOREQ_SERVER_PFN)
        if not VALUES[index][1](value)
    )
    yield from islice(wrong, FEW)


@rule(
    "X89", ERROR, "v2-stream 15.5", "a parameter that is set once keeps its value", on=Record, record=PARAMS
)
def once(event: Record, stream: Stream) -> Iterator[Broken]:
    wrong = (
        Broken(at + 8, f"{named(index)} = {value:#x}", f"{before:#x} as before")
        for at, index, value, before in _changes(event, stream)
        if before and index in hvm.PARAMS_ONCE
    )
    yield from islice(wrong, FEW)


@rule("X90", WARNING, "xen-restore-behaviour 314", "a parameter has one value", on=Record, record=PARAMS)
def again(event: Record, stream: Stream) -> Iterator[Broken]:
    wrong = (
        Broken(at + 8, f"{named(index)} = {value:#x}", f"{before:#x} as before, or the last is applied")
        for at, index, value, before in _changes(event, stream)
        if not (before and index in hvm.PARAMS_ONCE)
    )
    yield from islice(wrong, FEW)


def _changes(event: Record, stream: Stream) -> Iterator[tuple[int, int, int, int]]:
    """Offset, number, value and former value of each entry that changes a parameter."""
    if stream.records["CHECKPOINT"]:
        return
    former = {index: values[-1] for index, values in stream.params.items()}
    for at, index, value in parameters(event):
        if former.setdefault(index, value) != value:
            yield at, index, value, former[index]
        former[index] = value


# ---- the pages that parameters name ----------------------------------------------------------------------


@rule("X91", WARNING, "v2-stream 15.5", "frame 0 is no ring page", on=Record, record=PARAMS)
def frame_0(event: Record, _stream: Stream) -> Iterator[Broken]:
    wrong = (
        Broken(at + 8, f"{named(index)} = 0: restore empties frame 0")
        for at, index, value in parameters(event)
        if index in hvm.PARAMS_CLEARED and not value
    )
    yield from islice(wrong, FEW)


@rule("X83", WARNING, "xen-restore-behaviour 324", "ring pages come before the parameters", on=PageData)
def stale_ring(event: PageData, stream: Stream) -> Iterator[Broken]:
    """Frame 0 is told already, and pages behind VERIFY are compared only."""
    rings = [stream.params[index][-1] for index in hvm.PARAMS_CLEARED if index in stream.params]
    if stream.records["VERIFY"] or stream.records["CHECKPOINT"] or not any(rings):
        return
    stale = np.isin(event.pfns, np.array([ring for ring in rings if ring], np.uint64))
    stale &= pages.HAS_DATA[event.types]
    if stale.any():
        at = int(stale.argmax())
        yield Broken(
            event.word_offset(at), f"pfn {int(event.pfns[at]):#x}", "it before HVM_PARAMS empties it"
        )


@rule("X92", ERROR, "xen-restore-behaviour 323", "store and console pages are there", on=Record, record="END")
def ring_pages(_event: Record, stream: Stream) -> Iterator[Broken]:
    yield from _not_there(stream, (HvmParam.STORE_PFN, HvmParam.CONSOLE_PFN))


@rule("X93", WARNING, "v2-stream 15.5", "ioreq pages are there", on=Record, record="END")
def ioreq_pages(_event: Record, stream: Stream) -> Iterator[Broken]:
    yield from _not_there(stream, (HvmParam.IOREQ_PFN, HvmParam.BUFIOREQ_PFN))


def _not_there(stream: Stream, params: tuple[HvmParam, ...]) -> Iterator[Broken]:
    for param in params:
        value = stream.params.get(param, [0])[-1]
        if value and not stream.populated.contains(np.array([value], np.uint64))[0]:
            yield Broken(stream.param_at[param] + 8, f"{param.name} = {value:#x}", "a pfn of the guest")


# ---- what an HVM guest needs -----------------------------------------------------------------------------


@rule("X80", ERROR, "v2-stream 15.5", "an HVM guest has a context", on=Record, record="END")
def context_missing(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.HVM and not stream.records["HVM_CONTEXT"]:
        yield Broken(event.offset, "no HVM_CONTEXT")


@rule("X82", ERROR, "xen-restore-behaviour 299", "an HVM guest has parameters", on=Record, record="END")
def params_missing(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.HVM and not stream.records[PARAMS]:
        yield Broken(event.offset, "no HVM_PARAMS: xenstore does not work")


@rule("X94", WARNING, "xen-restore-behaviour 325", "STORE_PFN is set", on=Record, record="END")
def store_missing(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.params and HvmParam.STORE_PFN not in stream.params:
        yield Broken(event.offset, "no STORE_PFN: the toolstack is told frame 0")


@rule(
    "X95", WARNING, "v2-stream 14", "IOREQ_SERVER_PFN comes with its number of pages", on=Record, record="END"
)
def ioreq_pair(_event: Record, stream: Stream) -> Iterator[Broken]:
    """Alone it is probably the generation id in the numbering of the draft."""
    pair = (HvmParam.IOREQ_SERVER_PFN, HvmParam.NR_IOREQ_SERVER_PAGES)
    there = [param for param in pair if any(stream.params.get(param, []))]
    if len(there) == 1 and not stream.draft:
        draft = there[0] is HvmParam.IOREQ_SERVER_PFN and stream.domain and not stream.domain.xen_major
        hint = ": a generation id in the numbering of draft-v7?" if draft else ""
        yield Broken(stream.param_at[there[0]], f"{there[0].name} alone{hint}", "both or none")
