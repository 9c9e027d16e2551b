"""Compressed inputs are what is in them, or an error: from files and pipes, cut, damaged, nested, huge."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tracemalloc
import zlib
from contextlib import ExitStack
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import converted, open_file, piped, sample, xenmig
from hypothesis import given, settings
from hypothesis import strategies as st

import xenmig_np
from xenmig_np.errors import ExitCode, InvalidImage, NotRecognised, NotSupported, TruncatedImage, XenmigError
from xenmig_np.io import codecs
from xenmig_np.io.codecs import library, recognised
from xenmig_np.io.compressed import BACK, STARTS_MAX, CompressedFile, DamagedArchive, TruncatedArchive
from xenmig_np.io.source import open_source, spool
from xenmig_np.limits import MIB, TRAILING_COUNTED
from xenmig_np.read.listing import entries
from xenmig_np.testing.builder import small_image
from xenmig_np.wire.compression import BZIP2, COMPRESSIONS, GZIP, LOOK, LZ4, XZ, ZSTD, Compression

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from xenmig_np.io.source import Source
    from xenmig_np.testing.builder import GuestKind

    Feed = Callable[[bytes], AbstractContextManager[int]]
    """Makes a descriptor that gives bytes."""

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
REAL = ("hvm-45-t64-xl-json", "pv64-45-t64-xl-json", "real/real_pv64s_live_xl")
"""The last one gave pages back while it was saved (D22)."""
KINDS: tuple[GuestKind, ...] = ("hvm", "pv64")
IMAGES = {
    "hvm": sample("hvm"),
    "hvm, 32-bit": sample("hvm", 32),
    "pv64, live": sample("pv64", live=True),
    "stream": converted(sample("pv64")),
}
SKIPPABLE = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
"""A frame of zstd and lz4 that holds nothing."""
every_format = pytest.mark.parametrize("row", COMPRESSIONS, ids=lambda row: row.name)
from_both = pytest.mark.parametrize("feed", [open_file, piped], ids=["file", "pipe"])


@lru_cache(maxsize=256)
def packed(row: Compression, data: bytes) -> bytes:
    """An archive of one member, with all checksums that its format knows."""
    try:
        module = library(row)
    except NotSupported as error:
        pytest.skip(f"{error.what}: {error.hint}")
    if row is ZSTD:
        return bytes(module.compress(data, options={module.CompressionParameter.checksum_flag: 1}))
    makers: dict[str, Callable[[bytes], bytes]] = {
        GZIP.name: lambda some: gzip.compress(some, mtime=0),
        BZIP2.name: bz2.compress,
        XZ.name: lambda some: lzma.compress(some, preset=0),
        LZ4.name: lambda some: bytes(module.compress(some, content_checksum=True)),
    }
    return makers[row.name](data)


def opened(stack: ExitStack, data: bytes, feed: Feed = open_file) -> Source:
    return stack.enter_context(open_source(stack.enter_context(feed(data))))


def read(source: Source, offset: int, length: int) -> bytes:
    into = bytearray(length)
    return bytes(into[: source.read_at(offset, memoryview(into))])


def everything(data: bytes, feed: Feed = open_file) -> bytes:
    """What comes out of an input."""
    with ExitStack() as stack:
        source = opened(stack, data, feed)
        source.release()
        parts = []
        at = 0
        while part := read(source, at, 50_000):
            parts.append(part)
            at += len(part)
        return b"".join(parts)


# ---- the same as of the plain file -----------------------------------------------------------------------


def results(data: bytes, feed: Feed) -> list[Any]:
    """What the functions of the library make of an input, or the error."""

    def convert(fd: int) -> Any:
        with open_file() as new:
            made = xenmig_np.convert(fd, new).to_dict()
            made["seconds"] = 0
            return os.pread(new, 1 << 26, 0), made

    def dump(fd: int) -> Any:
        with open_source(fd) as source:
            return list(entries(source))

    def verify(fd: int) -> Any:
        return xenmig_np.verify(fd).to_dict()

    found = []
    for function in (convert, dump, verify):
        with feed(data) as fd:
            try:
                found.append(function(fd))
            except XenmigError as error:
                found.append(error.to_dict())
    return [_nameless(result) for result in found]


def _nameless(result: Any) -> Any:
    """Descriptors have other numbers each time."""
    if isinstance(result, dict):
        return {key: _nameless(value) for key, value in result.items() if key not in {"path", "output"}}
    if isinstance(result, tuple):
        return tuple(_nameless(part) for part in result)
    return result


@every_format
@from_both
@pytest.mark.parametrize("name", IMAGES)
def test_like_the_plain_file(name: str, row: Compression, feed: Feed) -> None:
    data = IMAGES[name]
    assert results(packed(row, data), feed) == results(data, feed)


@every_format
@pytest.mark.parametrize("name", REAL)
def test_like_the_plain_file_of_a_sample(name: str, row: Compression) -> None:
    archive = SAMPLES / f"{name}.xz"
    if not archive.exists():
        pytest.skip(f"no {archive}")
    data = lzma.decompress(archive.read_bytes())
    compressed = archive.read_bytes() if row is XZ else packed(row, data)
    assert results(compressed, open_file) == results(data, open_file)
    with open_file(compressed) as old, open_file(packed(row, converted(data))) as new:
        assert xenmig_np.compare(new, old).deletable


def test_command(tmp_path: Path) -> None:
    data = sample("hvm", live=True)
    (tmp_path / "old").write_bytes(packed(GZIP, data))
    (tmp_path / "plain").write_bytes(data)
    ran = xenmig("convert", tmp_path / "old", tmp_path / "new")
    assert (ran.code, (tmp_path / "new").read_bytes()) == (0, converted(data))
    ran = xenmig("convert", "-", "-", stdin=packed(GZIP, data))
    assert (ran.code, ran.out) == (0, converted(data))
    told = [xenmig("info", tmp_path / name).out for name in ("old", "plain")]
    assert told[0].partition(b": ")[2] == told[1].partition(b": ")[2] != b""


def test_the_input_itself_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(packed(GZIP, sample("pv64")))
    ran = xenmig("convert", "--force", tmp_path / "old", tmp_path / "old")
    assert (ran.code, "is the input itself" in ran.err) == (ExitCode.REFUSED, True)
    assert (tmp_path / "old").read_bytes() == packed(GZIP, sample("pv64"))


# ---- bytes -----------------------------------------------------------------------------------------------

LONG = b"".join(number.to_bytes(4, "big") + bytes(range(252)) for number in range(56 << 10))
"""14 MiB, more than is kept, and no two stretches of 300 bytes alike."""


@every_format
def test_file_in_any_order(row: Compression) -> None:
    with ExitStack() as stack:
        source = opened(stack, packed(row, LONG))
        assert isinstance(source, CompressedFile)
        assert (source.seekable, source.start, source.known_end) == (True, 0, None)
        assert source.compression is row
        for offset in (12 * MIB, 12 * MIB - 7, 3, 12 * MIB - 9, 100, len(LONG) - 5):
            assert read(source, offset, 300_000) == LONG[offset : offset + 300_000]
        assert read(source, len(LONG) + 1, 5) == b""
        assert (source.end, source.known_end) == (len(LONG), len(LONG))
        assert read(source, 0, len(LONG) + 1) == LONG


def test_end_is_found_by_reading_to_it() -> None:
    with ExitStack() as stack:
        source = opened(stack, packed(GZIP, LONG))
        assert source.end == len(LONG)
        assert read(source, len(LONG) - BACK, 300) == LONG[-BACK:][:300]
        assert read(source, 5, 300) == LONG[5:305]


@every_format
def test_pipe_is_forward_only(row: Compression) -> None:
    with ExitStack() as stack:
        source = opened(stack, packed(row, LONG), piped)
        assert (source.seekable, source.end, source.compression) == (False, None, None)
        assert read(source, 0, 100) == LONG[:100]
        assert read(source, 5000, 100) == LONG[5000:5100]
        assert read(source, 50, 100) == LONG[50:150]
        assert source.compression is row
        source.release()
        assert read(source, 0, 6000) == LONG[:6000]
        assert read(source, 9_000_001, 6000) == LONG[9_000_001:9_006_001]
        with pytest.raises(ValueError, match="again"):
            read(source, 5, 6)
        assert source.splice_from(9_006_001) is None


def test_going_back_and_forth_has_an_end() -> None:
    """Each time costs a decompression: better is to say so."""
    with ExitStack() as stack:
        source = opened(stack, packed(GZIP, LONG))
        for _ in range(STARTS_MAX - 1):
            read(source, 11 * MIB, 1)
            read(source, 0, 1)
        read(source, 11 * MIB, 1)
        with pytest.raises(NotSupported, match="going back and forth in gzip data") as caught:
            read(source, 0, 1)
        assert caught.value.hint == "decompress it first: gzip -dc"


def test_spooled(tmp_path: Path) -> None:
    data = packed(GZIP, LONG)
    for feed in (open_file, piped):
        with ExitStack() as stack:
            copy = stack.enter_context(spool(opened(stack, data, feed), str(tmp_path)))
            assert (copy.end, read(copy, 5 * MIB, 100)) == (len(LONG), LONG[5 * MIB :][:100])


def test_descriptor_in_the_middle() -> None:
    with open_file(b"before" + packed(GZIP, LONG[:100_000])) as fd:
        os.lseek(fd, 6, os.SEEK_SET)
        with open_source(fd) as source:
            assert read(source, 0, 200_000) == LONG[:100_000]


def test_offsets_of_damage_are_those_of_the_file() -> None:
    with open_file(b"before" + packed(GZIP, LONG[:100_000])[:-1]) as fd:
        os.lseek(fd, 6, os.SEEK_SET)
        source = open_source(fd)
        with pytest.raises(TruncatedArchive) as caught:
            read(source, 0, 200_000)
        assert caught.value.offset == os.fstat(fd).st_size


@every_format
@from_both
def test_exact_inputs_are_not_decompressed(row: Compression, feed: Feed) -> None:
    """What follows an image belongs to somebody else there."""
    data = packed(row, LONG[:1000])
    with feed(data) as fd, open_source(fd, exact=True) as source:
        assert read(source, 0, 2000) == data


# ---- members ---------------------------------------------------------------------------------------------


@every_format
@from_both
def test_members_and_padding(row: Compression, feed: Feed) -> None:
    one, two, none = packed(row, LONG[:300_000]), packed(row, LONG[300_000:400_000]), packed(row, b"")
    for data in (one + two, one + none + none + two, one + two + bytes(4), one + bytes(100_000) + two):
        assert everything(data, feed) == LONG[:400_000]


@every_format
@given(
    pieces=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    padding=st.integers(0, 3),
    reads=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 700)), max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_reading_anywhere(
    row: Compression, pieces: list[bytes], padding: int, reads: list[tuple[int, int]]
) -> None:
    data = b"".join(packed.__wrapped__(row, piece) + bytes(4 * padding) for piece in pieces)
    whole = b"".join(pieces)
    if any(whole[:LOOK].startswith(magic) for other in COMPRESSIONS for magic in other.magics):
        return
    if not pieces[0] and row is BZIP2:
        return  # nothing of its magic is there
    with open_file(data) as fd, open_source(fd) as source:
        for offset, length in reads:
            assert read(source, offset, length) == whole[offset : offset + length]
        assert source.end == len(whole)
    assert everything(data, piped) == whole


@pytest.mark.parametrize("row", [ZSTD, LZ4], ids=lambda row: row.name)
def test_frames_to_skip(row: Compression) -> None:
    data = packed(row, LONG[:9000])
    assert everything(data + SKIPPABLE + data) == LONG[:9000] * 2
    if row is ZSTD:
        assert everything(SKIPPABLE + data) == LONG[:9000]


@every_format
@from_both
def test_what_follows_has_to_be_a_member(row: Compression, feed: Feed) -> None:
    """Else a damaged head in the middle would make a shorter image."""
    data = packed(row, LONG[:9000])
    with pytest.raises(DamagedArchive) as caught:
        everything(data + b"something else, long enough to be a head" + data, feed)
    assert (caught.value.offset, caught.value.item) == (len(data), f"{row.name} archive")
    assert "behind 9,000 decompressed bytes" in str(caught.value)


# ---- which -----------------------------------------------------------------------------------------------


@every_format
def test_recognised(row: Compression) -> None:
    assert recognised(packed(row, LONG[:9000])[:LOOK]) is row


@pytest.mark.parametrize("level", range(1, 10))
def test_every_level_of_bzip2(level: int) -> None:
    assert recognised(bz2.compress(b"data", level)) is BZIP2


@pytest.mark.parametrize("guest", KINDS)
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("p2m_size", [0x88B1F, 0x1088B1F, 0x8088B1F])
def test_images_that_begin_like_gzip(guest: GuestKind, width: int, p2m_size: int) -> None:
    """Their p2m_size has the octets of its magic."""
    data = small_image(guest, width).to_bytes()
    begin = p2m_size.to_bytes(width // 8, "little") + data[width // 8 :]
    assert begin.startswith(GZIP.magics)
    assert recognised(begin[:LOOK]) is None
    assert everything(begin) == begin


@pytest.mark.parametrize("name", ["", "a name"])
@pytest.mark.parametrize("time", [0, 200, 1_700_000_000])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_gzip_files_that_begin_like_images(tmp_path: Path, name: str, time: int, level: int) -> None:
    """A time as small as a batch, or none."""
    with (
        (tmp_path / "file").open("wb") as file,
        gzip.GzipFile(name, "wb", level, fileobj=file, mtime=time) as archive,
    ):
        archive.write(LONG[:9000])
    assert recognised((tmp_path / "file").read_bytes()[:LOOK]) is GZIP


def test_damaged_head_of_gzip_is_told() -> None:
    data = bytearray(packed(GZIP, LONG[:9000]))
    data[12] ^= 0x55
    with pytest.raises(DamagedArchive, match="gzip archive at 0x0: found damaged data behind 0 decompressed"):
        everything(bytes(data))


@every_format
@from_both
def test_archive_in_an_archive(row: Compression, feed: Feed) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotSupported, match=f"xz data within {row.name} data") as caught:
        everything(packed(row, packed(XZ, sample("hvm"))), feed)
    assert caught.value.hint == f"one layer is taken off: pipe it through {row.tool}"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("row", [ZSTD, LZ4, BZIP2], ids=lambda row: row.name)
@from_both
def test_missing_library(
    row: Compression, feed: Feed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def without(name: str) -> Any:
        if name in row.modules:
            raise ModuleNotFoundError(name)
        return import_module(name)

    data = packed(row, LONG[:9000])
    monkeypatch.setattr(codecs, "import_module", without)
    with pytest.raises(NotSupported, match=f"{row.name} data without the Python module") as caught:
        everything(data, feed)
    install = (
        f"pip install 'xenmig-np[{row.extra}]', or" if row.extra else "this Python was built without it:"
    )
    assert caught.value.hint == f"{install} pipe it through {row.tool}"
    assert caught.value.exit_code == ExitCode.UNSUPPORTED
    (tmp_path / "old").write_bytes(data)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotSupported):
        open_source(tmp_path / "old")
    assert len(os.listdir("/proc/self/fd")) == before


# ---- damage ----------------------------------------------------------------------------------------------


def outcome(data: bytes, feed: Feed) -> bytes | XenmigError:
    """The converted image, or the error."""
    with feed(data) as old, open_file() as new:
        try:
            xenmig_np.convert(old, new)
        except XenmigError as error:
            return error
        return os.pread(new, 1 << 26, 0)


@every_format
@from_both
@pytest.mark.parametrize("guest", KINDS)
def test_cut_anywhere(guest: GuestKind, row: Compression, feed: Feed) -> None:
    data = packed(row, small_image(guest).to_bytes())
    for length in range(len(data)):
        error = outcome(data[:length], feed)
        assert isinstance(error, InvalidImage), length
        if any(data[:length].startswith(magic) for magic in row.magics):
            assert isinstance(error, TruncatedArchive), length
            assert isinstance(error, TruncatedImage)
            assert (error.offset, error.item) == (length, f"{row.name} archive")


@every_format
@from_both
@pytest.mark.parametrize("guest", KINDS)
def test_bit_flipped_anywhere(guest: GuestKind, row: Compression, feed: Feed) -> None:
    """An error, unless the same comes out: flipped in a time, or where other references find zeros too."""
    image = small_image(guest).to_bytes()
    data = packed(row, image)
    errors = 0
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        found = outcome(bytes(broken), feed)
        if isinstance(found, bytes):
            assert found == converted(image), at
            continue
        errors += 1
        if feed is open_file:
            assert isinstance(found, InvalidImage), at
        else:  # there the image is read before its checksum, and may look like another one
            assert found.exit_code in {ExitCode.INVALID, ExitCode.UNSUPPORTED}, at
    assert errors > 0.9 * len(data)


@from_both
def test_error_is_told_again_and_again(feed: Feed) -> None:
    with feed(packed(GZIP, LONG)[:-1]) as fd:
        source = open_source(fd)
        source.release()
        for _ in range(3):
            with pytest.raises(TruncatedArchive, match=f"after {len(LONG):,} decompressed bytes"):
                read(source, len(LONG) - 5, 10)
        source.close()


# ---- what stands behind the image ------------------------------------------------------------------------


def bad_sum(data: bytes) -> bytes:
    """A gzip archive whose checksum is another."""
    archive = bytearray(packed(GZIP, data))
    archive[-5] ^= 1
    return bytes(archive)


@from_both
@pytest.mark.parametrize("function", [xenmig_np.verify, xenmig_np.info])
def test_archives_are_read_to_their_end(function: Callable[..., Any], feed: Feed) -> None:
    """Also behind what is counted, of what follows an image."""
    data = sample("pv64") + bytes(TRAILING_COUNTED + 2 * MIB)
    with feed(packed(GZIP, data)) as fd:
        function(fd)
    with feed(bad_sum(data)) as fd, pytest.raises(DamagedArchive):
        function(fd)


def test_no_output_of_a_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(bad_sum(sample("pv64")))
    for command in (("convert", "old", "new"), ("verify", "old"), ("info", "old")):
        ran = xenmig(*command, cwd=tmp_path)
        assert (ran.code, len(ran.lines)) == (ExitCode.INVALID, 1)
        assert ran.err.startswith("error: old: gzip archive at 0x")
    assert os.listdir(tmp_path) == ["old"]


@from_both
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (InvalidImage("cut"), DamagedArchive),
        (NotRecognised("text"), NotRecognised),
        (NotSupported("a disk"), NotSupported),
    ],
)
def test_a_damaged_archive_is_the_better_reason(
    raised: XenmigError, told: type[XenmigError], feed: Feed
) -> None:
    """For an image that does not read; not for what is none."""

    def fail(fd: int) -> None:
        with open_source(fd) as source:
            read(source, 0, 10)
            raise raised

    with feed(bad_sum(LONG)) as fd, pytest.raises(XenmigError) as caught:
        fail(fd)
    assert type(caught.value) is told


# ---- bounds ----------------------------------------------------------------------------------------------


@every_format
@from_both
def test_memory_is_bounded(row: Compression, feed: Feed) -> None:
    """However much comes out."""
    bomb = packed(row, bytes(64 * MIB)) * 2
    into = memoryview(bytearray(MIB))
    with feed(bomb) as fd, open_source(fd) as source:
        source.release()
        tracemalloc.start()
        at = 0
        while got := source.read_at(at, into):
            at += got
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert at == 128 * MIB
    assert peak < 24 * MIB


def test_what_is_no_image_is_refused_at_its_beginning() -> None:
    archive = packed(GZIP, b"\x7fELF" + bytes(64 * MIB))
    with open_file(archive[: len(archive) // 2]) as fd, pytest.raises(NotSupported, match="ELF"):
        xenmig_np.info(fd)


def hungry_zstd() -> bytes:
    """A frame of five octets whose window has 256 MiB."""
    return b"\x28\xb5\x2f\xfd" + bytes([0, (28 - 10) << 3]) + (1 | 5 << 3).to_bytes(3, "little") + b"12345"


def hungry_xz() -> bytes:
    """A stream whose dictionary has 1 GiB."""
    data = bytearray(lzma.compress(b"12345", preset=0))
    end = 12 + 4 * (data[12] + 1)
    data[16] = 36
    data[end - 4 : end] = zlib.crc32(data[12 : end - 4]).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(("row", "make"), [(ZSTD, hungry_zstd), (XZ, hungry_xz)], ids=["zstd", "xz"])
def test_too_much_memory_is_refused(row: Compression, make: Callable[[], bytes]) -> None:
    packed(row, b"")
    with pytest.raises(
        NotSupported, match=f"{row.name} data that takes more than 134,217,728 bytes"
    ) as caught:
        everything(make())
    assert caught.value.hint == f"pipe it through {row.tool}"
