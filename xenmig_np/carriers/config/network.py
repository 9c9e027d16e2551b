"""Network interfaces of xend as xl's (containers.md 9.5)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from xenmig_np.carriers.config.items import Part, backend, item
from xenmig_np.carriers.config.sxp import shown
from xenmig_np.carriers.config.values import NotCarried, text

if TYPE_CHECKING:
    from xenmig_np.carriers.config.domain import Domain
    from xenmig_np.carriers.config.sxp import Sxp

U32_MAX: Final = (1 << 32) - 1
U64_MAX: Final = (1 << 64) - 1
TYPES: Final = {b"ioemu": b"ioemu", b"netfront": b"vif", b"vif": b"vif"}
SILENT: Final = {b"uuid", b"devid", b"handle"}
STORED: Final = re.compile(rb"([0-9]{1,18}), *([0-9]{1,18})")
RATE: Final = re.compile(rb"([0-9]{1,18})([GMK]?)([Bb])/s(?:@([0-9]{1,18})([mu]?s?))?")
SCALE: Final = {b"G": 10**9, b"M": 10**6, b"K": 1000, b"": 1}
MICROSECONDS: Final = {b"": 10**6, b"s": 10**6, b"m": 1000, b"u": 1}
"""By the first letter of an interval's unit, seconds if it has none."""


def vifs(domain: Domain) -> tuple[bytes, ...]:
    """Network interfaces, in their order."""
    made = []
    for count, found in enumerate(domain.of_kind(b"vif")):
        label = f"vif {shown(found.get(b'mac', b'')) or count}"
        made.append(b",".join(item(domain, label, found, VIF)))
        domain.lose_rest(found, VIF.keys() | SILENT, f"{label}: ")
    return tuple(made)


def _type(value: Sxp) -> bytes:
    if (kind := text(value)) not in TYPES:
        raise NotCarried(f"unknown: {shown(kind)}")
    return TYPES[kind]


def _script(value: Sxp) -> bytes | None:
    script = text(value)
    return None if script.rsplit(b"/", 1)[-1] == b"vif-bridge" else script


def _addresses(value: Sxp) -> bytes:
    return b" ".join(text(one) for one in value) if isinstance(value, tuple) else text(value)


def rate(value: Sxp) -> bytes | None:
    """What xend stores, bytes per interval and its microseconds; or text as xl's. No limit: None."""
    words = text(value)
    if stored := STORED.fullmatch(words):
        size, usec = int(stored[1]), int(stored[2])
        if not usec or size >= U32_MAX:
            return None
        speed = size * 1_000_000 // usec
        # xl reads at most 32 bits of a number
        words = b"%dB/s@%dus" % (speed, usec) if speed <= U32_MAX else b"%dKB/s@%dus" % (speed // 1000, usec)
    if not (found := RATE.fullmatch(words)):
        raise NotCarried(f"not a rate: {shown(words)}")
    number, scale, unit, interval, interval_unit = found.groups()
    speed = int(number) * SCALE[scale]
    usec = int(interval or b"50") * MICROSECONDS[interval_unit[:1] if interval else b"m"]
    if not (0 < int(number) <= U32_MAX and 0 < usec <= U32_MAX and speed * usec <= U64_MAX):
        raise NotCarried(f"out of range: {shown(words)}")
    # without leading zeros, to xl they are octal
    made = b"%d%s%s/s" % (int(number), scale, unit)
    return made + b"@%d%s" % (int(interval), interval_unit) if interval else made


VIF: Final[dict[bytes, Part]] = {
    b"type": ("type", _type),
    b"mac": ("mac", text),
    b"bridge": ("bridge", text),
    b"script": ("script", _script),
    b"ip": ("ip", _addresses),
    b"dev": ("gatewaydev", text),
    b"vifname": ("vifname", text),
    b"model": ("model", text),
    b"rate": ("rate", rate),
    b"backend": ("backend", backend),
}
