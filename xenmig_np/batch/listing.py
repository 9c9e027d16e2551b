"""Which files a batch is about, and what each result is called."""

from __future__ import annotations

import glob
import os
import string
import sys
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from xenmig_np.errors import InputOutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FIELDS: Final = ("name", "stem", "target")
"""What a template can name: the file's name less the suffix of its compression, that less its last suffix,
and the target of the conversion."""
TEMPLATE: Final = "{name}"


class Found(NamedTuple):
    """A file that may be an image."""

    path: str
    """Absolute."""
    relative: str
    """The folders below the output folder, and the name."""


def find_files(sources: Iterable[str], listed: Iterable[str] = (), *, but: str = "") -> Iterator[Found]:
    """All files, each once, in the order of the sources and by name in each.

    A source is a file, a folder with all below it, or a pattern; of what is ``listed`` relative names keep
    their folders, absolute ones all of them. Nothing below the folder ``but`` is found. Raises
    :class:`InputOutputError` for a source that is not there, :class:`UsageError` for one below ``but``.
    """
    but = os.path.realpath(but) if but else ""
    seen: set[str] = set()
    for found in _all(sources, listed, but):
        if found.path not in seen:
            seen.add(found.path)
            yield found


def _all(sources: Iterable[str], listed: Iterable[str], but: str) -> Iterator[Found]:
    for source in sources:
        if os.path.lexists(source) or not glob.has_magic(source):
            _keep_apart(source, but)
            yield from _below(source, "", but)
        else:
            yield from _matching(source, but)
    for name in listed:
        _keep_apart(name, but)
        plain = os.path.normpath(name).lstrip("/")
        while plain.startswith("../"):
            plain = plain[3:]
        yield Found(os.path.abspath(name), plain)


def _matching(pattern: str, but: str) -> Iterator[Found]:
    """Folders from the first one on that the pattern leaves open are kept."""
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    base = "/".join(parts[:fixed]) or ("/" if pattern.startswith("/") else ".")
    matches = sorted(glob.iglob(pattern, recursive=True))
    if not matches:
        raise InputOutputError("no file has such a name", path=pattern)
    for match in matches:
        if _within(os.path.realpath(match), but):
            continue
        if not os.path.isdir(match):
            yield Found(os.path.abspath(match), os.path.relpath(match, base))
        elif "**" not in parts:
            yield from _below(match, os.path.relpath(match, base), but)


def _below(source: str, prefix: str, but: str) -> Iterator[Found]:
    """A file, or all regular files below a folder; links to folders are not followed."""
    try:
        os.stat(source)
    except OSError as error:
        raise InputOutputError("cannot be opened", path=source, cause=error) from error
    if not os.path.isdir(source):
        yield Found(os.path.abspath(source), os.path.join(prefix, os.path.basename(source)))
        return
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(source, onerror=unreadable.append):
        if _within(os.path.realpath(folder), but):
            folders.clear()
            continue
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield _found(path, source, prefix)
    for failure in unreadable:  # to fail in its turn, like a file that cannot be read
        yield _found(os.fsdecode(failure.filename), source, prefix)


def _found(path: str, source: str, prefix: str) -> Found:
    return Found(os.path.abspath(path), os.path.join(prefix, os.path.relpath(path, source)))


def _within(path: str, folder: str) -> bool:
    return bool(folder) and (path == folder or path.startswith(folder.rstrip("/") + "/"))


def _keep_apart(source: str, out: str) -> None:
    if _within(os.path.realpath(source), out):
        raise UsageError("it lies in the folder of the results", path=source, hint="name another --out")


def read_list(path: str, *, nul: bool) -> list[str]:
    """The names in a list, one a line or behind each a NUL; ``-`` is standard input."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise InputOutputError("cannot be read", path=path, cause=error) from error
    return [os.fsdecode(name) for name in data.split(b"\0" if nul else b"\n") if name]


def check_template(template: str) -> None:
    """Raise :class:`UsageError` unless it is one that gives names below the output folder."""
    try:
        named = {name for _, name, spec, how in string.Formatter().parse(template) if name is not None}
        wrong = named - set(FIELDS)
    except ValueError as error:
        raise UsageError("template", found=repr(template), expected=str(error)) from error
    parts = template.split("/")
    if wrong or not named & {"name", "stem"} or template.startswith("/") or {"..", ".", ""} & set(parts):
        raise UsageError(
            "template",
            found=repr(template),
            expected="a relative name with {name} or {stem}, and {target} if wanted",
        )


def output_name(found: Found, template: str, target: str) -> str:
    """The name of a result below the output folder."""
    folder, name = os.path.split(found.relative)
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in SUFFIXES:
        name = stem
    stem = os.path.splitext(name)[0]
    return os.path.join(folder, template.format(name=name, stem=stem, target=target))


SUFFIXES: Final = frozenset({".gz", ".bz2", ".xz", ".lzma", ".lz4", ".zst"})
"""Of compressed files, whose results are not."""


def shard_of(name: str, count: int) -> int:
    """Which of ``count`` shards, from 1 on, a result belongs to: the same on every machine."""
    return zlib.crc32(os.fsencode(name)) % count + 1


def clashes(names: Sequence[str]) -> dict[str, list[int]]:
    """Names that more than one file would get, and names that are folders of others: places in ``names``."""
    by_name: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        by_name.setdefault(name, []).append(place)
    found = {name: places for name, places in by_name.items() if len(places) > 1}
    for place, name in enumerate(names):
        above = os.path.dirname(name)
        while above:
            if above in by_name:
                found.setdefault(above, list(by_name[above])).append(place)
            above = os.path.dirname(above)
    return found
