"""A run from beginning to end: lock, clear, plan, do, note; results come as they end."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import xenmig_np
from xenmig_np.batch.claims import BEAT, STALE, Claims
from xenmig_np.batch.feed import OwnList, SharedList
from xenmig_np.batch.history import History
from xenmig_np.batch.manifest import Manifest, end_line, lines, run_line
from xenmig_np.batch.options import BatchOptions
from xenmig_np.batch.places import clear, make_folders
from xenmig_np.batch.planning import Asked, Plan, free_bytes, make_plan
from xenmig_np.batch.pool import Ended, Moved, Pool
from xenmig_np.errors import UsageError, XenmigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from xenmig_np.batch.feed import Feed
    from xenmig_np.batch.item import Item
    from xenmig_np.batch.result import Result

    Watch = Callable[["Plan | Begun | Moved | Ended | None"], object]
    """Hears what happens, and nothing (None) twice a second."""

MANIFEST: Final = "xenmig-np.jsonl"
TICK: Final = 0.5
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Begun:
    """A worker has got an image."""

    slot: int
    item: Item


@dataclass(frozen=True, slots=True)
class Sharing:
    """A folder through which machines divide a list among them."""

    folder: str
    beat: float = BEAT
    stale: float = STALE


class Batch:
    """A run over many images. :meth:`results` does the work, :meth:`plan` only looks.

    ``manifest`` is by default in the output folder. Raises :class:`UsageError`.
    """

    def __init__(  # noqa: PLR0913 - each is an option of the command
        self,
        asked: Asked,
        *,
        manifest: str | None = None,
        jobs: int | None = None,
        resume: bool = False,
        recheck: bool = False,
        sharing: Sharing | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.asked = asked
        self.run = os.urandom(6).hex()
        self.manifest = manifest or self._usual_manifest(sharing)
        self.jobs = len(os.sched_getaffinity(0)) if jobs is None else jobs
        if self.jobs < 1:
            raise UsageError("jobs", found=str(jobs), expected="at least 1")
        if recheck and not resume:
            raise UsageError("--recheck goes with --resume alone")
        self.counts: Counter[str] = Counter()
        """Results by status."""
        self.elsewhere: Counter[str] = Counter()
        """Results of others who share the list, by status."""
        self.stopped: str | None = None
        """Why items were left that nobody has begun."""
        self._resume = resume
        self._recheck = recheck
        self._sharing = sharing
        self.watch: Watch = watch or (lambda _event: None)

    def _usual_manifest(self, sharing: Sharing | None) -> str:
        """Shards and workers have manifests of their own."""
        if sharing:
            name = f"{socket.gethostname()}-{os.getpid()}-{self.run}.jsonl"
            return os.path.join(sharing.folder, name)
        shard = self.asked.shard
        stem, suffix = os.path.splitext(MANIFEST)
        name = f"{stem}.{shard[0]}-of-{shard[1]}{suffix}" if shard else MANIFEST
        return os.path.join(self.asked.out, name)

    def plan(self) -> Plan:
        """What a run would do. Raises as :func:`xenmig_np.batch.planning.make_plan`."""
        known = self._resume and os.path.exists(self.manifest)
        history = History(lines(self.manifest) if known else (), recheck=self._recheck)
        return make_plan(self.asked, history, self.run, resume=self._resume)

    def results(self) -> Iterator[Result]:
        """Do the work; each result is in the manifest when it is yielded.

        Leaving early ends the workers; another run with ``resume`` goes on. Raises :class:`InputOutputError`
        where the manifest cannot be written, :class:`Refused` where space will not do, :class:`WorkerDied`
        where no worker starts, and as :class:`Manifest`, :class:`Claims` and :meth:`plan` do.
        """
        asked, sync = self.asked, self.asked.options.sync
        make_folders(os.path.abspath(asked.out), sync=sync)
        make_folders(os.path.dirname(os.path.abspath(self.manifest)), sync=sync)
        with Manifest(self.manifest, resume=self._resume or asked.force, sync=sync) as manifest:
            history = History(manifest.lines(), recheck=self._recheck)
            for run, out in history.cut_off.items():
                clear(out, [f"{run}-"], below=True)
                manifest.append(end_line(run, cut_off=True))
            plan = make_plan(asked, history, self.run, resume=self._resume)
            if any(item.output == os.path.abspath(self.manifest) for item in plan.items):
                raise UsageError("the manifest has the name of a result", path=self.manifest)
            del history  # of a large archive it is larger than all else
            if not self._sharing:
                plan.check_space()
            self.watch(plan)
            manifest.append(self._run_line(plan))
            began = time.monotonic()
            try:
                feed = self._feed(plan)
                self.elsewhere = feed.elsewhere
                yield from self._work(manifest, feed)
            except BaseException as error:
                self.stopped = str(error) if isinstance(error, XenmigError) else "interrupted"
                raise
            finally:
                with suppress(XenmigError):  # the disk that is full may be this one
                    manifest.append(
                        end_line(
                            self.run,
                            results=dict(self.counts),
                            stopped=self.stopped,
                            seconds=round(time.monotonic() - began, 3),
                        )
                    )

    def _feed(self, plan: Plan) -> Feed:
        if not self._sharing:
            return OwnList(plan.items)
        sharing = self._sharing
        claims = Claims(sharing.folder, self.run, beat=sharing.beat, stale=sharing.stale)
        return SharedList(plan.items, os.path.abspath(self.asked.out), claims)

    def _run_line(self, plan: Plan) -> dict[str, Any]:
        return run_line(
            self.run,
            os.path.abspath(self.asked.out),
            host=socket.gethostname(),
            pid=os.getpid(),
            tool=xenmig_np.__version__,
            began=round(time.time(), 3),
            jobs=self.jobs,
            options=self.asked.options.asked(),
            shard=self.asked.shard and list(self.asked.shard),
            items=len(plan.items),
            bytes=plan.bytes,
            done_before=plan.done,
            others=dict(plan.others),
        )

    def _work(self, manifest: Manifest, feed: Feed) -> Iterator[Result]:
        with Pool(self.jobs, self.asked.options, manifest.fd) as pool:
            self._fill(pool, feed)
            while pool.busy or not (feed.exhausted or self.stopped):
                events = list(pool.events(TICK))
                self._look_for_room(events)
                self._fill(pool, feed)  # first of all, so that no worker waits for the disk of the manifest
                self.watch(None)
                for event in events:
                    if isinstance(event, Ended):
                        if not feed.counts(event.item):
                            continue
                        manifest.append(event.result.to_dict())
                        feed.noted(event.item, event.result)
                        self.counts[event.result.status] += 1
                        self.watch(event)
                        yield event.result
                    else:
                        self.watch(event)

    def _fill(self, pool: Pool, feed: Feed) -> None:
        feed.tick()
        while pool.idle and not self.stopped and (item := feed.take()):
            self.watch(Begun(pool.give(item), item))

    def _look_for_room(self, events: Iterable[Moved | Ended]) -> None:
        """Where an image failed for want of room, no other is begun."""
        for event in events:
            if isinstance(event, Ended) and (error := event.result.error):
                free = free_bytes(self.asked.out)
                refused = error["class"] == "Refused" and free < (event.result.input_bytes or 0)
                if refused or error["errno"] in FULL:
                    self.stopped = f"no space left: {self.asked.out} has {free:,} bytes free"


def run(  # noqa: PLR0913 - each is an option of the command
    sources: Iterable[str],
    out: str,
    *,
    listed: Iterable[str] = (),
    template: str = "{name}",
    shard: tuple[int, int] | None = None,
    force: bool = False,
    manifest: str | None = None,
    jobs: int | None = None,
    resume: bool = False,
    recheck: bool = False,
    prove: bool = False,
    digest: str = "sha256",
    streams: str = "skip",
    sync: bool = True,
    rate: int | None = None,
    nice: int = 0,
    watch: Watch | None = None,
    **convert: Any,  # noqa: ANN401 - options of the conversion
) -> Iterator[Result]:
    """Convert many images, each with the options ``convert`` of :func:`xenmig_np.convert`.

    Yields the results as they end. Raises :class:`UsageError` at once, the rest as :meth:`Batch.results`.
    """
    options = BatchOptions.of(
        convert, prove=prove, digest=digest, streams=streams, sync=sync, rate=rate, nice=nice
    )
    asked = Asked(tuple(sources), out, options, tuple(listed), template, shard, force)
    batch = Batch(asked, manifest=manifest, jobs=jobs, resume=resume, recheck=recheck, watch=watch)
    return batch.results()
