"""One image of a batch: converted beside its name, verified, proven if asked, synced, renamed.

:func:`convert_item` is all that an engine needs: plain values in, a :class:`Result` out, nothing raised but
what ends the process.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, cast

import xenmig_np
from xenmig_np.batch.options import BatchOptions, Streams
from xenmig_np.batch.places import link, make_folders, same_bytes, stamp, sync_folder, writing
from xenmig_np.batch.result import Result, Status
from xenmig_np.batch.told import of_failed, of_image, of_stream
from xenmig_np.errors import InputOutputError, InvalidImage, OutputExists, XenmigError
from xenmig_np.io.digest import Digests
from xenmig_np.io.files import Output
from xenmig_np.io.plan import Range
from xenmig_np.io.pour import pour
from xenmig_np.io.source import open_source
from xenmig_np.verification.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenmig_np.io.source import Source

    Progress = Callable[[int, int | None], object]


class Unverified(InvalidImage):
    """What was made breaks a rule of verification."""


class Unproven(InvalidImage):
    """What was made does not say all that the original says."""


class ClaimLost(XenmigError):
    """Another worker has taken the image over; what was made of it is dropped."""


@dataclass(frozen=True, slots=True)
class Item:
    """An image that waits for its turn."""

    input: str
    output: str
    mark: str
    """Stands in the name of its temporary file: whoever finds that knows whose it was."""
    run: str = ""
    is_stream: bool = False
    """A v2 or v3 stream already."""
    replace: str = ""
    """Of an existing output: empty, none; ``same``, one that is what will be made; ``any``."""
    attempt: int = 1
    unless: str | None = None
    """A file that says, by being there, that the claim is lost."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a worker."""
        return asdict(self)


def convert_item(item: Item, options: BatchOptions, progress: Progress | None = None) -> Result:
    """Do one image. What is wrong with it, or with this program, is in the result."""
    work = _Work(item, options, progress)
    try:
        work.do()
    except Exception as error:  # noqa: BLE001 - a defect with one image is no reason to leave out the rest
        work.failed(_told(error, item))
        with suppress(Exception):  # nor is one in telling what it was
            if not item.is_stream:
                work.known["image"] = of_failed(item.input, options.convert)
    return work.result()


def failed_result(item: Item, options: BatchOptions, error: XenmigError) -> Result:
    """The result of an image for which nothing could be done."""
    work = _Work(item, options, None)
    work.failed(_told(error, item))
    return work.result()


def _told(error: Exception, item: Item) -> dict[str, Any]:
    """An error as the manifest has it; what is none of ours is a defect."""
    if isinstance(error, XenmigError):
        return {**error.to_dict(), "errno": getattr(error, "errno", None)}
    name = type(error).__name__
    message = "out of memory" if isinstance(error, MemoryError) else f"internal error: {name}: {error}"
    return {**XenmigError(message, path=item.input).to_dict(), "class": name, "errno": None}


@dataclass(slots=True)
class _Work:
    """An image while it is done."""

    item: Item
    options: BatchOptions
    progress: Progress | None
    known: dict[str, Any] = field(default_factory=dict)
    """Fields of the result."""
    began: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.monotonic)

    def do(self) -> None:
        before = self._look()
        self._make_folder()
        if not self.item.is_stream:
            self._convert(before)
        elif self.options.streams == Streams.COPY:
            self._copy(before)
        elif self.options.streams == Streams.LINK:
            self._link()
        else:
            self.known["status"] = Status.SKIPPED
            return
        made = os.stat(self.item.output)
        self.known |= {"output_bytes": made.st_size, "output_mtime_ns": made.st_mtime_ns}

    def failed(self, error: dict[str, Any]) -> None:
        kept = {name: value for name, value in self.known.items() if name.startswith("input_")}
        self.known = {**kept, "status": Status.FAILED, "error": error}

    def result(self) -> Result:
        status = self.known.pop("status")
        nothing = status in {Status.SKIPPED, Status.FAILED}
        return Result(
            status=str(status),
            input=self.item.input,
            output=None if nothing else self.item.output,
            run=self.item.run,
            attempt=self.item.attempt,
            began=round(self.began, 3),
            seconds=round(time.monotonic() - self.clock, 6),
            host=socket.gethostname(),
            tool=xenmig_np.__version__,
            options=self.options.asked(),
            **self.known,
        )

    def _look(self) -> os.stat_result:
        try:
            found = os.stat(self.item.input)
        except OSError as error:
            raise InputOutputError("cannot be opened", path=self.item.input, cause=error) from error
        self.known |= {"input_bytes": found.st_size, "input_mtime_ns": found.st_mtime_ns}
        return found

    def _make_folder(self) -> None:
        if not (self.item.is_stream and self.options.streams == Streams.SKIP):
            make_folders(os.path.dirname(self.item.output), sync=self.options.sync)

    def _convert(self, before: os.stat_result) -> None:
        witness = _Witness(self, before)
        made = xenmig_np.convert(
            self.item.input,
            self.item.output,
            force=bool(self.item.replace),
            sync=self.options.sync,
            progress=self.progress,
            witness=witness,
            **self.options.convert,
        )
        self.known |= {
            "status": Status.CONVERTED,
            "image": of_image(made.input),
            "stream": of_stream(made),
            "warnings": [note.to_dict() for note in made.warnings],
        }

    def _copy(self, before: os.stat_result) -> None:
        """Copy a stream as it is, with its compression if it has any."""
        item, size = self.item, before.st_size
        witness = _Witness(self, before)
        with open_source(item.input, exact=True) as source:
            out = Output(item.output, source, force=bool(item.replace), mark=item.mark)
            out.needs(size)
            with out:
                progress = self.progress
                pour(
                    witness.reading(source),
                    out,
                    [Range(0, size, "stream")],
                    size=size,
                    progress=progress and (lambda done: progress(done, size)),
                    tap=witness.tap,
                )
                witness.accept(out.fd)
                out.commit(sync=self.options.sync)
        self.known["status"] = Status.COPIED

    def _link(self) -> None:
        """Give the file of a stream a second name."""
        item = self.item
        with open_source(item.input, exact=True) as source:
            self.verify(source.fd)
        with writing(item.output):
            link(item.input, item.output, item.mark, replace=item.replace == "any")
            if self.options.sync:
                sync_folder(os.path.dirname(item.output))
        self.known["status"] = Status.LINKED

    def verify(self, fd: int) -> None:
        """Raise :class:`Unverified` unless the stream is good."""
        report = xenmig_np.verify(self._written(fd), max_findings=1000)
        errors = [one for one in report.findings if one.severity is Severity.ERROR]
        if errors:
            first = errors[0]
            raise Unverified(
                f"the stream breaks a rule of verification: {first.text}",
                path=self.item.output,
                offset=first.offset,
                item=first.item,
                found=first.found,
                expected=first.expected,
                rule=first.rule,
            )
        self.known["verified"] = True

    def prove(self, fd: int) -> None:
        """Raise :class:`Unproven` unless the original can be deleted."""
        if self.item.is_stream:
            if not same_bytes(fd, self.item.input):
                raise Unproven("the copy is not the same", path=self.item.output)
            self.known["proven"] = True
            return
        asked = self.options.convert
        compared = xenmig_np.compare(
            self._written(fd), self.item.input, width=asked.get("width"), guest=asked.get("guest")
        )
        if not compared.deletable:
            raise Unproven(compared.verdict, path=self.item.output)
        self.known["proven"] = True

    def _written(self, fd: int) -> IO[bytes]:
        """The descriptor as an input, under the name that it will have."""
        os.lseek(fd, 0, os.SEEK_SET)
        return cast("IO[bytes]", _Written(fd, self.item.output))


class _Witness:
    """Takes the digests of what passes; looks at the result before it gets its name."""

    def __init__(self, work: _Work, before: os.stat_result) -> None:
        self.mark = work.item.mark
        self._work = work
        self._before = before
        algorithm = work.options.digest
        self._digests = None if algorithm == "none" else Digests(work.item.input, algorithm)
        self.tap = self._digests.wrote if self._digests else None

    def reading(self, source: Source) -> Source:
        return self._digests.reading(source) if self._digests else source

    def accept(self, fd: int) -> None:
        """Raises what is wrong with it, or with giving it its name."""
        work, item = self._work, self._work.item
        work.verify(fd)
        if work.options.prove:
            work.prove(fd)
        if self._digests:
            self._digests.finish(fd, item.output)
            work.known |= {
                "digest": self._digests.algorithm,
                "input_digest": self._digests.input,
                "output_digest": self._digests.output,
            }
        if stamp(item.input) != (self._before.st_size, self._before.st_mtime_ns):
            raise InvalidImage("it changed while it was read", path=item.input)
        if item.replace == "same" and os.path.exists(item.output) and not same_bytes(fd, item.output):
            raise OutputExists("exists already", path=item.output, hint="--force replaces it")
        if item.unless and os.path.exists(item.unless):
            raise ClaimLost("another worker has taken it over", path=item.input)


@dataclass(frozen=True, slots=True)
class _Written:
    """As much of an open file as an input needs."""

    fd: int
    name: str

    def fileno(self) -> int:
        return self.fd
