"""What follows the body: the tail of each kind of guest, and the device-model record (legacy-stream.md 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import NotSupported
from xenmig_np.read.events import (
    AnyEvent,
    DeviceModel,
    HvmContext,
    HvmMagic,
    SharedInfo,
    Unmapped,
    Vcpu,
)
from xenmig_np.read.places import Extent
from xenmig_np.read.reading import WRONG_PLACE, Reading, remark
from xenmig_np.wire import hvm, legacy, qemu, vcpu
from xenmig_np.wire.legacy import Guest

ITEM: Final = "device-model record"
TRADITIONAL: Final = (
    "the device model is qemu-traditional: Xen 4.6 to 4.20 restore it, with qemu-xen-traditional installed"
)


def _pv_tail(reading: Reading) -> Iterator[AnyEvent]:
    yield from _unmapped(reading)
    for number in reading.online:
        yield from _vcpu(reading, number)
    at = reading.cursor.at
    page = reading.cursor.take(legacy.SHARED_INFO_SIZE, "shared info page")
    yield SharedInfo(at, reading.cursor.at - at, page)


def _unmapped(reading: Reading) -> Iterator[AnyEvent]:
    item = "list of unmapped pfns"
    list_at = at = reading.cursor.at
    count = int(reading.cursor.one(legacy.UNMAPPED_HEAD, item)["count"])
    if count > reading.p2m_size:
        raise reading.invalid(
            at,
            item,
            f"{count:,} entries",
            f"at most p2m_size {reading.p2m_size:,}",
            hint=WRONG_PLACE,
        )
    reading.cursor.check(count * reading.shape.word.itemsize, item)
    outside = 0
    while True:
        some = min(count, limits.MIB // reading.shape.word.itemsize)
        pfns = reading.cursor.array(reading.shape.word, some, item)
        count -= some
        inside = pfns[pfns < reading.p2m_size].astype(np.uint32)
        outside += some - len(inside)
        yield Unmapped(at, reading.cursor.at - at, inside, last=not count)
        at = reading.cursor.at
        if not count:
            break
    if outside:
        yield remark("legacy 7.1", f"{item}: {outside:,} entries beyond p2m_size ignored", list_at)


def _vcpu(reading: Reading, number: int) -> Iterator[AnyEvent]:
    info = reading.pv
    item = f"vCPU {number}"
    at = reading.cursor.at
    context = reading.cursor.take(info.guest.context.itemsize, f"{item}, context")
    extended = reading.cursor.take(vcpu.EXTENDED_SIZE, f"{item}, extended context") if info.extended else None
    xsave, mask = None, 0
    if info.xcnt:
        head_at = reading.cursor.at
        head = reading.cursor.one(vcpu.XSAVE_HEAD, f"{item}, xsave")
        mask, size = int(head["xfeature_mask"]), int(head["size"])
        if not limits.XSAVE_MIN <= size <= limits.XSAVE_MAX:
            raise reading.invalid(
                head_at,
                f"{item}, xsave",
                f"{size:,} bytes",
                f"{limits.XSAVE_MIN} to {limits.XSAVE_MAX:,}",
            )
        xsave = reading.cursor.take(size, f"{item}, xsave")
        if size > info.xcnt - limits.XSAVE_MIN:
            text = f"{item}: xsave record of {size:,} bytes, the extended info announced {info.xcnt - 16:,}"
            yield remark("D4", text, head_at)
    yield Vcpu(at, reading.cursor.at - at, number, context, extended, xsave, mask)


def _hvm_tail(reading: Reading) -> Iterator[AnyEvent]:
    at = reading.cursor.at
    tail = reading.cursor.one(legacy.HVM_TAIL, "HVM tail")
    first, second, third = (int(value) for value in tail["magic_pfns"])
    yield HvmMagic(at, reading.cursor.at - at, (first, second, third))
    at = reading.cursor.at - legacy.U32.itemsize
    length = int(tail["context_length"])
    if not 1 <= length <= limits.HVM_CONTEXT_MAX:
        raise reading.invalid(
            at,
            "HVM context",
            f"{length:,} bytes",
            f"1 to {limits.HVM_CONTEXT_MAX:,} (D27)",
            hint=WRONG_PLACE if length else None,
        )
    context = reading.cursor.take(length, "HVM context")
    if not context.startswith(hvm.CONTEXT_START):
        yield remark("legacy 11.1", "the HVM context does not begin with its header", at)
    yield HvmContext(at + legacy.U32.itemsize, length, context)


def device_model(reading: Reading) -> Iterator[AnyEvent]:
    """The device-model record that may follow (7.3)."""
    if not reading.cursor.source.drained and reading.shape.guest is Guest.PV:
        return  # the bytes behind a PV image belong to somebody else
    reading.hold()
    at = reading.cursor.at
    row = _signature(reading)
    if row is None:
        return
    name = row.signature.decode().strip()
    reading.cursor.take(len(row.signature), ITEM)
    length = _length(reading, row)
    if length > limits.DEVICE_MODEL_MAX:
        raise reading.invalid(at, ITEM, f"{length:,} bytes", f"at most {limits.DEVICE_MODEL_MAX:,}")
    if length > limits.DEVICE_MODEL_USUAL:
        yield remark("containers 6.2", f"the device-model state has {length:,} bytes, usual are some KiB", at)
    version = _version(reading.cursor.peek(min(length, qemu.STATE_HEAD.itemsize)))
    state = Extent(reading.cursor.skip(length, ITEM), length, reading.held)
    if reading.shape.guest is Guest.PV:
        yield remark("containers 2.2", f"a device-model record {name} behind a PV guest left out", at)
    elif row.length is None and version is None:
        yield remark("legacy 7.3", "the device-model state does not begin with QEVM: Xen 4.x refused it", at)
    elif row.traditional:
        yield remark("containers 9.4", TRADITIONAL, at)
    yield DeviceModel(at, reading.cursor.at - at, row, state, version)


def _signature(reading: Reading) -> qemu.DeviceModelRecord | None:
    """The form of the record that begins here. Raises :class:`TruncatedImage` for a part of a signature."""
    start = reading.cursor.peek(qemu.SIGNATURE_SIZE)
    if qemu.DEVICE_MODEL_RECORDS[-1].signature == start:
        start = reading.cursor.peek(qemu.SIGNATURE_SIZE + 1)
    row = next((row for row in qemu.DEVICE_MODEL_RECORDS if start.startswith(row.signature)), None)
    if row is None:
        begun = start and any(row.signature.startswith(start) for row in qemu.DEVICE_MODEL_RECORDS)
        if begun and reading.shape.guest is Guest.HVM:
            raise reading.cursor.truncated(qemu.SIGNATURE_SIZE, ITEM, len(start))
        _not_ours(reading, start)
    return row


def _not_ours(reading: Reading, start: bytes) -> None:
    """Bytes that are no record belong to the next reader, who does not get them from a pipe any more."""
    source = reading.cursor.source
    if start and not source.drained and not source.seekable:
        raise NotSupported(
            f"{start!r} where a device-model record begins",
            path=reading.path,
            offset=reading.cursor.at,
            item=ITEM,
        )


def _length(reading: Reading, row: qemu.DeviceModelRecord) -> int:
    """Bytes of the state; one of version 2 says so itself where no field does (containers.md 6.3)."""
    if row.length is not None:
        return reading.cursor.number(row.length, ITEM)
    head = reading.cursor.peek(qemu.STATE_V2_HEAD.itemsize)
    if len(head) == qemu.STATE_V2_HEAD.itemsize and head.startswith(qemu.STATE_V2_BEGIN):
        return len(head) + int(np.frombuffer(head, qemu.STATE_V2_HEAD)[0]["length"])
    return reading.cursor.left(limits.DEVICE_MODEL_MAX + 1)


def _version(head: bytes) -> int | None:
    if len(head) < qemu.STATE_HEAD.itemsize or not head.startswith(qemu.STATE_MAGIC):
        return None
    return int(np.frombuffer(head, qemu.STATE_HEAD)[0]["version"])


TAILS: Final[dict[Guest, Callable[[Reading], Iterator[AnyEvent]]]] = {
    Guest.PV: _pv_tail,
    Guest.HVM: _hvm_tail,
}
