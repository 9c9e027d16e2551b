"""Another head before the same bytes: a configuration replaced, a wrong label mended (containers.md 1, 3)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from xenmig_np.carriers.given import KINDS, given
from xenmig_np.carriers.libvirt import LibvirtHeader
from xenmig_np.carriers.recognise import Carried, recognise
from xenmig_np.carriers.wrap import TITLES
from xenmig_np.carriers.xl import XlHeader
from xenmig_np.conversion.run import Place, place
from xenmig_np.errors import InvalidImage, UsageError
from xenmig_np.io.files import Output
from xenmig_np.io.plan import Literal, Range, Segment
from xenmig_np.io.pour import pour
from xenmig_np.io.source import Input, as_descriptor, open_source
from xenmig_np.limits import PIECE
from xenmig_np.options import Container
from xenmig_np.read.image import skip as skip_junk
from xenmig_np.read.records import NumberingName
from xenmig_np.read.v2 import identify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.carriers.given import Given
    from xenmig_np.errors import Note
    from xenmig_np.io.source import Source

SCHEMA_VERSION: Final = 1
STANDARD: Final = {"-": 0, "/dev/stdin": 0}


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """A file with another head than its original."""

    path: str
    output: str
    carrier: str
    stream: str
    """``legacy``, ``libxl`` or ``libxc``: what follows the head, as it was."""
    config_kind: str
    config_bytes: int
    """Of the configuration, a NUL behind it included."""
    bytes: int
    """Of the output."""
    warnings: tuple[Note, ...]
    """What is odd about the original."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"schema": "xenmig-np/rewrapped", "schema_version": SCHEMA_VERSION, **asdict(self)}


def set_config(  # noqa: PLR0913 - each is an option of the command
    source: Input,
    output: Place,
    config: str | os.PathLike[str] | bytes,
    *,
    force: bool = False,
    sync: bool = True,
    skip: int = 0,
) -> Rewrapped:
    """Copy an xl or libvirt file, legacy or v2, with another configuration.

    ``config`` is the name of a file, or what is in one. Raises :class:`UsageError` for carriers without a
    place for one and for a configuration of another kind, and the errors of the readers and of outputs.
    """
    wanted = given(config)
    with open_source(source) as original:
        skip_junk(original, skip)
        out = Output(place(output), original, force=force)
        carried = recognise(original)
        head = _with_config(original, carried, wanted)
        return _copy(original, carried, head, out, sync=sync)


def mend(source: Input, output: Place, *, force: bool = False, sync: bool = True) -> Rewrapped | None:
    """Copy a libvirt file whose head says that a legacy image follows, and a libxl stream does (3.2).

    None: it is no such file, but several, or a pipe, which cannot be looked at beforehand. Raises as
    :func:`set_config`.
    """
    if not _is_file(source):
        return None
    with open_source(source) as original:
        carried = recognise(original)
        header = carried.header
        if not (isinstance(header, LibvirtHeader) and header.mislabelled and carried.stream == "libxl"):
            return None
        return _copy(
            original, carried, header.for_v2(), Output(place(output), original, force=force), sync=sync
        )


def _is_file(source: Input) -> bool:
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return False  # what is in several files is a legacy image of Remus
    if isinstance(source, str) and (number := as_descriptor(source, STANDARD)) is not None:
        source = number
    named = source if isinstance(source, int | str | bytes | os.PathLike) else source.fileno()
    mode = os.stat(named).st_mode
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _with_config(source: Source, carried: Carried, config: Given) -> XlHeader | LibvirtHeader:
    header = carried.header
    if isinstance(header, LibvirtHeader):
        config.must_fit(Container.LIBVIRT, TITLES[Container.LIBVIRT])
        return replace(header, config=config.stored)
    if not isinstance(header, XlHeader):
        raise UsageError(
            "only xl and libvirt files have a place for a configuration",
            path=source.path,
            found=f"carrier {carried.carrier}",
            hint="convert it with --container xl --config FILE",
        )
    config.must_fit(Container.XL, TITLES[Container.XL])
    draft = carried.stream == "libxl" and identify(source, carried.at).numbering is NumberingName.DRAFT_V7
    if draft and config.kind == "json":  # the flag that says so means another thing there
        raise UsageError("a stream of the 2014 draft", path=config.path, found=KINDS["json"], expected="text")
    return header.with_config(config.stored, json=None if draft else config.kind == "json")


def _copy(
    source: Source, carried: Carried, header: XlHeader | LibvirtHeader, out: Output, *, sync: bool
) -> Rewrapped:
    head = header.to_bytes()
    end = source.end
    size = None if end is None else len(head) + end - carried.at
    if size is not None:
        out.needs(size)
    with out:
        poured = pour(source, out, _segments(source, head, carried.at), size=size)
        if size not in {None, poured.bytes}:
            found = f"{poured.bytes:,} bytes of output"
            raise InvalidImage(path=source.path, found=found, expected=f"{size:,}: the input has changed")
        source.finish()
        out.commit(sync=sync)
    return Rewrapped(
        path=source.path,
        output=out.path,
        carrier=carried.carrier,
        stream=carried.stream,
        config_kind=header.config_kind,
        config_bytes=len(header.config),
        bytes=poured.bytes,
        warnings=carried.notes,
    )


def _segments(source: Source, head: bytes, at: int) -> Iterator[Segment]:
    """The head, and all of the input from ``at`` on; of a pipe piece by piece, its end is not known."""
    yield Literal(head)
    if source.end is not None:
        yield Range(at, source.end - at, "what follows the head")
        return
    source.release()
    while piece := _piece(source, at):
        yield Literal(piece)
        at += len(piece)


def _piece(source: Source, at: int) -> bytes:
    piece = bytearray(PIECE)
    return bytes(piece[: source.read_at(at, memoryview(piece))])
