"""xl's file header (v2-stream.md 10, 19.11; containers.md 1)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import InvalidImage, Note, NotSupported
from xenmig_np.wire import xl

TEXT_NAME = re.compile(rb"""^[ \t]*name[ \t]*=[ \t]*(["'])(.*?)\1""", re.MULTILINE)

if TYPE_CHECKING:
    from xenmig_np.io.cursor import Cursor


@dataclass(frozen=True, slots=True)
class XlHeader:
    """The header of an xl file and what it carries."""

    mandatory_flags: int
    optional_flags: int
    optional_data: bytes
    """Length word, configuration, and whatever follows it."""
    length: int
    """Bytes in the file: the stream begins behind them."""

    @property
    def config(self) -> bytes:
        """The configuration as stored (JSON with its NUL); empty if there is none."""
        word = xl.CONFIG_LENGTH.itemsize
        if len(self.optional_data) < word:
            return b""
        length = int(np.frombuffer(self.optional_data, xl.CONFIG_LENGTH, 1)[0])
        return self.optional_data[word : word + length]

    @property
    def config_kind(self) -> str:
        """``json``, ``text`` or ``none``: told by the content, the flag means other things too."""
        if not self.config:
            return "none"
        return "json" if self.config.lstrip().startswith(b"{") else "text"

    @property
    def guest_name(self) -> str | None:
        """Name of the guest, if the configuration says so in a usual way."""
        if self.config_kind == "json":
            try:
                name = json.loads(self.config.rstrip(b"\0"))["c_info"]["name"]
            except (ValueError, KeyError, TypeError, RecursionError):
                return None
            return name if isinstance(name, str) else None
        found = TEXT_NAME.search(self.config)
        return found[2].decode(errors="replace") if found else None

    def notes(self) -> list[Note]:
        """What is odd about it (containers.md 1.2)."""
        odd = []
        if unknown := self.mandatory_flags & ~(xl.FLAG_JSON | xl.FLAG_STREAM_V2):
            odd.append(f"unknown mandatory flags {unknown:#x}: no xl restores that")
        if self.mandatory_flags & xl.FLAG_STREAM_V2:
            odd.append("the flags say that a v2 stream follows, a legacy image does")
        if self.mandatory_flags & xl.FLAG_JSON and self.config_kind == "text":
            odd.append("the flags say that the configuration is JSON, it is not")
        return [Note("xl header", text, 36) for text in odd]

    def with_flag(self, flag: int) -> bytes:
        """The header as bytes, with ``flag`` set in the mandatory flags and all else as it was."""
        head = np.zeros((), xl.HEADER)
        head["magic"] = np.void(xl.MAGIC)
        head["byteorder"] = xl.BYTEORDER
        head["mandatory_flags"] = self.mandatory_flags | flag
        head["optional_flags"] = self.optional_flags
        head["optional_data_len"] = len(self.optional_data)
        return head.tobytes() + self.optional_data


def unwrap(cursor: Cursor) -> XlHeader:
    """Read the header at the cursor, which then stands at the stream.

    Raises :class:`InvalidImage`, :class:`NotSupported` (a big-endian saver).
    """
    at = cursor.at
    path = cursor.source.path
    head = cursor.one(xl.HEADER, "xl header")
    order = int(head["byteorder"])
    if order == xl.BYTEORDER_SWAPPED:
        raise NotSupported("written by a big-endian host", path=path, offset=at + 32, item="xl header")
    if order != xl.BYTEORDER:
        raise InvalidImage(
            path=path,
            offset=at + 32,
            item="xl header",
            found=f"byte order {order:#x}",
            expected=f"{xl.BYTEORDER:#x}",
        )
    length = int(head["optional_data_len"])
    if length > limits.CONFIG_MAX:
        raise InvalidImage(
            path=path,
            offset=at + 44,
            item="xl header",
            found=f"{length:,} bytes of optional data",
            expected=f"at most {limits.CONFIG_MAX:,}",
        )
    word = xl.CONFIG_LENGTH.itemsize
    if 0 < length < word:
        raise InvalidImage(
            path=path,
            offset=at + 44,
            item="xl header",
            found=f"{length} bytes of optional data",
            expected=f"none, or at least {word}",
        )
    data = cursor.take(length, "xl header, optional data")
    if len(data) >= word and (said := int(np.frombuffer(data, xl.CONFIG_LENGTH, 1)[0])) > len(data) - word:
        raise InvalidImage(
            path=path,
            offset=at + xl.HEADER.itemsize,
            item="xl header, configuration",
            found=f"{said:,} bytes",
            expected=f"at most the {len(data) - word:,} of the optional data",
        )
    return XlHeader(int(head["mandatory_flags"]), int(head["optional_flags"]), data, cursor.at - at)
