"""Which event of a legacy image gives which records of the output, in its order (v2-stream.md 19)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from xenmig_np.carriers import xapi
from xenmig_np.carriers.xapi import StructuredHeader
from xenmig_np.conversion import framing
from xenmig_np.conversion.givenback import LeftOut, Watch
from xenmig_np.conversion.params import Param, first_params, put
from xenmig_np.conversion.physmap import xenstore_pairs
from xenmig_np.errors import InvalidImage, Note, NotSupported, TruncatedImage
from xenmig_np.io.plan import Literal, Range, Segment
from xenmig_np.io.runs import runs
from xenmig_np.limits import MIB
from xenmig_np.options import Format
from xenmig_np.read.events import (
    Chunk,
    DeviceModel,
    EndOfBody,
    EndOfImage,
    ExtendedInfo,
    HvmContext,
    HvmMagic,
    P2mFrames,
    PageBatch,
    SharedInfo,
    StartOfBody,
    Unmapped,
    Vcpu,
)
from xenmig_np.read.image import CarriedRecord
from xenmig_np.read.info import TWO_LEVELS
from xenmig_np.read.pagetables import page_index
from xenmig_np.read.toolstack import physmaps
from xenmig_np.wire import hvm, legacy, libxc, libxl, pages, vcpu
from xenmig_np.wire.legacy import Guest, Payload
from xenmig_np.wire.libxc import RecordType
from xenmig_np.wire.xapi import RecordType as XapiRecordType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.carriers.wrap import Wrapping
    from xenmig_np.conversion.collapse import Collapse
    from xenmig_np.read.events import AnyEvent
    from xenmig_np.read.facts import Facts
    from xenmig_np.read.image import LegacyImage
    from xenmig_np.read.places import Extent
    from xenmig_np.wire.targets import Target


class Choice(NamedTuple):
    """What is to be written."""

    target: Target
    format: Format
    """``LIBXC`` or ``LIBXL``."""
    wrapping: Wrapping
    skip_qemu: bool = False
    drop_tmem: bool = False
    """Leave transcendent memory out instead of refusing the image."""


class Planner:
    """Makes the segments of one output; iterate over :meth:`segments` once.

    ``left_out`` are the words that D22 names, where the tail could be read before the pages. Without it pages
    of a PV guest are watched if ``watched``, and a conversion that should have left something out ends.
    ``collapse`` knows the words to keep where superseded ones go as well.
    """

    def __init__(  # noqa: PLR0913 - the input, what is asked for, and what is known of its words
        self,
        image: LegacyImage,
        choice: Choice,
        facts: Facts,
        *,
        left_out: LeftOut | None = None,
        collapse: Collapse | None = None,
        watched: bool = False,
    ) -> None:
        self.image = image
        self.choice = choice
        self.facts = facts
        self.records: Counter[int] = Counter()
        """libxc records by their number."""
        self.words = np.zeros(16, np.int64)
        """Words of PAGE_DATA records by type."""
        self.dropped = 0
        """Words that D22 left out."""
        self.superseded = 0
        """Words that were left out beyond that, as the image is collapsed."""
        self._left_out = left_out
        self._collapse = collapse
        self._watched = watched
        self._watch: Watch | None = None
        self._body = 0
        self._params: list[Param] = []
        self._toolstack: list[Chunk] = []
        self._toolstack_body = 0
        self._device_model = False
        self._state: Extent | None = None
        """Of the device model, where that goes behind the carrier's records."""
        self._structured_end = False
        self._holding = False
        self._held: list[AnyEvent] = []
        """The end of a body and what follows: it counts if no other checkpoint does."""

    @property
    def _shape_guest(self) -> Guest:
        return self.image.detected.shape.guest

    @property
    def _libxl(self) -> bool:
        return self.choice.format is Format.LIBXL

    def segments(self) -> Generator[Segment, None, None]:
        """The output in order.

        Raises what the reader raises, :class:`NotSupported`, :class:`InvalidImage`.
        """
        yield from self._start()
        for event in self.image.events(self.facts):
            if isinstance(event, EndOfBody):
                self._holding = not event.final
            if self._holding and not isinstance(event, StartOfBody | EndOfImage):
                self._held.append(event)
            else:
                yield from self._made_of(event)

    def _made_of(self, event: AnyEvent) -> Iterator[Segment]:
        if (rule := RULES.get(type(event))) is not None:
            yield from rule(self, event)

    def _start(self) -> Iterator[Segment]:
        target = self.choice.target
        if head := self.choice.wrapping.head:
            yield Literal(head)
        if self._libxl:
            yield Literal(framing.libxl_start(target.libxl))
        yield Literal(framing.libxc_start(target.libxc_version, self._shape_guest))
        if self._shape_guest is Guest.HVM:
            yield from self._static_data_end()

    def _static_data_end(self) -> Iterator[Segment]:
        if self.choice.target.static_data_end:
            yield self._record(RecordType.STATIC_DATA_END)

    def _record(self, kind: RecordType, body: bytes = b"") -> Literal:
        self.records[kind] += 1
        return Literal(framing.record(kind, body))

    def _note(self, rule: str, text: str, offset: int | None = None) -> None:
        self.facts.notes.add(Note(rule, text, offset))

    def _refused(self, reason: str, offset: int, item: str, hint: str | None = None) -> NotSupported:
        return NotSupported(reason, path=self.image.source.path, offset=offset, item=item, hint=hint)

    # ---- PV: before the pages ------------------------------------------------------------------------------

    def extended_info(self, event: ExtendedInfo) -> Iterator[Segment]:
        info = framing.struct(libxc.PV_INFO, width=event.guest.width, levels=event.guest.levels)
        yield self._record(RecordType.X86_PV_INFO, info)
        yield from self._static_data_end()
        if self._watched:
            self._watch = Watch(self.facts.p2m_size, self.image.source.path)

    def p2m_frames(self, event: P2mFrames) -> Iterator[Segment]:
        head = framing.struct(libxc.P2M_FRAMES, start_pfn=0, end_pfn=self.facts.p2m_size - 1)
        yield self._record(RecordType.X86_PV_P2M_FRAMES, head + event.frames.astype(libxc.PFN_WORD).tobytes())

    # ---- the body ------------------------------------------------------------------------------------------

    def page_batch(self, event: PageBatch) -> Iterator[Segment]:
        if event.run and event.places is None and not (self._left_out or self._collapse or self._watch):
            yield from self._ordinary(event)
            return
        kept = event.types != pages.PageType.XTAB  # D17
        if self._left_out:
            out = kept & self._left_out.words(event)
            self.dropped += int(np.count_nonzero(out))
            kept &= ~out
        types = event.types
        if self._collapse:
            last = self._collapse.words(event)
            self.superseded += int(np.count_nonzero(kept & ~last))
            kept, types = last, self._collapse.types(event)
        if kept.any():  # D1: else no record
            types = types[kept]
            self.words += np.bincount(types, minlength=16)
            self.records[RecordType.PAGE_DATA] += 1
            yield Literal(framing.page_data_head(types, event.pfns[kept]))
            yield from self._contents(event, kept)

    def _ordinary(self, event: PageBatch) -> Iterator[Segment]:
        """As :meth:`page_batch` of a batch of which everything is kept: most are such."""
        self.words[pages.PageType.NOTAB] += len(event.pfns)
        self.records[RecordType.PAGE_DATA] += 1
        yield Literal(framing.page_data_head(event.types, event.pfns))
        yield _pages(event, 0, len(event.pfns))

    def _contents(self, event: PageBatch, kept: NDArray[np.bool_]) -> Iterator[Segment]:
        if self._watch:
            yield from self._watched_contents(event, self._watch)
            return
        numbers = page_index(event.types)[kept & pages.HAS_DATA[event.types]]
        for place in event.extents(numbers):
            yield Range(place.offset, place.length, f"{event.item}, pages", place.source)

    def _watched_contents(self, event: PageBatch, watch: Watch) -> Iterator[Segment]:
        """All pages of the batch; those of page tables pass through here, between two ranges."""
        tables = page_index(event.types)[pages.LEVEL[event.types] > 0]
        contents = np.empty((len(tables), pages.PAGE_SIZE), np.uint8)
        seen = done = 0
        for first, count in runs(tables):
            if first > done:
                yield _pages(event, done, first - done)
            piece = contents[seen : seen + count].reshape(-1).data
            self._read(event, first, piece)
            yield Literal(piece)
            seen += count
            done = first + count
        if (left := event.pages.length // pages.PAGE_SIZE - done) > 0:
            yield _pages(event, done, left)
        watch.see(event, contents)

    def _read(self, event: PageBatch, first: int, piece: memoryview) -> None:
        part = _pages(event, first, len(piece) // pages.PAGE_SIZE)
        if (got := (part.source or self.image.source).read_at(part.offset, piece)) < len(piece):
            raise TruncatedImage(
                path=self.image.source.path,
                offset=part.offset,
                item=part.item,
                found=f"the end of the input after {got:,} bytes",
                expected=f"{len(piece):,} bytes",
            )

    def chunk(self, event: Chunk) -> Iterator[Segment]:
        row = event.row
        if row.refused:
            self._drop(event, row.refused)
        elif row.id == legacy.VERIFY_MODE:
            if self._watch:
                self._watch.restart()
            if not self._collapse or self._collapse.verify_stays:
                yield self._record(RecordType.VERIFY)  # D16
        elif row.payload is Payload.TSC_INFO:
            yield self._tsc(event)
        elif row.payload is Payload.TOOLSTACK:
            self._keep_toolstack(event)
        elif row.param is not None:
            if row.param in self.choice.target.params_unknown:
                reason = f"target {self.choice.target.name} has no HVM parameter {row.param.name}"
                raise self._refused(reason, event.offset, _item(event), "give another --target")
            put(self._params, (row.param, event.value, event.offset), replacing=self._body > 0)

    def _drop(self, event: Chunk, reason: str) -> None:
        """Transcendent memory (legacy-stream.md 6)."""
        if not self.choice.drop_tmem:
            hint = "--drop-tmem converts the rest of the guest, which loses what it kept there"
            raise self._refused(reason, event.offset, _item(event), hint)
        what = "invalidations" if event.row.id == legacy.TMEM_EXTRA else "pages"
        text = f"tmem contents lost: {event.value:,} {what} of {_item(event)} left out"
        self._note("legacy 6", text, event.offset)

    def _tsc(self, event: Chunk) -> Literal:
        if event.value["mode"] > legacy.TSC_MODE_MAX:
            self._note("19.5", f"TSC mode {event.value['mode']}: Xen 4.12 and later refuse it", event.offset)
        fields = {name: event.value[name] for name in legacy.TSC_INFO.names or ()}
        return self._record(RecordType.X86_TSC_INFO, framing.struct(libxc.TSC_INFO, **fields))

    def _keep_toolstack(self, event: Chunk) -> None:
        """Those of the last body that has any count (19.14)."""
        if not self._libxl:
            if len(event.payload) > legacy.TOOLSTACK_HEAD.itemsize:
                self._note("19.3", "toolstack data left out: libxc format has no place for it", event.offset)
            return
        if self._toolstack_body != self._body:
            self._toolstack_body = self._body
            self._toolstack.clear()
        self._toolstack.append(event)

    def _xenstore_pairs(self, event: Chunk) -> bytes:
        at = event.offset + event.length - len(event.payload)
        width = self.image.detected.shape.width
        pairs = xenstore_pairs(physmaps(event.payload, width, path=self.image.source.path, offset=at))
        if pairs and self._shape_guest is Guest.PV:
            self._note("D15", "toolstack data of a PV guest: libxl of Xen 4.10 and later refuses it", at)
        return pairs

    def start_of_body(self, event: StartOfBody) -> Iterator[Segment]:
        """Another checkpoint is complete: nothing of the tail of the one before goes out."""
        self._body = event.body
        self._holding = False
        self._held.clear()
        yield from ()

    def end_of_body(self, event: EndOfBody) -> Iterator[Segment]:  # noqa: ARG002 - rules have one form
        if params := first_params(self._params, self.choice.target, self.facts.notes.add):
            self.records[RecordType.HVM_PARAMS] += 1
            yield Literal(framing.hvm_params(params))

    # ---- tails ---------------------------------------------------------------------------------------------

    def unmapped(self, event: Unmapped) -> Iterator[Segment]:
        """On a pipe: nothing may have gone out that D22 leaves out."""
        if self._watch and event.last and self.facts.unmapped_entries:
            self._nothing_given_back(event, self._watch)
        yield from ()

    def _nothing_given_back(self, event: Unmapped, watch: Watch) -> None:
        for first in range(0, self.facts.p2m_size, MIB):
            pfns = np.arange(first, min(first + MIB, self.facts.p2m_size), dtype=np.uint32)
            listed = pfns[self.facts.unmapped.contains(pfns)]
            if np.count_nonzero(self.facts.last_types[listed]) or watch.refers_to(listed):
                raise self._refused(
                    "a guest that gave pages back during a live save, from a pipe (D22)",
                    event.offset,
                    "list of unmapped pfns",
                    "give a file, or --spool DIR: the list has to be read before the pages",
                )

    def vcpu(self, event: Vcpu) -> Iterator[Segment]:
        blobs = {RecordType.X86_PV_VCPU_BASIC: event.context}
        if event.extended is not None:
            blobs[RecordType.X86_PV_VCPU_EXTENDED] = event.extended
        if event.xsave is not None:
            blobs[RecordType.X86_PV_VCPU_XSAVE] = self._fitting_xsave(event, event.xsave)
        head = framing.struct(libxc.VCPU, vcpu_id=event.id)
        for kind, blob in blobs.items():
            yield self._record(kind, head + blob)

    def _fitting_xsave(self, event: Vcpu, xsave: bytes) -> bytes:
        """Cut what belongs to states that the vCPU never used (D25)."""
        accum = int(np.frombuffer(xsave, vcpu.XSAVE_AREA, 1)[0]["xcr0_accum"])
        needed = vcpu.XSAVE_NEEDED.get(accum, len(xsave))
        if len(xsave) > needed:
            text = f"vCPU {event.id}: xsave record cut from {len(xsave):,} to the {needed:,} bytes it uses"
            self._note("D25", text, event.offset)
            xsave = xsave[:needed]
        if len(xsave) % 16 and self.choice.target.libxc_version < libxc.VERSION_414:
            text = f"vCPU {event.id}: Xen before 4.14 refuses an xsave record of {len(xsave):,} bytes"
            self._note("v2-stream 23.9", text, event.offset)
        return xsave

    def shared_info(self, event: SharedInfo) -> Iterator[Segment]:
        if self.facts.two_levels:  # known behind the vCPUs
            raise self._refused(TWO_LEVELS, event.offset, "vCPU 0")
        yield self._record(RecordType.SHARED_INFO, event.page)
        yield from self._end_of_libxc()

    def hvm_magic(self, event: HvmMagic) -> Iterator[Segment]:
        params = [(int(param), value) for param, value in zip(hvm.MAGIC_PARAMS, event.values, strict=True)]
        for number, value in params:
            if not value:
                self._note(
                    "v2-stream 23.12",
                    f"HVM parameter {number} is 0: restore will clear frame 0",
                    event.offset,
                )
        self.records[RecordType.HVM_PARAMS] += 1
        yield Literal(framing.hvm_params(params))

    def hvm_context(self, event: HvmContext) -> Iterator[Segment]:
        yield self._record(RecordType.HVM_CONTEXT, event.context)
        yield from self._end_of_libxc()

    def _end_of_libxc(self) -> Iterator[Segment]:
        yield self._record(RecordType.END)
        numbering = self.choice.target.libxl
        if numbering.xenstore_pairs:
            if pairs := b"".join(self._xenstore_pairs(event) for event in self._toolstack):
                yield Literal(framing.record(numbering.xenstore_data, framing.struct(libxl.EMULATOR) + pairs))
        else:
            for blob in filter(None, (event.payload for event in self._toolstack)):
                yield Literal(framing.record(numbering.xenstore_data, blob))

    def device_model(self, event: DeviceModel) -> Iterator[Segment]:
        self._device_model = True
        if self._shape_guest is Guest.PV or self.choice.skip_qemu:
            return
        if self.choice.wrapping.structured:
            self._state = event.state
            return
        length = event.state.length
        if self._libxl:
            yield Literal(framing.emulator_context_head(self.choice.target.libxl.emulator_context, length))
        else:  # the record as it came; a pipe does not give its head a second time
            yield Literal(event.row.head(length))
        yield Range(event.state.offset, length, "device-model record", event.state.source)
        if self._libxl:
            yield Literal(framing.padding(length))

    def carried_record(self, event: CarriedRecord) -> Iterator[Segment]:
        """What XenServer has behind its stream goes where it can be restored (containers.md 9.4)."""
        record, item = event.record, f"xapi record {event.record.name}"
        if record.type is XapiRecordType.END_OF_IMAGE:
            self._structured_end = True
        elif not self.choice.wrapping.structured:
            self._note("containers 9.4", f"not carried: {item}, {record.length:,} bytes", event.offset)
        elif record.type is not XapiRecordType.QEMU_TRAD or not self.choice.skip_qemu:
            if record.type is XapiRecordType.QEMU_TRAD:
                if self._device_model:
                    raise self._refused("two states of a device model", event.offset, item)
                self._device_model = True
            yield Literal(xapi.record(record.type, length=record.length))
            yield Range(event.body.offset, record.length, item, event.body.source)

    def end_of_image(self, event: EndOfImage) -> Iterator[Segment]:
        for held in self._held:
            yield from self._made_of(held)
        if self._shape_guest is Guest.HVM and not self._device_model and not self.image.to_tail:
            self._without_device_model(event)
        if self._libxl:
            yield Literal(framing.record(self.choice.target.libxl.end))
        if self.choice.wrapping.structured:
            yield from self._end_of_structured(event)

    def _end_of_structured(self, event: EndOfImage) -> Iterator[Segment]:
        """The state of the device model, and the last record."""
        if isinstance(self.image.carried.header, StructuredHeader) and not self._structured_end:
            raise InvalidImage(
                path=self.image.source.path,
                offset=event.offset,
                item="xapi records",
                found="some that cannot be read",
                expected="all up to End_of_image: they are copied",
                hint="--container none leaves them out",
            )
        if self._state:
            yield Literal(xapi.record(XapiRecordType.QEMU_TRAD, length=self._state.length))
            yield Range(self._state.offset, self._state.length, "device-model record", self._state.source)
        yield Literal(xapi.end())

    def _without_device_model(self, event: EndOfImage) -> None:
        if not self._libxl:
            self._note("19.9", "no device-model record: toolstacks cannot resume this guest", event.offset)
            return
        hint = "--format libxc" if self.image.source.seekable else "--format libxc, or --spool DIR, or a file"
        raise InvalidImage(
            path=self.image.source.path,
            offset=event.offset,
            item="device-model record",
            found="none",
            expected="one: libxl format needs it for an HVM guest (19.9)",
            hint=f"give {hint}",
        )


def _item(event: Chunk) -> str:
    return f"chunk {event.row.id} ({event.row.name})"


def _pages(event: PageBatch, first: int, count: int) -> Range:
    offset = event.pages.offset + first * pages.PAGE_SIZE
    return Range(offset, count * pages.PAGE_SIZE, f"{event.item}, pages", event.pages.source)


RULES: Final[dict[type, Callable[[Planner, Any], Iterator[Segment]]]] = {
    ExtendedInfo: Planner.extended_info,
    P2mFrames: Planner.p2m_frames,
    PageBatch: Planner.page_batch,
    Chunk: Planner.chunk,
    StartOfBody: Planner.start_of_body,
    EndOfBody: Planner.end_of_body,
    Unmapped: Planner.unmapped,
    Vcpu: Planner.vcpu,
    SharedInfo: Planner.shared_info,
    HvmMagic: Planner.hvm_magic,
    HvmContext: Planner.hvm_context,
    DeviceModel: Planner.device_model,
    CarriedRecord: Planner.carried_record,
    EndOfImage: Planner.end_of_image,
}
"""OnlineVcpus gives nothing; the reader numbers the vCPU records by it."""
