"""Options and arguments that commands share, and the words they take."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from xenmig_np.options import GuestName, Width

_SIZE = re.compile(r"(\d+) ?(?:([kKmMgGtT])(?:i?[bB])?|[bB])?")
_SHIFT = {"k": 10, "m": 20, "g": 30, "t": 40}


def parse_size(text: str) -> int:
    """``64MiB``, ``64M``, ``1g`` or bytes; defaults come as numbers."""
    if (found := _SIZE.fullmatch(str(text).strip())) is None:
        raise typer.BadParameter(f"{text!r} is no size: give bytes, or a number with K, M, G or T")
    return int(found[1]) << _SHIFT.get((found[2] or "").lower(), 0)


def parse_width(text: str) -> Width:
    """``32`` or ``64``; defaults come as numbers."""
    if str(text) not in {"32", "64"}:
        raise typer.BadParameter(f"{text!r} is not one of 32, 64")
    return Width(int(text))


InputPath = Annotated[str, typer.Argument(metavar="INPUT", help="A file or block device; - is stdin.")]
OutputPath = Annotated[str, typer.Argument(metavar="OUTPUT", help="The file to write; - is stdout.")]
WidthOption = Annotated[
    Width | None,
    typer.Option(
        "--width",
        parser=parse_width,
        metavar="32|64",
        help="Word size of the tools that wrote the image, where detection cannot tell.",
    ),
]
GuestOption = Annotated[
    GuestName | None, typer.Option("--guest", help="Kind of guest, where detection cannot tell.")
]
SkipOption = Annotated[
    int,
    typer.Option("--skip", min=0, metavar="N", help="Bytes that precede the image."),
]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace an existing OUTPUT.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as a JSON document.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
ProgressOption = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress", help="Show a bar; by default if stderr is a terminal.", show_default=False
    ),
]
