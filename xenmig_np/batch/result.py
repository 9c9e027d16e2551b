"""What became of one image: the line of the manifest."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, field
from typing import Any, Final

SCHEMA: Final = "xenmig-np/manifest"
SCHEMA_VERSION: Final = 1


class Status(enum.StrEnum):
    """How it ended."""

    CONVERTED = "converted"
    COPIED = "copied"
    LINKED = "linked"
    SKIPPED = "skipped"
    """It is a v2 or v3 stream already, and stays where it is."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """One image and what became of it. Paths are absolute; bytes that are no UTF-8 are lone surrogates."""

    status: str
    input: str
    output: str | None
    """None: there is none."""
    run: str
    """Identity of the run that did it."""
    attempt: int
    """How often it was tried, this time included."""
    began: float
    """Seconds since 1970."""
    seconds: float
    host: str
    tool: str
    """Version of this program."""
    options: dict[str, Any]
    """What was asked for: options of the conversion that are not the usual ones, and of the batch."""
    input_bytes: int | None = None
    """None, here and below: it was not got at."""
    input_mtime_ns: int | None = None
    output_bytes: int | None = None
    output_mtime_ns: int | None = None
    digest: str | None = None
    """Algorithm of the digests."""
    input_digest: str | None = None
    output_digest: str | None = None
    image: dict[str, Any] | None = None
    """What the input is: carrier, guest, width, saved_by, name, pages and so on."""
    stream: dict[str, Any] | None = None
    """What the output is: target, format, restored_by, records, words, left_out."""
    verified: bool = False
    """The result was read again and no rule is broken."""
    proven: bool = False
    """All contents were compared: nothing of the original is missing, it can be deleted."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    """Class, exit code, message, path, offset, item, found, expected, hint and errno of what went wrong."""

    @property
    def failed(self) -> bool:
        """Whether it has to be done again."""
        return self.status == Status.FAILED

    @property
    def failure(self) -> str | None:
        """What went wrong with which image, in one line, also where the error is about another file."""
        if self.error is None:
            return None
        message = str(self.error["message"])
        return message if message.startswith(f"{self.input}: ") else f"{self.input}: {message}"

    @property
    def ended(self) -> float:
        """Seconds since 1970."""
        return self.began + self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the line of the manifest."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "event": "image", **asdict(self)}

    @classmethod
    def from_dict(cls, line: dict[str, Any]) -> Result:
        """The result in a line; fields that later versions have added are left out."""
        return cls(**{name: line[name] for name in cls.__dataclass_fields__ if name in line})
