"""Gathered writes: all bytes in order, however few the kernel takes, and none copied by us."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from conftest import converted, open_file, piped, sample

import xenmig_np
from xenmig_np.errors import InputOutputError, TruncatedImage
from xenmig_np.io import sink
from xenmig_np.io.plan import Literal, Range
from xenmig_np.io.sink import IOV_MAX, Sink, write_all
from xenmig_np.io.source import open_source
from xenmig_np.limits import MIB, PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xenmig_np.io.plan import Segment

INPUT = os.urandom(3 * MIB)
WRITEV = os.writev
PWRITEV = os.pwritev


def poured(segments: list[Segment], progress: Callable[[int], object] | None = None) -> bytes:
    """What a sink makes of segments of INPUT."""
    with open_file(INPUT) as old, open_source(old) as source, open_file() as new:
        assert Sink(source, new, "new", progress).pour(segments) == os.fstat(new).st_size
        return os.pread(new, os.fstat(new).st_size, 0)


def expected(segments: list[Segment]) -> bytes:
    """The same by the plainest means."""
    return b"".join(
        bytes(part.data) if isinstance(part, Literal) else INPUT[part.offset : part.offset + part.length]
        for part in segments
    )


def mixed() -> list[Segment]:
    """Literals and ranges of all sizes around those of the buffer."""
    sizes = (0, 1, 8, 4096, PIECE // 4 - 1, PIECE // 4, PIECE // 4 + 1, PIECE - 1, PIECE, PIECE + 1, 2 * MIB)
    return [
        segment
        for number, size in enumerate(sizes)
        for segment in (
            Literal(bytes([number]) * (number * 100)),
            Range(1000 + number, size, "pages"),
            Range(7, 4096, "pages"),
            Literal(memoryview(bytes([number]) * size)),
        )
    ]


def taking(most: int) -> Callable[[int, list[memoryview]], int]:
    """A writev that takes a few bytes at a time."""

    def write(fd: int, parts: list[memoryview]) -> int:
        assert len(parts) <= IOV_MAX
        return os.write(fd, b"".join(parts)[:most])

    return write


def test_segments_in_order() -> None:
    assert poured(mixed()) == expected(mixed())


@pytest.mark.parametrize("most", [4096, 100_003, 1 << 30])
def test_partial_writes(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", taking(most))
    assert poured(mixed()) == expected(mixed())


@pytest.mark.parametrize("most", [1, 2, 3])
def test_writes_of_single_bytes(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", taking(most))
    segments: list[Segment] = [Literal(b"abc"), Literal(b""), Range(5, 10, "pages"), Literal(b"de")]
    assert poured(segments) == expected(segments)


@pytest.mark.parametrize("count", [IOV_MAX - 1, IOV_MAX, IOV_MAX + 1, 3 * IOV_MAX + 5])
def test_more_parts_than_the_kernel_takes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def noted(fd: int, parts: list[memoryview]) -> int:
        calls.append(len(parts))
        return WRITEV(fd, parts)

    monkeypatch.setattr(os, "writev", noted)
    segments: list[Segment] = [Literal(b"%06d" % number) for number in range(count)]
    assert poured(segments) == expected(segments)
    assert max(calls) <= IOV_MAX
    assert len(calls) == -(-count // IOV_MAX)


def test_write_all_with_more_parts_than_the_kernel_takes() -> None:
    parts: list[bytes | memoryview] = [b"%06d" % number for number in range(2 * IOV_MAX + 7)]
    with open_file() as fd:
        write_all(fd, "new", [b"", *parts, b""])
        assert os.pread(fd, 1 << 20, 0) == b"".join(parts)


def test_write_all_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(os, "writev", calls.append)
    write_all(-1, "nowhere", [])
    write_all(-1, "nowhere", [b"", memoryview(b"")])
    assert not calls


def test_literals_are_gathered_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def noted(fd: int, parts: list[memoryview]) -> int:
        calls.append(sum(len(part) for part in parts))
        return WRITEV(fd, parts)

    monkeypatch.setattr(os, "writev", noted)
    segments: list[Segment] = [Literal(bytes(50_000))] * 40
    assert poured(segments) == expected(segments)
    assert calls == [PIECE] * 7 + [40 * 50_000 - 7 * PIECE]


@pytest.mark.parametrize("start", [0, 1, 4096, PIECE - 1, PIECE, PIECE + 77])
def test_writes_end_where_blocks_of_the_output_do(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where heads and batches have other sizes, and the first byte goes anywhere."""
    ends = []

    def noted(fd: int, parts: list[memoryview], at: int) -> int:
        ends.append(at + sum(len(part) for part in parts))
        return PWRITEV(fd, parts, at)

    monkeypatch.setattr(os, "pwritev", noted)
    with open_file(INPUT) as old, open_file() as new, open_source(old) as source:
        count = Sink(source, new, "new", at=start).pour(mixed())
        assert os.pread(new, count + 1, start) == expected(mixed())
    first = start // PIECE + 1
    assert ends == [*range(first * PIECE, start + count, PIECE), start + count]


def test_pages_are_handed_on_and_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written are views of the one buffer that was read into."""
    backing: set[int] = set()

    def noted(fd: int, parts: list[memoryview]) -> int:
        backing.update(id(part.obj) for part in parts)
        return WRITEV(fd, parts)

    monkeypatch.setattr(os, "writev", noted)
    poured([Range(0, 2 * MIB, "pages"), Range(100, MIB, "pages")])
    assert len(backing) == 1


def test_progress() -> None:
    told: list[int] = []
    size = len(poured(mixed(), told.append))
    assert told == sorted(set(told))
    assert told[-1] == size
    assert len(told) >= size // MIB


def test_range_beyond_the_input() -> None:
    with pytest.raises(TruncatedImage) as caught:
        poured([Range(0, 4096, "first"), Range(len(INPUT) - 10, 4096, "page batch 3, pages")])
    assert (caught.value.offset, caught.value.item) == (len(INPUT) - 10, "page batch 3, pages")
    assert caught.value.found == "the end of the input after 10 bytes"
    assert caught.value.expected == "4,096 bytes"


def test_error_of_the_segments_comes_through() -> None:
    def failing() -> Iterator[Segment]:
        yield Literal(b"data")
        raise ZeroDivisionError

    with open_file() as fd, open_source(fd) as source, pytest.raises(ZeroDivisionError):
        Sink(source, fd, "new").pour(failing())


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "new: writing failed: No space left on device"),
        (errno.EDQUOT, "new: writing failed: Disk quota exceeded"),
        (errno.EPIPE, "new: writing failed: its reader has gone: Broken pipe"),
    ],
)
def test_failing_writes(number: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_fd: int, _parts: list[memoryview]) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "writev", failing)
    with pytest.raises(InputOutputError) as caught:
        write_all(1, "new", [b"data"])
    assert (str(caught.value), caught.value.errno) == (told, number)


def test_non_blocking_pipe_is_waited_for() -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)
    got = bytearray()

    def slowly() -> None:
        while piece := os.read(out, 65536):
            got.extend(piece)
            time.sleep(0.001)

    reader = threading.Thread(target=slowly)
    reader.start()
    with open_file(INPUT) as old, open_source(old) as source:
        Sink(source, into, "pipe").pour(mixed())
    os.close(into)
    reader.join()
    os.close(out)
    assert got == expected(mixed())


def test_from_a_pipe() -> None:
    segments: list[Segment] = [Range(5, 1000, "a"), Literal(b"between"), Range(5000, MIB, "b")]
    with piped(INPUT) as old, open_source(old) as source, open_file() as new:
        source.release()
        Sink(source, new, "new").pour(segments)
        assert os.pread(new, 4 * MIB, 0) == expected(segments)


@pytest.mark.parametrize("guest", ["hvm", "pv64"])
def test_conversion_with_partial_writes(guest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: pwrite(fd, b"".join(parts)[:50_021], at))
    (tmp_path / "old").write_bytes(sample(guest))
    xenmig_np.convert(tmp_path / "old", str(tmp_path / "new"))
    monkeypatch.undo()
    assert (tmp_path / "new").read_bytes() == converted(sample(guest))


def test_limit_of_the_kernel_is_asked_for() -> None:
    assert os.sysconf("SC_IOV_MAX") == sink.IOV_MAX >= 16
