"""A configuration of xend as the text that xl reads (containers.md 9.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xenmig_np.carriers.config import domain as domains
from xenmig_np.carriers.config import xlcfg
from xenmig_np.carriers.config.keys import ANY, DEVICES, ROWS, SILENT
from xenmig_np.carriers.config.rules import lose_boot_files
from xenmig_np.carriers.config.sxp import decode, shown
from xenmig_np.carriers.config.values import NotCarried
from xenmig_np.errors import InvalidImage, Note

if TYPE_CHECKING:
    from xenmig_np.carriers.config.domain import Domain
    from xenmig_np.carriers.config.sxp import Expression
    from xenmig_np.carriers.config.xlcfg import Value

ROOTS: Final = (b"domain", b"vm")
RESTORES: Final = (4, 6)
"""The first Xen whose xl restores what is converted."""
KNOWN: Final = SILENT.union(*(row.keys for row in ROWS)) - DEVICES.difference(SILENT)
MISSED: Final = {
    "name": "there is no name, and xl needs one",
    "uuid": "there is no uuid: xl makes one at each restore",
    "memory": "there is no memory size",
}


@dataclass(frozen=True, slots=True)
class XlConfig:
    """A configuration for xl."""

    text: bytes
    """Comments that say what was lost and changed, then a setting a line."""
    lost: tuple[str, ...]
    """What xend's configuration said and the text does not."""
    notes: tuple[Note, ...]
    """All that is worth a warning: each loss, what was changed, oddities of the original."""
    name: str | None
    uuid: str | None
    guest: str
    """``hvm`` or ``pv``, as the configuration says."""


def translate(expression: Expression, *, release: tuple[int, int] = RESTORES, pages: int = 0) -> XlConfig:
    """The configuration for the xl of ``release``.

    ``pages`` is how many the guest has: maxmem must have room for them. Raises :class:`InvalidImage` for
    expressions that are not about a domain; everything in one that makes no sense is a loss.
    """
    tree = expression.tree
    if not tree or tree[0] not in ROOTS:
        raise InvalidImage(
            path=expression.path,
            offset=expression.offset,
            item="configuration",
            found=f"({shown(tree[0]) if tree else ''}",
            expected="(domain or (vm",
        )
    domain = domains.domain(tree, release, pages)
    settings = _settings(domain)
    lose_boot_files(domain)
    for device in domain.devices:
        if device.kind not in DEVICES:
            domain.lose(f"device {shown(device.kind)}")
    domain.lose_rest(domain.top, KNOWN, "")
    domain.lose_rest(domain.image, KNOWN, "image/")
    lost, remarks = tuple(dict.fromkeys(domain.lost)), tuple(dict.fromkeys(domain.remarks))
    said = (*(f"not carried: {what}" for what in lost), *remarks)
    notes = (Note("containers 9.5", what, expression.offset) for what in said)
    comments = (f"# {what}\n".encode() for what in said)
    return XlConfig(
        text=b"".join([*comments, *map(xlcfg.line, settings, settings.values())]),
        lost=lost,
        notes=(*expression.notes, *notes),
        name=_string(settings.get("name")),
        uuid=_string(settings.get("uuid")),
        guest="hvm" if domain.hvm else "pv",
    )


def _settings(domain: Domain) -> dict[str, Value]:
    """All rows of the table that have a value."""
    settings: dict[str, Value] = {}
    for row in ROWS:
        if row.guest not in {ANY, "hvm" if domain.hvm else "pv"}:
            continue
        try:
            value = row.rule(domain)
        except NotCarried as why:
            domain.lose(domain.name(row.keys[0]), why)
            continue
        if value is not None and value != ():
            settings[row.xl] = value
    for key, what in MISSED.items():
        if key not in settings:
            domain.remark(what)
    return settings


def _string(value: Value | None) -> str | None:
    return decode(value) if isinstance(value, bytes) else None
