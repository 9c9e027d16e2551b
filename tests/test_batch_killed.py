"""Batches that are killed, interrupted or run out of room: nothing is lost, nothing is left lying about."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from batches import BATCH, archive, batch, last_results, tree
from conftest import ENVIRONMENT, MIB, PATIENCE, converted, sample, wait_for

from xenmig_np.batch.manifest import lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Argument

IMAGES = 8
RATE = "8M"
"""Slow enough that something is always under way."""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = archive(tmp_path_factory.mktemp("archive") / "old", IMAGES)
    (folder / "bad.save").write_bytes(sample("pv64", seed=99)[:-9])
    return folder


@pytest.fixture(scope="module")
def undisturbed(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    new = tmp_path_factory.mktemp("undisturbed") / "new"
    assert batch("run", old, "--out", new).code == 5
    return new


@contextlib.contextmanager
def begun(*arguments: Argument) -> Iterator[subprocess.Popen[bytes]]:
    """The command while it runs, leader of a process group of its own; all of that is gone at the end."""
    with subprocess.Popen(
        [*BATCH, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def workers_of(pid: int) -> list[int]:
    with (
        contextlib.suppress(OSError),
        open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file,
    ):
        return [int(child) for child in file.read().split()]
    return []


def temporary(new: Path) -> list[str]:
    return [name for name in tree(new) if name.endswith(".part")]


def ended(new: Path) -> int:
    """Images that the manifest has a result of."""
    manifest = new / "xenmig-np.jsonl"
    return sum(line["event"] == "image" for line in lines(str(manifest))) if manifest.exists() else 0


def assert_like(new: Path, undisturbed: Path) -> None:
    assert tree(new) == tree(undisturbed)
    assert last_results(new / "xenmig-np.jsonl", new) == last_results(
        undisturbed / "xenmig-np.jsonl", undisturbed
    )


def kill_at_random(what: str, chance: random.Random, old: Path, new: Path) -> None:
    """Start a run, kill a part of it at some moment, and go on to the end."""
    with begun("run", old, "--out", new, "--resume", "--rate", RATE, "--jobs", "2") as process:
        time.sleep(chance.uniform(0.2, 2.2))
        if what == "parent":
            process.kill()
        elif what == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            for worker in workers_of(process.pid)[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            process.communicate(timeout=PATIENCE)
        if what != "worker":
            process.wait()
            if what == "parent":  # what it has started ends by itself
                wait_for(lambda: not _holds(new / "xenmig-np.jsonl"))
    before = ended(new)
    ran = batch("run", old, "--out", new, "--resume")
    assert ran.code == 5  # one image is bad
    repeated = ended(new) - before
    assert repeated <= IMAGES + 1


def _holds(manifest: Path) -> bool:
    """Whether anybody has the lock."""
    if not manifest.exists():
        return False
    with open(manifest, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("what", ["parent", "worker", "all"])
@pytest.mark.parametrize("seed", [1, 2])
def test_killed(what: str, seed: int, old: Path, undisturbed: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    kill_at_random(what, random.Random(seed), old, new)
    assert_like(new, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("what", ["parent", "worker", "all"])
def test_killed_at_many_moments(what: str, old: Path, undisturbed: Path, tmp_path: Path) -> None:
    chance = random.Random(what)
    for number in range(17):
        new = tmp_path / str(number)
        kill_at_random(what, chance, old, new)
        assert_like(new, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_again_and_again(old: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The same folder each time: every run does a little of it."""
    new, chance = tmp_path / "new", random.Random(0)
    for _ in range(12):
        with begun("run", old, "--out", new, "--resume", "--rate", RATE, "--jobs", "2") as process:
            time.sleep(chance.uniform(0.3, 1.2))
            os.killpg(process.pid, signal.SIGKILL)
    assert batch("run", old, "--out", new, "--resume").code == 5
    assert_like(new, undisturbed)


def test_images_that_are_through_are_not_done_again(old: Path, undisturbed: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    with begun("run", old, "--out", new, "--rate", RATE, "--jobs", "2") as process:
        wait_for(lambda: ended(new) >= 3 and temporary(new))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = ended(new)
    assert temporary(new)
    ran = batch("run", old, "--out", new, "--resume", "--json")
    assert ran.report["done_before"] >= done - 1  # the bad one is tried again
    assert_like(new, undisturbed)


def test_what_others_are_at_is_left(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    with begun("run", old, "--out", new, "--rate", RATE, "--jobs", "1") as process:
        wait_for(lambda: temporary(new))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (left,) = temporary(new)
    others = new / ".guest1.save.0123456789ab-7-01234567.part"
    others.write_bytes(b"somebody else's")
    batch("run", old, "--out", new, "--resume")
    assert temporary(new) == [others.name] != [left]


def test_worker_that_dies_fails_its_image_and_is_replaced(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    with begun("run", old, "--out", new, "--rate", RATE, "--jobs", "1") as process:
        wait_for(lambda: temporary(new))
        (worker,) = workers_of(process.pid)
        os.kill(worker, signal.SIGKILL)
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 5
    assert b"the worker was ended by SIGKILL" in told
    statuses = [line["status"] for line in lines(str(new / "xenmig-np.jsonl")) if line["event"] == "image"]
    assert (statuses.count("failed"), statuses.count("converted")) == (2, IMAGES - 1)
    assert temporary(new) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted(
    number: int, code: int, old: Path, undisturbed: Path, tmp_path: Path, sigint_kills: None
) -> None:
    """As by Ctrl-C, which the whole group gets."""
    new = tmp_path / "new"
    with begun("run", old, "--out", new, "--rate", RATE, "--jobs", "2") as process:
        wait_for(lambda: ended(new) and temporary(new))
        at = time.monotonic()
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, told = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - at < 5
    assert process.returncode == code
    assert (b"interrupted" in told) == (number == signal.SIGINT)
    assert temporary(new) == []
    assert batch("run", old, "--out", new, "--resume").code == 5
    assert_like(new, undisturbed)


def test_usr1_prints_a_line(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    with begun("run", old, "--out", new, "--rate", RATE, "--jobs", "2") as process:
        wait_for(lambda: ended(new))
        process.send_signal(signal.SIGUSR1)
        _, told = process.communicate(timeout=PATIENCE)
    assert f" of {IMAGES + 1} images".encode() in told


def test_two_runs_exclude_each_other(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    with begun("run", old, "--out", new, "--rate", "256K", "--jobs", "1"):
        wait_for(lambda: temporary(new))
        ran = batch("run", old, "--out", new, "--resume")
        assert (ran.code, ran.lines[0]) == (6, f"error: {new}/xenmig-np.jsonl: another run has this manifest")
        assert temporary(new)


def test_result_without_a_line_is_taken_if_it_is_the_same(
    old: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """As if killed between the rename and the line of the manifest."""
    new = tmp_path / "new"
    new.mkdir()
    (new / "guest0.save").write_bytes(converted((old / "guest0.save").read_bytes()))
    assert batch("run", old, "--out", new, "--resume").code == 5
    assert_like(new, undisturbed)


# ---- no room ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
def test_disk_becomes_full(old: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Somebody else fills it while a run is at it; the manifest is on another one."""
    new, manifest = tmp_path / "new", tmp_path / "xenmig-np.jsonl"
    arguments = ("run", old, "--out", new, "--manifest", manifest)
    with small_file_system(new, "24m"):
        with begun(*arguments, "--rate", RATE, "--jobs", "2") as process:
            wait_for(lambda: ended(tmp_path) >= 2)  # one of them is good
            filler = new / "filler"
            with contextlib.suppress(OSError):
                filler.write_bytes(bytes(24 * MIB))
            _, told = process.communicate(timeout=PATIENCE)
        assert process.returncode == 5
        assert b"error: no space left: " in told
        names = tree(undisturbed)
        there = tree(new, ["filler"])
        assert all(names[name] == data for name, data in there.items())
        assert 0 < len(there) < IMAGES
        filler.unlink()
        assert batch(*arguments, "--resume").code == 5
        assert tree(new) == tree(undisturbed)
        assert last_results(manifest, new) == last_results(undisturbed / "xenmig-np.jsonl", undisturbed)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
def test_disk_becomes_full_that_has_the_manifest_too(old: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Whether a line still finds room is chance; nothing is lost either way."""
    new = tmp_path / "new"
    with small_file_system(new, "24m"):
        with begun("run", old, "--out", new, "--rate", RATE, "--jobs", "2") as process:
            wait_for(lambda: ended(new) >= 2)
            filler = new / "filler"
            with contextlib.suppress(OSError):
                filler.write_bytes(bytes(24 * MIB))
            _, told = process.communicate(timeout=PATIENCE)
        assert process.returncode in {4, 5}
        assert b"no space left" in told.lower()
        names = tree(undisturbed)
        assert all(names[name] == data for name, data in tree(new, ["filler", "xenmig-np.jsonl"]).items())
        filler.unlink()
        assert batch("run", old, "--out", new, "--resume").code == 5
        assert_like(new, undisturbed)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
def test_disk_of_the_manifest_is_full(old: Path, undisturbed: Path, tmp_path: Path) -> None:
    new, place = tmp_path / "new", tmp_path / "place"
    with small_file_system(place, "8k"):
        manifest = place / "manifest"
        ran = batch("run", old, "--out", new, "--manifest", manifest)
        assert (ran.code, ran.lines[-1]) == (4, f"error: {manifest}: writing failed: No space left on device")
        assert temporary(new) == []
        assert manifest.read_bytes().endswith(b"}\n")
        moved = tmp_path / "moved"
        moved.write_bytes(manifest.read_bytes())
    assert batch("run", old, "--out", new, "--manifest", moved, "--resume").code == 5
    assert tree(new) == tree(undisturbed)
    assert last_results(moved, new) == last_results(undisturbed / "xenmig-np.jsonl", undisturbed)
