"""What ``--verbose`` tells: the events of a stream in the words of the original verifier.

They are those of Xen 4.14 and later (reference-tools.md 6.2), where the draft has other things, its own. A
record's name is told before it is checked, what it says only if nothing is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from xenmig_np.read.records import (
    OPTIONAL_NAME,
    AnyLayerRecord,
    AnyRecord,
    DomainHeader,
    ImageHeader,
    LibxlHeader,
    LibxlRecord,
    PageData,
    Record,
)
from xenmig_np.wire import libxc, libxl

NAMES: Final = {
    "END": "End",
    "X86_PV_INFO": "x86 PV info",
    "X86_PV_P2M_FRAMES": "x86 PV P2M frames",
    "X86_PV_VCPU_BASIC": "x86 PV vcpu basic",
    "X86_PV_VCPU_EXTENDED": "x86 PV vcpu extended",
    "X86_PV_VCPU_XSAVE": "x86 PV vcpu xsave",
    "X86_PV_VCPU_MSRS": "x86 PV vcpu msrs",
    "SHARED_INFO": "Shared info",
    "X86_TSC_INFO": "TSC info",
    "HVM_CONTEXT": "HVM context",
    "HVM_PARAMS": "HVM params",
    "TOOLSTACK": "Toolstack",
    "VERIFY": "Verify",
    "CHECKPOINT": "Checkpoint",
    "CHECKPOINT_DIRTY_PFN_LIST": "Checkpoint dirty pfn list",
    "STATIC_DATA_END": "Static data end",
    "X86_CPUID_POLICY": "x86 CPUID policy",
    "X86_MSR_POLICY": "x86 MSR policy",
    "LIBXC_CONTEXT": "Libxc context",
    "EMULATOR_XENSTORE_DATA": "Emulator xenstore data",
    "EMULATOR_CONTEXT": "Emulator context",
    "CHECKPOINT_END": "Checkpoint end",
    "CHECKPOINT_STATE": "Checkpoint state",
    "DOMAIN_JSON": "Domain JSON",
    "XENSTORE_DATA": "Xenstore data",
}
"""Of the records of both layers and numberings; PAGE_DATA is never told."""
GUESTS: Final = {
    libxc.DomainType.X86_PV: "x86 PV",
    libxc.DomainType.X86_HVM: "x86 HVM",
    libxc.DomainType.X86_PVH: "x86 PVH",
    libxc.DomainType.ARM: "ARM",
}
EMULATORS: Final = {
    libxl.EmulatorId.UNKNOWN: "Unknown",
    libxl.EmulatorId.QEMU_TRADITIONAL: "Qemu Traditional",
    libxl.EmulatorId.QEMU_UPSTREAM: "Qemu Upstream",
}


class Lines:
    """Listens to a verification and tells what is read."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._page_data = 0
        """PAGE_DATA records since the last other one."""

    def read(self, event: AnyRecord) -> None:
        match event:
            case PageData():
                self._page_data += 1
            case Record():
                if self._page_data:
                    self._tell(f"Squashed {self._page_data} Page Data records together")
                    self._page_data = 0
                self._tell(f"Libxc Record: {_name(event)}, length {event.body.length}")
            case LibxlRecord():
                self._tell(f"Libxl Record: {_name(event)}, length {event.body.length}")

    def passed(self, event: AnyRecord) -> None:
        match event:
            case LibxlHeader():
                converted = ", legacy converted" if event.options & libxl.CONVERTED_OPTION else ""
                self._tell(f"Libxl Header: little endian{converted}")
            case ImageHeader():
                self._tell(f"Libxc Image Header: Version {event.version}, little endian")
            case DomainHeader():
                self._tell(f"Domain Header: {_domain(event)}")
            case AnyLayerRecord() if lines := LINES.get(event.name):
                for line in lines(event):
                    self._tell(line)


def _name(event: AnyLayerRecord) -> str:
    return f"Optional {event.type:#x}" if event.name == OPTIONAL_NAME else NAMES[event.name]


def _domain(event: DomainHeader) -> str:
    guest = GUESTS[libxc.DomainType(event.type)]
    if event.xen_major == libxc.CONVERTER_MAJOR:
        return f"legacy converted {guest}"
    return f"{guest} from Xen {event.xen_major}.{event.xen_minor}"


# ---- what a record says: its head, which is there, since it has passed -----------------------------------


def _pv_info(event: Record) -> Iterator[str]:
    yield f"  {int(event.head['width']) * 8}bit guest, {event.head['levels']} levels of pagetables"


def _p2m_frames(event: Record) -> Iterator[str]:
    start, end = (int(event.head[field]) for field in ("start_pfn", "end_pfn"))
    yield f"  Start pfn {start:#x}, End {end:#x}"


def _vcpu(event: Record) -> Iterator[str]:
    kind = event.name.rpartition("_")[2].lower()
    size = event.body.length - libxc.VCPU.itemsize
    if not size:
        yield f"Warning: X86_PV_VCPU_{kind} record with zero content"
    yield f"  vcpu{event.head['vcpu_id']} {kind} context, {size} bytes"


def _tsc_info(event: Record) -> Iterator[str]:
    mode, khz, nsec, incarnation, _ = event.head
    yield f"  Mode {mode}, {khz} kHz, {nsec} ns, incarnation {incarnation}"


def _hvm_params(event: Record) -> Iterator[str]:
    if not event.head["count"]:
        yield "Warning: HVM_PARAMS record with zero content"


def _toolstack(_event: Record) -> Iterator[str]:
    yield "  TODO: remove"


def _xenstore_data(event: LibxlRecord) -> Iterator[str]:
    yield f"Emulator Xenstore Data ({EMULATORS[event.head['id']]}, idx {event.head['index']})"
    data = (event.data or b"")[libxl.EMULATOR.itemsize :]
    texts = [text.decode("utf-8", "surrogateescape") for text in data.split(b"\0")]
    for key, value in zip(texts[:-1:2], texts[1::2], strict=True):
        yield f"  '{key}' = '{value}'"


def _emulator_context(event: LibxlRecord) -> Iterator[str]:
    yield f"  Index {event.head['index']}, type {EMULATORS[event.head['id']]}"


LINES: Final[dict[str, Callable[[Any], Iterator[str]]]] = {
    "X86_PV_INFO": _pv_info,
    "X86_PV_P2M_FRAMES": _p2m_frames,
    "X86_PV_VCPU_BASIC": _vcpu,
    "X86_PV_VCPU_EXTENDED": _vcpu,
    "X86_PV_VCPU_XSAVE": _vcpu,
    "X86_PV_VCPU_MSRS": _vcpu,
    "X86_TSC_INFO": _tsc_info,
    "HVM_PARAMS": _hvm_params,
    "TOOLSTACK": _toolstack,
    "EMULATOR_XENSTORE_DATA": _xenstore_data,
    "EMULATOR_CONTEXT": _emulator_context,
}
"""By name; the other records say nothing."""
