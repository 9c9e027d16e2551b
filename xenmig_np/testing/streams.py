"""Builds libxc, libxl and xl streams of migration v2 and v3 (v2-stream.md 3 to 12), good ones and bad ones.

The counterpart of :mod:`xenmig_np.testing.builder`: fields have names and places, nothing is checked, and
every number can be told to lie. Good guests of a few pages are at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Final, Literal

from xenmig_np.testing import records as rec
from xenmig_np.testing.builder import FLAGS_AT, ONLINE, PV_LAYOUTS, context, context_header, extended
from xenmig_np.testing.fields import NOTAB, PAGE, PINNED, XTAB, Data, Filled, le, page, pte
from xenmig_np.testing.pieces import ContextRecord, XlHeader
from xenmig_np.testing.records import DataField, Page, Record, mentions, ram, size_of

PV, HVM = 1, 2
"""Types of domains."""


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a stream: ``image.version``, ``record.3.length``, ``behind.0.type``."""

    name: str
    offset: int
    data: Data

    @property
    def end(self) -> int:
        """Offset behind it."""
        return self.offset + size_of(self.data)


class Built:
    """What consists of named fields."""

    __slots__ = ()

    def fields(self) -> Iterator[DataField]:
        """All of them, in order and without gaps; some are empty."""
        raise NotImplementedError

    def parts(self) -> list[Part]:
        """The fields with their places."""
        parts, at = [], 0
        for name, data in self.fields():
            parts.append(Part(name, at, data))
            at = parts[-1].end
        return parts

    def part(self, name: str) -> Part:
        """The part of that name. Raises :class:`KeyError`."""
        return {part.name: part for part in self.parts()}[name]

    def to_bytes(self) -> bytes:
        """The whole."""
        return b"".join(bytes(data) for _, data in self.fields())

    def damaged(self, name: str, data: bytes) -> bytes:
        """The whole with other bytes, as many or not, in place of one part. Raises :class:`KeyError`."""
        part, whole = self.part(name), self.to_bytes()
        return whole[: part.offset] + data + whole[part.end :]

    def write(self, file: BinaryIO) -> None:
        """The whole into an empty file; long zeros become holes."""
        for part in self.parts():
            if isinstance(part.data, Filled) and not part.data.fill and not part.data.patches:
                file.seek(part.end)
            else:
                file.write(bytes(part.data))
        file.truncate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream(Built):
    """A libxc stream; change it with its methods and :func:`dataclasses.replace`."""

    type: int
    records: tuple[Record, ...]
    marker: int = (1 << 64) - 1
    ident: int = 0x58454E46
    version: int = 2
    options: int = 0
    reserved: tuple[int, int] = (0, 0)
    page_shift: int = 12
    domain_reserved: int = 0
    xen: tuple[int, int] = (4, 17)
    """Major and minor number of the sender; (0, 1): a converter."""
    trailing: Data = b""

    def fields(self) -> Iterator[DataField]:
        for name, value, size in (
            ("marker", self.marker, 8),
            ("ident", self.ident, 4),
            ("version", self.version, 4),
            ("options", self.options, 2),
            ("reserved1", self.reserved[0], 2),
            ("reserved2", self.reserved[1], 4),
        ):
            yield f"image.{name}", le(value, size)[::-1]
        for name, value, size in (
            ("type", self.type, 4),
            ("page_shift", self.page_shift, 2),
            ("reserved", self.domain_reserved, 2),
            ("xen_major", self.xen[0], 4),
            ("xen_minor", self.xen[1], 4),
        ):
            yield f"domain.{name}", le(value, size)
        yield from _numbered("record", self.records)
        yield "trailing", self.trailing

    # ---- edits: ``number`` stands for the first record of that type; they raise KeyError without one

    def position(self, number: int) -> int:
        """Index of a record."""
        return {it.number: index for index, it in reversed(list(enumerate(self.records)))}[number]

    def record(self, number: int) -> Record:
        """A record."""
        return self.records[self.position(number)]

    def only(self, *records: Record) -> Stream:
        """These records in place of all."""
        return replace(self, records=records)

    def instead(self, number: int, *records: Record) -> Stream:
        """These in place of a record."""
        at = self.position(number)
        return self.only(*self.records[:at], *records, *self.records[at + 1 :])

    def before(self, number: int, *records: Record) -> Stream:
        """These before a record."""
        return self.instead(number, *records, self.record(number))

    def after(self, number: int, *records: Record) -> Stream:
        """These behind a record."""
        return self.instead(number, self.record(number), *records)

    def first(self, *records: Record) -> Stream:
        """These before all records."""
        return self.only(*records, *self.records)

    def last(self, *records: Record) -> Stream:
        """These before END."""
        return self.before(rec.END, *records)

    def without(self, *numbers: int) -> Stream:
        """Without any record of these types."""
        return self.only(*(it for it in self.records if it.number not in numbers))

    def moved(self, *numbers: int, before: int) -> Stream:
        """All records of these types before another one, their order as it was."""
        moving = tuple(it for it in self.records if it.number in numbers)
        return self.without(*numbers).before(before, *moving)

    def version3(self) -> Stream:
        """As a sender of 4.14 writes it: static data first, and its end."""
        end = Record(rec.STATIC_DATA_END)
        made = self.after(rec.PV_INFO, end) if self.type == PV else self.first(end)
        return replace(made, version=3)


def _numbered(name: str, records: tuple[Record, ...]) -> Iterator[DataField]:
    return ((f"{name}.{at}.{part}", data) for at, it in enumerate(records) for part, data in it.fields())


@dataclass(frozen=True, slots=True, kw_only=True)
class Libxl(Built):
    """A libxl stream around a libxc stream: header, records, their END among those ``behind`` it."""

    inner: Built
    before: tuple[Record, ...] = (Record(rec.LIBXC_CONTEXT),)
    behind: tuple[Record, ...] = (Record(rec.LIBXL_END),)
    ident: bytes = b"LibxlFmt"
    version: int = 2
    options: int = 0
    trailing: Data = b""

    def fields(self) -> Iterator[DataField]:
        yield "libxl.ident", self.ident
        yield "libxl.version", le(self.version, 4)[::-1]
        yield "libxl.options", le(self.options, 4)[::-1]
        yield from _numbered("before", self.before)
        yield from self.inner.fields()
        yield from _numbered("behind", self.behind)
        yield "libxl.trailing", self.trailing


@dataclass(frozen=True, slots=True, kw_only=True)
class Xl(Built):
    """An xl file with a libxl stream in it; flags: 1 JSON, 2 a stream of v2."""

    inner: Built
    header: XlHeader = field(default_factory=lambda: XlHeader(mandatory_flags=2))

    def fields(self) -> Iterator[DataField]:
        yield from ((f"xl.{name}", data) for name, data in self.header.fields(8))
        yield from self.inner.fields()


# ---- small good guests -----------------------------------------------------------------------------------

STORE, IOREQ, BUFIOREQ, CONSOLE = 0xFEFFC, 0xFEFFD, 0xFEFFB, 0xFEFFF
"""HVM: pfns of the special pages."""
IDENT_PT: Final = 0xFEFFE
PARAMS: Final = (
    (1, STORE),
    (5, IOREQ),
    (6, BUFIOREQ),
    (10, 1),  # TIMER_MODE
    (12, IDENT_PT * PAGE),
    (17, CONSOLE),
)
CPU_SIZE: Final = 1032
"""Bytes of a CPU entry of Xen 4.17's HVM context."""
CONTEXT: Final = (context_header(), ContextRecord(2, Filled(CPU_SIZE)), ContextRecord(0))
"""Header, vCPU 0, end."""


def hvm_memory() -> tuple[Page, ...]:
    """The pages of the guest in the order in which it sends them, with two holes among them."""
    return (*ram(*range(11)), *mentions(XTAB, 11, 12), *ram(BUFIOREQ, STORE, IOREQ, IDENT_PT, CONSOLE))


def small_hvm() -> Stream:
    """A guest of 16 pages and two holes, as libxc of 4.6 saves one that stands still."""
    memory = hvm_memory()
    return Stream(
        type=HVM,
        records=(
            rec.page_data(*memory[:8]),
            rec.page_data(*memory[8:13]),
            rec.page_data(*memory[13:]),
            rec.tsc_info(),
            rec.hvm_context(*CONTEXT),
            rec.hvm_params(*PARAMS),
            Record(rec.END),
        ),
    )


PvKind = Literal["pv32", "pv64"]
P2M, START_INFO, PV_STORE, PV_CONSOLE, GDT, L1, L2, L3, L4 = range(1, 10)
"""PV: pfns of the special pages; all others are plain. A 32-bit guest has no L4."""
PV_LAST: Final = 31
"""The highest pfn."""
TOP: Final = {"pv32": L3, "pv64": L4}
MAPPED: Final = range(10, 18)
"""PV: plain pages that the L1 maps, in its first slots."""
IN_KERNEL: Final = 1 << 2


def l1_entries() -> dict[int, int]:
    """The L1 of a PV guest by slot; slots 10 to 99 are free."""
    entries = {slot: pte(pfn, 0x63) for slot, pfn in enumerate(MAPPED)}
    entries[100] = pte(MAPPED[0], 0x62)  # not present
    entries[200] = pte(P2M, 1 << 63 | 0x61)  # read-only, not to be executed
    return entries


def table(pfn: int, kind: int, entries: dict[int, int]) -> Page:
    """A page table."""
    return Page(pfn, kind, page(0, entries.items()))


def pv_memory(guest: PvKind) -> dict[int, Page]:
    """The pages of the guest by pfn: the order in which it sends them."""
    wide = guest == "pv64"
    tables = [
        table(L1, 1, l1_entries()),
        table(L2, 2, {0: pte(L1)}),
        table(L3, 3 if wide else 3 | PINNED, {0: pte(L2, 0x67 if wide else 1)}),
    ]
    if wide:
        tables.append(table(L4, 4 | PINNED, {511: pte(L3)}))
    memory = {it.pfn: it for it in ram(*range(PV_LAST + 1))}
    memory[START_INFO] = Page(START_INFO, NOTAB, start_info(guest))
    return memory | {it.pfn: it for it in tables}


def start_info(guest: PvKind, *, store: int = PV_STORE, console: int = PV_CONSOLE) -> Filled:
    """The page from which a guest knows its rings: pfns of them, and event channels 1 and 2."""
    word, at = (8, (32, 56, 64, 72, 80)) if guest == "pv64" else (4, (32, 44, 48, 52, 56))
    sizes = (word, word, 4, word, 4)
    values = (PV_LAST + 1, store, 1, console, 2)
    numbers = ((where, le(value, size)) for where, value, size in zip(at, values, sizes, strict=True))
    return Filled(PAGE, 0, ((0, b"xen-3.0-x86_64\0"), *numbers))


def basic(  # noqa: PLR0913 - the fields that a restore looks at
    guest: PvKind,
    *,
    top: int | None = None,
    user: int = 0,
    start: int = START_INFO,
    gdt: int = GDT,
    gdt_entries: int = 512,
    flags: int = IN_KERNEL | ONLINE,
    ip: int = 0xC010_0000,
) -> Filled:
    """State of X86_PV_VCPU_BASIC: ``top`` and ``gdt`` are pfns, ``user`` is cr1 as it stands."""
    layout = PV_LAYOUTS[guest]
    made = context(guest, top=TOP[guest] if top is None else top, start_info=start, gdt_entries=gdt_entries)
    fields = (
        (layout.gdt_entries - 16 * layout.word, gdt),
        (layout.cr3 - 3 * layout.word, 0x8005_0033),  # cr0
        (layout.cr3 - 2 * layout.word, user),
        ({"pv32": 548, "pv64": 648}[guest], ip),
    )
    more = tuple((at, le(value, layout.word)) for at, value in fields)
    return replace(made, patches=(*made.patches, (FLAGS_AT, le(flags, 4)), *more))


def xsave(*, xcr0: int = 3, accum: int = 3, area: int = 576, features: int = 3) -> Filled:
    """State of X86_PV_VCPU_XSAVE: two words and an area; ``features`` are those in use."""
    used = ((16 + 512, le(features, 8)),) if area >= 576 else ()
    return Filled(16 + area, 0, ((0, le(xcr0, 8)), (8, le(accum, 8)), *used))


def small_pv(guest: PvKind) -> Stream:
    """A guest of 32 pages and one vCPU with real page tables."""
    layout = PV_LAYOUTS[guest]
    return Stream(
        type=PV,
        records=(
            rec.pv_info(layout.word, layout.levels),
            rec.p2m_frames(P2M, end=PV_LAST),
            rec.page_data(*pv_memory(guest).values()),
            rec.tsc_info(),
            rec.record(rec.SHARED_INFO, Filled(PAGE, 0x33)),
            rec.vcpu(rec.VCPU_BASIC, basic(guest)),
            rec.vcpu(rec.VCPU_EXTENDED, extended()),
            rec.vcpu(rec.VCPU_XSAVE, xsave()),
            Record(rec.END),
        ),
    )


def small_pv64() -> Stream:
    """A 64-bit guest."""
    return small_pv("pv64")


def small_pv32() -> Stream:
    """A 32-bit guest with PAE."""
    return small_pv("pv32")
