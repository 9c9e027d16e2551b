"""Progress of a batch: a bar for each worker and one for all, or lines, or JSON."""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Never

from xenmig_np.batch.places import stamp
from xenmig_np.batch.planning import Plan
from xenmig_np.batch.pool import Ended, Moved
from xenmig_np.batch.runner import Begun
from xenmig_np.cli import terminal
from xenmig_np.cli.guard import check_signals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tqdm import tqdm

    from xenmig_np.batch.runner import Batch

EVERY: Final = {"lines": 10.0, "json": 1.0}
"""Seconds between two lines."""
BAR: Final[dict[str, Any]] = {
    "unit": "B",
    "unit_scale": True,
    "unit_divisor": 1024,
    "leave": False,
    "dynamic_ncols": True,
}
NAME: Final = 24
"""Characters of a name before a bar."""


@contextmanager
def showing(how: str, *, quiet: bool) -> Iterator[Told]:
    """What hears of a batch and tells of it; ``how`` is one of auto, bar, lines, json, none."""
    if how == "auto":
        how = "bar" if sys.stderr is not None and sys.stderr.isatty() else "lines"
    told = (Bars if how == "bar" else Told)(how, quiet=quiet)
    before = signal.signal(signal.SIGUSR1, lambda *_: terminal.say(told.line()))
    try:
        yield told
    finally:
        signal.signal(signal.SIGUSR1, before)
        told.close()


class Told:
    """Counts what happens, and writes lines now and then."""

    def __init__(self, how: str, *, quiet: bool) -> None:
        self._how = how
        self._quiet = quiet
        self._began = self._said = time.monotonic()
        self._plan: Plan | None = None
        self._done = 0
        """Images that are through."""
        self._failed = 0
        self._bytes = 0
        """Of the inputs of those."""
        self._sizes: dict[int, int] = {}
        """Bytes of the inputs that are under way, by slot."""
        self._shares: dict[int, float] = {}
        """How much of them is done: results of compressed images are larger, so bytes do not compare."""

    def event(self, event: Plan | Begun | Moved | Ended | None) -> None:
        """Something has happened."""
        check_signals()
        match event:
            case Plan():
                self._plan = event
            case Begun():
                self._sizes[event.slot] = (stamp(event.item.input) or (0, 0))[0]
            case Moved():
                self._shares[event.slot] = event.done / event.total if event.total else 0.0
            case Ended():
                self._ended(event)
            case None:
                self._now_and_then()

    def _ended(self, event: Ended) -> None:
        result = event.result
        self._sizes.pop(event.slot, None)
        self._shares.pop(event.slot, None)
        self._done += 1
        self._failed += result.failed
        self._bytes += result.input_bytes or 0
        if self._how == "json":
            self._say_json(
                type="result",
                status=result.status,
                input=result.input,
                output=result.output,
                error=result.error,
            )
        elif result.error:
            self.say(f"error: {result.failure}")
            if result.error["hint"]:
                self.say(f"hint: {result.error['hint']}")
        elif not self._quiet:
            for note in result.warnings:
                place = "" if note["offset"] is None else f"at {note['offset']:#x}: "
                self.say(f"warning: {result.input}: {place}{note['text']} [{note['rule']}]")

    def say(self, text: str) -> None:
        """A line for the person."""
        terminal.say(text)

    def _now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._said >= EVERY.get(self._how, float("inf")):
            self._said = now
            if self._how == "json":
                self._say_json(type="progress", **self._facts())
            else:
                terminal.say(self.line())

    def _say_json(self, **facts: Any) -> None:  # noqa: ANN401 - plain values
        terminal.say(json.dumps(facts))

    @property
    def passed(self) -> int:
        """Bytes of inputs that are through, those of images under way included."""
        shares = self._shares.items()
        return self._bytes + sum(int(self._sizes.get(slot, 0) * share) for slot, share in shares)

    def _facts(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._began
        passed, total = self.passed, self._plan.bytes if self._plan else 0
        rate = passed / seconds if seconds else 0.0
        return {
            "images": self._done,
            "images_total": len(self._plan.items) if self._plan else 0,
            "failed": self._failed,
            "bytes": passed,
            "bytes_total": total,
            "bytes_per_second": round(rate),
            "seconds": round(seconds, 1),
            "seconds_left": round(max(total - passed, 0) / rate, 1) if rate else None,
        }

    def line(self) -> str:
        """How far it is, in words."""
        facts = self._facts()
        failed = f" ({facts['failed']:,} failed)" if facts["failed"] else ""
        left = "" if facts["seconds_left"] is None else f", {_duration(facts['seconds_left'])} left"
        return (
            f"{facts['images']:,} of {terminal.plural(facts['images_total'], 'image')}{failed}, "
            f"{terminal.size(facts['bytes'])} of {terminal.size(facts['bytes_total'])} "
            f"in {_duration(facts['seconds'])}, {terminal.size(facts['bytes_per_second'])}/s{left}"
        )

    def report(self, made: Batch) -> dict[str, Any]:
        """The run as a document."""
        return {
            "schema": "xenmig-np/batch",
            "schema_version": 1,
            "manifest": made.manifest,
            "run": made.run,
            "results": dict(made.counts),
            "elsewhere": dict(made.elsewhere),
            "done_before": self._plan.done if self._plan else 0,
            "others": dict(self._plan.others) if self._plan else {},
            "bytes": self._bytes,
            "seconds": round(time.monotonic() - self._began, 3),
            "stopped": made.stopped,
        }

    def closing(self, made: Batch) -> str:
        """The one line at the end."""
        report = self.report(made)
        parts = [f"{count:,} {status}" for status, count in sorted(made.counts.items())]
        if report["done_before"]:
            parts.append(f"{report['done_before']:,} done before")
        if elsewhere := made.elsewhere.total():
            failed = f" ({made.elsewhere['failed']:,} failed)" if made.elsewhere["failed"] else ""
            parts.append(f"{elsewhere:,} done by others{failed}")
        if others := sum(report["others"].values()):
            parts.append(f"{others:,} no image")
        done = ", ".join(parts) or "nothing to do"
        return f"{made.asked.out}: {done}; {terminal.size(report['bytes'])} in {_duration(report['seconds'])}"

    def close(self) -> None:
        pass


class Bars(Told):
    """On a terminal."""

    def __init__(self, how: str, *, quiet: bool) -> None:
        super().__init__(how, quiet=quiet)
        self._whole: tqdm[Never] | None = None
        self._of: dict[int, tqdm[Never]] = {}
        self._shown: dict[int, str] = {}
        """Images that they show."""

    def event(self, event: Plan | Begun | Moved | Ended | None) -> None:
        super().event(event)
        match event:
            case Plan():
                self._whole = self._bar("all", event.bytes, 0)
            case Moved():
                bar = self._bar_of(event.slot, event.item.input, event.total)
                bar.update(event.done - bar.n)
            case _:
                pass
        if self._whole is not None:
            self._whole.set_postfix_str(f"{self._done} images, {self._failed} failed", refresh=False)
            self._whole.update(self.passed - self._whole.n)

    def _bar_of(self, slot: int, path: str, total: int | None) -> tqdm[Never]:
        """The bar of a worker. Images that are through in no time never come here."""
        name = terminal.clean(path.rpartition("/")[2])[-NAME:]
        if slot not in self._of:
            self._of[slot] = self._bar(name, total, slot + 1)
        elif self._shown[slot] != path:
            self._of[slot].reset(total)
            self._of[slot].set_description(name)
        self._shown[slot] = path
        return self._of[slot]

    def _bar(self, name: str, total: int | None, position: int) -> tqdm[Never]:
        from tqdm import tqdm  # noqa: PLC0415 - imported only where a bar is shown

        return tqdm(desc=name, total=total, position=position, **BAR)

    def say(self, text: str) -> None:
        if self._whole is not None:
            self._whole.clear()
        super().say(text)

    def close(self) -> None:
        for bar in (*self._of.values(), self._whole):
            if bar is not None:
                bar.close()


def _duration(seconds: float) -> str:
    """``12.3 s``, ``5 min 20 s``, ``3 h 12 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
