"""The map of what was lost: a mapfile of ddrescue for the raw memory, and the input in its comments.

GNU ddrescue's tools read it: each line of the list is position, size and status of a part of OUTPUT.raw. The
statuses are those of :class:`xenmig_np.salvage.memory.Status`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from xenmig_np.errors import InputOutputError, UsageError
from xenmig_np.salvage.memory import Status
from xenmig_np.salvage.tolerant import Ranges
from xenmig_np.wire.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xenmig_np.salvage.memory import Memory

STATUSES: Final = dict.fromkeys("?*/-", Status.LOST) | {Status.SAVED.value: Status.SAVED}
"""Of a part of a rescue: not tried, not trimmed, not scraped, bad; finished."""
MEANING: Final = {
    Status.SAVED: "the page is saved",
    Status.OLDER: "a copy is saved, a newer one may have been lost",
    Status.LOST: "lost, or never sent: nothing tells any more",
    Status.ABSENT: "no page: the image never had one, or the guest gave it back",
}


class Unread(NamedTuple):
    """Bytes of the input that were read as nothing."""

    begin: int
    end: int
    why: str
    """``unreadable``, ``zeros`` or ``damaged``."""


def unreadable(path: str) -> Ranges:
    """What a rescue could not read of an image, from the mapfile that ddrescue left beside its copy.

    Raises :class:`UsageError` for what is none, :class:`InputOutputError`.
    """
    try:
        text = Path(path).read_text("ascii")
    except OSError as error:
        raise InputOutputError("cannot be read", path=path, cause=error) from error
    except ValueError as error:
        raise UsageError("no mapfile of ddrescue", path=path) from error
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    bad = Ranges()
    try:
        if not rows[1:]:
            raise UsageError("no mapfile of ddrescue: no part in it", path=path)
        for position, size, status in rows[1:]:  # the first says where the rescue stood
            at, length = int(position, 0), int(size, 0)
            if STATUSES[status] is not Status.SAVED and length:
                bad.add(at, at + length)
    except (ValueError, KeyError) as error:
        raise UsageError("no mapfile of ddrescue", path=path) from error
    return bad


def unread(memory: Memory, begin: int) -> Iterator[Unread]:
    """What of the input from ``begin`` on was read as nothing, and blocks that cannot be read at all."""
    source = memory.source
    end = source.end if source.end is not None else begin
    for low, high in memory.found.seen.gaps(begin, end):
        if not source.bad.meet(low, high):
            yield Unread(low, high, "zeros" if source.zeros(low, high) else "damaged")
            continue
        for good_low, good_high in source.bad.gaps(low, high):
            yield Unread(good_low, good_high, "damaged")
    yield from (Unread(low, min(high, end), "unreadable") for low, high in source.bad)


def lines(memory: Memory, input_name: str, raw_name: str, lost: Iterable[Unread]) -> Iterator[str]:
    """The file, line by line."""
    yield "# Mapfile. Created by xenmig-np: the memory of a guest that was saved in a damaged image."
    yield f"# Image: {input_name!a}"
    yield f"# Memory: {raw_name!a}, the page of pfn N at N * {PAGE_SIZE}"
    for status, meaning in MEANING.items():
        yield f"# {status.value}  {meaning}"
    yield "# Bytes of the image that were read as nothing (position, size, why):"
    for part in lost:
        yield f"# input 0x{part.begin:08X}  0x{part.end - part.begin:08X}  {part.why}"
    yield "# current_pos  current_status  current_pass"
    yield f"0x{0:08X}     +               1"
    yield "#      pos        size  status"
    for first, count, status in memory.ranges():
        yield f"0x{first * PAGE_SIZE:08X}  0x{count * PAGE_SIZE:08X}  {status.value}"
