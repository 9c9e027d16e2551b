"""Device-model records behind a libxc image (legacy-stream.md 7.3, containers.md 6)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

SIGNATURE_SIZE: Final = 21
STATE_MAGIC: Final = b"QEVM"
STATE_HEAD: Final = np.dtype([("magic", "S4"), ("version", ">u4")])


class DeviceModelRecord(NamedTuple):
    """A form of the record: its signature and the length that follows."""

    signature: bytes
    length: np.dtype[np.unsignedinteger] | None
    """None: the state reaches to the end of the file."""
    writer: str
    traditional: bool
    """Its writer knew qemu-traditional alone (containers.md 6.4)."""

    def head(self, length: int) -> bytes:
        """What precedes a state of ``length`` bytes."""
        return self.signature + (b"" if self.length is None else np.array(length, self.length).tobytes())


DEVICE_MODEL_RECORDS: Final = (
    DeviceModelRecord(
        b"DeviceModelRecord0002", np.dtype("<u4"), "libxl of Xen 4.1 to 4.5", traditional=False
    ),
    DeviceModelRecord(b"RemusDeviceModelState", np.dtype("<u4"), "Remus of Xen 4.0 to 4.4", traditional=True),
    DeviceModelRecord(b"QemuDeviceModelRecord\n", np.dtype(">u4"), "XenServer", traditional=True),
    DeviceModelRecord(b"QemuDeviceModelRecord", None, "xend, or libxl of Xen 4.0", traditional=True),
)
"""Longer signatures first: the first row that fits is the one."""
STATE_V2_HEAD: Final = np.dtype([("magic", "S4"), ("version", ">u4"), ("length", ">u8")])
STATE_V2_BEGIN: Final = STATE_MAGIC + (2).to_bytes(4, "big")
"""A state of version 2 says how long it is; ``length`` bytes follow its head (containers.md 6.4)."""
