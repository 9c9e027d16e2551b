"""Contexts of PV vCPUs against the memory of the guest, at the end (v2-stream.md 7.5, 15.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np.read.records import Record, field_offset
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.frames import fault, types_of
from xenmig_np.verification.rule import Broken, rule
from xenmig_np.verification.rules.vcpus import blob, blob_at, canonical
from xenmig_np.wire import pages, vcpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.verification.state import Stream
    from xenmig_np.wire.vcpu import PvGuest

ERROR: Final = Severity.ERROR
GDT_PER_FRAME: Final = pages.PAGE_SIZE // 8
TRAPS: Final = np.dtype([("rest", "<u8"), ("address", "<u8")])


def contexts(stream: Stream) -> Iterator[tuple[int, Record, PvGuest, Any]]:
    """Each vCPU with a context of the right size: its number, record, kind of guest, and the fields."""
    guest = vcpu.PV_BY_WIDTH.get(stream.width or 0)
    if guest is None or stream.end_pfn < 0:
        return
    for number, event in sorted(stream.contexts.items()):
        if len(state := blob(event)) == guest.context.itemsize:
            yield number, event, guest, np.frombuffer(state, guest.context, 1)[0]


def field_at(event: Record, guest: PvGuest, field: str, index: int = 0) -> int:
    """Offset in the input of a field of a context, or of an element of it."""
    part = guest.context[field]
    return blob_at(event, field_offset(guest.context, field) + index * part.base.itemsize)


@rule("X69", ERROR, "v2-stream 15.4", "cr3 and cr1 name tables of the top level", on=Record, record="END")
def page_table_bases(_event: Record, stream: Stream) -> Iterator[Broken]:
    for number, event, guest, context in contexts(stream):
        for register, pfn in _bases(guest, context):
            wrong = f"pfn {pfn:#x}, beyond the highest, {stream.end_pfn:#x}" if pfn > stream.end_pfn else None
            if wrong is None:
                kind = int(types_of(stream, np.array([pfn], np.uint64))[0])
                if pages.LEVEL[kind] == guest.levels:
                    continue
                wrong = f"pfn {pfn:#x} of type {pages.PAGE_TYPES['name'][kind]}"
            offset = field_at(event, guest, "ctrlreg", register)
            yield Broken(offset, f"cr{register} of vCPU {number}: {wrong}", f"a level {guest.levels} table")


def _bases(guest: PvGuest, context: Any) -> Iterator[tuple[int, int]]:  # noqa: ANN401 - a structure's scalar
    """Number and pfn of the control registers that restore translates."""
    base = int(context["ctrlreg"][vcpu.CR3])
    if guest is vcpu.PV32:  # bits above 4 GiB stand below those of the page
        yield vcpu.CR3, (base >> 12 | base << 20) & 0xFFFF_FFFF
        return
    yield vcpu.CR3, base >> 12
    if (user := int(context["ctrlreg"][vcpu.CR1])) & 1:
        yield vcpu.CR1, user >> 12


@rule("X70", ERROR, "v2-stream 15.4", "the GDT lies in plain pages", on=Record, record="END")
def gdt(_event: Record, stream: Stream) -> Iterator[Broken]:
    for number, event, guest, context in contexts(stream):
        entries = int(context["gdt_ents"])
        if entries > vcpu.GDT_ENTRIES_MAX:
            found = f"{entries:,} entries of vCPU {number}"
            yield Broken(field_at(event, guest, "gdt_ents"), found, f"at most {vcpu.GDT_ENTRIES_MAX:,}")
            continue
        for index in range(-(-entries // GDT_PER_FRAME)):
            if wrong := fault(stream, int(context["gdt_frames"][index])):
                offset = field_at(event, guest, "gdt_frames", index)
                yield Broken(offset, f"frame {index} of vCPU {number}: {wrong}", "a page of the guest")
                break


@rule("X71", ERROR, "v2-stream 15.4", "the start info is a plain page", on=Record, record="END")
def start_info(_event: Record, stream: Stream) -> Iterator[Broken]:
    for number, event, guest, context in contexts(stream):
        if not number and (wrong := fault(stream, int(context["edx"]))):
            yield Broken(field_at(event, guest, "edx"), wrong, "a page of the guest")


@rule("X72", ERROR, "v2-stream 7.5", "a hypervisor takes the context", on=Record, record="END")
def acceptable(_event: Record, stream: Stream) -> Iterator[Broken]:
    """Addresses of a 64-bit guest, and the page table of its user mode."""
    for number, event, guest, context in contexts(stream):
        if guest is not vcpu.PV64:
            continue
        if (wild := _wild_address(blob(event))) is not None:
            yield Broken(blob_at(event, wild), f"an address of vCPU {number}", "a canonical one")
        user, offset = int(context["ctrlreg"][vcpu.CR1]), field_at(event, guest, "ctrlreg", vcpu.CR1)
        if user and not user & 1:
            yield Broken(offset, f"cr1 {user:#x} of vCPU {number} without bit 0", "a page table of user mode")
        elif not user and not context["flags"] & vcpu.VGCF_IN_KERNEL:
            yield Broken(offset, f"vCPU {number} in user mode, cr1 0", "a page table of user mode")


def _wild_address(state: bytes) -> int | None:
    """Place of an address in a 64-bit context that is not canonical."""
    offsets = np.array(list(vcpu.ADDRESSES_64.values()))
    traps = np.frombuffer(state, TRAPS, vcpu.TRAPS_64, vcpu.TRAPS_64_AT)["address"]
    addresses = np.concatenate([np.frombuffer(state, "<u8")[offsets // 8], traps])
    traps_at = vcpu.TRAPS_64_AT + 8 + TRAPS.itemsize * np.arange(len(traps))
    wild = np.flatnonzero(~canonical(addresses))
    return int(np.concatenate([offsets, traps_at])[wild[0]]) if len(wild) else None
