"""``convert-legacy-stream``, as libxl and xenopsd start it (reference-tools.md 2 to 8)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from xenmig_np import __version__
from xenmig_np.cli.dropin.channels import Channels, is_stdout
from xenmig_np.cli.dropin.options import Parser, location
from xenmig_np.cli.lean import lean
from xenmig_np.errors import NotSupported
from xenmig_np.options import Format, GuestName, TargetName, Width

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "convert-legacy-stream"
DONE, STREAM_ERROR, SCRIPT_ERROR = 0, 1, 2
"""Exit codes (reference-tools.md 5): converted; it cannot be; this program cannot do it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for; descriptors are numbers."""

    input: str | int
    output: str | int
    width: Width
    guest: GuestName
    format: Format
    target: TargetName
    xl: bool
    """An xl header precedes the legacy stream."""
    skip_qemu: bool
    """Nothing behind the tail is read; libxc format."""
    verbose: bool
    syslog: bool


def options_of(arguments: Sequence[str]) -> Options:
    """Read a command line. Ends the process where it is wrong."""
    parser = Parser(
        prog=NAME,
        usage="%prog --in FD|FILE --out FD|FILE --width 32|64 --guest-type pv|hvm [options]",
        version=f"{NAME} (xenmig-np {__version__})",
        description="Convert a legacy Xen stream (migration v1) into a migration v2 or v3 stream.",
    )
    add = parser.add_option
    add("-i", "--in", dest="input", metavar="FD|FILE", help="the legacy stream")
    add("-o", "--out", dest="output", metavar="FD|FILE", help="what to write")
    add("-w", "--width", type="choice", choices=["32", "64"], help="word size of the tools that wrote it")
    add(
        "-g",
        "--guest-type",
        dest="guest",
        type="choice",
        choices=[str(guest) for guest in GuestName],
        help="pv or hvm",
    )
    formats = [str(Format.LIBXC), str(Format.LIBXL)]
    add("-f", "--format", type="choice", choices=formats, default=Format.LIBXC, help="libxc (default), libxl")
    add("-v", "--verbose", action="store_true", default=False, help="tell what is read")
    add("-x", "--xl", action="store_true", default=False, help="an xl header comes first: copy it")
    skip = "libxc format: read nothing behind the HVM context"
    add("--skip-qemu", action="store_true", default=False, help=skip)
    add("--syslog", action="store_true", default=False, help="tell syslog, not stdout")
    targets = [str(target) for target in TargetName]
    named = f"{', '.join(targets)}; default {TargetName.XEN_4_6}"
    add("--target", type="choice", choices=targets, default=TargetName.XEN_4_6, metavar="TARGET", help=named)
    values = parser.parsed(arguments, required=("input", "output", "width", "guest"))
    return Options(
        input=location(values.input),
        output=location(values.output),
        width=Width(int(values.width)),
        guest=GuestName(values.guest),
        format=Format(values.format),
        target=TargetName(values.target),
        xl=values.xl,
        skip_qemu=values.skip_qemu and values.format == Format.LIBXC,
        verbose=values.verbose,
        syslog=values.syslog,
    )


def run(options: Options) -> int:
    """Convert and tell how it went; returns the exit code."""
    told = Channels(NAME, to_syslog=options.syslog, stdout_taken=is_stdout(options.output))
    try:
        from xenmig_np.cli.dropin.stream import convert  # noqa: PLC0415 - brings numpy

        convert(options, told)
    except (Exception, KeyboardInterrupt) as failure:  # noqa: BLE001 - the last place to make it a message
        told.failed(failure)
        return SCRIPT_ERROR if isinstance(failure, NotSupported) else STREAM_ERROR
    return DONE


def main() -> NoReturn:
    """Run the command and exit."""
    with lean():
        sys.exit(run(options_of(sys.argv[1:])))


if __name__ == "__main__":
    main()
