"""Digests that are taken as bytes pass are those of the files."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import MIB, sample

import xenmig_np
from xenmig_np.batch import BatchOptions, Item, convert_item
from xenmig_np.errors import InputOutputError, NotSupported, UsageError
from xenmig_np.io.digest import Digests, HashedSource, file_digest, new_hash
from xenmig_np.io.source import FileSource, open_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_reads(seed: int, put: Callable[..., Path]) -> None:
    """Gaps are fetched, what was read before is not taken twice."""
    chance = random.Random(seed)
    data = chance.randbytes(chance.randrange(900_000))
    with open_source(put(data)) as file:
        assert isinstance(file, FileSource)
        source = HashedSource(file, new_hash("sha256"))
        at = 0
        for _ in range(chance.randrange(20)):
            at = chance.choice([at, at + chance.randrange(5000), chance.randrange(len(data) + 5000)])
            into = bytearray(chance.randrange(100_000))
            got = source.read_at(at, memoryview(into))
            assert bytes(into[:got]) == data[at : at + len(into)]
            at += got
        assert source.finished() == sha256(data)


def done(old: Path, new: Path, **options: object) -> tuple[str | None, str | None]:
    """Digests that an item's result has."""
    result = convert_item(
        Item(str(old), str(new), "mark-"),
        BatchOptions.of({}, **{"digest": "sha256"} | options),
    )
    assert result.error is None
    assert (result.status, result.digest) == ("converted", options.get("digest", "sha256"))
    return result.input_digest, result.output_digest


@pytest.mark.parametrize("guest", ["hvm", "pv64", "pv32"])
@pytest.mark.parametrize("options", [{}, {"live": True}, {"xl": True}, {"live": True, "xl": True}], ids=str)
def test_conversion(guest: str, options: dict[str, bool], put: Callable[..., Path], tmp_path: Path) -> None:
    """A guest that gave memory back has pages that are left out: they are of the digest all the same."""
    old, new = put(sample(guest, memory=4 * MIB, **options)), tmp_path / "new"
    assert done(old, new) == (sha256(old.read_bytes()), sha256(new.read_bytes()))


def test_large_outputs_are_written_in_order(put: Callable[..., Path], tmp_path: Path) -> None:
    """Without a digest several threads write them."""
    old, new = put(sample("hvm", memory=66 * MIB)), tmp_path / "new"
    assert done(old, new) == (sha256(old.read_bytes()), sha256(new.read_bytes()))


@pytest.mark.parametrize("convert", [{"sparse": True}, {"compress": "gzip"}, {"drop_cache": True}])
def test_ways_of_writing(convert: dict[str, object], put: Callable[..., Path], tmp_path: Path) -> None:
    old, new = put(sample("hvm")), tmp_path / "new"
    item = Item(str(old), str(new), "mark-")
    result = convert_item(item, BatchOptions.of(convert))
    assert result.input_digest == sha256(old.read_bytes())
    assert result.output_digest == sha256(new.read_bytes())


def test_digest_of_an_archive_is_that_of_the_file(put: Callable[..., Path], tmp_path: Path) -> None:
    old, new = put(gzip.compress(sample("pv64"), 1)), tmp_path / "new"
    assert done(old, new) == (sha256(old.read_bytes()), sha256(new.read_bytes()))


def test_stream_that_is_copied(put: Callable[..., Path], tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    xenmig_np.convert(str(put(sample("pv64"))), str(stream))
    item = Item(str(stream), str(tmp_path / "new"), "mark-", is_stream=True)
    result = convert_item(item, BatchOptions.of({}, streams="copy"))
    assert (result.status, result.verified) == ("copied", True)
    assert (tmp_path / "new").read_bytes() == stream.read_bytes()
    assert result.input_digest == result.output_digest == sha256(stream.read_bytes())


def test_xxh3(put: Callable[..., Path], tmp_path: Path) -> None:
    xxhash = pytest.importorskip("xxhash")
    old, new = put(sample("hvm")), tmp_path / "new"
    wanted = tuple(xxhash.xxh3_128(path.read_bytes()).hexdigest() for path in (old,))
    found = done(old, new, digest="xxh3")
    assert found == (*wanted, xxhash.xxh3_128(new.read_bytes()).hexdigest())


def test_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(NotSupported, match="xxhash") as raised:
        BatchOptions.of({}, digest="xxh3")
    assert raised.value.hint == "pip install 'xenmig-np[xxhash]'"


def test_unknown_algorithm() -> None:
    with pytest.raises(UsageError, match="found 'md5', expected sha256, xxh3, none"):
        Digests("/dev/null", "md5")


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputOutputError, match="cannot be opened: No such file"):
        file_digest(str(tmp_path / "none"), "sha256")


def test_output_that_did_not_pass_is_read(put: Callable[..., Path]) -> None:
    path = str(put(b"some bytes"))
    taken = Digests(path, "sha256")
    fd = os.open(path, os.O_RDONLY)
    try:
        taken.finish(fd, path)
    finally:
        os.close(fd)
    assert taken.input == taken.output == sha256(b"some bytes")
