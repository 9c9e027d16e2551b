"""Xen's own restore code, where it is: the tool xenrestore, and the specification of what it said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pytest

SHARED: Final = Path(__file__).resolve().parents[2] / "shared"
TOOL: Final = SHARED / "tools" / "xenrestore" / "xenrestore"
SPECIFICATION: Final = SHARED / "spec" / "xen-restore-behaviour.md"


@lru_cache(maxsize=1)
def lacking() -> str:
    """Why the tool cannot run here; empty: it can."""
    if not TOOL.is_file():
        return f"the tool is not there: {TOOL}"
    answer = json.loads(_run("-").stdout)
    return str(answer.get("problem", ""))


def judged(path: Path, *options: str) -> dict[str, Any]:
    """What Xen makes of a stream: the tool's report without the list of pages. Skips the test without it."""
    if reason := lacking():
        pytest.skip(reason)
    report: dict[str, Any] = json.loads(_run(path, "--no-pages", *options).stdout)
    assert "problem" not in report, report["problem"]
    return report


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, TOOL, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=240,
        check=False,
    )


def wording(message: str) -> str:
    """A message without its suffix, prefix and numbers."""
    text = message.removeprefix("xc: ").removesuffix(": Internal error")
    return re.sub(r"0x[0-9a-f]+|[0-9]+", "#", text)


def specified() -> dict[int, list[str]]:
    """The rows of the specification by number: construction, verdict, message, judgement."""
    if not SPECIFICATION.is_file():
        pytest.skip(f"the specification is not there: {SPECIFICATION}")
    lines = re.findall(r"^\| (\d+) \| (.*) \|$", SPECIFICATION.read_text(), re.MULTILINE)
    return {int(number): rest.split(" | ") for number, rest in lines}
