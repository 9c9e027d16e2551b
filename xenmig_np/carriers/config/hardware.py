"""What a guest has of its host: PCI devices, ports, interrupts, and TPMs of a domain (containers.md 9.5)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from xenmig_np.carriers.config.domain import entries
from xenmig_np.carriers.config.items import DOM0, Part, backend, each, item
from xenmig_np.carriers.config.sxp import decode, shown
from xenmig_np.carriers.config.values import NotCarried, flag, natural, text, uuid

if TYPE_CHECKING:
    from xenmig_np.carriers.config.domain import Domain, Entries

PCI_PLACE: Final = {b"domain": 0xFFFF, b"bus": 0xFF, b"slot": 0x1F, b"func": 7}
PORT_MAX: Final = 0xFFFF
PCI_SILENT: Final = {b"uuid", b"devid", b"key", b"state", b"requested_vdevfn", b"vdevfn", b"vslot", b"vslt"}
PCI_OPTIONS: Final[dict[bytes, Part]] = {
    b"msitranslate": ("msitranslate", flag),
    b"permissive": ("permissive", flag),
    b"power_mgmt": ("power_mgmt", flag),
}
VTPM: Final[dict[bytes, Part]] = {b"backend": ("backend", backend), b"uuid": ("uuid", uuid)}


def pcis(domain: Domain) -> tuple[bytes, ...]:
    """PCI devices: ``DDDD:BB:SS.F[@SLOT][,option=value...]``."""
    devices = [device for device in domain.devices if device.kind == b"pci"]
    if any(device.entries.get(b"backend", b"0") not in DOM0 for device in devices):
        domain.lose("pci: backend")
    found = [
        entries(one[1:])
        for device in devices
        for one in device.items
        if isinstance(one, tuple) and one[:1] == (b"dev",)
    ]
    return each(domain, "pci", found, lambda one: _pci(domain, one))


def _pci(domain: Domain, found: Entries) -> bytes:
    place = [_hex(found, key, limit) for key, limit in PCI_PLACE.items()]
    made = b"%04x:%02x:%02x.%x" % tuple(place)
    for key, shift in ((b"vdevfn", 3), (b"vslot", 0), (b"vslt", 0)):
        slot = _hex(found, key, 0x100) if key in found else 0
        if slot not in {0, 0x100}:  # the latter: whichever is free
            made += b"@%02x" % (slot >> shift)
            break
    options = found.get(b"opts", ())
    chosen = entries((options, *options) if isinstance(options, tuple) else ())  # one, or a list of them
    label = f"pci {decode(made)}"
    domain.lose_rest(chosen, PCI_OPTIONS.keys(), f"{label}: ")
    domain.lose_rest(found, PCI_PLACE.keys() | PCI_SILENT | {b"opts"}, f"{label}: ")
    return b",".join([made, *item(domain, label, chosen, PCI_OPTIONS)])


def _hex(found: Entries, key: bytes, limit: int) -> int:
    """Xend writes these as hexadecimal, with 0x or without; the PCI domain alone may be missing."""
    digits = text(found.get(key, b"0" if key == b"domain" else b""))
    if not re.fullmatch(rb"(?:0[xX])?[0-9a-fA-F]{1,8}", digits) or int(digits, 16) > limit:
        raise NotCarried(f"{decode(key)} {shown(digits) or 'missing'}")
    return int(digits, 16)


def ioports(domain: Domain) -> tuple[bytes, ...]:
    """Ranges of ports, hexadecimal."""
    return each(domain, "ioports", domain.of_kind(b"ioports"), _range)


def _range(found: Entries) -> bytes:
    first = natural(found.get(b"from", b""))
    last = natural(found.get(b"to", found.get(b"from", b"")))
    if not first <= last <= PORT_MAX:
        raise NotCarried(f"{first:#x} to {last:#x}")
    return b"%x" % first if first == last else b"%x-%x" % (first, last)


def irqs(domain: Domain) -> tuple[int, ...]:
    """Interrupts."""
    return each(domain, "irq", domain.of_kind(b"irq"), lambda found: natural(found.get(b"irq", b"")))


def vtpms(domain: Domain) -> tuple[bytes, ...]:
    """Those whose backend is a domain of its own; xl has none in domain 0."""
    made = []
    for found in domain.of_kind(b"vtpm"):
        parts = item(domain, "vtpm", found, VTPM)
        if parts and parts[0].startswith(b"backend="):
            made.append(b",".join(parts))
        else:
            instance = shown(found.get(b"instance", b""))
            domain.lose(f"vtpm in domain 0 (instance {instance})" if instance else "vtpm in domain 0")
    return tuple(made)
