"""The command ``xenmig-np``: one module for each of its commands, imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from xenmig_np import __version__
from xenmig_np.cli.convert import convert
from xenmig_np.cli.dump import dump
from xenmig_np.cli.info import info
from xenmig_np.cli.sample import sample
from xenmig_np.cli.verify import verify

app = typer.Typer(
    help="Convert, verify and look into suspend images of Xen: legacy (migration v1), v2 and v3.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(convert)
app.command()(info)
app.command()(dump)
app.command()(verify)
app.command()(sample)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xenmig-np {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
