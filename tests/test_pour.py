"""Every way into an output gives the same bytes: gathered writes, threads, holes, splices."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from conftest import open_file, piped
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sink import INPUT, expected, mixed

from xenmig_np.errors import InputOutputError, TruncatedImage
from xenmig_np.io import parallel, pour, splice
from xenmig_np.io.files import Output
from xenmig_np.io.parallel import pour_parallel
from xenmig_np.io.plan import Literal, Range
from xenmig_np.io.pour import Manner
from xenmig_np.io.sink import Sink
from xenmig_np.io.source import open_source
from xenmig_np.io.sparse import BLOCK, SparseSink
from xenmig_np.limits import MIB, PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xenmig_np.io.plan import Segment
    from xenmig_np.io.source import Source


@pytest.fixture
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads for outputs of any size, many parts."""
    monkeypatch.setattr(parallel, "JOB", 100_000)
    monkeypatch.setattr(pour, "PARALLEL_MIN", 1)
    monkeypatch.setattr(pour, "_processors", lambda: 2)


@contextmanager
def threads() -> Iterator[None]:
    """No thread is left behind."""
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def total(segments: list[Segment]) -> int:
    return sum(segment.length for segment in segments)


def into_file(
    segments: list[Segment], path: Path, progress: Callable[[int], object] | None = None, **options: Any
) -> bytes:
    with open_file(INPUT) as old, open_source(old) as source, Output(str(path), source) as out:
        assert pour.pour(
            source, out, segments, size=total(segments), progress=progress, manner=Manner(**options)
        ) == (total(segments), total(segments))
        out.commit(sync=False)
    return path.read_bytes()


# ---- threads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"sparse": True}])
def test_threads_write_what_one_writes(options: dict[str, Any], small_jobs: None, tmp_path: Path) -> None:
    with threads():
        assert into_file(mixed(), tmp_path / "new", **options) == expected(mixed())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=5000).map(Literal),
            st.builds(Range, st.integers(0, MIB), st.integers(0, MIB), st.just("pages")),
        ),
        max_size=30,
    ),
    st.integers(1, 4),
    st.integers(0, 10_000),
)
def test_threads_with_any_plan(segments: list[Segment], workers: int, start: int) -> None:
    job, parallel.JOB = parallel.JOB, 50_000  # type: ignore[misc]  # a constant, small for this test
    try:
        with threads(), open_file(INPUT) as old, open_source(old) as source, open_file() as new:
            done = pour_parallel(
                lambda tell: Sink(source, new, "new", tell, at=start), segments, start, workers=workers
            )
            assert done == total(segments)
            assert os.pread(new, done + 1, start) == expected(segments)
    finally:
        parallel.JOB = job  # type: ignore[misc]


def test_more_than_one_thread_writes(
    small_jobs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = set()
    both = threading.Barrier(2, timeout=20)
    pwritev = os.pwritev

    def noted(*arguments: Any) -> int:
        if threading.get_ident() not in writers:
            writers.add(threading.get_ident())
            both.wait()
        return pwritev(*arguments)

    monkeypatch.setattr(os, "pwritev", noted)
    into_file([Range(0, MIB, "pages")] * 8, tmp_path / "new")
    assert len(writers) == 2
    assert threading.get_ident() not in writers


def test_few_bytes_at_a_time(small_jobs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: pwrite(fd, b"".join(parts)[:50_021], at))
    assert into_file(mixed(), tmp_path / "new") == expected(mixed())


@pytest.mark.parametrize(("size", "processors"), [(pour.PARALLEL_MIN - 1, 8), (None, 8), (1 << 40, 1)])
def test_no_threads_where_they_do_not_help(
    size: int | None, processors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pour, "_processors", lambda: processors)
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    with open_file(INPUT) as old, open_source(old) as source, Output(str(tmp_path / "new"), source) as out:
        assert pour.pour(source, out, mixed(), size=size).bytes == total(mixed())


@pytest.mark.parametrize("first", [0, 20])
def test_threads_and_an_input_that_ends_early(first: int, small_jobs: None, tmp_path: Path) -> None:
    good: list[Segment] = [Range(0, MIB, "pages")] * first
    beyond = Range(len(INPUT) - 10, 4096, "page batch 3, pages")
    with threads(), pytest.raises(TruncatedImage) as caught:
        into_file([*good, beyond, *good], tmp_path / "new")
    assert (caught.value.offset, caught.value.item) == (len(INPUT) - 10, "page batch 3, pages")
    assert not (tmp_path / "new").exists()


def test_threads_and_a_full_disk(small_jobs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", failing)
    with threads(), pytest.raises(InputOutputError) as caught:
        into_file([Range(0, MIB, "pages")] * 50, tmp_path / "new")
    assert str(caught.value) == f"{tmp_path}/new: writing failed: No space left on device"
    assert not list(tmp_path.iterdir())


def test_threads_and_segments_that_fail(small_jobs: None, tmp_path: Path) -> None:
    def failing() -> Iterator[Segment]:
        yield from [Range(0, MIB, "pages")] * 5
        raise ZeroDivisionError

    with (
        threads(),
        open_file(INPUT) as old,
        open_source(old) as source,
        pytest.raises(ZeroDivisionError),
        Output(str(tmp_path / "new"), source) as out,
    ):
        pour.pour(source, out, failing(), size=1 << 30)
    assert not list(tmp_path.iterdir())


def test_threads_end_at_a_signal(small_jobs: None, tmp_path: Path) -> None:
    """The writers stop between two pieces; what is raised by the handler comes out."""

    class Stopped(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    def segments() -> Iterator[Segment]:
        for number in range(1 << 20):
            yield Range(0, MIB, "pages")
            if number == 3:
                signal.raise_signal(signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, stop)
    try:
        with (
            threads(),
            open_file(INPUT) as old,
            open_source(old) as source,
            pytest.raises(Stopped),
            Output(str(tmp_path / "new"), source) as out,
        ):
            pour.pour(source, out, segments(), size=1 << 40)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert not list(tmp_path.iterdir())


def test_progress_of_threads(small_jobs: None, tmp_path: Path) -> None:
    told: list[int] = []
    size = len(into_file(mixed(), tmp_path / "new", progress=told.append))
    assert told == sorted(told)
    assert told[-1] == size


def test_descriptor_of_a_file_stands_behind(small_jobs: None, tmp_path: Path) -> None:
    """As a shell's redirection has it: what precedes stays, who shares the descriptor goes on behind."""
    with (
        open_file(INPUT) as old,
        open_source(old) as source,
        open(tmp_path / "new", "wb", buffering=0) as new,
    ):
        new.write(b"before")
        with Output(new.fileno(), source) as out:
            pour.pour(source, out, mixed(), size=total(mixed()))
        new.write(b"behind")
    assert (tmp_path / "new").read_bytes() == b"before" + expected(mixed()) + b"behind"


@pytest.mark.parametrize("options", [{}, {"sparse": True}])
def test_appending(options: dict[str, Any], small_jobs: None, tmp_path: Path) -> None:
    """Offsets mean nothing there."""
    (tmp_path / "new").write_bytes(b"before")
    with (
        open_file(INPUT) as old,
        open_source(old) as source,
        open(tmp_path / "new", "ab", buffering=0) as new,
        Output(new.fileno(), source) as out,
    ):
        pour.pour(source, out, mixed(), size=total(mixed()), manner=Manner(**options))
    assert (tmp_path / "new").read_bytes() == b"before" + expected(mixed())


# ---- holes -----------------------------------------------------------------------------------------------


def sparse_file(data: bytes, at: int = 0) -> tuple[bytes, int]:
    """What comes out for bytes that are written from ``at`` on, and the bytes that it takes on the disk."""
    with open_file(data) as old, open_source(old) as source, open_file() as new:
        SparseSink(source, new, "new", at=at).pour([Range(0, len(data), "pages")])
        os.ftruncate(new, at + len(data))
        return os.pread(new, len(data) + 1, at), 512 * os.fstat(new).st_blocks


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=12),
    st.integers(0, 3 * BLOCK),
    st.integers(0, 5000),
)
def test_holes_read_as_zeros(parts: list[tuple[bool, int]], at: int, odd: int) -> None:
    data = bytes(odd) + b"".join((b"\0" if empty else b"\1") * (count * 1024) for empty, count in parts)
    assert sparse_file(data, at)[0] == data


@pytest.mark.parametrize("at", [0, 1, 4095, 4096])
def test_zeros_take_no_room(at: int) -> None:
    data = os.urandom(MIB) + bytes(8 * MIB) + os.urandom(MIB)
    got, room = sparse_file(data, at)
    assert got == data
    assert room < 3 * MIB


def test_one_byte_is_enough(small_jobs: None) -> None:
    for position in (0, 1, 4095, 2048, BLOCK * 3 // 2):
        data = bytearray(16 * BLOCK)
        data[5 * BLOCK + position] = 1
        assert sparse_file(bytes(data))[0] == data


def test_every_value_of_a_byte_is_no_zero() -> None:
    """Blocks are looked at as booleans, which have other values than 0 and 1 here."""
    data = b"".join(bytes([value]).ljust(BLOCK, b"\0") + bytes(7 * BLOCK) for value in range(256))
    got, room = sparse_file(data)
    assert got == data
    assert room <= len(data) - 8 * BLOCK


def test_file_that_ends_with_a_hole(tmp_path: Path) -> None:
    segments: list[Segment] = [Literal(b"begin"), Literal(bytes(MIB))]
    assert into_file(segments, tmp_path / "new", sparse=True) == b"begin" + bytes(MIB)


# ---- pipes -----------------------------------------------------------------------------------------------


def into_pipe(segments: list[Segment], source: Source, *, size: int = 65536) -> bytes:
    out, into = os.pipe()
    got = bytearray()

    def read() -> None:
        while piece := os.read(out, size):
            got.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with Output(into, source) as output:
            pour.pour(source, output, segments)
    finally:
        os.close(into)
        reader.join()
        os.close(out)
    return bytes(got)


@pytest.fixture
def splices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each splice."""
    calls: list[int] = []
    original = os.splice

    def noted(*arguments: Any, **options: Any) -> int:
        calls.append(original(*arguments, **options))
        return calls[-1]

    monkeypatch.setattr(os, "splice", noted)
    return calls


@pytest.mark.parametrize("size", [1 << 20, 777])
def test_file_into_a_pipe(size: int, splices: list[int]) -> None:
    with open_file(INPUT) as old, open_source(old) as source:
        assert into_pipe(mixed(), source, size=size) == expected(mixed())
    assert sum(splices) > 2 * MIB


def in_order() -> list[Segment]:
    """Segments that a pipe can give."""
    segments: list[Segment] = []
    at = 5
    for size in (10, PIECE, 4096, splice.SPLICE_MIN - 1, splice.SPLICE_MIN, MIB, 100):
        segments += [Literal(b"head"), Range(at, size, "pages")]
        at += size
    return segments


def test_pipe_into_a_pipe(splices: list[int]) -> None:
    with piped(INPUT) as old, open_source(old) as source:
        source.release()
        assert into_pipe(in_order(), source) == expected(in_order())
    assert sum(splices) > MIB


def test_what_was_kept_of_a_pipe_is_not_lost(splices: list[int]) -> None:
    with piped(INPUT) as old, open_source(old) as source:
        source.read_at(0, memoryview(bytearray(2 * MIB)))
        source.release()
        segments: list[Segment] = [Range(1000, MIB, "kept"), Range(1000 + MIB, 2 * MIB - 1000, "half of it")]
        assert into_pipe(segments, source) == expected(segments)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_splice_that_does_not_work_here(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: Any, **_options: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "splice", failing)
    with open_file(INPUT) as old, open_source(old) as source:
        assert into_pipe(mixed(), source) == expected(mixed())


def test_input_that_ends_inside_of_a_splice() -> None:
    with open_file(INPUT) as old, open_source(old) as source, pytest.raises(TruncatedImage) as caught:
        into_pipe([Range(MIB, len(INPUT), "page batch 3, pages")], source)
    assert caught.value.found == f"the end of the input after {len(INPUT) - MIB:,} bytes"


def test_reader_that_goes_away() -> None:
    out, into = os.pipe()
    os.close(out)
    with (
        open_file(INPUT) as old,
        open_source(old) as source,
        pytest.raises(InputOutputError, match="its reader has gone"),
        Output(into, source) as output,
    ):
        pour.pour(source, output, [Range(0, MIB, "pages")])
    os.close(into)


def test_splices_into_a_pipe_that_does_not_block(splices: list[int]) -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)
    got = bytearray()

    def slowly() -> None:
        while piece := os.read(out, 300_000):
            got.extend(piece)

    reader = threading.Thread(target=slowly)
    reader.start()
    with open_file(INPUT) as old, open_source(old) as source, Output(into, source) as output:
        pour.pour(source, output, mixed())
    os.close(into)
    reader.join()
    os.close(out)
    assert got == expected(mixed())


# ---- compression ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_compressed_is_what_was_poured(name: str, tmp_path: Path) -> None:
    told: list[int] = []
    with open_file(INPUT) as old, open_source(old) as source, Output(str(tmp_path / "new"), source) as out:
        manner = Manner(compress=name, level=1)
        poured = pour.pour(source, out, mixed(), size=total(mixed()), manner=manner, progress=told.append)
        out.commit(sync=False)
    packed = (tmp_path / "new").read_bytes()
    assert poured == (total(mixed()), len(packed))
    assert told[-1] == total(mixed())
    unpack = gzip.decompress if name == "gzip" else lzma.decompress
    assert unpack(packed) == expected(mixed())


# ---- page cache ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"sparse": True}])
def test_dropping_what_was_cached(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Input and output are dropped, the output once it is on the disk, at least every DROP_EVERY bytes."""
    monkeypatch.setattr(pour, "DROP_EVERY", MIB)
    calls: list[tuple[str, int]] = []
    fdatasync: Callable[[int], None] = os.fdatasync

    def advised(fd: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        calls.append(("drop", fd))

    def synced(fd: int) -> None:
        calls.append(("sync", fd))
        fdatasync(fd)

    monkeypatch.setattr(os, "posix_fadvise", advised)
    monkeypatch.setattr(os, "fdatasync", synced)
    told: list[int] = []
    with open_file(INPUT) as old, open_source(old) as source, Output(str(tmp_path / "new"), source) as out:
        manner = Manner(drop_cache=True, **options)
        pour.pour(source, out, mixed(), size=total(mixed()), manner=manner, progress=told.append)
        assert calls[:3] == [("drop", old), ("sync", out.fd), ("drop", out.fd)]
        assert calls[-3:] == calls[:3]
        out.commit(sync=False)
    assert len(calls) >= 3 * (total(mixed()) // (2 * MIB))
    assert told[-1] == total(mixed())
    assert (tmp_path / "new").read_bytes() == expected(mixed())


def test_nothing_is_dropped_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: pytest.fail("advice on a pipe"))
    out, into = os.pipe()
    with piped(INPUT) as old, open_source(old) as source, Output(into, source) as output:
        source.release()
        pour.pour(source, output, [Literal(b"x"), Range(0, 1000, "pages")], manner=Manner(drop_cache=True))
    assert os.read(out, 5000) == b"x" + INPUT[:1000]
    os.close(into)
    os.close(out)
