"""The three numberings of the output, one row each (v2-stream.md 1, 19.1)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from xenmig_np.options import TargetName
from xenmig_np.wire import libxl, xl
from xenmig_np.wire.hvm import HvmParam


class Target(NamedTuple):
    """What one family of releases writes and restores."""

    name: TargetName
    libxc_version: int
    static_data_end: bool
    """Version 3 has the record STATIC_DATA_END."""
    libxl: libxl.Numbering
    xl_flag: int
    """Set in the xl header when a libxl stream follows."""
    restored_by: str
    param_numbers: Mapping[HvmParam, int] = MappingProxyType({})
    """Parameters whose number differs from the released one."""
    params_unknown: frozenset[HvmParam] = frozenset()
    """Parameters that this numbering cannot express."""
    params_recent: frozenset[HvmParam] = frozenset()
    """Parameters that its first releases refuse."""


TARGETS: Final = (
    Target(
        TargetName.DRAFT_V7,
        2,
        static_data_end=False,
        libxl=libxl.DRAFT,
        xl_flag=xl.FLAG_JSON,
        restored_by="no released Xen in libxl format; libxc format: Xen 4.6 and later",
        param_numbers={HvmParam.VM_GENERATION_ID_ADDR: 32},
        params_unknown=frozenset(
            {HvmParam.IOREQ_SERVER_PFN, HvmParam.NR_IOREQ_SERVER_PAGES, HvmParam.X87_FIP_WIDTH}
        ),
    ),
    Target(
        TargetName.XEN_4_6,
        2,
        static_data_end=False,
        libxl=libxl.RELEASED,
        xl_flag=xl.FLAG_STREAM_V2,
        restored_by="Xen 4.6 and later",
        params_recent=frozenset({HvmParam.X87_FIP_WIDTH}),
    ),
    Target(
        TargetName.XEN_4_14,
        3,
        static_data_end=True,
        libxl=libxl.RELEASED,
        xl_flag=xl.FLAG_STREAM_V2,
        restored_by="Xen 4.14 and later",
    ),
)
TARGET_BY_NAME: Final = {target.name: target for target in TARGETS}
