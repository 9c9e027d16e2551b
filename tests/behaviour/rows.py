"""All rows, by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from behaviour import frames, framing, headers, memory, state, vcpus

if TYPE_CHECKING:
    from behaviour.table import Row

_MODULES = (headers, framing, memory, frames, vcpus, state)
ROWS: dict[int, Row] = {
    row.number: row
    for row in sorted((row for module in _MODULES for row in module.ROWS), key=lambda row: row.number)
}
