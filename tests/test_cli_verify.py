"""``xenmig-np verify``: verdicts, findings and what a script reads of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import converted, every_kind, sample, xenmig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Put = Callable[..., Path]

XEN_MAJOR = 0x18 + 24 + 8
"""Offset of the field in a bare libxl stream; nothing judges it."""
RESERVED = 0x18 + 18
"""Of the image header's first reserved field there."""
TYPE = 0x18 + 24
"""Of the domain header's type there."""


def damaged(data: bytes, at: int, byte: int) -> bytes:
    return data[:at] + bytes([byte]) + data[at + 1 :]


@every_kind
def test_a_conversion_is_good(guest: str, width: int, put: Put) -> None:
    new = put(converted(sample(guest, width)))
    ran = xenmig("verify", new)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.decode().startswith(f"{new}: good: libxl stream, ")
    assert xenmig("verify", "-q", new).out == b""


def test_findings_name_place_and_rule(put: Put) -> None:
    bad = put(damaged(converted(sample()), TYPE, 9))
    ran = xenmig("verify", bad)
    lines = ran.out.decode().splitlines()
    assert ran.code == 1
    assert lines[0].startswith(f"error: {bad}: libxc domain header at {TYPE:#x}: ")
    assert lines[0].endswith("found type 0x9, expected 1 (PV) or 2 (HVM) [V7]")
    assert lines[-1].startswith(f"{bad}: bad: ")


def test_warnings_count_only_if_strict(put: Put) -> None:
    odd = put(damaged(converted(sample()), RESERVED, 1))
    assert xenmig("verify", odd).code == 0
    assert xenmig("verify", "--strict", odd).code == 1
    reference = xenmig("verify", "--level", "reference", odd)
    assert reference.code == 1
    assert b"[V5]" in reference.out


def test_a_release_that_cannot_take_it(put: Put) -> None:
    new = put(converted(sample(), target="xen-4.14"))
    assert xenmig("verify", new).code == 0
    assert xenmig("verify", "--for", "4.14", new).code == 0
    ran = xenmig("verify", "--for", "4.13", new)
    assert ran.code == 1
    assert b"; Xen 4.6 to 4.13 refuse it [X25]" in ran.out


def test_every_input_is_examined(put: Put, tmp_path: Path) -> None:
    stream = converted(sample())
    good, bad = put(stream, "good"), put(stream[:-1], "bad")
    ran = xenmig("verify", "--json", bad, tmp_path / "none", put(b"text, no image at all", "text"), good)
    assert ran.code == 1
    assert [one.get("good") for one in ran.report["inputs"]] == [False, None, None, True]
    assert [one["path"] for one in ran.report["inputs"]][-1] == str(good)
    assert len(ran.lines) == 2


def test_only_unreadable_inputs_say_so(tmp_path: Path) -> None:
    assert xenmig("verify", tmp_path / "none").code == 4


def test_json_document(put: Put) -> None:
    bad = put(damaged(converted(sample()), TYPE, 9))
    (report,) = xenmig("verify", "--json", bad).report["inputs"]
    assert (report["schema"], report["schema_version"]) == ("xenmig-np/verification", 1)
    first = report["findings"][0]
    assert (first["rule"], first["severity"], first["offset"]) == ("V7", "error", TYPE)
    assert report["errors"] == sum(one["severity"] == "error" for one in report["findings"])


def test_findings_are_cut(put: Put) -> None:
    stream = converted(sample("pv64"))
    bad = put(damaged(damaged(stream, RESERVED, 1), TYPE, 9))
    everything = xenmig("verify", "--json", bad).report["inputs"][0]
    cut = xenmig("verify", "--json", "--max-findings", "1", bad).report["inputs"][0]
    assert (len(cut["findings"]), cut["cut"], everything["cut"]) == (1, True, False)
    assert cut["findings"] == everything["findings"][:1]


def test_pipe(put: Put) -> None:
    stream = converted(sample("pv32"))
    ran = xenmig("verify", "-", stdin=stream)
    assert ran.code == 0
    assert ran.out.decode().startswith("standard input: good: ")
    assert xenmig("verify", "-", stdin=stream[:-8]).code == 1


@every_kind
def test_legacy_image(guest: str, width: int, put: Put) -> None:
    image = sample(guest, width)
    ran = xenmig("verify", put(image))
    assert ran.code == 0
    assert ": good: legacy image, " in ran.out.decode()
    cut = xenmig("verify", put(image[:-100]))
    assert cut.code == 1
    assert b"[L1]" in cut.out


@pytest.mark.parametrize(
    "arguments",
    [(), ("--level", "strict", "x"), ("--for", "4.5", "x"), ("--against", "a", "b", "c"), ("--against", "a")],
)
def test_usage(arguments: tuple[str, ...]) -> None:
    ran = xenmig("verify", *arguments)
    assert ran.code == 2
    assert ran.err


# ---- against the original --------------------------------------------------------------------------------


@every_kind
def test_against_says_that_the_original_can_go(guest: str, width: int, put: Put) -> None:
    old = sample(guest, width, live=True, xl=True)
    ran = xenmig("verify", "--against", put(old, "old"), put(converted(old), "new"))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.decode().splitlines()[-1].split(": ")[1] == "the original can be deleted"


def test_against_finds_a_flipped_bit(put: Put) -> None:
    old = sample("pv64")
    new = converted(old)
    at = len(new) // 2
    ran = xenmig("verify", "--against", put(old, "old"), put(damaged(new, at, new[at] ^ 1), "new"))
    lines = ran.out.decode().splitlines()
    assert ran.code == 1
    assert f"{at:#x}" in lines[0]
    assert ": do not delete the original: " in lines[-1]


def test_against_misses_the_device_model_of_libxc_format(put: Put) -> None:
    old = sample()
    ran = xenmig("verify", "--against", put(old, "old"), put(converted(old, format="libxc"), "new"))
    assert ran.code == 1
    assert b"it lacks the device model" in ran.out


def test_against_wants_a_stream_that_xen_takes(put: Put) -> None:
    old = sample("pv64")
    new = converted(old, target="xen-4.14", format="libxc")
    assert new[0x38:0x40] == bytes([0x10, 0, 0, 0, 0, 0, 0, 0])  # STATIC_DATA_END
    without = new[:0x38] + new[0x40:]
    ran = xenmig("verify", "--against", put(old, "old"), put(without, "new"))
    assert ran.code == 1
    assert "places of the stream that break a rule of verification: " in ran.out.decode()


def test_against_as_json(put: Put) -> None:
    old = sample()
    report = xenmig("verify", "--json", "--against", put(old, "old"), put(converted(old), "new")).report
    assert (report["schema"], report["deletable"], report["counts"]) == ("xenmig-np/comparison", True, {})
    assert report["verdict"].startswith("the original can be deleted: ")


def test_against_needs_files(put: Put) -> None:
    old = sample()
    ran = xenmig("verify", "--against", put(old), "-", stdin=converted(old))
    assert ran.code == 2
    assert "a pipe can be read only once" in ran.err
