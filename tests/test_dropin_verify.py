"""``verify-stream-v2``, started as xenopsd and people start it (reference-tools.md 2, 4 to 7)."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import (
    ENVIRONMENT,
    KINDS,
    PATIENCE,
    Argument,
    Ran,
    converted,
    finished,
    open_file,
    piped,
    ran,
    sample,
    wait_for,
)
from syslogd import ERROR, INFO, syslogd

from xenmig_np import __version__
from xenmig_np.cli.dropin.verify import NAME, Options, options_of, run
from xenmig_np.options import Format
from xenmig_np.testing import records as rec
from xenmig_np.testing.builder import small_image
from xenmig_np.testing.pieces import XlHeader
from xenmig_np.testing.records import Record, record
from xenmig_np.testing.streams import Libxl, Xl, small_hvm, small_pv32, small_pv64

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERIFY: Final = (sys.executable, "-m", "xenmig_np.cli.dropin.verify")
BEHIND: Final = b"QemuDeviceModelRecord\n\0\0\0\4abcd"
"""What xenopsd reads from the same descriptor afterwards."""
PAIRS: Final = rec.xenstore_pairs(("physmap/f0000000/start_addr", "f0000000"), ("physmap/f0000000/size", "1"))

HVM: Final = small_hvm()
LIBXL: Final = Libxl(
    inner=HVM,
    behind=(
        rec.emulator(rec.XENSTORE_DATA, PAIRS),
        rec.emulator(rec.EMULATOR_CONTEXT, b"state", id=1),
        Record(rec.LIBXL_END),
    ),
    options=2,
)
GOOD: Final = {
    "libxc": HVM.to_bytes(),
    "libxl": LIBXL.to_bytes(),
    "xl": Xl(inner=LIBXL).to_bytes(),
}
"""By format."""
BROKEN: Final = HVM.damaged("record.3.reserved", b"\1\0\0\0")
"""Bits that are reserved in TSC_INFO."""
BROKEN_AT: Final = HVM.part("record.3.reserved").offset
every_format = pytest.mark.parametrize("form", GOOD)


def verify(
    *arguments: Argument,
    command: tuple[Argument, ...] = VERIFY,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    pass_fds: tuple[int, ...] = (),
) -> Ran:
    """Run the command to its end, without a terminal."""
    done = subprocess.run(
        [*command, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        env=ENVIRONMENT,
        timeout=PATIENCE,
        check=False,
    )
    return ran(done.returncode, done.stdout or b"", done.stderr)


def code_of(data: bytes, *arguments: str) -> int:
    """The exit code, without starting a process."""
    with open_file(data) as fd:
        return run(options_of(["--in", str(fd), "-q", *arguments]))


# ---- as xenopsd starts it --------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
@every_format
def test_what_is_behind_can_be_read(form: str, given: Callable[[bytes], Any]) -> None:
    """Nothing behind END is touched, and the caller goes on there."""
    with given(GOOD[form] + BEHIND) as fd:
        done = verify("--in", str(fd), "--syslog", "-f", form, pass_fds=(fd,))
        assert (done.code, done.out, done.err) == (0, b"", "")
        assert os.read(fd, 100) == BEHIND


def test_in_the_middle_of_a_file() -> None:
    """A structured suspend image: the descriptor stands at the libxc record."""
    with open_file(b"before" + GOOD["libxc"] + BEHIND) as fd:
        os.lseek(fd, len(b"before"), os.SEEK_SET)
        assert verify("--in", str(fd), "--syslog", pass_fds=(fd,)).code == 0
        assert os.read(fd, 100) == BEHIND


def test_a_socket_that_stays_open() -> None:
    """It ends although nothing closes its input, and takes pieces as they come."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        data = GOOD["libxl"] + BEHIND

        def feed() -> None:
            for at in range(0, len(data), 5000):
                ours.sendall(data[at : at + 5000])

        feeder = threading.Thread(target=feed)
        feeder.start()
        fd = theirs.fileno()
        done = verify("--in", str(fd), "--syslog", "-f", "libxl", pass_fds=(fd,))
        feeder.join(PATIENCE)
        assert (done.code, done.err) == (0, "")
        assert theirs.recv(100) == BEHIND


def test_standard_input_is_the_default(put: Callable[..., Path]) -> None:
    with open_file(GOOD["libxc"]) as fd:
        assert verify(stdin=fd).code == 0
        assert os.lseek(fd, 0, os.SEEK_CUR) == len(GOOD["libxc"])
    assert verify("-i", put(GOOD["libxc"])).code == 0


@pytest.mark.parametrize("form", ["libxc", "libxl"])
@pytest.mark.parametrize(
    ("guest", "width", "target"),
    [
        (guest, width, target)
        for guest, width in KINDS
        for target in ("draft-v7", "xen-4.6", "xen-4.14")
        if (guest, target) != ("hvm", "draft-v7")  # the image has parameters that the draft does not know
    ],
)
def test_conversions_pass(guest: str, width: int, form: str, target: str) -> None:
    data = converted(sample(guest, width), target=target, format=form)
    assert code_of(data, "-f", form) == 0


# ---- what it refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
def test_a_broken_rule(given: Callable[[bytes], Any]) -> None:
    """One line with the message and the offset; the first is the last."""
    with given(BROKEN[:-8]) as fd:  # and without END
        done = verify("--in", str(fd), pass_fds=(fd,))
    head, line = done.lines
    assert (done.code, done.out, head) == (1, b"", "Stream Error:")
    assert f" at {BROKEN_AT:#x}: " in line
    assert line.endswith("[V36a]")


@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
@every_format
def test_cut_streams(form: str, given: Callable[[bytes], Any]) -> None:
    with given(GOOD[form][:-1]) as fd:
        done = verify("-f", form, "--in", str(fd), pass_fds=(fd,))
    assert done.code == 1
    assert done.lines[0] == "Stream Error:"
    assert re.search(r" at 0x[0-9a-f]+: .*the end of the input after 7 bytes", done.lines[1])


@pytest.mark.parametrize(
    ("data", "form", "rule"),
    [
        (b"", "libxc", "V11"),
        (b"", "libxl", "V11"),
        (GOOD["libxl"], "libxc", "V1"),
        (GOOD["libxc"], "libxl", "V50"),
        (GOOD["xl"], "libxl", "V50"),
        (small_image("hvm").to_bytes(), "libxc", "V1"),
        (replace(small_image("hvm"), xl=XlHeader()).to_bytes(), "xl", "V1"),
        (replace(HVM, options=1).to_bytes(), "libxc", "V6"),
        (replace(LIBXL, options=1).to_bytes(), "libxl", "V51"),
        (replace(LIBXL, options=1 << 16).to_bytes(), "libxl", "V50a"),
        (HVM.first(record(rec.TOOLSTACK, b"")).to_bytes(), "libxc", "V39"),
        (HVM.first(record(rec.HVM_CONTEXT, b"", length=1 << 31)).to_bytes(), "libxc", "X1"),
    ],
)
def test_refused(data: bytes, form: str, rule: str) -> None:
    """Among them what the original has wrong (D-29, D-30, D-34, D-41), and a legacy image in an xl file."""
    with open_file(data) as fd:
        done = verify("-f", form, "-i", str(fd), pass_fds=(fd,))
    assert (done.code, done.lines[0]) == (1, "Stream Error:")
    assert done.lines[1].endswith(f"[{rule}]")


def test_no_xl_header() -> None:
    with open_file(GOOD["libxl"]) as fd:
        done = verify("-f", "xl", "-i", str(fd), pass_fds=(fd,))
    assert (done.code, done.lines[0]) == (1, "Stream Error:")
    assert f"descriptor {fd}: xl header at 0x0: found 4c 69" in done.lines[1]


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (HVM.only(Record(rec.END)).to_bytes(), "libxc"),
        (HVM.first(record(rec.OPTIONAL | 5, b"what")).to_bytes(), "libxc"),
        (replace(small_pv64(), version=3).to_bytes(), "libxc"),
        (Xl(inner=HVM, header=XlHeader()).to_bytes(), "xl"),
    ],
)
def test_passes_at_this_level(data: bytes, form: str) -> None:
    """Neither order nor what is missing is looked at; optional records pass (D-32)."""
    assert code_of(data, "-f", form) == 0


# ---- command line and channels ---------------------------------------------------------------------------


def test_options() -> None:
    given = options_of(["--i", "5", "-fxl", "--verb", "--sy", "ignored", "--q"])
    assert given == Options(5, None, verbose=True, quiet=True, syslog=True)
    assert options_of([]) == Options(0, Format.LIBXC, verbose=False, quiet=False, syslog=False)


@pytest.mark.parametrize("wrong", [("-x",), ("-f", "libx"), ("--in",), ("--v",)])
def test_wrong_options(wrong: tuple[str, ...]) -> None:
    done = verify(*wrong)
    assert (done.code, done.out) == (2, b"")
    assert done.lines[-1].startswith(f"{NAME}: error: ")


@pytest.mark.parametrize("quiet", [(), ("-q",)], ids=["", "quiet"])
@pytest.mark.parametrize("given", ["/nowhere/at/all", "99", "-1"])
def test_what_cannot_be_opened(given: str, quiet: tuple[str, ...]) -> None:
    done = verify("-i", given, *quiet)
    assert (done.code, done.out, len(done.lines)) == (2, b"", 0 if quiet else 1)


def test_help_and_version() -> None:
    done = verify("--help")
    assert (done.code, done.err) == (0, "")
    for option in (b"--in", b"--format", b"--verbose", b"--quiet", b"--syslog", b"--version"):
        assert option in done.out
    assert verify("--version").out.decode() == f"{NAME} (xenmig-np {__version__})\n"


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--version"], 0), (["-f", "x"], 2)])
def test_numpy_is_not_needed_for_that(arguments: list[str], code: int) -> None:
    program = f"import sys; sys.modules['numpy'] = None; sys.argv[1:] = {arguments!r}\n"
    program += "from xenmig_np.cli.dropin.verify import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == code


@pytest.mark.parametrize("data", [GOOD["libxc"], BROKEN, b""], ids=["good", "broken", "empty"])
def test_quiet(data: bytes) -> None:
    with open_file(data) as fd:
        done = verify("-v", "-q", "--syslog", "-i", str(fd), pass_fds=(fd,))
    assert (done.code, done.out, done.err) == (int(data != GOOD["libxc"]), b"", "")


def test_nobody_listens() -> None:
    """Closed channels change no verdict."""
    with open_file(GOOD["libxc"]) as fd:
        command = ("sh", "-c", 'exec "$@" >&- 2>&-', "sh", *VERIFY)
        assert verify("-v", "-i", str(fd), command=command, pass_fds=(fd,)).code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals(number: signal.Signals, code: int, sigint_kills: None) -> None:
    with subprocess.Popen(
        [*VERIFY, "-v"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(GOOD["libxc"][:-8])
        wait_for(lambda: b"HVM params" in os.read(process.stdout.fileno(), 1 << 16))  # type: ignore[union-attr]
        process.send_signal(number)
        done = finished(process)
    assert (done.code, len(done.lines)) == (code, int(code > 0))


# ---- what it tells ---------------------------------------------------------------------------------------

LINES: Final = f"""\
Libxl Header: little endian, legacy converted
Libxl Record: Libxc context, length 0
Libxc Image Header: Version 2, little endian
Domain Header: x86 HVM from Xen 4.17
Squashed 3 Page Data records together
Libxc Record: TSC info, length 24
  Mode 0, 2000000 kHz, 1000000000 ns, incarnation 1
Libxc Record: HVM context, length 1080
Libxc Record: HVM params, length 104
Libxc Record: End, length 0
Libxl Record: Emulator xenstore data, length {8 + len(PAIRS)}
Emulator Xenstore Data (Qemu Upstream, idx 0)
  'physmap/f0000000/start_addr' = 'f0000000'
  'physmap/f0000000/size' = '1'
Libxl Record: Emulator context, length 13
  Index 0, type Qemu Traditional
Libxl Record: End, length 0
"""
PV_LINES: Final = """\
Libxc Image Header: Version 3, little endian
Domain Header: legacy converted x86 PV
Libxc Record: x86 PV info, length 8
  32bit guest, 3 levels of pagetables
Libxc Record: Static data end, length 0
Libxc Record: x86 PV P2M frames, length 16
  Start pfn 0x0, End 0x1f
Squashed 1 Page Data records together
Libxc Record: TSC info, length 24
  Mode 0, 2000000 kHz, 1000000000 ns, incarnation 1
Libxc Record: Shared info, length 4096
Libxc Record: x86 PV vcpu basic, length 2808
  vcpu0 basic context, 2800 bytes
Libxc Record: x86 PV vcpu extended, length 136
  vcpu0 extended context, 128 bytes
Libxc Record: x86 PV vcpu xsave, length 600
  vcpu0 xsave context, 592 bytes
Libxc Record: x86 PV vcpu msrs, length 8
Warning: X86_PV_VCPU_msrs record with zero content
  vcpu1 msrs context, 0 bytes
Libxc Record: HVM params, length 8
Warning: HVM_PARAMS record with zero content
Libxc Record: Optional 0x80000005, length 3
Libxc Record: End, length 0
"""
DRAFT_LINES: Final = """\
Libxl Header: little endian
Libxl Record: Libxc context, length 0
Libxc Image Header: Version 2, little endian
Domain Header: x86 PVH from Xen 4.17
Libxc Record: Toolstack, length 0
  TODO: remove
Libxc Record: End, length 0
Libxl Record: Xenstore data, length 1
Libxl Record: End, length 0
"""
PV: Final = small_pv32().last(
    rec.vcpu(rec.VCPU_MSRS, id=1), rec.hvm_params(), record(rec.OPTIONAL | 5, b"abc")
)
DRAFT: Final = Libxl(
    inner=replace(HVM.only(record(rec.TOOLSTACK, b""), Record(rec.END)), type=3),
    before=(Record(2),),
    behind=(record(3, b"x"), Record(rec.LIBXL_END)),
)


@pytest.mark.parametrize("given", [open_file, piped], ids=["file", "pipe"])
@pytest.mark.parametrize(
    ("data", "form", "expected"),
    [
        (GOOD["libxl"], "libxl", LINES),
        (GOOD["xl"], "xl", "Processed xl header\n" + LINES),
        (replace(PV, xen=(0, 1)).version3().to_bytes(), "libxc", PV_LINES),
        (DRAFT.to_bytes(), "libxl", DRAFT_LINES),
    ],
)
def test_lines(data: bytes, form: str, expected: str, given: Callable[[bytes], Any]) -> None:
    with given(data) as fd:
        done = verify("-v", "-i", str(fd), "-f", form, pass_fds=(fd,))
    assert (done.out.decode(), done.err, done.code) == (expected, "", 0)


def test_lines_up_to_an_error() -> None:
    """The name of the broken record, and not what it says."""
    with open_file(BROKEN) as fd:
        done = verify("-v", "-i", str(fd), pass_fds=(fd,))
    assert done.out.decode().splitlines()[2:] == [
        "Squashed 3 Page Data records together",
        "Libxc Record: TSC info, length 24",
    ]


def test_keys_steer_no_terminal() -> None:
    data = rec.emulator(rec.XENSTORE_DATA, b"a\x1b[2J\0\xff\0")
    with open_file(replace(LIBXL, behind=(data, Record(rec.LIBXL_END))).to_bytes()) as fd:
        done = verify("-v", "-i", str(fd), "-f", "libxl", pass_fds=(fd,))
    assert rb"  'a\x1b[2J' = '\xff'" in done.out.splitlines()


# ---- syslog ----------------------------------------------------------------------------------------------


def logged(data: bytes, *arguments: str) -> tuple[Ran, list[tuple[int, str]]]:
    """What it gives, and the messages that came."""
    with syslogd(NAME) as (private, messages), open_file(data) as fd:
        command = (*private, *VERIFY)
        done = verify("--in", str(fd), "--syslog", *arguments, command=command, pass_fds=(fd,))
    return done, messages


def test_syslog_has_the_lines() -> None:
    done, messages = logged(GOOD["libxl"], "-v", "-f", "libxl")
    assert (done.code, done.out, done.err) == (0, b"", "")
    assert messages == [(INFO, line) for line in LINES.splitlines()]


def test_syslog_has_the_errors_too() -> None:
    done, messages = logged(BROKEN)
    assert (done.code, done.out, len(done.lines)) == (1, b"", 2)
    assert messages == [(ERROR, line) for line in done.lines]


@pytest.mark.parametrize("data", [GOOD["libxc"], BROKEN], ids=["good", "broken"])
def test_syslog_is_quiet_too(data: bytes) -> None:
    done, messages = logged(data, "-v", "-q")
    assert (done.out, done.err, messages) == (b"", "", [])
