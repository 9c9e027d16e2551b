"""Converter and verifier of Debian's xen-utils-4.17, where that package can be had (reference-tools.md 11).

The folder into which it was unpacked is taken from XENMIG_XEN_UTILS; else it is fetched once per machine with
`apt-get download`, into the user's cache, and nothing is installed.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

import pytest

if TYPE_CHECKING:
    from types import TracebackType

PACKAGE: Final = "xen-utils-4.17"
CONVERTER: Final = Path("usr/lib/xen-4.17/bin/convert-legacy-stream")
VERIFIER: Final = CONVERTER.with_name("verify-stream-v2")
LIBRARY: Final = Path("usr/lib/xen-4.17/lib/python")
FETCHING: Final = 120
"""Seconds that fetching the package may take."""

SERVER: Final = """
import json, optparse, os, runpy, sys, syslog, traceback
from xen.migration import legacy, libxc, libxl, public, verify, xl

for line in sys.stdin:
    said, script, *arguments = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
        os.dup2(2, 1)
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs the scripts in children of one process that has loaded what they need: some ms instead of 80."""


class Missing(Exception):
    """The package cannot be had; the text says why."""


def unpacked() -> Path:
    """The folder that holds the package. Raises Missing."""
    if named := os.environ.get("XENMIG_XEN_UTILS"):
        folder = Path(named)
        if not (folder / CONVERTER).is_file():
            raise Missing(f"XENMIG_XEN_UTILS has no {CONVERTER}: {folder}")
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xenmig-np"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "xen-utils.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of one test run
            return _fetched(cache)
    except OSError as error:
        raise Missing(f"no cache for {PACKAGE}: {error}") from error


def xen() -> Path:
    """The folder of Xen's own programs and library; skips the test, with the reason, where there is none."""
    try:
        return unpacked() / CONVERTER.parents[1]
    except Missing as missing:
        pytest.skip(str(missing))


def _fetched(cache: Path) -> Path:
    folder, failure = cache / "xen-utils", cache / "xen-utils.failed"
    if not folder.exists():
        if failure.exists():
            raise Missing(f"{failure.read_text()} (tried once; remove {failure} to try again)")
        try:
            _fetch(folder)
        except (OSError, subprocess.SubprocessError) as error:
            detail = str(getattr(error, "stderr", None) or error)
            failure.write_text(f"{PACKAGE} cannot be fetched: {' '.join(detail.split())[-200:]}")
            raise Missing(failure.read_text()) from error
    return folder


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        for command in (["apt-get", "download", PACKAGE], ["dpkg", "-x", "PACKAGE", "root"]):
            names = [next(Path(work).glob("*.deb")).name if word == "PACKAGE" else word for word in command]
            subprocess.run(names, cwd=work, check=True, capture_output=True, text=True, timeout=FETCHING)
        Path(work, "root").rename(folder)


@dataclass(frozen=True)
class Ran:
    """How a script ended, what it wrote and what it said."""

    code: int
    made: bytes
    said: str


class Debian:
    """Runs the scripts; a context manager. Raises Missing."""

    def __init__(self) -> None:
        self.folder = unpacked()
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            env=os.environ | {"PYTHONPATH": str(self.folder / LIBRARY), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def convert(self, data: bytes, width: int, guest: str, form: str, *options: str) -> Ran:
        """Of a bare image: what comes out for xen-4.14, "libxc" or "libxl"."""
        arguments = ["-w", str(width), "-g", guest, "-f", form, *options]
        return self._run(CONVERTER, data, arguments)

    def verify(self, data: bytes, form: str = "libxc") -> Ran:
        return self._run(VERIFIER, data, ["-f", form])

    def _run(self, script: Path, data: bytes, arguments: list[str]) -> Ran:
        with tempfile.TemporaryDirectory() as work:
            given, made, said = (Path(work, name) for name in ("in", "out", "said"))
            given.write_bytes(data)
            files = ["-i", str(given)] + (["-o", str(made)] if script == CONVERTER else [])
            request = [str(said), str(self.folder / script), *files, *arguments]
            print(json.dumps(request), file=_open(self._server.stdin), flush=True)
            code = int(_open(self._server.stdout).readline())
            return Ran(code, made.read_bytes() if made.exists() else b"", said.read_text())


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
