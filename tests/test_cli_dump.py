"""``xenmig-np dump``: every byte of an input belongs to a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import converted, every_kind, sample, xenmig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Put = Callable[..., Path]


def spans(report: dict[str, list[dict[str, int]]]) -> list[tuple[int, int]]:
    return [(entry["offset"], entry["length"]) for entry in report["entries"]]


def check_covered(found: list[tuple[int, int]], size: int) -> None:
    at = 0
    for offset, length in found:
        assert offset == at
        at += length
    assert at == size


@every_kind
@pytest.mark.parametrize("every", [False, True])
def test_legacy_image_is_covered(guest: str, width: int, put: Put, *, every: bool) -> None:
    image = sample(guest, width, live=True, xl=True)
    ran = xenmig("dump", "--json", *(["--all"] if every else []), put(image))
    assert ran.code == 0
    assert (ran.report["schema"], ran.report["schema_version"]) == ("xenmig-np/dump", 1)
    check_covered(spans(ran.report), len(image))


@pytest.mark.parametrize("target", ["draft-v7", "xen-4.6", "xen-4.14"])
@pytest.mark.parametrize("format_", ["libxl", "libxc"])
def test_stream_is_covered(target: str, format_: str, put: Put) -> None:
    stream = converted(sample("pv64", live=True), target=target, format=format_)
    for every in ([], ["--all"]):
        check_covered(spans(xenmig("dump", "--json", *every, put(stream)).report), len(stream))


def test_batches_are_summed_up(put: Put) -> None:
    image = put(sample("hvm", memory=8 << 20))
    few, many = (xenmig("dump", "--json", *every, image).report["entries"] for every in ([], ["-a"]))
    (together,) = [entry for entry in few if entry["name"] == "page batches"]
    apart = [entry for entry in many if entry["name"].startswith("page batch ")]
    assert together["details"]["count"] == len(apart) > 1
    assert together["details"]["pages"] == sum(entry["details"]["pages"] for entry in apart)


def test_lines(put: Put) -> None:
    lines = xenmig("dump", put(converted(sample()))).out.decode().splitlines()
    assert lines[0].split() == ["0x000000000000", "16", "libxl", "header", "version", "2,", "options", "2"]
    assert any(" HVM_PARAMS " in line and "params 5=" in line for line in lines)


def test_what_can_be_read_is_shown_before_the_error(put: Put) -> None:
    image = sample("pv64")
    ran = xenmig("dump", put(image[:-1]))
    assert ran.code == 1
    assert ran.out.decode().splitlines()[0].endswith("value 256")
    assert "shared info page at" in ran.err


def test_pipe() -> None:
    stream = converted(sample("pv32"))
    assert xenmig("dump", "-", stdin=stream).code == 0


def test_other_files_are_named(put: Put) -> None:
    assert xenmig("dump", put(b"\x7fELF" + bytes(100))).code == 3
