"""Writing a file with holes: blocks of zeros are not written, and take no room."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from xenmig_np.io.sink import Sink, write_all
from xenmig_np.limits import KIB

BLOCK: Final = 4096
"""Bytes of a file system's block: a smaller hole takes the room all the same."""
HOLE_MIN: Final = 32 * KIB
"""A smaller hole costs more than it saves: one write more, and one extent more of the file."""
HOLE: Final = re.compile(b"\0{%d,}" % (HOLE_MIN // BLOCK))
"""Among bytes that say of each block whether there is anything in it."""


class SparseSink(Sink):
    """Executes segments on a file, from offset :attr:`at` on, which has nothing there yet."""

    def _write(self, parts: list[bytes | memoryview]) -> None:
        if self.at is None:
            raise RuntimeError("holes are made by leaving out offsets")
        at = first = reached = self.at
        waiting: list[bytes | memoryview] = []
        for part in parts:
            for begin, end in _extents(part, at):
                if at + begin > reached:  # behind a hole
                    write_all(self._fd, self._path, waiting, first)
                    waiting, first = [], at + begin
                waiting.append(part[begin:end])
                reached = at + end
            at += len(part)
        write_all(self._fd, self._path, waiting, first)


def _extents(part: bytes | memoryview, at: int) -> list[tuple[int, int]]:
    """(begin, end) of what has to be written of bytes that go to ``at``: all but holes."""
    begin = -at % BLOCK
    count = (len(part) - begin) // BLOCK
    if count <= 0:
        return [(0, len(part))] if len(part) else []
    # as booleans: a look at a block ends at its first byte that is not zero
    blocks = np.frombuffer(part, np.bool_, count * BLOCK, begin).reshape(count, BLOCK)
    holes = HOLE.finditer(blocks.any(axis=1).tobytes())
    edges = [begin + BLOCK * block for hole in holes for block in hole.span()]
    bounds = [0, *edges, len(part)]
    return [(low, high) for low, high in zip(bounds[::2], bounds[1::2], strict=True) if low < high]
