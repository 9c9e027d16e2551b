"""Records with an empty or opaque body, and those of some numberings or releases only.

See reference-tools.md 9.3 and v2-stream.md 6, 15.2, 17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np import limits
from xenmig_np.read.records import ImageHeader, Record, field_offset
from xenmig_np.read.v2 import UNREAD
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.releases import since, until
from xenmig_np.verification.rule import Broken, Level, rule
from xenmig_np.wire import libxc
from xenmig_np.wire.legacy import TSC_MODE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.read.records import AnyLayerRecord
    from xenmig_np.verification.releases import Releases
    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
REFERENCE = Level.REFERENCE
BEFORE_V3: Final = until("4.13")
PVRDTSCP: Final = 3
"""A TSC mode of Xen up to 4.11."""
UNITS: Final = {
    "X86_CPUID_POLICY": libxc.CPUID_LEAF.itemsize,
    "X86_MSR_POLICY": libxc.MSR_ENTRY.itemsize,
}


def length_at(event: AnyLayerRecord) -> int:
    """Offset of a record's length in the input."""
    return event.offset + field_offset(libxc.RECORD_HEADER, "length")


def _empty(event: Record) -> Iterator[Broken]:
    if event.body.length:
        yield Broken(length_at(event), f"{event.body.length:,} bytes", "none: they are dropped")


@rule("V20", WARNING, "v2-stream 7.1", "END is empty", on=Record, record="END", level=REFERENCE)
@rule("V40", WARNING, "v2-stream 7.12", "VERIFY is empty", on=Record, record="VERIFY", level=REFERENCE)
@rule(
    "V41", WARNING, "v2-stream 7.12", "CHECKPOINT is empty", on=Record, record="CHECKPOINT", level=REFERENCE
)
@rule(
    "V43",
    WARNING,
    "v2-stream 7.12",
    "STATIC_DATA_END is empty",
    on=Record,
    record="STATIC_DATA_END",
    level=REFERENCE,
)
def empty(event: Record, _stream: Stream) -> Iterator[Broken]:
    yield from _empty(event)


@rule("V39", ERROR, "v2-stream 6", "TOOLSTACK was withdrawn", on=Record, record="TOOLSTACK", level=REFERENCE)
def toolstack(event: Record, stream: Stream) -> Iterator[Broken]:
    if not stream.draft:
        yield Broken(event.offset, "TOOLSTACK", "none: no released Xen takes it")


@rule(
    "V42",
    ERROR,
    "v2-stream 6",
    "CHECKPOINT_DIRTY_PFN_LIST goes back to the sender",
    on=Record,
    record="CHECKPOINT_DIRTY_PFN_LIST",
    level=REFERENCE,
)
def dirty_pfn_list(event: Record, _stream: Stream) -> Iterator[Broken]:
    yield Broken(event.offset, "it in a stream", "none")


@rule(
    "V43a",
    WARNING,
    "v2-stream 15.6",
    "STATIC_DATA_END belongs to version 3",
    on=Record,
    record="STATIC_DATA_END",
    level=REFERENCE,
)
@rule(
    "V44a",
    WARNING,
    "v2-stream 15.6",
    "X86_CPUID_POLICY belongs to version 3",
    on=Record,
    record="X86_CPUID_POLICY",
    level=REFERENCE,
)
@rule(
    "V44b",
    WARNING,
    "v2-stream 15.6",
    "X86_MSR_POLICY belongs to version 3",
    on=Record,
    record="X86_MSR_POLICY",
    level=REFERENCE,
)
def version_3(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.version < libxc.VERSION_414:
        found = f"it in version {stream.version}"
        yield Broken(event.offset, found, "none", _of_interest(BEFORE_V3, stream))


def _of_interest(refused_by: Releases, stream: Stream) -> Releases | None:
    """None, which leaves the rule's own severity, where the release asked for takes it all the same."""
    return refused_by if stream.release is None or stream.release in refused_by else None


@rule("V44", ERROR, "v2-stream 7.10, 7.11", "a policy consists of whole entries", on=Record, level=REFERENCE)
def policy_length(event: Record, _stream: Stream) -> Iterator[Broken]:
    unit = UNITS.get(event.name)
    if unit and (not event.body.length or event.body.length % unit):
        yield Broken(length_at(event), f"{event.body.length:,} bytes", f"a multiple of {unit}, not 0")


@rule("V10a", ERROR, "v2-stream 6", "the draft knows the record", on=Record, level=REFERENCE)
def draft(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.draft and libxc.RecordType.VERIFY < event.type < libxc.OPTIONAL:
        yield Broken(event.offset, event.name, f"types up to {libxc.RecordType.VERIFY:#x}")


@rule("X23", WARNING, "v2-stream 5", "no known record is optional", on=Record, record="OPTIONAL")
def known_optional(event: Record, _stream: Stream) -> Iterator[Broken]:
    number = event.type & ~libxc.OPTIONAL
    if number in set(libxc.RecordType):
        name = libxc.RecordType(number).name
        yield Broken(event.offset, f"type {event.type:#x}: Xen skips it", f"{number:#x} ({name})")


@rule("X24", WARNING, "v2-stream 15.2", "a body is of a size that savers write", on=Record)
def body_size(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.data is None and event.name not in UNREAD:
        most = f"at most {limits.BODY_MAX:,}"
        yield Broken(length_at(event), f"{event.body.length:,} bytes, not looked at", most)


@rule("X25", WARNING, "v2-stream 17", "the release takes the version", on=ImageHeader)
def version(event: ImageHeader, stream: Stream) -> Iterator[Broken]:
    if event.version >= libxc.VERSION_414 and stream.release in BEFORE_V3:
        yield Broken(event.at("version"), f"version {event.version}", f"{libxc.VERSION_46}", BEFORE_V3)


# ---- TSC -------------------------------------------------------------------------------------------------


@rule("V36", ERROR, "v2-stream 7.7", "its length is fixed", on=Record, record="X86_TSC_INFO", level=REFERENCE)
def tsc_length(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.body.length != libxc.TSC_INFO.itemsize:
        yield Broken(length_at(event), f"{event.body.length:,} bytes", f"{libxc.TSC_INFO.itemsize}")


@rule(
    "V36a",
    WARNING,
    "v2-stream 7.7",
    "the reserved field is 0",
    on=Record,
    record="X86_TSC_INFO",
    level=REFERENCE,
)
def tsc_reserved(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.head is not None and (value := int(event.head["reserved"])):
        yield Broken(event.at("reserved"), f"{value:#x}", "0")


@rule("X105", ERROR, "v2-stream 7.7", "the TSC mode is one of 0 to 2", on=Record, record="X86_TSC_INFO")
def tsc_mode(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.head is None:
        return
    mode = int(event.head["mode"])
    if mode > TSC_MODE_MAX:
        refused_by = since("4.12") if mode == PVRDTSCP else None
        yield Broken(event.at("mode"), f"mode {mode}", f"at most {TSC_MODE_MAX}", refused_by)


@rule("X106", WARNING, "xen-restore-behaviour 271", "TSC state is there", on=Record, record="END")
def tsc_missing(event: Record, stream: Stream) -> Iterator[Broken]:
    if not stream.records["X86_TSC_INFO"]:
        yield Broken(event.offset, "no X86_TSC_INFO: the guest's TSC starts anew")


@rule("X107", WARNING, "v2-stream 6", "TSC state comes once", on=Record, record="X86_TSC_INFO")
def tsc_again(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.records["X86_TSC_INFO"] == 1 and not stream.records["CHECKPOINT"]:
        yield Broken(event.offset, "another one: the last is applied")
