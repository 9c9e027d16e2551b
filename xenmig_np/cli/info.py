"""``xenmig-np info``."""

from __future__ import annotations

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.options import (
    GuestOption,
    InputPath,
    JsonOption,
    QuietOption,
    SkipOption,
    VerboseOption,
    WidthOption,
)
from xenmig_np.cli.parts import PartOption, hinted, joined


@guarded
def info(
    input: InputPath,  # noqa: A002 - the name that users see
    width: WidthOption = None,
    guest: GuestOption = None,
    skip: SkipOption = 0,
    part: PartOption = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Say what a file is, from its headers alone."""
    from xenmig_np.cli.describe import image_lines  # noqa: PLC0415 - with numpy
    from xenmig_np.image.access import info as read  # noqa: PLC0415

    with hinted(input, part):
        found = read(joined(input, part), width=width, guest=guest, skip=skip)
    if not quiet:
        terminal.warnings(found.path, found.warnings)
    if json:
        terminal.result_json(found.to_dict())
        return
    for line in image_lines(found, verbose=verbose):
        terminal.result(line)
