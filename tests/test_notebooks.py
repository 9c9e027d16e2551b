"""Every notebook runs to its end, and what is committed is what it gives."""

from __future__ import annotations

import base64
import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted(Path(__file__).parents[1].joinpath("notebooks").glob("*.ipynb"))
PNG = b"\x89PNG\r\n\x1a\n"
IN_TABLE = {
    "page_types": {"NOTAB", "L1TAB", "L4TAB_PINNED"},
    "archive_run": {"converted", "failed", "skipped"},
}
"""Some rows of the table of numbers that each notebook has."""


def outputs(notebook: Any) -> list[Any]:
    """What the cells of a notebook show, in order."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in cells]
    assert counts == [*range(1, len(cells) + 1)], "run it from the top"
    return [output for cell in cells for output in cell["outputs"]]


def text(notebook: Any) -> str:
    printed = [output["text"] for output in outputs(notebook) if output["output_type"] == "stream"]
    return "".join("".join(lines) for lines in printed)


def pictures(notebook: Any) -> list[bytes]:
    shown = [output["data"] for output in outputs(notebook) if "data" in output]
    return [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A notebook as committed, and run again."""
    nbclient = pytest.importorskip("nbclient")
    for package in ("ipykernel", "matplotlib", "jinja2"):
        pytest.importorskip(package)
    nbformat = pytest.importorskip("nbformat")
    committed = nbformat.read(request.param, as_version=4)
    again = copy.deepcopy(committed)
    for cell in again["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    client = nbclient.NotebookClient(
        again, timeout=120, resources={"metadata": {"path": str(request.param.parent)}}
    )
    client.execute()  # raises where a cell does
    return committed, again


@pytest.mark.slow
def test_runs_to_its_end_and_shows_what_is_committed(pair: tuple[Any, Any]) -> None:
    committed, again = pair
    assert not [output for output in outputs(again) if output["output_type"] == "error"]
    assert text(again) == text(committed)
    assert len(pictures(again)) == len(pictures(committed)) > 0
    assert all(picture.startswith(PNG) for picture in pictures(again))


@pytest.mark.slow
def test_its_table_adds_up(pair: tuple[Any, Any], request: pytest.FixtureRequest) -> None:
    rows = re.findall(r"^(\w+) +([\d,]+) +([\d,]+)$", text(pair[1]), re.MULTILINE)
    table = {name: tuple(int(number.replace(",", "")) for number in numbers) for name, *numbers in rows}
    total = table.pop("all")
    assert IN_TABLE[request.node.callspec.id] <= table.keys()
    assert tuple(map(sum, zip(*table.values(), strict=True))) == total


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_small_output_and_nothing_of_a_machine(path: Path) -> None:
    written = path.read_text()
    notebook = json.loads(written)
    assert text(notebook)
    assert all(picture.startswith(PNG) and len(picture) < 100_000 for picture in pictures(notebook))
    assert not re.search(r"/(home|tmp|root|usr|opt|work)/", written)


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS
