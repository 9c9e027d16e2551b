"""``xenmig-np convert`` as a process: what it writes, says, prints and returns, and how it ends."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import lzma
import os
import pty
import re
import signal
import socket
import subprocess
import termios
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from conftest import (
    COMMAND,
    ENVIRONMENT,
    MIB,
    Ran,
    converted,
    every_kind,
    finished,
    open_file,
    sample,
    started,
    wait_for,
    xenmig,
)
from plain.goldens import GOLDENS, INPUTS

from xenmig_np.cli import terminal
from xenmig_np.io.source import open_source
from xenmig_np.read.v2 import identify, tally
from xenmig_np.testing import fields, pieces
from xenmig_np.testing.builder import small_image
from xenmig_np.testing.pieces import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL = {"hvm": small_image("hvm"), "pv64": small_image("pv64")}
LIBXL, LIBXC = b"LibxlFmt", b"\xff" * 8


def said(guest: str) -> str:
    """What --guest calls it."""
    return "hvm" if guest == "hvm" else "pv"


def without_record(**changes: object) -> bytes:
    """A HVM image that has no device-model record."""
    return replace(small_image("hvm"), device_model=None, **changes).to_bytes()  # type: ignore[arg-type]


def given_back() -> dict[str, bytes]:
    """PV images whose tail lists a pfn that a batch has sent, or that an old page table names (D22)."""
    image = small_image("pv64")
    page = Batch((fields.word(fields.NOTAB, 20),), (fields.page(0x77),))
    table = Batch((fields.word(1, 3),), (fields.page(0, [(0, fields.pte(20))]),))
    return {
        name: replace(image, body=(image.body[0], batch, *image.body[1:]), unmapped=(20,)).to_bytes()
        for name, batch in (("gave back (1)", page), ("such pages (1)", table))
    }


GIVEN_BACK = given_back()


# ---- the same bytes on all routes ------------------------------------------------------------------------


@every_kind
def test_file_to_file(guest: str, width: int, put: Callable[..., Path], tmp_path: Path) -> None:
    data = sample(guest, width)
    ran = xenmig("convert", put(data), tmp_path / "new")
    made = (tmp_path / "new").read_bytes()
    assert (ran.code, ran.out) == (0, b"")
    assert made.startswith(LIBXL)
    assert made == converted(data)
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


@every_kind
def test_pipe_to_pipe(guest: str, width: int) -> None:
    data = sample(guest, width)
    ran = xenmig("convert", "-", "-", stdin=data)
    assert ran.code == 0
    assert ran.out == converted(data)


def test_file_to_pipe(put: Callable[..., Path]) -> None:
    data = sample("pv64")
    ran = xenmig("convert", put(data), "-")
    assert (ran.code, ran.out) == (0, converted(data))


def test_pipe_to_file(tmp_path: Path) -> None:
    data = sample("pv32", 32)
    ran = xenmig("convert", "-", tmp_path / "new", stdin=data)
    assert (ran.code, ran.out) == (0, b"")
    assert (tmp_path / "new").read_bytes() == converted(data)


def test_live_image_on_all_routes(put: Callable[..., Path]) -> None:
    data = sample("hvm", 64, live=True)
    old = put(data)
    assert xenmig("convert", old, "-").out == xenmig("convert", "-", "-", stdin=data).out == converted(data)


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_descriptor_in_the_middle_of_a_file(name: str) -> None:
    data = sample("hvm", 32)
    with open_file(b"before" + data) as old:
        os.lseek(old, 6, os.SEEK_SET)
        ran = xenmig("convert", name, "-", stdin=old)
    assert (ran.code, ran.out) == (0, converted(data))


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_output_descriptor_goes_on_where_it_stands(name: str, put: Callable[..., Path]) -> None:
    data = sample("hvm")
    with open_file(b"before, and more behind") as new:
        os.lseek(new, 6, os.SEEK_SET)
        assert xenmig("convert", put(data), name, stdout=new).code == 0
        written = os.pread(new, 2 * len(data), 0)
    assert written == b"before" + converted(data)


def test_descriptors_of_other_numbers(tmp_path: Path) -> None:
    data = sample("pv64", 32)
    with open_file(data) as old, open_file() as new:
        ran = xenmig("convert", f"/dev/fd/{old}", f"/dev/fd/{new}", pass_fds=(old, new), cwd=tmp_path)
        assert ran.code == 0
        assert os.pread(new, 2 * len(data), 0) == converted(data)
    assert os.listdir(tmp_path) == []


def test_descriptor_that_is_not_open(tmp_path: Path) -> None:
    ran = xenmig("convert", "/dev/fd/77", tmp_path / "new")
    assert (ran.code, ran.lines) == (4, ["error: /dev/fd/77: cannot be read: Bad file descriptor"])


def test_socket_to_file(tmp_path: Path) -> None:
    data = sample("hvm")
    ours, theirs = socket.socketpair()

    def send() -> None:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)

    with ours, theirs:
        sender = threading.Thread(target=send)
        sender.start()
        ran = xenmig("convert", "/dev/stdin", tmp_path / "new", stdin=theirs.fileno())
        sender.join()
    assert ran.code == 0
    assert (tmp_path / "new").read_bytes() == converted(data)


# ---- targets and formats ---------------------------------------------------------------------------------

NUMBERINGS = {"draft-v7": "draft-v7", "xen-4.6": "released", "xen-4.14": "released"}


@pytest.mark.parametrize("guest", ["hvm", "pv64"])
@pytest.mark.parametrize("format_", ["libxc", "libxl", "auto"])
@pytest.mark.parametrize("target", NUMBERINGS)
def test_target_and_format(
    target: str, format_: str, guest: str, put: Callable[..., Path], tmp_path: Path
) -> None:
    old, new = put(SMALL[guest].to_bytes()), tmp_path / "new"
    ran = xenmig("convert", old, new, "--target", target, "--format", format_, "--json")
    assert (ran.code, ran.report["target"]) == (0, target)
    with open_source(new) as made:
        kind = identify(made, 0)
    written = "libxc" if format_ == "libxc" else "libxl"
    assert ran.report["format"] == kind.format == written
    assert kind.libxc_version == (3 if target == "xen-4.14" else 2)
    told = written == "libxl" or target == "xen-4.14"  # version 2 alone has the same numbers in both
    assert kind.numbering == (NUMBERINGS[target] if told else "unknown")
    assert (kind.guest, kind.converted) == (said(guest), True)


@pytest.mark.parametrize(("target", "format_", "flags"), [("xen-4.6", "auto", 3), ("xen-4.14", "libxl", 3)])
def test_xl_file_stays_one(
    target: str, format_: str, flags: int, put: Callable[..., Path], tmp_path: Path
) -> None:
    data = sample("hvm", 64, xl=True)
    ran = xenmig("convert", put(data), tmp_path / "new", "--target", target, "--format", format_)
    made = (tmp_path / "new").read_bytes()
    head = 48 + int.from_bytes(data[44:48], "little")
    assert ran.code == 0
    assert made[:36] + data[36:40] + made[40:head] == data[:head]
    assert int.from_bytes(made[36:40], "little") == flags
    assert made[head:] == converted(data[head:], target=target)
    assert "an xl file with a libxl stream, target" in ran.err


@pytest.mark.parametrize("target", NUMBERINGS)
def test_xl_header_before_libxc_is_unchanged(target: str, put: Callable[..., Path], tmp_path: Path) -> None:
    data = sample("pv64", 64, xl=True)
    options = ("--target", target, "--format", "libxc")
    assert xenmig("convert", put(data), tmp_path / "new", *options).code == 0
    made = (tmp_path / "new").read_bytes()
    head = 48 + int.from_bytes(data[44:48], "little")
    assert made[:head] == data[:head]
    assert made[head:].startswith(LIBXC)


def test_auto_makes_libxc_without_a_record(put: Callable[..., Path], tmp_path: Path) -> None:
    data = without_record()
    ran = xenmig("convert", put(data), tmp_path / "new", "--json")
    assert (ran.code, ran.report["format"]) == (0, "libxc")
    assert [row["rule"] for row in ran.report["warnings"]] == ["19.3", "19.9"]
    assert (tmp_path / "new").read_bytes() == converted(data, format="libxc")
    with open_source(tmp_path / "new") as made:
        assert tally(made, 0).records["END"] == 1


def test_auto_on_a_pipe_without_a_record() -> None:
    ran = xenmig("convert", "-", "/dev/null", stdin=without_record())
    assert ran.code == 1
    assert "device-model record at" in ran.lines[0]
    assert ran.lines[1] == "hint: give --format libxc, or --spool DIR, or a file"


@pytest.mark.parametrize("options", [("--format", "libxc"), ("--spool", ".")])
def test_what_the_hint_says_helps(options: tuple[str, str], tmp_path: Path) -> None:
    data = without_record()
    ran = xenmig("convert", "-", "new", *options, stdin=data, cwd=tmp_path)
    assert ran.code == 0
    assert (tmp_path / "new").read_bytes() == converted(data, format="libxc")
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.parametrize("options", [(), ("--format", "libxl")])
def test_xl_file_without_a_record(options: tuple[str, ...], put: Callable[..., Path], tmp_path: Path) -> None:
    data = without_record(xl=pieces.XlHeader())
    ran = xenmig("convert", put(data), tmp_path / "new", *options)
    assert ran.code == 1
    expected = "expected one: libxl format needs it for an HVM guest (19.9)"
    assert ran.lines == [
        f"error: {tmp_path / 'old'}: device-model record at {len(data):#x}: found none, {expected}",
        "hint: give --format libxc",
    ]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("options", [(), ("--format", "libxl"), ("--format", "auto")])
def test_skip_qemu_goes_with_libxc_alone(options: tuple[str, ...], tmp_path: Path) -> None:
    ran = xenmig("convert", "nothing", tmp_path / "new", "--skip-qemu", *options)
    assert (ran.code, ran.out) == (2, b"")
    assert ran.lines == [
        "error: --skip-qemu goes with libxc format alone",
        "hint: add --format libxc",
    ]


def test_skip_qemu(put: Callable[..., Path], tmp_path: Path) -> None:
    image = small_image("hvm")
    old = put(image.to_bytes())
    whole = xenmig("convert", old, "-", "--format", "libxc").out
    record = b"".join(part.data for part in image.parts() if part.name.startswith("device_model"))
    assert whole.endswith(record)
    assert xenmig("convert", old, "-", "--format", "libxc", "--skip-qemu").out == whole[: -len(record)]


# ---- width and guest -------------------------------------------------------------------------------------


@every_kind
def test_right_overrides_change_nothing(guest: str, width: int, put: Callable[..., Path]) -> None:
    data = sample(guest, width)
    ran = xenmig("convert", put(data), "-", "--width", str(width), "--guest", said(guest))
    assert (ran.code, ran.out) == (0, converted(data))


@pytest.mark.parametrize(
    ("guest", "options", "reason"),
    [
        (
            "hvm",
            ("--width", "32"),
            "--width 32 contradicts the image: octets 4 to 7 are 00000000: 64-bit words",
        ),
        ("hvm", ("--guest", "pv"), "chunk -7 (tsc_info) stands behind p2m_size"),
        ("pv64", ("--width", "32"), "--width 32 contradicts the image: octets 4 to 7 are 00000000"),
        ("pv64", ("--guest", "hvm"), "the marker of extended info stands behind p2m_size"),
    ],
)
def test_contradicting_overrides(
    guest: str, options: tuple[str, ...], reason: str, put: Callable[..., Path], tmp_path: Path
) -> None:
    ran = xenmig("convert", put(sample(guest)), tmp_path / "new", *options)
    assert ran.code == 2
    assert f"{options[0]} {options[1]} contradicts the image" in ran.lines[0]
    assert reason in ran.lines[0]
    assert not (tmp_path / "new").exists()


def test_contradicting_guest_where_both_have_to_be_tried(put: Callable[..., Path], tmp_path: Path) -> None:
    ran = xenmig("convert", put(sample("hvm", live=True)), tmp_path / "new", "--guest", "pv")
    assert ran.code == 2
    assert "--guest pv contradicts the image: the p2m frame list" in ran.lines[0]
    assert ran.lines[1] == "hint: it reads as --guest hvm"


@pytest.mark.parametrize(
    ("options", "expected"), [(("--width", "48"), "32, 64"), (("--guest", "arm"), "'pv', 'hvm'")]
)
def test_overrides_of_other_values(options: tuple[str, ...], expected: str) -> None:
    ran = xenmig("convert", "old", "new", *options)
    assert ran.code == 2
    assert f"'{options[1]}' is not one of {expected}" in ran.err


def test_golden_h_needs_to_be_told(put: Callable[..., Path], tmp_path: Path) -> None:
    ran = xenmig("convert", put(INPUTS["H"].data), tmp_path / "new")
    assert ran.code == 3
    assert "p2m_size 3, as an ia64 image" in ran.lines[0]
    assert ran.lines[1] == "hint: if you know better, give --width and --guest"


@pytest.mark.parametrize("options", [("--width", "64"), ("--guest", "hvm")])
def test_golden_h_needs_to_be_told_both(options: tuple[str, ...], put: Callable[..., Path]) -> None:
    assert xenmig("convert", put(INPUTS["H"].data), "/dev/null", *options).code == 3


@pytest.mark.parametrize(
    ("target", "format_", "size", "digest"),
    [golden[1:] for golden in GOLDENS if golden[:2] == ("H", "xen-4.14")],
)
def test_golden_h_told(target: str, format_: str, size: int, digest: str, put: Callable[..., Path]) -> None:
    told = ("--width", "64", "--guest", "hvm")
    ran = xenmig("convert", put(INPUTS["H"].data), "-", *told, "--target", target, "--format", format_)
    assert (ran.code, len(ran.out), hashlib.sha256(ran.out).hexdigest()) == (0, size, digest)


# ---- inputs that need no conversion, or more than a pipe -------------------------------------------------


@pytest.mark.parametrize(
    ("options", "route", "named"),
    [
        ({}, "file", "a migration v2 stream, libxl format in released numbering, HVM guest"),
        ({}, "pipe", "a migration v2 stream, libxl format in released numbering, HVM guest"),
        ({}, "xl", "a migration v2 stream, libxl format in released numbering, HVM guest"),
        (
            {"target": "draft-v7"},
            "file",
            "a migration v2 stream, libxl format in draft-v7 numbering, HVM guest",
        ),
        (
            {"target": "xen-4.14"},
            "pipe",
            "a migration v3 stream, libxl format in released numbering, HVM guest",
        ),
        ({"format": "libxc"}, "file", "a migration v2 stream, libxc format, HVM guest"),
        ({"format": "libxc"}, "xl", "a migration v2 stream, libxc format, HVM guest"),
    ],
)
def test_v2_input_is_named(options: dict[str, str], route: str, named: str, put: Callable[..., Path]) -> None:
    image = replace(small_image("hvm"), xl=pieces.XlHeader() if route == "xl" else None)
    made = converted(image.to_bytes(), **options)
    if route == "pipe":
        ran = xenmig("convert", "-", "/dev/null", stdin=made)
    else:
        ran = xenmig("convert", put(made), "/dev/null")
    assert ran.code == 3
    assert f"it already is {named}, converted from a legacy image" in ran.lines[0]
    assert ran.lines[1] == "hint: it needs no conversion"


@pytest.mark.parametrize("what", GIVEN_BACK)
def test_given_back_pages_on_a_pipe(what: str, tmp_path: Path) -> None:
    ran = xenmig("convert", "-", tmp_path / "new", stdin=GIVEN_BACK[what])
    assert ran.code == 3
    assert ran.lines[0].startswith("error: standard input: list of unmapped pfns at 0x")
    assert ran.lines[0].endswith("from a pipe (D22)")
    assert ran.lines[1].startswith("hint: give a file, or --spool DIR")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("what", GIVEN_BACK)
def test_given_back_pages_through_a_spool(what: str, put: Callable[..., Path], tmp_path: Path) -> None:
    data = GIVEN_BACK[what]
    spooled = xenmig("convert", "-", "-", "--spool", tmp_path, stdin=data)
    assert (spooled.code, spooled.out) == (0, xenmig("convert", put(data), "-").out)
    assert what in spooled.err
    with open_file(spooled.out) as fd, open_source(fd) as made:
        assert sum(tally(made, 0).words) == 6


def test_live_pv_image_through_a_spool() -> None:
    data = sample("pv64", live=True)
    ran = xenmig("convert", "-", "-", "--spool", "/tmp", stdin=data)  # noqa: S108 - a folder that is there
    assert (ran.code, ran.out) == (0, converted(data))


def test_spool_folder_that_is_not_there(tmp_path: Path) -> None:
    ran = xenmig("convert", "-", "-", "--spool", tmp_path / "no", stdin=sample())
    assert (ran.code, ran.out) == (4, b"")
    assert ran.lines == [f"error: {tmp_path / 'no'}: cannot spool: No such file or directory"]


# ---- dry run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guest", "width", "options"),
    [
        ("hvm", 64, ()),
        ("pv64", 64, ("--format", "libxc")),
        ("pv32", 32, ("--target", "xen-4.14")),
    ],
)
def test_dry_run_knows_the_size(
    guest: str, width: int, options: tuple[str, ...], put: Callable[..., Path], tmp_path: Path
) -> None:
    old = put(sample(guest, width, live=True, xl=guest == "hvm"))
    ran = xenmig("convert", old, tmp_path / "new", "--dry-run", *options)
    assert ran.code == 0
    assert os.listdir(tmp_path) == ["old"]
    (told,) = re.findall(rb"^  size +([\d,]+) bytes", ran.out, re.MULTILINE)
    assert int(told.replace(b",", b"")) == len(xenmig("convert", old, "-", *options).out)


def test_dry_run_prints_the_plan(put: Callable[..., Path], tmp_path: Path) -> None:
    old = put(sample("hvm"))
    brief = xenmig("convert", old, tmp_path / "new", "-n")
    assert brief.out.startswith(f"{old} -> {tmp_path / 'new'} (not written)\n".encode())
    for told in (
        b"PAGE_DATA ",
        b"3,848 entries without a page",
        b"NOTAB 248",
        b"HVM, 64-bit tools",
        b"target xen-4.6",
    ):
        assert told in brief.out
    segments = xenmig("convert", old, tmp_path / "new", "-n", "-v").out.removeprefix(brief.out).splitlines()
    lengths = [int(line.split()[1].replace(b",", b"")) for line in segments]
    starts = [int(line.split()[0], 16) for line in segments]
    assert starts == [sum(lengths[:index]) for index in range(len(lengths))]
    assert sum(lengths) == len(converted(sample("hvm")))
    assert any(b"of the input (page batch 0, pages)" in line for line in segments)


def test_dry_run_as_json(put: Callable[..., Path]) -> None:
    data = sample("pv64")
    ran = xenmig("convert", put(data), "-", "--dry-run", "--json")
    assert ran.code == 0
    assert (ran.report["output"], ran.report["bytes"]) == (None, len(converted(data)))


def test_dry_run_tells_what_stands_in_the_way(put: Callable[..., Path]) -> None:
    old, new = put(sample()), put(b"precious", "new")
    assert xenmig("convert", old, new, "--dry-run").code == 6
    assert xenmig("convert", old, new, "--dry-run", "--force").code == 0
    assert xenmig("convert", old, old, "--dry-run", "--force").code == 6
    assert new.read_bytes() == b"precious"


def test_dry_run_of_a_pipe(tmp_path: Path) -> None:
    data = sample("hvm")
    ran = xenmig("convert", "-", tmp_path / "new", "--dry-run", stdin=data)
    assert (ran.code, ran.lines[1]) == (2, "hint: give a file, or --spool DIR")
    ran = xenmig("convert", "-", tmp_path / "new", "--dry-run", "--json", "--spool", tmp_path, stdin=data)
    assert (ran.code, ran.report["bytes"], os.listdir(tmp_path)) == (0, len(converted(data)), [])


# ---- what is said ----------------------------------------------------------------------------------------

REPORT = {
    "schema": "xenmig-np/conversion",
    "schema_version": 1,
    "target": "xen-4.6",
    "format": "libxl",
    "carrier": "bare",
    "restored_by": "Xen 4.6 and later",
    "left_out": 0,
    "warnings": [],
}
INPUT = {
    "kind": "legacy",
    "carrier": "bare",
    "config": {"kind": "none", "bytes": 0, "name": None},
    "width": 64,
    "guest": "hvm",
    "stream_offset": 0,
    "p2m_size": 32,
    "batches": 1,
    "words": 4,
    "pages": 4,
    "distinct_pages": 4,
    "dropped_words": 0,
    "page_types": {"NOTAB": 4},
    "vcpus": [0],
    "hvm_params": {
        "IDENT_PT": 0x1F000,
        "VM86_TSS": 0x1E000,
        "CONSOLE_PFN": 0x1D,
        "ACPI_IOPORTS_LOCATION": 1,
        "IOREQ_PFN": 0x1A,
        "BUFIOREQ_PFN": 0x1B,
        "STORE_PFN": 0x1C,
    },
    "tsc": {"mode": 0, "nsec": 1_000_000_000, "khz": 2_000_000, "incarnation": 0},
    "unmapped": 0,
    "verify_mode": False,
    "device_model": "DeviceModelRecord0002",
    "device_model_bytes": 10,
    "refused": None,
}


def test_json_report(put: Callable[..., Path], tmp_path: Path) -> None:
    data = small_image("hvm").to_bytes()
    ran = xenmig("convert", put(data), tmp_path / "new", "--json")
    report = ran.report
    made = (tmp_path / "new").read_bytes()
    assert {name: report[name] for name in REPORT} == REPORT
    assert {name: report["input"][name] for name in INPUT} == INPUT
    assert (report["input"]["path"], report["output"]) == (str(tmp_path / "old"), str(tmp_path / "new"))
    assert (report["input"]["bytes"], report["bytes"]) == (len(data), len(made))
    assert report["input"]["end_offset"] == len(data)
    assert report["records"] == {
        "END": 1,
        "PAGE_DATA": 1,
        "X86_TSC_INFO": 1,
        "HVM_CONTEXT": 1,
        "HVM_PARAMS": 2,
    }
    assert report["words"] == {"NOTAB": 4}
    assert 0 < report["seconds"] < 60
    assert ran.err == ""


def test_json_report_of_a_pv_guest(put: Callable[..., Path], tmp_path: Path) -> None:
    image = replace(small_image("pv32", 32), xl=pieces.XlHeader(b'name = "web01"\n'))
    report = xenmig("convert", put(image.to_bytes()), tmp_path / "new", "--json").report
    assert report["carrier"] == report["input"]["carrier"] == "xl"
    assert report["input"]["config"] == {"kind": "text", "bytes": 15, "name": "web01"}
    assert (report["input"]["guest"], report["input"]["width"]) == ("pv32", 32)
    assert report["input"]["page_types"] == {"NOTAB": 2, "L1TAB": 1, "L2TAB": 1, "L3TAB_PINNED": 1}
    assert report["records"]["X86_PV_VCPU_XSAVE"] == 1


def test_json_warnings(put: Callable[..., Path], tmp_path: Path) -> None:
    image = small_image("hvm")
    image = replace(image, body=(*image.body, pieces.Param(-11, 0)))
    ran = xenmig("convert", put(image.to_bytes()), tmp_path / "new", "--json")
    (warning,) = ran.report["warnings"]
    assert warning["rule"] == "D24"
    assert warning["offset"] == image.part("body.9.id").offset
    assert warning["text"] in ran.err


def test_json_error(put: Callable[..., Path], tmp_path: Path) -> None:
    image = small_image("hvm")
    place = image.part("body.1.count")
    old = put(image.damaged(place.name, fields.le(1025, 4)))
    ran = xenmig("convert", old, tmp_path / "new", "--json")
    assert ran.code == 1
    assert ran.report == {
        "schema": "xenmig-np/error",
        "schema_version": 1,
        "error": {
            "class": "InvalidImage",
            "exit_code": 1,
            "message": ran.lines[0].removeprefix("error: "),
            "path": str(old),
            "offset": place.offset,
            "item": "page batch 0",
            "found": "1,025 entries",
            "expected": "at most 1,024",
            "hint": ran.lines[1].removeprefix("hint: "),
        },
    }


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/fd/1"])
def test_json_and_the_stream_cannot_share_stdout(output: str, put: Callable[..., Path]) -> None:
    ran = xenmig("convert", put(sample()), output, "--json")
    assert ran.code == 2
    assert ran.report["error"]["class"] == "UsageError"


def test_closing_line(put: Callable[..., Path], tmp_path: Path) -> None:
    old = put(sample("hvm"))
    ran = xenmig("convert", old, tmp_path / "new")
    stream = re.escape("a bare libxl stream, target xen-4.6 (Xen 4.6 and later)")
    assert len(ran.lines) == 1
    assert re.fullmatch(
        rf"{re.escape(str(tmp_path))}/new: 248 pages, 1,006\.5 KiB in \d+\.\d s: {stream}", ran.lines[0]
    )


def noisy() -> bytes:
    """An image with something to warn of."""
    image = small_image("hvm")
    return replace(image, body=(*image.body, pieces.Param(-11, 0)), trailing=b"xyz").to_bytes()


def test_warnings(put: Callable[..., Path], tmp_path: Path) -> None:
    old = put(noisy())
    ran = xenmig("convert", old, tmp_path / "new")
    assert ran.code == 0
    param, trailing, closing = ran.lines
    prefix = re.escape(f"warning: {old}: ")
    assert re.fullmatch(prefix + r"at 0x[0-9a-f]+: HVM parameter 9 .* \[D24\]", param)
    assert re.fullmatch(
        prefix + r"at 0x[0-9a-f]+: 3 bytes behind the image left out .* \[trailing\]", trailing
    )
    assert closing.endswith(", 2 warnings")


def test_quiet(put: Callable[..., Path], tmp_path: Path) -> None:
    ran = xenmig("convert", put(noisy()), tmp_path / "new", "-q", "--progress")
    assert (ran.code, ran.out, ran.err) == (0, b"", "")
    assert xenmig("convert", tmp_path / "no", tmp_path / "other", "-q").lines == [
        f"error: {tmp_path / 'no'}: cannot be opened: No such file or directory"
    ]


def test_verbose_tells_reasons(put: Callable[..., Path], tmp_path: Path) -> None:
    old = put(sample("hvm"))
    ran = xenmig("convert", old, tmp_path / "new", "-v")
    assert ran.lines[2] == f"{old}: octets 4 to 7 are 00000000: 64-bit words"
    assert ran.lines[3].startswith(f"{old}: chunk -7 (tsc_info) stands behind p2m_size")
    assert len(ran.lines) == 5


# ---- how it is written -----------------------------------------------------------------------------------


def test_sparse(put: Callable[..., Path], tmp_path: Path) -> None:
    data = sample("hvm", zeros=1.0)
    ran = xenmig("convert", "--sparse", "--drop-cache", put(data), tmp_path / "new")
    assert ran.code == 0
    assert (tmp_path / "new").read_bytes() == converted(data)
    assert 512 * (tmp_path / "new").stat().st_blocks < len(data) // 4


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_compressed(name: str, put: Callable[..., Path], tmp_path: Path) -> None:
    data = sample("pv64")
    ran = xenmig("convert", "--json", "--compress", name, "--level", "1", put(data), tmp_path / "new")
    packed = (tmp_path / "new").read_bytes()
    assert (gzip if name == "gzip" else lzma).decompress(packed) == converted(data)
    assert (ran.code, ran.report["bytes"], ran.report["stored"]) == (0, len(converted(data)), len(packed))


def test_compressed_into_a_pipe(put: Callable[..., Path]) -> None:
    data = sample("hvm")
    ran = xenmig("convert", "--compress", "gzip", put(data), "-")
    assert (ran.code, gzip.decompress(ran.out)) == (0, converted(data))
    assert f"({terminal.size(len(ran.out))} compressed)" in ran.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--compress", "lzop"), "found 'lzop', expected gzip, xz, zstd"),
        (("--compress", "gzip", "--level", "10"), "level of gzip, found 10, expected 1 to 9"),
        (("--compress", "gzip", "--sparse"), "--sparse makes no holes in what is compressed"),
    ],
)
def test_wrong_ways_of_writing(
    options: tuple[str, ...], told: str, put: Callable[..., Path], tmp_path: Path
) -> None:
    ran = xenmig("convert", *options, put(sample("hvm")), tmp_path / "new")
    assert ran.code == 2
    assert told in ran.lines[0]
    assert not (tmp_path / "new").exists()


# ---- names that could harm -------------------------------------------------------------------------------

HOSTILE = b"evil\x1b[31m\x07\x9b\xc2\x9b\r\n\t\xe2\x80\xae\xff.img"
"""Escape sequences in 7 and 8 bits, a bell, line ends, an override of direction, a byte that is no UTF-8."""
HARMFUL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xaa-\xae]")


def harmless(ran: Ran) -> bool:
    told = ran.err.encode("utf-8", "surrogateescape") + ran.out
    told.decode()  # UTF-8 from end to end
    return not HARMFUL.search(told)


@pytest.mark.parametrize("options", [("-v",), ("--dry-run", "-v"), ("--width", "32")])
def test_hostile_file_names_are_shown_harmlessly(options: tuple[str, ...], tmp_path: Path) -> None:
    old = os.fsencode(tmp_path) + b"/" + HOSTILE
    with open(old, "wb") as file:
        file.write(noisy())
    ran = xenmig("convert", old, old + b".new", *options)
    assert ran.code == (2 if "--width" in options else 0)
    assert harmless(ran)
    assert all("evil\\x1b[31m\\x07\\x9b" in line for line in ran.lines)
    assert "evil" in ran.err + ran.out.decode()


def test_hostile_file_names_survive_in_json(tmp_path: Path) -> None:
    old = os.fsencode(tmp_path) + b"/" + HOSTILE
    with open(old, "wb") as file:
        file.write(sample())
    ran = xenmig("convert", old, old + b".new", "--json")
    assert os.fsencode(ran.report["input"]["path"]) == old
    assert os.fsencode(ran.report["output"]) == old + b".new"
    failed = xenmig("convert", old, old + b".new", "--json")
    assert failed.code == 6
    assert os.fsencode(failed.report["error"]["path"]) == old + b".new"
    with open(old + b".new", "rb") as file:
        assert file.read() == converted(sample())


@pytest.mark.parametrize(
    "config", [b'name = "\x1b]0;owned\x07\x9b\xff"\n', b'{"c_info": {"name": "\\u001b[2J\\u202e"}}\0']
)
def test_hostile_configuration(config: bytes, put: Callable[..., Path], tmp_path: Path) -> None:
    image = replace(small_image("hvm"), xl=pieces.XlHeader(config))
    old = put(image.to_bytes())
    for ran in (xenmig("info", old), xenmig("info", old, "--json"), xenmig("convert", old, tmp_path / "new")):
        assert ran.code == 0
        assert harmless(ran)


def test_hostile_bytes_in_an_error(put: Callable[..., Path], tmp_path: Path) -> None:
    image = small_image("pv64")
    old = put(image.damaged("blocks.0.id", b"\x1b[2J"))
    ran = xenmig("convert", old, tmp_path / "new")
    assert ran.code == 1
    assert "0 blocks 'vcpu'" in ran.lines[0]
    assert harmless(ran)


def test_names_that_look_like_options(tmp_path: Path) -> None:
    (tmp_path / "--help").write_bytes(sample())
    ran = xenmig("convert", "--", "--help", "-n", cwd=tmp_path)
    assert ran.code == 0
    assert (tmp_path / "-n").read_bytes() == converted(sample())


# ---- progress --------------------------------------------------------------------------------------------


def test_progress_goes_to_stderr(put: Callable[..., Path]) -> None:
    data = sample("hvm")
    ran = xenmig("convert", put(data), "-", "--progress")
    assert ran.out == converted(data)
    assert "old:   0%|" in ran.err
    assert "/0.98M [" in ran.err


def test_no_bar_without_a_terminal(put: Callable[..., Path]) -> None:
    assert "%" not in xenmig("convert", put(sample()), "-").err


@pytest.mark.parametrize(
    ("options", "shown"), [((), "a bar"), (("--no-progress",), "none"), (("-q",), "none")]
)
def test_bar_on_a_terminal(
    options: tuple[str, ...], shown: str, put: Callable[..., Path], tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 200))
    command = [*COMMAND, "convert", str(put(sample())), str(tmp_path / "new"), *options]
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        os.close(theirs)
        told = b""
        with contextlib.suppress(OSError):  # EIO: the other end has gone
            while piece := os.read(ours, 4096):
                told += piece
        os.close(ours)
        assert process.wait() == 0
    assert ("a bar" if b"0%|" in told else "none") == shown


# ---- signals and readers that go -------------------------------------------------------------------------


@contextlib.contextmanager
def halfway(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A conversion that has half of its input and waits for the rest; its output has been begun."""
    with started("convert", "-", folder / "new", *options) as process:
        assert process.stdin
        process.stdin.write(sample("hvm", memory=2 * MIB)[:MIB])
        wait_for(lambda: any(os.path.getsize(folder / name) for name in os.listdir(folder)))
        yield process


@pytest.mark.usefixtures("sigint_kills")
@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--progress",)])
def test_signals_leave_nothing(
    number: signal.Signals, code: int, told: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    with halfway(tmp_path, *options) as process:
        process.send_signal(number)
        ran = finished(process)
    assert ran.code == code
    assert ran.lines[-1] == told
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("sigint_kills")
def test_interrupted_while_it_spools(tmp_path: Path) -> None:
    with started("convert", "-", tmp_path / "new", "--spool", tmp_path) as process:
        assert process.stdin
        process.stdin.write(sample("hvm", memory=2 * MIB)[:MIB])
        wait_for(lambda: any("deleted" in link for link in links(process.pid)))
        process.send_signal(signal.SIGINT)
        assert finished(process).code == 130
    assert os.listdir(tmp_path) == []


def links(pid: int) -> list[str]:
    """What the descriptors of a process are."""
    folder = f"/proc/{pid}/fd"
    found = []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"{folder}/{name}"))
    return found


def test_a_line_for_each_sigusr1(tmp_path: Path) -> None:
    with halfway(tmp_path) as process:
        assert process.stdin
        assert process.stderr
        for _ in range(2):
            process.send_signal(signal.SIGUSR1)
            line = process.stderr.readline().decode()
            assert re.fullmatch(r"-: [\d,.]+ [KM]iB in [\d.]+ s, [\d,.]+ [KM]iB/s\n", line)
        process.stdin.write(sample("hvm", memory=2 * MIB)[MIB:])
        process.stdin.close()
        assert process.wait(60) == 0
    assert (tmp_path / "new").read_bytes() == converted(sample("hvm", memory=2 * MIB))


def test_reader_of_our_pipe_has_gone(put: Callable[..., Path]) -> None:
    out, into = os.pipe()
    os.close(out)
    ran = xenmig("convert", put(sample()), "-", stdout=into)
    os.close(into)
    assert ran.code == 4
    assert ran.lines == ["error: standard output: writing failed: its reader has gone: Broken pipe"]


@pytest.mark.parametrize("options", [("--dry-run",), ("--json",)])
def test_reader_of_the_report_has_gone(
    options: tuple[str, ...], put: Callable[..., Path], tmp_path: Path
) -> None:
    out, into = os.pipe()
    os.close(out)
    ran = xenmig("convert", put(sample()), tmp_path / "new", *options, stdout=into)
    os.close(into)
    assert (ran.code, ran.lines) == (4, [])


@pytest.mark.parametrize("options", [("--dry-run",), ("--json",)])
def test_report_that_finds_no_space(
    options: tuple[str, ...], put: Callable[..., Path], tmp_path: Path
) -> None:
    with open("/dev/full", "wb") as full:
        ran = xenmig("convert", put(sample()), tmp_path / "new", *options, stdout=full)
    assert (ran.code, ran.lines) == (4, ["error: [Errno 28] No space left on device"])


def test_stream_that_finds_no_space(put: Callable[..., Path]) -> None:
    ran = xenmig("convert", put(sample()), "/dev/full")
    assert (ran.code, ran.lines) == (4, ["error: /dev/full: writing failed: No space left on device"])


# ---- usage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("old",),
        ("old", "new", "third"),
        ("old", "new", "--target", "xen-5"),
        ("old", "new", "--format", "qcow"),
        ("old", "new", "--no-such-option"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ran = xenmig("convert", *arguments, cwd=tmp_path)
    assert (ran.code, ran.out, os.listdir(tmp_path)) == (2, b"", [])
    assert "Error: " in ran.err


def test_debugging_shows_where(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "XENMIG_NP_DEBUG", "1")
    with pytest.raises(AssertionError, match="Traceback"):
        xenmig("convert", put(b"nothing"), "/dev/null")


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "old", "new", b"third\x1b[31m\xff"),
        ("convert", "old", "new", b"--\x1b[31m\xff"),
        ("convert", "old", "new", "--width", b"\x1b[31m\xff"),
        (b"\x1b[31m\xff",),
    ],
)
def test_usage_errors_show_arguments_harmlessly(arguments: tuple[str | bytes, ...]) -> None:
    ran = xenmig(*arguments)
    assert ran.code == 2
    assert harmless(ran)
    assert "\\x1b[31m" in ran.err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("xenmig-np conv", "convert"),
        ("xenmig-np convert --tar", "--target"),
        ("xenmig-np convert --target xen", "xen-4.6\nxen-4.14"),
        ("xenmig-np convert --guest ", "pv\nhvm"),
    ],
)
def test_shell_completion(typed: str, offered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "_XENMIG_NP_COMPLETE", "complete_bash")
    monkeypatch.setitem(ENVIRONMENT, "COMP_WORDS", typed)
    monkeypatch.setitem(ENVIRONMENT, "COMP_CWORD", str(typed.count(" ")))
    ran = xenmig()
    assert (ran.code, ran.out.decode().strip()) == (0, offered)
