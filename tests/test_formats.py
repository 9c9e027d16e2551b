"""The table of formats is what the command prints, and what it says is so."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from conftest import open_file, sample
from real import ALL, Sample, each
from typer.testing import CliRunner

import xenmig_np
from xenmig_np.carriers import wrap
from xenmig_np.carriers.recognise import CARRIERS
from xenmig_np.cli.formats import BARE, GENERATIONS, STREAMS, formats, lines, refusals, rows
from xenmig_np.testing.carriers import in_every_carrier
from xenmig_np.wire.targets import TARGETS

ROWS: Final = {row.name: row for row in rows()}
DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "formats.md"
HVM: Final = sample("hvm")


def printed(*arguments: str) -> str:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(formats)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    return done.stdout


def images() -> list[Any]:
    """An HVM image without a carrier, and in each in all its forms."""
    forms = {name: file.to_bytes() for name, file in in_every_carrier(HVM).items()}
    return [pytest.param(data, id=name) for name, data in {BARE: HVM, **forms}.items()]


def carrier_of(data: bytes) -> str:
    with open_file(data) as fd:
        return xenmig_np.info(fd).carrier


def test_the_document_is_what_the_command_prints() -> None:
    assert DOCUMENT.read_text() == printed() == "".join(f"{line}\n" for line in lines())


def test_the_same_for_programs() -> None:
    document = json.loads(printed("--json"))
    assert (document["schema"], document["schema_version"]) == ("xenmig-np/formats", 1)
    assert [row["name"] for row in document["carriers"]] == list(ROWS)
    assert [row["what"] for row in document["refused"]] == [row.what for row in refusals()]
    assert document["named"]


def test_every_carrier_has_its_row() -> None:
    assert list(ROWS) == [BARE, *(carrier.name for carrier in CARRIERS)]
    assert set(ROWS) == set(wrap.AUTO)
    for row in ROWS.values():
        assert list(row.status) == list(GENERATIONS)
        assert {row.status[name] for name in STREAMS} <= {"verifies", "-"}
        assert {row.status[name] for name in set(GENERATIONS) - set(STREAMS)} <= {"converts", "-"}


@pytest.mark.parametrize("data", images())
def test_what_converts_becomes_what_the_table_says(data: bytes) -> None:
    with open_file(data) as old, open_file() as new:
        made = xenmig_np.convert(old, new)
    title = next(title for container, title in wrap.TITLES.items() if wrap.CARRIER[container] == made.carrier)
    assert ROWS[carrier_of(data)].default == f"{title} ({made.format})"


def test_an_image_of_every_carrier_is_there() -> None:
    assert {carrier_of(parameter.values[0]) for parameter in images()} == set(ROWS)


@pytest.mark.parametrize("target", TARGETS[1:], ids=lambda target: str(target.name))
@pytest.mark.parametrize("data", images())
def test_what_it_becomes_is_read(data: bytes, target: Any) -> None:
    with open_file(data) as old, open_file() as new:
        made = xenmig_np.convert(old, new, target=target.name)
        os.lseek(new, 0, os.SEEK_SET)
        assert xenmig_np.verify(new).good()
    assert ROWS[made.carrier].status[f"v{target.libxc_version}"] == "verifies"


@pytest.mark.parametrize("truth", each([sample for sample in ALL if not sample.ran]))
def test_samples_are_where_the_table_has_them(truth: Sample) -> None:
    found = re.match(r"xen (\d+\.\d+)", truth.truth["writer"]["release"])
    assert found
    assert ROWS[truth.carrier].status[found[1]] == "converts"
