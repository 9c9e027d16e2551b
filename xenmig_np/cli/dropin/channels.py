"""Where the words of a drop-in go (reference-tools.md 6): stdout, stderr, syslog, if they are there."""

from __future__ import annotations

import os
import sys
import syslog
import traceback
from typing import TYPE_CHECKING, Final

from xenmig_np.cli import terminal
from xenmig_np.errors import InvalidImage, NotSupported, XenmigError

if TYPE_CHECKING:
    from collections.abc import Callable

DEBUG: Final = "XENMIG_NP_DEBUG"
"""Environment variable: not empty prints the traceback of any error."""


def is_stdout(place: str | int) -> bool:
    """Whether a descriptor or file is what stdout writes to."""
    try:
        return os.path.samestat(os.stat(place), os.fstat(1))
    except OSError:  # one of them is not there
        return False


class Channels:
    """Tells what happens; text that finds no taker is lost, and stops nothing.

    Info goes to stdout, or to stderr where ``stdout_taken`` says that a stream goes out there, or to syslog;
    warnings and errors go to stderr, and to syslog as well.
    """

    def __init__(self, name: str, *, to_syslog: bool, stdout_taken: bool = False) -> None:
        self._to_syslog = to_syslog
        self._info = terminal.say if stdout_taken else terminal.result
        if to_syslog:
            syslog.openlog(name, syslog.LOG_PID)

    def info(self, text: str) -> None:
        """One line for who asked to be told more."""
        if self._to_syslog:
            self._log(syslog.LOG_INFO, text)
        else:
            _put(self._info, text)

    def warning(self, text: str) -> None:
        """One line on what is odd, but stops nothing."""
        text = f"Warning: {text}"
        _put(terminal.say, text)
        self._log(syslog.LOG_WARNING, text)

    def error(self, text: str) -> None:
        """One line on why it ends."""
        _put(terminal.say, text)
        self._log(syslog.LOG_ERR, text)

    def failed(self, failure: BaseException) -> None:
        """Report an error: its kind, if it is one of the stream, then one line with message and offset."""
        match failure:
            case NotSupported():
                self.error("Script Error:")
            case XenmigError() if not isinstance(failure, InvalidImage):
                pass  # of the command line, of the operating system
            case Exception():
                self.error("Stream Error:")
        match failure:
            case XenmigError():
                self.error(str(failure))
            case KeyboardInterrupt():
                self.error("interrupted")
            case _:
                self.error(f"{type(failure).__name__}: {failure}".rstrip(": "))
        if os.environ.get(DEBUG):
            for line in "".join(traceback.format_exception(failure)).splitlines():
                self.error(line)

    def _log(self, priority: int, text: str) -> None:
        if self._to_syslog:
            syslog.syslog(priority, terminal.clean(text))


class Silence(Channels):
    """Tells nobody anything."""

    def __init__(self) -> None:
        super().__init__("", to_syslog=False)

    def info(self, text: str) -> None:
        pass

    def warning(self, text: str) -> None:
        pass

    def error(self, text: str) -> None:
        pass


def _put(write: Callable[[str], None], text: str) -> None:
    """Write a line; a stream that takes none is taken for closed, as Python itself does from its start."""
    try:
        write(text)
    except OSError:
        if write is terminal.result:
            sys.stdout = None
        else:
            sys.stderr = None
