"""Files that are named and not read, by how they begin or end (containers.md 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from xenmig_np.errors import NotRecognised, NotSupported
from xenmig_np.wire import carriers

if TYPE_CHECKING:
    from xenmig_np.io.source import Source

ENOUGH: Final = 32
"""Bytes that have to be alike before a file is called blank."""


class Recognised(NamedTuple):
    """A file that is named and not read."""

    name: str
    advice: str
    doubtful: bool = False
    """It may be a legacy image all the same."""

    def refusal(self, path: str, offset: int) -> NotSupported:
        """The error that says so."""
        return NotSupported(
            f"it is {self.name}", path=path, offset=offset, item="beginning", hint=self.advice
        )


def named(begin: bytes, source: Source) -> Recognised | None:
    """What begins so, or ends as a disk image does that has no mark elsewhere."""
    for row in carriers.BEGINNINGS:
        if all(begin[at : at + len(magic)] == magic for at, magic in row.bytes_at):
            return Recognised(row.name, row.advice, row.doubtful)
    return _fixed_vhd(source)


def _fixed_vhd(source: Source) -> Recognised | None:
    """A fixed VHD has its footer at the end alone."""
    magic = carriers.VHD_FOOTER
    end = source.known_end
    if end is None or end - source.start < carriers.VHD_FOOTER_SIZE:
        return None
    footer = memoryview(bytearray(len(magic)))
    source.read_at(end - carriers.VHD_FOOTER_SIZE, footer)
    return Recognised("a VHD disk", carriers.EXTRACT) if footer == magic else None


def look_blank(begin: bytes, source: Source) -> None:
    """Raise :class:`NotRecognised` for what is empty, or all zeros or all ones as far as ``begin`` shows."""
    enough = len(begin) >= ENOUGH
    if not begin or (enough and begin in {bytes(len(begin)), b"\xff" * len(begin)}):
        raise NotRecognised(
            path=source.path,
            offset=source.start,
            item="beginning",
            found=f"{len(begin):,} bytes of {begin[:1].hex()}" if begin else "an empty file",
            expected="a Xen image",
            hint="blank or wiped" if begin else None,
        )
