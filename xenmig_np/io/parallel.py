"""Writing a file from several threads: each takes a part of the plan, which knows where it goes."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from xenmig_np.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from xenmig_np.io.plan import Segment
    from xenmig_np.io.sink import Sink

WORKERS: Final = 2
JOB: Final = 16 * MIB
"""Bytes that a thread writes in one go, at least."""


class Abandoned(Exception):
    """Another thread has failed, or the conversion was interrupted."""


class Jobs:
    """Parts that wait for a thread, few at a time; and how far the threads are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, list[Segment]]] = deque()
        self._ended = False
        self.error: BaseException | None = None
        self.done = 0
        """Bytes written by all threads."""

    def put(self, at: int, segments: list[Segment]) -> None:
        """Hand out a part that goes to ``at``; waits while enough of them do. Raises a thread's error."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._most or self.error)
            if self.error:
                raise self.error
            self._waiting.append((at, segments))
            self._changed.notify()

    def end(self, error: BaseException | None = None) -> None:
        """No more parts come; with an error, those that wait are not written either."""
        with self._changed:
            self._ended = True
            self.error = self.error or error
            self._changed.notify_all()

    def take(self) -> tuple[int, list[Segment]] | None:
        """A part to write; None: there is none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self.error)
            if self.error or not self._waiting:
                return None
            self._changed.notify_all()
            return self._waiting.popleft()

    def moved(self, count: int) -> None:
        """A thread has written ``count`` bytes more. Raises :class:`Abandoned`."""
        with self._changed:
            self.done += count
            if self.error:
                raise Abandoned


def pour_parallel(
    new_sink: Callable[[Callable[[int], object]], Sink],
    segments: Iterable[Segment],
    start: int,
    progress: Callable[[int], object] | None = None,
    workers: int = WORKERS,
) -> int:
    """Write all segments from offset ``start`` on; returns the bytes written.

    ``new_sink`` makes the sink of a thread; its argument hears how many bytes that sink has written.
    Raises as :meth:`xenmig_np.io.sink.Sink.pour` does; no thread is left behind.
    """
    jobs = Jobs(workers)
    threads = [threading.Thread(target=_work, args=(jobs, new_sink)) for _ in range(workers)]
    at = start
    try:
        for thread in threads:
            thread.start()
        for part, size in _parts(segments):
            jobs.put(at, part)
            at += size
            if progress:
                progress(jobs.done)
        jobs.end()
        _wait(threads, jobs, progress)
    except BaseException as error:
        jobs.end(error)
        raise
    finally:
        for thread in threads:
            if thread.ident:
                thread.join()
    if jobs.error:
        raise jobs.error
    return at - start


def _work(jobs: Jobs, new_sink: Callable[[Callable[[int], object]], Sink]) -> None:
    told = 0

    def tell(written: int) -> None:
        nonlocal told
        count, told = written - told, written
        jobs.moved(count)

    try:
        sink = new_sink(tell)
        while job := jobs.take():
            sink.at, part = job
            sink.pour(part)
    except BaseException as error:  # noqa: BLE001 - raised again where the threads were started
        jobs.end(error)


def _wait(threads: list[threading.Thread], jobs: Jobs, progress: Callable[[int], object] | None) -> None:
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
            if progress:
                progress(jobs.done)


def _parts(segments: Iterable[Segment]) -> Iterator[tuple[list[Segment], int]]:
    """The segments in parts of at least JOB bytes, but for the last, and the bytes of each."""
    part: list[Segment] = []
    size = 0
    for segment in segments:
        part.append(segment)
        size += segment.length
        if size >= JOB:
            yield part, size
            part, size = [], 0
    if part:
        yield part, size
