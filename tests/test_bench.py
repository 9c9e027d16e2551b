"""The benchmark runs, and its numbers are those of the runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MIB = 1 << 20


def bench(*arguments: str, name: str = "convert_vs_cp.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / name), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_convert_against_cp(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    work = tmp_path / "work"
    work.mkdir()
    options = ("--memory", "1MiB", "--guest", "pv32", "--width", "32", "--runs", "2")
    ran = bench(*options, "--dir", str(work), "--json", str(report))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not list(work.iterdir()), "the images are removed"
    without, with_sync = json.loads(report.read_text())["comparisons"]
    assert (without["sync"], with_sync["sync"]) == (False, True)
    for made in (without, with_sync):
        assert (made["memory"], made["guest"], made["width"]) == ("1MiB", "pv32", 32)
        assert MIB < made["image_bytes"] < 2 * MIB
        assert len(made["convert"]) == len(made["cp"]) == 2, "the first pair does not count"
        pairs = zip(made["convert"], made["cp"], strict=True)
        assert made["ratios"] == [ours / theirs for ours, theirs in pairs]
        assert 5 * MIB < made["peak"] < 200 * MIB
        for seconds, ratio in zip(made["convert"], made["ratios"], strict=True):
            assert f"{seconds:.3f} s" in ran.stdout
            assert f"{ratio:.2f}" in ran.stdout


def test_a_command_that_fails_ends_it(tmp_path: Path) -> None:
    ran = bench("--memory", "3KiB", "--dir", str(tmp_path))
    assert ran.returncode == 1
    assert "memory" in ran.stderr
    assert not list(tmp_path.iterdir())


def test_verify_against_an_import(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    work = tmp_path / "work"
    work.mkdir()
    options = ("--memory", "1MiB", "--runs", "2", "--dir", str(work), "--json", str(report))
    ran = bench(*options, name="verify_vs_import.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not list(work.iterdir()), "the images are removed"
    made = json.loads(report.read_text())
    assert len(made["ratios"]) == 2, "the first pair does not count"
    assert all(ratio > 0 for ratio in made["ratios"])
    assert 5 * MIB < made["peak"] < 200 * MIB
