"""Records of v2 and v3 streams as data: a number, the fields of a body, and what may lie about them.

The layout (v2-stream.md 5 to 9 and 12) is written down here a second time, without the tables of
:mod:`xenmig_np.wire`, so that an error in those shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from xenmig_np.testing.fields import (
    FIRST_WITHOUT_PAGE,
    NOTAB,
    PAGE,
    ZERO_PAGE,
    Data,
    Filled,
    le,
    overridden,
    page,
)
from xenmig_np.testing.pieces import ContextRecord, each

END, PAGE_DATA, PV_INFO, P2M_FRAMES, VCPU_BASIC, VCPU_EXTENDED, VCPU_XSAVE, SHARED_INFO = range(8)
TSC_INFO, HVM_CONTEXT, HVM_PARAMS, TOOLSTACK, VCPU_MSRS, VERIFY, CHECKPOINT, DIRTY_PFNS = range(8, 16)
STATIC_DATA_END, CPUID_POLICY, MSR_POLICY = range(16, 19)
"""libxc records."""
OPTIONAL: Final = 1 << 31
LIBXL_END, LIBXC_CONTEXT, XENSTORE_DATA, EMULATOR_CONTEXT, CHECKPOINT_END, CHECKPOINT_STATE = range(6)
"""libxl records in the released numbering."""
ALIGN: Final = 8

DataField = tuple[str, Data]
"""A name and what stands there; long data stays short until it is written."""


def size_of(data: Data) -> int:
    """Bytes of it."""
    return data.length if isinstance(data, Filled) else len(data)


@dataclass(frozen=True, slots=True)
class Record:
    """A record of either layer; ``length`` and ``padding`` are right unless given."""

    number: int
    body: tuple[DataField, ...] = ()
    length: int | None = None
    padding: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of the body, whatever ``length`` says."""
        return sum(size_of(data) for _, data in self.body)

    def fields(self) -> Iterator[DataField]:
        yield "type", le(self.number, 4)
        yield "length", le(overridden(self.length, self.size), 4)
        yield from self.body
        yield "padding", bytes(-self.size % ALIGN) if self.padding is None else self.padding

    def resized(self, size: int) -> Record:
        """The same with a body of ``size`` bytes: its end is cut off, or zeros follow."""
        body = b"".join(bytes(data) for _, data in self.body)
        return Record(self.number, (("body", body[:size].ljust(size, b"\0")),))


def record(number: int, body: Data, *, length: int | None = None, padding: bytes | None = None) -> Record:
    """A record of any bytes."""
    return Record(number, (("body", body),), length, padding)


# ---- libxc records ---------------------------------------------------------------------------------------


class Page(NamedTuple):
    """A mention of a pfn; ``content`` is left out where the type has no page."""

    pfn: int
    kind: int = NOTAB
    content: Data = ZERO_PAGE


def ram(*pfns: int) -> tuple[Page, ...]:
    """Plain pages, each of another byte."""
    return tuple(Page(pfn, NOTAB, page(pfn % 255 + 1)) for pfn in pfns)


def mentions(kind: int, *pfns: int) -> tuple[Page, ...]:
    """The pfns with that type."""
    return tuple(Page(pfn, kind) for pfn in pfns)


def page_data(*pages: Page, count: int | None = None, reserved: int = 0, behind: Data = b"") -> Record:
    """Words of all pages and the content of those that have one; ``behind`` it anything."""
    words = ((f"word.{index}", le(it.kind << 60 | it.pfn, 8)) for index, it in enumerate(pages))
    contents = (
        (f"page.{index}", it.content) for index, it in enumerate(pages) if it.kind < FIRST_WITHOUT_PAGE
    )
    head = (("count", le(overridden(count, len(pages)), 4)), ("reserved", le(reserved, 4)))
    tail = (("behind", behind),) if behind else ()
    return Record(PAGE_DATA, (*head, *words, *contents, *tail))


def zero_pages(first: int, count: int) -> Record:
    """PAGE_DATA of many plain pages of zeros, from pfn ``first`` on."""
    words = b"".join(le(pfn, 8) for pfn in range(first, first + count))
    head = (("count", le(count, 4)), ("reserved", le(0, 4)))
    return Record(PAGE_DATA, (*head, ("words", words), ("pages", Filled(count * PAGE))))


def pv_info(width: int, levels: int, reserved: bytes = bytes(6)) -> Record:
    """X86_PV_INFO."""
    return Record(PV_INFO, (("width", le(width, 1)), ("levels", le(levels, 1)), ("reserved", reserved)))


def p2m_frames(*frames: int, end: int, start: int = 0) -> Record:
    """X86_PV_P2M_FRAMES."""
    pfns = ((f"frame.{index}", le(pfn, 8)) for index, pfn in enumerate(frames))
    return Record(P2M_FRAMES, (("start_pfn", le(start, 4)), ("end_pfn", le(end, 4)), *pfns))


def vcpu(number: int, state: Data = b"", *, id: int = 0, reserved: int = 0) -> Record:  # noqa: A002 - its name
    """A record of one of the four kinds of vCPU state."""
    return Record(number, (("vcpu_id", le(id, 4)), ("reserved", le(reserved, 4)), ("state", state)))


def tsc_info(mode: int = 0, khz: int = 2_000_000, *, reserved: int = 0) -> Record:
    """X86_TSC_INFO."""
    fields = (("mode", mode, 4), ("khz", khz, 4), ("nsec", 1_000_000_000, 8), ("incarnation", 1, 4))
    numbers = ((name, le(value, size)) for name, value, size in fields)
    return Record(TSC_INFO, (*numbers, ("reserved", le(reserved, 4))))


def hvm_params(*pairs: tuple[int, int], count: int | None = None, reserved: int = 0) -> Record:
    """HVM_PARAMS of pairs (index, value)."""
    head = (("count", le(overridden(count, len(pairs)), 4)), ("reserved", le(reserved, 4)))
    values = (
        (f"param.{position}.{name}", le(number, 8))
        for position, pair in enumerate(pairs)
        for name, number in zip(("index", "value"), pair, strict=True)
    )
    return Record(HVM_PARAMS, (*head, *values))


def hvm_context(*entries: ContextRecord) -> Record:
    """HVM_CONTEXT; header and end entry are among ``entries``."""
    return Record(HVM_CONTEXT, tuple(each("entry", entries, 8)))


def cpuid_policy(*leaves: tuple[int, int, int, int, int, int]) -> Record:
    """X86_CPUID_POLICY of rows (leaf, subleaf, eax, ebx, ecx, edx)."""
    rows = (b"".join(le(number, 4) for number in leaf) for leaf in leaves)
    return Record(CPUID_POLICY, tuple((f"leaf.{index}", row) for index, row in enumerate(rows)))


def msrs(*entries: tuple[int, int], reserved: int = 0) -> bytes:
    """The state of an X86_PV_VCPU_MSRS record and the body of X86_MSR_POLICY: pairs (index, value)."""
    return b"".join(le(index, 4) + le(reserved, 4) + le(value, 8) for index, value in entries)


# ---- libxl records ---------------------------------------------------------------------------------------


def emulator(number: int, data: Data, *, id: int = 2, index: int = 0) -> Record:  # noqa: A002 - its name
    """A record of the device model: ``id`` 1 is the traditional QEMU, 2 the upstream one."""
    return Record(number, (("id", le(id, 4)), ("index", le(index, 4)), ("data", data)))


def xenstore_pairs(*pairs: tuple[str, str]) -> bytes:
    """Data of an XENSTORE_DATA record."""
    return b"".join(text.encode() + b"\0" for pair in pairs for text in pair)
