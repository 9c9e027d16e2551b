"""Claims: how machines that share a folder, and nothing else, divide one list among them.

A claim on an image is a file that only one process can make (``O_EXCL``): ``KEY.1``. Who holds it touches it
as long as he lives. If he does not for some time, by the watch of whoever looks on (clocks of machines
differ), the next generation ``KEY.2`` can be made, again by one only, and the image is done anew; a holder
who was merely slow finds that file before he gives his result its name, and drops it. Nothing is ever taken
away, so that nobody can mistake one claim for another. ``KEY.done`` holds the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from xenmig_np.batch.manifest import InvalidManifest
from xenmig_np.batch.places import clear, make_folders, writing
from xenmig_np.batch.result import Status
from xenmig_np.errors import InputOutputError

if TYPE_CHECKING:
    from xenmig_np.batch.item import Item
    from xenmig_np.batch.result import Result

BEAT: Final = 10.0
"""Seconds between two touches of a claim."""
STALE: Final = 120.0
"""Seconds without one after which the holder is taken for dead."""
DONE: Final = "done"


@dataclass(slots=True)
class _Held:
    """A claim of somebody else, as it was last seen."""

    generation: int
    touched: int
    since: float
    """When it was first seen like that, by our clock."""


class Claims:
    """The claims in a folder on behalf of one run.

    ``stale`` has to be the same for all, and some times ``beat``. Raises :class:`InputOutputError`.
    """

    def __init__(self, folder: str, run: str, *, beat: float = BEAT, stale: float = STALE) -> None:
        self.folder = folder
        self._beat = beat
        self._stale = stale
        self._mine: dict[str, str] = {}
        """Paths of our claims, by the item's output."""
        self._others: dict[str, _Held] = {}
        self._beaten = time.monotonic()
        self._identity = {"run": run, "host": socket.gethostname(), "pid": os.getpid(), **_here()}
        make_folders(folder, sync=True)

    def key(self, name: str) -> str:
        """The claims of an image begin so; ``name``: of its output, below the output folder."""
        return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]

    def state(self) -> dict[str, int | None]:
        """By key, the latest generation of claims on it; None: it is done."""
        found: dict[str, int | None] = {}
        with writing(self.folder), os.scandir(self.folder) as entries:
            for entry in entries:
                key, _, what = entry.name.partition(".")
                if what == DONE:
                    found[key] = None
                elif what.isdecimal() and (last := found.get(key, 0)) is not None:
                    found[key] = max(last, int(what))
        return found

    def take(self, key: str, item: Item, generation: int) -> Item | None:
        """Claim an image on which there is a claim of ``generation``, or 0: none; None: somebody has it."""
        finished = self._path(key, DONE)
        if generation and (os.path.exists(finished) or not self._dead(key, generation)):
            return None
        path = self._path(key, generation + 1)
        with writing(path):
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                return None
            try:
                os.write(fd, json.dumps({**self._identity, "mark": item.mark}).encode())
            finally:
                os.close(fd)
        if os.path.exists(finished):  # the holder was quicker
            return None
        self._mine[item.output] = path
        if generation:
            self._clear_after(self._path(key, generation), item)
        unless = self._path(key, generation + 2)
        existing = item.replace or ("same" if generation else "")
        return replace(item, attempt=generation + 1, replace=existing, unless=unless)

    def beat(self) -> None:
        """Touch our claims when it is time to."""
        now = time.monotonic()
        if now - self._beaten >= self._beat:
            self._beaten = now
            for path in self._mine.values():
                with suppress(OSError):  # a server that is away for a moment; else others take over
                    os.utime(path)

    def lost(self, item: Item) -> bool:
        """Whether somebody has taken it over from us."""
        return item.unless is not None and os.path.exists(item.unless)

    def done(self, key: str, item: Item, result: Result) -> None:
        """Say that it is through, once the manifest does."""
        path = self._path(key, DONE)
        temporary = f"{path}.{item.mark}"
        with writing(path):
            with open(temporary, "w", encoding="ascii") as file:
                json.dump(result.to_dict(), file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        self._mine.pop(item.output, None)

    def outcome(self, key: str) -> str:
        """How an image ended that is done. Raises :class:`InputOutputError`."""
        path = self._path(key, DONE)
        try:
            with open(path, "rb") as file:
                return str(Status(json.load(file)["status"]))
        except OSError as error:
            raise InputOutputError("cannot be read", path=path, cause=error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidManifest(path=path, found=str(error), expected="a result") from error

    def _dead(self, key: str, generation: int) -> bool:
        path = self._path(key, generation)
        try:
            touched = os.stat(path).st_mtime_ns
        except OSError:
            return False
        now = time.monotonic()
        held = self._others.get(key)
        if held is None or (held.generation, held.touched) != (generation, touched):
            self._others[key] = held = _Held(generation, touched, now)
        return now - held.since >= self._stale or _gone(_holder(path))

    def _clear_after(self, path: str, item: Item) -> None:
        """Remove what the former holder has left."""
        if mark := _holder(path).get("mark"):
            clear(os.path.dirname(item.output), [str(mark)], below=False)

    def _path(self, key: str, what: int | str) -> str:
        return os.path.join(self.folder, f"{key}.{what}")


def _holder(path: str) -> dict[str, Any]:
    """Who made a claim; nothing if he has not come to write it."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _here() -> dict[str, Any]:
    """Where a pid means something, and when ours began: a number that is used again is another process."""
    return {"place": _place(), "started": _started(os.getpid())}


def _place() -> str | None:
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return None


def _started(pid: int) -> str | None:
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in {b"Z", b"X"} else fields[19].decode()
    return None


def _gone(holder: dict[str, Any]) -> bool:
    """Whether a holder is known to be dead, being of this machine."""
    place = _place()
    if not place or holder.get("place") != place or not isinstance(holder.get("pid"), int):
        return False
    return _started(holder["pid"]) != holder.get("started")
