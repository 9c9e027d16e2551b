"""Files that are parts of one image, which was split between them, as one input."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from xenmig_np.errors import XenmigError
from xenmig_np.io.source import FileSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


class Joined(FileSource):
    """Files one behind the other: offsets go on from each to the next.

    Takes the files over. An error that leaves the context manager names the file it is in, and the offset
    there.
    """

    def __init__(self, files: Sequence[FileSource]) -> None:
        first = files[0]
        super().__init__(first.fd, f"{first.path} and {len(files) - 1} more", owned=False)
        self.fds = tuple(file.fd for file in files)
        self.paths = tuple(file.path for file in files)
        self._files = files
        lengths = [(file.end or 0) - file.start for file in files]
        self._begins = list(accumulate([first.start, *lengths[:-1]]))
        self.end = self._begins[-1] + lengths[-1]

    def _place(self, offset: int) -> tuple[FileSource, int]:
        """The file that has the byte at ``offset``, and where; behind the end it is the last one."""
        index = max(bisect_right(self._begins, offset) - 1, 0)
        file = self._files[index]
        return file, offset - self._begins[index] + file.start

    def read_at(self, offset: int, into: memoryview) -> int:
        done = 0
        while done < len(into):
            file, at = self._place(offset + done)
            here = max((file.end or 0) - at, 0) if file is not self._files[-1] else len(into)
            count = file.read_at(at, into[done : done + here])
            if not count:
                break
            done += count
        return done

    def splice_from(self, offset: int) -> tuple[int, int]:
        file, at = self._place(offset)
        return file.fd, at

    def leave(self, at: int) -> None:
        file, there = self._place(at)
        file.leave(there)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, XenmigError) and error.path == self.path and error.offset is not None:
            file, error.offset = self._place(error.offset)
            error.path = file.path
