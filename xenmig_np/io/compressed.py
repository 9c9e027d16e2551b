"""Compressed inputs: decompressed piece by piece as they are read, and checked to their last byte.

Members of an archive are decompressed one after the other. Behind the last one zeros are padding; anything
else has to be another member, so that an archive with a damaged head in the middle is no shorter image. One
layer is taken off: what is compressed twice is refused.

A pipe stays forward only. A file can be read in any order, by starting again where a reader goes back
further than the window: the passes of a conversion each go forward, so they cost one decompression each and
no space, neither in memory nor on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.errors import InvalidImage, NotSupported, TruncatedImage, XenmigError
from xenmig_np.io.codecs import WINDOW_LOG_MAX, decoder, recognised
from xenmig_np.io.forward import Forward
from xenmig_np.io.source import FileSource, Source
from xenmig_np.limits import HEADS, KIB, PIECE, REPLAY_MAX
from xenmig_np.wire.compression import LOOK

if TYPE_CHECKING:
    from xenmig_np.io.codecs import Member
    from xenmig_np.wire.compression import Compression

BACK: Final = REPLAY_MAX
"""Decompressed bytes of a file that are kept: detection goes back so far, and no reader further often."""
STARTS_MAX: Final = 64
"""Decompressions of one file from its beginning. Conversion and comparison take less than ten."""
READ: Final = 64 * KIB
"""Compressed bytes read at a time."""


class DamagedArchive(InvalidImage):
    """What is compressed cannot be decompressed; the offset is one in the compressed file."""


class TruncatedArchive(DamagedArchive, TruncatedImage):
    """A compressed file ends before its data does."""


class Decompressed(Forward):
    """The decompressed bytes of an archive, in order.

    Reading raises :class:`DamagedArchive`, again and again, :class:`NotSupported` for what takes too much
    memory, and what ``packed`` raises. The end is told only once all checksums were found right.
    """

    def __init__(self, packed: Forward, row: Compression, path: str) -> None:
        super().__init__()
        self.row = row
        self._packed = packed
        self._path = path
        self._new, self._error = decoder(row)
        self._member: Member | None = None
        self._rest = b""
        """Compressed bytes that were read and not decompressed yet."""
        self._read = 0
        """Compressed bytes that were read."""
        self._fed = 0
        """Where those began that were decompressed last."""
        self._made = 0
        """Decompressed bytes."""
        self._failure: XenmigError | None = None

    def _more(self, into: memoryview) -> int:
        done = 0
        while done < len(into) and (piece := self._piece(min(len(into) - done, PIECE))):
            into[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def _piece(self, most: int) -> bytes:
        """The next bytes, at most so many; none at the end of the last member."""
        if self._failure:
            raise self._failure
        while (member := self._member or self._next()) is not None:
            hungry = member.needs_input
            data = self._input() if hungry else b""
            piece = self._decompress(member, data, most)
            if member.eof:
                self._rest = member.unused_data or b""
                self._member = None
            elif hungry and not data and not piece:
                raise self._failed(
                    TruncatedArchive(found=f"its end after {self._so_far()}", expected="more of it")
                )
            if piece:
                self._made += len(piece)
                return piece
        return b""

    def _next(self) -> Member | None:
        """The next member, behind zeros that are padding."""
        while data := self._input():
            self._rest = data.lstrip(b"\0")
            if self._rest:
                self._member = self._new()
                break
        return self._member

    def _input(self) -> bytes:
        data, self._rest = self._rest, b""
        if not data:
            piece = bytearray(READ)
            data = bytes(piece[: self._packed.read(memoryview(piece))])
            self._read += len(data)
        self._fed = self._read - len(data)
        return data

    def _decompress(self, member: Member, data: bytes, most: int) -> bytes:
        try:
            return member.decompress(data, most)
        except self._error as error:
            told = str(error).strip()
            if "memory" in told.lower():
                what = f"{self.row.name} data that takes more than {1 << WINDOW_LOG_MAX:,} bytes of memory"
                hint = f"pipe it through {self.row.tool}"
                raise self._failed(NotSupported(what, hint=hint)) from error
            found = f"damaged data behind {self._so_far()} ({told})"
            raise self._failed(DamagedArchive(found=found)) from error

    def _so_far(self) -> str:
        return f"{self._made:,} decompressed bytes"

    def _failed(self, error: XenmigError) -> XenmigError:
        error.path, error.item = self._path, f"{self.row.name} archive"
        error.offset = self._packed.start + self._fed
        self._failure = error
        return error


def unpacked(packed: Forward, path: str) -> Forward:
    """What is in an archive; what is none, is given back as it is.

    Raises :class:`NotSupported` for an archive in an archive and where a library is missing,
    :class:`DamagedArchive`.
    """
    row = recognised(packed.look(LOOK))
    if row is None:
        return packed
    try:
        found = Decompressed(packed, row, path)
    except NotSupported as error:
        error.path, error.offset = path, packed.start
        raise
    if inner := recognised(found.look(LOOK)):
        raise NotSupported(
            f"{inner.name} data within {row.name} data",
            path=path,
            offset=packed.start,
            item=f"{row.name} archive",
            hint=f"one layer is taken off: pipe it through {row.tool}",
        )
    return found


# ---- files -----------------------------------------------------------------------------------------------


class _FileBytes(Forward):
    """The bytes of a file from its start on."""

    def __init__(self, file: FileSource) -> None:
        super().__init__(file.start)
        self._file = file
        self._at = file.start

    def _more(self, into: memoryview) -> int:
        got = self._file.read_at(self._at, into)
        self._at += got
        return got


class CompressedFile(Source):
    """A file that is compressed: any order, cheap forward; offsets are those of the decompressed bytes.

    Going back further than :data:`BACK` decompresses from the beginning again.
    """

    seekable = True
    heads = HEADS
    drained = True

    def __init__(self, file: FileSource, packed: Decompressed) -> None:
        self._end: int | None = None
        super().__init__(file.fd, file.path, owned=False)
        self.fds = file.fds
        self.compression = self._row = packed.row
        self._file = file
        self._bytes: Forward = packed
        self._starts = 1
        self._window = memoryview(bytearray(2 * BACK))
        self._first = 0
        """Offset of the window."""
        self._filled = 0
        """Bytes in it."""

    @property
    def end(self) -> int | None:
        """Of the decompressed bytes: the first time the rest is decompressed, unless it has been already.

        Raises as :meth:`read_at`.
        """
        while self._end is None:
            self._advance()
        return self._end

    @end.setter
    def end(self, end: int | None) -> None:
        self._end = end

    @property
    def known_end(self) -> int | None:
        return self._end

    def read_at(self, offset: int, into: memoryview) -> int:
        """As of any source; also raises :class:`DamagedArchive` and :class:`NotSupported`."""
        done = 0
        while done < len(into):
            piece = self._kept(offset + done, min(len(into) - done, PIECE))
            if not len(piece):
                break
            into[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def _kept(self, offset: int, length: int) -> memoryview:
        """Decompressed bytes, until the next call: as many as asked for, fewer only at the end."""
        if offset < self._first:
            self._start_again()
        while self._first + self._filled < offset + length and self._advance():
            pass
        at = offset - self._first
        return self._window[at : min(at + length, self._filled)]

    def _advance(self) -> int:
        """Decompress a piece more into the window, which forgets what is too far back."""
        if self._filled + PIECE > len(self._window):
            gone = self._filled - BACK
            self._window[:BACK] = self._window[gone : self._filled]
            self._first += gone
            self._filled = BACK
        got = self._bytes.read(self._window[self._filled : self._filled + PIECE])
        self._filled += got
        if got < PIECE:
            self._end = self._first + self._filled
        return got

    def _start_again(self) -> None:
        if self._starts == STARTS_MAX:
            raise NotSupported(
                f"going back and forth in {self._row.name} data",
                path=self.path,
                hint=f"decompress it first: {self._row.tool}",
            )
        self._starts += 1
        self._bytes = unpacked(_FileBytes(self._file), self.path)
        self._first = self._filled = 0

    def finish(self) -> None:
        while self._end is None:
            self._advance()

    def close(self) -> None:
        self._file.close()


def decompressed(file: FileSource) -> FileSource | CompressedFile:
    """What is in a compressed file; any other file is given back as it is. Raises as :func:`unpacked`."""
    found = unpacked(_FileBytes(file), file.path)
    return CompressedFile(file, found) if isinstance(found, Decompressed) else file
