"""Order and number of libxc records (v2-stream.md 6, 13, 15; xen-restore-behaviour.md 79 to 105).

Where records repeat behind a CHECKPOINT, that is what checkpoints are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.read.records import Record
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.rule import Broken, rule
from xenmig_np.wire import libxc
from xenmig_np.wire.legacy import Guest
from xenmig_np.wire.libxc import RECORD_BY_TYPE
from xenmig_np.wire.vcpu import CONTEXT_32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
DYNAMIC: Final = ("PAGE_DATA", "X86_PV_P2M_FRAMES")
"""Records that end the static data: a reader of version 2 takes the first one for STATIC_DATA_END."""
POLICIES: Final = ("X86_CPUID_POLICY", "X86_MSR_POLICY")
NEEDS: Final = {
    (Guest.PV, "X86_PV_P2M_FRAMES"): "X86_PV_INFO",
    (Guest.PV, "SHARED_INFO"): "X86_PV_INFO",
    (Guest.PV, "PAGE_DATA"): "X86_PV_P2M_FRAMES",
}
"""Records that cannot be taken before another one."""


def any_of(names: tuple[str, ...], stream: Stream) -> bool:
    return any(stream.records[name] for name in names)


# ---- static data -----------------------------------------------------------------------------------------


@rule("X10", ERROR, "v2-stream 15.6", "version 3 has STATIC_DATA_END before memory", on=Record)
def static_data_end(event: Record, stream: Stream) -> Iterator[Broken]:
    """At the first record that would need it, or at the end of a stream without any."""
    if stream.version < libxc.VERSION_414 or stream.records["STATIC_DATA_END"] or any_of(DYNAMIC, stream):
        return
    if event.name in DYNAMIC or event.name == "END":
        yield Broken(event.offset, event.name, "STATIC_DATA_END before")


@rule("X11", ERROR, "v2-stream 15.6", "STATIC_DATA_END comes once", on=Record, record="STATIC_DATA_END")
def static_data_end_again(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.records["STATIC_DATA_END"]:
        yield Broken(event.offset, "another one")
    elif stream.version < libxc.VERSION_414 and any_of(DYNAMIC, stream):
        yield Broken(event.offset, "one behind memory", "none: version 2 implies it there")


@rule("X12", WARNING, "v2-stream 13", "X86_PV_INFO is static data", on=Record, record="X86_PV_INFO")
def pv_info_static(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.records["STATIC_DATA_END"]:
        yield Broken(event.offset, "it behind STATIC_DATA_END")


@rule("X13", ERROR, "v2-stream 15.6", "policies stand in the static data", on=Record)
def policy_static(event: Record, stream: Stream) -> Iterator[Broken]:
    if event.name in POLICIES and any_of(("STATIC_DATA_END", *DYNAMIC), stream):
        yield Broken(event.offset, "it behind the static data: it is never applied")


@rule("X14", WARNING, "v2-stream 6", "a policy comes once", on=Record)
def policy_again(event: Record, stream: Stream) -> Iterator[Broken]:
    if event.name in POLICIES and stream.records[event.name] == 1:
        yield Broken(event.offset, "another one: the last is applied")


# ---- guests and dependencies -----------------------------------------------------------------------------


@rule("X15", ERROR, "v2-stream 15.2", "a record is one of this kind of guest", on=Record)
def guest(event: Record, stream: Stream) -> Iterator[Broken]:
    row = RECORD_BY_TYPE.get(event.type)
    if row and stream.guest and not row.guests & stream.guest:
        yield Broken(event.offset, event.name, f"records of {stream.guest.name} guests")


@rule("X16", ERROR, "v2-stream 13", "a record comes behind what it needs", on=Record)
def dependency(event: Record, stream: Stream) -> Iterator[Broken]:
    needed = NEEDS.get((stream.guest, event.name)) if stream.guest else None
    if needed and not stream.records[needed] and not stream.records[event.name]:
        yield Broken(event.offset, event.name, f"{needed} before")


@rule(
    "X17",
    ERROR,
    "v2-stream 15.4",
    "32-bit vCPUs come behind X86_PV_INFO",
    on=Record,
    record="X86_PV_VCPU_BASIC",
)
def early_vcpu_32(event: Record, stream: Stream) -> Iterator[Broken]:
    if _early(event, stream) and event.body.length == libxc.VCPU.itemsize + CONTEXT_32.itemsize:
        yield Broken(event.offset, event.name, "X86_PV_INFO before")


@rule("X18", WARNING, "v2-stream 13", "vCPUs come behind X86_PV_INFO", on=Record, record="X86_PV_VCPU_BASIC")
def early_vcpu(event: Record, stream: Stream) -> Iterator[Broken]:
    if _early(event, stream) and event.body.length != libxc.VCPU.itemsize + CONTEXT_32.itemsize:
        yield Broken(event.offset, event.name, "X86_PV_INFO before")


def _early(event: Record, stream: Stream) -> bool:
    alone = not any_of(("X86_PV_INFO", event.name), stream)
    return stream.guest is Guest.PV and alone


# ---- memory, verify mode, checkpoints --------------------------------------------------------------------


@rule("X19", ERROR, "xen-restore-behaviour 150", "the guest has memory", on=Record, record="END")
def memory(event: Record, stream: Stream) -> Iterator[Broken]:
    if not stream.pages:
        yield Broken(event.offset, f"{stream.records['PAGE_DATA']:,} PAGE_DATA records without a page")


@rule("X20", ERROR, "v2-stream 18", "VERIFY comes behind memory", on=Record, record="VERIFY")
def verify_first(event: Record, stream: Stream) -> Iterator[Broken]:
    if not stream.pages:
        yield Broken(event.offset, "no page before", "all: those behind are compared only")


@rule("X21", WARNING, "v2-stream 6", "VERIFY comes once", on=Record, record="VERIFY")
def verify_again(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.records["VERIFY"] == 1:
        yield Broken(event.offset, "another one")


@rule("X22", ERROR, "v2-stream 15.7", "a saved guest has no checkpoints", on=Record, record="CHECKPOINT")
def checkpoint(event: Record, stream: Stream) -> Iterator[Broken]:
    if not stream.records["CHECKPOINT"]:
        yield Broken(event.offset, "CHECKPOINT", "none, unless the toolstack takes part in Remus or COLO")
