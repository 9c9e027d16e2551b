"""What a person or a script reads: results on stdout, everything else on stderr, nothing raw on either."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenmig_np.errors import Note, XenmigError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def clean(text: str) -> str:
    """Text without what could steer a terminal: control characters and undecodable bytes as escapes."""
    return _CONTROL.sub(lambda found: _escaped(found[0]), text)


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte of a name that is no UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()


def say(text: str) -> None:
    """One line for the person; a stderr that takes none changes nothing of the work."""
    with contextlib.suppress(OSError):
        _write(sys.stderr, clean(text))


def result(text: str) -> None:
    """One line of the result."""
    _write(sys.stdout, clean(text))


def _write(stream: Any, line: str) -> None:  # noqa: ANN401 - a text stream, or None where it was closed
    if stream is not None:
        encoding = stream.encoding or "ascii"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


def result_json(document: dict[str, Any]) -> None:
    """One JSON document; names that are no UTF-8 survive as escaped surrogates."""
    import json  # noqa: PLC0415 - wanted by few runs

    _write(sys.stdout, json.dumps(document, indent=2))


def error(failure: XenmigError) -> None:
    """What went wrong, and what to do."""
    say(f"error: {failure}")
    if failure.hint:
        say(f"hint: {failure.hint}")


def error_json(failure: XenmigError) -> None:
    """The same for a script."""
    result_json({"schema": "xenmig-np/error", "schema_version": 1, "error": failure.to_dict()})


def warnings(path: str, notes: Iterable[Note]) -> None:
    """One line for each note."""
    for note in notes:
        place = f"at {note.offset:#x}: " if note.offset is not None else ""
        say(f"warning: {path}: {place}{note.text} [{note.rule}]")


def size(count: int) -> str:
    """``71.9 MiB``."""
    value, unit = float(count), "bytes"
    for larger in _UNITS:
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count:,} bytes" if unit == "bytes" else f"{value:,.1f} {unit}"


def plural(count: int, word: str, many: str | None = None) -> str:
    """``1 page``, ``2 pages``, ``2 entries``."""
    return f"{count:,} {word if count == 1 else many or word + 's'}"
