"""Everything that can go wrong, as data: what was read, where, what was found and what was expected.

Text is made at the edge (:meth:`XenmigError.__str__`, the command line); callers look at the fields.
Imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the ``xenmig-np`` command."""

    DONE = 0
    INVALID = 1
    USAGE = 2
    UNSUPPORTED = 3
    IO = 4
    PARTLY = 5
    REFUSED = 6
    SALVAGED = 7
    INTERNAL = 70
    INTERRUPTED = 130
    TERMINATED = 143


class XenmigError(Exception):
    """The root of all errors that this package raises on purpose.

    ``path`` is the file as the user named it, ``offset`` the byte offset in that file, ``item`` the
    chunk, record or field at that place, ``found`` and ``expected`` say what is wrong there, ``hint``
    what to do about it, ``rule`` which rule of verification it breaks, where it has a number.
    """

    exit_code = ExitCode.INTERNAL

    def __init__(  # noqa: PLR0913 - each is one of the facts that an error consists of
        self,
        message: str = "",
        *,
        path: str | None = None,
        offset: int | None = None,
        item: str | None = None,
        found: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
        rule: str | None = None,
    ) -> None:
        self.message = message
        self.path = path
        self.offset = offset
        self.item = item
        self.found = found
        self.expected = expected
        self.hint = hint
        self.rule = rule
        super().__init__(message)

    def __str__(self) -> str:
        """One line: file, item, offset, what was found, what was expected."""
        place = self.item or ""
        if self.offset is not None:
            place = f"{place} at {self.offset:#x}".strip()
        facts = [
            self.message,
            self.found and f"found {self.found}",
            self.expected and f"expected {self.expected}",
        ]
        what = ", ".join(fact for fact in facts if fact)
        return ": ".join(part for part in (self.path, place, what) if part)

    def to_dict(self) -> dict[str, str | int | None]:
        """The fields for ``--json``."""
        return {
            "class": type(self).__name__,
            "exit_code": int(self.exit_code),
            "message": str(self),
            "path": self.path,
            "offset": self.offset,
            "item": self.item,
            "found": self.found,
            "expected": self.expected,
            "hint": self.hint,
        }


class InvalidImage(XenmigError, ValueError):
    """The input breaks its format."""

    exit_code = ExitCode.INVALID


class TruncatedImage(InvalidImage, EOFError):
    """The input ends before the image does."""


class NotRecognised(InvalidImage):
    """The input is nothing that this program knows."""


class NotSupported(XenmigError):
    """The input was recognised, and this program does not convert it; ``what`` says what it is."""

    exit_code = ExitCode.UNSUPPORTED

    def __init__(  # noqa: PLR0913 - as above
        self,
        what: str,
        *,
        path: str | None = None,
        offset: int | None = None,
        item: str | None = None,
        hint: str | None = None,
        rule: str | None = None,
    ) -> None:
        super().__init__(f"not supported: {what}", path=path, offset=offset, item=item, hint=hint, rule=rule)
        self.what = what


class UsageError(XenmigError, ValueError):
    """Options that contradict each other or the image."""

    exit_code = ExitCode.USAGE


class InputOutputError(XenmigError, OSError):
    """The operating system failed a read or a write."""

    exit_code = ExitCode.IO

    def __init__(self, message: str = "", *, cause: OSError | None = None, path: str | None = None) -> None:
        super().__init__(f"{message}: {cause.strerror}" if cause else message, path=path)
        self.errno = cause.errno if cause else None


class Refused(XenmigError):
    """Doing it would harm something: the output exists, is the input, or does not fit."""

    exit_code = ExitCode.REFUSED


class OutputExists(Refused, FileExistsError):
    """The output is there already and ``--force`` was not given."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth telling that does not stop the work; rows of the specification name them.

    ``rule`` is the row (``D24``, ``legacy 8.11``) or a short word; ``offset`` is a byte offset in the input.
    """

    rule: str
    text: str
    offset: int | None = None

    def to_dict(self) -> dict[str, str | int | None]:
        return {"rule": self.rule, "text": self.text, "offset": self.offset}
