"""The manifest: whole lines or none, one run at a time, and room for large archives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ENVIRONMENT, piped, sample, xenmig

from xenmig_np.batch import BatchOptions, Item, Result, convert_item, merge, results
from xenmig_np.batch.manifest import InvalidManifest, Manifest, end_line, lines, run_line
from xenmig_np.errors import InputOutputError, NotSupported, OutputExists, Refused, UsageError

if TYPE_CHECKING:
    from pathlib import Path

FIRST = run_line("aaaa", "/new")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest"


def opened(path: Path, **options: Any) -> Manifest:
    return Manifest(str(path), **{"resume": True, "sync": True, "wait": 0.0} | options)


def one_result(**changes: Any) -> Result:
    """A result of nothing, changed."""
    result = convert_item(Item("/none", "/new/none", "aaaa-1-", "aaaa"), BatchOptions.of({}))
    return Result.from_dict(result.to_dict() | changes)


def test_lines_are_appended_and_read(path: Path) -> None:
    with opened(path) as manifest:
        manifest.append(FIRST)
    with opened(path) as manifest:
        manifest.append(end_line("aaaa"))
        assert list(manifest.lines()) == [FIRST, end_line("aaaa")]
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    "torn", [b"{", b"\0" * 5000, json.dumps(FIRST).encode(), b'{"schema": "' + b"x" * 200_000]
)
def test_torn_last_line_is_taken_away(torn: bytes, path: Path) -> None:
    with opened(path) as manifest:
        manifest.append(FIRST)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert list(lines(str(path))) == [FIRST]
    with opened(path) as manifest:
        assert path.read_bytes() == whole
        manifest.append(end_line("aaaa"))
    assert list(lines(str(path))) == [FIRST, end_line("aaaa")]


@pytest.mark.parametrize(
    "data", [b"an image", bytes(5000), b"{", b'{"schema":"other"}\n', b'{"schema":"xenmig-np/m', b"\n"]
)
def test_other_files_are_not_touched(data: bytes, path: Path) -> None:
    """The name of an image, given by mistake, must not cost a byte of it."""
    path.write_bytes(data)
    if b'{"schema":"xenmig-np/manifest"'.startswith(data):
        opened(path).close()
        assert path.read_bytes() == b""
    else:
        with pytest.raises(InvalidManifest, match="expected xenmig-np/manifest"):
            opened(path)
        assert path.read_bytes() == data


def test_nothing_but_a_torn_line(path: Path) -> None:
    path.write_bytes(b'{"schema"')
    with opened(path, resume=False) as manifest:
        manifest.append(FIRST)
    assert list(lines(str(path))) == [FIRST]


@pytest.mark.parametrize(
    "line",
    [b"no JSON", b"[]", b"{}", b'{"schema": "other"}', b"[" * 100_000, b"\xff"],
    ids=lambda line: ascii(line[:20]),
)
def test_other_lines_that_are_none(line: bytes, path: Path) -> None:
    begin = json.dumps(FIRST).encode() + b"\n"
    path.write_bytes(begin + line + b"\n" + begin)
    with pytest.raises(InvalidManifest, match="expected xenmig-np/manifest") as raised:
        list(lines(str(path)))
    assert raised.value.offset == len(begin)


def test_line_without_an_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenmig_np.batch.manifest.LINE_MAX", 1000)
    path.write_bytes(b"x" * 1001)
    with pytest.raises(InvalidManifest, match="more than 1,000 bytes"):
        list(lines(str(path)))


def test_later_version(path: Path) -> None:
    path.write_text(json.dumps(FIRST | {"schema_version": 2}) + "\n")
    with pytest.raises(NotSupported, match="manifest version 2"):
        list(lines(str(path)))


def test_result_lacks_something(path: Path) -> None:
    path.write_text(json.dumps({**FIRST, "event": "image"}) + "\n")
    with pytest.raises(InvalidManifest, match="line 1"):
        list(results(str(path)))


def test_fields_of_later_releases_are_passed_over(path: Path) -> None:
    line = one_result().to_dict()
    path.write_text(json.dumps(line | {"later": 1}) + "\n")
    assert [result.to_dict() for result in results(str(path))] == [line]


def test_one_run_at_a_time(path: Path) -> None:
    with opened(path), pytest.raises(Refused, match="another run has this manifest"):
        opened(path)
    opened(path).close()


def test_lock_is_held_by_whoever_has_the_descriptor(path: Path) -> None:
    """A worker that outlives its run still may write: the next one waits for it."""
    manifest = opened(path)
    other = os.dup(manifest.fd)
    manifest.close()
    with pytest.raises(Refused):
        opened(path)
    os.close(other)
    opened(path).close()


def test_new_run_wants_an_empty_one(path: Path) -> None:
    with opened(path, resume=False) as manifest:
        manifest.append(FIRST)
    with pytest.raises(OutputExists):
        opened(path, resume=False)


def test_no_part_of_a_line_stays_where_there_is_no_room(path: Path) -> None:
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY)); "
        "from xenmig_np.batch.manifest import Manifest, run_line; "
        "manifest = Manifest(sys.argv[1], resume=True, sync=True); "
        "manifest.append(run_line('aaaa', '/new')); manifest.append(run_line('x' * 3000, '/new'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert "writing failed: File too large" in done.stderr
    assert path.read_text() == json.dumps(FIRST, separators=(",", ":")) + "\n"


def test_places_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputOutputError, match="cannot be written: Is a directory"):
        opened(tmp_path)
    with pytest.raises(InputOutputError, match="cannot be read: No such file"):
        list(lines(str(tmp_path / "none")))


def test_merge_takes_the_last_result(tmp_path: Path) -> None:
    first, second, merged = (str(tmp_path / name) for name in ("first", "second", "merged"))
    early = one_result(input="/a", status="failed", attempt=1, began=10.0)
    late = one_result(
        input="/a", status="converted", attempt=2, began=5.0
    )  # of a machine whose clock is slow
    other = one_result(input="/b", began=1.0)
    again = one_result(input="/b", began=2.0)
    for path, some in ((first, (late, other)), (second, (early, again))):
        with open(path, "w", encoding="ascii") as file:
            file.writelines(json.dumps(result.to_dict()) + "\n" for result in some)
    assert merge([first, second], merged) == 2
    assert list(results(merged)) == [late, again]
    with pytest.raises(OutputExists):
        merge([first], merged)
    with pytest.raises(UsageError):
        merge([], merged, force=True)
    assert merge([second], merged, force=True) == 2


def test_manifest_from_a_pipe(tmp_path: Path) -> None:
    """It is read twice all the same."""
    results_of_two = [one_result(input="/b"), one_result(input="/a"), one_result(input="/b", began=9.0)]
    text = "".join(json.dumps(result.to_dict()) + "\n" for result in results_of_two)
    with piped(text.encode()) as pipe:
        ran = xenmig("batch", "list", "--null", f"/dev/fd/{pipe}", pass_fds=(pipe,))
    assert (ran.code, ran.out) == (0, b"/a\0/b\0")


def test_large_manifest_takes_little_memory(tmp_path: Path) -> None:
    """100,000 images that are done, in a folder tree of as many files: the parent alone, below 200 MiB."""
    old, new = tmp_path / "old", tmp_path / "new"
    count = 100_000
    old.mkdir()
    new.mkdir()
    image = old / "guest.save"
    image.write_bytes(sample("hvm"))
    item = Item(str(image), str(new / "guest.save"), "aaaa-1-", "aaaa")
    line = convert_item(item, BatchOptions.of({}, sync=False)).to_dict()
    with open(new / "xenmig-np.jsonl", "w", encoding="ascii") as file:
        file.write(json.dumps(FIRST) + "\n")
        for number in range(count):
            name = f"a folder with a usual name/guest-of-an-archive-{number:06}.save"
            changed = {"input": f"{old}/{name}", "output": f"{new}/{name}"}
            file.write(json.dumps(line | changed) + "\n")
        file.write(json.dumps(end_line("aaaa")) + "\n")
    for folder, of in ((old, image), (new, new / "guest.save")):
        below = folder / "a folder with a usual name"
        below.mkdir()
        names = [below / f"guest-of-an-archive-{number:06}.save" for number in range(count)]
        for number, path in enumerate(names):
            begin = names[number - number % 50_000]  # no file has more names on some file systems
            if path is begin:
                shutil.copy2(of, path)
            else:
                os.link(begin, path)
    image.unlink()
    program = (
        "import sys; import xenmig_np.batch as b\n"
        "plans = []\n"
        "done = list(b.run([sys.argv[1]], sys.argv[2], resume=True, sync=False, watch=plans.append))\n"
        "status = open('/proc/self/status').read().split()\n"
        "print(len(done), plans[0].done, status[status.index('VmHWM:') + 1])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, old, new], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    again, done, peak = map(int, ran.stdout.split())
    assert (again, done) == (0, count)
    assert peak < 200 << 10
    program = (
        "import sys; import xenmig_np.batch as b\n"
        "count = b.merge([sys.argv[1]], sys.argv[2])\n"
        "status = open('/proc/self/status').read().split()\n"
        "print(count, status[status.index('VmHWM:') + 1])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, new / "xenmig-np.jsonl", tmp_path / "merged"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=True,
    )
    merged, peak = map(int, ran.stdout.split())
    assert merged == count
    assert peak < 200 << 10
