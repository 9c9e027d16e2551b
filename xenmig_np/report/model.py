"""What a report says: the last result of each image as a row, and what the rows add up to.

Values are as the manifest has them, names that are no UTF-8 too: making them fit to be shown is for who
shows them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from xenmig_np.batch.result import Status

if TYPE_CHECKING:
    from xenmig_np.report.timeline import Timeline

STREAM: Final = "v2 or v3 stream"
"""Release of what is no legacy image: it needed no conversion."""


class Failure(NamedTuple):
    """Why there is no result."""

    reason: str
    """Class of the error, in words."""
    text: str
    """All that is known, in one line, without the name of the image."""
    offset: int | None
    """In the image, in bytes."""
    hint: str


class Row(NamedTuple):
    """The last result of an image. Texts that are not known are empty, numbers None."""

    status: str
    folder: str
    name: str
    guest: str
    release: str
    carrier: str
    title: str
    """Name of the guest."""
    becomes: str
    """Target and format of the result."""
    input_bytes: int | None
    output_bytes: int | None
    began: float
    seconds: float
    attempt: int
    proven: bool
    warnings: tuple[str, ...]
    """Their rules."""
    failure: Failure | None

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.name)

    @property
    def order(self) -> tuple[bool, str, str, str]:
        """Failed ones first."""
        return self.failure is None, self.status, self.folder, self.name


class Warned(NamedTuple):
    """A rule that results have warnings of."""

    rule: str
    images: int
    example: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run that the manifest tells of; what stands only in its first line is None in joined manifests."""

    run: str
    host: str
    tool: str
    began: float
    jobs: int | None
    seconds: float | None
    """None: it was cut off, or it is under way, or nothing tells."""
    ended: str
    images: int
    """Results, all attempts."""
    failed: int
    bytes: int
    """Of the inputs of those."""
    done_before: int | None
    others: dict[str, int]
    """Files that are no images, by what they are."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that is shown."""

    rows: tuple[Row, ...]
    """By :attr:`Row.order`."""
    statuses: dict[str, int]
    proven: int
    input_bytes: int
    """Of what was converted or copied; of the results: :attr:`output_bytes`."""
    output_bytes: int
    timeline: Timeline
    kinds: dict[tuple[str, str], int]
    """Images by release and kind of guest."""
    carriers: dict[str, int]
    becomes: dict[str, int]
    warnings: tuple[Warned, ...]
    runs: tuple[Run, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        return self.rows[: self.statuses.get(Status.FAILED, 0)]
