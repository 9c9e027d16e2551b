"""xl's file header (v2-stream.md 10, 19.11; containers.md 1)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.carriers.header import STREAMS, bounded
from xenmig_np.errors import InvalidImage, Note, NotSupported, UsageError
from xenmig_np.wire import xl
from xenmig_np.wire.legacy import Guest

TEXT_NAME: Final = re.compile(rb"""^[ \t]*name[ \t]*=[ \t]*(["'])(.*?)\1""", re.MULTILINE)
TEXT_TYPE: Final = re.compile(rb"""^[ \t]*(?:builder|type)[ \t]*=[ \t]*["'](\w+)["']""", re.MULTILINE)
GUESTS: Final = {"hvm": Guest.HVM, "pv": Guest.PV, "linux": Guest.PV, "generic": Guest.PV}

if TYPE_CHECKING:
    from xenmig_np.io.cursor import Cursor


@dataclass(frozen=True, slots=True)
class XlHeader:
    """The header of an xl file and what it carries."""

    width: ClassVar[int | None] = None
    """The carrier does not tell."""
    mandatory_flags: int
    optional_flags: int
    optional_data: bytes
    """Length word, configuration, and whatever follows it."""
    at: int = 0
    """Offset in the file."""

    @property
    def length(self) -> int:
        return xl.HEADER.itemsize + len(self.optional_data)

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
        if self.config_kind == "json":
            return self._in_json("name")
        found = TEXT_NAME.search(self.config)
        return found[2].decode(errors="replace") if found else None

    @property
    def guest(self) -> Guest | None:
        if self.config_kind == "json":
            return GUESTS.get(self._in_json("type") or "")
        found = TEXT_TYPE.search(self.config)
        return GUESTS.get(found[1].decode(errors="replace")) if found else None

    def _in_json(self, key: str) -> str | None:
        import json  # noqa: PLC0415 - for such configurations alone

        try:
            value: Any = json.loads(self.config.rstrip(b"\0"))["c_info"][key]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return value if isinstance(value, str) else None

    def notes(self, stream: str) -> list[Note]:
        """What is odd about it (containers.md 1.2)."""
        if stream != "legacy":
            return []  # the rules of verification tell
        odd = []
        if unknown := self.mandatory_flags & ~(xl.FLAG_JSON | xl.FLAG_STREAM_V2):
            odd.append(f"unknown mandatory flags {unknown:#x}: no xl restores that")
        if self.mandatory_flags & xl.FLAG_STREAM_V2:
            odd.append(f"the flags say that a v2 stream follows, {STREAMS[stream]} does")
        if self.mandatory_flags & xl.FLAG_JSON and self.config_kind == "text":
            odd.append("the flags say that the configuration is JSON, it is not")
        return [Note("xl header", text, self.at + 36) for text in odd]

    def with_config(self, config: bytes, *, json: bool | None = None) -> XlHeader:
        """The same with another configuration: a text, or a JSON with its NUL.

        ``json`` None leaves the flag for that as it is. What follows the configuration stays. Raises
        :class:`UsageError` for what makes the header longer than any that is read.
        """
        word = xl.CONFIG_LENGTH.itemsize
        behind = self.optional_data[word + len(self.config) :]
        data = np.array(len(config), xl.CONFIG_LENGTH).tobytes() + config + behind
        if len(data) > limits.CONFIG_MAX:
            expected = f"{limits.CONFIG_MAX:,} at most"
            raise UsageError("xl header", found=f"{len(data):,} bytes of optional data", expected=expected)
        flags = self.mandatory_flags
        if json is not None:
            flags = flags | xl.FLAG_JSON if json else flags & ~xl.FLAG_JSON
        return replace(self, mandatory_flags=flags, optional_data=data)

    def with_flag(self, flag: int) -> bytes:
        """The header as bytes, with ``flag`` set in the mandatory flags and all else as it was."""
        return replace(self, mandatory_flags=self.mandatory_flags | flag).to_bytes()

    def to_bytes(self) -> bytes:
        """The header as it stands in a file."""
        head = np.zeros((), xl.HEADER)
        head["magic"] = np.void(xl.MAGIC)
        head["byteorder"] = xl.BYTEORDER
        head["mandatory_flags"] = self.mandatory_flags
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
    bounded(cursor, length, 0, "xl header", at + 44)
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
    return XlHeader(int(head["mandatory_flags"]), int(head["optional_flags"]), data, at)


def made(config: bytes, flags: int = xl.FLAG_STREAM_V2) -> bytes:
    """A header for a libxl v2 stream with a text of the user's, or a JSON with its NUL and its flag."""
    return XlHeader(flags, 0, b"").with_config(config).to_bytes()
