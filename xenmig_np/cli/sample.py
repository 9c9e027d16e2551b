"""``xenmig-np sample``."""

from __future__ import annotations

from typing import Annotated

import typer

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.options import (
    ForceOption,
    OutputPath,
    ProgressOption,
    QuietOption,
    parse_size,
    parse_width,
)
from xenmig_np.cli.progress import progress as progress_of
from xenmig_np.options import SampleGuest, Width


@guarded
def sample(
    output: OutputPath,
    guest: Annotated[SampleGuest, typer.Option(help="Kind of guest.")] = SampleGuest.HVM,
    width: Annotated[
        Width, typer.Option(parser=parse_width, metavar="32|64", help="Word size of the tools.")
    ] = Width.BITS_64,
    memory: Annotated[
        int,
        typer.Option(parser=parse_size, metavar="SIZE", help="Memory, by default 64MiB.", show_default=False),
    ] = 64 << 20,
    live: Annotated[bool, typer.Option("--live", help="As a live save: pages come repeatedly.")] = False,
    xl: Annotated[bool, typer.Option("--xl", help="In an xl file with a configuration.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed gives other pages.")] = 0,
    zeros: Annotated[float, typer.Option(help="Share of zero pages, 0 to 1.")] = 0.25,
    force: ForceOption = False,
    progress: ProgressOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make a synthetic legacy image, the same for the same options."""
    from xenmig_np.io.files import Output  # noqa: PLC0415 - numpy comes with the sample
    from xenmig_np.io.sink import write_all  # noqa: PLC0415
    from xenmig_np.sample import SampleOptions, sample_image, sample_size  # noqa: PLC0415

    options = SampleOptions(guest=guest, width=width, memory=memory, live=live, xl=xl, seed=seed, zeros=zeros)
    total = sample_size(options)
    out = Output(output, None, force=force)
    out.needs(total)
    with out, progress_of(output, wanted=False if quiet else progress) as told:
        done = 0
        for piece in sample_image(options):
            write_all(out.fd, out.path, [piece])
            done += len(piece)
            told(done, total)
        out.commit(sync=False)
    if not quiet:
        terminal.say(f"{out.path}: {terminal.size(done)}")
