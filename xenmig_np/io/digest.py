"""Digests of an input and an output, taken while their bytes pass.

A conversion reads pages in order and steps over little between them, so the digest of the input follows the
reads and fetches what they leave out. Order is what it lives by: with a digest, one thread writes.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Final, Protocol

from xenmig_np.errors import InputOutputError, NotSupported, UsageError
from xenmig_np.io.source import FileSource, Source
from xenmig_np.limits import PIECE

if TYPE_CHECKING:
    from collections.abc import Iterable

ALGORITHMS: Final = ("sha256", "xxh3", "none")
"""``sha256`` proves, ``xxh3`` (128 bits) notices accidents at the speed of memory."""


class Hash(Protocol):
    """As the objects of :mod:`hashlib`."""

    def update(self, data: bytes | memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


def new_hash(algorithm: str) -> Hash:
    """Raises :class:`UsageError`, and :class:`NotSupported` where the library is missing."""
    made: Hash
    if algorithm == "sha256":
        made = importlib.import_module("hashlib").sha256()  # brings OpenSSL: some milliseconds
    elif algorithm == "xxh3":
        try:
            made = importlib.import_module("xxhash").xxh3_128()
        except ImportError as error:
            raise NotSupported(
                "xxh3 without the library xxhash", hint="pip install 'xenmig-np[xxhash]'"
            ) from error
    else:
        raise UsageError("digest", found=repr(algorithm), expected=", ".join(ALGORITHMS))
    return made


def file_digest(path: str, algorithm: str) -> str:
    """Hexadecimal digest of a file. Raises :class:`InputOutputError` and as :func:`new_hash`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputOutputError("cannot be opened", path=path, cause=error) from error
    try:
        return descriptor_digest(fd, path, algorithm)
    finally:
        os.close(fd)


def descriptor_digest(fd: int, path: str, algorithm: str) -> str:
    """The same of an open file, from its first byte; its offset is not moved."""
    taken = new_hash(algorithm)
    _hash_range(taken, FileSource(fd, path, owned=False), 0, None)
    return taken.hexdigest()


class Digests:
    """Digests of the file ``path`` and of one output; both are known once :meth:`finish` has been called."""

    def __init__(self, path: str, algorithm: str) -> None:
        self.path = path
        self.algorithm = algorithm
        self.input = ""
        self.output = ""
        self._reader: HashedSource | None = None
        self._written = new_hash(algorithm)
        self._bytes = 0

    def reading(self, source: Source) -> Source:
        """What is to be read in place of ``source``.

        Only the file itself is followed: the digest of an archive is not that of what is in it.
        """
        if type(source) is not FileSource or not os.path.samestat(os.fstat(source.fd), os.stat(self.path)):
            return source
        self._reader = HashedSource(source, new_hash(self.algorithm))
        return self._reader

    def wrote(self, parts: Iterable[bytes | memoryview]) -> None:
        """These bytes of the output come next."""
        for part in parts:
            self._written.update(part)
            self._bytes += len(part)

    def finish(self, fd: int, path: str) -> None:
        """All has been read and written to ``fd``.

        What did not pass by here (an archive, in or out) is read for the purpose. Raises
        :class:`InputOutputError`.
        """
        self.input = self._reader.finished() if self._reader else file_digest(self.path, self.algorithm)
        passed = self._bytes == os.fstat(fd).st_size
        self.output = self._written.hexdigest() if passed else descriptor_digest(fd, path, self.algorithm)


class HashedSource(Source):
    """A file whose bytes are hashed in their order as they are read, each once."""

    seekable = True

    def __init__(self, file: FileSource, taken: Hash) -> None:
        super().__init__(file.fd, file.path, owned=False)
        self.heads = file.heads
        self.drained = file.drained
        self.start, self.end = file.start, file.end
        self._file = file
        self._hash = taken
        self._at = 0
        """All before it has been hashed."""

    def read_at(self, offset: int, into: memoryview) -> int:
        got = self._file.read_at(offset, into)
        if offset + got > self._at:
            if offset > self._at:
                _hash_range(self._hash, self._file, self._at, offset)
                self._at = offset
            self._hash.update(into[self._at - offset : got])
            self._at = offset + got
        return got

    def finished(self) -> str:
        """The digest, with all that has not been read."""
        _hash_range(self._hash, self._file, self._at, None)
        return self._hash.hexdigest()


def _hash_range(taken: Hash, file: FileSource, begin: int, end: int | None) -> None:
    """Hash the bytes from ``begin`` to ``end``, or to the end of the file."""
    buffer = memoryview(bytearray(PIECE))
    while end is None or begin < end:
        piece = buffer if end is None else buffer[: end - begin]
        got = file.read_at(begin, piece)
        taken.update(piece[:got])
        begin += got
        if got < len(piece):
            break
