"""What a manifest proves: what earlier runs have done, and what they may have left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from xenmig_np.batch.places import stamp
from xenmig_np.batch.result import Result, Status
from xenmig_np.errors import XenmigError
from xenmig_np.io.digest import file_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenmig_np.batch.options import BatchOptions


class Entry(NamedTuple):
    """As much of the last result of an image as decides whether it has to be done again."""

    failed: bool
    attempt: int
    asked: str
    """The options, as JSON; one string for all that are alike."""
    input: tuple[int | None, int | None]
    """Size and time of modification."""
    output: str | None
    made: tuple[int | None, int | None]
    digests: tuple[str, str, str] | None
    """Algorithm, of the input, of the output; kept if they are to be compared."""


class History:
    """The last entry of each image, and the runs that were cut off."""

    def __init__(self, lines: Iterable[dict[str, Any]] = (), *, recheck: bool = False) -> None:
        self._recheck = recheck
        self._asked: dict[str, str] = {}
        self.entries: dict[str, Entry] = {}
        """By the path of the input."""
        self.cut_off: dict[str, str] = {}
        """Folders of output, by the run."""
        for line in lines:
            match line["event"]:
                case "run":
                    self.cut_off[line["run"]] = line["out"]
                case "end":
                    self.cut_off.pop(line["run"], None)
                case "image":
                    self._note(Result.from_dict(line))

    def _note(self, result: Result) -> None:
        asked = text_of(result.options)
        digests = None
        if self._recheck and result.digest and result.input_digest and result.output_digest:
            digests = (result.digest, result.input_digest, result.output_digest)
        self.entries[result.input] = Entry(
            failed=result.status == Status.FAILED,
            attempt=result.attempt,
            asked=self._asked.setdefault(asked, asked),
            input=(result.input_bytes, result.input_mtime_ns),
            output=result.output,
            made=(result.output_bytes, result.output_mtime_ns),
            digests=digests,
        )

    def attempts(self, path: str) -> int:
        """How often an image was tried."""
        entry = self.entries.get(path)
        return entry.attempt if entry else 0

    def is_done(self, path: str, output: str, options: BatchOptions) -> bool:
        """Whether an image need not be done again: asked for alike, and both files as they were then."""
        entry = self.entries.get(path)
        if entry is None or entry.failed or entry.asked != text_of(options.asked()):
            return False
        if stamp(path) != entry.input or entry.output not in {None, output}:
            return False
        if entry.output and stamp(entry.output) != entry.made:
            return False
        return not (self._recheck and entry.output) or _digests_hold(entry, path)

    def is_ours(self, path: str, output: str) -> bool:
        """Whether an existing output is what was made of the image, and nobody has changed it."""
        entry = self.entries.get(path)
        return entry is not None and entry.output == output and stamp(output) == entry.made


def text_of(options: dict[str, Any]) -> str:
    """Options in a form that can be compared."""
    return json.dumps(options, sort_keys=True)


def _digests_hold(entry: Entry, path: str) -> bool:
    if not (entry.digests and entry.output):
        return False
    algorithm, old, new = entry.digests
    try:
        return (file_digest(path, algorithm), file_digest(entry.output, algorithm)) == (old, new)
    except XenmigError:
        return False
