"""Take an image out of its carrier, from containers.md 1 to 4 alone."""

from __future__ import annotations

import struct
from typing import NamedTuple

PREAMBLES = (b"xl migration receiver ready, send binary domain data.\n", b"receive\n", b"sslreceive\n")


class Carried(NamedTuple):
    name: str
    at: int  # where the stream begins
    config: bytes


class Broken(Exception):
    """A magic, and behind it what cannot be."""


def carried(data: bytes) -> Carried:
    """Raises Broken, and struct.error where the data ends too early."""
    at = next((len(text) for text in PREAMBLES if data.startswith(text)), 0)
    for magic, read in READERS.items():
        if data.startswith(magic, at):
            return read(data, at)
    return Carried("bare", at, b"")


def _xl(data: bytes, at: int) -> Carried:
    order, _, _, length = struct.unpack_from("<4I", data, at + 32)
    _require(order == 0x01020304)
    config = b""
    if length:
        (said,) = struct.unpack_from("<I", data, at + 48)
        _require(said <= length - 4)
        config = data[at + 52 : at + 52 + said]
    return Carried("xl", at + 48 + length, config)


def _xend(data: bytes, at: int) -> Carried:
    (length,) = struct.unpack_from("!i", data, at + 16)
    config = data[at + 20 : at + 20 + length]
    _require(length >= 8 and len(config) == length and config.lstrip().startswith(b"("))
    return Carried("xend", at + 20 + length, config)


def _libvirt(data: bytes, at: int) -> Carried:
    version, length = struct.unpack_from("<II", data, at + 16)
    config = data[at + 64 : at + 64 + length]
    _require(version in (1, 2) and len(config) == length > 0 and config.startswith(b"<"))
    return Carried("libvirt", at + 64 + length, config)


def _xapi(_data: bytes, at: int) -> Carried:
    return Carried("xapi", at + 15, b"")


def _xapi2(data: bytes, at: int) -> Carried:
    at += 15
    config = b""
    while True:
        kind, length = struct.unpack_from("<QQ", data, at)
        at += 16
        if kind in (0xF0, 0xF1, 0xF2):
            return Carried("xapi2", at, config)
        _require(kind in (0xF, 0xF00, 0xF01, 0xF11, 0xF12, 0xF13) and at + length <= len(data))
        if kind == 0xF:
            config = config or data[at : at + length]
        at += length


READERS = {
    b"Xen saved domain, xl format\n \0 \r": _xl,
    b"LinuxGuestRecord": _xend,
    b"libvirt-xml\n \0 \r": _libvirt,
    b"XenSavedDomain\n": _xapi,
    b"XenSavedDomv2-\n": _xapi2,
}


def _require(condition: bool) -> None:  # noqa: FBT001 - what has to be true
    if not condition:
        raise Broken
