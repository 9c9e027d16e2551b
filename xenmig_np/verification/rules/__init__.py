"""All rules; importing this fills the table of :mod:`xenmig_np.verification.rule`."""

import re

from xenmig_np.verification.rule import RULES, Rule
from xenmig_np.verification.rules import (  # noqa: F401 - each module enters its rules
    carriers,
    contexts,
    framing,
    headers,
    hvm,
    hvmcontext,
    libxl,
    misc,
    order,
    pages,
    pv,
    tables,
    trailing,
    vcpus,
    xl,
)


def table() -> list[Rule]:
    """All rules by their numbers."""
    return sorted(RULES.values(), key=_order)


def _order(row: Rule) -> tuple[bool, int, str]:
    number, suffix = re.fullmatch(r"[VX]([0-9]+)([a-z]?)", row.id).groups()  # type: ignore[union-attr]
    return row.id.startswith("X"), int(number), suffix
