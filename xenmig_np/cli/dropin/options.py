"""Options as the original tools take them (reference-tools.md 3, 4).

Those were written with optparse, and callers rely on how it reads a command line: long options may be cut to
any prefix that is clear, values may begin with ``-``, other arguments are ignored. So it is used here too.
"""

from __future__ import annotations

import optparse
import re
import sys
from typing import TYPE_CHECKING, NoReturn

from xenmig_np.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

MISSING, WRONG = 1, 2
"""Exit codes: a required option is not there; an option or its value does not exist."""

_DESCRIPTOR = re.compile(r"[ \t]*\+?([0-9]+)[ \t]*")
_DESCRIPTOR_MAX = (1 << 31) - 1


def location(value: str) -> str | int:
    """FD or FILE: a number is a descriptor, everything else names a file, ``-`` and ``-1`` too."""
    if number := _DESCRIPTOR.fullmatch(value):
        return min(int(number[1]), _DESCRIPTOR_MAX)  # beyond: no descriptor either, and none for a C int
    return "./-" if value == "-" else value


class Parser(optparse.OptionParser):
    """Reads a command line; wrong ones end the process, as ``--help`` and ``--version`` do."""

    def parsed(self, arguments: Sequence[str], *, required: Sequence[str] = ()) -> optparse.Values:
        """The values of the options; ``required`` are those that must be there, by the name of the value."""
        values, _ = self.parse_args(list(arguments))
        missing = [name for name in required if getattr(values, name) is None]
        if missing:
            for line in self.format_help().splitlines():
                terminal.say(line)
            options = [option for option in self.option_list if option.dest in missing]
            terminal.say(f"{self.prog}: error: missing {', '.join(str(option) for option in options)}")
            sys.exit(MISSING)
        return values

    def print_help(self, file: object = None) -> None:  # noqa: ARG002 - as optparse has it
        for line in self.format_help().splitlines():
            terminal.result(line)

    def error(self, msg: str) -> NoReturn:
        terminal.say(self.get_usage().strip())
        terminal.say(f"{self.get_prog_name()}: error: {msg}")
        sys.exit(WRONG)
