"""Measures one case: inputs, pairs of runs, nothing left over."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from harness import cases, work
from harness.inputs import Input, Inputs, NoRoom, forget, remove
from harness.pairs import Pair, interleaved
from harness.processes import Failed, Usage, run

if TYPE_CHECKING:
    from harness.cases import Case


@dataclass(frozen=True)
class Settings:
    """How to measure; the same for all cases."""

    folder: str
    pairs: int
    warm: int
    """Pairs before them that do not count."""
    zeros: float
    """Share of zero pages in images."""
    count: int
    """Of the many small images."""
    cold: bool
    """Every run finds its input out of the page cache."""
    steady: int
    """Bytes held in pieces, so that memory stays with this machine between two runs; 0: none."""
    options: tuple[str, ...]
    """Given to every ``xenmig-np convert``."""
    old_tools: str
    """The folder with Debian's package, or ""."""


@dataclass(frozen=True)
class Result:
    """A case on one memory: pairs of runs, or why there are none."""

    case: Case
    memory: int
    ours: str = ""
    """What ran, in words."""
    theirs: str = ""
    pairs: tuple[Pair, ...] = ()
    skipped: str = ""
    failed: str = ""


class Bench:
    """Measures cases in a folder, which it fills and does not empty."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._inputs = Inputs(settings.folder)

    def measure(self, case: Case, memory: int) -> Result:
        """A case on guests of so many bytes. It never raises for what went wrong with a command."""
        if reason := self._missing(case):
            return Result(case, memory, skipped=reason)
        try:
            return self._measure(case, memory)
        except NoRoom as reason:
            return Result(case, memory, skipped=str(reason))
        except Failed as failure:
            return Result(case, memory, failed=str(failure))

    def _missing(self, case: Case) -> str:
        if case.needs == cases.DEBIAN and not self.settings.old_tools:
            return "Debian's tools are not here (XENMIG_XEN_UTILS names their folder)"
        if case.needs == cases.SPARSE and not self._sparse:
            return "convert has no --sparse"
        return ""

    @cached_property
    def _sparse(self) -> bool:
        command = work.ours("convert", "--help")
        environment = {**os.environ, **dict(command.environment)}
        told = subprocess.run(command.words, env=environment, capture_output=True, text=True, check=False)
        return "--sparse" in told.stdout

    def _measure(self, case: Case, memory: int) -> Result:
        sizes = (memory // cases.SMALLER, memory) if case.slope else (memory,)
        wanted = tuple(self._input(case, size) for size in sizes)
        output = os.path.join(self.settings.folder, "made")
        writes = any(side(self._place(case, "", output)).output for side in (case.ours, case.theirs))
        paths = self._inputs.ready(wanted, max(one.size for one in wanted) if writes else 0)
        places = [self._place(case, paths[one], output) for one in wanted]
        ours, theirs = (self._side(case, side, places, wanted) for side in (case.ours, case.theirs))
        pairs = interleaved(ours, theirs, self.settings.pairs, self.settings.warm)
        names = [side(places[-1]).name for side in (case.ours, case.theirs)]
        return Result(case, memory, names[0], names[1], tuple(pairs))

    def _input(self, case: Case, memory: int) -> Input:
        zeros = self.settings.zeros if case.zeros is None else case.zeros
        count = (case.count or self.settings.count) if case.form == "many" else 1
        return Input(case.form, case.guest, case.width, memory, zeros, count)

    def _place(self, case: Case, given: str, output: str) -> work.Place:
        return work.Place(
            given,
            output,
            case.guest,
            case.width,
            self.settings.old_tools,
            self.settings.options,
            os.path.join(self.settings.folder, "pycache"),
        )

    def _side(
        self,
        case: Case,
        side: Callable[[work.Place], work.Work],
        places: list[work.Place],
        wanted: tuple[Input, ...],
    ) -> Callable[[], Usage]:
        """One run: of an image, of one of many images on average, or of the GiB between two."""
        works = [(side(place), place.input) for place in places]
        if case.slope:
            smaller, larger = works
            gib = (wanted[1].memory - wanted[0].memory) / cases.GIB
            return lambda: self._run(*larger).beyond(self._run(*smaller)).shared(gib)
        return lambda: self._run(*works[0]).shared(wanted[0].count)

    def _run(self, done: work.Work, given: str) -> Usage:
        """Nothing waits to be written when it begins, and its output is gone behind it."""
        subprocess.run(("sync", "--file-system", self.settings.folder), check=True)
        if self.settings.cold:
            forget(given)
        try:
            usage, *more = (run(step) for step in done.steps)
        finally:
            if done.output:
                remove(done.output)
        for step in more:
            usage = step.after(usage)
        return usage
