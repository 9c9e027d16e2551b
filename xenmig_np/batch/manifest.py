"""The manifest: JSON lines, one for each image as it ends, and two for each run.

A line is appended by one write and is on the disk before the next image is told done. What a killed run left
of a line is taken away. The lock is the kernel's: it goes with the last process of a run, workers included,
so that nobody who could still write is there when the next run begins.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import IO, TYPE_CHECKING, Any, Final, Self

from xenmig_np.batch.places import sync_folder
from xenmig_np.batch.result import SCHEMA, SCHEMA_VERSION, Result
from xenmig_np.errors import InputOutputError, InvalidImage, NotSupported, OutputExists, Refused
from xenmig_np.limits import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

BEGIN: Final = f'{{"schema":"{SCHEMA}"'.encode()
"""How every line begins, but for spaces."""
LINE_MAX: Final = 16 * MIB
"""Bytes of a line: the warnings of an image are some, not millions."""
WAIT: Final = 5.0
"""Seconds that a run waits for the processes of one that was killed."""


class InvalidManifest(InvalidImage):
    """A line that is none, elsewhere than at the end."""


class Manifest:
    """A manifest that a run has for itself. Use as a context manager.

    ``resume``: one that has entries is gone on with. Raises :class:`OutputExists`, :class:`Refused` where
    another run has it, :class:`InvalidManifest` for another file, :class:`InputOutputError`.
    """

    def __init__(self, path: str, *, resume: bool, sync: bool, wait: float = WAIT) -> None:
        self.path = path
        self._sync = sync
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self.fd = os.open(path, flags, 0o666)
        except OSError as error:
            raise InputOutputError("cannot be written", path=path, cause=error) from error
        try:
            self._lock(wait)
            self._size = self._repaired()
            self._accept(resume=resume)
            if sync and not self._size:
                sync_folder(os.path.dirname(path))
        except BaseException:
            self.close()
            raise

    def _lock(self, wait: float) -> None:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Refused(
                        "another run has this manifest", path=self.path, hint="wait for its end"
                    ) from None
                time.sleep(0.05)
            except OSError as error:
                raise InputOutputError("cannot be locked", path=self.path, cause=error) from error
            else:
                return

    def _accept(self, *, resume: bool) -> None:
        if self._size and not resume:
            hint = "--resume goes on; --manifest names another"
            raise OutputExists("a manifest is there already", path=self.path, hint=hint)

    def _repaired(self) -> int:
        """Take away what stands behind the last whole line; returns the size.

        Of a file that does not begin like a manifest nothing is taken: it is somebody's.
        """
        size = os.fstat(self.fd).st_size
        begin = os.pread(self.fd, 2 * len(BEGIN), 0).replace(b" ", b"")[: len(BEGIN)]
        if not BEGIN.startswith(begin):
            raise InvalidManifest(
                path=self.path, offset=0, found=ascii(begin.decode("latin-1")), expected=SCHEMA
            )
        kept = size
        while kept:
            piece = max(kept - 64 * KIB, 0)
            at = os.pread(self.fd, kept - piece, piece).rfind(b"\n")
            kept = piece + at + 1
            if at >= 0:
                break
        if kept < size:
            os.ftruncate(self.fd, kept)
        return kept

    def append(self, line: dict[str, Any]) -> None:
        """Add a line, on the disk when this returns, or nothing. Raises :class:`InputOutputError`."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            done = os.write(self.fd, data)
            while done < len(data):  # a disk that is nearly full takes a part, and then says why
                done += os.write(self.fd, data[done:])
            if self._sync:
                os.fdatasync(self.fd)
        except OSError as error:
            os.ftruncate(self.fd, self._size)
            raise InputOutputError("writing failed", path=self.path, cause=error) from error
        self._size += len(data)

    def lines(self) -> Iterator[dict[str, Any]]:
        """All lines in order. Raises as :func:`lines`."""
        return lines(self.path)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lines(path: str) -> Iterator[dict[str, Any]]:
    """The lines of a manifest in order; a torn last one is left out.

    Raises :class:`InvalidManifest`, :class:`NotSupported` for one of a later version,
    :class:`InputOutputError`.
    """
    try:
        with open(path, "rb") as file:
            for _, line in located(file, path):
                yield line
    except OSError as error:
        raise InputOutputError("cannot be read", path=path, cause=error) from error


def located(file: IO[bytes], path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset, line) of each from where the file stands on. Raises as :func:`lines`, and OSError."""
    at = file.tell()
    while (data := file.readline(LINE_MAX)).endswith(b"\n"):
        yield at, _parsed(data, path, at)
        at += len(data)
    if len(data) == LINE_MAX:
        raise InvalidManifest(path=path, offset=at, item="line", found=f"more than {LINE_MAX:,} bytes")


def _parsed(data: bytes, path: str, at: int) -> dict[str, Any]:
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict) or line.get("schema") != SCHEMA:
        raise InvalidManifest(
            path=path,
            offset=at,
            item="line",
            found=ascii(data[:60].decode("utf-8", "replace")),
            expected=SCHEMA,
        )
    version = line.get("schema_version")
    if version != SCHEMA_VERSION:
        raise NotSupported(
            f"manifest version {version}", path=path, offset=at, hint="a later release wrote it"
        )
    return line


def results(path: str) -> Iterator[Result]:
    """The results in a manifest in order: of an image that was tried again, each. Raises as :func:`lines`."""
    for number, line in enumerate(lines(path), 1):
        if line.get("event") == "image":
            yield result_of(line, path, f"line {number}")


def result_of(line: dict[str, Any], path: str, item: str) -> Result:
    """The result that a line of an image holds. Raises :class:`InvalidManifest`."""
    try:
        return Result.from_dict(line)
    except TypeError as error:
        raise InvalidManifest(path=path, item=item, found=str(error)) from error


def run_line(run: str, out: str, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - plain values
    """The line with which a run begins."""
    return _line("run", run=run, out=out, **facts)


def end_line(run: str, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - plain values
    """The line with which a run ends that was not killed."""
    return _line("end", run=run, **facts)


def _line(event: str, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - plain values
    return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "event": event, **facts}
