"""The toolstack's chunk: libxl's list of QEMU's physmap entries (legacy-stream.md 3.1, v2-stream.md 19.8)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xenmig_np.errors import InvalidImage
from xenmig_np.wire import legacy


class Physmap(NamedTuple):
    """A range of guest memory that the device model moved; ``name`` None: it has none."""

    phys_offset: int
    start_addr: int
    size: int
    name: bytes | None


def physmaps(payload: bytes, width: int, *, path: str, offset: int) -> list[Physmap]:
    """Entries of the payload of one chunk -18, ``offset`` being where it lies in the input.

    An empty payload has none. Bytes behind the last entry are ignored. Raises :class:`InvalidImage`.
    """
    if not payload:
        return []

    def broken(at: int, found: str, expected: str, hint: str | None = None) -> InvalidImage:
        return InvalidImage(
            path=path, offset=offset + at, item="toolstack data", found=found, expected=expected, hint=hint
        )

    if len(payload) < legacy.TOOLSTACK_HEAD.itemsize:
        raise broken(0, f"{len(payload)} bytes", f"at least {legacy.TOOLSTACK_HEAD.itemsize}")
    head = np.frombuffer(payload, legacy.TOOLSTACK_HEAD, 1)[0]
    if head["version"] != 1:
        raise broken(0, f"version {head['version']}", "version 1")
    entries = []
    at = legacy.TOOLSTACK_HEAD.itemsize
    for index in range(int(head["count"])):
        named = at + legacy.PHYSMAP.itemsize
        if named > len(payload):
            raise broken(
                at, f"{len(payload) - at} bytes left", f"entry {index} of {head['count']}", "a wrong --width?"
            )
        entry = np.frombuffer(payload, legacy.PHYSMAP, 1, at)[0]
        end = named + int(entry["namelen"])
        if end > len(payload):
            raise broken(
                at,
                f"a name of {entry['namelen']:,} bytes in entry {index}",
                f"at most the {len(payload) - named} left",
                "a wrong --width?",
            )
        name = payload[named:end]
        if name and (name[-1] or 0 in name[:-1]):
            raise broken(
                named, f"the name {name!r} in entry {index}", "one NUL, at its end", "a wrong --width?"
            )
        offset_, start, size = (int(entry[field]) for field in ("phys_offset", "start_addr", "size"))
        entries.append(Physmap(offset_, start, size, name[:-1] if name else None))
        at = end + legacy.PHYSMAP_SLACK[width]
    return entries
