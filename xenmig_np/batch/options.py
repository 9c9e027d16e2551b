"""What is asked of a batch, the same for all its images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

from xenmig_np.errors import UsageError
from xenmig_np.io.digest import new_hash

if TYPE_CHECKING:
    from collections.abc import Mapping


class Streams(StrEnum):
    """What is done with what is a v2 or v3 stream already."""

    SKIP = "skip"
    COPY = "copy"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What is done to each image; plain values only, they go to workers and into the manifest."""

    convert: dict[str, Any] = field(default_factory=dict)
    """Options of :func:`xenmig_np.convert` that are not its defaults, as JSON has them."""
    prove: bool = False
    """Compare the contents of the result with the original, as ``verify --against`` does."""
    digest: str = "sha256"
    """A name of :data:`xenmig_np.io.digest.ALGORITHMS`."""
    streams: str = Streams.SKIP
    sync: bool = True
    """Have output and manifest on the disk before going on."""
    rate: int | None = None
    """Bytes per second that all workers together write; None: as fast as it goes."""
    nice: int = 0
    """Niceness that workers add to theirs."""

    @classmethod
    def of(cls, convert: Mapping[str, Any], **options: Any) -> BatchOptions:  # noqa: ANN401 - the fields
        """Options from what a caller gives. Raises :class:`UsageError`, and as :func:`new_hash`."""
        from xenmig_np.conversion.run import Request  # noqa: PLC0415 - brings numpy

        request, usual = (asdict(Request.of(dict(given))) for given in (convert, {}))  # type: ignore[arg-type]
        asked = {name: _plain(value) for name, value in request.items() if value != usual[name]}
        made = cls(convert=asked, **options)
        if made.digest != "none":
            new_hash(made.digest)
        if made.streams not in set(Streams):
            raise UsageError("streams", found=repr(made.streams), expected=", ".join(Streams))
        if made.rate is not None and made.rate <= 0:
            raise UsageError("rate", found=f"{made.rate:,}", expected="bytes per second, at least 1")
        return made

    def asked(self) -> dict[str, Any]:
        """What decides on the result: two runs that ask the same need not do an image twice."""
        return {
            **self.convert,
            "prove": self.prove,
            "digest": self.digest,
            "streams": str(self.streams),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a worker."""
        return asdict(self)


def _plain(value: Any) -> Any:  # noqa: ANN401 - of any option
    if isinstance(value, bytes):
        raise UsageError("config", found="bytes", expected="the name of a file: they are in the manifest")
    return value.value if isinstance(value, Enum) else value
