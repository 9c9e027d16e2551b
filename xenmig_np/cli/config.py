"""``xenmig-np config``."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.options import ForceOption, InputPath, JsonOption, QuietOption, SkipOption
from xenmig_np.errors import UsageError

if TYPE_CHECKING:
    from xenmig_np.carriers.config.sxp import Sxp
    from xenmig_np.carriers.header import Header
    from xenmig_np.carriers.recognise import Carried

SCHEMA_VERSION: Final = 1

config = typer.Typer(
    help="Show the configuration of a saved guest, or set another one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Form(StrEnum):
    """How a configuration is shown."""

    ORIGINAL = "original"
    XL = "xl"
    JSON = "json"


@config.command()
@guarded
def show(
    input: InputPath,  # noqa: A002 - the name that users see
    form: Annotated[
        Form,
        typer.Option(
            "--as",
            help="original: as it is stored; xl: what xl reads, translated where xend wrote it; "
            "json: all of it for a program.",
        ),
    ] = Form.ORIGINAL,
    skip: SkipOption = 0,
) -> None:
    """Print the configuration that INPUT carries; on a terminal without its passwords."""
    from xenmig_np.carriers.recognise import recognise  # noqa: PLC0415 - these bring numpy
    from xenmig_np.io.source import open_source  # noqa: PLC0415
    from xenmig_np.read.image import skip as skip_junk  # noqa: PLC0415

    with open_source(input) as source:
        skip_junk(source, skip)
        carried = recognise(source)
        path = source.path
    header = carried.header
    if header is None or not header.config:
        raise UsageError("there is no configuration", path=path, found=f"carrier {carried.carrier}")
    terminal.warnings(path, carried.notes)
    stored = header.config.removesuffix(b"\0")
    if form is Form.JSON:
        terminal.result_json(_document(path, carried, header, stored))
    else:
        _print(stored if form is Form.ORIGINAL else _for_xl(path, carried, header))


def _for_xl(path: str, carried: Carried, header: Header) -> bytes:
    """The text for xl. Raises :class:`UsageError` if there is none, :class:`InvalidImage`."""
    from xenmig_np.carriers.config.sxp import parse  # noqa: PLC0415
    from xenmig_np.carriers.config.translate import translate  # noqa: PLC0415
    from xenmig_np.carriers.given import KINDS  # noqa: PLC0415

    if header.config_kind == "text":
        return header.config
    if header.config_kind != "sxp":
        found = KINDS.get(header.config_kind, "a record of XenServer")
        raise UsageError("no translation for xl", path=path, found=found, expected=KINDS["sxp"])
    made = translate(parse(header.config, path=path, offset=carried.at - len(header.config)))
    terminal.warnings(path, (note for note in made.notes if note not in carried.notes))
    return made.text


def _print(text: bytes) -> None:
    """As it is into a file or pipe; without passwords and control characters onto a terminal."""
    if sys.stdout is None:
        return
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        return
    from xenmig_np.carriers.config.secrets import mask_secrets  # noqa: PLC0415

    for line in mask_secrets(text).decode(errors="backslashreplace").splitlines():
        terminal.result(line)


def _document(path: str, carried: Carried, header: Header, stored: bytes) -> dict[str, Any]:
    return {
        "schema": "xenmig-np/config",
        "schema_version": SCHEMA_VERSION,
        "path": path,
        "carrier": carried.carrier,
        "kind": header.config_kind,
        "name": header.guest_name,
        "bytes": len(header.config),
        "config": _plain(header.config_kind, stored, path, carried.at - len(header.config)),
    }


def _plain(kind: str, stored: bytes, path: str, offset: int) -> Any:  # noqa: ANN401 - what JSON has
    """An object of JSON, lists of an s-expression, pairs of settings and values, else the text."""
    import json  # noqa: PLC0415 - wanted by few runs

    from xenmig_np.carriers.config import sxp, xlcfg  # noqa: PLC0415

    def nested(value: Sxp) -> Any:  # noqa: ANN401 - lists and strings
        return sxp.decode(value) if isinstance(value, bytes) else [nested(one) for one in value]

    if kind == "json":
        try:
            return json.loads(stored)
        except (ValueError, RecursionError):
            kind = "broken"
    if kind == "sxp":
        return nested(sxp.parse(stored, path=path, offset=offset).tree)
    if kind == "text":
        return [[key, nested(value)] for key, value in xlcfg.read(stored)]
    return sxp.decode(stored)


@config.command("set")
@guarded
def set_(
    input: InputPath,  # noqa: A002
    config: Annotated[str, typer.Option(metavar="FILE", help="The configuration: text or JSON of xl, XML.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUTPUT", help="The file to write.")],
    skip: SkipOption = 0,
    force: ForceOption = False,
    sync: Annotated[
        bool, typer.Option("--sync/--no-sync", help="Have OUTPUT on disk before it gets its name.")
    ] = True,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Copy an xl or libvirt file, whether legacy or v2, with another configuration."""
    from xenmig_np.conversion.rewrap import set_config  # noqa: PLC0415 - brings numpy

    made = set_config(input, output, config, force=force, sync=sync, skip=skip)
    if not quiet:
        terminal.warnings(made.path, made.warnings)
    if json:
        terminal.result_json(made.to_dict())
    elif not quiet:
        kind = f"{made.config_kind}, {terminal.size(made.config_bytes)}"
        terminal.say(
            f"{made.output}: {terminal.size(made.bytes)}, {made.carrier} file, configuration: {kind}"
        )
