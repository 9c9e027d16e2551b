"""Inputs: bytes by offset, from files and block devices; forward only from pipes.

Nothing is mapped: a file that is truncated under a mapping kills the process, a short read is an error.
What is compressed is read as what is in it (:mod:`xenmig_np.io.compressed`, imported where it is needed).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Self

from xenmig_np.errors import (
    InputOutputError,
    InvalidImage,
    NotRecognised,
    NotSupported,
    Refused,
    UsageError,
)
from xenmig_np.io.forward import Descriptor, Forward
from xenmig_np.limits import HEADS, MIB, PIECE, REPLAY_MAX
from xenmig_np.wire import compression

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from xenmig_np.wire.compression import Compression

Part = str | bytes | os.PathLike[str] | os.PathLike[bytes] | int | IO[bytes]
"""A path, a descriptor, or an open binary file."""
Input = Part | Sequence[Part]
"""Several are the parts of an image that was split, in their order."""

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
        self.fds: tuple[int, ...] = (fd,)
        """All that is read."""
        self.path = path
        self.paths: tuple[str, ...] = (path,)
        """Of all that is read: what errors name."""
        self.start = 0
        """Offset at which the input begins (a descriptor may stand in the middle of a file)."""
        self.end: int | None = None
        """Offset of its end; None: unknown."""
        self.compression: Compression | None = None
        """What it was decompressed from; of a pipe it is known once something was read."""
        self._owned = owned

    @abstractmethod
    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill ``into`` from ``offset`` on and return the number of bytes: fewer only at the end.

        Raises :class:`InputOutputError`.
        """

    @property
    def known_end(self) -> int | None:
        """As ``end``, and None where finding it would take a pass over the input."""
        return self.end

    def release(self) -> None:  # noqa: B027 - most sources keep nothing
        """Nothing before the next read is needed again."""

    def leave(self, at: int) -> None:  # noqa: B027 - pipes stand there, they were read no further
        """The image ends at ``at``: whoever shares the descriptor goes on there."""

    def splice_from(self, offset: int) -> tuple[int, int | None] | None:  # noqa: ARG002 - most have none
        """Where the kernel finds the bytes at ``offset``: a descriptor, and the offset in it if it has any.

        None: it does not, they have to be read.
        """
        return None

    def spliced(self, count: int) -> None:  # noqa: B027 - files stand nowhere
        """The kernel has taken ``count`` bytes from where :meth:`splice_from` said."""

    def finish(self) -> None:  # noqa: B027 - only archives have something at their end
        """The image has been read: an archive is read on to its end, where its checksums are.

        Raises as :meth:`read_at`. Done by the context manager too, unless an error was raised that a damaged
        archive does not explain.
        """

    def close(self) -> None:
        if self._owned:
            os.close(self.fd)
            self._owned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            broken = kind is not None and issubclass(kind, InvalidImage)
            if kind is None or (broken and not issubclass(kind, NotRecognised)):
                self.finish()
        finally:
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

    def splice_from(self, offset: int) -> tuple[int, int | None]:
        return self.fd, offset

    def leave(self, at: int) -> None:
        try:
            os.lseek(self.fd, at, os.SEEK_SET)
        except OSError as error:
            raise self.failed(error) from error


class StreamSource(Source):
    """A pipe, socket or terminal: forward only.

    Until :meth:`release` everything read is kept, so that detection can look at the beginning.
    ``exact`` says that what follows the image belongs to the next reader: what was asked for is read and not
    a byte more, and nothing is decompressed. Otherwise the first read decides whether to decompress; then
    reading raises as :class:`xenmig_np.io.compressed.Decompressed` does.
    """

    seekable = False
    heads = 0

    def __init__(self, fd: int, path: str, *, owned: bool, exact: bool = False) -> None:
        super().__init__(fd, path, owned=owned)
        self.drained = not exact
        self._bytes: Forward = Descriptor(fd, self.failed)
        self._begun = exact
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

    def splice_from(self, offset: int) -> tuple[int, None] | None:
        held = not self._begun or self._keeping or self._kept or self.compression or self._bytes.looked_at
        return None if held or offset != self._at else (self.fd, None)

    def spliced(self, count: int) -> None:
        self._at += count
        self._kept_at = self._at

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
        if not self._begun:
            self._begin()
        done = self._bytes.read(into)
        self._at += done
        return done

    def _begin(self) -> None:
        """Look at the beginning; nothing else is as late, a pipe may have to be waited for."""
        if self._bytes.look(compression.LOOK).startswith(compression.MAGICS):
            from xenmig_np.io.compressed import Decompressed, unpacked  # noqa: PLC0415 - seldom wanted

            self._bytes = unpacked(self._bytes, self.path)
            self.compression = self._bytes.row if isinstance(self._bytes, Decompressed) else None
        self._begun = True

    def finish(self) -> None:
        if self.compression is not None:
            scratch = memoryview(bytearray(PIECE))
            while self._bytes.read(scratch):
                pass


def as_descriptor(path: str, standard: Mapping[str, int]) -> int | None:
    """The descriptor that a name means, else None: opened anew it would stand at the beginning."""
    named = _DESCRIPTOR.fullmatch(path)
    return int(named[1]) if named else standard.get(path)


def open_source(source: Input, *, exact: bool = False) -> Source:
    """Open an input; ``-`` is standard input. What is compressed is decompressed as it is read.

    ``exact``: what is read is left right behind the image, and nothing is decompressed. Raises
    :class:`InputOutputError`, :class:`UsageError` for parts that are no files, and for compressed files as
    :func:`xenmig_np.io.compressed.unpacked` does.
    """
    if isinstance(source, int):
        return _source(source, f"descriptor {source}", owned=False, exact=exact)
    if not isinstance(source, str | bytes | os.PathLike):
        if isinstance(source, Sequence):
            return _joined(source, exact=exact)
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
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        return StreamSource(fd, path, owned=owned, exact=exact)
    return _plain_or_unpacked(FileSource(fd, path, owned=owned), exact=exact)


def _joined(parts: Sequence[Part], *, exact: bool) -> Source:
    """The files of an image that was split; what was compressed before it was split is decompressed."""
    if not parts:
        raise UsageError("no input", found="an empty list")
    if len(parts) == 1:
        return open_source(parts[0], exact=exact)
    from xenmig_np.io.joined import Joined  # noqa: PLC0415 - seldom wanted

    with contextlib.ExitStack() as stack:
        files = [_part(stack.enter_context(open_source(part, exact=True))) for part in parts]
        stack.pop_all()
    return _plain_or_unpacked(Joined(files), exact=exact)


def _part(opened: Source) -> FileSource:
    if not isinstance(opened, FileSource):
        hint = "join them: cat PART... | xenmig-np ... -"
        raise UsageError("a part that is no file", path=opened.path, hint=hint)
    return opened


def _plain_or_unpacked(file: FileSource, *, exact: bool) -> Source:
    file.drained = not exact
    return file if exact else _unpacked(file)


def _unpacked(file: FileSource) -> Source:
    """What is in the file, if it is compressed."""
    begin = memoryview(bytearray(compression.LOOK))
    with contextlib.suppress(InputOutputError):  # told by whoever reads it
        file.read_at(file.start, begin)
    if not bytes(begin).startswith(compression.MAGICS):
        return file
    from xenmig_np.io.compressed import decompressed  # noqa: PLC0415 - as above

    try:
        return decompressed(file)
    except BaseException:
        file.close()
        raise


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
