"""``xenmig-np dump``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.options import GuestOption, InputPath, JsonOption, SkipOption, WidthOption
from xenmig_np.cli.parts import PartOption, hinted, joined

if TYPE_CHECKING:
    from xenmig_np.read.listing import Entry


@guarded
def dump(
    input: InputPath,  # noqa: A002 - the name that users see
    every: Annotated[bool, typer.Option("--all", "-a", help="Each page batch on a line of its own.")] = False,
    width: WidthOption = None,
    guest: GuestOption = None,
    skip: SkipOption = 0,
    part: PartOption = None,
    json: JsonOption = False,
) -> None:
    """List what stands in a legacy image or a v2 or v3 stream, with offsets."""
    from xenmig_np.io.source import open_source  # noqa: PLC0415 - these bring numpy
    from xenmig_np.read.image import skip as skip_junk  # noqa: PLC0415
    from xenmig_np.read.listing import entries  # noqa: PLC0415
    from xenmig_np.wire.legacy import GUEST_BY_NAME  # noqa: PLC0415

    with hinted(input, part), open_source(joined(input, part)) as source:
        skip_junk(source, skip)
        found = entries(source, every=every, width=width, guest=GUEST_BY_NAME[guest] if guest else None)
        if not json:
            for entry in found:
                terminal.result(_line(entry))
            return
        terminal.result_json(
            {
                "schema": "xenmig-np/dump",
                "schema_version": 1,
                "path": source.path,
                "entries": [_plain(entry) for entry in found],
            }
        )


def _plain(entry: Entry) -> dict[str, Any]:
    return {"offset": entry.offset, "length": entry.length, "name": entry.name, "details": entry.details}


def _line(entry: Entry) -> str:
    details = ", ".join(f"{name} {_shown(value)}" for name, value in entry.details.items())
    return f"{entry.offset:#014x} {entry.length:>14,}  {entry.name:<24} {details}".rstrip()


def _shown(value: Any) -> str:  # noqa: ANN401 - of an entry's details
    match value:
        case int():
            return f"{value:,}" if value < 1 << 20 else f"{value:#x}"
        case dict():
            return " ".join(f"{name}={_shown(one)}" for name, one in value.items())
        case list():
            return " ".join(_shown(one) for one in value)
    return str(value)
