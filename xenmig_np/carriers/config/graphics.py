"""Frame buffers of xend: settings of an HVM guest, items of a PV guest (containers.md 9.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.carriers.config.items import DOM0, Part, item
from xenmig_np.carriers.config.values import flag, natural, text

if TYPE_CHECKING:
    from xenmig_np.carriers.config.domain import Domain, Entries

SILENT: Final = {b"type", b"uuid", b"devid", b"location", b"backend"}
VNC: Final[dict[bytes, Part]] = {
    b"vnc": ("vnc", flag),
    b"vnclisten": ("vnclisten", text),
    b"vncdisplay": ("vncdisplay", natural),
    b"vncunused": ("vncunused", flag),
    b"vncpasswd": ("vncpasswd", text),
    b"keymap": ("keymap", text),
    b"sdl": ("sdl", flag),
}
SDL: Final[dict[bytes, Part]] = {
    b"opengl": ("opengl", flag),
    b"display": ("display", text),
    b"xauthority": ("xauthority", text),
}


def graphics(found: Entries) -> Entries:
    """What a frame buffer says, with its type as xl says it."""
    kind = found.get(b"type")
    return found | {kind: found.get(kind, b"1")} if kind in {b"vnc", b"sdl"} else found


def vfbs(domain: Domain) -> tuple[bytes, ...]:
    """Frame buffers of a PV guest; the first one of an HVM guest became settings."""
    made = []
    for count, found in enumerate(map(graphics, domain.of_kind(b"vfb"))):
        label = f"vfb {count}" if count else "vfb"
        domain.lose_rest(found, VNC.keys() | SDL.keys() | SILENT, f"{label}: ")
        if found.get(b"backend", b"0") not in DOM0:
            domain.lose(f"{label}: backend")
        if not domain.hvm:
            parts = VNC | SDL if found.get(b"sdl", b"0") not in {b"0", b"False"} else VNC
            made.append(b",".join(item(domain, label, found, parts)))
        elif count:
            domain.lose(label, "an HVM guest has one")
    return tuple(made)
