"""libxl streams: header, records in their two numberings (v2-stream.md 11, 12)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

IDENT: Final = b"LibxlFmt"
HEADER: Final = np.dtype([("ident", "S8"), ("version", ">u4"), ("options", ">u4")])
VERSION: Final = 2
BIG_ENDIAN_OPTION: Final = 1
CONVERTED_OPTION: Final = 2
EMULATOR: Final = np.dtype([("id", "<u4"), ("index", "<u4")])


class EmulatorId(IntEnum):
    """Who wrote an emulator record."""

    UNKNOWN = 0
    QEMU_TRADITIONAL = 1
    QEMU_UPSTREAM = 2


class RecordType(IntEnum):
    """Released numbers, Xen 4.6 and later."""

    END = 0
    LIBXC_CONTEXT = 1
    EMULATOR_XENSTORE_DATA = 2
    EMULATOR_CONTEXT = 3
    CHECKPOINT_END = 4
    CHECKPOINT_STATE = 5


class DraftRecordType(IntEnum):
    """Numbers of the 2014 draft."""

    END = 0
    DOMAIN_JSON = 1
    LIBXC_CONTEXT = 2
    XENSTORE_DATA = 3
    EMULATOR_CONTEXT = 4


class Numbering(NamedTuple):
    """The numbers of the records that a converter writes."""

    end: int
    libxc_context: int
    xenstore_data: int
    emulator_context: int
    xenstore_pairs: bool
    """The toolstack's physmap entries go out as key/value pairs; else its blob as it is."""


RELEASED: Final = Numbering(
    RecordType.END,
    RecordType.LIBXC_CONTEXT,
    RecordType.EMULATOR_XENSTORE_DATA,
    RecordType.EMULATOR_CONTEXT,
    xenstore_pairs=True,
)
DRAFT: Final = Numbering(
    DraftRecordType.END,
    DraftRecordType.LIBXC_CONTEXT,
    DraftRecordType.XENSTORE_DATA,
    DraftRecordType.EMULATOR_CONTEXT,
    xenstore_pairs=False,
)
