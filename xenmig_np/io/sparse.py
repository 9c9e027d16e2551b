"""Writing a file with holes: blocks of zeros are not written, and take no room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xenmig_np.io.runs import runs
from xenmig_np.io.sink import Sink, write_all
from xenmig_np.limits import KIB

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK: Final = 4096
"""Bytes of a file system's block: a smaller hole takes the room all the same."""
WORDS: Final = BLOCK // 8
HOLE_MIN: Final = 32 * KIB
"""A smaller hole costs more than it saves: one write more, and one extent more of the file."""


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
    """(begin, end) of what has to be written of bytes that go to ``at``: all but whole blocks of zeros."""
    begin = -at % BLOCK
    count = (len(part) - begin) // BLOCK
    if count <= 0:
        return [(0, len(part))] if len(part) else []
    zeros = _zeros(np.frombuffer(part, np.uint8, count * BLOCK, begin))
    blocks = np.flatnonzero(zeros)
    holes = [(first, number) for first, number in runs(blocks) if number * BLOCK >= HOLE_MIN]
    edges = [begin + BLOCK * block for first, number in holes for block in (first, first + number)]
    bounds = [0, *edges, len(part)]
    return [(low, high) for low, high in zip(bounds[::2], bounds[1::2], strict=True) if low < high]


def _zeros(blocks: NDArray[Any]) -> NDArray[np.bool_]:
    """Which blocks are zeros; a look at one word of each spares most of the work."""
    words = blocks.view("V8").view(np.uint64).reshape(-1, WORDS)
    zeros: NDArray[np.bool_] = words[:, WORDS // 2] == 0
    candidates = np.flatnonzero(zeros)
    if len(candidates):
        zeros[candidates] = np.bitwise_or.reduce(words[candidates], axis=1) == 0
    return zeros
