"""``xenmig-np sample`` as a process: the image that the library makes, on any output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from conftest import MIB, every_kind, sample, xenmig

from xenmig_np.cli.options import parse_size
from xenmig_np.cli.terminal import size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@every_kind
def test_makes_what_the_library_makes(guest: str, width: int, tmp_path: Path) -> None:
    options = ("--guest", guest, "--width", str(width), "--memory", "1MiB")
    ran = xenmig("sample", tmp_path / "new", *options)
    assert (ran.code, ran.out) == (0, b"")
    assert ran.lines == [f"{tmp_path / 'new'}: {size(len(sample(guest, width)))}"]
    assert (tmp_path / "new").read_bytes() == sample(guest, width)
    assert os.listdir(tmp_path) == ["new"]


def test_every_option(tmp_path: Path) -> None:
    options = ("--guest", "pv64", "--memory", "1M", "--live", "--xl", "--seed", "7", "--zeros", "0.5")
    assert xenmig("sample", tmp_path / "new", *options, "-q").err == ""
    assert (tmp_path / "new").read_bytes() == sample("pv64", live=True, xl=True, seed=7, zeros=0.5)


def test_defaults(tmp_path: Path) -> None:
    assert xenmig("sample", tmp_path / "new").code == 0
    report = xenmig("info", tmp_path / "new", "--json").report
    assert (report["guest"], report["width"], report["carrier"]) == ("hvm", 64, "bare")
    assert 63 * MIB < report["pages"] * 4096 <= 65 * MIB


def test_to_stdout() -> None:
    assert xenmig("sample", "-", "--memory", "1MiB").out == sample("hvm")


def test_sample_into_convert() -> None:
    made = xenmig("sample", "-", "--memory", "1MiB", "--guest", "pv32", "-q").out
    assert xenmig("convert", "-", "-", stdin=made).code == 0


def test_existing_file(put: Callable[..., Path]) -> None:
    new = put(b"precious")
    ran = xenmig("sample", new, "--memory", "1MiB")
    assert (ran.code, new.read_bytes()) == (6, b"precious")
    assert ran.lines == [f"error: {new}: exists already", "hint: --force replaces it"]
    assert xenmig("sample", new, "--memory", "1MiB", "--force").code == 0
    assert new.read_bytes() == sample("hvm")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--memory", "a lot"), "'a lot' is no size: give bytes, or a number with K, M, G or T"),
        (("--memory", "5000"), "memory: found 5,000 bytes, expected a multiple of 4,096"),
        (("--memory", "0"), "memory: found 0 bytes, expected 1,048,576 to"),
        (("--memory", "1000T"), "memory: found 1,099,511,627,776,000 bytes, expected 1,048,576 to"),
        (("--zeros", "2"), "share of zero pages: found 2.0, expected 0 to 1"),
        (("--zeros", "nan"), "share of zero pages: found nan, expected 0 to 1"),
        (("--seed", "-1"), "seed: found -1, expected 0 or more"),
        (("--guest", "arm"), "'arm' is not one of 'hvm', 'pv64', 'pv32'"),
        (("--width", "16"), "'16' is not one of 32, 64"),
    ],
)
def test_usage_errors(options: tuple[str, ...], told: str, tmp_path: Path) -> None:
    ran = xenmig("sample", tmp_path / "new", *options)
    assert (ran.code, os.listdir(tmp_path)) == (2, [])
    assert told in ran.err


def test_reader_has_gone() -> None:
    out, into = os.pipe()
    os.close(out)
    ran = xenmig("sample", "-", "--memory", "1MiB", stdout=into)
    os.close(into)
    assert ran.code == 4
    assert ran.lines == ["error: standard output: writing failed: its reader has gone: Broken pipe"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("1k", 1 << 10),
        ("64MiB", 64 << 20),
        ("64 MB", 64 << 20),
        ("2G", 2 << 30),
        ("1Ti", None),
        ("1T", 1 << 40),
        ("-1", None),
        ("1.5G", None),
        ("", None),
    ],
)
def test_sizes(text: str, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(Exception, match="is no size"):
            parse_size(text)
    else:
        assert parse_size(text) == expected
