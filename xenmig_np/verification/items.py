"""Compares the small things of two states: numbers, blobs, configuration, frames of the p2m."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from xenmig_np.errors import Note
from xenmig_np.limits import MIB
from xenmig_np.read.places import Extent
from xenmig_np.verification.comparison import Differences, Subject
from xenmig_np.verification.restored import NO_FRAME, Item

if TYPE_CHECKING:
    from xenmig_np.io.source import Source
    from xenmig_np.verification.restored import Restored


def compare_items(
    found: Restored, expected: Restored, differences: Differences, left_out: list[Note]
) -> Counter[str]:
    """Compare all items; how many are the same, by what they are."""
    same: Counter[str] = Counter()
    for subject in dict.fromkeys([*expected.items, *found.items]):
        here, there = found.items.get(subject), expected.items.get(subject)
        if here is None or there is None:
            offsets = here.offset if here else None, there.offset if there else None
            differences.tell(subject, offsets, _shown(here), _shown(there))
            continue
        at = _first_difference(found.source, here, expected.source, there)
        if at is None:
            same[subject.what] += 1
        elif there.shorter is not None and here.value == there.shorter:
            same[subject.what] += 1
            left_out.append(Note("D25", f"{subject}: what the vCPU never used is cut off", there.offset))
        else:
            differences.tell(
                subject,
                (here.offset + at, there.offset + at),
                _shown(here, found.source, at),
                _shown(there, expected.source, at),
            )
    return same


def _first_difference(source: Source, here: Item, original: Source, there: Item) -> int | None:
    """Bytes to the first one that differs, 0 for numbers; None: they are the same."""
    if isinstance(here.value, int) or isinstance(there.value, int):
        return None if here.value == there.value else 0
    lengths = _length(here), _length(there)
    for at in range(0, min(lengths), MIB):
        size = min(MIB, min(lengths) - at)
        parts = [_part(source, here, at, size), _part(original, there, at, size)]
        if parts[0] != parts[1]:
            a, b = (np.frombuffer(part, np.uint8) for part in parts)
            return at + int(np.argmax(a != b))
    return None if lengths[0] == lengths[1] else min(lengths)


def _length(item: Item) -> int:
    if isinstance(item.value, int):
        return 0
    return item.value.length if isinstance(item.value, Extent) else len(item.value)


def _part(source: Source, item: Item, at: int, size: int) -> bytes:
    """Bytes of an item; fewer where the file has become shorter."""
    if isinstance(item.value, Extent):
        part = bytearray(size)
        got = source.read_at(item.value.offset + at, memoryview(part))
        return bytes(part[:got]) + b"\0" * (size - got)
    return item.value[at : at + size] if isinstance(item.value, bytes) else b""


def _shown(item: Item | None, source: Source | None = None, at: int = 0) -> str:
    """Some bytes of an item from ``at`` on, or its value."""
    if item is None:
        return "none"
    if isinstance(item.value, int):
        return f"{item.value:#x}"
    length = _length(item)
    some = _part(source, item, at, min(8, length - at)).hex(" ") if source else ""
    return f"{some} of {length:,} bytes".lstrip() if some else f"{length:,} bytes"


def compare_frames(found: Restored, expected: Restored, differences: Differences) -> Counter[str]:
    """The frames of the p2m, by their place in the list."""
    count = max(len(found.frames), len(expected.frames))
    here, there = (np.full(count, NO_FRAME, np.uint64) for _ in range(2))
    here[: len(found.frames)] = found.frames
    there[: len(expected.frames)] = expected.frames
    wrong = np.flatnonzero(here != there)
    told = wrong[: differences.room].tolist()
    for index in told:
        offsets = [
            int(state.frames_at[index]) if index < len(state.frames) else None for state in (found, expected)
        ]
        names = ["none" if pfn == NO_FRAME else f"{int(pfn):#x}" for pfn in (here[index], there[index])]
        differences.tell(Subject("p2m frame", index), (offsets[0], offsets[1]), *names)
    differences.count("p2m frame", len(wrong) - len(told))
    return Counter({"p2m frame": count - len(wrong)} if count > len(wrong) else {})
