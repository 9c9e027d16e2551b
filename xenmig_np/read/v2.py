"""Reads libxc streams of versions 2 and 3, and libxl streams round them (v2-stream.md 2 to 16).

One pass, forward only, pages and bodies stepped over. An error is what leaves a reader without a way on, or
a record without a meaning; all else is told as it stands, for a verifier to judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import InvalidImage, NotSupported
from xenmig_np.io.cursor import Cursor
from xenmig_np.io.source import ReplayExhausted
from xenmig_np.options import Format, GuestName
from xenmig_np.read.pfnset import run_of
from xenmig_np.read.places import Extent
from xenmig_np.read.records import (
    OPTIONAL_NAME,
    AnyRecord,
    DomainHeader,
    EndOfStream,
    ImageHeader,
    LibxlHeader,
    LibxlRecord,
    NumberingName,
    PageData,
    Record,
    field_offset,
)
from xenmig_np.wire import libxc, libxl, pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.io.source import Source

IDENT: Final = libxc.MARKER + libxc.IDENT.to_bytes(4, "big")
PFN_MASK: Final = np.uint64((1 << libxc.PFN_BITS) - 1)
LIBXC_VERSIONS: Final = (2, 3)
HEADER_SIZE: Final = libxc.RECORD_HEADER.itemsize

LIBXL_NAMES: Final = {
    NumberingName.RELEASED: {int(row): row.name for row in libxl.RecordType},
    NumberingName.DRAFT_V7: {int(row): row.name for row in libxl.DraftRecordType},
}
LIBXL_HEADS: Final = {"EMULATOR_XENSTORE_DATA": libxl.EMULATOR, "EMULATOR_CONTEXT": libxl.EMULATOR}
GUESTS: Final = {int(libxc.DomainType.X86_PV): GuestName.PV, int(libxc.DomainType.X86_HVM): GuestName.HVM}

Step = Callable[[], AnyRecord]

UNREAD: Final = frozenset({"PAGE_DATA", "EMULATOR_CONTEXT", "DOMAIN_JSON", "TOOLSTACK", OPTIONAL_NAME})
"""Records whose bodies no event holds."""


class Body(NamedTuple):
    """A record's body, as the events tell it."""

    head: Any
    place: Extent
    padding: bytes
    data: bytes | None


class StreamReader:
    """Reads one stream from ``at`` on: a libxl stream with the libxc stream in it, or a bare libxc stream.

    Raises :class:`InvalidImage`, :class:`TruncatedImage`, :class:`NotSupported` (big-endian streams, other
    versions), :class:`InputOutputError`.
    """

    def __init__(self, source: Source, at: int, *, bodies: bool = False, form: Format | None = None) -> None:
        """``bodies``: events hold the bodies of records, but for pages and device state.

        ``form``: what the stream has to be; None: what it begins as.
        """
        self.cursor = Cursor(source, at)
        self.path = source.path
        self._bodies = bodies
        self._form = form
        self._next: Step | None = self._begin
        """What stands at the cursor; None: nothing that could be read."""
        self._outer: NumberingName | None = None
        """Of the libxl layer, if there is one."""
        self._in_checkpoint = False

    def events(self) -> Iterator[AnyRecord]:
        """Ends with :class:`EndOfStream`.

        After an error call it again: it goes on behind the record that was broken or unknown, if its end is
        known, and otherwise ends at once.
        """
        while self._next:
            step, self._next = self._next, None
            yield step()

    def _begin(self) -> AnyRecord:
        form = self._form
        if form is None:
            form = Format.LIBXL if self.cursor.peek(len(libxl.IDENT)) == libxl.IDENT else Format.LIBXC
        return self._libxl_header() if form is Format.LIBXL else self._image_header()

    def _end(self) -> EndOfStream:
        return EndOfStream(self.cursor.at, 0)

    # ---- the libxl layer ---------------------------------------------------------------------------------

    def _libxl_header(self) -> LibxlHeader:
        item, at = "libxl header", self.cursor.at
        head = self.cursor.one(libxl.HEADER, item)
        begin = head.tobytes()[: len(libxl.IDENT)]
        if begin != libxl.IDENT:
            raise self._invalid(at, item, begin.hex(" "), libxl.IDENT.hex(" "), rule="V50")
        event = LibxlHeader(at, libxl.HEADER.itemsize, int(head["version"]), int(head["options"]))
        self._supported(event, item, (libxl.VERSION,), ("V50", "V51"))
        self._next = self._first_libxl_record
        return event

    def _first_libxl_record(self) -> LibxlRecord:
        self._outer = self._numbering()
        return self._libxl_record()

    def _numbering(self) -> NumberingName:
        """Told by the first record and the 8 bytes behind its header (v2-stream.md 14)."""
        item = "first libxl record"
        begin = self.cursor.peek(HEADER_SIZE)
        number, length = int.from_bytes(begin[:4], "little"), int.from_bytes(begin[4:], "little")
        wanted = HEADER_SIZE
        if number in (1, 2):  # so that at least 8 bytes of this stream follow
            wanted += len(libxc.MARKER)
            begin = self.cursor.peek(wanted)
        if len(begin) < wanted:
            raise self.cursor.truncated(wanted, item, len(begin))
        follows = begin[HEADER_SIZE:]
        if length == 0 and follows == libxc.MARKER:
            return NumberingName.RELEASED if number == 1 else NumberingName.DRAFT_V7
        if number == 1 and length and follows.startswith(b"{"):
            return NumberingName.DRAFT_V7
        raise self._invalid(
            self.cursor.at,
            item,
            f"type {number:#x}, length {length:,}" + (f", then {follows.hex(' ')}" if follows else ""),
            "LIBXC_CONTEXT and a libxc stream, or DOMAIN_JSON",
            rule="V52",
        )

    def _libxl_record(self) -> LibxlRecord:
        numbering = self._outer
        if numbering is None:
            raise RuntimeError("a libxl record is read only in a libxl stream")
        at, number, length = self._record_header("libxl record")
        name = LIBXL_NAMES[numbering].get(number) or self._unknown(
            number, at, length, self._libxl_record, f"libxl record ({numbering})"
        )
        body = self._body(length, LIBXL_HEADS.get(name), name, f"libxl record {name}")
        self._next = self._behind_libxl(name)
        return LibxlRecord(at, self.cursor.at - at, number, name, *body, numbering)

    def _behind_libxl(self, name: str) -> Step:
        if name == "LIBXC_CONTEXT":
            return self._image_header
        if name == "CHECKPOINT_END" and self._in_checkpoint:
            self._in_checkpoint = False
            return self._libxc_record
        return self._end if name == "END" else self._libxl_record

    # ---- the libxc layer ---------------------------------------------------------------------------------

    def _image_header(self) -> ImageHeader:
        item, at = "libxc image header", self.cursor.at
        head = self.cursor.one(libxc.IMAGE_HEADER, item)
        begin = head.tobytes()[: len(IDENT)]
        if begin != IDENT:
            rule = "V2" if begin.startswith(libxc.MARKER) else "V1"
            raise self._invalid(at, item, begin.hex(" "), IDENT.hex(" "), rule=rule)
        fields = (int(head[field]) for field in ("version", "options", "reserved1", "reserved2"))
        event = ImageHeader(at, libxc.IMAGE_HEADER.itemsize, *fields)
        self._supported(event, item, LIBXC_VERSIONS, ("V3", "V6"))
        self._next = self._domain_header
        return event

    def _domain_header(self) -> DomainHeader:
        at = self.cursor.at
        head = self.cursor.one(libxc.DOMAIN_HEADER, "libxc domain header")
        self._next = self._libxc_record
        return DomainHeader(at, libxc.DOMAIN_HEADER.itemsize, *(int(field) for field in head))

    def _libxc_record(self) -> Record:
        at, number, length = self._record_header("libxc record")
        row = libxc.RECORD_BY_TYPE.get(number)
        name = row.type.name if row else self._unknown(number, at, length, self._libxc_record, "libxc record")
        if length > libxc.RECORD_MAX_410:
            raise self._broken(
                _length_at(at),
                f"{name} record",
                f"{length:,} bytes",
                f"at most {libxc.RECORD_MAX_410:,}",
                behind=_behind(at, length),
                step=self._libxc_record,
                rule="X1",
            )
        if number == libxc.RecordType.PAGE_DATA:
            return self._page_data(at, length)
        body = self._body(length, row.head if row else None, name, f"{name} record")
        self._next = self._behind_libxc(number)
        return Record(at, self.cursor.at - at, number, name, *body)

    def _behind_libxc(self, number: int) -> Step:
        """END leads back to the libxl layer, and so does CHECKPOINT, until CHECKPOINT_END."""
        if number == libxc.RecordType.CHECKPOINT and self._outer is NumberingName.RELEASED:
            self._in_checkpoint = True
            return self._libxl_record
        if number == libxc.RecordType.END:
            return self._libxl_record if self._outer else self._end
        return self._libxc_record

    def _page_data(self, at: int, length: int) -> PageData:
        item, body = "PAGE_DATA record", Extent(self.cursor.at, length)

        def misfit(rule: str, offset: int, found: str, expected: str) -> InvalidImage:
            behind = _behind(at, length)
            return self._broken(
                offset, item, found, expected, behind=behind, step=self._libxc_record, rule=rule
            )

        if length < libxc.PAGE_DATA.itemsize:
            raise misfit("V21", _length_at(at), f"{length} bytes", f"at least {libxc.PAGE_DATA.itemsize}")
        self.cursor.check(_behind(at, length) - self.cursor.at, item)
        head = self.cursor.one(libxc.PAGE_DATA, item)
        count = int(head["count"])
        left = length - libxc.PAGE_DATA.itemsize - count * libxc.PFN_WORD.itemsize
        if left < 0:
            raise misfit("V23", body.offset, f"{count:,} words", f"as many as fit into {length:,} bytes")
        words = self.cursor.array(libxc.PFN_WORD, count, item)
        bits = int(np.bitwise_or.reduce(words))
        types, size = _types(words, bits)
        if left != size and pages.LEGAL[types].all():
            raise misfit(
                "V26", _length_at(at), f"{left:,} bytes of pages", f"{size:,} for its {count:,} words"
            )
        extent = Extent(self.cursor.skip(left, item), left)
        padding = self.cursor.take(-length % libxc.RECORD_ALIGN, item)
        self._next = self._libxc_record
        number, name = int(libxc.RecordType.PAGE_DATA), libxc.RecordType.PAGE_DATA.name
        end = self.cursor.at
        pfns = words & PFN_MASK if bits >> libxc.PFN_BITS else words
        return PageData(
            at,
            end - at,
            number,
            name,
            head,
            body,
            padding,
            None,
            words,
            types,
            pfns,
            bits,
            run_of(pfns),
            extent,
        )

    # ---- both --------------------------------------------------------------------------------------------

    def _supported(
        self,
        event: LibxlHeader | ImageHeader,
        item: str,
        versions: tuple[int, ...],
        rules: tuple[str, str],
    ) -> None:
        if event.version not in versions:
            what, offset, rule = f"version {event.version}", event.at("version"), rules[0]
        elif event.options & libxc.BIG_ENDIAN_OPTION:
            what, offset, rule = "a big-endian stream", event.at("options"), rules[1]
        else:
            return
        raise NotSupported(what, path=self.path, offset=offset, item=item, rule=rule)

    def _record_header(self, item: str) -> tuple[int, int, int]:
        """Offset, type and length of the record that begins here."""
        at = self.cursor.at
        head = self.cursor.take(HEADER_SIZE, item)
        return at, int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")

    def _body(self, length: int, layout: np.dtype[np.void] | None, name: str, item: str) -> Body:
        """The body that begins here.

        Its last byte is read, so that a pipe that ends inside of it is noticed and an exact one stops behind.
        """
        place, padding = Extent(self.cursor.at, length), -length % libxc.RECORD_ALIGN
        self.cursor.check(length + padding, item)
        if self._bodies and name not in UNREAD and length <= limits.BODY_MAX:
            data = self.cursor.take(length, item)
            head = np.frombuffer(data, layout, 1)[0] if layout and length >= layout.itemsize else None
            return Body(head, place, self.cursor.take(padding, item), data)
        head = self.cursor.one(layout, item) if layout and length >= layout.itemsize else None
        left = place.offset + length - self.cursor.at
        last = min(left, 1)
        self.cursor.skip(left - last, item)
        return Body(head, place, self.cursor.take(last + padding, item)[last:], None)

    def _unknown(self, number: int, at: int, length: int, step: Step, item: str) -> str:
        """The name of a record without a row; raises if it is mandatory."""
        if number & libxc.OPTIONAL:
            return OPTIONAL_NAME
        known = "a type that is known, or an optional one"
        raise self._broken(
            at,
            item,
            f"type {number:#x}",
            known,
            behind=_behind(at, length),
            step=step,
            rule="V52" if step == self._libxl_record else "V10",
        )

    def _broken(  # noqa: PLR0913 - the facts of the error, and how to go on
        self, offset: int, item: str, found: str, expected: str, *, behind: int, step: Step, rule: str
    ) -> InvalidImage:
        """An error inside a record that ends at ``behind``, where ``step`` reads on."""
        self.cursor.at = behind
        self._next = step
        return self._invalid(offset, item, found, expected, rule=rule)

    def _invalid(self, offset: int, item: str, found: str, expected: str, *, rule: str) -> InvalidImage:
        return InvalidImage(
            path=self.path, offset=offset, item=item, found=found, expected=expected, rule=rule
        )


def _length_at(at: int) -> int:
    return at + field_offset(libxc.RECORD_HEADER, "length")


def _behind(at: int, length: int) -> int:
    """Where the record at ``at`` with a body of ``length`` bytes ends."""
    return at + HEADER_SIZE + length + -length % libxc.RECORD_ALIGN


def _types(words: NDArray[np.uint64], bits: int) -> tuple[NDArray[np.uint8], int]:
    """Types of the words, and the bytes of pages that follow them; ``bits``: those set in any of them."""
    if not bits >> libxc.PFN_TYPE_SHIFT:  # ordinary pages throughout
        return np.zeros(len(words), np.uint8), len(words) * pages.PAGE_SIZE
    types = words.view(np.uint8)[7::8] >> np.uint8(4)  # the nibble is in the last byte of a word
    return types, int(np.count_nonzero(pages.HAS_DATA[types])) * pages.PAGE_SIZE


# ---- what a whole stream is ------------------------------------------------------------------------------


class StreamKind(NamedTuple):
    """What the headers of a stream say."""

    format: Format
    """``libxl`` or ``libxc``: the outer layer."""
    numbering: NumberingName
    libxc_version: int
    guest: GuestName
    converted: bool
    """Made from a legacy image, by this program or another one."""
    saved_by: str | None
    """``Xen 4.17``; None: a converter wrote it."""


def identify(source: Source, at: int) -> StreamKind:
    """Read up to the domain header of the stream at ``at``; a pipe can be read from ``at`` on again.

    Raises as :class:`StreamReader` does, and :class:`NotSupported` for guests that no Xen saved.
    """
    outer, numbering, version = None, NumberingName.UNKNOWN, 0
    try:
        for event in StreamReader(source, at).events():
            match event:
                case LibxlHeader():
                    outer = event
                case LibxlRecord():
                    numbering = event.numbering
                case ImageHeader():
                    version = event.version
                case DomainHeader():
                    return _kind(source.path, outer, numbering, version, event)
    except ReplayExhausted as error:
        message = "on a pipe: a long configuration before the libxc stream"
        raise NotSupported(message, path=source.path, offset=at, hint="give a file") from error
    raise InvalidImage(
        path=source.path, offset=at, item="libxl stream", found="its end", expected="LIBXC_CONTEXT before"
    )


def _kind(
    path: str, outer: LibxlHeader | None, numbering: NumberingName, version: int, domain: DomainHeader
) -> StreamKind:
    guest = GUESTS.get(domain.type)
    item, offset = "libxc domain header", domain.at("type")
    if guest is None and domain.type in set(libxc.DomainType):
        name = libxc.DomainType(domain.type).name
        raise NotSupported(f"a guest of type {name}", path=path, offset=offset, item=item)
    if guest is None:
        raise InvalidImage(
            path=path, offset=offset, item=item, found=f"type {domain.type:#x}", expected="1 (PV) or 2 (HVM)"
        )
    if outer is None and version > 2:
        numbering = NumberingName.RELEASED
    by_converter = domain.xen_major == libxc.CONVERTER_MAJOR
    return StreamKind(
        Format.LIBXL if outer else Format.LIBXC,
        numbering,
        version,
        guest,
        converted=by_converter or bool(outer and outer.options & libxl.CONVERTED_OPTION),
        saved_by=None if by_converter else f"Xen {domain.xen_major}.{domain.xen_minor}",
    )


@dataclass(slots=True, eq=False)
class Tally:
    """Sums over the events of one stream."""

    records: Counter[str] = field(default_factory=Counter)
    """libxc records by name."""
    libxl_records: Counter[str] = field(default_factory=Counter)
    words: NDArray[np.int64] = field(default_factory=lambda: np.zeros(16, np.int64))
    """Words of PAGE_DATA by type, shape (16,)."""
    pages: int = 0
    end: int = 0
    """Offset behind the stream."""

    @property
    def page_data(self) -> int:
        """PAGE_DATA records."""
        return self.records[libxc.RecordType.PAGE_DATA.name]

    @property
    def vcpus(self) -> int:
        """Contexts of a PV guest's vCPUs; those of an HVM guest are inside HVM_CONTEXT."""
        return self.records[libxc.RecordType.X86_PV_VCPU_BASIC.name]

    def add(self, event: AnyRecord) -> None:
        match event:
            case LibxlRecord():
                self.libxl_records[event.name] += 1
            case Record():
                self.records[event.name] += 1
                if isinstance(event, PageData):
                    if event.bits >> libxc.PFN_TYPE_SHIFT:
                        self.words += np.bincount(event.types, minlength=16)
                    else:
                        self.words[pages.PageType.NOTAB] += event.count
                    self.pages += event.pages.length // pages.PAGE_SIZE
            case EndOfStream():
                self.end = event.offset


def tally(source: Source, at: int) -> Tally:
    """Read the whole stream at ``at``; raises as :class:`StreamReader` does. A pipe is used up."""
    source.release()
    sums = Tally()
    for event in StreamReader(source, at).events():
        sums.add(event)
    return sums
