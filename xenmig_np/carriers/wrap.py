"""What a converted stream is put into, what stands before it there, and what is lost (containers.md 9.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from xenmig_np.carriers import libvirt, xapi
from xenmig_np.carriers import xl as xl_carrier
from xenmig_np.carriers.libvirt import LibvirtHeader
from xenmig_np.carriers.xapi import StructuredHeader
from xenmig_np.carriers.xend import XendHeader
from xenmig_np.errors import InvalidImage, Note, UsageError
from xenmig_np.options import Container, Format
from xenmig_np.wire import xend
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from xenmig_np.carriers.given import Given
    from xenmig_np.carriers.header import Header
    from xenmig_np.carriers.recognise import Carried
    from xenmig_np.read.reading import Shape
    from xenmig_np.wire.targets import Target

AUTO: Final = {
    "bare": Container.NONE,
    "xl": Container.XL,
    "xend": Container.XL,
    "libvirt": Container.LIBVIRT,
    "xapi": Container.XAPI,
    "xapi2": Container.XAPI,
}
"""The choice where the user makes none, by the carrier of the input."""
CARRIER: Final = {
    Container.XL: "xl",
    Container.LIBVIRT: "libvirt",
    Container.XAPI: "xapi2",
    Container.NONE: "bare",
}
"""What an output is recognised as."""
FORMAT: Final = {
    Container.XL: Format.LIBXL,
    Container.LIBVIRT: Format.LIBXL,
    Container.XAPI: Format.LIBXC,
    Container.NONE: Format.AUTO,
}
"""What it holds; AUTO: a libxl stream, or a libxc one where an HVM image has no device-model record."""
TITLES: Final = {
    Container.XL: "an xl file",
    Container.LIBVIRT: "a libvirt file",
    Container.XAPI: "a structured XenServer image",
    Container.NONE: "a bare stream",
}
RESTORERS: Final = {Container.LIBVIRT: "libvirt 1.3.5 or later", Container.XAPI: "xenopsd 0.9.38 or later"}
"""What it takes beyond a Xen."""
RULE: Final = "containers 9.4"
CONFIG_HINT: Final = "give one with --config FILE"


class Wrapping(NamedTuple):
    """A container for one stream."""

    container: Container
    format: Format
    """Of the stream; AUTO as in :data:`FORMAT`."""
    head: bytes = b""
    """What precedes the stream."""
    notes: tuple[Note, ...] = ()
    """What is not carried over, and what it takes to restore the output."""

    @property
    def carrier(self) -> str:
        """A name of :data:`xenmig_np.carriers.recognise.CARRIERS`, or ``bare``."""
        return CARRIER[self.container]

    @property
    def structured(self) -> bool:
        """Records of XenServer follow the stream, the device model's state is one of them."""
        return self.container is Container.XAPI

    def restored_by(self, target: Target) -> str:
        """What restores it."""
        restorer = RESTORERS.get(self.container)
        return f"{target.restored_by}, with {restorer}" if restorer else target.restored_by


class Wish(NamedTuple):
    """What the user asks for."""

    container: Container = Container.AUTO
    format: Format = Format.AUTO
    config: Given | None = None


def wrap(  # noqa: PLR0913 - what there is, what is wanted, and the name of the input
    carried: Carried, shape: Shape, wish: Wish, target: Target, *, path: str, pages: int
) -> Wrapping:
    """The container of an output.

    ``pages``: how many the guest has, for xend's configuration; 0: not known yet. Raises
    :class:`UsageError` for wishes that contradict each other or lack something, :class:`InvalidImage` for a
    configuration of xend that cannot be read.
    """
    container, format_ = choose(carried.carrier, wish)
    if wish.config:
        wish.config.must_fit(container, TITLES[container])
    old = carried.header
    work = _Work(carried, old, shape, wish.config, target, format_, path, pages)
    head, notes = HEADS[container](work)
    if old and old.config and not _goes_on(old, container, wish.config):
        text = f"not carried: the configuration of {len(old.config):,} bytes ({old.config_kind})"
        notes = [Note(RULE, text, carried.at - old.length), *notes]
    return Wrapping(container, format_, head, tuple(notes))


def choose(carrier: str, wish: Wish) -> tuple[Container, Format]:
    """Container and format for an input in ``carrier``. Raises :class:`UsageError`."""
    container = AUTO[carrier] if wish.container is Container.AUTO else wish.container
    if carrier == "bare" and wish.container is Container.AUTO and wish.config:
        container = Container.XL
    own = FORMAT[container]
    if wish.format is Format.AUTO:
        return container, own
    keeps_header = container is Container.XL and carrier == "xl"  # v2-stream.md 19.11
    if keeps_header or own in {Format.AUTO, wish.format}:
        return container, wish.format
    if wish.container is Container.AUTO and wish.config is None:
        return Container.NONE, wish.format
    raise UsageError(
        f"{TITLES[container]} made of such an input holds a {own} stream",
        found=f"--format {wish.format}",
        hint="leave --format away",
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """All that a head is made of."""

    carried: Carried
    old: Header | None
    shape: Shape
    config: Given | None
    target: Target
    format: Format
    path: str
    pages: int

    def lacks(self, container: Container, what: str) -> NoReturn:
        """Refuse: nothing says what the configuration is to be."""
        raise UsageError(f"{TITLES[container]} needs {what}", path=self.path, hint=CONFIG_HINT)

    def contradiction(self, guest: Guest | None) -> list[Note]:
        """What is worth telling of a configuration of the user's for such a guest."""
        if guest in {None, self.shape.guest}:
            return []
        kinds = {Guest.PV: "a PV", Guest.HVM: "an HVM"}
        text = f"--config is for {kinds[guest]} guest, the image of the other kind" if guest else ""
        return [Note("containers 3.5", text)]


def _goes_on(old: Header, container: Container, config: Given | None) -> bool:
    """Whether the configuration of the input, or its translation, is in the output."""
    translated = isinstance(old, XendHeader) and container is Container.XL
    kept = CARRIER[container] == {"text": "xl", "json": "xl", "xml": "libvirt", "xenops": "xapi2"}.get(
        old.config_kind
    )
    return config is None and (kept or translated)


def _xl(work: _Work) -> tuple[bytes, list[Note]]:
    """v2-stream.md 19.11, containers.md 1.3."""
    flag = 0 if work.format is Format.LIBXC else work.target.xl_flag
    header = work.carried.xl or xl_carrier.XlHeader(0, 0, b"")
    notes: list[Note] = []
    if work.config:
        header = header.with_config(work.config.stored, json=work.config.kind == "json")
        notes = work.contradiction(header.guest)
        if not work.config.has_name:
            notes.append(Note("containers 1.3", "--config names no guest: xl restore refuses it"))
    elif isinstance(work.old, XendHeader):
        text, notes = _translated(work, work.old)
        header = header.with_config(text)
    elif work.old is None:
        header = header.with_config(b"")
        notes = [Note(RULE, "without a configuration xl takes it as xl restore CONFIG FILE alone")]
    elif not work.carried.xl:
        work.lacks(Container.XL, "a configuration of xl, which the input has not")
    return header.with_flag(flag), notes


def _translated(work: _Work, old: XendHeader) -> tuple[bytes, list[Note]]:
    """The configuration of xend, for xl (containers.md 9.5)."""
    from xenmig_np.carriers.config.sxp import parse  # noqa: PLC0415 - for xend alone, not small
    from xenmig_np.carriers.config.translate import translate  # noqa: PLC0415

    try:
        expression = parse(old.config, path=work.path, offset=old.at + xend.HEADER.itemsize)
        made = translate(expression, pages=work.pages)
    except InvalidImage as error:
        error.hint = "give one for xl with --config FILE, or go without: --container none"
        raise
    return made.text, [note for note in made.notes if note not in work.carried.notes]


def _libvirt(work: _Work) -> tuple[bytes, list[Note]]:
    """containers.md 3.1, 3.2."""
    old = work.old if isinstance(work.old, LibvirtHeader) else None
    if work.config:
        made = libvirt.made(work.config.data)
        header = replace(old, version=made.version, config=made.config) if old else made
        return header.to_bytes(), work.contradiction(header.guest)
    if old is None:
        work.lacks(Container.LIBVIRT, "the domain XML of the guest")
    return old.for_v2().to_bytes(), []


def _xapi(work: _Work) -> tuple[bytes, list[Note]]:
    """containers.md 4.2."""
    if isinstance(work.old, StructuredHeader):
        return work.old.for_v2(), []
    if work.carried.carrier == "xapi":
        return xapi.start(work.shape.width), []
    text = "XenServer restores it with a matching VM record alone: no configuration is in the image"
    return xapi.start(work.shape.width), [Note(RULE, text)]


HEADS: Final[dict[Container, Callable[[_Work], tuple[bytes, list[Note]]]]] = {
    Container.XL: _xl,
    Container.LIBVIRT: _libvirt,
    Container.XAPI: _xapi,
    Container.NONE: lambda _: (b"", []),
}
