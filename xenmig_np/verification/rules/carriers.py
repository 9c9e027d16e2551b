"""What libvirt and XenServer put round a stream, against the stream in it (containers.md 3, 4, 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from xenmig_np.carriers.libvirt import LibvirtHeader
from xenmig_np.carriers.recognise import CARRIER_BY_NAME
from xenmig_np.carriers.xapi import StructuredHeader
from xenmig_np.errors import NotSupported
from xenmig_np.limits import MIB
from xenmig_np.read.records import EndOfStream, ImageHeader, LibxlHeader, field_offset
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.rule import Broken, rule
from xenmig_np.wire import libvirt, xapi
from xenmig_np.wire.legacy import Guest
from xenmig_np.wire.xapi import RECORD_BY_TYPE, RecordType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.carriers.xapi import Record
    from xenmig_np.verification.state import Stream

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
First: TypeAlias = LibxlHeader | ImageHeader
HOLDERS: Final = frozenset({"bare", "xl", "libvirt", "xapi2"})
"""Carriers that v2 streams are restored from."""
QEMU_MAX: Final = MIB
"""Bytes of a device model's state that xenopsd reads."""


def libvirt_header(event: First, stream: Stream) -> LibvirtHeader | None:
    """The header, at the first event of the stream behind it."""
    header = stream.header_before(event)
    return header if isinstance(header, LibvirtHeader) else None


def structured_header(event: First, stream: Stream) -> StructuredHeader | None:
    """As :func:`libvirt_header`."""
    header = stream.header_before(event)
    return header if isinstance(header, StructuredHeader) else None


@rule("X129", ERROR, "containers 3.2", "the libvirt header has the version of v2 streams", on=First)
def libvirt_version(event: First, stream: Stream) -> Iterator[Broken]:
    header = libvirt_header(event, stream)
    if header and header.mislabelled:
        offset = header.at + field_offset(libvirt.HEADER, "version")
        found = f"{header.version}, that of legacy images: no libvirt restores the file until it is repaired"
        yield Broken(offset, found, f"{libvirt.VERSION_V2}")


@rule("X130", WARNING, "containers 3.1", "the domain XML ends with its NUL", on=First)
def xml_end(event: First, stream: Stream) -> Iterator[Broken]:
    header = libvirt_header(event, stream)
    if header and not header.config.endswith(b"\0"):
        yield Broken(header.at + header.length - 1, f"{header.config[-1:]!r}", "NUL")


@rule("X131", WARNING, "containers 3.1", "unused bytes of the libvirt header are 0", on=First)
def libvirt_unused(event: First, stream: Stream) -> Iterator[Broken]:
    header = libvirt_header(event, stream)
    if header and any(header.unused):
        yield Broken(header.at + field_offset(libvirt.HEADER, "unused"), "others", "zeros")


@rule("X132", WARNING, "containers 9.4", "libvirt restores libxl streams", on=ImageHeader)
def libxl_behind_libvirt(event: ImageHeader, stream: Stream) -> Iterator[Broken]:
    if libvirt_header(event, stream):
        yield Broken(event.offset, "a libxc stream behind the libvirt header", "a libxl stream")


@rule("X133", ERROR, "containers 9.4", "the carrier is one that streams are restored from", on=First)
def holder(event: First, stream: Stream) -> Iterator[Broken]:
    header = stream.header_before(event)
    if header and stream.carried and stream.carried.carrier not in HOLDERS:
        title = CARRIER_BY_NAME[stream.carried.carrier].title
        found = f"{title}, which holds legacy images"
        yield Broken(stream.carried.at - header.length, found, "one of xl, libvirt or XenServer since 2014")


@rule("X134", NOTE, "containers 9.1", "nothing precedes carrier and stream", on=First)
def preamble(event: First, stream: Stream) -> Iterator[Broken]:
    if stream.carried and stream.is_first(event):
        begin = stream.carried.at - (stream.carried.header.length if stream.carried.header else 0)
        if count := begin - stream.source.start:
            yield Broken(stream.source.start, f"{count} bytes of a migration that was captured", "none")


# ---- records of XenServer --------------------------------------------------------------------------------


@rule("X135", ERROR, "containers 4.2", "the record that holds the stream says of which kind it is", on=First)
def kind(event: First, stream: Stream) -> Iterator[Broken]:
    if header := structured_header(event, stream):
        record = header.records[-1]
        layer = "libxl" if isinstance(event, LibxlHeader) else "libxc"
        if record.type is not RecordType.LIBXC or layer != RECORD_BY_TYPE[record.type].stream:
            yield Broken(record.offset, f"{record.name} with a {layer} stream", "Libxc with a libxc stream")


@rule("X136", WARNING, "containers 4.2", "the record that holds the stream has length 0", on=First)
def holder_length(event: First, stream: Stream) -> Iterator[Broken]:
    header = structured_header(event, stream)
    if header and header.records[-1].length:
        record = header.records[-1]
        offset = record.offset + field_offset(xapi.RECORD_HEAD, "length")
        yield Broken(offset, f"{record.length:,}", "0: the stream ends by itself")


@rule("X137", WARNING, "containers 4.2", "the first record is Xenops", on=First)
def xenops(event: First, stream: Stream) -> Iterator[Broken]:
    header = structured_header(event, stream)
    if header and (first := header.records[0]).type is not RecordType.XENOPS:
        yield Broken(first.offset, first.name, "Xenops")


@rule("X138", ERROR, "containers 4.2", "records up to End_of_image follow the stream", on=EndOfStream)
def records(event: EndOfStream, stream: Stream) -> Iterator[Broken]:
    failure = stream.behind.failure if stream.behind else None
    if failure and not isinstance(failure, NotSupported):
        offset = failure.offset if failure.offset is not None else event.offset
        yield Broken(offset, failure.found or failure.message, failure.expected or "")


@rule("X139", NOTE, "containers 4.2", "all records behind the stream can be looked at", on=EndOfStream)
def readable(event: EndOfStream, stream: Stream) -> Iterator[Broken]:
    failure = stream.behind.failure if stream.behind else None
    if isinstance(failure, NotSupported):
        offset = failure.offset if failure.offset is not None else event.offset
        yield Broken(offset, failure.message, "records that say how long they are")


@rule("X140", ERROR, "containers 9.4", "an HVM guest has a record Qemu_trad", on=EndOfStream)
def qemu(event: EndOfStream, stream: Stream) -> Iterator[Broken]:
    if stream.guest is Guest.HVM and stream.all_records and not _of_qemu(stream):
        yield Broken(event.offset, "none: no xenopsd resumes the guest", "one behind the stream")


@rule(
    "X141", WARNING, "containers 9.4", "there is one record Qemu_trad, and none of a PV guest", on=EndOfStream
)
def one_qemu(_event: EndOfStream, stream: Stream) -> Iterator[Broken]:
    allowed = 0 if stream.guest is Guest.PV else 1
    for record in _of_qemu(stream)[allowed:]:
        yield Broken(record.offset, record.name, f"{allowed} of them")


@rule("X142", ERROR, "containers 4.2", "xenopsd reads a record Qemu_trad", on=EndOfStream)
def qemu_length(_event: EndOfStream, stream: Stream) -> Iterator[Broken]:
    for record in _of_qemu(stream):
        if record.length > QEMU_MAX:
            offset = record.offset + field_offset(xapi.RECORD_HEAD, "length")
            yield Broken(offset, f"{record.length:,} bytes", f"at most {QEMU_MAX:,}")


def _of_qemu(stream: Stream) -> list[Record]:
    return [record for record in stream.all_records if record.type is RecordType.QEMU_TRAD]
