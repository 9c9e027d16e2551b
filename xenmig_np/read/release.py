"""Which Xen releases can have written an image, from what is in it (legacy-stream.md 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.wire import legacy, pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenmig_np.read.facts import Facts


def _has(*ids: int) -> Callable[[Facts], bool]:
    names = [legacy.CHUNK_BY_ID[number].name for number in ids]
    return lambda facts: any(facts.chunks[name] for name in names)


def _extended(facts: Facts) -> bool:
    return bool(facts.info and facts.info.extended)


RELEASES: Final[tuple[tuple[str, Callable[[Facts], bool]], ...]] = (
    ("4.5.4 or 4.5.5", _has(-21)),
    ("4.5", _has(-19, -20)),
    ("4.3 to 4.5", lambda facts: bool(facts.type_counts[pages.PageType.BROKEN])),
    ("4.2 to 4.5", _has(-12, -13, -14, -15, -16, -17, -18)),
    ("4.2 to 4.5", lambda facts: bool(facts.type_counts[pages.PageType.XALLOC])),
    ("4.1 to 4.5", _has(-8, -9, -10, -11)),
    ("4.0, or Remus of a later one", _has(-5, -6, -7)),
    ("3.3 or 3.4", _has(-3, -4)),
    ("3.2 to 3.4", _extended),
    ("3.1", lambda facts: facts.info is not None and bool(facts.chunks["vcpu_info"])),
    ("3.1 to 3.4", _has(-2)),
)
"""The first row whose test holds tells; later features first."""
OLDEST: Final = "3.0"


def releases(facts: Facts) -> str:
    """Releases in words, as narrow as the image tells."""
    return next((name for name, test in RELEASES if test(facts)), OLDEST)
