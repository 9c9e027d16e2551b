"""Measures xenmig-np against copying, Debian's tools and starting Python: whole processes, in pairs.

    python bench/run.py --dir /dev/shm                      everything
    python bench/run.py 'convert-*-cp' --memory 1GiB        some rows, on another memory
    python bench/run.py --list                              the rows

The rows are in ``harness/cases.py``, what they run is in ``harness/work.py``. Images are synthetic.
"""

from __future__ import annotations

import argparse
import datetime as dt
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase

from harness import machine, report
from harness.cases import CASES, SMALLER, Case
from harness.measuring import Bench, Result, Settings
from harness.pairs import MIB
from harness.plot import plot
from harness.steady import held

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
TINY_MEMORY = SMALLER * MIB
"""A quarter of it is the smallest guest there is."""
TINY_COUNT = 3


def size(text: str) -> int:
    """``64MiB`` or ``4GiB`` in bytes."""
    if not text[:-3].isdigit() or text[-3:] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give a number and one of {', '.join(UNITS)}")
    return int(text[:-3]) * UNITS[text[-3:]]


def share(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: 0 to 1")
    return value


def several(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: at least 1")
    return value


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="bench/run.py", description=__doc__.splitlines()[0])
    add = made.add_argument
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help="rows to measure, as --list names them; * and ? as in a shell",
    )
    add("--list", action="store_true", help="say what rows there are, and their goals")
    memory = "of the guests, instead of what the rows say; may be given several times"
    add("--memory", type=size, action="append", metavar="SIZE", help=memory)
    add("--pairs", type=several, default=5, metavar="N", help="pairs that count (default: 5)")
    add("--dir", metavar="DIR", help="where to work (default: the folder for temporary files)")
    add("--zero-share", type=share, default=0.25, metavar="0..1", help="of zero pages (default: 0.25)")
    add("--count", type=several, default=1000, metavar="N", help="of the many small images (default: 1000)")
    steady = "hold so much memory in small pieces and leave every other one to the runs (harness/steady.py)"
    add("--steady", type=size, default=0, metavar="SIZE", help=steady)
    add("--cold", action="store_true", help="drop inputs from the page cache before each run")
    add(
        "--with",
        dest="options",
        action="append",
        default=[],
        metavar="OPTION",
        help="give it to every `convert`: --with=--OPTION",
    )
    tiny = "smallest images and one pair: shows that everything runs, measures nothing"
    add("--tiny", action="store_true", help=tiny)
    add("--json", metavar="FILE", help="write every run there")
    add("--plot", metavar="FILE", help="draw the ratios (with matplotlib)")
    add("--record", metavar="FILE", help="append a section to it, as bench/RESULTS.md has them")
    return made


def chosen(names: Sequence[str]) -> list[Case]:
    return [case for case in CASES if not names or any(fnmatchcase(case.name, name) for name in names)]


def planned(wanted: Sequence[Case], memory: Sequence[int]) -> list[tuple[Case, int]]:
    """Each case with each memory, in the order of the table."""
    return [(case, one) for case in wanted for one in (memory if memory and not case.fixed else case.memory)]


def settings_of(options: argparse.Namespace, folder: str) -> Settings:
    return Settings(
        folder=folder,
        pairs=1 if options.tiny else options.pairs,
        warm=0 if options.tiny else 1,
        zeros=options.zero_share,
        count=TINY_COUNT if options.tiny else options.count,
        cold=options.cold,
        steady=options.steady,
        options=tuple(options.options),
        old_tools=machine.old_tools(),
    )


def measured(plan: Sequence[tuple[Case, int]], bench: Bench) -> list[Result]:
    """In the order of the plan. Small memories come first: their inputs go when large ones need the room."""
    results = {}
    for case, memory in sorted(plan, key=lambda one: one[1]):
        results[case, memory] = bench.measure(case, memory)
        print(report.line(results[case, memory]), flush=True)
    return [results[one] for one in plan]


def listed(plan: Sequence[tuple[Case, int]]) -> str:
    told = []
    for case, memory in plan:
        goals = [(check.figure.name, report.goal(check, memory)) for check in case.checks]
        text = "; ".join(f"{figure} {goal}".strip() for figure, goal in goals)
        told.append(f"{case.name:<24} {report.name(Result(case, memory)):<14} {text}")
    return "\n".join(told)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 if a command failed. A goal that is not met is no failure of the benchmark."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_intermixed_args(words)
    plan = planned(chosen(options.names), [TINY_MEMORY] if options.tiny else options.memory)
    if not plan:
        parser().error(f"no row is called {', '.join(options.names)}: see --list")
    if options.list:
        print(listed(plan))
        return 0
    with tempfile.TemporaryDirectory(prefix="xenmig-bench.", dir=options.dir) as folder:
        if options.cold and machine.filesystem(folder) == machine.TMPFS:
            parser().error("--cold: tmpfs is nothing but page cache; give a --dir on a disk")
        settings = settings_of(options, folder)
        try:
            with held(options.steady) if options.steady else nullcontext():
                results = measured(plan, Bench(settings))
        except MemoryError as error:
            parser().error(f"--steady: {error}")
        where = machine.described(folder)
    print(f"\n{report.table(results)}")
    command = shlex.join(["python", "bench/run.py", *words])
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(report.document(results, settings, where, command))
    if options.record:
        day = dt.datetime.now(dt.UTC).date().isoformat()
        with open(options.record, "a", encoding="utf-8") as file:
            file.write(report.section(results, settings, where, command, day))
    if options.plot and (reason := plot(results, options.plot)):
        print(reason)
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
