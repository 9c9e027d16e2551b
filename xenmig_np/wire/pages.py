"""Page types: the nibble that legacy and v2 pfn words share (legacy-stream.md 4, v2-stream.md 8)."""

from __future__ import annotations

from typing import Final

import numpy as np

PAGE_SIZE: Final = 4096
PAGE_SHIFT: Final = 12


class PageType:
    """Page types by their nibble; 5 to 8 are invalid everywhere.

    Plain numbers: to compare an array with a member of an enumeration, numpy runs Python code of the
    enumeration and throws away what is raised meanwhile, the exception of a signal among it.
    """

    NOTAB: Final = 0x0
    L1TAB: Final = 0x1
    L2TAB: Final = 0x2
    L3TAB: Final = 0x3
    L4TAB: Final = 0x4
    L1TAB_PINNED: Final = 0x9
    L2TAB_PINNED: Final = 0xA
    L3TAB_PINNED: Final = 0xB
    L4TAB_PINNED: Final = 0xC
    BROKEN: Final = 0xD
    XALLOC: Final = 0xE
    XTAB: Final = 0xF


PAGE_TYPES: Final = np.array(
    [
        # name           has_data legal  level pinned hvm
        ("NOTAB", True, True, 0, False, True),
        ("L1TAB", True, True, 1, False, False),
        ("L2TAB", True, True, 2, False, False),
        ("L3TAB", True, True, 3, False, False),
        ("L4TAB", True, True, 4, False, False),
        ("INVALID_5", False, False, 0, False, False),
        ("INVALID_6", False, False, 0, False, False),
        ("INVALID_7", False, False, 0, False, False),
        ("INVALID_8", False, False, 0, False, False),
        ("L1TAB_PINNED", True, True, 1, True, False),
        ("L2TAB_PINNED", True, True, 2, True, False),
        ("L3TAB_PINNED", True, True, 3, True, False),
        ("L4TAB_PINNED", True, True, 4, True, False),
        ("BROKEN", False, True, 0, False, True),
        ("XALLOC", False, True, 0, False, True),
        ("XTAB", False, True, 0, False, True),
    ],
    dtype=[
        ("name", "U12"),
        ("has_data", "?"),  # 4096 bytes follow for each such word
        ("legal", "?"),  # may stand in an image at all
        ("level", "u1"),  # of a page table, else 0
        ("pinned", "?"),
        ("hvm", "?"),  # savers write it for HVM guests
    ],
)
"""One row per nibble; index a column with an array of types."""

HAS_DATA: Final = np.ascontiguousarray(PAGE_TYPES["has_data"])
LEGAL: Final = np.ascontiguousarray(PAGE_TYPES["legal"])
LEVEL: Final = np.ascontiguousarray(PAGE_TYPES["level"])
OF_HVM: Final = np.ascontiguousarray(PAGE_TYPES["hvm"])

PTE_PRESENT: Final = 1
PTE_PFN_SHIFT: Final = 12
PTE_PFN_MASK: Final = (1 << 40) - 1
"""An entry of a page table in a stream: bit 0 present, bits 51..12 the pfn (v2-stream.md D22)."""
PTE_WRITABLE: Final = 1 << 1
PTE_LARGE: Final = 1 << 7
"""Above level 1: the entry maps a large page."""
PTE: Final = np.dtype("<u8")
