"""Compressed page data of checkpoints, one page at a time, both ways (legacy-stream.md 5)."""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass, field

PAGE = 4096
WORD = 4
LONGEST = 127
"""Words of a run."""
UNCHANGED, FULL = 0x00, 0x80
TABLES = (1, 2, 3, 4, 9, 10, 11, 12)
"""Types of page tables: always sent in full."""
CACHED = 8192
"""Pages that a sender remembers."""


class Invalid(Exception):
    """The data is not valid; the text is the word that tests look for."""


def decode_page(data: bytes, at: int, base: bytes | None) -> tuple[bytes, int]:
    """The page that is encoded at `at`, and where it ends (5.2, 5.4)."""
    kind = _byte(data, at)
    if kind == FULL:
        if len(data) - at < 1 + PAGE:
            raise Invalid("ends")
        return data[at + 1 : at + 1 + PAGE], at + 1 + PAGE
    if kind == UNCHANGED:
        if base is None:
            raise Invalid("never came")
        return base, at + 1
    page = bytearray(base or bytes(PAGE))
    done = 0
    while done < PAGE:
        head = _byte(data, at)
        at += 1
        size = WORD * (head & 0x7F)
        if not size:
            raise Invalid("no words")
        if done + size > PAGE:
            raise Invalid("beyond")
        if head < 0x80:
            if len(data) - at < size:
                raise Invalid("ends")
            page[done : done + size] = data[at : at + size]
            at += size
        done += size
    if base is None:
        raise Invalid("never came")
    return bytes(page), at


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise Invalid("ends")
    return data[at]


def decode_body(data: bytes, pfns: list[int], pages: dict[int, bytes]) -> tuple[list[bytes], int]:
    """Pages of a body in the order of its announced pfns, and the surplus bytes (5.1, 5.3).

    `pages` has the last copy of each pfn, before and after.
    """
    copies = []
    at = 0
    for pfn in pfns:
        pages[pfn], at = decode_page(data, at, pages.get(pfn))
        copies.append(pages[pfn])
    return copies, len(data) - at


def encode_page(old: bytes, new: bytes) -> bytes:
    """A page as changes of an earlier copy."""
    if old == new:
        return bytes([UNCHANGED])
    same = [old[at : at + WORD] == new[at : at + WORD] for at in range(0, PAGE, WORD)]
    encoded = b""
    word = 0
    while word < len(same):
        end = word
        while end < len(same) and end - word < LONGEST and same[end] == same[word]:
            end += 1
        if same[word]:
            encoded += struct.pack("B", 0x80 | end - word)
        else:
            encoded += struct.pack("B", end - word) + new[word * WORD : end * WORD]
        word = end
    return encoded


@dataclass
class Sender:
    """What a saver remembers from its first compressed body on: the copies that it sent last (5.3)."""

    size: int = CACHED
    cache: OrderedDict[int, bytes] = field(default_factory=OrderedDict)

    def encode(self, pfn: int, page_type: int, page: bytes) -> bytes:
        old = self.cache.pop(pfn, None)
        if page_type not in TABLES:
            self.cache[pfn] = page
            if len(self.cache) > self.size:
                self.cache.popitem(last=False)
            if old is not None:
                return encode_page(old, page)
        return bytes([FULL]) + page
