"""How a legacy image begins: p2m_size, and for PV extended info and frame list (legacy-stream.md 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xenmig_np import limits
from xenmig_np.read.events import Block, ExtendedInfo, P2mFrames, P2mSize, Remark
from xenmig_np.read.reading import remark
from xenmig_np.wire import legacy, vcpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.read.events import AnyEvent
    from xenmig_np.read.reading import Reading


def p2m_size(reading: Reading) -> P2mSize:
    """The first field (2.1)."""
    at = reading.begin = reading.cursor.at
    reading.p2m_size = reading.cursor.number(reading.shape.word, "p2m_size")
    if not 1 <= reading.p2m_size <= limits.P2M_SIZE_MAX:
        raise reading.invalid(
            at,
            "p2m_size",
            f"{reading.p2m_size:,}",
            f"1 to {limits.P2M_SIZE_MAX:,}",
            hint="a wrong --width, or no legacy image",
        )
    return P2mSize(at, reading.cursor.at - at, reading.p2m_size)


def extended_info(reading: Reading) -> Iterator[AnyEvent]:
    """Extended info of a PV image, or what its absence means (2.2, 2.4)."""
    at = reading.cursor.at
    ones = reading.cursor.peek(reading.shape.word.itemsize)
    if len(ones) == reading.shape.word.itemsize and ones.strip(b"\xff") == b"":
        reading.cursor.take(reading.shape.word.itemsize, "extended info")
        blocks, remarks = _blocks(reading)
        yield from remarks
        reading.info = _described(reading, at, blocks)
    else:  # Xen 3.0 and 3.1: the guest has the toolstack's width (legacy-stream.md 2.4)
        guest = vcpu.PV_BY_WIDTH[reading.shape.width // 8]
        reading.info = ExtendedInfo(at, 0, guest, extended=False, xcnt=0, blocks=())
    yield reading.info


def _blocks(reading: Reading) -> tuple[list[Block], list[Remark]]:
    item = "extended info"
    at = reading.cursor.at
    total = int(reading.cursor.one(legacy.EXTENDED_HEAD, item)["total"])
    if total > limits.EXTENDED_INFO_MAX:
        raise reading.invalid(at, item, f"{total:,} bytes", f"at most {limits.EXTENDED_INFO_MAX:,}")
    end = reading.cursor.at + total
    blocks, remarks = [], []
    while reading.cursor.at < end:
        at = reading.cursor.at
        left = end - at
        if left < legacy.BLOCK_HEAD.itemsize:
            raise reading.invalid(at, item, f"{left} bytes left", "the 8-byte head of a block")
        head = reading.cursor.one(legacy.BLOCK_HEAD, item)
        name, size = head["id"].tobytes(), int(head["size"])
        if size > end - reading.cursor.at:
            raise reading.invalid(
                at,
                f"{item}, block {_shown(name)}",
                f"{size:,} bytes",
                f"at most the {end - reading.cursor.at:,} left",
            )
        known = name == b"vcpu" or name in legacy.BLOCK_SIZES
        blocks.append(Block(name, at, size, reading.cursor.take(size, item)))
        if not known:
            remarks.append(remark("D26", f"unknown block {_shown(name)} in the extended info skipped", at))
    return blocks, remarks


def _described(reading: Reading, at: int, blocks: list[Block]) -> ExtendedInfo:
    """Check the blocks that have a meaning (legacy-stream.md 2.2)."""
    item = "extended info"
    contexts = [block for block in blocks if block.id == b"vcpu"]
    if len(contexts) != 1:
        raise reading.invalid(at, item, f"{len(contexts)} blocks 'vcpu'", "one")
    guest = vcpu.PV_BY_CONTEXT.get(contexts[0].size)
    if guest is None:
        sizes = " or ".join(f"{size:,}" for size in vcpu.PV_BY_CONTEXT)
        raise reading.invalid(
            contexts[0].offset,
            f"{item}, block 'vcpu'",
            f"{contexts[0].size:,} bytes",
            f"{sizes} (a vCPU context)",
        )
    xcnt = 0
    for block in blocks:
        fixed = legacy.BLOCK_SIZES.get(block.id)
        if fixed is not None and block.size != fixed:
            raise reading.invalid(
                block.offset, f"{item}, block {_shown(block.id)}", f"{block.size:,} bytes", f"{fixed}"
            )
        if block.id == b"xcnt":
            xcnt = int(np.frombuffer(block.payload, legacy.XCNT)[0]["size"])
            if xcnt and not limits.XSAVE_MIN <= xcnt <= limits.XSAVE_MAX:
                raise reading.invalid(
                    block.offset,
                    f"{item}, block 'xcnt'",
                    f"{xcnt:,}",
                    f"0 or {limits.XSAVE_MIN} to {limits.XSAVE_MAX:,}",
                )
    extended = any(block.id == b"extv" for block in blocks)
    return ExtendedInfo(at, reading.cursor.at - at, guest, extended, xcnt, tuple(blocks))


def p2m_frames(reading: Reading) -> P2mFrames:
    """The p2m frame list of a PV image (2.3)."""
    at = reading.cursor.at
    per_frame = reading.pv.guest.frames_per_page
    frames = reading.cursor.array(reading.shape.word, -(-reading.p2m_size // per_frame), "p2m frame list")
    return P2mFrames(at, reading.cursor.at - at, frames)


def _shown(name: bytes) -> str:
    return repr(name)[1:]
