"""``convert-legacy-stream``, started as libxl, xenopsd and people start it (reference-tools.md 2 to 8)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import debian
import pytest
from conftest import (
    COMMAND,
    ENVIRONMENT,
    PATIENCE,
    Argument,
    Ran,
    converted,
    every_kind,
    finished,
    open_file,
    piped,
    ran,
    sample,
    wait_for,
)
from plain.goldens import GOLDENS, INPUTS
from syslogd import ERROR, INFO, WARNING, syslogd

from xenmig_np import __version__
from xenmig_np.cli.dropin.convert import NAME, options_of, run
from xenmig_np.cli.dropin.options import location
from xenmig_np.options import Format, GuestName, TargetName, Width
from xenmig_np.testing import pieces
from xenmig_np.testing.builder import small_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from xenmig_np.testing.builder import LegacyImage

DROPIN = (sys.executable, "-m", "xenmig_np.cli.dropin.convert")
PAGE_MIN = 4096
"""Bytes that the smallest pipe holds."""


def dropin(
    *arguments: Argument,
    command: tuple[Argument, ...] = DROPIN,
    pass_fds: tuple[int, ...] = (),
    stdout: int = subprocess.PIPE,
    **environment: str,
) -> Ran:
    """Run the command to its end, without a terminal and with nothing on stdin."""
    done = subprocess.run(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        env=ENVIRONMENT | environment,
        timeout=PATIENCE,
        check=False,
    )
    return ran(done.returncode, done.stdout or b"", done.stderr)


def dropped_in(data: bytes, *arguments: str) -> bytes:
    """What the command makes of an image, from file to file, without starting a process."""
    with open_file(data) as old, open_file() as new:
        assert run(options_of(["--in", str(old), "--out", str(new), *arguments])) == 0
        assert os.lseek(old, 0, os.SEEK_CUR) == len(data)
        return os.pread(new, os.fstat(new).st_size, 0)


def shape(guest: str, width: int) -> tuple[str, ...]:
    return ("--width", str(width), "--guest", said(guest))


def said(guest: str) -> str:
    return "hvm" if guest == "hvm" else "pv"


def small(guest: str, width: int = 64) -> LegacyImage:
    """An image of which libxc format has all: without the toolstack's data nothing is worth a warning."""
    image = small_image(guest, width)  # type: ignore[arg-type]
    return replace(image, body=tuple(one for one in image.body if not isinstance(one, pieces.Toolstack)))


def hvm(**changes: Any) -> bytes:
    return replace(small("hvm"), **changes).to_bytes()


def pv(**changes: Any) -> bytes:
    return replace(small("pv64"), **changes).to_bytes()


HVM = hvm()
WITHOUT_RECORD = hvm(device_model=None)
PV = pv()
XL = pv(xl=pieces.XlHeader())
GIVEN_BACK = pv(unmapped=(2,))
"""Its tail takes back a page that a batch has sent (D22)."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The command as one executable file, which is what LIBXL_CONVERT_HELPER names."""
    path = tmp_path / NAME
    path.write_text(f"#!{sys.executable}\nfrom xenmig_np.cli.dropin.convert import main\nmain()\n")
    path.chmod(0o755)
    return path


# ---- as libxl starts it ----------------------------------------------------------------------------------


class SlowReader:
    """Reads from a pipe that holds little, and takes its time."""

    def __init__(self) -> None:
        self.received = bytearray()
        self._out, self.into = os.pipe()
        fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, PAGE_MIN)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while piece := os.read(self._out, 3000):
            self.received += piece
            time.sleep(0.0002)

    def finish(self) -> bytes:
        """All that came; the writers have to have gone."""
        os.close(self.into)
        self._thread.join(PATIENCE)
        os.close(self._out)
        return bytes(self.received)


def as_libxl(program: Path, source: int, guest: str, width: int = 64) -> tuple[Ran, bytes]:
    reader = SlowReader()
    try:
        given = ("--in", str(source), "--out", str(reader.into), *shape(guest, width), "--format", "libxl")
        done = dropin(*given, command=(program,), pass_fds=(source, reader.into))
    finally:
        received = reader.finish()
    return done, received


@every_kind
def test_as_libxl_from_a_pipe(program: Path, guest: str, width: int) -> None:
    data = sample(guest, width)
    with piped(data + b"next reader's") as source:
        done, received = as_libxl(program, source, guest, width)
        assert os.read(source, 100) == b"next reader's"
    assert (done.code, done.out) == (0, b"")
    assert received == converted(data, format="libxl")


@every_kind
def test_as_libxl_from_a_file(program: Path, guest: str, width: int) -> None:
    """xl has read its header; libxl says 64 whatever the image."""
    data = sample(guest, width)
    with open_file(b"header" + data) as source:
        os.lseek(source, len(b"header"), os.SEEK_SET)
        done, received = as_libxl(program, source, guest)
        assert os.lseek(source, 0, os.SEEK_CUR) == len(b"header" + data)
    assert (done.code, done.out) == (0, b"")
    assert ("Warning: --width 64 is not that of the image" in done.err) is (width == 32)
    assert received == converted(data, format="libxl")


def test_output_does_not_wait_for_the_end() -> None:
    """Who reads the stream gets what the sender has sent, before the sender goes on."""
    data = sample("hvm")
    out, into = os.pipe()
    arrived = threading.Event()

    def halves() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        assert arrived.wait(PATIENCE)
        yield data[len(data) // 2 :]

    def reading() -> bytes:
        begin = os.read(out, 1000)
        arrived.set()
        return begin + b"".join(iter(lambda: os.read(out, 1 << 16), b""))

    arguments = ("--in", "0", "--out", str(into), *shape("hvm", 64), "--format", "libxl")
    with running(*arguments, pass_fds=(into,)) as process:
        os.close(into)
        assert process.stdin
        received = fed(process, halves(), reading)
        assert finished(process).code == 0
    os.close(out)
    assert received == converted(data, format="libxl")


def fed(process: subprocess.Popen[bytes], data: Iterable[bytes], meanwhile: Callable[[], bytes]) -> bytes:
    """Give a started command its input; what was done meanwhile gives the result."""
    into = process.stdin
    assert into

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError):
            for piece in data:
                left = memoryview(piece)
                while left:
                    left = left[into.write(left) :]

    writer = threading.Thread(target=feed)
    writer.start()
    result = meanwhile()
    writer.join(PATIENCE)
    return result


@contextlib.contextmanager
def running(
    *arguments: Argument, pass_fds: tuple[int, ...] = (), stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """The command while it runs, with a pipe for its stdin."""
    with subprocess.Popen(
        [*DROPIN, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        bufsize=0,
        pass_fds=pass_fds,
        env=ENVIRONMENT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# ---- as xenopsd starts it --------------------------------------------------------------------------------

STATE = b"QEVM\0\0\0\3 the device model of " + bytes(5000)
RECORD = b"QemuDeviceModelRecord\n" + struct.pack(">I", len(STATE)) + STATE


@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
@pytest.mark.parametrize("guest", ["hvm", "pv64", "pv32"])
def test_as_xenopsd(given: Callable[[bytes], Any], guest: str) -> None:
    """The caller goes on behind the guest's state and reads the record himself."""
    data = replace(small(guest, 32), device_model=None).to_bytes()
    with given(data + RECORD) as source, open_file() as new:
        options = ("--width", "32", "--skip-qemu", "--guest-type", said(guest), "--syslog", "--verbose")
        done = dropin("--in", str(source), "--out", str(new), *options, pass_fds=(source, new))
        assert (done.code, done.out, done.err) == (0, b"", "")
        assert os.read(source, len(RECORD)) == RECORD
        assert os.pread(new, 1 << 20, 0) == converted(data, format="libxc", skip_qemu=True)


# ---- what is behind the image ----------------------------------------------------------------------------


@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
@pytest.mark.parametrize("data", [HVM, PV], ids=["hvm", "pv"])
def test_descriptor_stands_behind_the_last_byte_used(given: Callable[[bytes], Any], data: bytes) -> None:
    guest = "hvm" if data is HVM else "pv"
    with given(data + b"next") as source, open_file() as new:
        done = dropin("-i", str(source), "-o", str(new), *shape(guest, 64), pass_fds=(source, new))
        assert done.code == 0
        assert os.read(source, 10) == b"next"


def test_skip_qemu_means_nothing_in_libxl_format() -> None:
    options = (*shape("hvm", 64), "--format", "libxl")
    assert dropped_in(HVM, *options, "--skip-qemu") == dropped_in(HVM, *options)


def test_libxl_format_wants_a_record() -> None:
    with open_file(WITHOUT_RECORD) as old:
        done = dropin("-i", str(old), "-o", "/dev/null", *shape("hvm", 64), "-f", "libxl", pass_fds=(old,))
    assert done.code == 1
    assert done.lines[0] == "Stream Error:"
    assert re.search(r"device-model record at 0x[0-9a-f]+: found none", done.lines[1])


def test_libxc_format_does_without_a_record() -> None:
    with open_file(WITHOUT_RECORD) as old:
        done = dropin("-i", str(old), "-o", "/dev/null", *shape("hvm", 64), pass_fds=(old,))
    assert done.code == 0
    assert done.err.startswith("Warning: no device-model record")


def test_bytes_that_are_no_record() -> None:
    """A file gives them to the next reader; from a pipe they could not be given back."""
    data = WITHOUT_RECORD + b"something else that follows"
    arguments = ("-o", "/dev/null", *shape("hvm", 64))
    with open_file(data) as old:
        assert dropin("-i", str(old), *arguments, pass_fds=(old,)).code == 0
        assert os.lseek(old, 0, os.SEEK_CUR) == len(WITHOUT_RECORD)
    with piped(data) as old:
        done = dropin("-i", str(old), *arguments, pass_fds=(old,))
    assert done.code == 2
    assert done.lines[0] == "Script Error:"
    assert f"device-model record at {len(WITHOUT_RECORD):#x}" in done.lines[1]


def test_second_body_is_looked_for_in_a_file_alone() -> None:
    """A sender waits for an answer, and xenopsd goes on reading there."""
    first = replace(small("pv64"), body=small("pv64").body[:-1])  # without chunk -9
    whole = replace(first, later=(replace(first, shared_info=b"\x99" * 4096),)).to_bytes()
    outcomes = []
    for given, options in ((open_file, ()), (piped, ()), (open_file, ("--skip-qemu",))):
        with given(whole) as old, open_file() as new:
            done = dropin("-i", str(old), "-o", str(new), *shape("pv", 64), *options, pass_fds=(old, new))
            outcomes.append((done.code, os.pread(new, 1 << 20, 0)))
    alone = (0, converted(first.to_bytes(), format="libxc"))
    assert outcomes[1:] == [alone, alone]
    assert outcomes[0] == (0, converted(whole, format="libxc"))
    assert outcomes[0] != alone


def test_pages_given_back_are_left_out_of_a_file() -> None:
    assert dropped_in(GIVEN_BACK, *shape("pv", 64)) == converted(GIVEN_BACK, format="libxc")
    with piped(GIVEN_BACK) as old:
        done = dropin("-i", str(old), "-o", "/dev/null", *shape("pv", 64), pass_fds=(old,))
    assert done.code == 2
    assert "(D22)" in done.lines[1]


# ---- the bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "target", "format_", "size", "digest"), GOLDENS)
def test_goldens(name: str, target: str, format_: str, size: int, digest: str) -> None:
    given = INPUTS[name]
    options = (*shape(given.guest, given.width), "--target", target, "--format", format_)
    made = dropped_in(given.data, *options)
    assert (len(made), hashlib.sha256(made).hexdigest()) == (size, digest)


@pytest.mark.parametrize("guest", ["hvm", "pv32"])
def test_same_as_the_other_command(guest: str, put: Callable[..., Path], tmp_path: Path) -> None:
    old, ours, theirs = put(sample(guest)), tmp_path / "ours", tmp_path / "theirs"
    done = dropin("-i", old, "-o", ours, *shape(guest, 64))
    assert (done.code, done.out) == (0, b"")
    assert dropin("convert", old, theirs, "-q", "--format", "libxc", command=COMMAND).code == 0
    assert ours.read_bytes() == theirs.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["old", "ours", "theirs"]


def test_default_is_what_every_release_restores() -> None:
    assert dropped_in(PV, *shape("pv", 64)) == converted(PV, format="libxc", target="xen-4.6")


def test_existing_file_is_replaced(put: Callable[..., Path]) -> None:
    old, new = put(PV), put(b"what was there before", "new")
    assert dropin("-i", old, "-o", new, *shape("pv", 64)).code == 0
    assert new.read_bytes() == converted(PV, format="libxc")


# ---- the xl header ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["libxc", "libxl"])
@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
def test_xl_header_is_copied(given: Callable[[bytes], Any], format_: str) -> None:
    with given(XL + b"next") as old, open_file() as new:
        options = ("-x", "-v", "-f", format_, *shape("pv", 64))
        done = dropin("-i", str(old), "-o", str(new), *options, pass_fds=(old, new))
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(b"Processed xl header\nP2M Size: 0x20\n")
        assert os.pread(new, 1 << 20, 0) == converted(XL, format=format_)
        assert os.read(old, 10) == b"next"


STREAMS = {
    "no header": (PV, ("-x",), "no xl header, but -x is given"),
    "header": (XL, (), "an xl header, but -x is not given"),
    "v2": (converted(PV, format="libxl"), (), "it already is a migration v2 stream, libxl format"),
    "v2 in xl": (converted(XL), ("-x",), "it already is a migration v2 stream, libxl format"),
    "v2 libxc": (converted(PV, format="libxc"), (), "it already is a migration v2 stream, libxc format"),
    "xend": (b"LinuxGuestRecord\0\0\0\x10(domain (name x))" + bytes(64), (), "it is a xend file"),
}


@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
@pytest.mark.parametrize("name", STREAMS)
def test_not_what_was_said(given: Callable[[bytes], Any], name: str) -> None:
    data, options, why = STREAMS[name]
    with given(data) as old:
        arguments = ("-i", str(old), "-o", "/dev/null", *shape("pv", 64), *options)
        done = dropin(*arguments, pass_fds=(old,))
    assert done.code == 1
    assert why in done.lines[-1]


# ---- what the caller says of the image -------------------------------------------------------------------


@every_kind
def test_width_that_is_not_the_images(guest: str, width: int) -> None:
    data = small(guest, width).to_bytes()
    with piped(data) as old, open_file() as new:
        done = dropin("-i", str(old), "-o", str(new), *shape(guest, 96 - width), pass_fds=(old, new))
        made = os.pread(new, 1 << 20, 0)
    assert (done.code, len(done.lines)) == (0, 1)
    assert done.err.startswith(f"Warning: --width {96 - width} is not that of the image, which is used")
    assert f"{width}-bit words" in done.err
    assert made == converted(data, format="libxc")


@every_kind
def test_guest_that_is_not_the_images(guest: str, width: int) -> None:
    data = small(guest, width).to_bytes()
    other = "pv" if guest == "hvm" else "hvm"
    with piped(data) as old, open_file() as new:
        done = dropin("-i", str(old), "-o", str(new), *shape(other, width), pass_fds=(old, new))
        assert os.fstat(new).st_size == 0
    assert (done.code, len(done.lines)) == (1, 1)
    assert f"--guest {other} contradicts the image" in done.err


def test_guest_is_believed_where_nothing_proves_it() -> None:
    """A batch stands first: nothing is tried, a pipe is read once and no further than the image."""
    data = hvm(body=small("hvm").body[1:])
    with piped(data + b"next") as old, open_file() as new:
        done = dropin("-i", str(old), "-o", str(new), *shape("hvm", 64), pass_fds=(old, new))
        assert (done.code, done.err) == (0, "")
        assert os.pread(new, 1 << 20, 0) == converted(data, format="libxc")
        assert os.read(old, 10) == b"next"


# ---- the command line ------------------------------------------------------------------------------------

GIVEN = ["--in", "a", "--out", "b", "--width", "64", "--guest-type", "hvm"]
PREFIXES: list[tuple[list[str], str, object]] = [
    (["--i", "x"], "input", "x"),
    (["--o", "x"], "output", "x"),
    (["--w", "32"], "width", Width.BITS_32),
    *((["--" + "guest-type"[:length], "pv"], "guest", GuestName.PV) for length in range(1, 11)),
    (["--f", "libxl"], "format", Format.LIBXL),
    (["--x"], "xl", True),
    (["--sk"], "skip_qemu", True),
    (["--sy"], "syslog", True),
    (["--verb"], "verbose", True),
    (["--t", "xen-4.14"], "target", TargetName.XEN_4_14),
]
OTHER_FORMS: list[tuple[list[str], str, object]] = [
    (["--in=x"], "input", "x"),
    (["-ix"], "input", "x"),
    (["-i", "x"], "input", "x"),
    (["-vx"], "verbose", True),
    (["-xg", "pv"], "guest", GuestName.PV),
    (["-i", "-v"], "input", "-v"),
    (["-i", "-1"], "input", "-1"),
    (["one", "--", "--two"], "input", "a"),
    (["three", "-v"], "verbose", True),
    (["-f", "libxl", "--skip-qemu"], "skip_qemu", False),
    ([], "format", Format.LIBXC),
    ([], "target", TargetName.XEN_4_6),
]


@pytest.mark.parametrize(("more", "name", "value"), PREFIXES + OTHER_FORMS)
def test_command_line(more: list[str], name: str, value: object) -> None:
    assert getattr(options_of([*GIVEN, *more]), name) == value


@pytest.mark.parametrize(
    "wrong",
    [
        ["--s"],
        ["--v"],
        ["--ve"],
        ["--none"],
        ["-q"],
        ["--width", "16"],
        ["--guest", "pvh"],
        ["--format", "auto"],
        ["--target", "xen-4.5"],
        ["--out"],
        ["--xl=yes"],
    ],
)
def test_wrong_command_lines(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        options_of([*GIVEN, *wrong])
    told = capsys.readouterr()
    assert (left.value.code, told.out) == (2, "")
    assert told.err.startswith(f"Usage: {NAME} --in")
    assert told.err.splitlines()[-1].startswith(f"{NAME}: error: ")


@pytest.mark.parametrize("missing", range(0, 8, 2))
def test_missing_options(missing: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        options_of(GIVEN[:missing] + GIVEN[missing + 2 :])
    told = capsys.readouterr()
    assert (left.value.code, told.out) == (1, "")
    assert "--skip-qemu" in told.err
    assert re.search(rf"error: missing -./{GIVEN[missing]}$", told.err.strip())


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("7", 7),
        (" 7", 7),
        ("+7\t", 7),
        ("007", 7),
        ("9" * 30, 0x7FFF_FFFF),
        ("-1", "-1"),
        ("-7", "-7"),
        ("0_7", "0_7"),
        ("\u0667", "\u0667"),
        ("7\n", "7\n"),
        ("./7", "./7"),
        ("-", "./-"),
        ("", ""),
    ],
)
def test_descriptor_or_file(text: str, means: str | int) -> None:
    assert location(text) == means


def test_help_and_version() -> None:
    shown = dropin("--he")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"Usage: {NAME} --in FD|FILE".encode())
    version = dropin("--vers")
    assert (version.code, version.err) == (0, "")
    assert version.out == f"{NAME} (xenmig-np {__version__})\n".encode()


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("--none",), ("--in", "7")])
def test_start_is_light(arguments: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom xenmig_np.cli.dropin import convert\n"
        "try: convert.main()\nfinally: assert not {'numpy', 'typer', 'tqdm'} & set(sys.modules)"
    )
    assert "AssertionError" not in dropin(*arguments, command=(sys.executable, "-c", program)).err


def test_command_is_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"][NAME] == "xenmig_np.cli.dropin.convert:main"


# ---- exit codes and error reports ------------------------------------------------------------------------

TMEM = pv(body=(pieces.Tmem(), *small_image("pv64").body))
MARKED = replace(small_image("hvm"), body=(pieces.Control(-99),))
OUTCOMES: dict[str, tuple[bytes, str, int, str]] = {
    "good": (HVM, "hvm", 0, ""),
    "truncated": (HVM[:-9], "hvm", 1, "Stream Error:"),
    "truncated at once": (HVM[:10], "hvm", 1, "Stream Error:"),
    "empty": (b"", "hvm", 1, "Stream Error:"),
    "unknown chunk": (MARKED.to_bytes(), "hvm", 1, "Stream Error:"),
    "no image": (b"GIF8\0\0\0\0" * 1000, "pv", 1, "Stream Error:"),
    "tmem": (TMEM, "pv", 2, "Script Error:"),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_exit_codes(name: str, put: Callable[..., Path], tmp_path: Path) -> None:
    data, guest, code, begins = OUTCOMES[name]
    done = dropin("-i", put(data), "-o", tmp_path / "new", *shape(guest, 64))
    assert (done.code, done.out) == (code, b"")
    assert done.lines[:1] == ([begins] if begins else [])
    assert len(done.lines) == (2 if begins else 0)
    assert (tmp_path / "new").exists() is (code == 0)
    assert len(os.listdir(tmp_path)) == (2 if code == 0 else 1)


def test_report_has_the_offset(put: Callable[..., Path], tmp_path: Path) -> None:
    at = MARKED.part("body.0.id").offset
    old = put(MARKED.to_bytes())
    done = dropin("-i", old, "-o", tmp_path / "new", *shape("hvm", 64))
    assert done.lines[1].startswith(f"{old}: chunk at {at:#x}: found the unknown id -99, expected ")


def test_traceback_is_there_for_who_asks(put: Callable[..., Path], tmp_path: Path) -> None:
    arguments: tuple[Argument, ...] = ("-i", put(HVM[:-9]), "-o", tmp_path / "new", *shape("hvm", 64))
    done = subprocess.run(
        [*DROPIN, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"XENMIG_NP_DEBUG": "1"},
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback (most recent call last):" in done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [("/nonexistent/old", "/dev/null"), ("777", "/dev/null"), ("9" * 20, "/dev/null"), ("/", "/dev/null")],
)
def test_input_that_cannot_be_opened(old: str, new: str) -> None:
    done = dropin("-i", old, "-o", new, *shape("hvm", 64))
    assert (done.code, done.out, len(done.lines)) == (1, b"", 1)


@pytest.mark.parametrize("new", ["/nonexistent/new", "777", "/"])
def test_output_that_cannot_be_opened(new: str, put: Callable[..., Path]) -> None:
    done = dropin("-i", put(HVM), "-o", new, *shape("hvm", 64))
    assert (done.code, done.out, len(done.lines)) == (1, b"", 1)


def test_full_device(put: Callable[..., Path]) -> None:
    done = dropin("-i", put(HVM), "-o", "/dev/full", *shape("hvm", 64))
    assert (done.code, len(done.lines)) == (1, 1)
    assert "No space left on device" in done.err


def test_output_that_is_the_input(put: Callable[..., Path]) -> None:
    old = put(PV)
    os.link(old, old.with_name("another name"))
    for new in (old, old.with_name("another name")):
        done = dropin("-i", old, "-o", new, *shape("pv", 64))
        assert (done.code, len(done.lines)) == (1, 1)
        assert "is the input itself" in done.err
    assert old.read_bytes() == PV


def test_reader_has_gone() -> None:
    data = sample("hvm")
    out, into = os.pipe()
    os.close(out)
    with open_file(data) as old:
        done = dropin("-i", str(old), "-o", str(into), *shape("hvm", 64), pass_fds=(old, into))
    os.close(into)
    assert (done.code, done.out, len(done.lines)) == (1, b"", 1)
    assert "its reader has gone" in done.err


# ---- signals ---------------------------------------------------------------------------------------------


def test_sigterm_kills() -> None:
    """While the stream goes out."""
    data = sample("hvm")
    out, into = os.pipe()
    with running("-i", "0", "-o", str(into), *shape("hvm", 64), pass_fds=(into,)) as process:
        os.close(into)

        def meanwhile() -> bytes:
            begin = os.read(out, 1000)
            process.send_signal(signal.SIGTERM)
            return begin

        assert fed(process, [data[: len(data) // 2]], meanwhile)
        done = finished(process)
    os.close(out)
    assert (done.code, done.err) == (-signal.SIGTERM, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGHUP, -1), (signal.SIGINT, 1)])
@pytest.mark.usefixtures("sigint_kills")
def test_killed_leaves_no_file(number: int, code: int, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_bytes(b"what was there before")
    with running("-i", "0", "-o", new, *shape("hvm", 64)) as process:
        assert process.stdin
        process.stdin.write(HVM[:4096])
        wait_for(lambda: len(os.listdir(tmp_path)) == 2)
        process.send_signal(number)
        done = finished(process)
    assert done.code == code
    assert done.err == ("interrupted\n" if number == signal.SIGINT else "")
    assert os.listdir(tmp_path) == ["new"]
    assert new.read_bytes() == b"what was there before"


# ---- stdout ----------------------------------------------------------------------------------------------


def test_nothing_on_stdout_unless_asked(put: Callable[..., Path], tmp_path: Path) -> None:
    done = dropin("-i", put(HVM), "-o", tmp_path / "new", *shape("hvm", 64))
    assert (done.code, done.out, done.err) == (0, b"", "")


def test_stream_on_stdout_stays_clean(put: Callable[..., Path]) -> None:
    done = dropin("-i", put(HVM), "-o", "1", *shape("hvm", 64), "-v")
    assert (done.code, done.out) == (0, converted(HVM, format="libxc"))
    assert done.lines[0] == "P2M Size: 0x20"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("verbose", [(), ("-v",)], ids=["", "verbose"])
def test_closed_descriptors(
    closed: str, verbose: tuple[str, ...], put: Callable[..., Path], tmp_path: Path
) -> None:
    arguments: tuple[Argument, ...] = ("-i", put(HVM), "-o", tmp_path / "new", *shape("hvm", 64), *verbose)
    done = dropin(*arguments, command=("sh", "-c", f'exec "$0" "$@" {closed}', *DROPIN))
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "new").read_bytes() == converted(HVM, format="libxc")


@pytest.mark.parametrize(("wrong", "code"), [("--none", 2), ("-v", 1), ("--help", 0), ("--version", 0)])
def test_closed_descriptors_and_options(wrong: str, code: int) -> None:
    assert dropin(wrong, command=("sh", "-c", 'exec "$0" "$@" >&- 2>&-', *DROPIN)).code == code


def test_nobody_reads_what_is_told(put: Callable[..., Path], tmp_path: Path) -> None:
    out, into = os.pipe()
    os.close(out)
    done = dropin("-i", put(HVM), "-o", tmp_path / "new", *shape("hvm", 64), "-v", stdout=into)
    os.close(into)
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "new").read_bytes() == converted(HVM, format="libxc")


# ---- verbose lines ---------------------------------------------------------------------------------------

PHYSMAPS = pieces.Toolstack(
    (
        pieces.Physmap(0x80000000, 0xF0000000, 0x800000, b"vga.\xff\x1b"),
        pieces.Physmap(0x1000, 0x2000, 0x3000, None),
    )
)
HVM_BODY = (
    pieces.Tsc(1, 1_000_000_001, 2_000_002, 3),
    small_image("hvm").body[1],
    pieces.Control(-1),
    small_image("hvm").body[1],
    pieces.VcpuInfo((0, 2, 66), 70),
    *(pieces.Param(number, 0x1000 + number) for number in (-3, -4, -8, -11, -14, -15, -16, -17, -19, -20)),
    pieces.Param(-21, 4),
    pieces.Param(-10, 1),
    PHYSMAPS,
    pieces.Toolstack(None),
    pieces.Control(-9),
)
HVM_LINES = """\
P2M Size: 0x20
Chunk: -7 - tsc_info
  {tsc}: mode 1, 1000000001 ns, 2000002 khz, 3 incarn
Chunk: -1 - enable_verify_mode
This is a debug stream
Chunk: -2 - vcpu_info
  Vcpu info: max_id 70, online map [0, 2, 66]
Chunk: -3 - hvm_ident_pt
  EPT Identity Pagetable: 0xffd
Chunk: -4 - hvm_vm86_tss
  VM86 TSS: 0xffc
Chunk: -8 - hvm_console_pfn
  Console pfn: 0xff8
Chunk: -11 - hvm_viridian
  Viridian location: 0xff5
Chunk: -14 - hvm_generation_id_addr
  Generation ID Address: 0xff2
Chunk: -15 - hvm_paging_ring_pfn
  Paging ring pfn: 0xff1
Chunk: -16 - hvm_monitor_ring_pfn
  Monitor ring pfn: 0xff0
Chunk: -17 - hvm_sharing_ring_pfn
  Sharing ring pfn: 0xfef
Chunk: -19 - hvm_ioreq_server_pfn
  IOREQ server pfn: 0xfed
Chunk: -20 - hvm_nr_ioreq_server_pages
  IOREQ server pages: 4076
Chunk: -21 - hvm_x87_fip_width
  x87 FIP width: 4
Chunk: -10 - hvm_acpi_ioports_location
  ACPI ioport location: 0x1
Chunk: -18 - toolstack
  Toolstack Data: sz {size:#x}
{toolstack}Chunk: -18 - toolstack
Chunk: -9 - last_checkpoint
  Last Checkpoint
Chunk: 0 - end
  End
Magic pfns: 0x1a 0x1b 0x1c
Got HVM Context ({context:#x} bytes)
Qemu signature: DeviceModelRecord0002
"""
DISCARDING = "    Discarding\n"
PAIRS = """\
    Version 1, count 2
    'physmap/80000000/start_addr' = 'f0000000'
    'physmap/80000000/size' = '800000'
    'physmap/80000000/name' = 'vga.\\xff\\x1b'
    'physmap/1000/start_addr' = '2000'
    'physmap/1000/size' = '3000'
"""


@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
@pytest.mark.parametrize(
    ("format_", "target", "tsc", "toolstack"),
    [
        ("libxc", "xen-4.6", "TSC_INFO", DISCARDING),
        ("libxl", "xen-4.6", "TSC_INFO", PAIRS),
        ("libxl", "xen-4.14", "X86_TSC_INFO", PAIRS),
    ],
)
def test_lines_of_an_hvm_image(
    given: Callable[[bytes], Any], format_: str, target: str, tsc: str, toolstack: str
) -> None:
    image = replace(small_image("hvm"), body=HVM_BODY)
    size = int.from_bytes(image.part(f"body.{HVM_BODY.index(PHYSMAPS)}.length").data, "little")
    context = int.from_bytes(image.part("context.length").data, "little")
    with given(image.to_bytes()) as old:
        options = ("-v", "-f", format_, "--target", target, *shape("hvm", 64))
        done = dropin("-i", str(old), "-o", "/dev/null", *options, pass_fds=(old,))
    assert done.code == 0
    assert done.out.decode() == HVM_LINES.format(tsc=tsc, toolstack=toolstack, size=size, context=context)


def test_lines_of_the_draft() -> None:
    """It takes the toolstack's data as it is."""
    body = (PHYSMAPS, small_image("hvm").body[1], pieces.VcpuInfo())
    with open_file(hvm(body=body)) as old:
        options = ("-v", "-f", "libxl", "--target", "draft-v7", *shape("hvm", 64))
        done = dropin("-i", str(old), "-o", "/dev/null", *options, pass_fds=(old,))
    assert done.code == 0
    told = done.out.decode().splitlines()
    assert told[1:4] == ["Chunk: -18 - toolstack", "  Toolstack Data: sz 0x4f", "Chunk: -2 - vcpu_info"]


PV_LINES = """\
P2M Size: 0x20
Extended Info: length {total:#x}
  Record type: vcpu, size {context:#x}
    {bits}bit domain, {levels} levels
  Record type: extv, size 0x0
  Record type: xcnt, size 0x4
xcnt sz 0x260
P2M frames: fpp {fpp}, p2m_frame_len 1
Chunk: -7 - tsc_info
  TSC_INFO: mode 0, 1000000000 ns, 2000000 khz, 0 incarn
Chunk: -2 - vcpu_info
  Vcpu info: max_id 0, online map [0]
Chunk: -18 - toolstack
  Toolstack Data: sz 0x8
    Discarding
Chunk: -9 - last_checkpoint
  Last Checkpoint
Chunk: 0 - end
  End
discarding 3 bogus 'unmapped pfns'
Got VCPU basic (size {context:#x})
Got VCPU extd (size 0x80)
Got VCPU xsave (mask 0x3, size 0x250)
Got shinfo
"""


@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize(
    ("guest", "facts"),
    [
        ("pv64", {"total": 0x144C, "context": 0x1430, "bits": 64, "levels": 4, "fpp": 512}),
        ("pv32", {"total": 0xB0C, "context": 0xAF0, "bits": 32, "levels": 3, "fpp": 1024}),
    ],
)
def test_lines_of_a_pv_image(
    given: Callable[[bytes], Any], width: int, guest: str, facts: dict[str, int]
) -> None:
    image = replace(small_image(guest, width), unmapped=(20, 21, 0x999))  # type: ignore[arg-type]
    with given(image.to_bytes()) as old:
        done = dropin("-i", str(old), "-o", "/dev/null", *shape("pv", width), "-v", pass_fds=(old,))
    assert done.code == 0
    assert done.out.decode() == PV_LINES.format(**facts)


@every_kind
def test_lines_are_those_of_debians_converter(guest: str, width: int, put: Callable[..., Path]) -> None:
    """Which shows some texts as Python's bytes, and is of the later kind (target xen-4.14)."""
    xen = debian.xen()
    command = (sys.executable, "-W", "ignore", xen / "bin" / NAME)
    old = put(sample(guest, width))
    arguments: tuple[Argument, ...] = (
        "-i",
        old,
        "-o",
        "/dev/null",
        "-w",
        str(width),
        "-g",
        said(guest),
        "-v",
    )
    for format_ in ("libxc", "libxl"):
        ours = dropin(*arguments, "--target", "xen-4.14", "-f", format_)
        theirs = dropin(*arguments, "-f", format_, command=command, PYTHONPATH=str(xen / "lib" / "python"))
        assert ours.out == re.sub(rb"\bb'(\w+)'", rb"\1", theirs.out)
        assert (ours.code, theirs.code) == (0, 0)


def test_lines_up_to_an_error() -> None:
    with piped(HVM[:-9]) as old:
        done = dropin("-i", str(old), "-o", "/dev/null", *shape("hvm", 64), "-v", pass_fds=(old,))
    assert done.code == 1
    assert b"\nGot HVM Context (" in done.out


# ---- syslog ----------------------------------------------------------------------------------------------


def logged(*arguments: Argument, pass_fds: tuple[int, ...] = ()) -> tuple[Ran, list[tuple[int, str]]]:
    """Run the command where its syslog is a socket of ours: what it gave, and the messages that came."""
    with syslogd(NAME) as (private, messages):
        done = dropin("--syslog", *arguments, command=(*private, *DROPIN), pass_fds=pass_fds)
    return done, messages


def test_syslog_has_the_lines() -> None:
    with open_file(PV) as old, open_file() as new:
        arguments = ("-i", str(old), "-o", str(new), *shape("pv", 32), "-v")
        done, messages = logged(*arguments, pass_fds=(old, new))
        shown = dropin("-i", str(old), "-o", "/dev/null", *shape("pv", 64), "-v", pass_fds=(old,))
    assert (done.code, done.out, len(done.lines)) == (0, b"", 1)
    assert messages[0] == (WARNING, done.lines[0])
    assert messages[1][1] == "P2M Size: 0x20"
    assert {kind for kind, _ in messages[1:]} == {INFO}
    assert messages[-1][1] == "Got shinfo"
    assert shown.code == 1  # the descriptor stands at the end


def test_syslog_is_quiet_unless_asked() -> None:
    with open_file(PV) as old:
        done, messages = logged("-i", str(old), "-o", "/dev/null", *shape("pv", 64), pass_fds=(old,))
    assert (done.code, done.err, messages) == (0, "", [])


def test_syslog_has_the_errors_too() -> None:
    with open_file(HVM[:-9]) as old:
        done, messages = logged("-i", str(old), "-o", "/dev/null", *shape("hvm", 64), pass_fds=(old,))
    assert (done.code, done.out) == (1, b"")
    assert done.lines[0] == "Stream Error:"
    assert messages == [(ERROR, line) for line in done.lines]
