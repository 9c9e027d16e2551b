"""The toolstack's data as EMULATOR_XENSTORE_DATA (v2-stream.md 19.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenmig_np.read.toolstack import Physmap


def xenstore_pairs(entries: Iterable[Physmap]) -> bytes:
    """``key NUL value NUL`` for each entry's start, size and name; no name, no such pair (D2)."""
    return b"".join(_pairs(entry) for entry in entries)


def _pairs(entry: Physmap) -> bytes:
    values = {b"start_addr": b"%x" % entry.start_addr, b"size": b"%x" % entry.size}
    if entry.name is not None:
        values[b"name"] = entry.name
    return b"".join(b"physmap/%x/%s\0%s\0" % (entry.phys_offset, key, value) for key, value in values.items())
