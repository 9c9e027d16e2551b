"""``xenmig-np convert --salvage``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from xenmig_np.cli import terminal
from xenmig_np.cli.terminal import plural, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.conversion.run import Options, Progress
    from xenmig_np.io.source import Input
    from xenmig_np.salvage.run import Salvaged


def salvage_image(
    source: Input,
    output: str,
    options: Options,
    *,
    unreadable: str | None = None,
    force: bool = False,
    sync: bool = True,
    check: bool = True,
    progress: Progress | None = None,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Salvage an image and tell what became of it; ends with code 7 if data was lost."""
    from xenmig_np.salvage.run import salvage  # noqa: PLC0415 - brings numpy

    made = salvage(
        source,
        output,
        unreadable=unreadable,
        force=force,
        sync=sync,
        check=check,
        progress=progress,
        **options,
    )
    if not quiet:
        notes = made.conversion.warnings if made.conversion else made.warnings
        terminal.warnings(made.input, notes)
    if as_json:
        terminal.result_json(made.to_dict())
    elif not quiet:
        for line in closing(made):
            terminal.say(line)
    raise typer.Exit(made.exit_code)


def closing(made: Salvaged) -> Iterator[str]:
    """What became of it."""
    if made.conversion:
        from xenmig_np.cli.describe import closing as converted  # noqa: PLC0415

        yield converted(made.conversion)
        return
    yield f"damaged: {made.damage}"
    pages = made.pages or {}
    older = f", {plural(pages['older'], 'of them may be an older copy', 'of them may be older copies')}"
    saved = pages["saved"] + pages["older"]
    yield f"{made.raw}: {plural(saved, 'page')} saved{older if pages['older'] else ''}"
    lost = plural(pages["lost"], "page")
    guess = f"; p2m_size is guessed: {made.p2m_size:#x}" if made.p2m_size_guessed else ""
    unread = size(sum(part.end - part.begin for part in made.unread))
    yield f"{made.map}: {lost} lost or never sent, {unread} of the image read as nothing{guess}"
    if made.stream:
        yield f"{made.stream}: {size(made.stream_bytes)}, without what is lost: the guest may not run"
    else:
        yield f"no stream: {made.no_stream}"
