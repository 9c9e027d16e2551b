"""At level reference our verdict on a stream is that of Debian's verify-stream-v2, its defects apart.

Streams are changed at random, a few places each. Where the two verdicts part is written down in
data/debian_verifier.toml: each row is shown here by a small stream, and no other difference is let pass.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import open_file
from debian import LIBRARY, VERIFIER, Missing, unpacked

from xenmig_np.cli.dropin import verify_stream
from xenmig_np.errors import InvalidImage
from xenmig_np.io.source import open_source
from xenmig_np.options import Format
from xenmig_np.testing import records as rec
from xenmig_np.testing.pieces import XlHeader
from xenmig_np.testing.records import Record, record, size_of
from xenmig_np.testing.streams import Libxl, Stream, Xl, hvm_memory, small_hvm, small_pv32, small_pv64
from xenmig_np.verification.engine import Verification
from xenmig_np.verification.rule import RULES, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenmig_np.testing.fields import Data
    from xenmig_np.testing.streams import Built

SEEDS: Final = range(8)
STREAMS: Final = 500
"""Of each seed."""
ACCEPTED: Final = ""
FORMATS: Final = ("libxc", "libxl", "xl")


# ---------------------------------------------------------------------------------------- where they part


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    row: str
    reason: str
    refuses: str | None = None
    rules: tuple[str, ...] = ()
    layer: str | None = None

    def explains(self, ours: Verdict, debian: str) -> bool:
        if self.layer not in {None, *ours.layers}:
            return False
        if ours.rule == ACCEPTED:
            return self.refuses is not None and re.search(rf"{self.refuses}$", debian) is not None
        return debian == ACCEPTED and ours.rule in self.rules


TABLE: Final = Path(__file__).with_name("data") / "debian_verifier.toml"
ROWS: Final = {
    entry["row"]: Row(**entry | {"rules": tuple(entry.get("rules", ()))})
    for entry in tomllib.loads(TABLE.read_text())["divergence"]
}


# ---------------------------------------------------------------------------------------- both verifiers


@dataclass(frozen=True)
class Verdict:
    """The rule that a stream breaks first, or ACCEPTED; and what was met in it."""

    rule: str
    layers: frozenset[str] = frozenset()


def ours(data: bytes, form: str) -> Verdict:
    """As the command decides; a file without xl's header breaks no rule with a number."""
    with open_file(data) as fd:
        source = open_source(fd, exact=True)
        at, layer = source.start, None if form == "xl" else Format(form)
        if layer is None:
            try:
                at, layer = verify_stream._behind_xl_header(source)
            except InvalidImage:
                return Verdict("xl header")
        run = Verification(source, at, Level.REFERENCE, form=layer)
        broken = next(run.findings(), None)
    met = {"draft": run.stream.draft, "checkpoint": run.stream.libxl and run.stream.records["CHECKPOINT"]}
    return Verdict(broken.rule if broken else ACCEPTED, frozenset(name for name, it in met.items() if it))


DRIVER: Final = """
import io, json, runpy, struct, sys

script = runpy.run_path(sys.argv[1], run_name="verifier")
program, said = script["read_stream"].__globals__, []
program["err"] = said.append
while head := sys.stdin.buffer.read(8):
    form, length = struct.unpack("<II", head)
    program["fin"] = io.BytesIO(sys.stdin.buffer.read(length))
    said.clear()
    code = script["read_stream"](("libxc", "libxl", "xl")[form])
    print(json.dumps([code, said[1].split("\\n")[-2] if said else ""]), flush=True)
"""
"""One process for all streams, which come to it on a pipe."""


class Debian:
    """What Debian's verifier says: the last line of its report, or ACCEPTED."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, folder / VERIFIER],
            env=os.environ | {"PYTHONPATH": str(folder / LIBRARY), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __call__(self, data: bytes, form: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(struct.pack("<II", FORMATS.index(form), len(data)) + data)
        self._process.stdin.flush()
        code, said = json.loads(self._process.stdout.readline())
        assert bool(code) == bool(said)
        return str(said)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def debian() -> Iterator[Debian]:
    try:
        started = Debian(unpacked())
    except Missing as missing:
        pytest.skip(str(missing))
    yield started
    started.close()


# ---------------------------------------------------------------------------------------- streams

LEAF: Final = (1, 0, 2, 3, 4, 5)
PHYSMAP: Final = rec.xenstore_pairs(("physmap/e0000000/start_addr", "f0000000"))


def few_pages(stream: Stream) -> Stream:
    """With three pages and two holes in place of all: the rules are the same, and reading is faster."""
    first, *_ = memory = hvm_memory()
    pages = (rec.page_data(first), rec.page_data(*memory[9:13]))
    return stream.before(rec.PAGE_DATA, *pages).without(rec.PAGE_DATA).first(*pages)


HVM: Final = few_pages(small_hvm())
PV: Final = few_pages(small_pv64())
LIBXC: Final = (
    HVM,
    replace(HVM.after(rec.TSC_INFO, Record(rec.VERIFY), rec.page_data(*hvm_memory()[:1])), xen=(0, 2)),
    HVM.first(rec.cpuid_policy(LEAF, LEAF), record(rec.MSR_POLICY, rec.msrs((0x10, 1)))).version3(),
    PV,
    few_pages(small_pv32()).version3(),
    PV.after(rec.VCPU_XSAVE, rec.vcpu(rec.VCPU_MSRS, rec.msrs((0x10, 1)))),
)


def enveloped(inner: Stream, *behind: Record, **fields: Any) -> Libxl:
    return Libxl(inner=inner, behind=(*behind, Record(rec.LIBXL_END)), **fields)


LIBXL: Final = (
    enveloped(HVM, rec.emulator(rec.XENSTORE_DATA, b""), rec.emulator(rec.EMULATOR_CONTEXT, b"state")),
    enveloped(HVM, rec.emulator(rec.XENSTORE_DATA, PHYSMAP), rec.emulator(rec.EMULATOR_CONTEXT, b"state")),
    enveloped(PV, options=2),
    enveloped(LIBXC[4]),
)

NUMBERS: Final = (0, 1, 2, 3, 4, 7, 8, 9, 12, 16, 24, 0x10, 0x7FFF, 0xFFFF, 0x1_0000, 0x8000_0000, 1 << 63)
SHORT: Final = 64
"""Bytes of a field that is taken for one: longer ones are pages and states."""


def any_record(random: Random) -> Record:
    """Of any type, known or not, of any size."""
    kind = random.choice((random.randrange(0x16), random.choice(NUMBERS), rec.OPTIONAL | random.randrange(9)))
    size = random.choice((0, 0, 4, 8, 8, 9, 16, 24, 32, 4096))
    return record(kind & 0xFFFF_FFFF, random.choice((bytes(size), random.randbytes(size))))


def changed(random: Random, records: tuple[Record, ...]) -> tuple[Record, ...]:
    """One record less or more, elsewhere, or another one in its place."""
    at, other = random.randrange(len(records)), random.randrange(len(records))
    one, rest = records[at], (*records[:at], *records[at + 1 :])
    if random.random() < 0.3:
        kept = random.choice((records, rest))
        return (*kept[:other], one, *kept[other:])
    return (*rest[:at], *instead(random, one), *rest[at:])


def instead(random: Random, one: Record) -> tuple[Record, ...]:
    """What comes in the place of a record: nothing, one more, or its framing or size is another."""
    size, length = (max(0, one.size + random.choice((-4096, -16, -8, -1, 1, 4, 8, 16))) for _ in range(2))
    padding = random.randbytes(-one.size % 8)
    return random.choice(
        (
            (),
            (any_record(random), one),
            (replace(one, padding=padding),),
            (replace(one, length=random.choice((length, length, 1 << 28))),),
            (one.resized(size),),
        )
    )


def other_bytes(random: Random, data: Data) -> bytes:
    """As many: a flipped bit, or a number that means something somewhere."""
    size = size_of(data)
    if random.random() < 0.5:
        number = int.from_bytes(bytes(data), "little") ^ 1 << random.randrange(8 * size)
        return number.to_bytes(size, "little")
    number = random.choice(NUMBERS) & (1 << 8 * min(size, 8)) - 1
    return number.to_bytes(size, random.choice(("little", "big")))


def damaged(random: Random, stream: Built) -> bytes:
    """Its bytes with a field changed, cut off, or followed by others."""
    match random.randrange(6):
        case 0:
            data = stream.to_bytes()
            return data[: random.randrange(len(data))]
        case 1:
            return stream.to_bytes() + random.randbytes(random.randrange(9))
        case 2:
            return stream.to_bytes()
    fields = [part for part in stream.parts() if 0 < size_of(part.data) <= SHORT]
    part = random.choice(fields)
    return stream.damaged(part.name, other_bytes(random, part.data))


def mutated(random: Random) -> tuple[bytes, str]:
    """A stream and its format."""
    form = random.choice(FORMATS)
    inner = random.choice(LIBXC)
    libxl = random.choice(LIBXL)
    while random.random() < 0.5:
        inner = inner.only(*changed(random, inner.records)) if inner.records else inner
        libxl = replace(libxl, inner=replace(inner, trailing=b""))
        if random.random() < 0.5:
            libxl = replace(libxl, behind=changed(random, libxl.behind or (Record(rec.LIBXL_END),)))
    whole: Built = inner if form == "libxc" else libxl
    if form == "xl":
        whole = Xl(inner=random.choice((inner, libxl, libxl)))
        if whole.inner is inner:
            whole = replace(whole, header=XlHeader())
    return damaged(random, whole), form


# ---------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_streams(seed: int, debian: Debian) -> None:
    """Neither accepts what the other refuses, but by a row of the table; and what we refuse has a rule."""
    random = Random(seed)
    matrix: Counter[tuple[bool, bool]] = Counter()
    for _ in range(STREAMS):
        data, form = mutated(random)
        mine, theirs = ours(data, form), debian(data, form)
        matrix[mine.rule == ACCEPTED, theirs == ACCEPTED] += 1
        if (mine.rule == ACCEPTED) != (theirs == ACCEPTED):
            explained = [row.row for row in ROWS.values() if row.explains(mine, theirs)]
            assert explained, (form, mine, theirs)
        assert mine.rule in {ACCEPTED, "xl header", *RULES}
    assert min(matrix[True, True], matrix[False, False]) > STREAMS // 10


SMALLEST: Final[dict[str, Callable[[], tuple[Built, str]]]] = {
    "D-01": lambda: (LIBXL[1], "libxl"),
    "D-32": lambda: (HVM.first(record(rec.OPTIONAL | 1, b"abc")), "libxc"),
    "D-29": lambda: (replace(HVM, options=1), "libxc"),
    "D-30": lambda: (replace(LIBXL[0], options=1 << 16), "libxl"),
    "D-41": lambda: (HVM.first(rec.record(rec.HVM_CONTEXT, bytes((128 << 20) + 1))), "libxc"),
    "14": lambda: (replace(LIBXL[0], before=(Record(rec.LIBXL_END),)), "libxl"),
    "14 draft": lambda: (replace(LIBXL[2], before=(Record(2),)), "libxl"),
    "12.6": lambda: (enveloped(HVM.last(Record(rec.CHECKPOINT), Record(rec.CHECKPOINT_END))), "libxl"),
    "12.6 end": lambda: (enveloped(HVM.before(rec.TSC_INFO, Record(rec.CHECKPOINT))), "libxl"),
}
"""The least that shows a row."""


def test_every_row_is_shown() -> None:
    assert SMALLEST.keys() == ROWS.keys()


@pytest.mark.parametrize("row", ROWS)
def test_rows(row: str, debian: Debian) -> None:
    stream, form = SMALLEST[row]()
    mine, theirs = ours(stream.to_bytes(), form), debian(stream.to_bytes(), form)
    assert (mine.rule == ACCEPTED) != (theirs == ACCEPTED)
    assert ROWS[row].explains(mine, theirs), (mine, theirs)


@pytest.mark.parametrize("at", range(len(LIBXC)))
def test_the_unchanged_ones_are_good(at: int, debian: Debian) -> None:
    assert (ours(LIBXC[at].to_bytes(), "libxc").rule, debian(LIBXC[at].to_bytes(), "libxc")) == (
        ACCEPTED,
    ) * 2


def test_rules_of_level_reference() -> None:
    """Those of the original by its numbers (reference-tools.md 9), and no other one is checked there."""
    original = {*range(1, 13), *range(20, 27), *range(30, 45), *range(50, 61)}
    checked = {rule.id for rule in RULES.values() if rule.level is Level.REFERENCE}
    assert {int(re.fullmatch(r"V(\d+)[a-z]?", name)[1]) for name in checked} == original  # type: ignore[index]
    assert all(rule.id.startswith("X") for rule in RULES.values() if rule.id not in checked)
