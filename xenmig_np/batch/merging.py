"""Manifests of shards and workers as one."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import ExitStack
from itertools import islice
from typing import IO, TYPE_CHECKING, NamedTuple

from xenmig_np.batch.manifest import located, result_of
from xenmig_np.errors import InputOutputError, UsageError
from xenmig_np.io.files import Output
from xenmig_np.io.sink import write_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xenmig_np.batch.result import Result

GATHERED = 1000
"""Lines of one write."""


class Place(NamedTuple):
    """Where a result stands; the greatest one is the last of its image."""

    attempt: int
    ended: float
    number: int
    """Of the manifest."""
    offset: int


def final(manifests: Iterable[str]) -> Iterator[Result]:
    """One result for each image, the last one, in the order of their names.

    Of each image its place is remembered, not what stands there. Raises as
    :func:`xenmig_np.batch.manifest.lines`.
    """
    paths = list(manifests)
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(path)) for path in paths]
        last: dict[str, Place] = {}
        for number, (file, path) in enumerate(zip(files, paths, strict=True)):
            for offset, result in _results(file, path):
                place = Place(result.attempt, result.ended, number, offset)
                last[result.input] = max(place, last.get(result.input, place))
        for name in sorted(last):
            place = last[name]
            file, path = files[place.number], paths[place.number]
            file.seek(place.offset)
            yield next(_results(file, path))[1]


def _results(file: IO[bytes], path: str) -> Iterator[tuple[int, Result]]:
    """(offset, result) of each from where the file stands on."""
    try:
        for offset, line in located(file, path):
            if line.get("event") == "image":
                yield offset, result_of(line, path, f"line at {offset:#x}")
    except OSError as error:
        raise InputOutputError("cannot be read", path=path, cause=error) from error


def _opened(path: str) -> IO[bytes]:
    """A manifest; of one from a pipe a copy, as it is read twice."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - whoever calls closes it
        if file.seekable():
            return file
        with file:
            copy = tempfile.TemporaryFile()  # noqa: SIM115 - as above
            shutil.copyfileobj(file, copy)
    except OSError as error:
        raise InputOutputError("cannot be read", path=path, cause=error) from error
    copy.seek(0)
    return copy


def merge(manifests: Iterable[str], merged: str, *, force: bool = False) -> int:
    """Write the final results of some manifests into one; returns how many they are.

    Raises as :func:`final`, and :class:`OutputExists`, :class:`InputOutputError`.
    """
    names = list(manifests)
    if not names:
        raise UsageError("no manifest to merge")
    found = final(names)
    count = 0
    with Output(merged, None, force=force) as out:
        while some := list(islice(found, GATHERED)):
            count += len(some)
            text = "".join(json.dumps(one.to_dict(), separators=(",", ":")) + "\n" for one in some)
            write_all(out.fd, out.path, [text.encode()])
        out.commit(sync=True)
    return count
