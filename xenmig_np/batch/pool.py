"""The workers of a run, as the run sees them: started, fed, listened to, replaced, ended."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from xenmig_np.batch.item import failed_result
from xenmig_np.batch.places import clear
from xenmig_np.batch.result import Result
from xenmig_np.batch.worker import BOOT, CHANNEL
from xenmig_np.errors import ExitCode, InputOutputError, XenmigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.batch.item import Item
    from xenmig_np.batch.options import BatchOptions

KEPT: Final = 3
"""Descriptor at which a worker holds the lock of the manifest."""
READ: Final = 1 << 16
PATIENCE: Final = 5.0
"""Seconds that workers have to clean up."""
STILLBORN_MAX: Final = 3
"""Workers in a row that may die before they are ready."""


class WorkerDied(XenmigError):
    """A worker's process was ended from outside, or ended itself."""

    exit_code = ExitCode.INTERNAL


@dataclass(frozen=True, slots=True)
class Moved:
    """How far an image is."""

    slot: int
    item: Item
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Ended:
    """An image is through."""

    slot: int
    item: Item
    result: Result


class _Worker:
    """A process and the socket to it."""

    def __init__(self, slot: int, options: BatchOptions, rate: float | None, lock: int) -> None:
        self.slot = slot
        self.item: Item | None = None
        self.ready = False
        self._rest = b""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.pid = _spawn(theirs.fileno(), lock)
            except OSError as error:
                ours.close()
                raise InputOutputError("a worker cannot be started", cause=error) from error
        self.socket = ours
        self.send({"options": options.to_dict(), "rate": rate})

    def send(self, line: dict[str, Any]) -> None:
        with suppress(OSError):  # it has died: reading tells so
            self.socket.sendall(json.dumps(line).encode() + b"\n")

    def received(self) -> list[dict[str, Any]] | None:
        """Lines that have come; None: the process has gone."""
        try:
            data = self.socket.recv(READ)
        except OSError:
            data = b""
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in whole]

    def died(self) -> str:
        """Wait for its end and say how it was."""
        self.socket.close()
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"the worker ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"the worker was ended by {name}"


def _spawn(channel: int, lock: int) -> int:
    """Start a worker; what a terminal sends to all is for the run to heed."""
    actions = [
        (os.POSIX_SPAWN_DUP2, channel, CHANNEL),
        (os.POSIX_SPAWN_DUP2, lock, KEPT),
        (os.POSIX_SPAWN_DUP2, 2, 1),
    ]
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}
    command = [sys.executable, "-c", BOOT, json.dumps(sys.path)]
    return os.posix_spawn(
        sys.executable, command, environment, file_actions=actions, setsigmask=[signal.SIGINT, signal.SIGHUP]
    )


class Pool:
    """Up to ``jobs`` workers. Use as a context manager; on leaving they are ended.

    ``lock`` is a descriptor that workers keep open as long as they live.
    """

    def __init__(self, jobs: int, options: BatchOptions, lock: int) -> None:
        self._jobs = jobs
        self._options = options
        self._lock = lock
        self._workers: dict[int, _Worker] = {}
        self._selector = selectors.DefaultSelector()
        self._stillborn = 0

    @property
    def busy(self) -> int:
        """Images that are being done."""
        return sum(worker.item is not None for worker in self._workers.values())

    @property
    def idle(self) -> bool:
        """Whether there is room for one more."""
        return self.busy < self._jobs

    def give(self, item: Item) -> int:
        """Hand out an item where there is room; returns the slot. Raises :class:`InputOutputError`."""
        slot = next(
            slot for slot in range(self._jobs) if slot not in self._workers or not self._workers[slot].item
        )
        self._hand(slot, item)
        return slot

    def _hand(self, slot: int, item: Item) -> None:
        if slot not in self._workers:
            self._start(slot)
        worker = self._workers[slot]
        worker.item = item
        worker.send(item.to_dict())

    def _start(self, slot: int) -> None:
        rate = self._options.rate and self._options.rate / self._jobs
        worker = self._workers[slot] = _Worker(slot, self._options, rate, self._lock)
        self._selector.register(worker.socket, selectors.EVENT_READ, worker)

    def events(self, timeout: float) -> Iterator[Moved | Ended]:
        """What workers tell within ``timeout`` seconds. Raises :class:`WorkerDied` where none can start."""
        for key, _ in self._selector.select(timeout):
            yield from self._heard(key.data)

    def _heard(self, worker: _Worker) -> Iterator[Moved | Ended]:
        lines = worker.received()
        if lines is None:
            yield from self._lost(worker)
            return
        for line in lines:
            if "ready" in line:
                worker.ready = True
                self._stillborn = 0
            elif worker.item is None:
                continue
            elif "result" in line:
                item, worker.item = worker.item, None
                yield Ended(worker.slot, item, Result.from_dict(line["result"]))
            else:
                yield Moved(worker.slot, worker.item, line["done"], line["total"])

    def _lost(self, worker: _Worker) -> Iterator[Ended]:
        """A worker has died: its image failed, and what it left of it is removed."""
        self._selector.unregister(worker.socket)
        del self._workers[worker.slot]
        error = WorkerDied(worker.died(), hint="out of memory, perhaps: see the kernel's log")
        if not worker.ready:  # it has not come to the image
            self._stillborn += 1
            if self._stillborn >= STILLBORN_MAX:
                raise error
            if worker.item:
                self._hand(worker.slot, worker.item)
        elif worker.item:
            clear(os.path.dirname(worker.item.output), [worker.item.mark], below=False)
            error.path = worker.item.input
            yield Ended(worker.slot, worker.item, failed_result(worker.item, self._options, error))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End them: first kindly, so that they remove what they were at."""
        for worker in self._workers.values():
            worker.socket.close()
            os.kill(worker.pid, signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        for worker in self._workers.values():
            while not os.waitpid(worker.pid, os.WNOHANG)[0]:
                if time.monotonic() > until:
                    os.kill(worker.pid, signal.SIGKILL)
                    os.waitpid(worker.pid, 0)
                    break
                time.sleep(0.005)
            if worker.item:
                clear(os.path.dirname(worker.item.output), [worker.item.mark], below=False)
        self._selector.close()
