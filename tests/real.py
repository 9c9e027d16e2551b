"""The images of `../shared` with what is known of them, and a reader of converted streams.

Nothing of `xenmig_np` is in here: what the converter makes is taken apart by code that shares none with it.
"""

from __future__ import annotations

import json
import lzma
import struct
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = 4096
SHARED: Final = Path(__file__).resolve().parents[2] / "shared"
SAMPLES: Final = SHARED / "samples"
# ------------------------------------------------------------------------------------------------ samples


@dataclass(frozen=True)
class Sample:
    """An image written by Xen's own code, and what is known of it from elsewhere."""

    path: Path
    """Without suffix: `.xz` is the image, `.json` the truth."""

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def truth(self) -> dict[str, Any]:
        truth: dict[str, Any] = json.loads(self.path.with_name(f"{self.name}.json").read_bytes())
        return truth

    def unpacked(self) -> bytes:
        return lzma.decompress(self.path.with_name(f"{self.name}.xz").read_bytes())

    @property
    def ran(self) -> bool:
        """Whether the guest really ran (`real/`); its JSON then has another form."""
        return self.path.parent != SAMPLES

    @property
    def carrier(self) -> str:
        return "xl" if self.ran else str(self.truth["carrier"])

    @property
    def width(self) -> int:
        return int(self.truth["toolstack_bits"] if self.ran else self.truth["writer"]["toolstack_width"])

    @property
    def guest(self) -> str:
        """`hvm`, `pv32` or `pv64`."""
        if self.ran:
            return f"{self.truth['guest_type']}{self.truth.get('guest_bits', '')}"
        return f"{self.truth['guest']['type']}{self.truth['guest']['width'] or ''}"

    @property
    def kind(self) -> str:
        """`pv` or `hvm`."""
        return "hvm" if self.guest == "hvm" else "pv"

    @property
    def stream_offset(self) -> int:
        return int(self.truth["stream_offset"] if self.ran else self.truth["image"]["stream_offset"])

    def image(self) -> bytes:
        """The file, or what lies in a carrier other than xl's."""
        data, begin = self.unpacked(), self.stream_offset
        if self.carrier in ("bare", "xl"):
            return data
        if self.carrier == "xapi2":
            return data[begin : begin + int(self.truth["image"]["stream_len"])]
        return data[begin:]

    @property
    def whole(self) -> bool:
        """Whether all of it is there, or a checkpoint at least, and nothing in it is refused."""
        if self.ran:
            return True
        return not self.truth.get("refuse") and bool(
            self.truth["remus"] or not self.truth["image"]["truncated"]
        )

    @property
    def covered(self) -> bool:
        """Whether it is an xl file or a bare image of one body that is converted."""
        return self.carrier in ("bare", "xl") and self.whole and not (not self.ran and self.truth["remus"])

    @property
    def compressed(self) -> bool:
        """Whether it has checkpoints with compressed page data."""
        return not self.ran and bool((self.truth["remus"] or {}).get("compressed"))


def _found() -> list[Sample]:
    paths = sorted(SAMPLES.glob("*.json")) + sorted((SAMPLES / "real").glob("*.json"))
    return [Sample(path.with_suffix("")) for path in paths]


ALL: Final = _found()
COVERED: Final = [sample for sample in ALL if sample.covered]
WHOLE: Final = [sample for sample in ALL if sample.whole]
"""Checkpointed images as well, and those in other carriers."""


def each(samples: list[Sample], *, slow: frozenset[str] = frozenset()) -> list[Any]:
    """One parameter for each sample, or one that is skipped and says why."""
    if not ALL:
        missing = pytest.mark.skip(reason=f"the samples are not there: {SAMPLES}")
        return [pytest.param(None, id="samples", marks=missing)]
    marks = {sample.name: [pytest.mark.slow] if sample.name in slow else [] for sample in samples}
    return [pytest.param(sample, id=sample.name, marks=marks[sample.name]) for sample in samples]


# ------------------------------------------------------------------------------------------------ streams

XL_MAGIC: Final = b"Xen saved domain, xl format\n \0 \r"
PAGE_DATA, VERIFY, END = 1, 0xD, 0
BROKEN, XALLOC, XTAB = 0xD, 0xE, 0xF

Record = tuple[int, bytes]


@dataclass
class Stream:
    """A converted stream of the released numbering, taken apart (v2-stream.md 3 to 12)."""

    xl: bytes = b""
    version: int = 0
    guest: str = ""
    records: list[Record] = field(default_factory=list)
    """Of the libxc layer, END apart."""
    outer: list[Record] = field(default_factory=list)
    """Of the libxl layer behind the libxc stream, END apart; empty in libxc format."""
    behind: bytes = b""
    """Libxc format: what follows END."""

    def of(self, number: int) -> list[bytes]:
        """Bodies of the libxc records of that type."""
        return [body for kind, body in self.records if kind == number]

    def words(self) -> Iterator[tuple[int, int, int, memoryview | None]]:
        """Part (0 before VERIFY, 1 behind it), type, pfn and page of each word of each PAGE_DATA record."""
        part = 0
        for number, body in self.records:
            part += number == VERIFY
            if number == PAGE_DATA:
                yield from ((part, *word) for word in _page_data(body))

    @property
    def kinds(self) -> Counter[int]:
        """Libxc records by type."""
        return Counter(number for number, _ in self.records)


def _page_data(body: bytes) -> Iterator[tuple[int, int, memoryview | None]]:
    count, reserved = struct.unpack_from("<II", body)
    assert count
    assert not reserved
    at = 8 + 8 * count
    for word in struct.unpack_from(f"<{count}Q", body, 8):
        kind, pfn = word >> 60, word & ((1 << 52) - 1)
        page = None
        if kind < BROKEN:
            page = memoryview(body)[at : at + PAGE]
            at += PAGE
        yield kind, pfn, page
    assert at == len(body)


def taken_apart(data: bytes) -> Stream:
    """A stream of targets xen-4.6 and xen-4.14, every byte of it accounted for."""
    stream, at = Stream(), 0
    if data.startswith(XL_MAGIC):
        at = 48 + int.from_bytes(data[44:48], "little")
        stream.xl = data[:at]
    libxl = data[at : at + 8] == b"LibxlFmt"
    if libxl:
        assert struct.unpack_from(">II", data, at + 8) == (2, 2)
        assert struct.unpack_from("<II", data, at + 16) == (1, 0)
        at += 24
    assert data[at : at + 12] == b"\xff" * 8 + b"XENF"
    stream.version, *zeros = struct.unpack_from(">IHHI", data, at + 12)
    kind, shift, *converter = struct.unpack_from("<IHHII", data, at + 24)
    assert (zeros, shift, converter) == ([0, 0, 0], 12, [0, 0, 1])
    stream.guest = {1: "pv", 2: "hvm"}[kind]
    stream.records, at = _records(data, at + 40)
    if libxl:
        stream.outer, at = _records(data, at)
    stream.behind = data[at:]
    assert not (libxl and stream.behind)
    return stream


def _records(data: bytes, at: int) -> tuple[list[Record], int]:
    """Records up to END, and the offset behind it."""
    records: list[Record] = []
    while True:
        number, length = struct.unpack_from("<II", data, at)
        end = at + 8 + length
        padding = -length % 8
        assert data[end : end + padding] == bytes(padding)
        if number == END:
            assert length == 0
            return records, end
        assert end <= len(data)
        records.append((number, data[at + 8 : end]))
        at = end + padding


@dataclass
class Memory:
    """What a guest has when a stream has been read to its end."""

    pages: dict[int, memoryview] = field(default_factory=dict)
    types: dict[int, int] = field(default_factory=dict)
    """Of the last mention of each pfn, pages or not."""
    mentioned: set[int] = field(default_factory=set)
    differing: list[int] = field(default_factory=list)
    """Pfns whose page behind VERIFY is not the one before it."""


def memory(stream: Stream) -> Memory:
    """The last word on each pfn counts; behind VERIFY pages are only compared (v2-stream.md 18)."""
    made = Memory()
    for part, kind, pfn, page in stream.words():
        made.mentioned.add(pfn)
        made.types[pfn] = kind
        if part and page is not None:
            if pfn not in made.pages or made.pages[pfn] != page:
                made.differing.append(pfn)
        elif page is not None:
            made.pages[pfn] = page
        else:
            made.pages.pop(pfn, None)
    return made
