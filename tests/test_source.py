"""Inputs: bytes by offset, whatever they come from, and not one byte more than was asked for."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from conftest import converted, open_file, piped, sample

import xenmig_np
from xenmig_np.errors import InputOutputError, InvalidImage, TruncatedImage
from xenmig_np.io.cursor import Cursor
from xenmig_np.io.source import (
    FileSource,
    ReplayExhausted,
    StreamSource,
    as_descriptor,
    open_source,
    spool,
)
from xenmig_np.limits import HEADS, MIB, REPLAY_MAX
from xenmig_np.read.image import find
from xenmig_np.testing.builder import small_image
from xenmig_np.testing.pieces import DeviceModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xenmig_np.io.source import Source
    from xenmig_np.testing.builder import GuestKind

BYTES = bytes(range(256)) * 64


def read(source: Source, offset: int, length: int) -> bytes:
    into = bytearray(length)
    return bytes(into[: source.read_at(offset, memoryview(into))])


# ---- files -----------------------------------------------------------------------------------------------


def test_file_in_any_order() -> None:
    with open_file(BYTES) as fd, open_source(fd) as source:
        assert isinstance(source, FileSource)
        assert (source.seekable, source.start, source.end) == (True, 0, len(BYTES))
        for offset in (5000, 0, 16000, 77):
            assert read(source, offset, 300) == BYTES[offset : offset + 300]
        assert read(source, len(BYTES) - 3, 10) == BYTES[-3:]
        assert read(source, len(BYTES) + 3, 10) == b""
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0


def test_descriptor_in_the_middle() -> None:
    with open_file(BYTES) as fd:
        os.lseek(fd, 1000, os.SEEK_SET)
        with open_source(fd) as source:
            assert (source.start, source.end) == (1000, len(BYTES))
        assert os.lseek(fd, 0, os.SEEK_CUR) == 1000


def test_short_reads_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: preadv(fd, [parts[0][:7]], at))
    with open_file(BYTES) as fd, open_source(fd) as source:
        assert read(source, 100, 1000) == BYTES[100:1100]


def test_failing_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    monkeypatch.setattr(os, "readv", failing)
    with open_file(BYTES) as fd, open_source(fd) as source:
        with pytest.raises(InputOutputError, match="reading failed: Input/output error") as caught:
            read(source, 0, 10)
        assert caught.value.errno == errno.EIO
    with piped(b"") as fd, open_source(fd) as source, pytest.raises(InputOutputError, match="reading failed"):
        read(source, 0, 10)


def test_file_that_is_cut_while_open() -> None:
    """A mapping would end the process here."""
    with open_file(sample("pv64")) as fd, open_source(fd) as source:
        image = find(source)
        os.truncate(fd, 50_000)
        with pytest.raises(TruncatedImage, match="the end of the input after"):
            image.survey()


def test_kinds_of_arguments(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(BYTES)
    with path.open("rb") as file:
        for argument, name in (
            (path, str(path)),
            (str(path), str(path)),
            (os.fsencode(path), str(path)),
            (file, str(path)),
            (file.fileno(), f"descriptor {file.fileno()}"),
            (f"/dev/fd/{file.fileno()}", f"/dev/fd/{file.fileno()}"),
        ):
            with open_source(argument) as source:
                assert (source.path, read(source, 1, 4)) == (name, BYTES[1:5])
        assert file.read() == BYTES


def test_only_what_was_opened_here_is_closed(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(BYTES)
    source = open_source(tmp_path / "old")
    source.close()
    source.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(source.fd)
    with open_file(BYTES) as fd:
        open_source(fd).close()
        os.fstat(fd)


def test_memory_is_no_input() -> None:
    with pytest.raises(io.UnsupportedOperation):
        open_source(io.BytesIO(BYTES))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("-", 0),
        ("/dev/stdin", 0),
        ("/dev/fd/12", 12),
        ("/proc/self/fd/3", 3),
        ("/dev/fd/12x", None),
        ("/dev/fd/99999999999999999999", None),
        ("./-", None),
        ("/dev/stdout", None),
    ],
)
def test_names_that_mean_a_descriptor(name: str, number: int | None) -> None:
    assert as_descriptor(name, {"-": 0, "/dev/stdin": 0}) == number


@pytest.mark.parametrize("name", ["/dev/fd/99999999999999999999", "/dev/fd/12345678", "no/such/file"])
def test_names_that_cannot_be_opened(name: str) -> None:
    with pytest.raises(InputOutputError) as caught:
        open_source(name)
    assert caught.value.path == name


@contextlib.contextmanager
def loop_device(backing: Path) -> Iterator[str]:
    """A block device that is a file."""
    made = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", backing], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
    try:
        yield made.stdout.strip()
    finally:
        subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a block device")
def test_block_device(tmp_path: Path) -> None:
    """Its st_size is 0; what follows the image up to its end is told."""
    data = sample("hvm")
    backing = tmp_path / "disk"
    backing.write_bytes(data + bytes(2 * MIB - len(data)))
    with loop_device(backing) as device:
        assert os.stat(device).st_size == 0
        with open_source(device) as source:
            assert (source.seekable, source.end) == (True, 2 * MIB)
        made = xenmig_np.convert(device, str(tmp_path / "new"))
    assert (tmp_path / "new").read_bytes() == converted(data)
    assert [note.rule for note in made.warnings] == ["trailing"]


# ---- pipes -----------------------------------------------------------------------------------------------


def test_pipe_is_read_forward() -> None:
    with piped(BYTES) as fd, open_source(fd) as source:
        assert isinstance(source, StreamSource)
        assert (source.seekable, source.start, source.end) == (False, 0, None)
        source.release()
        assert read(source, 10, 5) == BYTES[10:15]
        assert read(source, 15, 5) == BYTES[15:20]
        assert read(source, 9000, 5) == BYTES[9000:9005]
        assert read(source, len(BYTES) - 2, 5) == BYTES[-2:]
        assert read(source, len(BYTES), 5) == b""


def test_pipe_cannot_be_read_again_once_released() -> None:
    with piped(BYTES) as fd, open_source(fd) as source:
        source.release()
        read(source, 0, 100)
        with pytest.raises(ValueError, match="a pipe cannot be read at 0x32 again"):
            read(source, 50, 10)


def test_replay() -> None:
    with piped(BYTES) as fd, open_source(fd) as source:
        assert read(source, 0, 100) == BYTES[:100]
        assert read(source, 5000, 100) == BYTES[5000:5100]
        assert read(source, 50, 100) == BYTES[50:150]
        source.release()
        assert read(source, 0, 60) == BYTES[:60]
        assert read(source, 60, 5000) == BYTES[60:5060]
        assert read(source, 5060, 1000) == BYTES[5060:6060]
        with pytest.raises(ValueError, match="again"):
            read(source, 0, 1)


@pytest.mark.parametrize("step", [1, 7, 1000, 4096, 5000])
def test_replay_in_steps(step: int) -> None:
    with piped(BYTES) as fd, open_source(fd) as source:
        read(source, 0, 4500)
        source.release()
        pieces = [read(source, at, step) for at in range(0, len(BYTES), step)]
        assert b"".join(pieces) == BYTES


def test_replay_window_is_bounded() -> None:
    with open("/dev/zero", "rb") as zeros:
        source = StreamSource(zeros.fileno(), "zeros", owned=False)
        assert len(read(source, 0, REPLAY_MAX)) == REPLAY_MAX
        with pytest.raises(ReplayExhausted):
            read(source, REPLAY_MAX, 1)
        source.release()
        assert read(source, REPLAY_MAX, 1) == b"\0"


def test_non_blocking_pipe_is_waited_for() -> None:
    out, into = os.pipe()
    os.set_blocking(out, False)

    def slowly() -> None:
        for at in range(0, len(BYTES), 4096):
            time.sleep(0.02)
            os.write(into, BYTES[at : at + 4096])
        os.close(into)

    writer = threading.Thread(target=slowly)
    writer.start()
    with open_source(out) as source:
        source.release()
        assert read(source, 0, len(BYTES) + 1) == BYTES
    writer.join()
    os.close(out)


def test_non_blocking_pipe_converts(tmp_path: Path) -> None:
    data = sample("pv32", 32)
    with piped(data) as fd:
        os.set_blocking(fd, False)
        xenmig_np.convert(fd, str(tmp_path / "new"))
    assert (tmp_path / "new").read_bytes() == converted(data)


def test_pipe_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_image("pv64").to_bytes()
    readv = os.readv
    monkeypatch.setattr(os, "readv", lambda fd, parts: readv(fd, [parts[0][:5]]))
    with piped(data) as fd:
        xenmig_np.convert(fd, str(tmp_path / "new"))
    assert (tmp_path / "new").read_bytes() == converted(data)


# ---- exact: what follows belongs to somebody else --------------------------------------------------------


def images() -> dict[str, bytes]:
    """Images that tell where they end: all but a HVM one without a device-model record."""
    small = {f"{guest}-{width}": small_image(guest, width) for guest in KINDS for width in (32, 64)}
    live = {f"live {guest}": sample(guest, live=True) for guest in KINDS}
    long = replace(small_image("hvm"), device_model=DeviceModel(b"QEVM" + bytes(2 * MIB)))
    return {name: image.to_bytes() for name, image in (small | {"long state": long}).items()} | live


KINDS: tuple[GuestKind, ...] = ("hvm", "pv64", "pv32")
IMAGES = images()


@pytest.mark.parametrize("name", IMAGES)
def test_exact_pipe_is_never_read_past_the_image(name: str) -> None:
    with piped(IMAGES[name] + b"next") as fd, open_source(fd, exact=True) as source:
        facts = find(source).survey()
        state = facts.device_model.state if facts.device_model else None
        if state:  # stepped over, not read
            assert len(read(source, state.offset + state.length - 1, 1)) == 1
        assert facts.end == len(IMAGES[name])
        assert os.read(fd, 10) == b"next"


def test_exact_pipe_waits_for_nothing() -> None:
    """The next byte comes only when the image has been taken."""
    data = small_image("pv64").to_bytes()
    out, into = os.pipe()
    os.write(into, data)
    with open_source(out, exact=True) as source:
        assert find(source).survey().end == len(data)
    os.close(into)
    os.close(out)


def test_exact_file_is_not_looked_at_behind_the_image() -> None:
    data = small_image("hvm").to_bytes()
    with open_file(data + b"next") as fd, open_source(fd, exact=True) as source:
        facts = find(source).survey()
        assert (facts.end, facts.notes.all()) == (len(data), [])


def test_without_exact_what_follows_is_told() -> None:
    data = small_image("hvm").to_bytes()
    with piped(data + b"next") as fd, open_source(fd) as source:
        (note,) = find(source).survey().notes.all()
        assert note.text == "4 bytes behind the image left out (of unknown kind)"
        assert os.read(fd, 10) == b""


# ---- spooling --------------------------------------------------------------------------------------------


def test_spool_leaves_no_name(tmp_path: Path) -> None:
    data = sample("hvm")
    with piped(data) as fd, open_source(fd) as source, spool(source, str(tmp_path)) as copy:
        assert (copy.path, copy.start, copy.end) == (source.path, 0, len(data))
        assert read(copy, 0, len(data)) == data
        assert os.listdir(tmp_path) == []


def test_spool_that_finds_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = len(os.listdir("/proc/self/fd"))
    with piped(b"data") as fd, open_source(fd) as source:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(InputOutputError, match="cannot spool: No space left on device") as caught:
            spool(source, str(tmp_path))
        assert caught.value.path == str(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_spool_takes_writes_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:1000]))
    with piped(BYTES) as fd, open_source(fd) as source, spool(source, str(tmp_path)) as copy:
        assert read(copy, 0, len(BYTES)) == BYTES


# ---- cursors ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["file", "pipe"])
def cursor(request: pytest.FixtureRequest) -> Iterator[Callable[[bytes], Cursor]]:
    """Cursors over inputs of both kinds."""
    with contextlib.ExitStack() as stack:

        def over(data: bytes) -> Cursor:
            fd = stack.enter_context(open_file(data) if request.param == "file" else piped(data))
            source = stack.enter_context(open_source(fd))
            source.release()
            return Cursor(source, 0)

        yield over


def test_cursor_takes_and_peeks(cursor: Callable[[bytes], Cursor]) -> None:
    here = cursor(BYTES)
    assert here.peek(5) == BYTES[:5]
    assert here.take(3, "a") == BYTES[:3]
    assert here.peek(5) == BYTES[3:8]
    assert here.skip(1000, "b") == 3
    assert here.take(4, "c") == BYTES[1003:1007]
    assert here.take(12_000, "d") == BYTES[1007:13_007]
    assert here.at == 13_007
    assert here.peek(10_000) == BYTES[13_007:]


def test_cursor_takes_what_is_longer_than_its_window(cursor: Callable[[bytes], Cursor]) -> None:
    data = os.urandom(9 * MIB)
    here = cursor(data)
    assert here.take(10, "a") == data[:10]
    assert here.take(HEADS + 1, "b") == data[10 : HEADS + 11]
    assert here.take(8 * MIB, "c") == data[HEADS + 11 : HEADS + 11 + 8 * MIB]


@pytest.mark.parametrize("length", [11, HEADS + 1, 64 * MIB])
def test_cursor_at_the_end(length: int, cursor: Callable[[bytes], Cursor]) -> None:
    here = cursor(b"0123456789")
    assert here.take(2, "a") == b"01"
    with pytest.raises(TruncatedImage) as caught:
        here.take(length, "thing")
    told = caught.value
    assert (told.offset, told.item) == (2, "thing")
    assert (told.found, told.expected) == ("the end of the input after 8 bytes", f"{length:,} bytes")
    assert isinstance(told, EOFError | InvalidImage)


def test_cursor_steps_past_the_end_of_a_pipe_but_not_of_a_file() -> None:
    with open_file(b"0123456789") as fd, open_source(fd) as source, pytest.raises(TruncatedImage):
        Cursor(source, 0).skip(11, "pages")
    with piped(b"0123456789") as fd, open_source(fd) as source:
        here = Cursor(source, 0)
        source.release()
        here.skip(11, "pages")
        with pytest.raises(TruncatedImage):
            here.take(1, "next")
