"""What `info` says of checkpointed images and of device models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import real
from conftest import open_file, xenmig
from test_checkpoints import checkpoint, remus

import xenmig_np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xenmig_np.read.info import ImageInfo

    Put = Callable[..., Path]

READ = [one for one in real.ALL if not one.ran and not one.name.startswith("cut-")]


def told(data: bytes) -> ImageInfo:
    with open_file(data) as fd:
        return xenmig_np.info(fd)


@pytest.mark.parametrize("image", real.each(READ))
def test_samples(image: real.Sample) -> None:
    info = told(image.unpacked())
    remus = image.truth["remus"]
    assert info.checkpoints == (remus["complete_checkpoints"] if remus else 1)
    assert info.incomplete_checkpoint == bool(remus and remus["truncated_in_checkpoint"])


def test_one_checkpoint_and_a_part_of_another() -> None:
    image = remus("hvm", later=0)
    whole = replace(image, later=(checkpoint(image, 1),)).to_bytes()
    first = len(image.to_bytes())
    cases = {
        whole: (2, False),
        whole[:-1]: (1, True),
        whole[:first]: (1, False),
        whole + bytes(99): (2, False),
        whole + whole[first:-1]: (2, True),
    }
    found = {data: told(data) for data in cases}
    assert {data: (info.checkpoints, info.incomplete_checkpoint) for data, info in found.items()} == cases


def test_in_words(put: Put) -> None:
    image = remus("hvm", later=0)
    whole = replace(image, later=(checkpoint(image, 1),)).to_bytes()
    lines = xenmig("info", put(whole)).out.decode().splitlines()
    assert "  checkpoints  2 complete, the last counts" in lines
    cut = xenmig("info", put(whole[:-1])).out.decode()
    assert "  checkpoints  1 complete; one behind them breaks off and does not count\n" in cut
    assert "checkpoints" not in xenmig("info", put(image.to_bytes())).out.decode()


@pytest.mark.parametrize("image", real.each([one for one in READ if one.name == "hvm-33-t64-xend"]))
def test_the_consequence_of_qemu_traditional(image: real.Sample, put: Put) -> None:
    ran = xenmig("info", put(image.unpacked()))
    assert ran.code == 0
    assert "the device model is qemu-traditional: Xen 4.6 to 4.20 restore it" in ran.err
