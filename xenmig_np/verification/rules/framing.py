"""Framing of records of both layers (reference-tools.md 9.2, 9.4; v2-stream.md 5, 15.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenmig_np.read.records import LibxlRecord, Record
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.releases import until
from xenmig_np.verification.rule import Broken, Level, of_reader, rule
from xenmig_np.wire import libxc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.verification.state import Stream

of_reader("V10", "v2-stream 6", "a record has a known type, or is optional")
of_reader("V11", "v2-stream 5", "header, records and END are complete")
of_reader("V52", "v2-stream 12", "a libxl record has a known type")
of_reader("V53", "v2-stream 12", "libxl header, records and END are complete")
of_reader("X1", "v2-stream 5", "a record has at most 128 MiB", level=Level.RESTORE)


@rule("V12", Severity.WARNING, "v2-stream 5", "padding is zero", on=Record, level=Level.REFERENCE)
@rule("V53a", Severity.WARNING, "v2-stream 12", "padding is zero", on=LibxlRecord, level=Level.REFERENCE)
def padding(event: Record | LibxlRecord, _stream: Stream) -> Iterator[Broken]:
    if any(event.padding):
        yield Broken(event.body.offset + event.body.length, event.padding.hex(" "), "zeros")


@rule("X2", Severity.WARNING, "v2-stream 15.2", "a record fits the limit of its reader", on=Record)
def length(event: Record, _stream: Stream) -> Iterator[Broken]:
    if event.body.length > libxc.RECORD_MAX_46:
        yield Broken(
            event.offset,
            f"{event.body.length:,} bytes",
            f"at most {libxc.RECORD_MAX_46:,}",
            refused_by=until("4.9"),
        )


@rule("X3", Severity.NOTE, "v2-stream 5", "no optional record was ever defined", on=Record, record="OPTIONAL")
def optional(event: Record, _stream: Stream) -> Iterator[Broken]:
    yield Broken(event.offset, f"type {event.type:#x}, {event.body.length:,} bytes", "none: Xen skips it")
