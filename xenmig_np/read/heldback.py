"""A pipe that can be read again from a place on (v2-stream.md 19.14).

Whether a checkpoint counts is known behind it alone, and how long a device-model record is that reaches to
the end of the input there too. So what a pipe delivers from then on is kept until it is forgotten: a little
in memory, more in a file without a name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from xenmig_np.errors import InputOutputError
from xenmig_np.io.source import Source
from xenmig_np.limits import MIB, PIECE

if TYPE_CHECKING:
    from typing import IO

IN_MEMORY: Final = MIB
"""Bytes that are kept without a file: a usual device-model record."""


class HeldBack(Source):
    """The same bytes at the same offsets as ``source``, from ``at`` on, in any order.

    Nothing is read of ``source`` but what is asked for and what lies before. Raises
    :class:`InputOutputError`, also where no temporary file can be made.
    """

    seekable = False
    heads = 0

    def __init__(self, source: Source, at: int) -> None:
        super().__init__(source.fd, source.path, owned=False)
        self.fds = source.fds
        self.start = at
        self.drained = source.drained
        self._source = source
        self._parts = [_Part(at, source.path)]

    def read_at(self, offset: int, into: memoryview) -> int:
        self._fetch(offset + len(into))
        done = 0
        for part in self._parts:
            done += part.read(offset + done, into[done:])
        return done

    def reaches(self, until: int) -> bool:
        """Whether the input has all bytes before ``until``."""
        self._fetch(until)
        return self._parts[-1].end >= until

    def _fetch(self, until: int) -> None:
        last = self._parts[-1]
        piece = memoryview(bytearray(min(max(until - last.end, 0), PIECE)))
        while last.end < until:
            got = self._source.read_at(last.end, piece[: until - last.end])
            if not got:
                break
            last.add(piece[:got])

    def forget(self, at: int) -> None:
        """Nothing before ``at`` is needed any more; what was fetched later goes when a later call says so."""
        kept = [part for part in self._parts if part.end > at]
        for part in self._parts[: len(self._parts) - len(kept)]:
            part.close()
        self._parts = [*kept, _Part(self._parts[-1].end, self.path)]

    def close(self) -> None:
        for part in self._parts:
            part.close()


class _Part:
    """Bytes from ``first`` up to ``end``: the older ones in a file, the newer ones in memory."""

    def __init__(self, first: int, path: str) -> None:
        self.end = first
        self._path = path
        self._first = first
        self._in_file = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    def add(self, data: memoryview) -> None:
        self._memory += data
        self.end += len(data)
        if len(self._memory) > IN_MEMORY:
            try:
                self._spill()
            except OSError as error:
                raise self._failed(error) from error

    def _spill(self) -> None:
        if self._file is None:
            import tempfile  # noqa: PLC0415 - brings much, and is seldom wanted

            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the part
        done = 0
        while done < len(self._memory):
            rest = self._memory[done : done + PIECE]
            done += os.pwrite(self._file.fileno(), rest, self._in_file + done)
        self._in_file += done
        self._memory.clear()

    def read(self, offset: int, into: memoryview) -> int:
        """Fill ``into`` as far as its bytes are here."""
        done, at = 0, offset - self._first
        if not 0 <= at < self.end - self._first:
            return 0
        try:
            while self._file and done < len(into) and at + done < self._in_file:
                piece = into[done : self._in_file - at]
                done += os.preadv(self._file.fileno(), [piece], at + done)
        except OSError as error:
            raise self._failed(error) from error
        recent = at + done - self._in_file
        piece = memoryview(self._memory)[recent : recent + len(into) - done]
        into[done : done + len(piece)] = piece
        return done + len(piece)

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _failed(self, error: OSError) -> InputOutputError:
        return InputOutputError("what a pipe delivers cannot be kept", path=self._path, cause=error)
