"""Releases of Xen that restore streams, and sets of them."""

from __future__ import annotations

from typing import Final

RELEASES: Final = tuple(f"4.{minor}" for minor in range(6, 23))
"""All that were examined, oldest first."""

Releases = frozenset[str]
ALL: Final[Releases] = frozenset(RELEASES)
NONE: Final[Releases] = frozenset()


def since(first: str) -> Releases:
    """``first`` and all later ones."""
    return frozenset(RELEASES[RELEASES.index(first) :])


def until(last: str) -> Releases:
    """``last`` and all earlier ones."""
    return frozenset(RELEASES[: RELEASES.index(last) + 1])


def between(first: str, last: str) -> Releases:
    """From ``first`` to ``last``."""
    return since(first) & until(last)


LIBXC_V3: Final = since("4.14")
"""Those that take version 3; all take version 2 (v2-stream.md 17)."""


def in_words(releases: Releases) -> str:
    """``4.6 to 4.9``, ``4.6, 4.8 and 4.9``."""
    runs: list[list[str]] = []
    for index, release in enumerate(RELEASES):
        if release not in releases:
            continue
        if runs and RELEASES[index - 1] == runs[-1][-1]:
            runs[-1].append(release)
        else:
            runs.append([release])
    parts = [run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
