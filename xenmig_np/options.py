"""What a user can choose, as values that cost nothing to import."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class TargetName(StrEnum):
    """Numberings of the output; the rows are in :mod:`xenmig_np.wire.targets`."""

    DRAFT_V7 = "draft-v7"
    XEN_4_6 = "xen-4.6"
    XEN_4_14 = "xen-4.14"


class Format(StrEnum):
    """Layers of the output."""

    AUTO = "auto"
    LIBXC = "libxc"
    LIBXL = "libxl"


class Container(StrEnum):
    """What a converted stream is put into (containers.md 9.4)."""

    AUTO = "auto"
    XL = "xl"
    LIBVIRT = "libvirt"
    XAPI = "xapi"
    NONE = "none"


class GuestName(StrEnum):
    """Kinds of guest."""

    PV = "pv"
    HVM = "hvm"


class Width(IntEnum):
    """Bits of ``unsigned long`` in the toolstack that wrote a legacy image."""

    BITS_32 = 32
    BITS_64 = 64


class SampleGuest(StrEnum):
    """Guests that a synthetic image can hold."""

    HVM = "hvm"
    PV64 = "pv64"
    PV32 = "pv32"
