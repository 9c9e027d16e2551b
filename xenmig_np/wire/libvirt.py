"""The header of a save file of libvirt's libxl driver (containers.md 3.1)."""

from __future__ import annotations

from typing import Final

import numpy as np

MAGIC: Final = b"libvirt-xml\n \x00 \r"
HEADER: Final = np.dtype(
    [("magic", f"V{len(MAGIC)}"), ("version", "<u4"), ("xml_length", "<u4"), ("unused", "V40")]
)
"""The domain XML follows; ``xml_length`` counts its NUL."""
VERSION_LEGACY: Final = 1
VERSION_V2: Final = 2
VERSIONS: Final = (VERSION_LEGACY, VERSION_V2)
VERSIONS_SWAPPED: Final = tuple(version << 24 for version in VERSIONS)
"""As a big-endian host wrote them."""
