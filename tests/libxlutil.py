"""Xen's own parser of xl.cfg, libxlutil of release 4.17 (in Debian: libxenmisc4.17), through ctypes.

Its structures are declared as far as they are looked at. Tests that need it skip where it is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_uint8, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

RELEASE: Final = "4.17"
ROOM: Final = 4096
"""Bytes of a structure, more than any of those used has."""
FORMATS: Final = ("unknown", "qcow", "qcow2", "vhd", "raw", "empty", "qed")


class Refused(Exception):
    """The library takes it for wrong; the text is what it reports."""


class _Disk(ctypes.Structure):
    _fields_: ClassVar = [
        ("backend_domid", c_uint32),
        ("backend_domname", c_char_p),
        ("pdev_path", c_char_p),
        ("vdev", c_char_p),
        ("backend", c_int),
        ("format", c_int),
        ("script", c_char_p),
        ("removable", c_int),
        ("readwrite", c_int),
        ("is_cdrom", c_int),
        ("rest", ctypes.c_char * ROOM),
    ]


class _Pci(ctypes.Structure):
    _fields_: ClassVar = [
        ("func", c_uint8),
        ("dev", c_uint8),
        ("bus", c_uint8),
        ("domain", c_int),
        ("vdevfn", c_uint32),
        ("vfunc_mask", c_uint32),
        ("msitranslate", ctypes.c_bool),
        ("power_mgmt", ctypes.c_bool),
        ("permissive", ctypes.c_bool),
        ("rest", ctypes.c_char * ROOM),
    ]


class _Nic(ctypes.Structure):
    _fields_: ClassVar = [
        ("backend_domid", c_uint32),
        ("backend_domname", c_char_p),
        ("devid", c_int),
        ("mtu", c_int),
        ("model", c_char_p),
        ("mac", c_uint8 * 6),
        ("ip", c_char_p),
        ("bridge", c_char_p),
        ("ifname", c_char_p),
        ("script", c_char_p),
        ("nictype", c_int),
        ("rate_bytes_per_interval", c_uint64),
        ("rate_interval_usecs", c_uint32),
        ("rest", ctypes.c_char * ROOM),
    ]


class Disk(NamedTuple):
    """What it reads from a disk item."""

    format: str
    vdev: bytes
    path: bytes | None
    writable: bool
    cdrom: bool
    script: bytes | None
    backend: bytes | None


class Pci(NamedTuple):
    """What it reads from a PCI item."""

    place: tuple[int, int, int, int]
    slot: int
    msitranslate: bool
    permissive: bool
    power_mgmt: bool


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL, ctypes.CDLL]:
    """Xlutil, libxl, libc."""
    xlu = ctypes.CDLL(f"libxlutil.so.{RELEASE}", use_errno=True)
    xlu.xlu_cfg_init.restype = c_void_p
    xlu.xlu_cfg_init.argtypes = [c_void_p, c_char_p]
    xlu.xlu_cfg_destroy.argtypes = [c_void_p]
    xlu.xlu_cfg_readdata.argtypes = [c_void_p, c_char_p, c_int]
    xlu.xlu_cfg_get_string.argtypes = [c_void_p, c_char_p, POINTER(c_char_p), c_int]
    xlu.xlu_cfg_get_list.argtypes = [c_void_p, c_char_p, POINTER(c_void_p), POINTER(c_int), c_int]
    xlu.xlu_cfg_get_listitem.argtypes = [c_void_p, c_int]
    xlu.xlu_cfg_get_listitem.restype = c_char_p
    xlu.xlu_disk_parse.argtypes = [c_void_p, c_int, POINTER(c_char_p), c_void_p]
    xlu.xlu_pci_parse_spec_string.argtypes = [c_void_p, c_void_p, c_char_p]
    xlu.xlu_vif_parse_rate.argtypes = [c_void_p, c_char_p, c_void_p]
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = c_void_p
    libc.fdopen.argtypes = [c_int, c_char_p]
    libc.fclose.argtypes = [c_void_p]
    return xlu, ctypes.CDLL(f"libxenlight.so.{RELEASE}"), libc


def needed() -> None:
    """Skip the test where the library is missing."""
    try:
        _libraries()
    except OSError as error:
        pytest.skip(f"no libxlutil {RELEASE}: {error}")


@contextlib.contextmanager
def _reporting() -> Iterator[tuple[int, Any]]:
    """A configuration and its report; yields its address and a function that raises what went wrong."""
    xlu, _, libc = _libraries()
    report = os.memfd_create("report")
    stream = libc.fdopen(os.dup(report), b"w")
    config = xlu.xlu_cfg_init(stream, b"config")
    codes: list[int] = []
    ctypes.set_errno(0)  # the library looks at it without setting it
    try:
        yield config, codes.append
    finally:
        xlu.xlu_cfg_destroy(config)
        libc.fclose(stream)
        said = os.pread(report, ROOM, 0)
        os.close(report)
    if any(codes):
        raise Refused(f"{codes}: {said!r}")


def read(text: bytes, keys: list[str]) -> dict[str, bytes | list[bytes]]:
    """The values of those keys that a text sets. Raises Refused."""
    xlu, _, _ = _libraries()
    found: dict[str, bytes | list[bytes]] = {}
    with _reporting() as (config, failed):
        code = xlu.xlu_cfg_readdata(config, text, len(text))
        failed(code)
        for key in keys if not code else ():
            string, items, count = c_char_p(), c_void_p(), c_int()
            if not xlu.xlu_cfg_get_list(config, key.encode(), byref(items), byref(count), 1):
                found[key] = [xlu.xlu_cfg_get_listitem(items, at) for at in range(count.value)]
            elif not xlu.xlu_cfg_get_string(config, key.encode(), byref(string), 1):
                found[key] = string.value or b""
    return found


def disk(item: bytes) -> Disk:
    """A disk item as it reads it. Raises Refused."""
    xlu, xl, _ = _libraries()
    made = _Disk()
    xl.libxl_device_disk_init(byref(made))
    with _reporting() as (config, failed):
        failed(xlu.xlu_disk_parse(config, 1, byref(c_char_p(item)), byref(made)))
    return Disk(
        FORMATS[made.format],
        made.vdev,
        made.pdev_path,
        bool(made.readwrite),
        bool(made.is_cdrom),
        made.script,
        made.backend_domname,
    )


def pci(item: bytes) -> Pci:
    """A PCI item as it reads it. Raises Refused."""
    xlu, xl, _ = _libraries()
    made = _Pci()
    xl.libxl_device_pci_init(byref(made))
    with _reporting() as (config, failed):
        failed(xlu.xlu_pci_parse_spec_string(config, byref(made), item))
    place = (made.domain, made.bus, made.dev, made.func)
    return Pci(place, made.vdevfn >> 3, made.msitranslate, made.permissive, made.power_mgmt)


def rate(value: bytes) -> tuple[int, int]:
    """Bytes per interval and its microseconds of a rate. Raises Refused."""
    xlu, xl, _ = _libraries()
    made = _Nic()
    xl.libxl_device_nic_init(byref(made))
    with _reporting() as (config, failed):
        failed(xlu.xlu_vif_parse_rate(config, value, byref(made)))
    return made.rate_bytes_per_interval, made.rate_interval_usecs
