"""Named outputs are there whole or not at all; streams are written to as they are."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from conftest import ENVIRONMENT, converted, open_file, piped, sample, xenmig

import xenmig_np
from xenmig_np.conversion.rewrap import set_config
from xenmig_np.errors import (
    InputOutputError,
    InvalidImage,
    OutputExists,
    Refused,
    TruncatedImage,
    UsageError,
)
from xenmig_np.io import files
from xenmig_np.io.files import Output
from xenmig_np.io.source import open_source
from xenmig_np.testing.builder import small_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL = small_image("hvm").to_bytes()
PRECIOUS = b"what was there before"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A good image, in a folder of its own."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "old"
    path.write_bytes(SMALL)
    return path


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def broken(old: Path) -> Path:
    """An image whose last bytes lack. It goes wrong when all else has been written."""
    old.write_bytes(SMALL[:-1])
    return old


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- names -----------------------------------------------------------------------------------------------


def test_names_may_be_paths(old: Path, there: Path) -> None:
    """They are strings in reports and errors."""
    new, kept = there / "new", there / "kept"
    old.write_bytes(sample("pv64", xl=True))
    assert xenmig_np.convert(old, new, keep_config=kept, sync=False).output == str(new)
    assert new.read_bytes() == converted(old.read_bytes())
    with xenmig_np.plan(old, there / "other", config=kept) as plan:
        assert plan.size == new.stat().st_size
    assert set_config(old, there / "set", kept, sync=False).output == str(there / "set")
    assert (there / "set").read_bytes() == old.read_bytes()
    with pytest.raises(OutputExists, match=f"^{new}: exists already"):
        xenmig_np.convert(old, new)
    (there / "empty").touch()
    with pytest.raises(UsageError, match=f"^{there / 'empty'}: --config"):
        xenmig_np.convert(old, there / "other", config=there / "empty")
    with pytest.raises(UsageError, match="wants a file of its own"):
        xenmig_np.convert(old, there / "other", keep_config=there / "other")


def test_what_is_no_name_is_no_output(old: Path) -> None:
    for wrong in (None, 1.5, ["new"]):
        with pytest.raises(TypeError, match=r"expected str, bytes or os\.PathLike object, not"):
            xenmig_np.convert(old, wrong)  # type: ignore[arg-type]


# ---- what is there already -------------------------------------------------------------------------------


def test_existing_output_is_refused(old: Path, there: Path) -> None:
    new = there / "new"
    new.write_bytes(PRECIOUS)
    ran = xenmig("convert", old, new)
    assert (ran.code, new.read_bytes()) == (6, PRECIOUS)
    assert ran.lines == [f"error: {new}: exists already", "hint: --force replaces it"]


def test_force_replaces(old: Path, there: Path) -> None:
    new = there / "new"
    new.write_bytes(PRECIOUS)
    before = new.stat().st_ino
    assert xenmig("convert", old, new, "--force").code == 0
    assert new.read_bytes() == converted(SMALL)
    assert new.stat().st_ino != before  # made beside it and renamed: who has it open keeps what he has
    assert os.listdir(there) == ["new"]


def test_force_without_anything_there(old: Path, there: Path) -> None:
    xenmig_np.convert(old, str(there / "new"), force=True)
    assert (there / "new").read_bytes() == converted(SMALL)


def test_old_content_stays_while_the_new_is_made(
    old: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = there / "new"
    new.write_bytes(PRECIOUS)
    seen = []
    pwritev = os.pwritev

    def watched(fd: int, parts: list[bytes], offset: int) -> int:
        seen.append(new.read_bytes())
        return pwritev(fd, parts, offset)

    monkeypatch.setattr(os, "pwritev", watched)
    xenmig_np.convert(old, str(new), force=True)
    assert seen
    assert set(seen) == {PRECIOUS}


def test_old_content_stays_on_failure(there: Path) -> None:
    new = there / "new"
    new.write_bytes(PRECIOUS)
    with piped(SMALL[:-1]) as fd, pytest.raises(TruncatedImage):
        xenmig_np.convert(fd, str(new), force=True)
    assert (new.read_bytes(), os.listdir(there)) == (PRECIOUS, ["new"])


def test_output_that_comes_meanwhile_is_not_replaced(old: Path, there: Path) -> None:
    new = there / "new"

    def rival(_done: int, _total: int | None) -> None:
        new.write_bytes(PRECIOUS)

    with pytest.raises(OutputExists, match="has come into being meanwhile"):
        xenmig_np.convert(old, str(new), progress=rival)
    assert (new.read_bytes(), os.listdir(there)) == (PRECIOUS, ["new"])


def test_file_system_without_hard_links(old: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_names: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unable)
    xenmig_np.convert(old, str(there / "new"))
    assert (there / "new").read_bytes() == converted(SMALL)
    assert os.listdir(there) == ["new"]


# ---- output and input are one ----------------------------------------------------------------------------


def itself(old: Path, there: Path) -> Path:
    return old


def symbolic_link(old: Path, there: Path) -> Path:
    (there / "link").symlink_to(old)
    return there / "link"


def chain_of_links(old: Path, there: Path) -> Path:
    (there / "first").symlink_to(old)
    (there / "second").symlink_to("first")
    return there / "second"


def hard_link(old: Path, there: Path) -> Path:
    os.link(old, there / "hard")
    return there / "hard"


def way_round(old: Path, there: Path) -> Path:
    return there / ".." / "in" / "old"


@pytest.mark.parametrize("name", [itself, symbolic_link, chain_of_links, hard_link, way_round])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_output_is_input(
    name: Callable[[Path, Path], Path], force: tuple[str, ...], old: Path, there: Path
) -> None:
    new = name(old, there)
    ran = xenmig("convert", old, new, *force)
    assert (ran.code, old.read_bytes()) == (6, SMALL)
    assert ran.lines[0] == f"error: {new}: is the input itself"


def test_output_is_the_file_behind_stdin(old: Path) -> None:
    with old.open("rb") as file:
        ran = xenmig("convert", "-", old, "--force", stdin=file)
    assert (ran.code, old.read_bytes()) == (6, SMALL)


def test_stdout_is_the_input(old: Path) -> None:
    with old.open("rb+") as file:
        ran = xenmig("convert", old, "-", stdout=file)
    assert (ran.code, old.read_bytes()) == (6, SMALL)
    assert ran.lines[0] == "error: standard output: is the input itself"


# ---- links, folders, names -------------------------------------------------------------------------------


def test_link_to_a_file_is_followed(old: Path, there: Path) -> None:
    (there / "real").write_bytes(PRECIOUS)
    (there / "link").symlink_to("real")
    assert xenmig("convert", old, there / "link").code == 6
    assert xenmig("convert", old, there / "link", "--force").code == 0
    assert os.readlink(there / "link") == "real"
    assert (there / "real").read_bytes() == converted(SMALL)
    assert sorted(os.listdir(there)) == ["link", "real"]


def test_link_to_nothing_is_followed(old: Path, there: Path) -> None:
    (there / "deep").mkdir()
    (there / "link").symlink_to("deep/real")
    xenmig_np.convert(old, str(there / "link"))
    assert (there / "link").is_symlink()
    assert (there / "deep" / "real").read_bytes() == converted(SMALL)
    assert os.listdir(there / "deep") == ["real"]


def test_link_to_itself(old: Path, there: Path) -> None:
    (there / "link").symlink_to("link")
    ran = xenmig("convert", old, there / "link")
    assert ran.code == 4
    assert ran.lines == [f"error: {there / 'link'}: cannot be written: Too many levels of symbolic links"]


def test_folder_is_refused(old: Path, there: Path) -> None:
    ran = xenmig("convert", old, there, "--force")
    assert (ran.code, ran.lines[0]) == (6, f"error: {there}: is a folder")


@pytest.mark.parametrize("name", ["no/new", "no/deep/new"])
def test_missing_folder(name: str, old: Path, there: Path) -> None:
    ran = xenmig("convert", old, there / name)
    assert ran.code == 4
    assert ran.lines == [f"error: {there / name}: cannot be written: No such file or directory"]


def test_file_where_a_folder_should_be(old: Path) -> None:
    ran = xenmig("convert", old, old / "new")
    assert (ran.code, ran.lines) == (4, [f"error: {old / 'new'}: cannot be written: Not a directory"])


@pytest.mark.parametrize("name", ["", "new/", "no/new/"])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_name_that_names_no_file(name: str, force: tuple[str, ...], old: Path, there: Path) -> None:
    ran = xenmig("convert", old, name, *force, cwd=there)
    assert (ran.code, len(ran.lines)) == (4, 1)
    assert ran.lines[0].endswith("cannot be written: No such file or directory")
    assert sorted(os.listdir(there.parent)) == ["in", "out"]
    assert os.listdir(there) == []


@pytest.mark.parametrize("name", [b"n" * 255, b"\xc3\xa9" * 127, b"\xff" * 255, b"." * 3, b"-new", b"a b\nc"])
def test_names_of_every_kind(name: bytes, old: Path, there: Path) -> None:
    xenmig_np.convert(old, os.fsdecode(os.fsencode(there) + b"/" + name))
    assert os.listdir(os.fsencode(there)) == [name]


def test_name_too_long(old: Path, there: Path) -> None:
    ran = xenmig("convert", old, there / ("n" * 256))
    assert (ran.code, os.listdir(there)) == (4, [])
    assert ran.lines[0].endswith("cannot be written: File name too long")


def test_relative_name(old: Path, there: Path) -> None:
    assert xenmig("convert", old, "new", cwd=there).code == 0
    assert (there / "new").read_bytes() == converted(SMALL)


# ---- streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_fifo_is_streamed(force: tuple[str, ...], old: Path, there: Path) -> None:
    fifo = there / "fifo"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    ran = xenmig("convert", old, fifo, *force)
    reader.join()
    assert (ran.code, got) == (0, [converted(SMALL)])
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert os.listdir(there) == ["fifo"]


def test_fifo_whose_reader_goes(there: Path) -> None:
    fifo = there / "fifo"
    os.mkfifo(fifo)
    large = there / "large"
    large.write_bytes(sample("hvm"))
    reader = threading.Thread(target=lambda: fifo.open("rb").close())
    reader.start()
    ran = xenmig("convert", large, fifo)
    reader.join()
    assert ran.code == 4
    assert ran.lines == [f"error: {fifo}: writing failed: its reader has gone: Broken pipe"]


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout"])
def test_devices_are_streamed(name: str, old: Path) -> None:
    ran = xenmig("convert", old, name)
    assert (ran.code, ran.out) == (0, converted(SMALL) if name == "/dev/stdout" else b"")


def test_descriptor_of_the_library(old: Path) -> None:
    with open_file(b"before") as fd:
        os.lseek(fd, 6, os.SEEK_SET)
        xenmig_np.convert(old, fd)
        assert os.pread(fd, 1 << 20, 0) == b"before" + converted(SMALL)


def test_descriptor_for_reading_only(old: Path) -> None:
    with old.open("rb") as same, pytest.raises(Refused, match="is the input itself"):
        xenmig_np.convert(old, same.fileno())
    with open("/dev/null", "rb") as null, pytest.raises(InputOutputError, match="Bad file descriptor"):
        xenmig_np.convert(old, null.fileno())


# ---- modes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0])
@pytest.mark.parametrize("of_input", [0o644, 0o755, 0o600, 0o4755, 0o440])
def test_mode_of_a_new_file_is_that_of_cp(umask: int, of_input: int, old: Path, there: Path) -> None:
    old.chmod(of_input)
    before = os.umask(umask)
    try:
        xenmig_np.convert(old, str(there / "new"))
        subprocess.run(["cp", old, there / "cp"], check=True)
    finally:
        os.umask(before)
    assert mode(there / "new") == mode(there / "cp") == of_input & 0o777 & ~umask


def test_mode_when_the_input_is_a_pipe(there: Path) -> None:
    before = os.umask(0o027)
    try:
        with piped(SMALL) as fd:
            xenmig_np.convert(fd, str(there / "new"))
    finally:
        os.umask(before)
    assert mode(there / "new") == 0o640


@pytest.mark.parametrize("kept", [0o600, 0o751, 0o444])
def test_mode_of_a_replaced_file_stays(kept: int, old: Path, there: Path) -> None:
    new = there / "new"
    new.write_bytes(PRECIOUS)
    new.chmod(kept)
    old.chmod(0o755)
    xenmig_np.convert(old, str(new), force=True)
    assert mode(new) == kept


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_owner_of_a_replaced_file_stays(old: Path, there: Path) -> None:
    new = there / "new"
    new.write_bytes(PRECIOUS)
    os.chown(new, 12345, 23456)
    xenmig_np.convert(old, str(new), force=True)
    assert (new.stat().st_uid, new.stat().st_gid) == (12345, 23456)


def test_nobody_else_reads_what_is_being_made(
    old: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()

    def watched(_done: int, _total: int | None) -> None:
        seen.update(mode(path) for path in there.iterdir())

    xenmig_np.convert(old, str(there / "new"), progress=watched)
    assert seen == {0o600}


def test_umask_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o026)
    try:
        monkeypatch.setattr("pathlib.Path.read_text", lambda _path: "Name:\tpython\n")
        assert (files._umask(), os.umask(0o026)) == (0o026, 0o026)
    finally:
        os.umask(before)


# ---- nothing is left -------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_pipe", ["file", "pipe"])
@pytest.mark.parametrize("lacking", [1, 5, 100])
def test_image_that_ends_too_early(on_pipe: str, lacking: int, old: Path, there: Path) -> None:
    data = small_image("pv64").to_bytes()[:-lacking]
    old.write_bytes(data)
    ran = xenmig("convert", "-" if on_pipe == "pipe" else old, there / "new", stdin=data)
    assert (ran.code, os.listdir(there)) == (1, [])
    assert "found the end of the input after" in ran.lines[0]


def test_device_model_state_that_ends_too_early(broken: Path, there: Path) -> None:
    ran = xenmig("convert", "-", there / "new", stdin=broken.read_bytes())
    assert (ran.code, os.listdir(there)) == (1, [])


@contextlib.contextmanager
def small_file_system(folder: Path) -> Iterator[None]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("route", ["pipe", "file"])
def test_disk_is_full(route: str, put: Callable[..., Path], there: Path) -> None:
    data = sample("hvm")
    with small_file_system(there):
        ran = xenmig("convert", "-" if route == "pipe" else put(data), there / "new", stdin=data)
        assert os.listdir(there) == []
    told = f"error: {there / 'new'}: "
    if route == "pipe":  # nobody knew how large it would be
        assert (ran.code, ran.lines) == (4, [f"{told}writing failed: No space left on device"])
    else:
        assert (ran.code, len(ran.lines)) == (6, 2)
        assert ran.lines[0].startswith(f"{told}needs {len(converted(data)):,} bytes, {there} has ")


def test_file_size_is_limited(there: Path) -> None:
    """As a quota: writev takes what fits, then fails."""
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300000, resource.RLIM_INFINITY)); "
        "from xenmig_np.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "convert", "-", there / "new"],
        input=sample("hvm"),
        capture_output=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr.decode() == f"error: {there / 'new'}: writing failed: File too large\n"
    assert os.listdir(there) == []


def test_disk_fails_when_it_is_synced(old: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(InputOutputError, match="cannot be finished: Input/output error"):
        xenmig_np.convert(old, str(there / "new"))
    assert os.listdir(there) == []
    xenmig_np.convert(old, str(there / "new"), sync=False)
    assert os.listdir(there) == ["new"]


def test_file_and_folder_are_synced_before_and_after_the_rename(
    old: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def noted(fd: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), (there / "new").exists()))

    monkeypatch.setattr(os, "fsync", noted)
    xenmig_np.convert(old, str(there / "new"))
    assert synced == [(False, False), (True, True)]
    xenmig_np.convert(old, str(there / "other"), sync=False)
    assert len(synced) == 2


@pytest.mark.parametrize("options", [(), ("--no-sync",), ("--no-check",), ("--no-sync", "--no-check")])
def test_options_change_no_byte(options: tuple[str, ...], old: Path, there: Path) -> None:
    assert xenmig("convert", old, there / "new", *options).code == 0
    assert (there / "new").read_bytes() == converted(SMALL)


def test_input_that_changes_while_it_is_read(old: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between plan and writing a parameter becomes zero, which is left out (D24)."""
    enter = Output.__enter__

    def changed(self: Output) -> Output:
        old.write_bytes(small_image("hvm").damaged("body.3.value", bytes(8)))
        return enter(self)

    monkeypatch.setattr(Output, "__enter__", changed)
    with pytest.raises(InvalidImage, match="the input changed while it was read"):
        xenmig_np.convert(old, str(there / "new"))
    assert os.listdir(there) == []


def test_input_that_is_cut_while_it_is_read(old: Path, there: Path) -> None:
    old.write_bytes(sample("hvm"))

    def cut(_done: int, _total: int | None) -> None:
        os.truncate(old, 600_000)

    with pytest.raises(TruncatedImage, match=r"pages at 0x2024: found the end of the input after"):
        xenmig_np.convert(old, str(there / "new"), progress=cut)
    assert os.listdir(there) == []


def test_error_without_a_name_leaves_nothing(old: Path, there: Path) -> None:
    def failing(_done: int, _total: int | None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        xenmig_np.convert(old, str(there / "new"), progress=failing)
    assert os.listdir(there) == []


# ---- the check after writing -----------------------------------------------------------------------------


def damaging(data: bytes, at: int, into: bytes) -> Callable[[int, list[bytes], int], int]:
    """A pwritev that gathers all of it and puts other bytes in one place."""
    pwritev = os.pwritev

    def write(fd: int, parts: list[bytes], offset: int) -> int:
        whole = bytearray(b"".join(parts))
        if offset <= at:
            whole[at - offset : at - offset + len(into)] = into
        return pwritev(fd, [whole], offset)

    return write


RECORD = 16 + 8 + 24 + 16
"""Where the first libxc record begins in a libxl stream."""


@pytest.mark.parametrize(
    ("at", "into"),
    [
        (RECORD, b"\x09"),  # another type
        (RECORD + 4, b"\x20"),  # another length
        (0, b"X"),
        (RECORD + 32 + 8, b"\x03"),  # a word fewer in the PAGE_DATA record
        (RECORD + 32 + 16 + 7, b"\xf0"),  # a type without a page
        (RECORD + 32 + 16 + 7, b"\x10"),  # another type with one
    ],
)
def test_check_notices_damage(
    at: int, into: bytes, old: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", damaging(converted(SMALL), at, into))
    with pytest.raises(InputOutputError, match="what was written does not read back"):
        xenmig_np.convert(old, str(there / "new"))
    assert os.listdir(there) == []
    xenmig_np.convert(old, str(there / "new"), check=False)
    assert os.listdir(there) == ["new"]


def test_check_notices_lost_bytes(old: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says that it took all, and has not."""
    pwritev = os.pwritev

    def losing(fd: int, parts: list[bytes], offset: int) -> int:
        whole = b"".join(parts)
        pwritev(fd, [whole[:-8]], offset)
        return len(whole)

    monkeypatch.setattr(os, "pwritev", losing)
    with pytest.raises(InputOutputError, match="does not read back"):
        xenmig_np.convert(old, str(there / "new"))
    assert os.listdir(there) == []


def test_streams_are_not_read_back(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Output, "reread", None)  # to call it would be an error
    assert xenmig_np.convert(old, "/dev/null").bytes == len(converted(SMALL))


# ---- space -----------------------------------------------------------------------------------------------


def statvfs(free: int) -> Callable[[str], os.statvfs_result]:
    return lambda _path: os.statvfs_result((1, 1, 0, 0, free, 0, 0, 0, 0, 255))


def test_space_is_checked_before_anything_is_made(
    old: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(converted(SMALL))
    monkeypatch.setattr(os, "open", guarded_open(there))
    monkeypatch.setattr(os, "statvfs", statvfs(size - 1))
    with pytest.raises(Refused, match=f"needs {size:,} bytes, {there} has {size - 1:,} free"):
        xenmig_np.convert(old, str(there / "new"))


def guarded_open(folder: Path) -> Callable[..., int]:
    """An open that makes nothing in a folder."""
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777) -> int:
        assert not os.fspath(path).startswith(str(folder))
        return real(path, flags, mode)

    return opened


def test_space_that_is_just_enough(old: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", statvfs(len(converted(SMALL))))
    xenmig_np.convert(old, str(there / "new"))
    assert (there / "new").read_bytes() == converted(SMALL)


def test_streams_need_no_space(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", statvfs(0))
    assert xenmig_np.convert(old, "/dev/null").bytes == len(converted(SMALL))


# ---- block devices ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def loop_device(backing: Path) -> Iterator[str]:
    """A block device that is a file."""
    made = subprocess.run(
        ["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
    try:
        yield made.stdout.strip()
    finally:
        subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a block device")
def test_block_device_is_streamed(old: Path, there: Path) -> None:
    backing = there / "disk"
    backing.write_bytes(bytes(1 << 20))
    with loop_device(backing) as device:
        xenmig_np.convert(old, device)
        with open(device, "rb") as file:
            assert file.read(len(converted(SMALL))) == converted(SMALL)
    assert backing.stat().st_size == 1 << 20


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a block device")
def test_block_device_that_is_too_small(old: Path, there: Path) -> None:
    backing = there / "disk"
    backing.write_bytes(bytes(8192))
    with loop_device(backing) as device:
        ran = xenmig("convert", old, device)
    assert ran.code == 6
    assert ran.lines[0] == f"error: {device}: needs {len(converted(SMALL)):,} bytes, it has 8,192 free"
    assert backing.read_bytes() == bytes(8192)


# ---- the class by itself ---------------------------------------------------------------------------------


def test_without_commit_nothing_is_left(there: Path) -> None:
    with Output(str(there / "new"), None) as out:
        os.write(out.fd, b"data")
        assert len(os.listdir(there)) == 1
    assert os.listdir(there) == []


def test_reread_sees_what_was_written(there: Path) -> None:
    with Output(str(there / "new"), None) as out:
        os.write(out.fd, b"data")
        with out.reread() as file:
            into = bytearray(4)
            assert (file.read_at(0, memoryview(into)), bytes(into), file.end) == (4, b"data", 4)
        out.commit(sync=False)
    assert (there / "new").read_bytes() == b"data"


def test_temporary_name_says_whose_it_is(there: Path) -> None:
    with Output(str(there / "web01.xl"), None):
        (name,) = os.listdir(there)
    assert name.startswith(".web01.xl.")
    assert name.endswith(".part")


def test_input_stays_open_for_the_caller(old: Path, there: Path) -> None:
    with old.open("rb") as file, open_source(file) as source:
        assert source.seekable
        xenmig_np.convert(file, str(there / "new"))
        assert file.read() == SMALL
