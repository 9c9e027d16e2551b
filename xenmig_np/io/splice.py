"""Writing into a pipe: pages go from the input to it inside the kernel, heads by gathered writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
from typing import TYPE_CHECKING, Final

from xenmig_np.io.plan import Range
from xenmig_np.io.sink import Sink, short, write_failed
from xenmig_np.limits import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenmig_np.io.source import Source

SPLICE_MIN: Final = 64 * KIB
"""Less is read and written together with what precedes it."""
PIPE_SIZE: Final = MIB
"""What any user may have; the kernel's own choice of 64 KiB wakes the reader sixteen times as often."""
NOT_HERE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EPERM})
"""Errors of descriptors that cannot be spliced, or not to each other."""


class SpliceSink(Sink):
    """Executes segments on a pipe, as :class:`Sink` does."""

    def __init__(
        self, source: Source, fd: int, path: str, progress: Callable[[int], object] | None = None
    ) -> None:
        super().__init__(source, fd, path, progress)
        widen(fd)
        widen(source.fd)

    def _copy(self, part: Range) -> None:
        source = part.source or self._source
        at, end = part.offset, part.offset + part.length
        while at < end and (place := source.splice_from(at)) and end - at >= SPLICE_MIN:
            self.flush()
            if (count := self._splice(*place, end - at)) is None:
                break
            if not count:
                raise short(source, part, at)
            at += count
            source.spliced(count)
            self._moved(count)
        super()._copy(Range(at, end - at, part.item, part.source))

    def _splice(self, fd: int, offset: int | None, most: int) -> int | None:
        """Bytes moved, 0 at the end of the input; None: this input cannot be spliced."""
        while True:
            try:
                return os.splice(fd, self._fd, min(most, MIB), offset_src=offset)
            except BlockingIOError:
                select.select([fd], [], [])
                select.select([], [self._fd], [])
            except OSError as error:
                if error.errno in NOT_HERE:
                    return None
                raise write_failed(self._path, error) from error


def widen(fd: int) -> None:
    """Have a pipe hold more; what is no pipe, or may not, stays as it is."""
    with contextlib.suppress(OSError):
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < PIPE_SIZE:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
