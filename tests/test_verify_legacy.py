"""Checks of legacy images, each broken once; what good ones of all generations are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
import real
from conftest import every_kind, open_file, sample
from test_checkpoints import checkpoint, remus

from xenmig_np.testing.builder import LegacyImage, small_image
from xenmig_np.testing.carriers import BANNER, Carried, XendHead
from xenmig_np.testing.fields import page, word
from xenmig_np.testing.pieces import (
    ENABLE_COMPRESSION,
    LAST_CHECKPOINT,
    VERIFY_MODE,
    Batch,
    Control,
    DeviceModel,
    Param,
    Tsc,
    VcpuInfo,
    XlHeader,
)
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.legacy import CHECKS
from xenmig_np.verification.run import Report, verify

if TYPE_CHECKING:
    from xenmig_np.testing.pieces import Piece

HVM, PV = small_image("hvm"), small_image("pv64")


def checked(data: bytes, **options: int | str) -> Report:
    with open_file(data) as fd:
        return verify(fd, **options)  # type: ignore[arg-type]


def found(data: bytes) -> dict[str, str]:
    """Rules with what was found, apart from remarks that checkpointed images have as such."""
    return {finding.rule: finding.found for finding in checked(data).findings if finding.rule != "D28"}


def more(image: LegacyImage, *pieces: Piece) -> LegacyImage:
    return replace(image, body=(*image.body, *pieces))


def without(image: LegacyImage, kind: type[Piece] | Control) -> LegacyImage:
    gone = (lambda it: it == kind) if isinstance(kind, Control) else (lambda it: isinstance(it, kind))
    return replace(image, body=tuple(piece for piece in image.body if not gone(piece)))


def later(guest: str, *pieces: Piece) -> LegacyImage:
    image = remus(guest)
    return replace(image, later=(checkpoint(image, 1, *pieces),))


Broken = tuple[str, Callable[[], bytes], str]
CASES: Final[dict[str, Broken]] = {
    "cut": ("L1", lambda: PV.to_bytes()[:-1], "the end of the input"),
    "a table in an HVM image": (
        "L2",
        lambda: more(HVM, Batch((word(1, 3),), (page(),))).to_bytes(),
        "1 entries of page tables",
    ),
    "two chunks -2": ("L3", lambda: more(HVM, VcpuInfo()).to_bytes(), "2 of them"),
    "an HVM image without chunk -2": ("L3", lambda: without(HVM, VcpuInfo).to_bytes(), "0 of them"),
    "two in a later body": ("L3", lambda: later("hvm", VcpuInfo()).to_bytes(), "2 of them in checkpoint 1"),
    "4.1 and no chunk -9": (
        "L4",
        lambda: without(more(HVM, Param(-8, 3)), Control(LAST_CHECKPOINT)).to_bytes(),
        "none",
    ),
    "pfns that nobody mentions": (
        "L5",
        PV.to_bytes,
        "pfns in no batch",
    ),
    "the TSC a second time": (
        "L6",
        lambda: later("hvm", Tsc(0, 1, 2, 3)).to_bytes(),
        "tsc_info in checkpoint 1",
    ),
    "verify mode later": (
        "L6",
        lambda: later("hvm", Control(VERIFY_MODE)).to_bytes(),
        "enable_verify_mode in checkpoint 1",
    ),
    "compression twice": (
        "L7",
        lambda: more(remus("hvm"), *[Control(ENABLE_COMPRESSION)] * 2).to_bytes(),
        "2 of them, and 0 behind",
    ),
    "compression later": (
        "L7",
        lambda: later("hvm", Control(ENABLE_COMPRESSION)).to_bytes(),
        "0 of them, and 1 behind",
    ),
}


@pytest.mark.parametrize(("rule", "made", "what"), CASES.values(), ids=CASES)
def test_exactly_this_is_told(rule: str, made: Callable[[], bytes], what: str) -> None:
    told = found(made())
    assert set(told) - OFTEN == {rule}
    assert what in told[rule]


OFTEN: Final = frozenset(found(HVM.to_bytes())) | frozenset(found(PV.to_bytes())) - {row[0] for row in CHECKS}
"""Remarks on the small images themselves."""


def test_every_check_is_broken_by_a_case() -> None:
    assert {rule for rule, _, _ in CASES.values()} == {"L1", *(row[0] for row in CHECKS)}


@every_kind
def test_good_images_are_clean(guest: str, width: int) -> None:
    report = checked(sample(guest, width))
    assert (report.findings, report.kind) == ((), "legacy image")


@pytest.mark.parametrize("guest", ["hvm", "pv64", "pv32"])
def test_a_checkpointed_image_is_one_of_remus(guest: str) -> None:
    """Chunks that each checkpoint has are not counted together, and none needs chunk -9."""
    image = remus(guest)
    whole = replace(image, later=tuple(checkpoint(image, number) for number in (1, 2)))
    report = checked(whole.to_bytes())
    assert [finding.rule for finding in report.findings if finding.rule not in OFTEN | {"L5"}] == ["D28"]
    assert report.good()
    assert not {"L3", "L4"} & set(found(more(image, Control(ENABLE_COMPRESSION)).to_bytes()))


def test_what_is_no_fault_is_a_note() -> None:
    """A capture of a migration, a device model of qemu-traditional."""
    model = DeviceModel(signature=b"QemuDeviceModelRecord")
    data = Carried(XendHead(), replace(HVM, device_model=model).to_bytes()).to_bytes()
    told = {finding.rule: finding.severity for finding in checked(data).findings}
    assert told["containers 9.4"] is Severity.NOTE
    captured = Carried(XlHeader(), PV.to_bytes(), preamble=BANNER).to_bytes()
    told = {finding.rule: finding.severity for finding in checked(captured).findings}
    assert told["containers 9.1"] is Severity.NOTE


TITLES: Final = {
    "bare": "legacy image",
    "xl": "legacy image in an xl file",
    "xend": "legacy image in a xend file",
    "libvirt": "legacy image in a libvirt file",
    "xapi": "legacy image in a XenServer (xapi) suspend image",
    "xapi2": "legacy image in a structured XenServer (xapi) suspend image",
}
SMALL: Final = [one for one in real.ALL if not one.ran]


@pytest.mark.parametrize("image", real.each(SMALL))
def test_samples(image: real.Sample) -> None:
    """Whole ones are good, unless they are of a guest that no v2 stream can hold."""
    report = checked(image.unpacked())
    rules = {finding.rule for finding in report.findings}
    assert report.kind == TITLES[image.carrier]
    if image.whole or image.name.startswith("cut-"):
        assert report.good() == image.whole
    assert ("D28" in rules) == bool(image.truth["remus"])
    assert not {"L2", "L3", "L4", "L5", "L6", "L7"} & rules
