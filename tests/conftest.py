"""What several test modules share: the command as a process, images to feed it, pipes that are fed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

import pytest

import xenmig_np
from xenmig_np.options import SampleGuest, Width
from xenmig_np.sample import SampleOptions, sample_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
COMMAND = (sys.executable, "-m", "xenmig_np")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "XENMIG_NP_DEBUG"},
    "LC_ALL": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
}
PATIENCE = 60.0
"""Seconds that a test waits for a process."""
KINDS = [(guest, width) for guest in ("hvm", "pv64", "pv32") for width in (64, 32)]
every_kind = pytest.mark.parametrize(("guest", "width"), KINDS)


# ---- the command -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """What a run of the command gave."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """Of stderr."""
        return self.err.splitlines()

    @property
    def report(self) -> Any:
        """The JSON document on stdout, which is all that is there."""
        return json.loads(self.out)


Argument = str | bytes | os.PathLike[str]


def xenmig(
    *arguments: Argument,
    stdin: bytes | int | IO[bytes] = b"",
    stdout: int | IO[bytes] = subprocess.PIPE,
    cwd: Path | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Ran:
    """Run the command to its end. It never tells a traceback and never an internal error."""
    feed: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        [*COMMAND, *arguments],
        **feed,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=cwd,
        pass_fds=pass_fds,
        env=ENVIRONMENT,
        timeout=PATIENCE,
        check=False,
    )
    return ran(done.returncode, done.stdout or b"", done.stderr)


def ran(code: int, out: bytes, err: bytes) -> Ran:
    """The result of a process, unless it shows a defect."""
    told = err.decode("utf-8", "surrogateescape")
    for sign in ("Traceback", "internal error", "Exception ignored"):
        assert sign not in told
    return Ran(code, out, told)


@contextlib.contextmanager
def started(*arguments: Argument, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """The command while it runs, with a pipe for its stdin; ended at the end."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=ENVIRONMENT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen[bytes]) -> Ran:
    """Wait for the end of a started command; its stdin is not closed before."""
    process.wait(PATIENCE)
    with contextlib.suppress(BrokenPipeError):
        assert process.stdin
        process.stdin.close()
    return ran(
        process.returncode,
        process.stdout.read() if process.stdout else b"",
        process.stderr.read() if process.stderr else b"",
    )


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something has come about, or fail."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "nothing has happened"
        time.sleep(0.01)


@pytest.fixture
def sigint_kills() -> Iterator[None]:
    """Processes started meanwhile heed SIGINT, also where the test runner was told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# ---- images ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def sample(guest: str = "hvm", width: int = 64, **options: Any) -> bytes:
    """A synthetic image of 1 MiB; ``options`` are fields of :class:`SampleOptions`."""
    options.setdefault("memory", MIB)
    wanted = SampleOptions(guest=SampleGuest(guest), width=Width(width), **options)
    return b"".join(bytes(piece) for piece in sample_image(wanted))


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Write bytes to a file of the test's folder."""

    def write(data: bytes, name: str = "old") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@lru_cache(maxsize=64)
def converted(data: bytes, **options: Any) -> bytes:
    """What the library makes of an image, file to file."""
    with open_file(data) as old, open_file() as new:
        xenmig_np.convert(old, new, **options)
        return os.pread(new, os.fstat(new).st_size, 0)


@contextlib.contextmanager
def open_file(data: bytes = b"") -> Iterator[int]:
    """A descriptor of a file without a name that holds ``data``, standing at its beginning."""
    fd = os.memfd_create("image")
    try:
        os.pwrite(fd, data, 0)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def piped(data: bytes) -> Iterator[int]:
    """The end of a pipe from which ``data`` can be read, then nothing more."""
    out, into = os.pipe()
    writer = threading.Thread(target=_feed, args=(into, data))
    writer.start()
    try:
        yield out
    finally:
        os.close(out)
        writer.join(PATIENCE)


def _feed(into: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(into, "wb") as file:
        file.write(data)
