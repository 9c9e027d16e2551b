"""The converter gives the bytes that the specification fixes (v2-stream.md 21, profile default)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from plain.goldens import GOLDENS, INPUTS

import xenmig_np

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("name", "target", "format_", "size", "digest"), GOLDENS)
def test_golden(name: str, target: str, format_: str, size: int, digest: str, tmp_path: Path) -> None:
    given = INPUTS[name]
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(given.data)
    xenmig_np.convert(old, str(new), target=target, format=format_, width=given.width, guest=given.guest)
    made = new.read_bytes()
    assert (len(made), hashlib.sha256(made).hexdigest()) == (size, digest)
