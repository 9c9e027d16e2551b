"""A configuration that the user gives: read, and held against the container that it is for."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xenmig_np import limits
from xenmig_np.carriers.config import xlcfg
from xenmig_np.errors import UsageError
from xenmig_np.io.source import open_source
from xenmig_np.options import Container

if TYPE_CHECKING:
    from typing import Never

GIVEN_MAX: Final = limits.CONFIG_MAX - 8
"""Bytes; with its length and its NUL it is still one that is read again."""
BEGINNINGS: Final = {b"{": "json", b"<": "xml", b"(": "sxp"}
KINDS: Final = {
    "text": "a configuration of xl",
    "json": "a configuration of xl in JSON",
    "xml": "a domain XML of libvirt",
    "sxp": "an s-expression of xend",
}
"""What a configuration can be, in words."""
FITS: Final = {Container.XL: ("text", "json"), Container.LIBVIRT: ("xml",)}
"""Containers with a place for a configuration, and the kinds that go there."""
DOMAIN: Final = re.compile(rb"<domain[\s>/]")


@dataclass(frozen=True, slots=True)
class Given:
    """A configuration, without a NUL behind it."""

    kind: str
    """A key of :data:`KINDS`."""
    data: bytes
    path: str | None = None

    @property
    def stored(self) -> bytes:
        """As carriers hold it: text alone has no NUL behind it."""
        return self.data if self.kind == "text" else self.data + b"\0"

    @property
    def has_name(self) -> bool:
        """Whether it names the guest; known of text."""
        return self.kind != "text" or any(key == "name" for key, _ in xlcfg.read(self.data))

    def must_fit(self, container: Container, title: str) -> None:
        """Raise :class:`UsageError` unless it is for such a container, which ``title`` describes."""
        fitting = next((name for name, kinds in FITS.items() if self.kind in kinds), None)
        if fitting is container:
            return
        if container not in FITS:
            expected = "none: there is no place for one"
        else:
            expected = " or ".join(KINDS[kind] for kind in FITS[container])
        raise UsageError(
            f"--config for {title}",
            path=self.path,
            found=KINDS[self.kind],
            expected=expected,
            hint=f"it goes with --container {fitting}" if fitting else None,
        )


def given(config: str | os.PathLike[str] | bytes) -> Given:
    """Read a configuration from a file, or take it as it is.

    Raises :class:`UsageError` for what is no configuration, and :class:`InputOutputError`.
    """
    path = None if isinstance(config, bytes) else os.fsdecode(config)
    data = config if isinstance(config, bytes) else _read(os.fsdecode(config))

    def wrong(found: str, expected: str = "a configuration") -> Never:
        raise UsageError("--config", path=path, found=found, expected=expected)

    if len(data) > GIVEN_MAX:
        wrong("more bytes", f"at most {GIVEN_MAX:,}")
    begin = data.lstrip()
    kind = BEGINNINGS.get(begin[:1], "text")
    if kind != "text":
        data = data.rstrip(b"\0")
    if not begin.strip(b"\0"):
        wrong("nothing in it")
    if b"\0" in data:
        wrong(f"a byte 0 at {data.index(0):#x}")
    if lacks := LACKS[kind](data):
        wrong(lacks, KINDS[kind])
    return Given(kind, data, path)


def _read(path: str) -> bytes:
    with open_source(path) as source:
        source.release()
        data, at = bytearray(), source.start
        piece = memoryview(bytearray(limits.MIB))
        while len(data) <= GIVEN_MAX and (got := source.read_at(at, piece)):
            data += piece[:got]
            at += got
    return bytes(data)


def _no_text(data: bytes) -> str | None:
    """What makes it none that xl reads, None: nothing that is looked for."""
    if any(kind == "broken" for kind, _, _ in xlcfg.tokens(data)):
        return "a string without its closing quote"
    return None if next(xlcfg.read(data), None) else "no setting"


def _no_json(data: bytes) -> str | None:
    try:
        found = json.loads(data)
    except RecursionError:
        return "lists within lists, too deep"
    except ValueError as error:  # bytes that are no UTF-8 as well
        return f"no JSON: {error}"
    return None if isinstance(found, dict) else "no object"


def _no_xml(data: bytes) -> str | None:
    return None if DOMAIN.search(data) else "no <domain"


LACKS: Final[dict[str, Callable[[bytes], str | None]]] = {
    "text": _no_text,
    "json": _no_json,
    "xml": _no_xml,
    "sxp": lambda _: None,
}
