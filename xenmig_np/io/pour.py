"""Which way the bytes of a plan take into an output; each gives the same bytes (docs/decisions.md)."""

from __future__ import annotations

import fcntl
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from xenmig_np.io.sink import Sink
from xenmig_np.io.source import FileSource
from xenmig_np.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xenmig_np.io.files import Output
    from xenmig_np.io.plan import Segment
    from xenmig_np.io.source import Source

    Progress = Callable[[int], object]
    Tap = Callable[[list[bytes | memoryview]], object]

PARALLEL_MIN: Final = 64 * MIB
"""Smaller outputs are not worth threads."""
DROP_EVERY: Final = 64 * MIB
"""Bytes written before what lies behind is put on the disk and out of memory."""


class Manner(NamedTuple):
    """How an output is written."""

    sparse: bool = False
    """Blocks of zeros are left out of a file."""
    drop_cache: bool = False
    """Neither input nor output stays in the page cache."""
    compress: str | None = None
    """``gzip``, ``xz`` or ``zstd``."""
    level: int | None = None
    """Of the compression; None: what its own tool takes."""


PLAINLY: Final = Manner()


class Poured(NamedTuple):
    """What has been written."""

    bytes: int
    stored: int
    """As ``bytes``, or what compression has left of them."""


def pour(  # noqa: PLR0913 - what goes where, and how
    source: Source,
    out: Output,
    segments: Iterable[Segment],
    *,
    size: int | None = None,
    manner: Manner = PLAINLY,
    progress: Progress | None = None,
    tap: Tap | None = None,
) -> Poured:
    """Write all segments; ``size``: how many bytes they are, None if they must be written one after another.

    ``tap`` is shown all that is written, in order, but nothing of what is compressed.
    Raises as :meth:`Sink.pour` does, and as :class:`xenmig_np.io.compress.CompressedWriter`.
    """
    mode = os.fstat(out.fd).st_mode
    dropping = _Dropping(source.fds, out.fd, progress) if manner.drop_cache else None
    progress = dropping or progress
    if manner.compress:
        poured = _pour_compressed(source, out, segments, manner, progress)
    elif stat.S_ISFIFO(mode) and tap is None:
        from xenmig_np.io.splice import SpliceSink  # noqa: PLC0415 - of pipes alone

        poured = _whole(SpliceSink(source, out.fd, out.path, progress).pour(segments))
    elif stat.S_ISREG(mode) and not fcntl.fcntl(out.fd, fcntl.F_GETFL) & os.O_APPEND:
        poured = _whole(_pour_file(source, out, segments, size, progress, tap=tap, sparse=manner.sparse))
    else:
        poured = _whole(Sink(source, out.fd, out.path, progress, tap=tap).pour(segments))
    if dropping:
        dropping.drop()
    return poured


def _whole(count: int) -> Poured:
    return Poured(count, count)


def _pour_compressed(
    source: Source, out: Output, segments: Iterable[Segment], manner: Manner, progress: Progress | None
) -> Poured:
    from xenmig_np.io.compress import CompressedWriter, CompressSink  # noqa: PLC0415 - seldom wanted

    writer = CompressedWriter(out.fd, out.path, manner.compress or "", manner.level)
    count = CompressSink(source, writer, progress).pour(segments)
    writer.finish()
    return Poured(count, writer.written)


def _pour_file(  # noqa: PLR0913 - as above
    source: Source,
    out: Output,
    segments: Iterable[Segment],
    size: int | None,
    progress: Progress | None,
    *,
    tap: Tap | None,
    sparse: bool,
) -> int:
    start = os.lseek(out.fd, 0, os.SEEK_CUR)
    new_sink: Callable[[Progress | None], Sink]
    if sparse:
        from xenmig_np.io.sparse import SparseSink  # noqa: PLC0415 - where it is asked for

        new_sink = partial(SparseSink, source, out.fd, out.path, at=start, tap=tap)
    else:
        new_sink = partial(Sink, source, out.fd, out.path, at=start, tap=tap)
    alone = tap is not None or type(source) is not FileSource  # in order, or not to be shared
    if size is not None and size >= PARALLEL_MIN and not alone and _processors() > 1:
        from xenmig_np.io.parallel import pour_parallel  # noqa: PLC0415 - brings threading

        written = pour_parallel(new_sink, segments, start, progress)
    else:
        written = new_sink(progress).pour(segments)
    end = os.lseek(out.fd, start + written, os.SEEK_SET)  # whoever shares the descriptor goes on there
    if sparse and os.fstat(out.fd).st_size < end:
        os.ftruncate(out.fd, end)
    return written


def _processors() -> int:
    return len(os.sched_getaffinity(0))


class _Dropping:
    """Progress on whose way the page cache is freed of what lies behind."""

    def __init__(self, inputs: tuple[int, ...], out: int, progress: Progress | None) -> None:
        self._inputs = inputs
        self._out = out
        self._progress = progress
        self._next = DROP_EVERY

    def __call__(self, written: int) -> None:
        if written >= self._next:
            self.drop()
            self._next = written + DROP_EVERY
        if self._progress:
            self._progress(written)

    def drop(self) -> None:
        for fd in (*self._inputs, self._out):
            mode = os.fstat(fd).st_mode
            if fd == self._out and stat.S_ISREG(mode):
                os.fdatasync(fd)  # what is not on the disk stays in memory
            if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
