"""Workers that share a list by claims and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from batches import archive, batch, last_results, tree
from conftest import PATIENCE, converted, wait_for
from test_batch_killed import begun, temporary

from xenmig_np.batch import BatchOptions, Item, convert_item
from xenmig_np.batch.claims import Claims
from xenmig_np.batch.feed import SharedList
from xenmig_np.batch.manifest import lines

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = 6


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "claims")


def item_in(tmp_path: Path, run: str = "aaaa") -> Item:
    return Item(str(tmp_path / "old"), str(tmp_path / "new"), f"{run}-1-", run)


# ---- claims by themselves --------------------------------------------------------------------------------


def test_one_has_it(folder: str, tmp_path: Path) -> None:
    one, two = Claims(folder, "aaaa"), Claims(folder, "bbbb")
    taken = one.take("key", item_in(tmp_path), 0)
    assert taken
    assert (taken.attempt, taken.replace, taken.unless) == (1, "", os.path.join(folder, "key.2"))
    assert two.take("key", item_in(tmp_path, "bbbb"), 0) is None
    assert two.state() == {"key": 1}
    assert two.take("key", item_in(tmp_path, "bbbb"), 1) is None  # he lives
    assert not one.lost(taken)


def test_holder_that_is_dead_is_known_at_once(folder: str, tmp_path: Path) -> None:
    """On the same machine; what he was at is removed."""
    program = (
        "import sys; from xenmig_np.batch.claims import Claims; from xenmig_np.batch.item import Item; "
        "Claims(sys.argv[1], 'aaaa').take('key', Item('old', sys.argv[2], 'aaaa-1-'), 0)"
    )
    subprocess.run([sys.executable, "-c", program, folder, tmp_path / "new"], check=True)
    left, others = tmp_path / ".new.aaaa-1-01234567.part", tmp_path / ".new.aaaa-2-01234567.part"
    left.write_bytes(b"left")
    others.write_bytes(b"of another item")
    taken = Claims(folder, "bbbb").take("key", item_in(tmp_path, "bbbb"), 1)
    assert taken
    assert (taken.attempt, taken.replace) == (2, "same")
    assert (left.exists(), others.exists()) == (False, True)


def test_holder_on_another_machine_is_dead_when_he_is_silent(folder: str, tmp_path: Path) -> None:
    """By our clock: his time of day means nothing."""
    one = Claims(folder, "aaaa", stale=0.3)
    taken = one.take("key", item_in(tmp_path), 0)
    assert taken
    path = os.path.join(folder, "key.1")
    with open(path, encoding="ascii") as file:
        holder = json.load(file)
    with open(path, "w", encoding="ascii") as file:
        json.dump(holder | {"place": "elsewhere", "pid": 1}, file)
    two = Claims(folder, "bbbb", stale=0.3)
    os.utime(path, (10, 10))
    assert two.take("key", item_in(tmp_path, "bbbb"), 1) is None
    time.sleep(0.4)
    os.utime(path)  # a sign of life
    assert two.take("key", item_in(tmp_path, "bbbb"), 1) is None
    time.sleep(0.4)
    again = two.take("key", item_in(tmp_path, "bbbb"), 1)
    assert again
    assert one.lost(taken)
    assert not two.lost(again)


def test_claims_are_touched(folder: str, tmp_path: Path) -> None:
    claims = Claims(folder, "aaaa", beat=0.0)
    claims.take("key", item_in(tmp_path), 0)
    path = os.path.join(folder, "key.1")
    os.utime(path, (10, 10))
    claims.beat()
    assert os.stat(path).st_mtime > 10


def test_lost_claim_gives_its_result_no_name(folder: str, tmp_path: Path) -> None:
    old = archive(tmp_path / "old", 1) / "guest0.save"
    item = replace(item_in(tmp_path), input=str(old))
    taken = Claims(folder, "aaaa").take("key", item, 0)
    assert taken
    assert taken.unless
    with open(taken.unless, "w", encoding="ascii"):
        pass
    result = convert_item(taken, BatchOptions.of({}))
    assert result.error
    assert result.error["class"] == "ClaimLost"
    assert not (tmp_path / "new").exists()


def test_lost_image_is_waited_for(folder: str, tmp_path: Path) -> None:
    """Who has taken it over may die as well."""
    feed = SharedList([item_in(tmp_path)], str(tmp_path), Claims(folder, "aaaa", stale=0.0))
    first = feed.take()
    assert first
    assert first.unless
    with open(first.unless, "w", encoding="ascii"):
        pass  # of one who falls silent at once
    assert not feed.counts(first)
    wait_for(lambda: (again := feed.take()) is not None and again.attempt == 3)
    assert feed.take() is None


def test_done_is_final(folder: str, tmp_path: Path) -> None:
    old = archive(tmp_path / "old", 1) / "guest0.save"
    item = replace(item_in(tmp_path), input=str(old))
    claims = Claims(folder, "aaaa", stale=0.0)
    taken = claims.take("key", item, 0)
    assert taken
    result = convert_item(taken, BatchOptions.of({}))
    claims.done("key", taken, result)
    assert claims.state() == {"key": None}
    assert claims.take("key", item, 1) is None
    assert claims.take("key", item, 0) is None
    with open(os.path.join(folder, "key.done"), encoding="ascii") as file:
        assert json.load(file) == result.to_dict()


# ---- workers ---------------------------------------------------------------------------------------------


def finals(claims: Path) -> Counter[str]:
    """Results in all manifests, by image."""
    return Counter(
        line["input"]
        for path in claims.glob("*.jsonl")
        for line in lines(str(path))
        if line["event"] == "image"
    )


def assert_all_done(old: Path, new: Path, claims: Path, tmp_path: Path) -> None:
    assert tree(new) == {name: converted(data) for name, data in tree(old).items()}
    assert finals(claims) == {str(path): 1 for path in old.rglob("*.save")}
    merged = tmp_path / "merged"
    assert batch("merge", *claims.glob("*.jsonl"), "--out", merged).code == 0
    assert {one["status"] for one in last_results(merged, new).values()} == {"converted"}
    assert len(last_results(merged, new)) == len(tree(old))


def test_two_share_a_list(tmp_path: Path) -> None:
    old, new, claims = archive(tmp_path / "old", IMAGES), tmp_path / "new", tmp_path / "claims"
    arguments = ("work", old, "--out", new, "--claims", claims, "--rate", "3M", "--jobs", "1")
    with begun(*arguments) as one, begun(*arguments) as two:
        assert one.wait(PATIENCE) == two.wait(PATIENCE) == 0
    assert_all_done(old, new, claims, tmp_path)
    assert len(list(claims.glob("*.jsonl"))) == 2
    ran = batch(*arguments)
    assert (ran.code, ran.lines[-1].partition(";")[0]) == (0, f"{new}: {IMAGES} done by others")


@pytest.mark.parametrize("what", ["all", "parent"])
def test_one_is_killed_in_the_middle_of_an_image(what: str, tmp_path: Path) -> None:
    old, new, claims = archive(tmp_path / "old", IMAGES), tmp_path / "new", tmp_path / "claims"
    arguments = ("work", old, "--out", new, "--claims", claims, "--jobs", "1", "--rate")
    with begun(*arguments, "512K") as one, begun(*arguments, "3M") as two:
        wait_for(lambda: len(temporary(new)) == 2)
        if what == "all":
            os.killpg(one.pid, signal.SIGKILL)
        else:
            one.kill()
        one.wait()
        assert two.wait(PATIENCE) == 0
    assert_all_done(old, new, claims, tmp_path)


def test_interrupted_worker_leaves_its_image_to_others(tmp_path: Path, sigint_kills: None) -> None:
    old, new, claims = archive(tmp_path / "old", IMAGES), tmp_path / "new", tmp_path / "claims"
    arguments = ("work", old, "--out", new, "--claims", claims, "--jobs", "1", "--rate")
    with begun(*arguments, "512K") as one:
        wait_for(lambda: temporary(new))
        one.send_signal(signal.SIGINT)
        assert one.wait(PATIENCE) == 130
    assert temporary(new) == []
    assert batch(*arguments, "1G").code == 0
    assert_all_done(old, new, claims, tmp_path)


def test_failed_image_is_done(tmp_path: Path) -> None:
    old, new, claims = archive(tmp_path / "old", 2), tmp_path / "new", tmp_path / "claims"
    path = old / "guest0.save"
    path.write_bytes(path.read_bytes()[:-3])
    arguments = ("work", old, "--out", new, "--claims", claims)
    assert batch(*arguments).code == 5
    again = batch(*arguments)  # nothing is left to do, and all is not well
    assert (again.code, again.lines[-1].partition(";")[0]) == (5, f"{new}: 2 done by others (1 failed)")
    told = batch(*arguments, "--json", "--quiet").report
    assert (told["results"], told["elsewhere"]) == ({}, {"converted": 1, "failed": 1})
    assert finals(claims) == {str(path): 1 for path in old.rglob("*.save")}
