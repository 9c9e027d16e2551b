"""How compressed files begin that are read through, and what reads them (containers.md 7, 8)."""

from __future__ import annotations

from typing import Final, NamedTuple


class Compression(NamedTuple):
    """A format of compressed data."""

    name: str
    magics: tuple[bytes, ...]
    """A file of this format begins with one of these."""
    tool: str
    """The command that decompresses to its standard output."""
    modules: tuple[str, ...]
    """Python modules that do it, the first that is there is taken."""
    extra: str = ""
    """The optional dependency of this package that brings one; empty: the standard library has it."""


GZIP: Final = Compression("gzip", (b"\x1f\x8b\x08",), "gzip -dc", ("zlib",))
"""These three bytes may as well be the p2m_size of a legacy image: what follows has to decompress."""
BZIP2: Final = Compression(
    "bzip2", tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)), "bzip2 -dc", ("bz2",)
)
XZ: Final = Compression("xz", (b"\xfd7zXZ\x00",), "xz -dc", ("lzma",))
ZSTD: Final = Compression(
    "zstd",
    (b"\x28\xb5\x2f\xfd", *(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))),  # skippable
    "zstd -dc",
    ("compression.zstd", "backports.zstd"),  # the first from Python 3.14 on
    "zstd",
)
LZ4: Final = Compression("lz4", (b"\x04\x22\x4d\x18",), "lz4 -dc", ("lz4.frame",), "lz4")

COMPRESSIONS: Final = (GZIP, BZIP2, XZ, ZSTD, LZ4)
MAGICS: Final = tuple(magic for row in COMPRESSIONS for magic in row.magics)
LOOK: Final = 4096
"""Bytes from the beginning that decide."""
