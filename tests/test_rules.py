"""The table of rules and what shows it are one."""

from __future__ import annotations

from pathlib import Path

from conftest import xenmig

from xenmig_np.verification.legacy import CHECKS
from xenmig_np.verification.rules import table

PAGE = (Path(__file__).parents[1] / "docs" / "rules.md").read_text()


def test_command_prints_the_table() -> None:
    lines = xenmig("verify", "--rules").out.decode().splitlines()
    assert [line.split()[0] for line in lines] == [row.id for row in table()]
    assert all(row.text in line and row.section in line for row, line in zip(table(), lines, strict=True))


def test_docs_show_what_the_command_prints() -> None:
    shown = PAGE.split("```text\n")[1].split("```")[0]
    assert shown == xenmig("verify", "--rules").out.decode()


def test_docs_show_the_checks_of_legacy_images() -> None:
    rows = [line.split(" | ")[0].removeprefix("| ") for line in PAGE.splitlines() if line.startswith("| L")]
    assert rows == ["L1", *(row[0] for row in CHECKS)]
