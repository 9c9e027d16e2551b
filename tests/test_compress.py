"""Compressed outputs: read by ourselves and the formats' own tools, the same bytes each time."""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
import zlib
from typing import TYPE_CHECKING

import pytest
from conftest import open_file, sample

from xenmig_np.errors import InputOutputError, NotSupported, UsageError
from xenmig_np.io.codecs import library
from xenmig_np.io.compress import CHOICES, CompressedWriter
from xenmig_np.io.source import open_source
from xenmig_np.limits import MIB

if TYPE_CHECKING:
    from pathlib import Path

EDGES = [(name, level) for name, choice in CHOICES.items() for level in (choice.levels[0], None)]
every_choice = pytest.mark.parametrize("name", CHOICES)
PART = 10_007


@pytest.fixture(autouse=True)
def libraries(request: pytest.FixtureRequest) -> None:
    """Skip where the one of a test is not installed."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name in CHOICES:
        try:
            library(CHOICES[name].row)
        except NotSupported as error:
            pytest.skip(f"{error.what}: {error.hint}")


def compressed(data: bytes, name: str, level: int | None = None) -> bytes:
    """An archive, made of parts that all lie in the same buffer, as those of a sink do."""
    buffer = bytearray(PART)
    with open_file() as fd:
        writer = CompressedWriter(fd, "new", name, level)
        for at in range(0, len(data), PART):
            part = data[at : at + PART]
            buffer[: len(part)] = part
            writer.write([memoryview(buffer)[:100], memoryview(buffer)[100 : len(part)], b""])
        writer.finish()
        archive = os.pread(fd, 2 * len(data) + MIB, 0)
        assert writer.written == len(archive)
    return archive


def contents(archive: bytes, most: int) -> bytes:
    with open_file(archive) as fd, open_source(fd) as source:
        into = bytearray(most)
        return bytes(into[: source.read_at(0, memoryview(into))])


@pytest.mark.parametrize(("name", "level"), EDGES)
def test_comes_out_as_it_went_in(name: str, level: int | None) -> None:
    data = sample("hvm") + bytes(2 * MIB)
    archive = compressed(data, name, level)
    assert len(archive) < len(data) - 2 * MIB
    assert contents(archive, 2 * len(data)) == data


@every_choice
@pytest.mark.parametrize("data", [b"", b"one"])
def test_little(name: str, data: bytes) -> None:
    with open_file() as fd:
        writer = CompressedWriter(fd, "new", name)
        writer.write([data])
        writer.finish()
        assert contents(os.pread(fd, 100, 0), 100) == data


@every_choice
def test_the_tool_of_the_format_reads_it(name: str, tmp_path: Path) -> None:
    if not shutil.which(name):
        pytest.skip(f"no {name} command")
    data = sample("pv64")
    (tmp_path / "new").write_bytes(compressed(data, name))
    with (tmp_path / "new").open("rb") as archive:
        assert subprocess.run([name, "-dc"], stdin=archive, capture_output=True, check=True).stdout == data


@every_choice
def test_highest_level(name: str) -> None:
    data = sample("pv64")[:100_000]
    assert contents(compressed(data, name, CHOICES[name].levels[-1]), MIB) == data


@every_choice
def test_same_bytes_each_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says, and however many processors there are."""
    data = sample("hvm") * 3
    first = compressed(data, name)
    monkeypatch.setattr("time.time", lambda: 4e9)
    for processors in (1, 2, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, some=processors: set(range(some)))
        assert compressed(data, name) == first


def test_head_of_gzip_has_neither_time_nor_name() -> None:
    archive = compressed(b"data", "gzip")
    assert archive[3:8] == bytes(5)


@every_choice
def test_checksums_are_there(name: str) -> None:
    data = sample("pv64")
    archive = compressed(data, name)
    if name == "gzip":
        assert archive[-8:-4] == zlib.crc32(data).to_bytes(4, "little")
    elif name == "xz":
        assert archive[7] == lzma.CHECK_CRC64
    else:
        assert archive[4] & 4


@pytest.mark.parametrize(
    ("name", "level", "told"),
    [
        ("gzip", 0, "level of gzip, found 0, expected 1 to 9"),
        ("gzip", 10, "level of gzip, found 10, expected 1 to 9"),
        ("xz", -1, "level of xz, found -1, expected 0 to 9"),
        ("zstd", 20, "level of zstd, found 20, expected 1 to 19"),
        ("lzop", None, "compression, found 'lzop', expected gzip, xz, zstd"),
    ],
)
def test_what_is_not_offered(name: str, level: int | None, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        CompressedWriter(1, "new", name, level)
    assert str(caught.value) == told


@every_choice
def test_failing_writes(name: str) -> None:
    out, into = os.pipe()
    os.close(out)
    writer = CompressedWriter(into, "new", name)
    with pytest.raises(InputOutputError, match="writing failed: its reader has gone") as caught:
        writer.finish()
    assert caught.value.path == "new"
    os.close(into)
