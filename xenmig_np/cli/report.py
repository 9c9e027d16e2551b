"""``xenmig-np report``."""

from __future__ import annotations

from typing import Annotated

import typer

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.options import QuietOption


@guarded
def report(
    manifests: Annotated[
        list[str], typer.Argument(metavar="MANIFEST...", help="Of batch; of several the last results count.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The page to write; - is stdout.")],
    title: Annotated[str | None, typer.Option(help="Title of the page.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing FILE.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Make one HTML page of what the manifests of batches say."""
    from xenmig_np.report import write_report  # noqa: PLC0415 - brings numpy

    made = write_report(manifests, out, title=title, force=force)
    if not quiet:
        images = terminal.plural(len(made.report.rows), "image")
        terminal.say(f"{out}: {images}, {terminal.size(made.bytes)}")
