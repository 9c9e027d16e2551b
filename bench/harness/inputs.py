"""The inputs of the cases: made when they are wanted, kept while there is room."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from harness import machine, work
from harness.pairs import MIB
from harness.processes import Command, Pipeline, run


class NoRoom(Exception):
    """The folder cannot hold what a case needs; the text says how much that is."""


@dataclass(frozen=True)
class Input:
    """A legacy image, a stream made of one, or a folder of many small images."""

    form: str
    """"image", "stream" or "many"."""
    guest: str
    width: int
    memory: int
    """Bytes, of each guest."""
    zeros: float
    """Share of zero pages."""
    count: int = 1

    @property
    def size(self) -> int:
        """Bytes on disk, rather a few too many: heads take 0.2 % of an image, the tail less than 1 MiB."""
        return self.count * (self.memory + self.memory // 128 + MIB // 2)


class Inputs:
    """The inputs in a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._made: dict[Input, str] = {}
        self._numbers = 0

    def ready(self, wanted: tuple[Input, ...], spare: int) -> dict[Input, str]:
        """Where the wanted inputs are, with ``spare`` bytes left beside them.

        The oldest of the others go if they stand in the way. Raises :class:`NoRoom`,
        :class:`harness.processes.Failed`.
        """
        missing = [one for one in wanted if one not in self._made]
        needed = sum(one.size for one in missing) + spare
        for old in [one for one in self._made if one not in wanted]:
            if machine.room(self.folder) < needed:
                remove(self._made.pop(old))
        if (room := machine.room(self.folder)) < needed:
            raise NoRoom(f"needs {needed / MIB:,.0f} MiB more in {self.folder}, which has {room / MIB:,.0f}")
        for one in missing:
            self._numbers += 1
            path = os.path.join(self.folder, f"{one.form}{self._numbers}")
            run(_maker(one, path))
            self._made[one] = path
        return {one: self._made[one] for one in wanted}


def _maker(wanted: Input, path: str) -> Pipeline:
    if wanted.form == "many":
        count, memory, zeros = str(wanted.count), str(wanted.memory), str(wanted.zeros)
        return Pipeline((work.by_library("samples", path, count, memory, zeros),))
    shape = (f"--guest={wanted.guest}", f"--width={wanted.width}", f"--zeros={wanted.zeros}")
    sample = ("sample", "--quiet", *shape, f"--memory={wanted.memory}B")
    if wanted.form == "image":
        return Pipeline((work.ours(*sample, path),))
    convert: Command = work.ours("convert", "--quiet", "--no-sync", *work.STREAM_OPTIONS, "-", path)
    return Pipeline((work.ours(*sample, "-"), convert))


def remove(path: str) -> None:
    """A file or a folder, if it is there."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def forget(path: str) -> None:
    """Drop what the page cache holds of a file or of the files of a folder; it takes no privilege."""
    names = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
