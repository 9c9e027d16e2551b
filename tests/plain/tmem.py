"""Where chunks -5 and -6 end (legacy-stream.md 6)."""

from __future__ import annotations

import struct

PAGE = 4096
ONES = 0xFFFFFFFF


class Invalid(Exception):
    """Neither size of an object id leads to another chunk."""


def end(data: bytes, at: int, chunk: int) -> int:
    """The offset behind the payload that begins at `at`."""
    for oid in (24, 8):
        try:
            behind = _pools(data, at, oid) if chunk == -5 else _extra(data, at, oid)
            (number,) = struct.unpack_from("<i", data, behind)
        except (struct.error, Invalid):
            continue
        if -21 <= number <= 1024:
            return behind
    raise Invalid("tmem")


def _pools(data: bytes, at: int, oid: int) -> int:
    _, _, first, _, _, _, second = struct.unpack_from("<7I", data, at)
    if (first, second) != (ONES, ONES):
        raise Invalid("separator")
    at += 28
    while (pool := struct.unpack_from("<3I", data, at))[0] != ONES:
        _, flags, count = pool
        order = flags >> 4 & 15
        if order > 2:
            raise Invalid("size of pages")
        at += 28
        for _ in range(count):
            begin = data[at : at + oid]
            at += oid
            if begin == b"\xff" * oid:
                break
            at += 4 + (PAGE << order)
            if at > len(data):
                raise Invalid("truncated")
    return at + 4


def _extra(data: bytes, at: int, oid: int) -> int:
    while struct.unpack_from("<I", data, at) != (ONES,):
        at += 4 + oid + 4
    return at + 4
