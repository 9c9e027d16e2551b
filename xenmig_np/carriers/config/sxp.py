"""The s-expressions of xend (containers.md 2.4).

Lists are tuples, everything else is bytes: what is a number depends on who looks at it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from xenmig_np import limits
from xenmig_np.errors import InvalidImage, Note

if TYPE_CHECKING:
    from collections.abc import Iterator

Sxp: TypeAlias = "bytes | tuple[Sxp, ...]"

NESTING_MAX: Final = 64
"""Lists within lists; xend's have eight."""
ENTRIES_MAX: Final = 1 << 16
"""Lists and strings of a configuration; one with a hundred disks has 3000."""

TOKEN: Final = re.compile(
    rb"""
      (?P<blank>  (?: \s++ | \#[^\n]*+ )++ )
    | (?P<open>   \( )
    | (?P<close>  \) )
    | (?P<string> ' (?: [^'\\]++ | \\. )*+ ' | " (?: [^"\\]++ | \\. )*+ " )
    | (?P<broken> ['"] .*+ )
    | (?P<atom>   [^\s()'"\#] [^\s\#{}()<>\[\];]*+ )
    """,
    re.VERBOSE | re.DOTALL,
)
"""Matches at every byte. Quotes within an atom are ordinary, ``broken`` is a string without an end."""
ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([0-3]?[0-7]{1,2})|(.))", re.DOTALL)
ESCAPED: Final = {
    b"a": b"\a",
    b"b": b"\b",
    b"t": b"\t",
    b"n": b"\n",
    b"v": b"\v",
    b"f": b"\f",
    b"r": b"\r",
    b"\\": b"\\",
    b"'": b"'",
    b'"': b'"',
}
SHOWN_MAX: Final = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed configuration."""

    tree: tuple[Sxp, ...]
    path: str | None = None
    offset: int = 0
    """Where it begins in the file."""
    notes: tuple[Note, ...] = ()
    """What is odd about its syntax."""


def parse(data: bytes, *, path: str | None = None, offset: int = 0) -> Expression:
    """The list with which ``data`` begins; ``offset`` is where that stands in the file ``path``.

    The last ``)`` may be missing, and something may follow: both are noted. Raises :class:`InvalidImage`.
    """

    def invalid(at: int, found: str, expected: str) -> InvalidImage:
        place = offset + at
        return InvalidImage(path=path, offset=place, item="configuration", found=found, expected=expected)

    if len(data) > limits.CONFIG_MAX:
        raise invalid(0, f"{len(data):,} bytes", f"at most {limits.CONFIG_MAX:,}")
    lists: list[list[Sxp]] = []  # the open ones, innermost last
    entries = 0
    for kind, piece, at in _tokens(data):
        if kind == "broken" or (kind != "open" and not lists):
            raise invalid(at, shown(piece), "its closing quote" if lists else "(")
        if kind == "close":
            done = tuple(lists.pop())
            if not lists:
                return Expression(done, path, offset, tuple(_behind(data[at + 1 :], offset + at + 1)))
            lists[-1].append(done)
            continue
        entries += 1
        if entries > ENTRIES_MAX or len(lists) >= NESTING_MAX:
            raise invalid(at, "more", f"at most {ENTRIES_MAX:,} entries, nested {NESTING_MAX} deep at most")
        if kind == "open":
            lists.append([])
        else:
            lists[-1].append(piece if kind == "atom" else unescape(piece[1:-1]))
    if len(lists) != 1:
        raise invalid(len(data), "its end", ")" * len(lists) or "(")
    note = Note("containers 2.4", "the last ) of the configuration is missing", offset + len(data))
    return Expression(tuple(lists[0]), path, offset, (note,))


def _tokens(data: bytes) -> Iterator[tuple[str, bytes, int]]:
    """(kind, bytes, where) of all that is not blank."""
    for token in TOKEN.finditer(data):
        if (kind := token.lastgroup or "") != "blank":
            yield kind, token[0], token.start()


def _behind(rest: bytes, offset: int) -> Iterator[Note]:
    if rest := rest.strip(b" \t\r\n\v\f\0"):
        yield Note("containers 2.4", f"{len(rest):,} bytes behind the last ) of the configuration", offset)


def unescape(body: bytes) -> bytes:
    """What a string between its quotes stands for; of an unknown escape the backslash is left, as by xend."""
    return ESCAPE.sub(_unescaped, body) if b"\\" in body else body


def _unescaped(escape: re.Match[bytes]) -> bytes:
    digits16, digits8, letter = escape.groups()
    if letter:
        return ESCAPED.get(letter, b"\\")
    return bytes([int(digits16, 16) if digits16 else int(digits8, 8)])


def decode(text: bytes) -> str:
    """Text of a configuration: UTF-8 as a rule, else each byte is a character."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def shown(value: Sxp) -> str:
    """A value for a message: one short line."""
    if isinstance(value, tuple):
        return "a list"
    text = decode(value)
    line = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:SHOWN_MAX])
    return line if len(text) <= SHOWN_MAX else f"{line}..."
