"""The formats of compressed data: which one it is, and what decompresses it (containers.md 8)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Final, Protocol

from xenmig_np.errors import NotSupported
from xenmig_np.limits import MIB
from xenmig_np.wire.compression import BZIP2, COMPRESSIONS, GZIP, LZ4, XZ, ZSTD, Compression

WINDOW_LOG_MAX: Final = 27
"""zstd frames and xz streams may look back 128 MiB, twice what ``xz -9`` does: that much memory it takes."""


def recognised(begin: bytes) -> Compression | None:
    """The format of what begins so; ``begin`` has :data:`LOOK` bytes where there are as many."""
    for row in COMPRESSIONS:
        if begin.startswith(row.magics):
            return None if row is GZIP and _may_be_image(begin) else row
    return None


def _may_be_image(begin: bytes) -> bool:
    """What begins like gzip may be a bare legacy image of 0x88b1f pages and its like (containers.md 9.2).

    There a small number follows, or ones, where gzip has a time or compressed data. In doubt it is gzip if it
    decompresses.
    """
    word = 4 if any(begin[4:8]) else 8
    count = int.from_bytes(begin[word : word + 4], "little", signed=True)
    field = int.from_bytes(begin[word : 2 * word], "little", signed=True)
    doubtful = -64 <= count <= 1024 or -1 <= field < 1 << 28  # a chunk or batch; a marker or pfn
    return doubtful and not _inflates(begin)


def _inflates(begin: bytes) -> bool:
    import zlib  # noqa: PLC0415 - wanted only where such a file was found

    try:
        zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(begin, 1)
    except zlib.error:
        return False
    return True


def library(row: Compression) -> Any:  # noqa: ANN401 - a module
    """The module that compresses and decompresses. Raises :class:`NotSupported`."""
    for name in row.modules:
        try:
            return import_module(name)
        except ImportError:
            continue
    if row.extra:
        hint = f"pip install 'xenmig-np[{row.extra}]', or pipe it through {row.tool}"
    else:
        hint = f"this Python was built without it: pipe it through {row.tool}"
    raise NotSupported(f"{row.name} data without the Python module {row.modules[-1]}", hint=hint)


class Member(Protocol):
    """Decompresses one member, as the classes of :mod:`bz2` and :mod:`lzma` do."""

    @property
    def eof(self) -> bool:
        """The end of the member was reached, and its checksums are right."""

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes | None:
        """What follows the member."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most ``max_length`` bytes; what is left of ``data`` is kept."""


class Inflater:
    """A gzip member, with the interface of the others."""

    def __init__(self, zlib: Any) -> None:  # noqa: ANN401 - a module
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._zlib.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._zlib.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece: bytes = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length and not self._zlib.unconsumed_tail
        return piece


def decoder(row: Compression) -> tuple[Callable[[], Member], type[Exception]]:
    """What makes a member, and the error that it raises for damaged data."""
    module = library(row)
    if row is GZIP:
        return partial(Inflater, module), module.error
    if row is BZIP2:
        return module.BZ2Decompressor, OSError
    if row is XZ:
        limit = (1 << WINDOW_LOG_MAX) + MIB
        return partial(module.LZMADecompressor, module.FORMAT_XZ, limit), module.LZMAError
    if row is ZSTD:
        options = {module.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
        return partial(module.ZstdDecompressor, options=options), module.ZstdError
    if row is LZ4:
        return module.LZ4FrameDecompressor, RuntimeError
    raise ValueError(row.name)
