"""Memory that stays with this machine between two runs, in a process that holds it: ``steady.py BYTES``.

A virtual machine may give free memory back to its host, 2 MiB at a time, and has to get it again when the
next run writes: the same ``cp`` takes 0.5 or 4.5 s then. So memory is taken, and every other MiB of it freed:
what runs get has been there before, and no piece of it is large enough to be given back.
"""

from __future__ import annotations

import mmap
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PIECE = 1 << 20
POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, which the module mmap does not name."""


@contextmanager
def held(size: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has half of so many bytes, and has freed the other half. Raises :class:`MemoryError`."""
    command = (sys.executable, __file__, str(size))
    pipe, silent = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=silent, text=True) as process:
        try:
            if process.stdout is None or not process.stdout.readline():
                raise MemoryError(f"{size / PIECE:,.0f} MiB cannot be held")
            yield process
        finally:
            process.kill()


def main(size: int) -> None:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.madvise(POPULATE_WRITE)
    for at in range(0, size - PIECE, 2 * PIECE):
        memory.madvise(mmap.MADV_DONTNEED, at, PIECE)
    print("held", flush=True)
    sys.stdin.read()  # ends with whoever wanted it


if __name__ == "__main__":
    main(int(sys.argv[1]))
