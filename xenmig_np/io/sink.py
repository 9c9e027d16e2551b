"""Writing a plan: pages go from the input through one reused buffer to ``writev``, nothing copies them.

A write ends where a block of PIECE bytes of the output does, whatever the sizes of heads and batches are: a
file system has one large folio for such a write, and many small ones for one that begins anywhere.
"""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

from xenmig_np.errors import InputOutputError, TruncatedImage
from xenmig_np.io.plan import Literal
from xenmig_np.limits import PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xenmig_np.io.plan import Range, Segment
    from xenmig_np.io.source import Source

IOV_MAX = os.sysconf("SC_IOV_MAX")


def write_all(fd: int, path: str, parts: list[bytes | memoryview], at: int | None = None) -> None:
    """Write all parts in order with ``writev``, however few bytes each call takes.

    The kernel takes at most IOV_MAX parts and some 2 GiB at a time; pipes and quotas take less. ``at``: the
    offset where they go, with ``pwritev``; None: where the descriptor stands. Raises
    :class:`InputOutputError`.
    """
    views = [memoryview(part) for part in parts if len(part)]
    first = 0
    while first < len(views):
        some = views[first : first + IOV_MAX]
        try:
            count = os.writev(fd, some) if at is None else os.pwritev(fd, some, at)
        except BlockingIOError:
            select.select([], [fd], [])
            continue
        except OSError as error:
            raise write_failed(path, error) from error
        if at is not None:
            at += count
        while first < len(views) and count >= len(views[first]):
            count -= len(views[first])
            first += 1
        if count:
            views[first] = views[first][count:]


def write_failed(path: str, error: OSError) -> InputOutputError:
    """The error that an output could not be written."""
    gone = "writing failed: its reader has gone" if error.errno == errno.EPIPE else "writing failed"
    return InputOutputError(gone, path=path, cause=error)


class Sink:
    """Executes segments of one input on one descriptor, where it stands or from offset ``at`` on.

    ``tap`` is shown all that is written, in order.
    """

    def __init__(  # noqa: PLR0913 - what goes where, and who looks on
        self,
        source: Source,
        fd: int,
        path: str,
        progress: Callable[[int], object] | None = None,
        *,
        at: int | None = None,
        tap: Callable[[list[bytes | memoryview]], object] | None = None,
    ) -> None:
        self.at = at
        self._tap = tap
        self._source = source
        self._fd = fd
        self._path = path
        self._progress = progress
        self._buffer = memoryview(bytearray(PIECE))
        self._used = 0
        self._waiting: list[bytes | memoryview] = []
        self._waiting_bytes = 0
        self.written = 0

    def pour(self, segments: Iterable[Segment]) -> int:
        """Write all segments; returns the bytes written.

        Raises :class:`InputOutputError`, :class:`TruncatedImage`, and what the segments raise.
        """
        for segment in segments:
            if isinstance(segment, Literal):
                self._add(segment.data)
            else:
                self._copy(segment)
        self.flush()
        return self.written

    def flush(self) -> None:
        """Write what has been gathered."""
        self._write(self._waiting)
        if self._tap:
            self._tap(self._waiting)
        self._moved(self._waiting_bytes)
        self._waiting.clear()
        self._waiting_bytes = self._used = 0

    def _write(self, parts: list[bytes | memoryview]) -> None:
        write_all(self._fd, self._path, parts, self.at)

    def _moved(self, count: int) -> None:
        self.written += count
        if self.at is not None:
            self.at += count
        if self._progress and count:
            self._progress(self.written)

    def _add(self, data: bytes | memoryview) -> None:
        """Have these bytes wait, which do not change meanwhile, for the end of their block of the output."""
        data = memoryview(data)
        while len(data) >= (room := self._room()):
            self._wait(data[:room])
            self.flush()
            data = data[room:]
        if len(data):
            self._wait(data)

    def _wait(self, data: memoryview) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if len(self._waiting) >= IOV_MAX:
            self.flush()

    def _room(self) -> int:
        """Bytes up to the end of the block."""
        at = self.written if self.at is None else self.at
        return PIECE - (at + self._waiting_bytes) % PIECE

    def _copy(self, part: Range) -> None:
        source = part.source or self._source
        at, left = part.offset, part.length
        while left:
            piece = self._buffer[self._used : self._used + min(left, self._room())]
            got = source.read_at(at, piece)
            if got < len(piece):
                raise short(source, part, at + got)
            self._used += got
            self._add(piece)
            at += got
            left -= got


def short(source: Source, part: Range, end: int) -> TruncatedImage:
    """The error that the input ends at ``end``, inside of a range."""
    return TruncatedImage(
        path=source.path,
        offset=part.offset,
        item=part.item,
        found=f"the end of the input after {end - part.offset:,} bytes",
        expected=f"{part.length:,} bytes",
    )
