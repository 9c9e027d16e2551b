"""Starting costs nothing: what is imported when, and that every public name is there."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import ENVIRONMENT, sample

import xenmig_np
from xenmig_np import __main__, testing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAVY = {"numpy", "tqdm", "rich", "pydantic", "pydantic_core", "pygments", "markdown_it", "asyncio"}


def imported(program: str, *arguments: str) -> set[str]:
    """Top-level modules that a program has loaded when it ends."""
    report = "import atexit, sys; atexit.register(lambda: sys.stderr.write(chr(0) + ' '.join(sys.modules)))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + program, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stderr.rpartition("\0")[2].split()}


COMMAND = "from xenmig_np.__main__ import main; main()"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("-h",),
        ("--version",),
        ("convert", "--help"),
        ("info", "--help"),
        ("sample", "--help"),
    ],
)
def test_help_is_light(arguments: tuple[str, ...]) -> None:
    loaded = imported(COMMAND, *arguments)
    assert "typer" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "program",
    [
        "import xenmig_np",
        "import xenmig_np; xenmig_np.__version__",
        "import xenmig_np.options, xenmig_np.errors, xenmig_np.limits",
        "from xenmig_np import XenmigError",
        "import xenmig_np.__main__",
    ],
)
def test_import_is_light(program: str) -> None:
    assert not imported(program) & (HEAVY | {"typer", "click"})


def test_usage_errors_are_light() -> None:
    program = f"try:\n {COMMAND}\nexcept SystemExit as left:\n assert left.code == 2"
    for arguments in (("convert", "old"), ("convert", "old", "new", "--target", "no"), ("no",), ()):
        assert not imported(program, *arguments) & HEAVY


def test_conversion_imports_no_bar_unless_it_is_shown(put: Callable[..., Path]) -> None:
    old = str(put(sample("hvm")))
    assert not imported(COMMAND, "convert", old, "/dev/null") & (HEAVY - {"numpy"})
    assert "tqdm" in imported(COMMAND, "convert", old, "/dev/null", "--progress")


def test_library_imports_no_command_line(put: Callable[..., Path]) -> None:
    program = (
        "import sys, xenmig_np; xenmig_np.convert(sys.argv[1], '/dev/null'); xenmig_np.info(sys.argv[1])"
    )
    loaded = imported(program, str(put(sample("hvm"))))
    assert not loaded & (HEAVY - {"numpy"} | {"typer", "click"})


@pytest.mark.parametrize("name", xenmig_np.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(xenmig_np, name).__name__.rpartition(".")[2] == name
    assert getattr(xenmig_np, name) is getattr(xenmig_np, name)


def test_public_names_are_the_ones_that_can_be_found() -> None:
    assert sorted(xenmig_np.__all__) == xenmig_np.__all__ or set(xenmig_np.__all__) == set(xenmig_np._HOME)
    with pytest.raises(AttributeError, match="module 'xenmig_np' has no attribute 'nothing'"):
        _ = xenmig_np.nothing
    assert callable(__main__.main)
    assert testing.__doc__


def test_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xenmig_np", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"xenmig-np {xenmig_np.__version__}\n"
