"""Times ``xenmig-np convert`` against ``cp`` of the same file: whole processes, in paired, interleaved runs.

Two comparisons: ``convert --no-sync`` with plain ``cp``, and ``convert`` with ``cp`` and ``sync FILE`` behind
it. The images are synthetic. Needs room for the largest image twice in ``--dir``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

PROGRAM = (sys.executable, "-m", "xenmig_np")
MIB = 1 << 20


@dataclass(frozen=True)
class Usage:
    """What one process took."""

    seconds: float
    peak: int
    """Bytes of resident memory."""


@dataclass(frozen=True)
class Comparison:
    """Counted runs of one image and one way of writing; the n-th runs of both stood next to each other."""

    memory: str
    guest: str
    width: int
    image_bytes: int
    sync: bool
    convert: list[float]
    """Seconds."""
    cp: list[float]
    peak: int
    """The most resident memory that ``convert`` had, in bytes."""

    @property
    def ratios(self) -> list[float]:
        """Pair by pair."""
        return [ours / theirs for ours, theirs in zip(self.convert, self.cp, strict=True)]


def run(*command: str) -> Usage:
    """Run a command to its end.

    A child's peak counts the memory of the process that it came from, so this one stays small: it imports no
    numpy, and the images are made by a process of their own.
    """
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    return Usage(seconds, usage.ru_maxrss * 1024)


@contextlib.contextmanager
def quiet_disk(output: str) -> Iterator[None]:
    """Nothing waits to be written when a timed run begins, and its output is gone behind it."""
    os.sync()
    yield
    os.unlink(output)


def convert(image: str, output: str, *, sync: bool) -> Usage:
    with quiet_disk(output):
        return run(*PROGRAM, "convert", "--quiet", "--sync" if sync else "--no-sync", image, output)


def cp(image: str, output: str, *, sync: bool) -> Usage:
    with quiet_disk(output):
        copied = run("cp", "--reflink=never", image, output)
        synced = run("sync", output).seconds if sync else 0.0
        return Usage(copied.seconds + synced, copied.peak)


def compare(image: str, options: argparse.Namespace, memory: str, *, sync: bool) -> Comparison:
    """Pairs of runs, the first not counted; who goes first takes turns."""
    output = image + ".out"
    ours: list[Usage] = []
    theirs: list[Usage] = []
    for number in range(options.runs + 1):
        pair = [(convert, ours), (cp, theirs)]
        for measured, runs in pair if number % 2 else reversed(pair):
            runs.append(measured(image, output, sync=sync))
    return Comparison(
        memory=memory,
        guest=options.guest,
        width=options.width,
        image_bytes=os.path.getsize(image),
        sync=sync,
        convert=[usage.seconds for usage in ours[1:]],
        cp=[usage.seconds for usage in theirs[1:]],
        peak=max(usage.peak for usage in ours),
    )


def show(made: Comparison) -> None:
    """The table of one comparison."""
    columns = (made.convert, made.cp, made.ratios)
    against = ("convert", "cp, sync") if made.sync else ("convert --no-sync", "cp")
    print(f"{made.memory} {made.guest}, {made.width}-bit tools: image of {made.image_bytes / MIB:,.1f} MiB")
    print(f"  {'pair':<8} {against[0]:>18} {against[1]:>10} {'ratio':>7}")
    for number, (ours, theirs, ratio) in enumerate(zip(*columns, strict=True), 1):
        print(f"  {number:<8} {ours:>16.3f} s {theirs:>8.3f} s {ratio:>7.2f}")
    ours, theirs, ratio = map(statistics.median, columns)
    spread = f"({min(made.ratios):.2f} to {max(made.ratios):.2f})"
    print(f"  {'median':<8} {ours:>16.3f} s {theirs:>8.3f} s {ratio:>7.2f}  {spread}")
    print(f"  peak resident memory of convert: {made.peak / MIB:.1f} MiB", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--memory",
        nargs="+",
        default=["64MiB", "1GiB"],
        metavar="SIZE",
        help="memory of the guests, as `sample` takes it (default: 64MiB 1GiB)",
    )
    parser.add_argument("--guest", choices=("hvm", "pv64", "pv32"), default="hvm")
    parser.add_argument("--width", type=int, choices=(32, 64), default=64, help="word size of the tools")
    parser.add_argument("--runs", type=int, default=5, help="pairs that count (default: 5)")
    parser.add_argument("--dir", help="where to work (default: the folder for temporary files)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    made: list[Comparison] = []
    with tempfile.TemporaryDirectory(prefix="convert_vs_cp.", dir=options.dir) as folder:
        for memory in options.memory:
            image = os.path.join(folder, "image")
            shape = (f"--guest={options.guest}", f"--width={options.width}", f"--memory={memory}")
            run(*PROGRAM, "sample", "--quiet", "--force", *shape, image)
            if shutil.disk_usage(folder).free < os.path.getsize(image):
                raise SystemExit(f"{folder}: no room for a second image of {memory}")
            for sync in (False, True):
                made.append(compare(image, options, memory, sync=sync))
                show(made[-1])
    if options.json:
        runs = [{**asdict(one), "ratios": one.ratios} for one in made]
        machine = {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine, "comparisons": runs}, file, indent=2)


if __name__ == "__main__":
    main()
