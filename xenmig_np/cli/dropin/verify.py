"""``verify-stream-v2``, as xenopsd starts it (reference-tools.md 2, 4 to 7)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from xenmig_np import __version__
from xenmig_np.cli.dropin.channels import Channels, Silence
from xenmig_np.cli.dropin.options import Parser, location
from xenmig_np.cli.lean import lean
from xenmig_np.options import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "verify-stream-v2"
GOOD, STREAM_ERROR, UNUSABLE = 0, 1, 2
"""Exit codes (reference-tools.md 5): it passes; it does not; it cannot be opened, or was not looked at."""
XL: Final = "xl"
"""The format of a file that begins with xl's header, which says what follows."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for; a descriptor is a number."""

    input: str | int
    format: Format | None
    """None: xl's header says it."""
    verbose: bool
    quiet: bool
    syslog: bool


def options_of(arguments: Sequence[str]) -> Options:
    """Read a command line. Ends the process where it is wrong."""
    parser = Parser(
        prog=NAME,
        usage="%prog [--in FD|FILE] [--format libxc|libxl|xl] [options]",
        version=f"{NAME} (xenmig-np {__version__})",
        description="Check a Xen stream of migration v2 or v3, up to the end of its last record.",
    )
    add = parser.add_option
    add("-i", "--in", dest="input", default="0", metavar="FD|FILE", help="the stream (default: stdin)")
    formats = [str(Format.LIBXC), str(Format.LIBXL), XL]
    told = f"{', '.join(formats)}; default {Format.LIBXC}"
    add("-f", "--format", type="choice", choices=formats, default=Format.LIBXC, metavar="FORMAT", help=told)
    add("-v", "--verbose", action="store_true", default=False, help="tell what is read")
    add("-q", "--quiet", action="store_true", default=False, help="tell nothing, not even errors")
    add("--syslog", action="store_true", default=False, help="tell syslog, not stdout")
    values = parser.parsed(arguments)
    return Options(
        input=location(values.input),
        format=None if values.format == XL else Format(values.format),
        verbose=values.verbose,
        quiet=values.quiet,
        syslog=values.syslog,
    )


def run(options: Options) -> int:
    """Verify and tell how it went; returns the exit code."""
    told = Silence() if options.quiet else Channels(NAME, to_syslog=options.syslog)
    failed = UNUSABLE
    try:
        from xenmig_np.cli.dropin import verify_stream  # noqa: PLC0415 - brings numpy

        with verify_stream.opened(options) as source:
            failed = STREAM_ERROR
            return GOOD if verify_stream.passes(source, options, told) else STREAM_ERROR
    except KeyboardInterrupt as stopped:
        told.failed(stopped)
        return UNUSABLE
    except Exception as failure:  # noqa: BLE001 - the last place to make it a message
        told.failed(failure)
        return failed


def main() -> NoReturn:
    """Run the command and exit."""
    with lean():
        sys.exit(run(options_of(sys.argv[1:])))


if __name__ == "__main__":
    main()
