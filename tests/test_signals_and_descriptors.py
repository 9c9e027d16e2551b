"""What happens round the work: signals at any time, standard descriptors that are closed or full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import COMMAND, ENVIRONMENT, PATIENCE, sample, xenmig

import xenmig_np
from xenmig_np import limits
from xenmig_np.cli import guard
from xenmig_np.errors import NotSupported
from xenmig_np.testing.builder import small_image
from xenmig_np.testing.pieces import XlHeader
from xenmig_np.wire.pages import PageType

if TYPE_CHECKING:
    from collections.abc import Callable

    Put = Callable[..., Path]


def test_page_types_are_plain_numbers() -> None:
    """numpy throws away the exception of a signal that comes while it looks at a member of an enumeration."""
    members = {name: value for name, value in vars(PageType).items() if name.isupper()}
    assert len(members) == 12
    assert all(type(value) is int for value in members.values())


def test_a_lost_signal_is_raised_at_the_next_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_ending", [signal.SIGTERM])
    with pytest.raises(guard.Terminated):
        guard.check_signals()
    monkeypatch.setattr(guard, "_ending", [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        guard.check_signals()
    monkeypatch.setattr(guard, "_ending", [])
    guard.check_signals()


STARTING = """
import signal, sys, types
app = types.ModuleType("xenmig_np.cli.app")
app.app = lambda **_: print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)
sys.modules["xenmig_np.cli.app"] = app
from xenmig_np.__main__ import main
main()
"""


@pytest.mark.usefixtures("sigint_kills")
def test_an_interrupt_while_modules_are_imported_tells_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", STARTING], capture_output=True, timeout=PATIENCE, check=True)
    assert done.stdout == b"True\n"


@pytest.mark.parametrize("command", ["convert", "info"])
def test_full_stderr_changes_nothing(command: str, put: Put, tmp_path: Path) -> None:
    old, new = put(sample("pv64")), tmp_path / "new"
    arguments = [old, new] if command == "convert" else [old]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, command, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=full,
            env=ENVIRONMENT,
            timeout=PATIENCE,
            check=False,
        )
        missing = subprocess.run(
            [*COMMAND, command, tmp_path / "none", *arguments[1:]],
            stdout=subprocess.DEVNULL,
            stderr=full,
            env=ENVIRONMENT,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0
    assert new.exists() == (command == "convert")
    assert missing.returncode in {4, 6}  # 6: the output of the first run is there


def closed(fd: int, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run the command with one of its standard descriptors closed."""
    script = f'exec "$@" {"<" if fd == 0 else fd}{"&-" if fd == 0 else ">&-"}'
    return subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=ENVIRONMENT,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_closed_descriptors_are_not_taken_by_files(fd: int, put: Put, tmp_path: Path) -> None:
    old, new = put(sample()), tmp_path / "new"
    assert closed(fd, "convert", old, new).returncode == 0
    assert xenmig("verify", "-q", new).code == 0


def test_closed_stdout_is_no_output(put: Put) -> None:
    done = closed(1, "convert", put(sample()), "-")
    assert done.returncode == 4
    assert b"standard output: " in done.stderr


def test_closed_stdin_is_no_input(tmp_path: Path) -> None:
    done = closed(0, "convert", "-", tmp_path / "new")
    assert done.returncode == 4
    assert not (tmp_path / "new").exists()


def test_long_configuration_on_a_pipe_names_a_way(put: Put, tmp_path: Path) -> None:
    data = replace(small_image("hvm"), xl=XlHeader(config=b"#" * (6 << 20))).to_bytes()
    ran = xenmig("convert", "-", tmp_path / "new", stdin=data)
    assert ran.code == NotSupported.exit_code
    assert ran.lines[1] == "hint: give a file, or --spool DIR"
    assert xenmig("convert", "--spool", tmp_path, "-", tmp_path / "new", stdin=data).code == 0
    assert xenmig("convert", put(data), tmp_path / "other").code == 0
    assert (tmp_path / "new").read_bytes() == (tmp_path / "other").read_bytes()


def test_bytes_behind_an_image_are_not_read_for_ever(tmp_path: Path) -> None:
    """A pipe that never ends behind the image does not keep the conversion from its end."""
    new = tmp_path / "new"
    old = tmp_path / "old"
    old.write_bytes(sample())
    with subprocess.Popen(["cat", old, "/dev/zero"], stdout=subprocess.PIPE) as endless:
        ran = xenmig("convert", "-", new, stdin=endless.stdout or b"")
        endless.kill()
    assert ran.code == 0
    assert "more than 16,777,216 bytes behind the image left out (zeros at first)" in ran.err
    assert xenmig("verify", "-q", new).code == 0


def test_many_page_tables_on_a_pipe_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TABLES_WATCHED", 4)
    out, into = os.pipe()
    writer = threading.Thread(target=lambda: Path(f"/proc/self/fd/{into}").write_bytes(sample("pv64")))
    writer.start()
    try:
        with pytest.raises(NotSupported, match="more than 4 page tables"):
            xenmig_np.convert(out, "/dev/null")
    finally:
        os.close(out)
        os.close(into)
        writer.join(PATIENCE)
