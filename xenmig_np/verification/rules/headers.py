"""Headers of libxc and libxl streams (reference-tools.md 9.1, 9.4; v2-stream.md 3, 4, 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenmig_np.read.records import DomainHeader, ImageHeader, LibxlHeader
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.rule import Broken, Level, of_reader, rule
from xenmig_np.wire import libxc, libxl, pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
REFERENCE = Level.REFERENCE

of_reader("V1", "v2-stream 3", "a libxc stream begins with eight bytes of ff")
of_reader("V2", "v2-stream 3", "then XENF")
of_reader("V3", "v2-stream 3", "the libxc version is 2 or 3")
of_reader("V6", "v2-stream 3", "libxc streams are little-endian")
of_reader("V50", "v2-stream 11", "a libxl stream begins with LibxlFmt and version 2")
of_reader("V51", "v2-stream 11", "libxl streams are little-endian")


@rule("V4", WARNING, "v2-stream 3", "unused options are 0", on=ImageHeader, level=REFERENCE)
def image_options(event: ImageHeader, _stream: Stream) -> Iterator[Broken]:
    if event.options & ~libxc.BIG_ENDIAN_OPTION:
        yield Broken(event.at("options"), f"{event.options:#x}", "0")


@rule("V5", WARNING, "v2-stream 3", "reserved fields are 0", on=ImageHeader, level=REFERENCE)
def image_reserved(event: ImageHeader, _stream: Stream) -> Iterator[Broken]:
    for field in ("reserved1", "reserved2"):
        if value := getattr(event, field):
            yield Broken(event.at(field), f"{value:#x}", "0")


@rule("V7", ERROR, "v2-stream 4", "the domain is x86 PV or x86 HVM", on=DomainHeader, level=REFERENCE)
def domain_type(event: DomainHeader, stream: Stream) -> Iterator[Broken]:
    draft = set(libxc.DomainType) if stream.draft else set(libxc.DOMAIN_TYPE.values())
    if event.type not in draft:
        yield Broken(event.at("type"), f"type {event.type:#x}", "1 (PV) or 2 (HVM)")


@rule("V8", WARNING, "v2-stream 4", "the reserved field is 0", on=DomainHeader, level=REFERENCE)
def domain_reserved(event: DomainHeader, _stream: Stream) -> Iterator[Broken]:
    if event.reserved:
        yield Broken(event.at("reserved"), f"{event.reserved:#x}", "0")


@rule("V9", ERROR, "v2-stream 4", "pages have 4096 bytes", on=DomainHeader, level=REFERENCE)
def page_shift(event: DomainHeader, _stream: Stream) -> Iterator[Broken]:
    if event.page_shift != pages.PAGE_SHIFT:
        yield Broken(event.at("page_shift"), f"page_shift {event.page_shift}", f"{pages.PAGE_SHIFT}")


@rule("V50a", WARNING, "v2-stream 11", "unused libxl options are 0", on=LibxlHeader, level=REFERENCE)
def libxl_options(event: LibxlHeader, _stream: Stream) -> Iterator[Broken]:
    known = libxl.BIG_ENDIAN_OPTION | libxl.CONVERTED_OPTION
    if event.options & ~known:
        yield Broken(event.at("options"), f"{event.options:#x}", f"{known & event.options:#x}")
