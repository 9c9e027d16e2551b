"""What restore would make of a stream, worked out plainly, and streams and originals to compare.

Nothing of the reader or the comparison is in here: streams are those that :mod:`real` takes apart, and are
looked at one word at a time.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import real
from conftest import open_file

from xenmig_np.io.source import open_source
from xenmig_np.verification.against import compare

if TYPE_CHECKING:
    from xenmig_np.io.source import Source
    from xenmig_np.verification.comparison import Comparison

ZERO: Final = bytes(real.PAGE)
PAGE_DATA, PV_INFO, P2M_FRAMES, SHARED_INFO, TSC, HVM_CONTEXT, HVM_PARAMS, VERIFY = 1, 2, 3, 7, 8, 9, 0xA, 0xD
VCPUS: Final = (4, 5, 6, 0xC)
XENSTORE, EMULATOR = 2, 3


@contextlib.contextmanager
def sources(*files: bytes) -> Iterator[list[Source]]:
    if not files:
        yield []
        return
    with open_file(files[0]) as fd, open_source(fd) as first, sources(*files[1:]) as rest:
        yield [first, *rest]


def compared(stream: bytes, original: bytes, **options: Any) -> Comparison:
    with sources(stream, original) as (new, old):
        return compare(new, old, **options)


def told(comparison: Comparison) -> list[str]:
    """Everything that differs, once."""
    return list(comparison.counts)


# ---- streams, taken apart and put together ---------------------------------------------------------------


def joined(stream: real.Stream, *, libxl: bool) -> bytes:
    """The bytes of a stream of the released numbering."""
    kind = {"pv": 1, "hvm": 2}[stream.guest]
    inner = b"\xff" * 8 + b"XENF" + struct.pack(">IHHI", stream.version, 0, 0, 0)
    inner += struct.pack("<IHHII", kind, 12, 0, 0, 1) + _records(stream.records)
    if not libxl:
        return stream.xl + inner + stream.behind
    head = b"LibxlFmt" + struct.pack(">II", 2, 2) + struct.pack("<II", 1, 0)
    return stream.xl + head + inner + _records(stream.outer)


def _records(records: list[real.Record]) -> bytes:
    return b"".join(
        struct.pack("<II", number, len(body)) + body + bytes(-len(body) % 8)
        for number, body in [*records, (0, b"")]
    )


Word = tuple[int, int, bytes | None]
"""Type, pfn, page."""


def unpacked(body: bytes) -> list[Word]:
    """Raises :class:`ValueError` where words and pages do not make up the body."""
    (count,) = struct.unpack_from("<I", body)
    at = 8 + 8 * count
    words: list[Word] = []
    for number in struct.unpack_from(f"<{count}Q", body, 8):
        kind, pfn = number >> 60, number & (1 << 52) - 1
        size = real.PAGE if kind < real.BROKEN else 0
        words.append((kind, pfn, body[at : at + size] if size else None))
        at += size
    if at != len(body) or any(5 <= kind <= 8 for kind, _, _ in words):
        raise ValueError
    return words


def packed(words: list[Word]) -> bytes:
    numbers = [kind << 60 | pfn for kind, pfn, _ in words]
    contents = b"".join(content for _, _, content in words if content is not None)
    return struct.pack(f"<II{len(words)}Q", len(words), 0, *numbers) + contents


def edited(stream: real.Stream, at: int, body: bytes | None) -> real.Stream:
    """With another body of libxc record ``at``; None: without that record."""
    records = list(stream.records)
    records[at : at + 1] = [] if body is None else [(records[at][0], body)]
    return replace(stream, records=records)


# ---- what restore makes of a stream, plainly -------------------------------------------------------------


@dataclass
class Plain:
    """A guest as a restore gives it."""

    types: dict[int, int] = field(default_factory=dict)
    first: dict[int, bytes] = field(default_factory=dict)
    second: dict[int, bytes] = field(default_factory=dict)
    """Behind VERIFY."""
    small: dict[Any, Any] = field(default_factory=dict)
    verify: bool = False


def plain(stream: real.Stream) -> Plain:
    state = Plain()
    populated = set()
    for number, body in stream.records:
        state.verify |= number == VERIFY
        if number == PAGE_DATA:
            for kind, pfn, content in unpacked(body):
                if kind == real.XTAB and (stream.guest == "hvm" or pfn not in populated):
                    continue
                state.types[pfn] = 0 if stream.guest == "hvm" and kind == real.XALLOC else kind
                if content is not None or kind == real.XALLOC:
                    populated.add(pfn)
                if content is not None:
                    (state.second if state.verify else state.first)[pfn] = content
        else:
            _small(state.small, number, body)
    for number, body in stream.outer:
        if number == EMULATOR:
            state.small["device model"] = body[8:]
        elif number == XENSTORE:
            _pairs(state.small, body[8:])
    state.small["xl"] = stream.xl
    return state


def _small(small: dict[Any, Any], number: int, body: bytes) -> None:
    if number == PV_INFO:
        small["info"] = tuple(body[:2])
    elif number == P2M_FRAMES:
        start, end = struct.unpack_from("<II", body)
        small["end"] = max(end, small.get("end", 0))
        per_frame = real.PAGE // small.get("info", (0,))[0] if small.get("info", (0,))[0] in (4, 8) else 0
        count = (len(body) - 8) // 8
        if per_frame and start <= end and count == end // per_frame - start // per_frame + 1:
            for index, frame in enumerate(struct.unpack_from(f"<{count}Q", body, 8)):
                small["frame", start // per_frame + index] = frame
    elif number in VCPUS:
        small[number, struct.unpack_from("<I", body)] = body[8:]
    elif number == TSC:
        small["tsc"] = body[:20]
    elif number == HVM_PARAMS:
        (count,) = struct.unpack_from("<I", body)
        if 16 * count > len(body) - 8:
            raise ValueError
        small.update(
            (("param", index), value) for index, value in struct.iter_unpack("<QQ", body[8 : 8 + 16 * count])
        )
    elif number in (SHARED_INFO, HVM_CONTEXT):
        small[number] = body


def _pairs(small: dict[Any, Any], data: bytes) -> None:
    *strings, rest = data.split(b"\0")
    if rest or len(strings) % 2:
        small["broken pairs"] = data
    small.update((("key", key), value) for key, value in zip(strings[::2], strings[1::2], strict=False))


def same(found: Plain, expected: Plain) -> bool:
    if found.types != expected.types or found.small != expected.small:
        return False
    return all(
        _same_page(found, expected, pfn) for pfn, kind in expected.types.items() if kind != real.BROKEN
    )


def _same_page(found: Plain, expected: Plain, pfn: int) -> bool:
    here = found.first.get(pfn, ZERO)
    if pfn in expected.first or pfn not in expected.second:
        return here == expected.first.get(pfn, ZERO) and (
            pfn not in expected.second
            or not found.verify
            or found.second.get(pfn, ZERO) == expected.second[pfn]
        )
    if pfn not in found.first:
        here = found.second.get(pfn, ZERO)
    return here == expected.second[pfn]
