"""The benchmark runs from end to end, and its figures are those of the runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import debian
import pytest
from harness import cases, machine, report, work
from harness.cases import CASES, GIB, Case, Check
from harness.inputs import Input, Inputs, forget
from harness.measuring import Bench, Result, Settings
from harness.pairs import BEYOND, MIB, PEAK, RATIO, USER, Pair, interleaved, spread, typical
from harness.processes import Command, Failed, Pipeline, Usage, run
from harness.steady import held

ROOT = Path(__file__).parents[1]
RUN = ROOT / "bench" / "run.py"
PATIENCE = 240.0
PNG = b"\x89PNG\r\n\x1a\n"


def bench(*arguments: str | Path, old_tools: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The benchmark as a process; without Debian's tools, unless their folder is given."""
    environment = {**os.environ, "XENMIG_XEN_UTILS": str(old_tools or "/nowhere")}
    return subprocess.run(
        [sys.executable, RUN, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code))


def usage(seconds: float, user: float = 0.0, peak: int = 0) -> Usage:
    return Usage(seconds, user, 0.0, peak)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the benchmark works; what it leaves there is a mistake."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


# ---- whole runs --------------------------------------------------------------------------------------------


def test_every_case_runs(tmp_path: Path, folder: Path) -> None:
    """But for those that need Debian's tools, which are not there: that is said, and it goes on."""
    document, picture, kept = (tmp_path / name for name in ("report.json", "plot.png", "results.md"))
    ran = bench("--tiny", "--dir", folder, "--json", document, "--plot", picture, "--record", kept)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not list(folder.iterdir())

    made = json.loads(document.read_text())
    assert (made["schema"], made["schema_version"]) == ("xenmig-np/bench", 1)
    assert [one["case"] for one in made["results"]] == [case.name for case in CASES]
    for case, one in zip(CASES, made["results"], strict=True):
        assert not one["failed"]
        if one["skipped"]:
            assert case.needs
            assert f"- {case.name} " in ran.stdout
        else:
            check_result(case, one)
    assert all("debian" in case.name for case in CASES if case.needs == cases.DEBIAN)

    text = kept.read_text()
    assert f"\npython bench/run.py --tiny --dir {folder} " in text
    assert report_rows(text) == report_rows(ran.stdout)
    assert f"- kernel: {os.uname().release}\n" in text
    if importlib.util.find_spec("matplotlib"):
        assert picture.read_bytes().startswith(PNG)
    else:
        assert "no plot: matplotlib is not installed" in ran.stdout


def check_result(case: Case, made: dict[str, Any]) -> None:
    """Figures of a result follow from its one pair."""
    (pair,) = made["pairs"]
    for side in ("ours", "theirs"):
        assert case.slope or pair[side]["seconds"] > 0
        assert MIB < pair[side]["peak"] < 200 * MIB
    assert [one["name"] for one in made["figures"]] == [check.figure.name for check in case.checks]
    for check, one in zip(case.checks, made["figures"], strict=True):
        measured = Pair(Usage(**pair["ours"]), Usage(**pair["theirs"]))
        assert one["of_each_pair"] == [check.figure.of(measured)]
        assert one["median"] == one["least"] == one["most"] == check.figure.of(measured)


def report_rows(text: str) -> list[list[str]]:
    """Cells of the table, all rows of one width."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {len(report.TITLES)}
    return rows


def test_memory_that_is_held_in_pieces(tmp_path: Path, folder: Path) -> None:
    kept = tmp_path / "results.md"
    ran = bench("info-import", "--tiny", "--dir", folder, "--steady", "64MiB", "--record", kept)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "64 MiB of memory held in pieces" in kept.read_text()
    with held(64 * MIB) as process:
        held_bytes = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        assert 32 * MIB <= held_bytes < 56 * MIB
    assert process.returncode == -signal.SIGKILL


def test_memory_that_cannot_be_held(folder: Path) -> None:
    ran = bench("info-import", "--tiny", "--dir", folder, "--steady", "1000000000GiB")
    assert (ran.returncode, "--steady: " in ran.stderr, "Traceback" in ran.stderr) == (2, True, False)
    assert not list(folder.iterdir())


def test_cases_with_debians_tools(tmp_path: Path, folder: Path) -> None:
    try:
        old = debian.unpacked()
    except debian.Missing as missing:
        pytest.skip(str(missing))
    document = tmp_path / "report.json"
    ran = bench("*-debian", "--tiny", "--dir", folder, "--json", document, old_tools=old)
    assert (ran.returncode, ran.stderr) == (0, "")
    wanted = [case for case in CASES if case.needs == cases.DEBIAN]
    for case, one in zip(wanted, json.loads(document.read_text())["results"], strict=True):
        check_result(case, one)
        assert one["theirs"].startswith("Debian's")


def test_memory_pairs_and_zero_share(tmp_path: Path, folder: Path) -> None:
    document = tmp_path / "report.json"
    some = ("convert-hvm-64-cp", "small-convert-import", "--memory", "1MiB", "--memory", "2MiB")
    ran = bench(*some, "--pairs", "2", "--zero-share", "0.5", "--dir", folder, "--json", document)
    assert ran.returncode == 0
    made = json.loads(document.read_text())
    measured = [(one["case"], one["memory"], len(one["pairs"])) for one in made["results"]]
    assert measured == [
        ("convert-hvm-64-cp", MIB, 2),
        ("convert-hvm-64-cp", 2 * MIB, 2),
        ("small-convert-import", MIB, 2),
    ]
    assert made["settings"]["zeros"] == 0.5


def test_a_command_that_fails_is_told(folder: Path) -> None:
    ran = bench("small-convert-import", "small-help-pass", "--tiny", "--with=--nonsense", "--dir", folder)
    assert ran.returncode == 1
    assert "--nonsense" in ran.stderr
    assert re.search(
        r"^- small-convert-import 1MiB failed: .* --nonsense .*: exit code 2$",
        ran.stdout,
        re.MULTILINE,
    )
    assert re.search(r"^\| small-help-pass ", ran.stdout, re.MULTILINE)
    assert not list(folder.iterdir())


def test_no_such_row() -> None:
    ran = bench("convert-nothing")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "convert-nothing: see --list" in ran.stderr


def test_list() -> None:
    ran = bench("convert-*-cp", "--list")
    names = [line.split()[0] for line in ran.stdout.splitlines()]
    wanted = [case for case in CASES if re.fullmatch("convert-.*-cp", case.name)]
    assert names == [case.name for case in wanted for _ in case.memory]
    assert re.search(
        r"^convert-slope-cp +1GiB to 4GiB +wall, ratio at most 1.00, aim 0.700$", ran.stdout, re.MULTILINE
    )


def test_cold_cache(folder: Path) -> None:
    ran = bench("small-convert-import", "--tiny", "--cold", "--dir", folder)
    if machine.filesystem(str(folder)) == machine.TMPFS:
        assert (ran.returncode, "tmpfs is nothing but page cache" in ran.stderr) == (2, True)
    else:
        assert (ran.returncode, ran.stderr) == (0, "")


def test_forgotten_files_are_not_in_the_cache(tmp_path: Path) -> None:
    if not shutil.which("fincore") or machine.filesystem(str(tmp_path)) == machine.TMPFS:
        pytest.skip("needs fincore and a disk")
    path = tmp_path / "data"
    with path.open("wb") as file:
        file.write(bytes(MIB))
        file.flush()
        os.fsync(file.fileno())
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    before = int(subprocess.run(command, capture_output=True, check=True).stdout)
    forget(str(path))
    assert (before, int(subprocess.run(command, capture_output=True, check=True).stdout)) == (MIB, 0)


def test_micro_benchmarks() -> None:
    if not importlib.util.find_spec("pytest_benchmark"):
        pytest.skip("pytest-benchmark is not installed")
    options = ["-q", "-p", "benchmark", "-p", "no:xdist", "-p", "no:cacheprovider", "--benchmark-disable"]
    command = [sys.executable, "-m", "pytest", *options, "tests/micro/bench_pages.py"]
    ran = subprocess.run(
        command, cwd=ROOT, env=lone(), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"^[1-9][0-9]* passed in ", ran.stdout, re.MULTILINE)


def lone() -> dict[str, str]:
    """The environment without what tells a process that it is a worker of a test run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}


# ---- processes ---------------------------------------------------------------------------------------------


def test_pipeline_passes_on_and_counts_the_middle() -> None:
    """Only the command in the middle uses the processor; only the last one knows whether all has come."""
    count = 1 << 20
    line = Pipeline(
        (
            python(f"import sys; sys.stdout.write('x' * {count})"),
            python(
                "import sys, time; sys.stdout.write(sys.stdin.read())\n"
                "data = bytearray(100 << 20)\nwhile time.process_time() < 0.5: pass"
            ),
            python(f"import sys; sys.exit(len(sys.stdin.read()) != {count})"),
        ),
        measured=1,
    )
    took = run(line)
    assert took.user + took.system >= 0.5
    assert took.seconds >= 0.5
    assert took.peak > 100 * MIB
    first = run(Pipeline(line.commands))
    assert first.user + first.system < 0.5
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10  # a child begins with its parent's
    assert first.peak < max(100 * MIB, floor + MIB)


def test_pipeline_tells_who_failed() -> None:
    line = Pipeline((python("pass"), python("raise SystemExit(3)"), python("pass")))
    with pytest.raises(Failed, match=r"^\S+ -c raise SystemExit\(3\): exit code 3$"):
        run(line)


def test_environment_of_a_command() -> None:
    check = "import os; raise SystemExit(os.environ['ONE'] != 'two')"
    run(Pipeline((Command((sys.executable, "-c", check), (("ONE", "two"),)),)))


# ---- pairs and figures -------------------------------------------------------------------------------------


def test_runs_take_turns() -> None:
    order = ""

    def side(name: str) -> Usage:
        nonlocal order
        order += name
        return usage(len(order))

    pairs = interleaved(lambda: side("A"), lambda: side("B"), 3, 1)
    assert order == "ABBAABBA"
    assert [(pair.ours.seconds, pair.theirs.seconds) for pair in pairs] == [(4, 3), (5, 6), (8, 7)]


def test_ratios_are_of_pairs() -> None:
    pairs = [Pair(usage(ours), usage(theirs)) for ours, theirs in ((1, 2), (9, 3), (4, 4))]
    found = spread(RATIO, pairs)
    assert (found.median, found.least, found.most) == (1, 0.5, 3)
    together = typical([usage(3, 1, 7), usage(1, 2, 9), usage(2, 9, 8)])
    assert (together.seconds, together.user, together.peak) == (2, 2, 9)


def test_figures() -> None:
    pair = Pair(usage(0.5, 0.3, 3 * MIB), usage(0.25, 0.1))
    assert [one.of(pair) for one in (RATIO, PEAK, BEYOND)] == [2, 3, 250]
    assert USER.of(pair) == pytest.approx(0.2)


def test_steps_and_parts_of_usage() -> None:
    both = usage(2, 1, 5).after(usage(1, 3, 9))
    assert both == usage(3, 4, 9)
    assert usage(7, 4, 6).beyond(usage(3, 2, 8)).shared(2) == usage(2, 1, 6)


@pytest.mark.parametrize(
    ("check", "memory", "goal"),
    [
        (Check(RATIO), GIB, None),
        (Check(RATIO, 1.05, at=4 * GIB), GIB, None),
        (Check(RATIO, 1.05, at=4 * GIB), 4 * GIB, 1.05),
        (Check(USER, 0.15, per_gib=0.05), 4 * GIB, 0.35),
    ],
)
def test_goals(check: Check, memory: int, goal: float | None) -> None:
    assert check.goal(memory) == pytest.approx(goal)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [(0.9, 1.0, "yes"), (1.1, 1.0, "NO"), (-0.1, 1.0, "yes"), (0.1, -1.0, "noise")],
)
def test_verdicts(ours: float, theirs: float, said: str) -> None:
    case = next(case for case in CASES if case.name == "convert-slope-cp")
    result = Result(case, 4 * GIB, "ours", "theirs", (Pair(usage(ours), usage(theirs)),))
    (row,) = report.rows(result)
    assert row[-1] == said


# ---- cases -------------------------------------------------------------------------------------------------


def test_names_are_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_slope_is_the_difference_per_gib(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Each run of a pretended cost: 10 s to start and 2 s for each MiB of the input, or half of it."""

    def pretended(line: Pipeline) -> Usage:
        words = line.commands[-1].words
        given = next(Path(word) for word in words if Path(word).name.startswith("image"))
        if "sample" in words:
            memory = next(word for word in words if word.startswith("--memory="))
            given.write_text(memory.removeprefix("--memory=").removesuffix("B"))
        cost = 2 * int(given.read_text()) / MIB
        return usage(10 + cost / 2 if "xenmig_np" in words else 10 + cost)

    monkeypatch.setattr("harness.inputs.run", pretended)
    monkeypatch.setattr("harness.measuring.run", pretended)
    case = Case("pretended", work.info, work.cat, slope=True)
    result = Bench(settings(folder)).measure(case, 4 * MIB)
    (pair,) = result.pairs
    assert (pair.ours.seconds, pair.theirs.seconds) == pytest.approx((1024, 2048))


def test_no_room(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(machine, "room", lambda _: MIB)
    result = Bench(settings(folder)).measure(Case("large", work.convert, work.cp), GIB)
    assert re.fullmatch(r"needs 2,\d{3} MiB more in .*, which has 1", result.skipped)
    assert not list(folder.iterdir())


def test_sizes_of_inputs_are_enough(folder: Path) -> None:
    """What is believed to be needed, and what is taken."""
    inputs = Inputs(str(folder))
    for form, count in (("image", 1), ("stream", 1), ("many", 2)):
        wanted = Input(form, "hvm", 64, 4 * MIB, 0.25, count)
        path = Path(inputs.ready((wanted,), 0)[wanted])
        files = list(path.iterdir()) if path.is_dir() else [path]
        assert len(files) == count
        size = sum(file.stat().st_size for file in files)
        assert 0.8 * wanted.size < size <= wanted.size


def settings(folder: Path) -> Settings:
    return Settings(
        str(folder), pairs=1, warm=0, zeros=0.25, count=1, cold=False, steady=0, options=(), old_tools=""
    )
