"""The header that xl puts before a stream, against what follows it (v2-stream.md 10; containers.md 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.read.records import ImageHeader, LibxlHeader, LibxlRecord, NumberingName, field_offset
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.rule import Broken, rule
from xenmig_np.wire import xl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.carriers.xl import XlHeader
    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
KNOWN: Final = xl.FLAG_JSON | xl.FLAG_STREAM_V2
FOLLOWS: Final = {NumberingName.RELEASED: xl.FLAG_STREAM_V2, NumberingName.DRAFT_V7: xl.FLAG_JSON}
"""The flag that says that a stream follows, in each numbering."""


def field_at(header: XlHeader, field: str) -> int:
    """Offset of a field of the header in the input."""
    return header.at + field_offset(xl.HEADER, field)


def config_at(header: XlHeader) -> int:
    """Offset of the configuration in the input."""
    return header.at + xl.HEADER.itemsize + xl.CONFIG_LENGTH.itemsize


def first_of(event: LibxlRecord, stream: Stream) -> XlHeader | None:
    """The header, at the first record of the libxl stream behind it: the numbering is known there."""
    return None if stream.libxl_records or event.numbering is NumberingName.UNKNOWN else stream.xl


@rule("X120", ERROR, "containers 1.2", "xl knows the mandatory flags", on=LibxlHeader)
def mandatory_flags(_event: LibxlHeader, stream: Stream) -> Iterator[Broken]:
    if stream.xl and (unknown := stream.xl.mandatory_flags & ~KNOWN):
        yield Broken(field_at(stream.xl, "mandatory_flags"), f"{unknown:#x} set", f"no more than {KNOWN:#x}")


@rule("X121", WARNING, "containers 1.1", "optional flags are 0", on=LibxlHeader)
def optional_flags(_event: LibxlHeader, stream: Stream) -> Iterator[Broken]:
    if stream.xl and stream.xl.optional_flags:
        yield Broken(field_at(stream.xl, "optional_flags"), f"{stream.xl.optional_flags:#x}", "0")


@rule("X122", ERROR, "v2-stream 10", "the flags say that a stream follows", on=LibxlRecord)
def stream_flag(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    header = first_of(event, stream)
    if header and not header.mandatory_flags & (wanted := FOLLOWS[event.numbering]):
        found = f"mandatory flags {header.mandatory_flags:#x}: a legacy image"
        yield Broken(field_at(header, "mandatory_flags"), found, f"{header.mandatory_flags | wanted:#x}")


@rule("X123", ERROR, "containers 1.2", "the flags say of which kind the configuration is", on=LibxlRecord)
def json_flag(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    header = first_of(event, stream)
    if header and header.config and event.numbering is NumberingName.RELEASED:
        said = "json" if header.mandatory_flags & xl.FLAG_JSON else "text"
        if said != header.config_kind:
            yield Broken(field_at(header, "mandatory_flags"), f"{said}, then {header.config_kind}", said)


@rule("X124", WARNING, "containers 1.3", "a JSON configuration ends with its NUL", on=LibxlRecord)
def json_end(event: LibxlRecord, stream: Stream) -> Iterator[Broken]:
    header = first_of(event, stream)
    if header and header.config_kind == "json" and not header.config.endswith(b"\0"):
        end = config_at(header) + len(header.config)
        yield Broken(end - 1, f"{header.config[-1:]!r}", "NUL: xl reads on to the next one")


@rule("X125", WARNING, "containers 1.3", "the configuration of the guest is there", on=LibxlHeader)
def config(_event: LibxlHeader, stream: Stream) -> Iterator[Broken]:
    if stream.xl and not stream.xl.config:
        offset = field_at(stream.xl, "optional_data_len")
        yield Broken(offset, "none", "one, or a file to name at xl restore")


@rule("X126", WARNING, "v2-stream 19.11", "xl restores libxl streams", on=ImageHeader)
def libxl_behind_xl(event: ImageHeader, stream: Stream) -> Iterator[Broken]:
    if stream.xl and not stream.libxl:
        yield Broken(event.offset, "a libxc stream behind the xl header", "a libxl stream")
