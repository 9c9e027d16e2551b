"""Turns what a command raises into messages and exit codes. No traceback reaches a user."""

from __future__ import annotations

import functools
import os
import signal
import traceback
from typing import TYPE_CHECKING, NoReturn, ParamSpec

import typer

from xenmig_np.cli import terminal
from xenmig_np.errors import ExitCode, XenmigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

P = ParamSpec("P")
DEBUG = "XENMIG_NP_DEBUG"
"""Environment variable: not empty prints the traceback of any error."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP: outputs are cleaned up on the way out."""


_ending: list[int] = []
"""Signals that came and end the program."""


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    _ending.append(number)
    check_signals()
    raise Terminated(number)


def check_signals() -> None:
    """Raise for a signal whose exception was lost: code in C may throw away what a callback raises."""
    if _ending:
        raise KeyboardInterrupt if _ending[-1] == signal.SIGINT else Terminated(_ending[-1])


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose errors are told and become exit codes.

    Done here and not behind typer, which takes every EOFError for the end of a dialogue.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **options: P.kwargs) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _end)
        code = _run(functools.partial(command, *args, **options), as_json=bool(options.get("json")))
        raise typer.Exit(code)

    return wrapped


def _run(command: Callable[[], None], *, as_json: bool) -> int:
    try:
        command()
    except typer.Exit as left:
        return left.exit_code
    except BaseException as failure:  # noqa: BLE001 - the last place that can turn it into a message
        if os.environ.get(DEBUG):
            traceback.print_exc()
        return _told(failure, as_json=as_json)
    return ExitCode.DONE


def _told(failure: BaseException, *, as_json: bool) -> int:
    """Say what happened; returns the exit code."""
    code: int = ExitCode.INTERNAL
    match failure:
        case XenmigError():
            terminal.error(failure)
            if as_json:
                terminal.error_json(failure)
            code = failure.exit_code
        case KeyboardInterrupt():
            terminal.say("interrupted")
            code = ExitCode.INTERRUPTED
        case Terminated():
            terminal.say("terminated")
            code = 128 + int(failure.args[0])
        case OSError():  # of printing a report; inputs and outputs have errors of their own
            if not isinstance(failure, BrokenPipeError):  # else who read it has gone, and knows
                terminal.say(f"error: {failure}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python still holds for it has nowhere to go
            code = ExitCode.IO
        case MemoryError():
            terminal.say("error: out of memory")
        case _:
            terminal.say(f"internal error: {type(failure).__name__}: {failure}")
            terminal.say(f"hint: this is a defect of xenmig-np; {DEBUG}=1 in the environment shows where")
    return code
