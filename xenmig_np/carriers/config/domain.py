"""A guest as xend described it: looked up by key, with a list of what xl will not hear of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xenmig_np.carriers.config.sxp import Sxp, shown
from xenmig_np.carriers.config.values import ABSENT, DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

HVM_HEADS = (b"hvm", b"vmx")
PV_HEADS = (b"linux",)

Entries = dict[bytes, Sxp]


def entries(items: Iterable[Sxp]) -> Entries:
    """``(key value)`` by key: the first one that has a value counts. More than one value are a list."""
    found: Entries = {}
    for item in items:
        if isinstance(item, tuple) and item and isinstance(item[0], bytes):
            value = item[1] if len(item) == 2 else item[1:]
            if value not in ABSENT:
                found.setdefault(item[0], value)
    return found


@dataclass(frozen=True, slots=True)
class Device:
    """``(device (KIND (key value) ...))``."""

    kind: bytes
    items: tuple[Sxp, ...]

    @property
    def entries(self) -> Entries:
        """Its values by key."""
        return entries(self.items)


@dataclass(frozen=True, slots=True)
class Domain:
    """What stands in an expression, by place, and what was found out on the way."""

    top: Entries
    image: Entries
    devices: tuple[Device, ...]
    hvm: bool
    release: tuple[int, int]
    """Of the Xen that is to restore it."""
    pages: int
    """Pages that the image has, 0 if that is not known."""
    lost: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def get(self, key: bytes) -> Sxp:
        """The value at the top, else in the image; empty if there is none."""
        return self.top.get(key) or self.image.get(key, b"")

    def platform(self, key: bytes) -> Sxp:
        """The value in the image, else at the top, where old releases have it."""
        return self.image.get(key) or self.top.get(key, b"")

    def of_kind(self, *kinds: bytes) -> list[Entries]:
        """The devices of these kinds."""
        return [device.entries for device in self.devices if device.kind in kinds]

    @property
    def framebuffer(self) -> Entries:
        """The first vfb device."""
        return next(iter(self.of_kind(b"vfb")), {})

    def lose(self, what: str, why: object = "") -> None:
        """Something is not carried over. ``what`` is a key with its place, or a device."""
        self.lost.append(f"{what}: {why}" if str(why) else what)

    def remark(self, what: str) -> None:
        """Something else is worth knowing."""
        self.remarks.append(what)

    def name(self, key: bytes) -> str:
        """A key with its place, for messages."""
        return f"image/{shown(key)}" if key in self.image else shown(key)

    def lose_rest(self, found: Entries, known: AbstractSet[bytes], label: str) -> None:
        """What a list has beyond the keys known, unless the value says nothing."""
        for key, value in found.items():
            if key not in known and value not in DEFAULTS:
                self.lose(f"{label}{shown(key)}")


def domain(tree: tuple[Sxp, ...], release: tuple[int, int], pages: int) -> Domain:
    """The guest that an expression ``(domain ...)`` describes."""
    top = entries(tree[1:])
    image = top.pop(b"image", ())
    image = image if isinstance(image, tuple) else (image,)
    head = image[0] if image else b""
    known = head in {*HVM_HEADS, *PV_HEADS}
    hvm = head in HVM_HEADS if known else b"HVM_boot" in top or b"boot" in top
    top.pop(b"device", None)
    found = Domain(top, entries(image[1:]), tuple(_devices(tree)), hvm, release, pages)
    if not known:
        found.remark(f"image {shown(head) or 'absent'}, taken for {'HVM' if hvm else 'PV'}")
    return found


def _devices(tree: tuple[Sxp, ...]) -> Iterable[Device]:
    for item in tree:
        if isinstance(item, tuple) and item[:1] == (b"device",):
            for device in item[1:]:
                if isinstance(device, tuple) and device and isinstance(device[0], bytes):
                    yield Device(device[0], device[1:])
