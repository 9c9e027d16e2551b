"""What ``--verbose`` tells: the events of an image in the words of the original converter.

They are those of Xen 4.6 to 4.13 (reference-tools.md 6.1); for target xen-4.14 the TSC has its later name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from xenmig_np.conversion.physmap import xenstore_pairs
from xenmig_np.options import Format
from xenmig_np.read.events import (
    AnyEvent,
    Block,
    Chunk,
    DeviceModel,
    EndOfBody,
    EndOfImage,
    ExtendedInfo,
    HvmContext,
    HvmMagic,
    OnlineVcpus,
    P2mFrames,
    P2mSize,
    SharedInfo,
    Unmapped,
    Vcpu,
)
from xenmig_np.read.toolstack import physmaps
from xenmig_np.wire import legacy, libxc
from xenmig_np.wire.legacy import Payload
from xenmig_np.wire.targets import TARGET_BY_NAME

if TYPE_CHECKING:
    from xenmig_np.conversion.run import Request
    from xenmig_np.read.image import LegacyImage

NAMES: Final = {-16: "hvm_monitor_ring_pfn"}
"""Chunks that the original names otherwise than the format does."""
PARAMS: Final = {
    -3: "  EPT Identity Pagetable: 0x%x",
    -4: "  VM86 TSS: 0x%x",
    -8: "  Console pfn: 0x%x",
    -10: "  ACPI ioport location: 0x%x",
    -11: "  Viridian location: 0x%x",
    -14: "  Generation ID Address: 0x%x",
    -15: "  Paging ring pfn: 0x%x",
    -16: "  Monitor ring pfn: 0x%x",
    -17: "  Sharing ring pfn: 0x%x",
    -19: "  IOREQ server pfn: 0x%x",
    -20: "  IOREQ server pages: %d",
    -21: "  x87 FIP width: %d",  # unknown to the original
}
SIGNS: Final = {
    legacy.VERIFY_MODE: "This is a debug stream",
    legacy.LAST_CHECKPOINT: "  Last Checkpoint",
}
"""Chunks without a payload."""


class Lines:
    """Listens to an image and tells its events, those of the first reading if there are several."""

    def __init__(self, tell: Callable[[str], None], image: LegacyImage, request: Request) -> None:
        self._tell = tell
        self._shape = image.detected.shape
        self._path = image.source.path
        self._target = TARGET_BY_NAME[request.target]
        self._libxl = request.format is Format.LIBXL
        self._per_frame = 0
        self._unmapped_bytes = 0
        self._over = False
        if image.carried.xl:
            tell("Processed xl header")

    def __call__(self, event: AnyEvent) -> None:
        if not self._over and (lines := LINES.get(type(event))):
            for line in lines(self, event):
                self._tell(line)
        self._over |= isinstance(event, EndOfImage)

    def p2m_size(self, event: P2mSize) -> Iterator[str]:
        yield f"P2M Size: {event.value:#x}"

    def extended_info(self, event: ExtendedInfo) -> Iterator[str]:
        self._per_frame = event.guest.frames_per_page
        if event.length:
            head = self._shape.word.itemsize + legacy.EXTENDED_HEAD.itemsize
            yield f"Extended Info: length {event.length - head:#x}"
            for block in event.blocks:
                yield from self._block(block, event)

    def _block(self, block: Block, info: ExtendedInfo) -> Iterator[str]:
        yield f"  Record type: {_text(block.id)}, size {block.size:#x}"
        if block.id == b"vcpu":
            yield f"    {info.guest.width * 8}bit domain, {info.guest.levels} levels"
        elif block.id == b"xcnt":
            yield f"xcnt sz {info.xcnt:#x}"

    def p2m_frames(self, event: P2mFrames) -> Iterator[str]:
        yield f"P2M frames: fpp {self._per_frame}, p2m_frame_len {event.frames.size}"

    def chunk(self, event: Chunk) -> Iterator[str]:
        row = event.row
        yield f"Chunk: {row.id} - {NAMES.get(row.id, row.name)}"
        if row.param is not None:
            yield PARAMS[row.id] % event.value
        elif row.payload is Payload.TSC_INFO:
            yield self._tsc(event)
        elif row.payload is Payload.TOOLSTACK and event.payload:
            yield from self._toolstack(event)
        elif row.id in SIGNS:
            yield SIGNS[row.id]

    def _tsc(self, event: Chunk) -> str:
        name = "X86_TSC_INFO" if self._target.libxc_version >= libxc.VERSION_414 else "TSC_INFO"
        value = event.value
        counts = f"{value['nsec']} ns, {value['khz']} khz, {value['incarnation']} incarn"
        return f"  {name}: mode {value['mode']}, {counts}"

    def _toolstack(self, event: Chunk) -> Iterator[str]:
        yield f"  Toolstack Data: sz {len(event.payload):#x}"
        if not self._libxl:
            yield "    Discarding"
        elif self._target.libxl.xenstore_pairs:
            at = event.offset + event.length - len(event.payload)
            entries = physmaps(event.payload, self._shape.width, path=self._path, offset=at)
            yield f"    Version 1, count {len(entries)}"
            texts = [_text(text) for text in xenstore_pairs(entries).split(b"\0")]
            for key, value in zip(texts[:-1:2], texts[1::2], strict=True):
                yield f"    '{key}' = '{value}'"

    def online_vcpus(self, event: OnlineVcpus) -> Iterator[str]:
        yield from self.chunk(event)
        yield f"  Vcpu info: max_id {event.value}, online map {list(event.ids)}"

    def end_of_body(self, event: EndOfBody) -> Iterator[str]:  # noqa: ARG002 - all have one form
        yield f"Chunk: {legacy.END} - end"
        yield "  End"

    def unmapped(self, event: Unmapped) -> Iterator[str]:
        self._unmapped_bytes += event.length
        entries = (self._unmapped_bytes - legacy.UNMAPPED_HEAD.itemsize) // self._shape.word.itemsize
        if event.last and entries:
            yield f"discarding {entries} bogus 'unmapped pfns'"

    def vcpu(self, event: Vcpu) -> Iterator[str]:
        yield f"Got VCPU basic (size {len(event.context):#x})"
        if event.extended is not None:
            yield f"Got VCPU extd (size {len(event.extended):#x})"
        if event.xsave is not None:
            yield f"Got VCPU xsave (mask {event.xsave_mask:#x}, size {len(event.xsave):#x})"

    def shared_info(self, event: SharedInfo) -> Iterator[str]:  # noqa: ARG002
        yield "Got shinfo"

    def hvm_magic(self, event: HvmMagic) -> Iterator[str]:
        yield f"Magic pfns: {' '.join(f'{value:#x}' for value in event.values)}"

    def hvm_context(self, event: HvmContext) -> Iterator[str]:
        yield f"Got HVM Context ({event.length:#x} bytes)"

    def device_model(self, event: DeviceModel) -> Iterator[str]:
        yield f"Qemu signature: {_text(event.row.signature.strip())}"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


LINES: Final[dict[type, Callable[[Lines, Any], Iterator[str]]]] = {
    P2mSize: Lines.p2m_size,
    ExtendedInfo: Lines.extended_info,
    P2mFrames: Lines.p2m_frames,
    Chunk: Lines.chunk,
    OnlineVcpus: Lines.online_vcpus,
    EndOfBody: Lines.end_of_body,
    Unmapped: Lines.unmapped,
    Vcpu: Lines.vcpu,
    SharedInfo: Lines.shared_info,
    HvmMagic: Lines.hvm_magic,
    HvmContext: Lines.hvm_context,
    DeviceModel: Lines.device_model,
}
