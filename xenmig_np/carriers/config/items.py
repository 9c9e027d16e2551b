"""Items of lists in xl.cfg, ``name=value,name=value``, from the values of a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeVar

from xenmig_np.carriers.config.sxp import Sxp, shown
from xenmig_np.carriers.config.values import NotCarried, text

if TYPE_CHECKING:
    from xenmig_np.carriers.config.domain import Domain, Entries

Source = TypeVar("Source")
Made = TypeVar("Made")
Part = tuple[str, Callable[[Sxp], bytes | int | None]]
"""Name in the item, and conversion; what gives None is left out."""
DOM0: Final = (b"0", b"Domain-0")


def item(domain: Domain, label: str, found: Entries, parts: dict[bytes, Part]) -> list[bytes]:
    """``name=value`` of each key of ``parts`` that has a value, in their order.

    xl splits items at commas: a value with one is not carried.
    """
    made = []
    for key, (name, convert) in parts.items():
        try:
            value = convert(found[key]) if key in found else None
        except NotCarried as why:
            domain.lose(f"{label}: {shown(key)}", why)
            continue
        words = value if isinstance(value, bytes) else b"%d" % (value or 0)
        if b"," in words:
            domain.lose(f"{label}: {shown(key)}", "a comma in it")
        elif value is not None:
            made.append(b"%s=%s" % (name.encode(), words))
    return made


def each(
    domain: Domain, label: str, found: Iterable[Source], make: Callable[[Source], Made]
) -> tuple[Made, ...]:
    """What ``make`` gives for each of them; those that it refuses are lost."""
    made = []
    for one in found:
        try:
            made.append(make(one))
        except NotCarried as why:
            domain.lose(label, why)
    return tuple(made)


def backend(value: Sxp) -> bytes | None:
    """The domain in which a device's other end is, unless that is domain 0."""
    return None if (name := text(value)) in DOM0 else name
