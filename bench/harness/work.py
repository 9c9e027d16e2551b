"""What is run: our commands, what they are held against, and what makes their inputs.

In pipes the harness joins the same ends to both sides, so that only the middle differs:

    pipe to pipe    cat IMAGE | convert - -     | cat >/dev/null
                    cat IMAGE | cat             | cat >/dev/null
    file to pipe                convert IMAGE - | cat >/dev/null
                                cat IMAGE       | cat >/dev/null
    verify a pipe   cat STREAM | verify -
                    cat STREAM | cat >/dev/null

Wall-clock time is that of the whole line; processor time and memory are those of the command in the middle.
The old converter stands in the same places, with descriptor 0 as input and 1 as output. The old verifier
takes a short read for the end of the stream, so it is given the file.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from harness.processes import Command, Pipeline

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LIBRARY = os.path.join(HERE, "library.py")
THIS_TREE = (("PYTHONPATH", ROOT),)
OLD_SCRIPTS = "usr/lib/xen-4.17/bin"
OLD_LIBRARY = "usr/lib/xen-4.17/lib/python"
STREAM_OPTIONS = ("--format", "libxc", "--target", "xen-4.14")
"""Of streams to verify: what the old verifier reads without its known defects."""


@dataclass(frozen=True)
class Place:
    """Where some work is done, and on what."""

    input: str
    output: str
    guest: str
    width: int
    old_tools: str
    """The folder with Debian's package, "" if there is none."""
    options: tuple[str, ...]
    """Given to every ``xenmig-np convert``."""
    pycache: str
    """For the bytecode of the old tools: an installed package has it, one that was unpacked has not."""


@dataclass(frozen=True)
class Work:
    """What a run does."""

    name: str
    steps: tuple[Pipeline, ...]
    """One behind the other; their times are added."""
    output: str = ""
    """What is there at the end, a file or a folder."""


CAT = READER = Command(("cat",))


def ours(*words: str) -> Command:
    return Command((sys.executable, "-m", "xenmig_np", *words), THIS_TREE)


def by_library(*words: str) -> Command:
    return Command((sys.executable, LIBRARY, *words), THIS_TREE)


def alone(command: Command) -> tuple[Pipeline, ...]:
    return (Pipeline((command,)),)


def fed(place: Place, *commands: Command) -> tuple[Pipeline, ...]:
    """A line behind ``cat INPUT``; the first of the commands counts."""
    return (Pipeline((Command(("cat", place.input)), *commands), measured=1),)


# ---- convert -----------------------------------------------------------------------------------------------


def _convert(place: Place, *more: str) -> Command:
    return ours("convert", "--quiet", *place.options, *more)


def convert(place: Place) -> Work:
    command = _convert(place, "--no-sync", place.input, place.output)
    return Work("convert --no-sync", alone(command), place.output)


def convert_sync(place: Place) -> Work:
    return Work("convert", alone(_convert(place, place.input, place.output)), place.output)


def convert_sparse(place: Place) -> Work:
    command = _convert(place, "--no-sync", "--sparse", place.input, place.output)
    return Work("convert --no-sync --sparse", alone(command), place.output)


def convert_pipe_pipe(place: Place) -> Work:
    return Work("convert - -", fed(place, _convert(place, "-", "-"), READER))


def convert_file_pipe(place: Place) -> Work:
    return Work("convert FILE -", (Pipeline((_convert(place, place.input, "-"), READER)),))


def cp(place: Place) -> Work:
    return Work("cp", alone(Command(("cp", "--reflink=never", place.input, place.output))), place.output)


def cp_sync(place: Place) -> Work:
    return Work("cp, sync FILE", cp(place).steps + alone(Command(("sync", place.output))), place.output)


def cat_pipe_pipe(place: Place) -> Work:
    return Work("cat", fed(place, CAT, READER))


def cat_file_pipe(place: Place) -> Work:
    return Work("cat FILE", (Pipeline((Command(("cat", place.input)), READER)),))


# ---- Debian's tools ----------------------------------------------------------------------------------------


def _old(place: Place, script: str, *words: str) -> Command:
    environment = (
        ("PYTHONPATH", os.path.join(place.old_tools, OLD_LIBRARY)),
        ("PYTHONPYCACHEPREFIX", place.pycache),
        ("PYTHONDONTWRITEBYTECODE", ""),
    )
    program = os.path.join(place.old_tools, OLD_SCRIPTS, script)
    return Command((sys.executable, "-W", "ignore", program, *words), environment)


def conversion_options(place: Place) -> tuple[str, ...]:
    """As libxl gives them to the old converter and to the one that drops in."""
    guest = "hvm" if place.guest == "hvm" else "pv"
    return ("--width", str(place.width), "--guest-type", guest, "--format", "libxl")


def _old_convert(place: Place, given: str, made: str) -> Command:
    files = ("--in", given, "--out", made)
    return _old(place, "convert-legacy-stream", *files, *conversion_options(place))


def old_convert(place: Place) -> Work:
    command = _old_convert(place, place.input, place.output)
    return Work("Debian's converter", alone(command), place.output)


def old_convert_pipe_pipe(place: Place) -> Work:
    return Work("Debian's converter", fed(place, _old_convert(place, "0", "1"), READER))


def old_convert_file_pipe(place: Place) -> Work:
    return Work("Debian's converter", (Pipeline((_old_convert(place, place.input, "1"), READER)),))


def old_verify(place: Place) -> Work:
    return Work("Debian's verifier", alone(_old(place, "verify-stream-v2", "--in", place.input)))


def _drop_in(module: str, *words: str) -> Command:
    return Command((sys.executable, "-m", f"xenmig_np.cli.dropin.{module}", *words), THIS_TREE)


def drop_in_convert(place: Place) -> Work:
    files = ("--in", place.input, "--out", place.output)
    command = _drop_in("convert", *files, *conversion_options(place))
    return Work("convert-legacy-stream", alone(command), place.output)


def drop_in_verify(place: Place) -> Work:
    return Work("verify-stream-v2", alone(_drop_in("verify", "--in", place.input)))


# ---- verify, look at, start --------------------------------------------------------------------------------


def verify(place: Place) -> Work:
    return Work("verify", alone(ours("verify", "--quiet", place.input)))


def verify_pipe(place: Place) -> Work:
    return Work("verify -", fed(place, ours("verify", "--quiet", "-")))


def cat_pipe(place: Place) -> Work:
    return Work("cat >/dev/null", fed(place, CAT))


def info(place: Place) -> Work:
    return Work("info", alone(ours("info", "--quiet", place.input)))


def dump(place: Place) -> Work:
    return Work("dump", alone(ours("dump", place.input)))


def page_table(place: Place) -> Work:
    return Work("page table", alone(by_library("page-table", place.input)))


def cat(place: Place) -> Work:
    return Work("cat FILE >/dev/null", alone(Command(("cat", place.input))))


def help_text(_place: Place) -> Work:
    return Work("--help", alone(ours("--help")))


def python(_place: Place) -> Work:
    return Work("python -c pass", alone(Command((sys.executable, "-c", "pass"))))


def import_numpy(_place: Place) -> Work:
    return Work("import numpy", alone(Command((sys.executable, "-c", "import numpy"))))


def import_numpy_one_thread(_place: Place) -> Work:
    """As ``xenmig-np`` does it: else OpenBLAS starts a thread for each core, which can cost as much again."""
    command = Command((sys.executable, "-c", "import numpy"), (("OPENBLAS_NUM_THREADS", "1"),))
    return Work("import numpy, 1 thread", alone(command))


# ---- many small images in one process ----------------------------------------------------------------------


def many_convert(place: Place) -> Work:
    return Work("convert()", alone(by_library("convert", place.input, place.output)), place.output)


def many_convert_unchecked(place: Place) -> Work:
    command = by_library("convert-unchecked", place.input, place.output)
    return Work("convert(check=False)", alone(command), place.output)


def many_copy(place: Place) -> Work:
    return Work("copyfile()", alone(by_library("copy", place.input, place.output)), place.output)


# ---- an archive --------------------------------------------------------------------------------------------


def _batch(place: Place, *more: str) -> Work:
    words = ("--quiet", "--progress", "none", *more, "--out", place.output, place.input)
    told = " ".join(word for word in more if word.startswith("--") or word.isalnum())
    return Work(f"batch run {told}", alone(ours("batch", "run", *words)), place.output)


def batch(place: Place) -> Work:
    return _batch(place, "--no-sync", "--digest", "none")


def batch_sync(place: Place) -> Work:
    return _batch(place, "--digest", "none")


def batch_sha256(place: Place) -> Work:
    return _batch(place, "--no-sync", "--digest", "sha256")


def batch_xxh3(place: Place) -> Work:
    return _batch(place, "--no-sync", "--digest", "xxh3")


def batch_prove(place: Place) -> Work:
    return _batch(place, "--no-sync", "--digest", "none", "--prove")


def batch_one(place: Place) -> Work:
    return _batch(place, "--no-sync", "--digest", "none", "--jobs", "1")


def batch_two(place: Place) -> Work:
    return _batch(place, "--no-sync", "--digest", "none", "--jobs", "2")


def convert_each(place: Place) -> Work:
    """One command behind the other, into a folder."""
    names = sorted(os.listdir(place.input)) if place.input else []
    paths = [(os.path.join(place.input, name), os.path.join(place.output, name)) for name in names]
    commands = [Command(("mkdir", place.output)), *(_convert(place, "--no-sync", *both) for both in paths)]
    steps = tuple(step for command in commands for step in alone(command))
    return Work("convert --no-sync, each", steps, place.output)
