"""Folders and files of a batch's output: made, compared, and cleared of what killed runs have left."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from xenmig_np.errors import InputOutputError, OutputExists, XenmigError
from xenmig_np.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

COMPARED: Final = MIB
"""Bytes that are compared at a time."""


def clear(folder: str, marks: Iterable[str], *, below: bool) -> list[str]:
    """Remove the temporary files that carry one of the marks; ``below``: in the folders below too.

    A mark is that of a run, or of an item of it. Returns what was removed; what cannot be, stays.
    """
    ours = re.compile(rf"\.(?:{'|'.join(map(re.escape, marks))})(?:\d+-)?[0-9a-f]{{8}}\.part\Z")
    removed = []
    for at, folders, names in os.walk(folder):
        if not below:
            folders.clear()
        for name in names:
            if name.startswith(".") and ours.search(name):
                with suppress(OSError):
                    os.unlink(os.path.join(at, name))
                    removed.append(os.path.join(at, name))
    return removed


def same_bytes(fd: int, path: str) -> bool:
    """Whether an open file and one with a name hold the same bytes."""
    with writing(path), open(path, "rb", buffering=0) as other:
        at = 0
        while True:
            ours, theirs = os.pread(fd, COMPARED, at), os.pread(other.fileno(), COMPARED, at)
            if ours != theirs or not ours:
                return ours == theirs
            at += len(ours)


def stamp(path: str) -> tuple[int, int] | None:
    """Size and time of modification; None: it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def link(path: str, name: str, mark: str, *, replace: bool) -> None:
    """Give a file a second name. Raises :class:`OutputExists`, and what the system says."""
    try:
        os.link(path, name)
    except FileExistsError as error:
        if os.path.samefile(path, name):
            return
        if not replace:
            raise OutputExists("exists already", path=name, hint="--force replaces it") from error
        temporary = os.path.join(os.path.dirname(name), f".{mark}{os.urandom(4).hex()}.part")
        os.link(path, temporary)
        os.rename(temporary, name)


def make_folders(folder: str, *, sync: bool) -> None:
    """Make a folder and those above it, on the disk if ``sync``. Raises :class:`InputOutputError`."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    make_folders(above, sync=sync)
    with writing(folder):
        try:
            os.mkdir(folder)
        except FileExistsError:  # another worker's
            if not os.path.isdir(folder):
                raise
        if sync:
            sync_folder(above)


def sync_folder(folder: str) -> None:
    """Have the names in a folder on the disk."""
    fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Failures of the system as errors of ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, XenmigError):
            raise
        raise InputOutputError("cannot be written", path=path, cause=error) from error
