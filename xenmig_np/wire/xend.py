"""The head of the files that xend wrote (containers.md 2.1, 2.3)."""

from __future__ import annotations

from typing import Final

import numpy as np

MAGIC: Final = b"LinuxGuestRecord"
HEADER: Final = np.dtype([("magic", f"V{len(MAGIC)}"), ("config_length", ">i4")])
"""The s-expression follows, without NUL; the length alone is big-endian."""
CONFIG_MIN: Final = 8
"""``(domain)``"""
RELOCATION: Final = (b"receive\n", b"sslreceive\n")
"""What precedes the head in a capture of a migration."""
IA64_VERSIONS: Final = (1, 2, 3)
"""Of an image of ia64, in the u64 behind its first one (containers.md 7)."""
