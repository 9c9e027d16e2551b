"""The header that xl puts before a stream (v2-stream.md 10, containers.md 1)."""

from __future__ import annotations

from typing import Final

import numpy as np

MAGIC: Final = b"Xen saved domain, xl format\n \x00 \r"
HEADER: Final = np.dtype(
    [
        ("magic", f"V{len(MAGIC)}"),
        ("byteorder", "<u4"),
        ("mandatory_flags", "<u4"),
        ("optional_flags", "<u4"),
        ("optional_data_len", "<u4"),
    ]
)
BYTEORDER: Final = 0x01020304
BYTEORDER_SWAPPED: Final = 0x04030201
FLAG_JSON: Final = 1
"""The configuration is JSON (4.5 and later). The 2014 draft used this bit for "v2 stream"."""
FLAG_STREAM_V2: Final = 2
CONFIG_LENGTH: Final = np.dtype("<u4")
"""First in the optional data."""
HANDSHAKE: Final = b"domain is yours, you are cleared to unpause\0"
"""What the sender of xl migrate says behind the stream (containers.md 1.5)."""
BANNER: Final = b"xl migration receiver ready, send binary domain data.\n"
"""What the receiver of xl migrate says first; it may precede the header in a capture."""
