"""xend's s-expressions, written as xend writes them and read by descending into them (containers.md 2.4)."""

from __future__ import annotations

from typing import Any

Tree = Any
"""Lists as tuples, all else as bytes."""

BARE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:/~"
ESCAPES = {97: 7, 98: 8, 116: 9, 110: 10, 118: 11, 102: 12, 114: 13, 92: 92, 39: 39, 34: 34}
BLANKS = b" \t\n\r\v\f"
OCTAL = b"01234567"
HEX = b"0123456789abcdefABCDEF"


class Wrong(Exception):
    """No s-expression."""


def write(tree: Tree) -> bytes:
    """As xend writes it: a blank between entries, strings with anything odd like repr() of Python 2."""
    if isinstance(tree, tuple):
        return b"(" + b" ".join(write(item) for item in tree) + b")"
    if tree and all(byte in BARE for byte in tree):
        return bytes(tree)
    quote = b'"' if b"'" in tree and b'"' not in tree else b"'"
    return quote + b"".join(_written(byte, quote) for byte in tree) + quote


def _written(byte: int, quote: bytes) -> bytes:
    named = {9: b"\\t", 10: b"\\n", 13: b"\\r", 92: b"\\\\", quote[0]: b"\\" + quote}
    if byte in named:
        return named[byte]
    return bytes([byte]) if 32 <= byte < 127 else b"\\x%02x" % byte


def read(data: bytes) -> tuple[Tree, int]:
    """The list at the beginning and where it ends. Raises Wrong, also where the last bracket is missing."""
    at = _blanks(data, 0)
    if data[at : at + 1] != b"(":
        raise Wrong
    return _list(data, at + 1)


def _blanks(data: bytes, at: int) -> int:
    while at < len(data):
        if data[at] == ord("#"):
            while at < len(data) and data[at] != ord("\n"):
                at += 1
        elif data[at] in BLANKS:
            at += 1
        else:
            break
    return at


def _list(data: bytes, at: int) -> tuple[Tree, int]:
    items: list[Tree] = []
    while True:
        at = _blanks(data, at)
        if at == len(data):
            raise Wrong
        byte = data[at]
        if byte == ord(")"):
            return tuple(items), at + 1
        if byte == ord("("):
            item, at = _list(data, at + 1)
        elif byte in b"'\"":
            item, at = _string(data, at + 1, byte)
        else:
            begin, at = at, at + 1
            while at < len(data) and data[at] not in BLANKS + b"#{}()<>[];":
                at += 1
            item = data[begin:at]
        items.append(item)


def _string(data: bytes, at: int, quote: int) -> tuple[bytes, int]:
    made = bytearray()
    while at < len(data):
        byte = data[at]
        at += 1
        if byte == quote:
            return bytes(made), at
        if byte != ord("\\"):
            made.append(byte)
            continue
        if at == len(data):
            break
        letter = data[at]
        digits = data[at + 1 : at + 3]
        if letter in ESCAPES:
            made.append(ESCAPES[letter])
            at += 1
        elif letter == ord("x") and digits[:1] and digits[0] in HEX:
            count = 2 if len(digits) == 2 and digits[1] in HEX else 1
            made.append(int(digits[:count], 16))
            at += 1 + count
        elif letter in OCTAL:
            count = 1
            while count < 3 and at + count < len(data) and data[at + count] in OCTAL:
                count += 1
            while int(data[at : at + count], 8) > 255:
                count -= 1
            made.append(int(data[at : at + count], 8))
            at += count
        else:
            made.append(ord("\\"))
            at += 1
    raise Wrong
