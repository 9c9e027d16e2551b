"""Suspend images of XenServer: a signature alone, or records with headers (containers.md 4)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

MAGIC: Final = b"XenSavedDomain\n"
"""A legacy image follows at once."""
STRUCTURED_MAGIC: Final = b"XenSavedDomv2-\n"
"""Records follow."""
WIDTH: Final = 32
"""Bits of a word of XenServer's tools while they wrote :data:`MAGIC`."""
RECORD_HEAD: Final = np.dtype([("type", "<u8"), ("length", "<u8")])


class RecordType(IntEnum):
    """Types of records, by the names that xenopsd gives them."""

    XENOPS = 0x000F
    LIBXC = 0x00F0
    LIBXL = 0x00F1
    LIBXC_LEGACY = 0x00F2
    QEMU_TRAD = 0x0F00
    QEMU_XEN = 0x0F01
    DEMU = 0x0F10
    VARSTORED = 0x0F11
    SWTPM0 = 0x0F12
    SWTPM = 0x0F13
    END_OF_IMAGE = 0xFFFF


class Record(NamedTuple):
    """What is known of a type of record."""

    type: RecordType
    name: str
    stream: str | None = None
    """Its content is a stream of this kind, which ends by itself: the length says nothing."""
    delimited: bool = False
    """Its content ends by itself in a way that is not known here."""


RECORDS: Final = (
    Record(RecordType.XENOPS, "Xenops"),
    Record(RecordType.LIBXC, "Libxc", "libxc"),
    Record(RecordType.LIBXL, "Libxl", "libxl"),
    Record(RecordType.LIBXC_LEGACY, "Libxc_legacy", "legacy"),
    Record(RecordType.QEMU_TRAD, "Qemu_trad"),
    Record(RecordType.QEMU_XEN, "Qemu_xen"),
    Record(RecordType.DEMU, "Demu", delimited=True),
    Record(RecordType.VARSTORED, "Varstored"),
    Record(RecordType.SWTPM0, "Swtpm0"),
    Record(RecordType.SWTPM, "Swtpm"),
    Record(RecordType.END_OF_IMAGE, "End_of_image"),
)
RECORD_BY_TYPE: Final = {int(row.type): row for row in RECORDS}
XENOPS: Final = '((time 19700101T00:00:00Z)(word_size {width})(vm_str "")(xs_subtree()))'
"""The first record made for an image without one (containers.md 9.4)."""
