"""Where Debian's converter and ours part: the rows of data/divergences.toml; which of them an image has."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from drawn import leaves_out

from xenmig_np.testing.builder import LegacyImage
from xenmig_np.testing.fields import XTAB
from xenmig_np.testing.pieces import VERIFY_MODE, Batch, Control, Param, Toolstack, VcpuInfo

FORMATS: Final = ("libxc", "libxl")
HOLE: Final = XTAB << 28
"""The word that Debian's converter drops."""


@dataclass(frozen=True)
class Divergence:
    """A row of the data file, which says what the fields mean."""

    row: str
    input: str
    debian: str
    ours: str
    reason: str
    formats: tuple[str, ...] = FORMATS
    samples: tuple[str, ...] = ()


def _rows() -> dict[str, Divergence]:
    text = Path(__file__).with_name("data").joinpath("divergences.toml").read_text()
    return {entry["row"]: Divergence(**entry) for entry in tomllib.loads(text)["divergence"]}


ROWS: Final = _rows()


def explaining(image: LegacyImage, form: str) -> set[str]:
    """Rows that apply to an image of the strategies."""
    tests = TESTS | (HVM_TESTS if image.guest == "hvm" else PV_TESTS)
    return {row for row, test in tests.items() if form in ROWS[row].formats and test(image)}


def of(image: LegacyImage, kind: type[Any]) -> list[Any]:
    return [piece for piece in image.body if isinstance(piece, kind)]


def any_word(image: LegacyImage, test: Callable[[int], object]) -> bool:
    return any(test(value) for batch in of(image, Batch) for value in batch.words)


def any_name(image: LegacyImage, test: Callable[[bytes | None], object]) -> bool:
    return any(test(entry.name) for chunk in of(image, Toolstack) for entry in chunk.entries or ())


def any_param(image: LegacyImage, test: Callable[[int, int], object]) -> bool:
    return any(test(param.id, param.value) for param in of(image, Param))


def any_xsave(image: LegacyImage, test: Callable[[int, int, int], object]) -> bool:
    """Of the size announced, the size of a record, and its xcr0_accum."""
    blocks: Any = image.blocks or ()
    announced = [int.from_bytes(block.payload, "little") for block in blocks if block.id == b"xcnt"]
    vcpus: Any = image.vcpus
    found = [vcpu.xsave for vcpu in vcpus if vcpu.xsave]
    return any(test(announced[0] - 16, 16 + len(bytes(xsave.area)), xsave.xcr0_accum) for xsave in found)


def repeats(batch: Batch) -> bool:
    kept = [value for value in batch.words if value != HOLE]
    return len(set(kept)) < len(kept)


def half_a_pair(image: LegacyImage) -> bool:
    last = {param.id: param.value for param in of(image, Param) if param.id in (-19, -20)}
    return bool(last) and not (last.get(-19) and last.get(-20))


def unknown_block(image: LegacyImage) -> bool:
    blocks: Any = image.blocks or ()
    return any(block.id not in (b"vcpu", b"extv", b"xcnt") for block in blocks)


NEEDED: Final = {0: 16, 1: 592, 3: 592, 7: 848}
Tests = dict[str, Callable[[LegacyImage], bool]]
TESTS: Final[Tests] = {
    "D1": lambda image: any(set(batch.words) == {HOLE} for batch in of(image, Batch)),
    "D2": lambda image: any_name(image, lambda name: name is None),
    "D5 sign": lambda image: any_word(image, lambda value: value == 0xFFFF_FFFF << 32 | HOLE),
    "D16": lambda image: Control(VERIFY_MODE) in image.body,
    "D17": lambda image: any_word(image, lambda value: value >> 28 & 15 == XTAB and value & 0x0FFF_FFFF),
    "D21": lambda image: any(map(repeats, of(image, Batch))),
    "D-12": lambda image: any_name(image, lambda name: "\ufffd" in (name or b"").decode(errors="replace")),
}
HVM_TESTS: Final[Tests] = {
    "D18": lambda image: any_param(image, lambda number, value: number == -10 and value != 1),
    "D19": half_a_pair,
    "D20": lambda image: any_param(image, lambda number, _: number == -21),
    "D24": lambda image: any_param(image, lambda _, value: value == 0),
    "19.9": lambda image: image.device_model is None,
}
PV_TESTS: Final[Tests] = {
    "D3": lambda image: not of(image, VcpuInfo),
    "D4": lambda image: any_xsave(image, lambda announced, size, _: size != announced),
    "D8": lambda image: len(of(image, VcpuInfo)) > 1,
    "D9": lambda image: any(len(info.online) < len(info.ids) for info in of(image, VcpuInfo)),
    "D22": lambda image: image.blocks is not None and leaves_out(image.to_bytes(), image.width),
    "D25": lambda image: any_xsave(image, lambda _, size, accum: size > NEEDED.get(accum, size)),
    "D26": unknown_block,
}
MISREAD: Final = {"D3", "D8", "D9"}
"""Rows by which Debian's converter loses its way in the tail: what comes out is chance."""
