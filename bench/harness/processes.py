"""Whole processes by the kernel's account: pipelines of commands, waited for with ``wait4``.

The peak memory that the kernel tells of a child counts that of the process it was started from. So this one
stays small while it measures: no numpy, no matplotlib. What is below its own size cannot be told.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

_INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment; compiled modules are kept, as they are where a program was installed."""


class Failed(Exception):
    """A command ended with another exit code than 0; the text says which."""


@dataclass(frozen=True)
class Usage:
    """What some work took."""

    seconds: float
    """From the start of the first process to the end of the last."""
    user: float
    """Seconds of processor time."""
    system: float
    peak: int
    """Bytes of resident memory."""

    def after(self, before: Usage) -> Usage:
        """Of both, one behind the other."""
        return Usage(
            before.seconds + self.seconds,
            before.user + self.user,
            before.system + self.system,
            max(before.peak, self.peak),
        )

    def beyond(self, less: Usage) -> Usage:
        """What this took more; the peak stays."""
        return Usage(self.seconds - less.seconds, self.user - less.user, self.system - less.system, self.peak)

    def shared(self, parts: float) -> Usage:
        """Of one of so many equal parts; the peak stays."""
        return Usage(self.seconds / parts, self.user / parts, self.system / parts, self.peak)


@dataclass(frozen=True)
class Command:
    """A command line, and what its environment has beside that of the harness."""

    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pipeline:
    """Commands joined by pipes; the first reads and the last writes /dev/null, if they do at all."""

    commands: tuple[Command, ...]
    measured: int = 0
    """The command whose processor time and memory count. Wall-clock time is that of all."""


def run(line: Pipeline) -> Usage:
    """Run a pipeline to its end. Raises :class:`Failed`."""
    began = time.perf_counter()
    children = []
    upstream = os.open(os.devnull, os.O_RDONLY)
    for left, command in enumerate(line.commands, 1 - len(line.commands)):
        downstream, into = os.pipe() if left else (-1, os.open(os.devnull, os.O_WRONLY))
        children.append(_start(command, upstream, into))
        os.close(upstream)
        os.close(into)
        upstream = downstream
    ended = [os.wait4(child, 0) for child in children]
    seconds = time.perf_counter() - began
    codes = [os.waitstatus_to_exitcode(status) for _, status, _ in ended]
    if any(codes):
        told = zip(line.commands, codes, strict=True)
        raise Failed("; ".join(f"{' '.join(one.words)}: exit code {code}" for one, code in told if code))
    usage = ended[line.measured][2]
    return Usage(seconds, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)


def _start(command: Command, stdin: int, stdout: int) -> int:
    """The process id. SIGPIPE ends the child, as in a shell: Python ignores it, and that is passed on."""
    return os.posix_spawnp(
        command.words[0],
        command.words,
        _INSTALLED | dict(command.environment),
        file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)],
        setsigdef=[signal.SIGPIPE],
    )
