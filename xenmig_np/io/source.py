"""Inputs: bytes by offset, from files and block devices; forward only from pipes.

Nothing is mapped: a file that is truncated under a mapping kills the process, a short read is an error.
"""

from __future__ import annotations

import os
import re
import select
import stat
from abc import ABC, abstractmethod
from typing import IO, TYPE_CHECKING, Self

from xenmig_np.errors import InputOutputError, NotSupported, Refused
from xenmig_np.limits import HEADS, MIB, PIECE, REPLAY_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

Input = str | bytes | os.PathLike[str] | os.PathLike[bytes] | int | IO[bytes]
"""A path, a descriptor, or an open binary file."""

_STANDARD = {"-": 0, "/dev/stdin": 0}
_DESCRIPTOR = re.compile(r"(?:/dev/fd|/proc/self/fd)/([0-9]{1,9})")


class ReplayExhausted(NotSupported):
    """A pipe was asked to keep more than :data:`REPLAY_MAX` bytes for reading again."""


class Source(ABC):
    """Bytes by offset. Offsets count from the beginning of the file, or of what a pipe delivered."""

    seekable: bool
    heads: int
    """Bytes worth reading ahead where a head is expected; 0: never read past what was asked for."""
    drained: bool
    """Whether the bytes behind the image may be read: false where they belong to somebody else."""

    def __init__(self, fd: int, path: str, *, owned: bool) -> None:
        self.fd = fd
        self.path = path
        self.start = 0
        """Offset at which the input begins (a descriptor may stand in the middle of a file)."""
        self.end: int | None = None
        """Offset of its end; None: unknown."""
        self._owned = owned

    @abstractmethod
    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill ``into`` from ``offset`` on and return the number of bytes: fewer only at the end.

        Raises :class:`InputOutputError`.
        """

    def release(self) -> None:  # noqa: B027 - most sources keep nothing
        """Nothing before the next read is needed again."""

    def leave(self, at: int) -> None:  # noqa: B027 - pipes stand there, they were read no further
        """The image ends at ``at``: whoever shares the descriptor goes on there."""

    def close(self) -> None:
        if self._owned:
            os.close(self.fd)
            self._owned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def failed(self, error: OSError) -> InputOutputError:
        return InputOutputError("reading failed", path=self.path, cause=error)


class FileSource(Source):
    """A regular file or a block device: any order, by ``preadv``; the descriptor's offset is not moved."""

    seekable = True
    heads = HEADS
    drained = True

    def __init__(self, fd: int, path: str, *, owned: bool) -> None:
        super().__init__(fd, path, owned=owned)
        try:
            self.start = os.lseek(fd, 0, os.SEEK_CUR)
            self.end = os.lseek(fd, 0, os.SEEK_END)  # st_size of a block device is 0
            os.lseek(fd, self.start, os.SEEK_SET)
        except OSError as error:
            raise self.failed(error) from error

    def read_at(self, offset: int, into: memoryview) -> int:
        done = 0
        try:
            while done < len(into):
                count = os.preadv(self.fd, [into[done:]], offset + done)
                if not count:
                    break
                done += count
        except OSError as error:
            raise self.failed(error) from error
        return done

    def leave(self, at: int) -> None:
        try:
            os.lseek(self.fd, at, os.SEEK_SET)
        except OSError as error:
            raise self.failed(error) from error


class StreamSource(Source):
    """A pipe, socket or terminal: forward only. Reads what was asked for and not a byte more.

    Until :meth:`release` everything read is kept, so that detection can look at the beginning.
    ``exact`` says that what follows the image belongs to the next reader.
    """

    seekable = False
    heads = 0

    def __init__(self, fd: int, path: str, *, owned: bool, exact: bool = False) -> None:
        super().__init__(fd, path, owned=owned)
        self.drained = not exact
        self._kept = bytearray()
        self._kept_at = 0
        self._at = 0
        self._keeping = True

    def release(self) -> None:
        self._keeping = False

    def read_at(self, offset: int, into: memoryview) -> int:
        if offset < self._kept_at:
            raise ValueError(f"{self.path}: a pipe cannot be read at {offset:#x} again")
        if self._keeping:
            self._keep(offset + len(into))
        done = self._replay(offset, into)
        if done < len(into) and not self._keeping:
            self._skip(offset + done)
            done += self._read(into[done:])
            self._kept_at = self._at
        return done

    def _replay(self, offset: int, into: memoryview) -> int:
        """Serve what was kept; once released, forget it when it has been passed."""
        first = offset - self._kept_at
        piece = self._kept[first : first + len(into)]
        into[: len(piece)] = piece
        if not self._keeping and offset + len(into) >= self._kept_at + len(self._kept):
            self._kept_at += len(self._kept)
            self._kept.clear()
        return len(piece)

    def _keep(self, until: int) -> None:
        if until - self._kept_at > REPLAY_MAX:
            raise ReplayExhausted(
                f"more than {REPLAY_MAX:,} bytes before the pages, on a pipe",
                path=self.path,
                hint="give a file, or --spool DIR",
            )
        missing = until - self._at
        if missing > 0:
            more = bytearray(missing)
            self._kept += more[: self._read(memoryview(more))]

    def _skip(self, offset: int) -> None:
        scratch = memoryview(bytearray(min(max(offset - self._at, 0), PIECE)))
        while self._at < offset and self._read(scratch[: offset - self._at]):
            pass

    def _read(self, into: memoryview) -> int:
        done = 0
        while done < len(into):
            try:
                count = os.readv(self.fd, [into[done:]])
            except BlockingIOError:
                select.select([self.fd], [], [])
                continue
            except OSError as error:
                raise self.failed(error) from error
            if not count:
                break
            done += count
        self._at += done
        return done


def as_descriptor(path: str, standard: Mapping[str, int]) -> int | None:
    """The descriptor that a name means, else None: opened anew it would stand at the beginning."""
    named = _DESCRIPTOR.fullmatch(path)
    return int(named[1]) if named else standard.get(path)


def open_source(source: Input, *, exact: bool = False) -> Source:
    """Open an input; ``-`` is standard input. ``exact``: leave what follows the image unread.

    Raises :class:`InputOutputError`.
    """
    if isinstance(source, int):
        return _source(source, f"descriptor {source}", owned=False, exact=exact)
    if not isinstance(source, str | bytes | os.PathLike):
        return _source(source.fileno(), str(source.name), owned=False, exact=exact)
    path = os.fsdecode(source)
    if (number := as_descriptor(path, _STANDARD)) is not None:
        name = "standard input" if path == "-" else path
        return _source(number, name, owned=False, exact=exact)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputOutputError("cannot be opened", path=path, cause=error) from error
    return _source(fd, path, owned=True, exact=exact)


def _source(fd: int, path: str, *, owned: bool, exact: bool) -> Source:
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise InputOutputError("cannot be read", path=path, cause=error) from error
    if os.isatty(fd):
        raise Refused("is a terminal", path=path, hint="redirect it, or name a file")
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        found: Source = FileSource(fd, path, owned=owned)
        found.drained = not exact
        return found
    return StreamSource(fd, path, owned=owned, exact=exact)


def spool(source: Source, folder: str) -> FileSource:
    """Copy a stream into a file without a name in ``folder``, which is then read in its place."""
    import tempfile  # noqa: PLC0415 - brings much, and is seldom wanted

    try:
        with tempfile.TemporaryFile(dir=folder) as kept:
            fd = os.dup(kept.fileno())
    except OSError as error:
        raise InputOutputError("cannot spool", path=folder, cause=error) from error
    source.release()
    buffer = memoryview(bytearray(MIB))
    at = source.start
    try:
        while count := source.read_at(at, buffer):
            at += count
            done = 0
            while done < count:
                done += os.write(fd, buffer[done:count])
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError as error:
        os.close(fd)
        if isinstance(error, InputOutputError):
            raise
        raise InputOutputError("cannot spool", path=folder, cause=error) from error
    return FileSource(fd, source.path, owned=True)
