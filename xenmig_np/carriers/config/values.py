"""Single values of an s-expression, converted; :class:`NotCarried` is raised for what xl.cfg cannot say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from xenmig_np.carriers.config.sxp import Sxp, shown

if TYPE_CHECKING:
    from collections.abc import Callable

ABSENT: Final = (b"", b"None", ())
"""All that stands for no value (containers.md 9.5)."""
DEFAULTS: Final = (b"0", b"False", b"none", b"default", b"ignore", *ABSENT)
"""Values of settings without an equivalent that nobody misses."""
INTEGER: Final = re.compile(rb"[+-]?[0-9]{1,18}|[+-]?0[xX][0-9a-fA-F]{1,15}")
FLOAT: Final = re.compile(rb"([+-]?[0-9]{1,18})\.[0-9]*(?:[eE][+-]?0+)?")
UUID_GROUPS: Final = (8, 4, 4, 4, 12)


class NotCarried(Exception):
    """The value has no equivalent; the text says why."""


def text(value: Sxp) -> bytes:
    """A string."""
    if isinstance(value, tuple):
        raise NotCarried("a list where a string was expected")
    if b"\0" in value:
        raise NotCarried("a byte 0 in it")
    return value


def number(value: Sxp) -> int:
    """An integer, decimal or 0x; of a float its integer part."""
    digits = text(value)
    if INTEGER.fullmatch(digits):
        return int(digits, 16 if b"x" in digits.lower() else 10)
    if found := FLOAT.fullmatch(digits):
        return int(found[1])
    raise NotCarried(f"not a number: {shown(value)}")


def natural(value: Sxp) -> int:
    """A number that is not negative."""
    if (found := number(value)) < 0:
        raise NotCarried(f"negative: {found}")
    return found


def flag(value: Sxp) -> int:
    """0 or 1."""
    if value in {b"True", b"False"}:
        return int(value == b"True")
    return int(number(value) != 0)


def one_if_set(value: Sxp) -> int | None:
    """1, or left out."""
    return flag(value) or None


def number_if_set(value: Sxp) -> int | None:
    """A number, 0 is left out."""
    return number(value) or None


def strings(value: Sxp) -> bytes | tuple[bytes, ...] | None:
    """A string or a list of them; ``none`` is left out."""
    found = tuple(text(item) for item in (value if isinstance(value, tuple) else (value,)))
    found = tuple(item for item in found if item not in {b"none", *ABSENT})
    return (found if len(found) > 1 else found[0]) if found else None


def choice(*names: str, left_out: str = "") -> Callable[[Sxp], bytes | None]:
    """A number that chooses among names; one of them may be xl's default."""

    def chosen(value: Sxp) -> bytes | None:
        at = number(value)
        if not 0 <= at < len(names):
            raise NotCarried(f"unknown: {at}")
        return None if names[at] == left_out else names[at].encode()

    return chosen


def uuid(value: Sxp) -> bytes:
    """Lower case, with dashes."""
    digits = text(value).lower().replace(b"-", b"")
    if not re.fullmatch(rb"[0-9a-f]{32}", digits):
        raise NotCarried(f"not a UUID: {shown(value)}")
    ends = [sum(UUID_GROUPS[: n + 1]) for n in range(len(UUID_GROUPS))]
    return b"-".join(digits[end - size : end] for size, end in zip(UUID_GROUPS, ends, strict=True))
