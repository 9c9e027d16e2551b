"""``xenmig-np formats``: what is read, what it is converted into, and what is refused and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.options import JsonOption

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_VERSION: Final = 1
BARE: Final = "bare"
GENERATIONS: Final = ("3.0", "3.1", "3.2", "3.3", "3.4", "4.0", "4.1", "4.2", "4.3", "4.4", "4.5", "v2", "v3")
"""Releases of Xen that wrote legacy images, then the streams of later ones (legacy-stream.md 9)."""
STREAMS: Final = {"v2": "of Xen 4.6 to 4.13", "v3": "of Xen 4.14 and later"}
WRITTEN: Final = {
    BARE: ("3.0", "v3", "the helpers of every toolstack; xl of 4.0.0"),
    "xl": ("4.0", "v3", "xl since 4.0.1"),
    "xend": ("3.0", "4.4", "xend, xm; Remus"),
    "libvirt": ("4.1", "v3", "libvirt's libxl driver"),
    "xapi": ("3.1", "4.4", "XenServer before 2014"),
    "xapi2": ("4.1", "v3", "XenServer since 2014"),
}
"""First and last generation that a carrier holds, and who wrote it (containers.md 1 to 4, 6)."""


class Row(NamedTuple):
    """A carrier."""

    name: str
    title: str
    writer: str
    status: dict[str, str]
    """By generation: ``converts``, ``verifies`` or ``-``, which none has."""
    default: str
    """What its legacy images become."""
    others: tuple[str, ...]
    """What they become where --container says so."""


class Refusal(NamedTuple):
    """What is recognised and not converted."""

    what: str
    why: str


def rows() -> Iterator[Row]:
    """All carriers, from the tables of the code."""
    from xenmig_np.carriers import wrap  # noqa: PLC0415 - brings numpy
    from xenmig_np.carriers.recognise import CARRIERS  # noqa: PLC0415
    from xenmig_np.options import Container  # noqa: PLC0415

    titles = {BARE: "without a carrier"} | {row.name: row.title for row in CARRIERS}
    for name, title in titles.items():
        first, last, writer = WRITTEN[name]
        span = range(GENERATIONS.index(first), GENERATIONS.index(last) + 1)
        status = {
            generation: ("verifies" if generation in STREAMS else "converts") if index in span else "-"
            for index, generation in enumerate(GENERATIONS)
        }
        default = wrap.AUTO[name]
        others = tuple(
            wrap.TITLES[container] for container in Container if container not in {default, Container.AUTO}
        )
        format_ = wrap.FORMAT[default]
        inside = "libxl" if format_ == "auto" else str(format_)
        yield Row(name, title, writer, status, f"{wrap.TITLES[default]} ({inside})", others)


def refusals() -> Iterator[Refusal]:
    """Images that are read and not converted."""
    from xenmig_np.read.info import TWO_LEVELS  # noqa: PLC0415 - brings numpy
    from xenmig_np.wire.legacy import CHUNKS  # noqa: PLC0415

    for why in dict.fromkeys(row.refused for row in CHUNKS if row.refused):
        chunks = " and ".join(str(row.id) for row in CHUNKS if row.refused == why)
        yield Refusal(f"chunks {chunks}", f"{why}; `--drop-tmem` converts the rest")
    yield Refusal("two-level page tables, Xen 3.0 to 4.2", TWO_LEVELS)


def named() -> Iterator[Refusal]:
    """Files that are no images of ours and are told by name."""
    from xenmig_np.wire.carriers import BEGINNINGS  # noqa: PLC0415
    from xenmig_np.wire.compression import COMPRESSIONS  # noqa: PLC0415

    read = {f"{row.name} data" for row in COMPRESSIONS}
    by_advice: dict[str, list[str]] = {}
    for row in BEGINNINGS:
        if row.name not in read | set(by_advice.setdefault(row.advice, [])):
            by_advice[row.advice].append(row.name)
    for advice, names in by_advice.items():
        yield Refusal(", ".join(names), advice)


def compressions() -> Iterator[tuple[str, str]]:
    """What is decompressed as it is read, and what that takes."""
    from xenmig_np.wire.compression import COMPRESSIONS  # noqa: PLC0415

    for row in COMPRESSIONS:
        yield row.name, f"`pip install xenmig-np[{row.extra}]`" if row.extra else "nothing"


def lines() -> Iterator[str]:
    """The document, as ``docs/formats.md`` has it."""
    from xenmig_np.wire.targets import TARGETS  # noqa: PLC0415 - brings numpy

    carriers = list(rows())
    yield from ("# Formats", "", "What `xenmig-np formats` prints.", "")
    yield from ("## Carriers and generations", "")
    yield from _table(
        ("carrier", *GENERATIONS, "written by"),
        ((row.name, *(row.status[generation] for generation in GENERATIONS), row.writer) for row in carriers),
    )
    yield from (
        "",
        "- `converts`: a legacy image of that release; `info`, `dump` and `verify` read it too.",
    )
    streams = ", ".join(f"{name} {what}" for name, what in STREAMS.items())
    yield f"- `verifies`: it is a stream already ({streams}); `verify`, `--against` and `dump` read it."
    yield from ("- `-`: nobody wrote that.", "", "## What a legacy image becomes", "")
    yield from _table(
        ("from", "", "by default", "where `--container` says so"),
        ((row.name, row.title, row.default, ", ".join(row.others)) for row in carriers),
    )
    yield from ("", "An HVM image without a device-model record becomes a libxc stream. Targets:", "")
    yield from _table(
        ("`--target`", "stream", "restored by"),
        ((str(target.name), f"v{target.libxc_version}", target.restored_by) for target in TARGETS),
    )
    yield from ("", "Each may be compressed as a whole, which is read as what is in it:", "")
    yield from _table(("compression", "needs"), compressions())
    yield from ("", "## Read and not converted", "")
    yield from _table(("image", "why"), refusals())
    yield from ("", "## Recognised by name", "")
    yield from _table(("file", "what to do, or why not"), named())


def _table(head: tuple[str, ...], body: Any) -> Iterator[str]:  # noqa: ANN401 - rows of strings
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in body:
        yield f"| {' | '.join(row)} |"


@guarded
def formats(json: JsonOption = False) -> None:
    """List what is read, what it is converted into, and what is refused and why."""
    if json:
        document: dict[str, Any] = {"schema": "xenmig-np/formats", "schema_version": SCHEMA_VERSION}
        document["carriers"] = [row._asdict() for row in rows()]
        document["refused"] = [row._asdict() for row in refusals()]
        document["named"] = [row._asdict() for row in named()]
        terminal.result_json(document)
        return
    for line in lines():
        terminal.result(line)
