"""Images that were split over PATH, PATH.1 and so on (legacy-stream.md 0)."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from xenmig_np.errors import TruncatedImage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.io.source import Input

PartOption = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        metavar="FILE",
        help="A further part of an image that was split over several files, in their order; repeat it.",
    ),
]


def joined(first: str, further: list[str] | None) -> Input:
    """The input that these files make."""
    return [first, *further] if further else first


def missing(first: str, further: list[str] | None) -> str:
    """What names the parts that lie beside the first one and were not given; empty if there are none."""
    numbers = itertools.takewhile(lambda number: os.path.isfile(f"{first}.{number}"), itertools.count(1))
    names = [name for number in numbers if (name := f"{first}.{number}") not in (further or ())]
    if not names:
        return ""
    return f"there are further parts of it: add {' '.join(f'--part {shlex.quote(name)}' for name in names)}"


@contextlib.contextmanager
def hinted(first: str, further: list[str] | None) -> Iterator[None]:
    """Say of an image that ends early which parts of it were forgotten."""
    try:
        yield
    except TruncatedImage as error:
        if error.path in {first, *(further or ())}:
            error.hint = missing(first, further) or error.hint
        raise
