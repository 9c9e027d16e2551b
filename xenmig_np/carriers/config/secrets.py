"""Passwords in configurations of any kind, taken out for showing them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from xenmig_np.carriers.config import sxp, xlcfg

if TYPE_CHECKING:
    from collections.abc import Iterator

MASK: Final = b"***"

SECRET: Final = re.compile(rb"\w*passw(?:or)?d", re.IGNORECASE)
"""Keys whose value is one: vncpasswd, spicepasswd, the passwd of libxl's JSON and of libvirt's XML."""
ITEM: Final = re.compile(rb"(passw(?:or)?d[ \t]*=)(?:\\.|[^\\,])*+", re.IGNORECASE | re.DOTALL)
"""Within an item of a list: up to its next comma."""
COMMENT: Final = re.compile(rb"(passw(?:or)?d[ \t]*=).*", re.IGNORECASE)
JSON: Final = re.compile(
    rb"""("\w*passw(?:or)?d"\s*:\s*)(?:"(?:[^"\\]++|\\.)*+"?|[-+.\w]++)""", re.IGNORECASE | re.DOTALL
)
XML: Final = re.compile(rb"""(passw(?:or)?d\s*=\s*)(?:'[^']*+'?|"[^"]*+"?)""", re.IGNORECASE)


def mask_secrets(config: bytes) -> bytes:
    """A configuration (xl.cfg text, libxl's JSON, xend's s-expression, libvirt's XML) without its passwords.

    Everything else stays as it is, and what is malformed is masked all the same, rather too much of it.
    """
    begin = config.lstrip()[:1]
    if begin == b"{":
        return JSON.sub(rb'\1"' + MASK + b'"', config)
    if begin == b"<":
        return XML.sub(rb'\1"' + MASK + b'"', config)
    return b"".join(_of_sxp(config) if begin == b"(" else _of_text(config))


def _of_text(config: bytes) -> Iterator[bytes]:
    key = b""
    begins = True  # a statement
    for kind, piece, depth in xlcfg.tokens(config):
        if kind == "word" and begins:
            key, begins = piece, False
            yield piece
        elif kind in {"string", "broken", "word"} and SECRET.fullmatch(key):
            yield xlcfg.quote(MASK)
        elif kind == "string":
            yield ITEM.sub(rb"\1" + MASK, piece[:-1]) + piece[-1:]
        elif kind in {"broken", "comment"}:
            yield COMMENT.sub(rb"\1" + MASK, piece)
        else:
            begins |= kind == "end" and depth == 0
            key = b"" if begins else key
            yield piece


def _of_sxp(config: bytes) -> Iterator[bytes]:
    depth = secret = 0  # lists open; how many were when a secret began
    begins = False  # a list
    for token in sxp.TOKEN.finditer(config):
        kind, piece = token.lastgroup, token[0]
        depth += (kind == "open") - (kind == "close")
        if depth < secret:
            secret = 0
        if kind == "broken" or (secret and kind in {"atom", "string"}):
            yield MASK
            continue
        if begins and SECRET.fullmatch(sxp.unescape(piece.strip(b"'\""))):
            secret = depth
        if kind != "blank":
            begins = kind == "open"
        yield piece
