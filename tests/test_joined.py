"""Images that were split over several files: what is read is what one file would give."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import open_file, piped, sample, xenmig
from hypothesis import given
from hypothesis import strategies as st
from test_checkpoints import remus

import xenmig_np
from xenmig_np.errors import InputOutputError, InvalidImage, UsageError
from xenmig_np.io.joined import Joined
from xenmig_np.io.source import FileSource, Source, open_source
from xenmig_np.testing.builder import boundaries, small_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def split(data: bytes, cuts: Iterable[int], folder: Path, name: str = "old") -> list[str]:
    """Files ``name``, ``name.1`` and so on with the bytes between the cuts."""
    begins = [0, *sorted(cuts), len(data)]
    paths = [folder / (f"{name}.{number}" if number else name) for number in range(len(begins) - 1)]
    for path, (begin, end) in zip(paths, itertools.pairwise(begins), strict=True):
        path.write_bytes(data[begin:end])
    return [str(path) for path in paths]


def third(data: bytes) -> list[int]:
    return [len(data) // 3, 2 * len(data) // 3]


def further(paths: list[str]) -> list[str]:
    """The options that name the parts behind the first."""
    return [argument for path in paths[1:] for argument in ("--part", path)]


@contextlib.contextmanager
def in_memory(data: bytes, cuts: list[int]) -> Iterator[list[int]]:
    """Descriptors of files with the bytes between the cuts."""
    begins = [0, *sorted(cuts), len(data)]
    with contextlib.ExitStack() as stack:
        fds = []
        for begin, end in itertools.pairwise(begins):
            fds.append(stack.enter_context(open_file(data[begin:end])))
        yield fds


def read(source: Source, offset: int, length: int) -> bytes:
    into = bytearray(length)
    return bytes(into[: source.read_at(offset, memoryview(into))])


# ---- bytes -----------------------------------------------------------------------------------------------


@given(st.binary(max_size=40), st.data())
def test_reads_as_one_file(data: bytes, drawn: st.DataObject) -> None:
    places = st.integers(0, len(data))
    cuts = drawn.draw(st.lists(places, min_size=1, max_size=5))
    with in_memory(data, cuts) as fds, open_source(fds) as source:
        assert isinstance(source, Joined)
        assert (source.start, source.end, source.fds) == (0, len(data), tuple(fds))
        for offset, length in drawn.draw(st.lists(st.tuples(places, st.integers(0, 50)), max_size=5)):
            assert read(source, offset, length) == data[offset : offset + length]
        for offset in drawn.draw(st.lists(places, max_size=5)):
            fd, at = source.splice_from(offset)
            here = os.pread(fd, 50, at)
            assert data[offset:].startswith(here)
            assert here or offset == len(data)


def test_parts_begin_where_their_descriptors_stand() -> None:
    with in_memory(b"..0123...456789", [6]) as fds:
        os.lseek(fds[0], 2, os.SEEK_SET)
        os.lseek(fds[1], 3, os.SEEK_SET)
        with open_source(fds) as source:
            assert (source.start, source.end) == (2, 12)
            assert read(source, 2, 99) == b"0123456789"
            source.leave(8)
        assert os.read(fds[1], 9) == b"6789"


def test_one_part_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"abc")
    with open_source([tmp_path / "old"]) as source:
        assert type(source) is FileSource


def test_no_part_at_all() -> None:
    with pytest.raises(UsageError, match="no input"):
        open_source([])


def test_a_pipe_is_no_part(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"abc")
    with piped(b"def") as pipe:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(UsageError, match="a part that is no file") as raised:
            open_source([tmp_path / "old", pipe])
        assert os.listdir("/proc/self/fd") == before  # what was opened has been closed
    assert raised.value.hint == "join them: cat PART... | xenmig-np ... -"


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"abc")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(InputOutputError, match=r"old\.1: cannot be opened"):
        open_source([tmp_path / "old", tmp_path / "old.1"])
    assert os.listdir("/proc/self/fd") == before  # what was opened has been closed


# ---- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("guest", ["hvm", "pv64"])
def test_every_command_takes_the_parts(guest: str, tmp_path: Path) -> None:
    data = sample(guest)
    parts = split(data, third(data), tmp_path)
    whole = tmp_path / "whole"
    whole.write_bytes(data)
    new, wanted = tmp_path / "new", tmp_path / "wanted"
    assert xenmig("convert", whole, wanted).code == 0
    assert xenmig("convert", parts[0], new, *further(parts)).code == 0
    assert new.read_bytes() == wanted.read_bytes()
    assert xenmig("convert", parts[0], "-", *further(parts)).out == wanted.read_bytes()
    for command in ("info", "dump", "verify"):
        one = xenmig(command, parts[0], *further(parts))
        other = xenmig(command, whole)
        assert (one.code, other.code) == (0, 0)
        assert one.out.decode() == other.out.decode().replace(str(whole), f"{parts[0]} and 2 more")
    proof = xenmig("verify", "--against", parts[0], *further(parts), new)
    assert (proof.code, b"identical" in proof.out) == (0, True)


def test_plan_of_parts(tmp_path: Path) -> None:
    data = sample("hvm")
    parts = split(data, third(data), tmp_path)
    planned = xenmig("convert", "--dry-run", "--json", parts[0], tmp_path / "new", *further(parts)).report
    made = xenmig("convert", "--json", parts[0], tmp_path / "new", *further(parts)).report
    assert planned["bytes"] == made["bytes"] == (tmp_path / "new").stat().st_size
    assert made["input"]["path"] == f"{parts[0]} and 2 more"


def test_parts_are_salvaged(tmp_path: Path) -> None:
    data = sample("hvm")[:-5000]
    parts = split(data, third(data), tmp_path)
    whole = tmp_path / "whole"
    whole.write_bytes(data)
    assert xenmig("convert", "--salvage", whole, tmp_path / "wanted").code == 7
    assert xenmig("convert", "--salvage", parts[0], tmp_path / "new", *further(parts)).code == 7
    assert (tmp_path / "new.raw").read_bytes() == (tmp_path / "wanted.raw").read_bytes()


def test_an_archive_that_was_split(tmp_path: Path) -> None:
    data = sample("hvm")
    packed = gzip.compress(data, 1)
    parts = split(packed, third(packed), tmp_path)
    made = xenmig_np.convert(parts, tmp_path / "new")
    assert made.bytes == xenmig_np.convert(split(data, [], tmp_path, "whole"), tmp_path / "wanted").bytes
    assert (tmp_path / "new").read_bytes() == (tmp_path / "wanted").read_bytes()


def test_parts_that_were_compressed(tmp_path: Path) -> None:
    data = sample("hvm")
    xenmig_np.convert(split(data, [], tmp_path, "whole"), tmp_path / "wanted")
    parts = split(data, third(data), tmp_path)
    for part in parts:
        Path(part).write_bytes(gzip.compress(Path(part).read_bytes(), 1))
    xenmig_np.convert(parts, tmp_path / "new", spool=tmp_path)
    assert (tmp_path / "new").read_bytes() == (tmp_path / "wanted").read_bytes()


def test_cache_of_all_parts_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sample("hvm")
    parts = split(data, third(data), tmp_path)
    numbers = {os.stat(part).st_ino for part in parts}
    dropped: set[int] = set()
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *_: dropped.add(os.fstat(fd).st_ino))
    xenmig_np.convert(parts, tmp_path / "new", drop_cache=True)
    assert dropped > numbers


# ---- what goes wrong -------------------------------------------------------------------------------------


def test_an_error_names_the_part_and_the_offset_in_it(tmp_path: Path) -> None:
    image = small_image("hvm")
    data = bytearray(image.to_bytes())
    batch = boundaries(image)[1]
    data[batch : batch + 4] = b"\xff\xff\x00\x00"  # the number of words
    parts = split(bytes(data), [batch - 7], tmp_path)
    with pytest.raises(InvalidImage) as raised:
        xenmig_np.convert(parts, tmp_path / "new", width=64, guest="hvm")
    assert (raised.value.path, raised.value.offset) == (parts[1], 7)


def test_an_end_that_is_missing_is_in_the_last_part(tmp_path: Path) -> None:
    data = sample("hvm")[:-5000]
    parts = split(data, third(data), tmp_path)
    (tmp_path / "old.3").write_bytes(b"the rest")
    ran = xenmig("convert", parts[0], tmp_path / "new", *further(parts))
    assert ran.code == 1
    assert ran.lines[0].startswith(f"error: {parts[2]}: ")
    assert ran.lines[-1] == f"hint: there are further parts of it: add --part {tmp_path}/old.3"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_part_is_not_overwritten(number: int, tmp_path: Path) -> None:
    data = sample("hvm")
    parts = split(data, third(data), tmp_path)
    ran = xenmig("convert", "--force", parts[0], parts[number], *further(parts))
    assert (ran.code, "is the input itself" in ran.err) == (6, True)
    assert b"".join(Path(part).read_bytes() for part in parts) == data


def test_parts_of_which_image(tmp_path: Path) -> None:
    ran = xenmig("verify", tmp_path / "a", tmp_path / "b", "--part", tmp_path / "c")
    assert (ran.code, "--part goes with one INPUT" in ran.err) == (2, True)


# ---- parts that were forgotten ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["convert"], ["convert", "--dry-run"], ["info"], ["dump"]])
def test_the_rest_of_a_split_image_is_named(command: list[str], tmp_path: Path) -> None:
    """Remus could split an image over PATH, PATH.1 and so on (legacy-stream.md 0); the hint is right."""
    data = sample("hvm")
    parts = split(data, third(data), tmp_path, "it's old")
    output = [str(tmp_path / "new")] if command[0] == "convert" else []
    ran = xenmig(*command, parts[0], *output)
    assert ran.code == 1
    told, _, options = ran.lines[-1].partition("add ")
    assert told == "hint: there are further parts of it: "
    assert shlex.split(options) == further(parts)
    assert xenmig(*command, parts[0], *output, *shlex.split(options)).code == 0


def test_a_part_that_is_whole_needs_no_other(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(sample("hvm"))
    (tmp_path / "old.1").write_bytes(b"something else")
    ran = xenmig("convert", tmp_path / "old", tmp_path / "new")
    assert (ran.code, "further parts" in ran.err) == (0, False)


def test_damage_is_not_put_down_to_a_missing_part(tmp_path: Path) -> None:
    (tmp_path / "old.1").write_bytes(b"something else")
    data = bytearray(sample("hvm"))
    data[8:12] = b"\xff" * 4  # the number of words of the first batch
    (tmp_path / "old").write_bytes(data)
    ran = xenmig("convert", tmp_path / "old", tmp_path / "new", "--width", "64", "--guest", "hvm")
    assert (ran.code, "further parts" in ran.err) == (1, False)


def test_a_stream_that_ends_early_has_no_parts(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(sample("hvm"))
    (tmp_path / "old.1").write_bytes(b"something else")
    xenmig("convert", tmp_path / "old", tmp_path / "new")
    os.truncate(tmp_path / "new", 20_000)
    ran = xenmig("verify", "--against", tmp_path / "old", tmp_path / "new")
    assert (ran.code, "further parts" in ran.err) == (1, False)


@pytest.mark.parametrize("cut", [0, 9])
def test_checkpoints_in_further_parts(cut: int, tmp_path: Path) -> None:
    """A first part alone is good, but of the past: a warning tells that there is more."""
    image = remus(later=2)
    data = image.to_bytes()
    first = len(remus(later=1).to_bytes())
    parts = split(data, [first + cut], tmp_path)
    early = xenmig("convert", parts[0], tmp_path / "early")
    assert early.code == 0
    warning = f"warning: {parts[0]}: the last checkpoint in this file counts; "
    assert f"{warning}there are further parts of it: add --part {parts[1]}" in early.lines
    late = xenmig("convert", parts[0], tmp_path / "late", *further(parts))
    assert (late.code, warning in late.err) == (0, False)
    assert b"QEVM later\1" in (tmp_path / "early").read_bytes()
    assert b"QEVM later\2" in (tmp_path / "late").read_bytes()
