"""The text that xl reads, as far as we write it and look into it (containers.md 1.4)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Value: TypeAlias = "int | bytes | tuple[int | bytes, ...]"

WRITTEN: Final = {b"\\": rb"\\", b"'": rb"\'", b"\n": rb"\n", b"\t": rb"\t", b"\r": rb"\r"}
"""All escapes that are written: xl's lexer has others that it gets wrong."""
ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
READ: Final = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
    b"\\": b"\\",
    b"'": b"'",
    b'"': b'"',
}
TOKEN: Final = re.compile(
    rb"""
      (?P<blank>   [ \t\r]++ )
    | (?P<comment> \#[^\n]*+ )
    | (?P<end>     [\n;]++ )
    | (?P<string>  ' (?: [^'\\\n]++ | \\. )*+ ' | " (?: [^"\\\n]++ | \\. )*+ " )
    | (?P<broken>  ['"] [^\n]*+ )
    | (?P<word>    [^\s\#;'"\[\],+=]++ )
    | (?P<sign>    \+?= | . )
    """,
    re.VERBOSE,
)
"""Matches at every byte. ``broken`` is a string without an end, which xl refuses."""


def quote(text: bytes) -> bytes:
    """A string as xl reads it. There must be no byte 0 in it, which no escape expresses."""
    return b"'%s'" % re.sub(rb"[\\'\n\t\r]", lambda found: WRITTEN[found[0]], text)


def line(key: str, value: Value) -> bytes:
    """A setting with its newline. Negative numbers are quoted, bare ones are an error to xl."""
    if isinstance(value, tuple):
        return b"%s = [ %s ]\n" % (key.encode(), b", ".join(_single(item) for item in value))
    return b"%s = %s\n" % (key.encode(), _single(value))


def _single(value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return quote(value)
    return b"%d" % value if value >= 0 else b"'%d'" % value


def read(text: bytes) -> Iterator[tuple[str, bytes | tuple[bytes, ...]]]:
    """Settings in their order, a key that is set again comes again. What cannot be read is passed over.

    Values are strings without quotes and escapes, or lists of them; numbers are strings too.
    """
    statement: list[tuple[str, bytes]] = []
    for kind, piece, depth in tokens(text):
        if kind == "end" and depth == 0:
            yield from _setting(statement)
            statement = []
        elif kind not in {"blank", "comment", "end"}:
            statement.append((kind, piece))
    yield from _setting(statement)


def tokens(text: bytes) -> Iterator[tuple[str, bytes, int]]:
    """(kind, bytes, how many lists are open) of each token; together the bytes are the text."""
    depth = 0
    for token in TOKEN.finditer(text):
        depth = max(0, depth + (token[0] == b"[") - (token[0] == b"]"))
        yield token.lastgroup or "", token[0], depth


def _setting(statement: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes | tuple[bytes, ...]]]:
    if len(statement) < 3 or statement[0][0] != "word" or statement[1][1] not in {b"=", b"+="}:
        return
    values = tuple(_read(kind, piece) for kind, piece in statement[2:] if kind in {"string", "word"})
    key = statement[0][1].decode("latin-1")
    if statement[2] == ("sign", b"["):
        yield key, values
    elif values:
        yield key, values[0]


def _read(kind: str, piece: bytes) -> bytes:
    if kind == "word":
        return piece
    return ESCAPE.sub(lambda found: READ.get(found[1], b""), piece[1:-1])
