"""``python -m xenmig_np`` and the command ``xenmig-np``."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command line and exit."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of an import; commands take it over
    occupy()
    from xenmig_np.cli.lean import lean  # noqa: PLC0415 - importing this module costs nothing

    with lean():
        from xenmig_np.cli.app import app  # noqa: PLC0415

        app(prog_name="xenmig-np")


def occupy() -> None:
    """Open standard descriptors that are closed, so that no file is opened as one of them.

    Each the wrong way round: to use it is an error, as it was.
    """
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)


if __name__ == "__main__":
    main()
