"""The command ``xenmig-np``: one module for each of its commands, imported when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Final

import typer
from typer.core import TyperGroup

from xenmig_np import __version__

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

COMMANDS: Final = {
    "convert": "Convert a legacy image into a migration v2 or v3 stream.",
    "info": "Say what a file is, from its headers alone.",
    "dump": "List what stands in a legacy image or a v2 or v3 stream.",
    "verify": "Check v2 or v3 streams, or legacy images.",
    "config": "Show the configuration of a saved guest, or set another one.",
    "batch": "Convert a whole archive, with a manifest of what became of each image.",
    "report": "Make one HTML page of what the manifests of batches say.",
    "formats": "List what is read, and what can be made of it.",
    "sample": "Make a synthetic legacy image, the same for the same options.",
}
"""Each is the function, or the application, of that name in the module of that name; the line is for the list
of them all."""


class Commands(TyperGroup):
    """Makes only the command that is called for: the options of one take a millisecond to build."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002 - an interface of typer
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        if (command := self.commands.get(cmd_name)) is None:
            found = getattr(import_module(f"xenmig_np.cli.{cmd_name}"), cmd_name)
            if not isinstance(found, typer.Typer):
                alone = typer.Typer(
                    rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False
                )
                alone.command(cmd_name)(found)
                found = alone
            command = self.commands[cmd_name] = typer.main.get_command(found)
        return command

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        if args and args[0] not in COMMANDS:  # what could be meant is looked for among those that are made
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    help="Convert, verify and look into suspend images of Xen: legacy (migration v1), v2 and v3.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
