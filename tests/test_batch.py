"""Whole archives: what is an image, what becomes of each, what is done again and what is not."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import re
import struct
import subprocess
import termios
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from batches import BATCH, archive, batch, last_results, tree
from conftest import ENVIRONMENT, MIB, converted, sample
from real import SAMPLES

import xenmig_np
import xenmig_np.batch
from xenmig_np.batch import BatchOptions, Item, Result, convert_item, results
from xenmig_np.batch.listing import find_files, shard_of
from xenmig_np.batch.manifest import lines
from xenmig_np.batch.pool import Ended, Moved, WorkerDied
from xenmig_np.batch.runner import Begun
from xenmig_np.cli.app import app
from xenmig_np.errors import InputOutputError, OutputExists, Refused, UsageError
from xenmig_np.io.files import Output
from xenmig_np.testing import pieces
from xenmig_np.testing.builder import small_image

if TYPE_CHECKING:
    from pathlib import Path

SMALL = sample("hvm")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with six images."""
    return archive(tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "new"


def run(old: Path | str, new: Path, **options: Any) -> list[Result]:
    options = {"sync": False, "jobs": 1} | options
    return list(xenmig_np.batch.run([str(old)], str(new), **options))


def by_name(found: list[Result]) -> dict[str, Result]:
    return {os.path.basename(result.input): result for result in found}


# ---- what comes out --------------------------------------------------------------------------------------


def test_folders_are_kept_and_results_are_those_of_convert(old: Path, new: Path) -> None:
    before = tree(old)
    found = run(old, new, jobs=2)
    assert tree(new) == {name: converted(data) for name, data in before.items()}
    assert tree(old) == before
    assert {result.status for result in found} == {"converted"}
    assert all(result.verified and not result.proven for result in found)
    noted = [result.to_dict() for result in results(str(new / "xenmig-np.jsonl"))]
    assert noted == [result.to_dict() for result in found]
    assert json.loads(json.dumps(noted)) == noted


def test_result_says_what_it_was(old: Path, new: Path) -> None:
    result = by_name(run(old, new, target="xen-4.14", prove=True))["guest1.save"]
    path, made = old / "guest1.save", new / "guest1.save"
    assert result.image
    assert result.stream
    assert (result.image["guest"], result.image["carrier"], result.image["pages"]) == ("pv64", "xl", 256)
    assert (result.stream["target"], result.stream["format"]) == ("xen-4.14", "libxl")
    assert result.options == {"target": "xen-4.14", "prove": True, "digest": "sha256", "streams": "skip"}
    assert (result.input, result.output) == (str(path), str(made))
    assert (result.input_bytes, result.output_bytes) == (path.stat().st_size, made.stat().st_size)
    assert (result.input_mtime_ns, result.output_mtime_ns) == (
        path.stat().st_mtime_ns,
        made.stat().st_mtime_ns,
    )
    assert result.input_digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.output_digest == hashlib.sha256(made.read_bytes()).hexdigest()
    assert (result.proven, result.verified, result.attempt, result.error) == (True, True, 1, None)
    assert result.tool == xenmig_np.__version__


def test_bad_image_stops_no_other(old: Path, new: Path) -> None:
    (old / "guest0.save").write_bytes(SMALL[:-5])
    found = by_name(run(old, new))
    bad = found.pop("guest0.save")
    assert {result.status for result in found.values()} == {"converted"}
    assert (bad.status, bad.output, bad.attempt) == ("failed", None, 1)
    assert bad.error
    assert (bad.error["class"], bad.error["exit_code"]) == ("TruncatedImage", 1)
    assert isinstance(bad.error["offset"], int)
    assert bad.image == {"carrier": "bare", "guest": "hvm", "width": 64, "name": None}
    assert "guest0.save" not in tree(new)


def test_what_is_no_image_is_left_alone(old: Path, new: Path) -> None:
    (old / "text").write_bytes(b"hello\n" * 100)
    (old / "empty").write_bytes(b"")
    (old / "disk.qcow2").write_bytes(b"QFI\xfb" + bytes(5000))
    (old / "en.pak").write_bytes(struct.pack("<IIHH", 5, 1, 300, 0) + bytes(5000))
    os.mkfifo(old / "pipe")
    (old / "link").symlink_to(old / "nowhere")
    plan = xenmig_np.batch.Batch(asked(old, new)).plan()
    small = "p2m_size 5, as an ia64 image or no image at all would begin"
    assert (len(plan.items), plan.others) == (6, {"no image": 2, "a qcow disk": 1, small: 1})
    assert len(run(old, new)) == 6


def asked(old: Path, new: Path, **options: Any) -> xenmig_np.batch.Asked:
    of = {name: options.pop(name) for name in ("streams", "digest", "prove") if name in options}
    return xenmig_np.batch.Asked((str(old),), str(new), BatchOptions.of({}, sync=False, **of), **options)


def test_not_supported_fails_with_its_reason(old: Path, new: Path) -> None:
    image = small_image("hvm")
    (old / "guest0.save").write_bytes(replace(image, body=(pieces.Tmem(), *image.body)).to_bytes())
    result = by_name(run(old, new))["guest0.save"]
    assert result.error
    assert (result.status, result.error["class"], result.error["exit_code"]) == ("failed", "NotSupported", 3)
    assert "tmem" in result.error["message"]
    assert result.image
    assert (result.image["guest"], result.image["saved_by"]) == ("hvm", xenmig_np.info(result.input).saved_by)
    again = by_name(run(old, new, resume=True, drop_tmem=True))["guest0.save"]  # other options: all anew
    assert again.error
    assert again.error["class"] == "Unverified"  # the little image has no store page: no Xen would resume it
    assert again.options["drop_tmem"]


def test_options_have_to_go_into_the_manifest() -> None:
    assert BatchOptions.of({"config": "guest.cfg"}).asked()["config"] == "guest.cfg"
    with pytest.raises(UsageError, match="the name of a file"):
        BatchOptions.of({"config": b"name = 'guest'"})


@pytest.mark.parametrize(
    ("streams", "status", "there"),
    [("skip", "skipped", False), ("copy", "copied", True), ("link", "linked", True)],
)
def test_streams(streams: str, status: str, *, there: bool, old: Path, new: Path) -> None:
    stream = converted((old / "guest0.save").read_bytes())
    (old / "guest0.save").write_bytes(stream)
    result = by_name(run(old, new, streams=streams))["guest0.save"]
    assert (result.status, result.output is not None) == (status, there)
    assert tree(new).get("guest0.save") == (stream if there else None)
    if streams == "link":
        assert (new / "guest0.save").samefile(old / "guest0.save")
    assert run(old, new, streams=streams, resume=True) == []


def test_copies_are_proven_and_links_replace(old: Path, new: Path) -> None:
    (old / "guest0.save").write_bytes(converted((old / "guest0.save").read_bytes()))
    assert by_name(run(old, new, streams="copy", prove=True))["guest0.save"].proven
    found = by_name(run(old, new, streams="link", manifest=str(new / "other")))["guest0.save"]
    assert found.error
    assert found.error["class"] == "OutputExists"
    found = by_name(run(old, new, streams="link", force=True))["guest0.save"]
    assert found.status == "linked"
    assert (new / "guest0.save").samefile(old / "guest0.save")
    assert not [name for name in tree(new) if name.endswith(".part")]


def test_stream_that_is_bad_is_not_copied(old: Path, new: Path) -> None:
    stream = converted((old / "guest0.save").read_bytes())
    (old / "guest0.save").write_bytes(stream[:-8])
    result = by_name(run(old, new, streams="copy"))["guest0.save"]
    assert result.failed
    assert result.error
    assert result.error["class"] == "Unverified"
    assert "guest0.save" not in tree(new)


def test_compressed_image(old: Path, new: Path) -> None:
    data = (old / "guest0.save").read_bytes()
    (old / "guest0.save").unlink()
    (old / "guest0.save.gz").write_bytes(gzip.compress(data, 1))
    run(old, new)
    assert tree(new)["guest0.save"] == converted(data)


def test_names_that_are_no_utf8(tmp_path: Path, new: Path) -> None:
    name = b"\xff\xfe \n'\\.save"
    os.makedirs(tmp_path / "old")
    with open(os.path.join(os.fsencode(tmp_path / "old"), name), "wb") as file:
        file.write(SMALL)
    ran = batch("run", tmp_path / "old", "--out", new, "--prove")
    assert ran.code == 0
    assert os.listdir(os.fsencode(new)).count(name) == 1
    manifest = new / "xenmig-np.jsonl"
    assert (
        batch("list", "--proven", "-0", manifest).out == os.fsencode(tmp_path / "old") + b"/" + name + b"\0"
    )
    assert batch("run", tmp_path / "old", "--out", new, "--prove", "--resume").code == 0
    sums = batch("list", "--sha256", manifest).out
    assert subprocess.run(["sha256sum", "-c", "--status"], input=sums, check=False).returncode == 0


def test_what_breaks_a_rule_or_proves_different_gets_no_name(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, so that another check can be put in place of ours."""
    item = Item(str(old / "guest0.save"), str(new / "guest0.save"), "mark-")

    real = Output.reread

    def harmed(level: int) -> Any:
        def reread(self: Output) -> Any:
            at = os.fstat(self.fd).st_size - level
            os.pwrite(self.fd, b"XXXX", at)
            return real(self)

        return reread

    monkeypatch.setattr("xenmig_np.conversion.run.check_written", lambda *_: None)
    monkeypatch.setattr(Output, "reread", harmed(8))  # the END record
    result = convert_item(item, BatchOptions.of({}))
    assert result.error
    assert result.error["class"] == "Unverified"
    monkeypatch.setattr(Output, "reread", harmed(600_000))  # a page
    result = convert_item(item, BatchOptions.of({}, prove=True))
    assert result.error
    assert (result.error["class"], result.proven) == ("Unproven", False)
    assert "do not delete the original: not the same: page" in result.error["message"]
    assert tree(new) == {}


def test_input_that_changes_meanwhile(old: Path, new: Path) -> None:
    path = old / "guest0.save"
    item = Item(str(path), str(new / "guest0.save"), "mark-")
    result = convert_item(item, BatchOptions.of({}), lambda *_: os.utime(path, (1, 1)))
    assert result.error
    assert "it changed while it was read" in result.error["message"]
    assert tree(new) == {}


def test_defect_fails_the_image_alone(old: Path, new: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    item = Item(str(old / "guest0.save"), str(new / "guest0.save"), "mark-")
    result = convert_item(item, BatchOptions.of({}), broken)
    assert result.error
    assert (result.error["class"], result.error["exit_code"]) == ("ZeroDivisionError", 70)
    assert result.error["message"] == f"{item.input}: internal error: ZeroDivisionError: oh"
    assert result.image
    assert tree(new) == {}


def test_folder_is_synced_from_the_top(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a folder could be lost with all results in it."""
    synced: list[str] = []
    real = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", noted)
    convert_item(Item(str(old / "guest0.save"), str(new / "a" / "b" / "x"), "mark-"), BatchOptions.of({}))
    folders = [path for path in synced if os.path.isdir(path)]
    assert folders == [str(new.parent), str(new), str(new / "a"), str(new / "a" / "b")]


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the images of ../shared are not here")
def test_archive_of_images_that_xen_wrote(new: Path) -> None:
    """Of every release and carrier, compressed; those that fail are made to."""
    found = by_name(run(SAMPLES, new, prove=True, jobs=2))
    failed = {name: result for name, result in found.items() if result.failed}
    assert len(failed) < len(found) / 10
    for name, result in failed.items():
        assert result.error
        assert result.error["class"] in {"NotSupported", "TruncatedImage"}
        assert any(word in name for word in ("2level", "tmem", "cut"))
        assert result.image
        assert result.image["guest"] in name
    assert all(result.proven and result.verified for result in found.values() if not result.failed)
    assert run(SAMPLES, new, prove=True, resume=True, recheck=True, jobs=2)[0].failed
    assert len(list(results(str(new / "xenmig-np.jsonl")))) == len(found) + len(failed)


# ---- names -----------------------------------------------------------------------------------------------


def test_template(old: Path, new: Path) -> None:
    run(old, new, template="{target}/{stem}.xl")
    assert set(tree(new)) == {
        *(f"xen-4.6/guest{number}.xl" for number in (0, 1, 3, 4)),
        *(f"deep/xen-4.6/guest{number}.xl" for number in (2, 5)),
    }


@pytest.mark.parametrize(
    "template", ["{other}", "x", "/{name}", "../{name}", "a//{name}", "{", "{target}", "{0}"]
)
def test_template_that_is_none(template: str, old: Path, new: Path) -> None:
    with pytest.raises(UsageError, match="template"):
        run(old, new, template=template)
    assert not new.exists()


def test_clash_is_found_before_anything_is_done(old: Path, new: Path) -> None:
    (old / "guest0.img").write_bytes(SMALL)
    with pytest.raises(UsageError, match=r"names of results clash, found guest0\.xl, the name that"):
        run(old, new, template="{stem}.xl")
    assert tree(new) == {}


def test_no_image_clashes_with_none(old: Path, new: Path) -> None:
    (old / "guest0.txt").write_bytes(b"a note on guest0\n" * 99)
    assert len(run(old, new, template="{stem}.xl")) == 6


def test_name_that_is_the_folder_of_another(tmp_path: Path, new: Path) -> None:
    one, two = archive(tmp_path / "one", 1), archive(tmp_path / "two", 3)
    (one / "guest0.save").rename(one / "deep")
    with pytest.raises(UsageError, match="names of results clash"):
        list(xenmig_np.batch.run([str(one), str(two)], str(new)))


@pytest.mark.parametrize("source", ["old", "old/guest?.save", "old/**/*.save", "ol[d]"])
def test_sources(source: str, old: Path, new: Path) -> None:
    ran = batch("run", source, "--out", new, "--no-sync", cwd=old.parent)
    assert ran.code == 0
    folder = source == "ol[d]"
    deep = set() if "?" in source else {"deep/guest2.save", "deep/guest5.save"}
    names = {f"guest{number}.save" for number in (0, 1, 3, 4)} | deep
    assert set(tree(new)) == ({f"old/{name}" for name in names} if folder else names)


@pytest.mark.parametrize("nul", [False, True])
def test_list_of_names(nul: int, old: Path, new: Path) -> None:
    names = ["old/guest0.save", "old/deep/guest2.save", str(old / "guest1.save"), "old/none"]
    end = "\0" if nul else "\n"
    listed = "".join(name + end for name in names).encode()
    ran = batch(
        "run",
        "--from-file",
        "-",
        *(["-0"] if nul else []),
        "--out",
        new,
        "--no-sync",
        stdin=listed,
        cwd=old.parent,
    )
    assert ran.code == 5
    assert f"error: {old}/none: cannot be opened: No such file or directory" in ran.lines
    whole = str(old / "guest1.save").lstrip("/")
    assert set(tree(new)) == {"old/guest0.save", "old/deep/guest2.save", whole}


def test_source_twice_is_one(old: Path, new: Path) -> None:
    found = find_files([str(old), str(old / "deep"), str(old / "guest0.save")], [str(old / "guest1.save")])
    assert len(list(found)) == 6
    with pytest.raises(InputOutputError, match="No such file"):
        run(old / "none", new)
    with pytest.raises(InputOutputError, match="no file has such a name"):
        run(old / "no*", new)


def test_results_are_no_sources(old: Path) -> None:
    run(old, old / "new")
    assert len(run(old, old / "new", force=True)) == 6
    with pytest.raises(UsageError, match="it lies in the folder of the results"):
        run(old, old)
    assert set(tree(old)) == {*tree(old / "new"), *(f"new/{name}" for name in tree(old / "new"))}


def test_shards_share_the_list(old: Path, new: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        ran = batch("run", old, "--out", new, "--shard", f"{number}/3", "--no-sync")
        assert ran.code == 0
    assert tree(new, [name for name in os.listdir(new) if name.endswith(".jsonl")]) == {
        name: converted(data) for name, data in tree(old).items()
    }
    manifests = sorted(new.glob("xenmig-np.*.jsonl"))
    assert [path.name for path in manifests] == [f"xenmig-np.{number}-of-3.jsonl" for number in (1, 2, 3)]
    merged = tmp_path / "merged.jsonl"
    assert batch("merge", *manifests, "--out", merged).lines == [f"{merged}: 6 images"]
    assert len(last_results(merged, new)) == 6
    assert batch("merge", *manifests, "--out", merged).code == 6
    for path in manifests:
        for result in results(str(path)):
            assert result.output
            shard = shard_of(os.path.relpath(result.output, new), 3)
            assert path.name == f"xenmig-np.{shard}-of-3.jsonl"


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_shard_that_is_none(shard: str, old: Path, new: Path) -> None:
    assert batch("run", old, "--out", new, f"--shard={shard}").code == 2


# ---- what is there already -------------------------------------------------------------------------------


def test_existing_result_fails_unless_forced(old: Path, new: Path) -> None:
    new.mkdir()
    (new / "guest0.save").write_bytes(b"precious")
    result = by_name(run(old, new))["guest0.save"]
    assert result.error
    assert result.error["class"] == "OutputExists"
    assert (new / "guest0.save").read_bytes() == b"precious"
    result = by_name(run(old, new, resume=True))["guest0.save"]  # nor is it ours
    assert (result.failed, result.attempt) == (True, 2)
    assert (new / "guest0.save").read_bytes() == b"precious"
    assert {result.status for result in run(old, new, force=True)} == {"converted"}
    assert tree(new) == {name: converted(data) for name, data in tree(old).items()}


def test_manifest_is_not_begun_twice(old: Path, new: Path) -> None:
    run(old, new)
    with pytest.raises(OutputExists, match="a manifest is there already"):
        run(old, new)


def test_resume_does_what_is_left(old: Path, new: Path) -> None:
    whole = (old / "guest1.save").read_bytes()
    (old / "guest1.save").write_bytes(whole[:-3])
    assert len(run(old, new)) == 6
    assert [result.attempt for result in run(old, new, resume=True)] == [2]
    (old / "guest1.save").write_bytes(whole)
    (repeated,) = run(old, new, resume=True)
    assert (repeated.status, repeated.attempt) == ("converted", 3)
    assert run(old, new, resume=True) == []
    assert tree(new) == {name: converted(data) for name, data in tree(old).items()}


def test_resume_does_again_what_has_changed(old: Path, new: Path) -> None:
    run(old, new)
    (old / "guest0.save").write_bytes(sample("hvm", seed=77))
    (new / "guest1.save").unlink()
    found = by_name(run(old, new, resume=True))
    assert set(found) == {"guest0.save", "guest1.save"}
    assert {result.status for result in found.values()} == {"converted"}
    assert (new / "guest0.save").read_bytes() == converted(sample("hvm", seed=77))


def test_resume_with_other_options_does_all_again(old: Path, new: Path) -> None:
    run(old, new)
    assert len(run(old, new, resume=True, target="xen-4.14")) == 6
    assert tree(new) == {name: converted(data, target="xen-4.14") for name, data in tree(old).items()}
    assert run(old, new, resume=True, target="xen-4.14", jobs=1, nice=1) == []


def test_result_that_somebody_has_changed_is_kept(old: Path, new: Path) -> None:
    run(old, new)
    (new / "guest0.save").write_bytes(b"edited")
    result = by_name(run(old, new, resume=True))["guest0.save"]
    assert result.failed
    assert (new / "guest0.save").read_bytes() == b"edited"


def test_recheck_compares_digests(old: Path, new: Path) -> None:
    """Damage that neither size nor time shows."""
    run(old, new)
    path = new / "guest0.save"
    stamp = path.stat()
    data = bytearray(path.read_bytes())
    data[50_000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(old, new, resume=True) == []
    assert [result.input for result in run(old, new, resume=True, recheck=True)] == [str(old / "guest0.save")]
    assert path.read_bytes() == converted((old / "guest0.save").read_bytes())
    assert run(old, new, resume=True, recheck=True) == []
    with pytest.raises(UsageError, match="--recheck goes with --resume"):
        run(old, new, recheck=True)


# ---- the command -----------------------------------------------------------------------------------------


def test_command(old: Path, new: Path) -> None:
    (old / "note").write_text("hello" * 99)
    ran = batch("run", old, "--out", new)
    assert (ran.code, ran.out) == (0, b"")
    assert ran.lines[-1].startswith(f"{new}: 6 converted, 1 no image; ")
    ran = batch("run", old, "--out", new, "--resume", "--json")
    assert (ran.report["results"], ran.report["done_before"], ran.report["others"]) == (
        {},
        6,
        {"no image": 1},
    )
    assert (ran.report["schema"], ran.report["schema_version"]) == ("xenmig-np/batch", 1)


def test_exit_code_and_words_of_failure(old: Path, new: Path) -> None:
    (old / "guest0.save").write_bytes(SMALL[:-5])
    ran = batch("run", old, "--out", new)
    assert ran.code == 5
    assert ran.lines[0].startswith(f"error: {old}/guest0.save: ")
    assert ran.lines[-1].startswith(f"{new}: 5 converted, 1 failed; ")
    manifest = new / "xenmig-np.jsonl"
    assert batch("list", "--failed", "-0", manifest).out == os.fsencode(old / "guest0.save") + b"\0"
    assert len(batch("list", manifest).out.splitlines()) == 6
    assert batch("list", "--proven", manifest).out == b""
    ran = batch("run", old, "--out", new, "--resume", "--quiet")
    assert (ran.code, len(ran.lines)) == (5, 1)


def test_proven_originals_may_go_while_nothing_has_changed(old: Path, new: Path) -> None:
    batch("run", old, "--out", new, "--prove")
    manifest = new / "xenmig-np.jsonl"
    assert len(batch("list", "--proven", manifest).out.splitlines()) == 6
    (new / "guest0.save").unlink()
    (old / "guest1.save").write_bytes(b"other")
    left = batch("list", "--proven", "-0", manifest).out.split(b"\0")[:-1]
    assert left == [os.fsencode(path) for path in sorted(old.rglob("*.save")) if path.name[5] not in "01"]


def test_dry_run_is_exact_and_writes_nothing(old: Path, new: Path) -> None:
    (old / "guest0.save").write_bytes(SMALL[:-5])
    (old / "stream").write_bytes(converted(sample("pv32", seed=5, xl=True)))
    ran = batch("run", old, "--out", new, "--dry-run", "--json", "--streams", "copy")
    assert (ran.code, new.exists()) == (5, False)
    sizes = {item["output"]: item["bytes"] for item in ran.report["items"]}
    batch("run", old, "--out", new, "--streams", "copy")
    sizes.pop(str(new / "guest0.save"))
    assert sizes == {str(new / name): len(data) for name, data in tree(new).items()}
    assert ran.report["bytes_needed"] == sum(sizes.values())
    told = batch("run", old, "--out", new / "x", "--dry-run").out.decode().splitlines()
    assert f"{old}/stream -> {new}/x/stream: skip, 0 bytes" in told
    assert told[-1].startswith("7 images: needs ")


def test_space_that_will_not_do_is_told_at_once(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(len(converted(data)) for data in tree(old).values())
    monkeypatch.setattr("xenmig_np.batch.planning.free_bytes", lambda _path: needed - 1)
    with pytest.raises(Refused, match=f"needs {needed:,} bytes, it has {needed - 1:,} free"):
        run(old, new)
    assert tree(new) == {}
    monkeypatch.setattr("xenmig_np.batch.planning.free_bytes", lambda _path: needed)
    assert len(run(old, new)) == 6


def test_what_compression_will_leave_is_refused_by_nobody(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xenmig_np.batch.planning.free_bytes", lambda _path: MIB)
    arguments = ["batch", "run", str(old), "--out", str(new), "--compress", "gzip"]
    assert not app([*arguments, "--dry-run"], standalone_mode=False)
    assert "6 images: needs at most 6," in capsys.readouterr().out
    assert len(run(old, new, compress="gzip")) == 6


def test_run_that_is_left_early_says_so(old: Path, new: Path) -> None:
    running = xenmig_np.batch.run([str(old)], str(new), sync=False, jobs=1)
    next(running)
    running.close()  # type: ignore[attr-defined]
    (*_, end) = lines(str(new / "xenmig-np.jsonl"))
    assert (end["event"], end["results"], end["stopped"]) == ("end", {"converted": 1}, "interrupted")


def test_failed_images_are_listed_by_their_own_names(old: Path, new: Path) -> None:
    """Also where something else was in the way."""
    (new / "deep").mkdir(parents=True)
    (new / "deep" / "guest2.save").write_bytes(b"mine")
    what = f"{old}/deep/guest2.save: {new}/deep/guest2.save: exists already"
    assert f"error: {what}" in batch("run", old, "--out", new).lines
    listed = batch("list", "--failed", new / "xenmig-np.jsonl").out.decode()
    assert listed == f"failed    {what}\n"


def test_usage(old: Path, new: Path) -> None:
    assert batch("run", "--out", new).code == 2
    assert batch("run", old).code == 2
    assert batch("run", old, "--out", new, "--rate", "0").code == 2
    assert batch("run", old, "--out", new, "--format", "libxl", "--skip-qemu").code == 2
    assert batch("list", "--proven", "--failed", "x").code == 2
    assert batch("list", new / "none").code == 4
    assert not new.exists()


def test_progress_in_json(old: Path, new: Path) -> None:
    ran = batch("run", old, "--out", new, "--progress", "json", "--rate", "3M", "--jobs", "1")
    told = [json.loads(line) for line in ran.lines]
    assert [line["status"] for line in told if line["type"] == "result"] == ["converted"] * 6
    (first, *_) = (line for line in told if line["type"] == "progress")
    assert 0 < first["bytes"] < first["bytes_total"] == sum(map(len, tree(old).values()))
    assert first["images_total"] == 6
    assert first["seconds_left"] > 0


def test_bars_on_a_terminal(old: Path, new: Path) -> None:
    """One of all, and one of each worker."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
    with subprocess.Popen(
        [*BATCH, "run", old, "--out", new, "--rate", "3M", "--jobs", "2"], stderr=theirs, env=ENVIRONMENT
    ) as process:
        os.close(theirs)
        told = b""
        with contextlib.suppress(OSError):  # that is how its end shows
            while data := os.read(ours, 1 << 16):
                told += data
        os.close(ours)
    assert process.returncode == 0
    for sign in (
        rb"all: .*/6\.\d+M .*\d images, 0 failed",
        rb"guest\d\.save: .*/1\.\d+M ",
        rb"6 converted; 6\.\d MiB",
    ):
        assert re.search(sign, told), told


def test_rate_holds_back(tmp_path: Path, new: Path) -> None:
    archive(tmp_path / "old", 4)
    began = time.monotonic()
    run(tmp_path / "old", new, rate=4 * MIB, jobs=2)
    assert time.monotonic() - began > 0.75 * sum(map(len, tree(new).values())) / (4 * MIB)


def test_nice_is_that_of_workers(old: Path, new: Path) -> None:
    seen: set[int] = set()

    def watch(event: object) -> None:
        if isinstance(event, Moved):
            seen.update(_niceness_of_children())

    run(old, new, nice=7, jobs=1, rate=2 * MIB, watch=watch)
    assert seen == {os.nice(0) + 7}


def _niceness_of_children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return {os.getpriority(os.PRIO_PROCESS, int(pid)) for pid in file.read().split()}


def test_events_come_in_order(old: Path, new: Path) -> None:
    seen: list[Any] = []
    run(old, new, watch=seen.append, jobs=2)
    begun = [event.item.input for event in seen if isinstance(event, Begun)]
    ended = [event.item.input for event in seen if isinstance(event, Ended)]
    assert sorted(begun) == sorted(ended) == sorted(map(str, old.rglob("*.save")))
    for item in begun:
        own = [type(event) for event in seen if getattr(getattr(event, "item", None), "input", None) == item]
        assert (own[0], own[-1]) == (Begun, Ended)


def test_leaving_early_ends_the_workers(old: Path, new: Path) -> None:
    found = xenmig_np.batch.run([str(old)], str(new), jobs=2, sync=False)
    next(found)
    found.close()  # type: ignore[attr-defined]
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        assert file.read() == ""
    assert not [name for name in tree(new) if name.endswith(".part")]
    run(old, new, resume=True)
    assert tree(new) == {name: converted(data) for name, data in tree(old).items()}


def test_public_names() -> None:
    for name in xenmig_np.batch.__all__:
        assert getattr(xenmig_np.batch, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = xenmig_np.batch.nothing


def test_worker_that_never_starts(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is one error, not one for each image."""
    monkeypatch.setattr("xenmig_np.batch.pool.BOOT", "raise SystemExit(3)")
    with pytest.raises(WorkerDied, match="the worker ended with exit code 3"):
        run(old, new)
    assert list(results(str(new / "xenmig-np.jsonl"))) == []
    monkeypatch.undo()
    assert len(run(old, new, resume=True)) == 6


def test_manifest_that_would_be_a_result(old: Path, new: Path) -> None:
    with pytest.raises(UsageError, match="the manifest has the name of a result"):
        run(old, new, force=True, manifest=str(new / "guest0.save"))
    assert run(old, new, manifest=str(new / "manifest"))
