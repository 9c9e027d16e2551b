"""Outputs that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Self

from xenmig_np.errors import InputOutputError, OutputExists, Refused
from xenmig_np.io.source import FileSource, as_descriptor

if TYPE_CHECKING:
    from types import TracebackType

    from xenmig_np.io.source import Source

_STANDARD = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}
_NAME_MAX = 255


def _umask() -> int:
    with contextlib.suppress(OSError):  # where /proc is not mounted
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class Output:
    """A named output, made beside its target and renamed; or a stream that is written to as it is.

    Use as a context manager; without :meth:`commit` nothing is left behind. Raises on entering
    :class:`OutputExists`, :class:`Refused`, :class:`InputOutputError`. ``mark`` stands in the name of the
    temporary file, so that what a killed process leaves can be told from what others are at.
    """

    def __init__(
        self, path: str | int, source: Source | None, *, force: bool = False, mark: str = ""
    ) -> None:
        self.path = path if isinstance(path, str) else f"descriptor {path}"
        self.fd = -1
        self.is_stream = True
        """It cannot be taken back or read again: a pipe, a device, a descriptor."""
        self._source = source
        self._force = force
        self._mark = mark
        self._target = ""
        self._temporary = ""
        self._replaces: os.stat_result | None = None
        self._descriptor = path if isinstance(path, int) else as_descriptor(path, _STANDARD)
        if self._descriptor is not None:
            if self.path == "-":
                self.path = "standard output"
            try:
                self._accept(os.fstat(self._descriptor))
                terminal = os.isatty(self._descriptor)
            except OSError as error:
                raise InputOutputError("cannot be written", path=self.path, cause=error) from error
            if terminal:
                raise Refused("is a terminal", path=self.path, hint="redirect it, or name a file")
        else:
            self._look()

    def _look(self) -> None:
        """Decide by what is there now; nothing is opened or made."""
        try:
            self._replaces = os.stat(self.path)
        except FileNotFoundError as error:
            if not os.path.basename(self.path):  # "", or "new/" where there is no such folder
                raise InputOutputError("cannot be written", path=self.path, cause=error) from error
            self.is_stream = False
        except OSError as error:
            raise InputOutputError("cannot be written", path=self.path, cause=error) from error
        else:
            self.is_stream = not stat.S_ISREG(self._replaces.st_mode)
            self._accept(self._replaces)
            if not self.is_stream and not self._force:
                raise OutputExists("exists already", path=self.path, hint="--force replaces it")
        self._target = os.path.realpath(self.path)

    def _accept(self, found: os.stat_result) -> None:
        if stat.S_ISDIR(found.st_mode):
            raise Refused("is a folder", path=self.path, hint="name the file to write")
        fds = self._source.fds if self._source else ()
        same = any(os.path.samestat(found, os.fstat(fd)) for fd in fds)
        if same and (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
            raise Refused("is the input itself", path=self.path, hint="write to another name")

    def __enter__(self) -> Self:
        try:
            self.fd = self._open()
        except OSError as error:
            raise InputOutputError("cannot be written", path=self.path, cause=error) from error
        except BaseException:  # a signal: __exit__ is not called then
            self.discard()
            raise
        return self

    def _open(self) -> int:
        if self._descriptor is not None:
            return os.dup(self._descriptor)
        if self.is_stream:
            return os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        folder, name = os.path.split(self._target)
        tail = f".{self._mark}{os.urandom(4).hex()}.part"
        room = _NAME_MAX - len(tail) - 1
        short = os.fsdecode(os.fsencode(name)[:room])
        self._temporary = os.path.join(folder, f".{short}{tail}")
        return os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def needs(self, size: int) -> None:
        """Refuse if ``size`` bytes do not fit. Nothing is known of streams other than block devices."""
        if not self.is_stream:
            folder = os.path.dirname(self._target)
            try:
                free = os.statvfs(folder)
            except OSError as error:
                raise InputOutputError("cannot be written", path=self.path, cause=error) from error
            self._fits(size, free.f_bavail * free.f_frsize, f"{folder} has")
        elif self._replaces and stat.S_ISBLK(self._replaces.st_mode):
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._fits(size, os.lseek(fd, 0, os.SEEK_END), "it has")
            finally:
                os.close(fd)

    def _fits(self, size: int, free: int, whose: str) -> None:
        if size > free:
            raise Refused(
                f"needs {size:,} bytes, {whose} {free:,} free", path=self.path, hint="write to another place"
            )

    def reread(self) -> FileSource:
        """What has been written so far, as an input."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        return FileSource(self.fd, self.path, owned=False)

    def commit(self, *, sync: bool) -> None:
        """Give the file its mode, sync it, rename it, sync the folder."""
        if self.is_stream:
            return
        try:
            self._own()
            if sync:
                os.fsync(self.fd)
            fd, self.fd = self.fd, -1
            os.close(fd)  # on some file systems this is where a failed write is told
            self._rename()
            if sync:
                folder = os.open(os.path.dirname(self._target), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            if isinstance(error, OutputExists):
                raise
            raise InputOutputError("cannot be finished", path=self.path, cause=error) from error

    def _own(self) -> None:
        """The mode that ``cp`` would give: of the file that is replaced, else of the input less the umask."""
        if self._replaces:
            with contextlib.suppress(PermissionError):
                os.fchown(self.fd, self._replaces.st_uid, self._replaces.st_gid)
            mode = stat.S_IMODE(self._replaces.st_mode)
        else:
            input_mode = os.fstat(self._source.fd).st_mode if self._source else stat.S_IFIFO
            mode = (input_mode & 0o777 if stat.S_ISREG(input_mode) else 0o666) & ~_umask()
        os.fchmod(self.fd, mode)

    def _rename(self) -> None:
        if not self._force:
            try:
                os.link(self._temporary, self._target)  # unlike rename, does not replace what came meanwhile
            except FileExistsError as error:
                raise OutputExists("has come into being meanwhile", path=self.path) from error
            except OSError:
                pass  # no hard links here: rename
            else:
                os.unlink(self._temporary)
                self._temporary = ""
                return
        os.rename(self._temporary, self._target)
        self._temporary = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def discard(self) -> None:
        """Close it; what was not committed is gone."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = -1
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = ""
