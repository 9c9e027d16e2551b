"""What follows the last END (v2-stream.md 19.9, 19.10; reference-tools.md 9.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.read.records import EndOfStream
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.rule import Broken, rule
from xenmig_np.wire import qemu, xl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
SOME: Final = 16
"""Bytes that a finding shows."""


@rule("X127", ERROR, "v2-stream 19.9", "a device-model record is complete", on=EndOfStream)
def device_model(_event: EndOfStream, stream: Stream) -> Iterator[Broken]:
    if stream.behind and stream.behind.cut:
        yield Broken(stream.behind.offset, "one that the input ends in", "all of it")


@rule("X128", WARNING, "v2-stream 19.10", "nothing follows the stream", on=EndOfStream)
def trailing(_event: EndOfStream, stream: Stream) -> Iterator[Broken]:
    """Apart from the device-model record behind a libxc stream of an HVM guest."""
    if stream.behind and stream.behind.rest:
        rest, length = stream.behind.rest, stream.behind.length
        many = f"more than {len(rest):,}" if length is None else f"{length:,}"
        yield Broken(stream.behind.offset, f"{many} bytes: {_described(rest)}", "the end of the input")


def _described(rest: bytes) -> str:
    if not any(rest):
        return "zeros"
    if rest.startswith(xl.HANDSHAKE):
        return "the last message of xl migrate"
    if any(rest.startswith(row.signature) for row in qemu.DEVICE_MODEL_RECORDS):
        return "a device-model record"
    return rest[:SOME].hex(" ")
