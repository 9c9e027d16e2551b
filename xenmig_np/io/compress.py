"""Compressed outputs: the same bytes for the same input, at any time and on any number of processors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from xenmig_np.errors import UsageError
from xenmig_np.io.codecs import library
from xenmig_np.io.sink import Sink, write_all
from xenmig_np.wire.compression import GZIP, XZ, ZSTD, Compression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xenmig_np.io.source import Source


class Choice(NamedTuple):
    """A format that is written."""

    row: Compression
    levels: range
    """Those of the format's own tool."""
    usual: int
    """What that tool takes."""


CHOICES: Final = {
    choice.row.name: choice
    for choice in (
        Choice(GZIP, range(1, 10), 6),
        Choice(XZ, range(10), 6),
        Choice(ZSTD, range(1, 20), 3),
    )
}

THREADS_MAX: Final = 8
"""Each of zstd's takes some MiB, at high levels some hundred."""


class Compressor(Protocol):
    """As the classes of :mod:`bz2` and :mod:`lzma`."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


class CompressedWriter:
    """Writes what it is given to a descriptor, compressed. What was not finished is no archive.

    ``name`` is a key of :data:`CHOICES`. Making one raises :class:`UsageError`, and :class:`NotSupported`
    where a library is missing.
    """

    def __init__(self, fd: int, path: str, name: str, level: int | None = None) -> None:
        if name not in CHOICES:
            raise UsageError("compression", found=repr(name), expected=", ".join(CHOICES))
        choice = CHOICES[name]
        if level is not None and level not in choice.levels:
            expected = f"{choice.levels[0]} to {choice.levels[-1]}"
            raise UsageError(f"level of {name}", found=str(level), expected=expected)
        self.fd = fd
        self.path = path
        self._compressor = _compressor(choice.row, choice.usual if level is None else level)
        self.written = 0
        """Compressed bytes."""

    def write(self, parts: Iterable[bytes | memoryview]) -> None:
        """Write all parts in order; they are not needed any more then. Raises :class:`InputOutputError`."""
        self._put([self._compressor.compress(part) for part in parts])

    def finish(self) -> None:
        """Write what is left, and the checksums. Raises :class:`InputOutputError`."""
        self._put([self._compressor.flush()])

    def _put(self, parts: list[bytes | memoryview]) -> None:
        write_all(self.fd, self.path, parts)
        self.written += sum(len(part) for part in parts)


class CompressSink(Sink):
    """Executes segments and writes what they give compressed; :attr:`written` counts it as it was before."""

    def __init__(
        self, source: Source, writer: CompressedWriter, progress: Callable[[int], object] | None = None
    ) -> None:
        super().__init__(source, writer.fd, writer.path, progress)
        self._writer = writer

    def _write(self, parts: list[bytes | memoryview]) -> None:
        self._writer.write(parts)


def _compressor(row: Compression, level: int) -> Compressor:
    module = library(row)
    compressor: Compressor
    if row is GZIP:  # its header then has neither a time nor a name
        compressor = module.compressobj(level, module.DEFLATED, module.MAX_WBITS | 16)
    elif row is XZ:
        compressor = module.LZMACompressor(module.FORMAT_XZ, preset=level)
    else:
        compressor = module.ZstdCompressor(options=_zstd_options(module.CompressionParameter, level))
    return compressor


def _zstd_options(parameter: Any, level: int) -> dict[Any, int]:  # noqa: ANN401 - an enumeration of the module
    """With threads where the library has them: one at least, for without any the bytes are others."""
    most: int = parameter.nb_workers.bounds()[1]
    return {
        parameter.compression_level: level,
        parameter.checksum_flag: 1,
        parameter.nb_workers: min(len(os.sched_getaffinity(0)), THREADS_MAX, most),
    }
