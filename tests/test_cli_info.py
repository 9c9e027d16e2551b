"""``xenmig-np info`` as a process: what it says of a file, from its heads alone."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from conftest import MIB, converted, open_file, sample, xenmig
from real import ALL, Sample, each

import xenmig_np
from xenmig_np.testing import fields, pieces
from xenmig_np.testing.builder import small_image
from xenmig_np.wire.legacy import BATCH_MAX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = {
    *("schema", "schema_version", "path", "kind", "carrier", "config", "width", "guest", "saved_by"),
    *("stream_offset", "end_offset", "bytes", "p2m_size", "batches", "words", "pages", "distinct_pages"),
    *("dropped_words", "page_types", "vcpus", "hvm_params", "tsc", "unmapped", "verify_mode"),
    *("context_bytes", "device_model", "device_model_bytes", "toolstack_bytes", "refused", "reasons"),
    *("checkpoints", "incomplete_checkpoint", "collapsible_words", "collapsible_bytes", "warnings"),
}
"""Of the document; names are added, never changed."""


def test_words_on_a_hvm_image(put: Callable[..., Path]) -> None:
    old = put(small_image("hvm").to_bytes())
    ran = xenmig("info", old)
    params = "IDENT_PT 0x1f000, VM86_TSS 0x1e000, CONSOLE_PFN 0x1d, ACPI_IOPORTS_LOCATION 0x1"
    params += ", IOREQ_PFN 0x1a, BUFIOREQ_PFN 0x1b, STORE_PFN 0x1c"
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.decode().splitlines() == [
        f"{old}: legacy Xen image, without a carrier",
        "  guest        HVM, 1 vCPU (0)",
        "  memory       4 pages (16.0 KiB) in 1 batch, each once",
        "  entries      NOTAB 4",
        "  saved by     64-bit tools of Xen 4.2 to 4.5",
        f"  params       {params}",
        "  device model DeviceModelRecord0002, 10 bytes",
        "  to restore   convert it: xenmig-np convert INPUT OUTPUT",
    ]


def test_words_on_a_pv_image(put: Callable[..., Path]) -> None:
    image = replace(small_image("pv32", 32), xl=pieces.XlHeader(b'name = "web01"\n'), unmapped=(20, 21))
    ran = xenmig("info", put(image.to_bytes()), "-v")
    told = ran.out.decode()
    assert ran.code == 0
    for line in (
        ": legacy Xen image, in an xl file\n",
        "  guest        PV, 32-bit, 3 levels of page tables (PAE), 1 vCPU (0)\n",
        "  memory       5 pages (20.0 KiB) in 1 batch, each once\n",
        "  entries      NOTAB 2, L1TAB 1, L2TAB 1, L3TAB_PINNED 1\n",
        "  saved by     32-bit tools of Xen 4.2 to 4.5\n",
        "  config       web01, 15 bytes, text\n",
        "  unmapped     2 pages\n",
        "  because      octets 4 to 7 are ffffffff: 32-bit words\n",
        "  because      the marker of extended info stands behind p2m_size\n",
    ):
        assert line in told


@pytest.mark.parametrize("truth", each([one for one in ALL if "2level" in one.name or "tmem" in one.name]))
def test_words_on_a_refused_image(truth: Sample, put: Callable[..., Path]) -> None:
    told = xenmig("info", put(truth.unpacked())).out.decode().splitlines()
    if "tmem" in truth.name:
        guest, end = "PV, 64-bit, 4 levels of page tables, ", "; --drop-tmem converts the rest of the guest"
    else:
        guest, end = "PV, 32-bit, 2 levels of page tables (non-PAE), ", ", which migration v2 does not have"
    assert told[1].startswith(f"  guest        {guest}")
    assert told[-1].startswith("  to restore   not converted by this version: ")
    assert told[-1].endswith(end)


def test_runs_of_vcpus(put: Callable[..., Path]) -> None:
    image = small_image("hvm")
    body = (*image.body[:2], pieces.VcpuInfo((0, 1, 2, 5, 7, 8), 8), *image.body[3:])
    assert b"6 vCPUs (0-2, 5, 7-8)\n" in xenmig("info", put(replace(image, body=body).to_bytes())).out


def test_json(put: Callable[..., Path]) -> None:
    data = sample("pv64", xl=True)
    old = put(data)
    ran = xenmig("info", old, "--json")
    report = ran.report
    begin = 48 + int.from_bytes(data[44:48], "little")
    assert (ran.code, ran.err) == (0, "")
    assert set(report) == NAMES
    assert (report["schema"], report["schema_version"]) == ("xenmig-np/info", 1)
    assert (report["path"], report["kind"], report["carrier"]) == (str(old), "legacy", "xl")
    assert (report["bytes"], report["stream_offset"], report["end_offset"]) == (len(data), begin, len(data))
    assert report["config"]["name"] == "sample-pv64-0"
    assert (report["guest"], report["width"], report["refused"]) == ("pv64", 64, None)
    assert sum(report["page_types"].values()) == report["words"]


@pytest.mark.parametrize(("guest", "width"), [("hvm", 64), ("pv64", 32)])
def test_a_pipe_tells_the_same_as_a_file(guest: str, width: int, put: Callable[..., Path]) -> None:
    data = sample(guest, width, live=True)
    of_file = xenmig("info", put(data), "--json").report
    of_pipe = xenmig("info", "-", "--json", stdin=data).report
    assert of_pipe.pop("path") == "standard input"
    assert of_file.pop("path")
    assert of_pipe == of_file


def test_descriptor_in_the_middle_of_a_file() -> None:
    data = small_image("hvm").to_bytes()
    with open_file(b"before" + data) as fd:
        os.lseek(fd, 6, os.SEEK_SET)
        report = xenmig("info", "/dev/stdin", "--json", stdin=fd).report
    assert (report["stream_offset"], report["bytes"]) == (6, len(data))


def test_library_and_command_tell_the_same(put: Callable[..., Path]) -> None:
    old = put(sample("pv32", 64, live=True))
    document: dict[str, Any] = xenmig("info", old, "--json").report
    told = xenmig_np.info(old).to_dict()
    assert document == told | {name: list(told[name]) for name in ("vcpus", "reasons", "warnings")}


def test_warnings_go_to_stderr(put: Callable[..., Path]) -> None:
    image = replace(small_image("hvm"), trailing=bytes(7))
    old = put(image.to_bytes())
    ran = xenmig("info", old)
    place = image.part("trailing").offset
    assert ran.lines == [
        f"warning: {old}: at {place:#x}: 7 bytes behind the image left out (zeros) [trailing]"
    ]
    assert (xenmig("info", old, "-q").err, xenmig("info", old, "-q").out) == ("", ran.out)
    assert [note["rule"] for note in xenmig("info", old, "-q", "--json").report["warnings"]] == ["trailing"]


def test_many_warnings_of_a_kind_are_counted(put: Callable[..., Path]) -> None:
    image = small_image("hvm")
    twice = pieces.Batch((fields.word(fields.BROKEN, 9),) * 2)
    image = replace(image, body=(*image.body, *(twice for _ in range(20))))
    ran = xenmig("info", put(image.to_bytes()))
    assert ran.code == 0
    assert len(ran.lines) == 9
    assert ran.lines[-1].endswith("12 more notes of this kind (D21) [D21]")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "it already is a migration v2 stream, libxl format in released numbering, HVM guest"),
        ({"format": "libxc", "target": "xen-4.14"}, "it already is a migration v3 stream, libxc format"),
    ],
)
def test_v2_stream_is_named(options: dict[str, str], named: str, put: Callable[..., Path]) -> None:
    ran = xenmig("info", put(converted(small_image("hvm").to_bytes(), **options)))
    assert (ran.code, ran.out) == (3, b"")
    assert named in ran.lines[0]


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (b"", 1, "beginning at 0x0: found an empty file, expected a Xen image"),
        (bytes(8192), 1, "beginning at 0x0: found 4,096 bytes of 00, expected a Xen image"),
        (b"\x1f\x8b\x08" + bytes(100), 3, "it is gzip data"),
        (b"LinuxGuestRecord\x00\x10\x00\x00" + bytes(range(16)) * 9, 3, "it is an image of Xen 2.0"),
        (b"ordinary text, longer than a head\n" * 9, 1, "found 6f 72 64 69"),
    ],
)
def test_other_files(data: bytes, code: int, told: str, put: Callable[..., Path]) -> None:
    old = put(data)
    ran = xenmig("info", old)
    assert (ran.code, ran.out) == (code, b"")
    assert ran.lines[0].startswith(f"error: {old}: ")
    assert told in ran.lines[0]


def test_file_that_is_not_there(tmp_path: Path) -> None:
    ran = xenmig("info", tmp_path / "no", "--json")
    assert (ran.code, ran.report["error"]["class"]) == (4, "InputOutputError")
    assert ran.lines == [f"error: {tmp_path / 'no'}: cannot be opened: No such file or directory"]


def test_folder(tmp_path: Path) -> None:
    ran = xenmig("info", tmp_path)
    assert ran.code == 4
    assert len(ran.lines) == 1


@pytest.mark.parametrize(
    ("options", "code"),
    [(("--guest", "pv"), 2), (("--width", "32"), 2), (("--guest", "hvm", "--width", "64"), 0)],
)
def test_overrides(options: tuple[str, ...], code: int, put: Callable[..., Path]) -> None:
    assert xenmig("info", put(small_image("hvm").to_bytes()), *options).code == code


@pytest.mark.parametrize("memory", [4 * MIB, 32 * MIB])
def test_pages_are_not_read(memory: int, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes read grow with the number of batches: a head and what is read ahead of it, whatever the pages."""
    old = put(sample("pv64", memory=memory))
    read = 0
    preadv = os.preadv

    def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal read
        read += (got := preadv(fd, buffers, offset))
        return got

    monkeypatch.setattr(os, "preadv", counted)
    found = xenmig_np.info(old)
    assert found.pages * 4096 >= memory * 9 // 10
    assert found.batches <= memory // 4096 // BATCH_MAX + 2
    assert read < (found.batches + 8) * 32768
