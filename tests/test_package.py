"""The package builds as a wheel, which installs into an empty environment and works there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import xenmig_np

ROOT = Path(__file__).parents[1]
NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|name resolution", re.IGNORECASE
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints on stdout; its failure fails the test, unless the network is missing."""
    ran = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240
    )
    if ran.returncode and NO_NETWORK.search(ran.stdout + ran.stderr):
        pytest.skip("the package index cannot be reached")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*build, "--wheel-dir", folder, ROOT, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


def test_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"] == {"path": "xenmig_np/__init__.py"}
    text = f'"{xenmig_np.__version__}"'
    assert [path.name for path in ROOT.glob("xenmig_np/**/*.py") if text in path.read_text()] == [
        "__init__.py"
    ]


@pytest.mark.slow
def test_wheel_holds_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [message_from_bytes(archive.read(name)) for name in names if name.endswith("/METADATA")]
    assert "xenmig_np/py.typed" in names
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("xenmig_np/**/*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert [name for name in names if name.endswith("/LICENSE")]
    assert {name.split("/")[0] for name in names} == {
        "xenmig_np",
        f"xenmig_np-{xenmig_np.__version__}.dist-info",
    }
    assert metadata["Version"] == xenmig_np.__version__
    base = [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert {re.split(r"[<>= ]", need)[0] for need in base} == {"numpy", "typer", "tqdm"}


@pytest.mark.slow
def test_wheel_installs_and_runs(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    command = programs / "xenmig-np"
    said = f"xenmig-np {xenmig_np.__version__}\n"
    assert run(command, "--version", cwd=tmp_path) == said
    assert run(programs / "python", "-m", "xenmig_np", "--version", cwd=tmp_path) == said
    run(command, "sample", "--memory", "1MiB", "old.save", cwd=tmp_path)
    run(command, "convert", "old.save", "new.save", cwd=tmp_path)
    assert (tmp_path / "new.save").read_bytes().startswith(b"LibxlFmt")
