"""What is known of a stream at some record: what came before it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.carriers.xapi import StructuredHeader
from xenmig_np.io.memory import lazy_zeros
from xenmig_np.read.pfnset import PfnSet
from xenmig_np.read.records import (
    AnyRecord,
    DomainHeader,
    EndOfStream,
    ImageHeader,
    LibxlHeader,
    LibxlRecord,
    NumberingName,
    PageData,
    Record,
)
from xenmig_np.verification.pagetables import TableWatch
from xenmig_np.wire import libxc, pages
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.carriers.header import Header
    from xenmig_np.carriers.recognise import Carried
    from xenmig_np.carriers.xapi import Record as XapiRecord
    from xenmig_np.carriers.xl import XlHeader
    from xenmig_np.io.source import Source
    from xenmig_np.verification.behind import Behind
    from xenmig_np.verification.rule import Level

GUESTS: Final = {int(number): guest for guest, number in libxc.DOMAIN_TYPE.items()}
PFNS_WATCHED: Final = 1 << 28
"""Pfns beyond are not remembered: a guest of 1 TiB."""
PARAMS_MAX: Final = 4096


@dataclass(slots=True)
class Stream:
    """Grows record by record: :meth:`add`."""

    source: Source
    level: Level
    release: str | None
    """That must take the stream; None: any."""
    carried: Carried | None = None
    """What carries the stream; None: nobody has looked."""
    libxl: LibxlHeader | None = None
    numbering: NumberingName = NumberingName.UNKNOWN
    image: ImageHeader | None = None
    domain: DomainHeader | None = None
    guest: Guest | None = None
    records: Counter[str] = field(default_factory=Counter)
    """libxc records so far, by name."""
    first: dict[str, Record] = field(default_factory=dict)
    """The first libxc record of each name."""
    libxl_records: Counter[str] = field(default_factory=Counter)
    width: int | None = None
    """Bytes of a PV guest's word, from X86_PV_INFO."""
    levels: int | None = None
    end_pfn: int = -1
    """Highest pfn of a PV guest, from X86_PV_P2M_FRAMES; -1: not known yet."""
    p2m_frames: dict[int, tuple[int, int]] = field(default_factory=dict)
    """PV: for each index of the frame list the pfn that stands there last, and its offset in the input."""
    last_types: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """For each watched pfn one more than the type of its last mention, 0: none."""
    populated: PfnSet = field(default_factory=lambda: PfnSet(PFNS_WATCHED))
    """Pfns that have been given a page: by content, or by XALLOC."""
    tables: TableWatch = field(default_factory=TableWatch)
    """What page tables of a PV guest refer to: told by the rule that reads them, at level restore."""
    vcpus: dict[int, set[str]] = field(default_factory=dict)
    """Names of the records seen of each vCPU id, but for those that are empty."""
    contexts: dict[int, Record] = field(default_factory=dict)
    """The last X86_PV_VCPU_BASIC of each vCPU id, with its body."""
    params: dict[int, list[int]] = field(default_factory=dict)
    """Values that each HVM parameter was set to, in order."""
    param_at: dict[int, int] = field(default_factory=dict)
    """Offset in the input of the entry that set an HVM parameter last."""
    hvm_context: Record | None = None
    behind: Behind | None = None
    """What follows the stream, at level restore, where the source may be read on."""
    pages: int = 0
    """Pages in the stream, each copy counted."""

    @property
    def xl(self) -> XlHeader | None:
        """The header of an xl file."""
        return self.carried.xl if self.carried else None

    def is_first(self, event: LibxlHeader | ImageHeader) -> bool:
        """Whether the input's stream begins with it."""
        return isinstance(event, LibxlHeader) or (self.libxl is None and self.image is None)

    def header_before(self, event: LibxlHeader | ImageHeader) -> Header | None:
        """What the carrier has before the stream, if that begins with the event."""
        return self.carried.header if self.carried and self.is_first(event) else None

    @property
    def all_records(self) -> tuple[XapiRecord, ...]:
        """Of a structured image of XenServer, once all are known: none before."""
        header = self.carried.header if self.carried else None
        behind = self.behind.records if self.behind else ()
        return (*header.records, *behind) if isinstance(header, StructuredHeader) and behind else ()

    @property
    def version(self) -> int:
        return self.image.version if self.image else 0

    @property
    def draft(self) -> bool:
        return self.numbering is NumberingName.DRAFT_V7

    def type_of(self, pfn: int) -> int | None:
        """Type of the last mention of a pfn; None without one."""
        known = int(self.last_types[pfn]) if 0 <= pfn < len(self.last_types) else 0
        return known - 1 if known else None

    def last_types_of(self, pfns: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """One more than the types of the last mentions, 0 without one; same shape."""
        watched = pfns < len(self.last_types)
        if not watched.any():
            return np.zeros(len(pfns), np.uint8)
        return np.where(watched, self.last_types[np.where(watched, pfns, 0)], np.uint8(0))

    def add(self, event: AnyRecord) -> None:
        """Take an event into account."""
        match event:
            case LibxlHeader():
                self.libxl = event
            case ImageHeader():
                self.image = event
            case DomainHeader():
                self.domain = event
                self.guest = GUESTS.get(event.type)
            case LibxlRecord():
                self.numbering = event.numbering
                self.libxl_records[event.name] += 1
            case Record():
                self.first.setdefault(event.name, event)
                self._add_record(event)
                self.records[event.name] += 1
            case EndOfStream():
                pass

    def _add_record(self, event: Record) -> None:
        if isinstance(event, PageData):
            self._add_pages(event)
        elif event.name == "X86_PV_INFO" and event.head is not None and self.width is None:
            self.width, self.levels = int(event.head["width"]), int(event.head["levels"])
        elif event.name == "X86_PV_P2M_FRAMES":
            self._add_frames(event)
        elif event.name.startswith("X86_PV_VCPU_") and event.head is not None:
            self._add_vcpu(event)
        elif event.name == "HVM_PARAMS":
            self._add_params(event)
        elif event.name == "HVM_CONTEXT":
            self.hvm_context = event

    def _add_pages(self, event: PageData) -> None:
        if self.guest is Guest.HVM:
            self._watch(event)
        run = event.run
        if run and not event.bits >> libxc.PFN_TYPE_SHIFT and run.stop <= len(self.last_types):
            self.pages += event.count
            self.last_types[run] = pages.PageType.NOTAB + 1
            self.populated.add_run(run)
            return
        pfns, types = event.pfns, event.types
        has_data = pages.HAS_DATA[types]
        self.pages += int(np.count_nonzero(has_data))
        watched = pfns < len(self.last_types)
        if not watched.all():
            pfns, types, has_data = pfns[watched], types[watched], has_data[watched]
        self.last_types[pfns] = types + np.uint8(1)
        self.populated.add(pfns if has_data.all() else pfns[has_data | (types == pages.PageType.XALLOC)])

    def _watch(self, event: PageData) -> None:
        """Have :attr:`last_types` reach as far as an HVM guest's pfns do."""
        if event.run and event.run.stop <= len(self.last_types):
            return
        near = event.pfns[event.pfns < PFNS_WATCHED]
        if len(near) and (highest := int(near.max())) >= len(self.last_types):
            grown = lazy_zeros(1 << highest.bit_length())
            grown[: len(self.last_types)] = self.last_types
            self.last_types = grown

    def _add_frames(self, event: Record) -> None:
        if event.head is None or event.data is None or not self.width:
            return
        start, end = int(event.head["start_pfn"]), int(event.head["end_pfn"])
        per_frame = pages.PAGE_SIZE // self.width if self.width in {4, 8} else pages.PAGE_SIZE
        whole = (len(event.data) - libxc.P2M_FRAMES.itemsize) // libxc.PFN_WORD.itemsize
        frames = np.frombuffer(event.data, libxc.PFN_WORD, whole, libxc.P2M_FRAMES.itemsize)
        if (
            start > end
            or not max(end, self.end_pfn)
            or len(frames) != end // per_frame - start // per_frame + 1
        ):
            return
        at = event.body.offset + libxc.P2M_FRAMES.itemsize
        for index, frame in enumerate(frames.tolist()):
            self.p2m_frames[start // per_frame + index] = (frame, at + index * libxc.PFN_WORD.itemsize)
        if end > self.end_pfn:
            self.end_pfn = end
            grown = lazy_zeros(min(end + 1, PFNS_WATCHED))
            grown[: len(self.last_types)] = self.last_types
            self.last_types = grown

    def _add_vcpu(self, event: Record) -> None:
        if event.body.length == libxc.VCPU.itemsize:
            return
        number = int(event.head["vcpu_id"])
        self.vcpus.setdefault(number, set()).add(event.name)
        if event.name == "X86_PV_VCPU_BASIC":
            self.contexts[number] = event

    def _add_params(self, event: Record) -> None:
        for at, index, value in parameters(event):
            self.params.setdefault(index, []).append(value)
            self.param_at[index] = at


def parameters(event: Record) -> list[tuple[int, int, int]]:
    """Offset in the input, number and value of each entry of an HVM_PARAMS record that is there."""
    if event.head is None or event.data is None:
        return []
    room = (len(event.data) - libxc.HVM_PARAMS.itemsize) // libxc.HVM_PARAM.itemsize
    count = min(int(event.head["count"]), room, PARAMS_MAX)
    entries = np.frombuffer(event.data, libxc.HVM_PARAM, count, libxc.HVM_PARAMS.itemsize)
    start, step = event.body.offset + libxc.HVM_PARAMS.itemsize, libxc.HVM_PARAM.itemsize
    return [(start + step * number, index, value) for number, (index, value) in enumerate(entries.tolist())]
