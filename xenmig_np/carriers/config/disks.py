"""Disks of xend as xl's (containers.md 9.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.carriers.config.items import Part, backend, item
from xenmig_np.carriers.config.sxp import shown
from xenmig_np.carriers.config.values import NotCarried, text

if TYPE_CHECKING:
    from xenmig_np.carriers.config.domain import Domain, Entries

KINDS: Final = (b"vbd", b"tap", b"tap2")
FORMATS: Final = {
    b"aio": b"raw",
    b"sync": b"raw",
    b"ram": b"raw",
    b"raw": b"raw",
    b"qcow": b"qcow",
    b"qcow2": b"qcow2",
    b"vhd": b"vhd",
}
"""Of blktap's drivers. Any other is left out: what xl would take for raw it would corrupt."""
SCRIPTED: Final = (b"drbd", b"iscsi", b"nbd", b"enbd")
ACCESS: Final = {b"r": b"ro", b"ro": b"ro", b"w": b"rw", b"rw": b"rw"}
KNOWN: Final = {b"dev", b"uname", b"mode", b"bootable", b"backend"}
SILENT: Final = {b"uuid", b"protocol", b"VDI", b"driver", b"devid", b"type"}
BACKEND: Final[dict[bytes, Part]] = {b"backend": ("backend", backend)}


def disks(domain: Domain) -> tuple[bytes, ...]:
    """Disks in their order; with a bootloader, bootable ones first: xl boots from the first."""
    found = domain.of_kind(*KINDS)
    if not domain.hvm and domain.get(b"bootloader"):
        found.sort(key=lambda disk: disk.get(b"bootable", b"0") not in {b"1", b"True"})
    places = {_place(disk)[0] for disk in found}
    if (cdrom := domain.platform(b"cdrom")) and b"hdc" not in places:  # of Xen 3.0
        bare = isinstance(cdrom, bytes) and cdrom.startswith(b"/")
        uname = b"file:%s" % cdrom if bare else cdrom
        found.append({b"dev": b"hdc:cdrom", b"uname": uname, b"mode": b"r"})
    return tuple(made for disk in found if (made := _disk(domain, disk)))


def _disk(domain: Domain, found: Entries) -> bytes | None:
    vdev, kind = _place(found)
    label = f"disk {shown(vdev)}" if vdev else "disk"
    try:
        return _item(domain, label, found, vdev, kind)
    except NotCarried as why:
        domain.lose(label, f"{why}, disk left out")
        return None


def _item(domain: Domain, label: str, found: Entries, vdev: bytes, kind: bytes) -> bytes:
    if not vdev or b"," in text(vdev):
        raise NotCarried("no name that xl can read")
    cdrom = kind == b"cdrom"
    form, script, path = _image(text(found.get(b"uname", b"")), cdrom=cdrom)
    access = _access(domain, label, text(found.get(b"mode", b"r")))
    if kind not in {b"", b"disk", b"cdrom"}:
        domain.lose(label, f"its kind {shown(kind)}")
    domain.lose_rest(found, KNOWN | SILENT, f"{label}: ")
    parts = [b"format=" + form, b"vdev=" + vdev, b"access=" + access]
    parts += [b"devtype=cdrom"] if cdrom else []
    parts += [b"script=" + script] if script else []
    parts += item(domain, label, found, BACKEND)
    # it takes the rest of the item but for one comma at the end
    parts += [b"target=" + path + (b"," if path.endswith(b",") else b"")] if path else []
    return b", ".join(parts)


def _place(found: Entries) -> tuple[bytes, bytes]:
    """Name of the disk within the guest, and kind: ``cdrom``, ``disk`` or nothing."""
    dev = found.get(b"dev", b"")
    name, _, kind = (dev if isinstance(dev, bytes) else b"").removeprefix(b"ioemu:").partition(b":")
    return name.removeprefix(b"/dev/"), kind


def _image(uname: bytes, *, cdrom: bool) -> tuple[bytes, bytes, bytes]:
    """(format, script, path) of ``DRIVER:PATH``; the format is ``empty`` for a drive with nothing in it."""
    driver, _, path = uname.partition(b":")
    form, script = b"raw", b""
    if driver in {b"tap", b"tap2"}:
        form, path = _tapped(path)
    elif driver in SCRIPTED:
        script = b"block-" + driver
    elif driver == b"phy":
        path = path if path.startswith(b"/") or not path else b"/dev/" + path
    elif driver != b"file" and uname:
        raise NotCarried(f"{shown(driver)} has no xl equivalent")
    if b"\n" in path:
        raise NotCarried("a line break in its path")
    if not path and not cdrom:
        raise NotCarried("nothing in it")
    return form if path else b"empty", script if path else b"", path


def _tapped(rest: bytes) -> tuple[bytes, bytes]:
    """Format and path of what follows ``tap:``, with or without the name of the process that served it."""
    inner = rest.removeprefix(b"tapdisk:").removeprefix(b"ioemu:")
    if inner.startswith(b"/") and inner != rest:
        return b"raw", inner
    driver, _, path = inner.partition(b":")
    if driver not in FORMATS:
        raise NotCarried(f"tap format {shown(driver)} has no xl equivalent")
    return FORMATS[driver], path


def _access(domain: Domain, label: str, mode: bytes) -> bytes:
    if mode.endswith(b"!"):
        domain.lose(label, f"forced sharing mode {shown(mode)}")
    plain = mode.removesuffix(b"!")
    if plain not in ACCESS:
        domain.lose(label, f"mode {shown(mode)}, it is read-only")
    return ACCESS.get(plain, b"ro")
