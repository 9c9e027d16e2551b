"""The form of HVM contexts: what the hypervisor refuses without a look at the state of any device.

The last one is applied at the end, and judged there. See legacy-stream.md 7.2 and xen-restore-behaviour.md
285 to 298.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.read.records import Record, field_offset
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.releases import ALL, RELEASES, since
from xenmig_np.verification.rule import Broken, Level, rule
from xenmig_np.verification.rules.misc import length_at
from xenmig_np.wire import hvm
from xenmig_np.wire.hvm import ContextType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.verification.state import Stream

ERROR, WARNING = Severity.ERROR, Severity.WARNING
CONTEXT: Final = "HVM_CONTEXT"
FEW: Final = 4
"""Places that are told of one context and rule."""
HEAD: Final = hvm.CONTEXT_RECORD.itemsize
MIN: Final = HEAD + hvm.CONTEXT_HEADER.itemsize


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of a context."""

    offset: int
    """In the input."""
    type: int
    instance: int
    body: bytes

    @property
    def name(self) -> str:
        known = self.type in set(ContextType)
        return ContextType(self.type).name if known else f"type {self.type}"

    @property
    def length_at(self) -> int:
        """Offset of its length."""
        return self.offset + field_offset(hvm.CONTEXT_RECORD, "length")


@dataclass(slots=True)
class Walk:
    """A context taken apart, as far as that goes."""

    entries: list[Entry] = field(default_factory=list)
    """HEADER and END apart."""
    end: int | None = None
    """Bytes up to END and with it; None: it was not reached."""
    broken: Broken | None = None
    """Why it was not."""


def begun(stream: Stream) -> tuple[int, bytes] | None:
    """Offset and bytes of the context that is applied; None if it does not begin as one."""
    event = stream.hvm_context
    if event is None or event.data is None:
        return None
    good = event.data.startswith(hvm.CONTEXT_START) and len(event.data) >= MIN
    return (event.body.offset, event.data) if good else None


def walk(stream: Stream) -> Walk:
    """The context that is applied; nothing is in it if it does not begin as one."""
    made, found = Walk(), begun(stream)
    if found is None:
        return made
    start, data = found
    at = MIN
    while made.end is None and made.broken is None:
        offset, left = start + at, len(data) - at - HEAD
        if left < 0 or len(made.entries) >= hvm.CONTEXT_RECORDS_MAX:
            made.broken = Broken(
                offset, f"{left + HEAD:,} bytes more, no END behind {len(made.entries):,} entries"
            )
            return made
        kind, instance, length = np.frombuffer(data, hvm.CONTEXT_RECORD, 1, at)[0].item()
        entry = Entry(offset, kind, instance, data[at + HEAD : at + HEAD + length])
        at += HEAD + length
        if kind == ContextType.END:
            made.end = at - length
        elif length > left:
            made.broken = Broken(entry.length_at, f"{entry.name} of {length:,} bytes", f"at most {left:,}")
        else:
            made.entries.append(entry)
    return made


# ---- the record ------------------------------------------------------------------------------------------


@rule(
    "V37",
    ERROR,
    "v2-stream 7.8",
    "the context is not empty",
    on=Record,
    record=CONTEXT,
    level=Level.REFERENCE,
)
def empty(event: Record, _stream: Stream) -> Iterator[Broken]:
    if not event.body.length:
        yield Broken(length_at(event), "0 bytes", f"at least {MIN + HEAD}")


@rule("X81", WARNING, "v2-stream 7.8", "there is one context", on=Record, record=CONTEXT)
def again(event: Record, stream: Stream) -> Iterator[Broken]:
    if stream.records[CONTEXT] == 1 and not stream.records["CHECKPOINT"]:
        yield Broken(event.offset, "another one: the last is applied")


# ---- the context as a whole ------------------------------------------------------------------------------


@rule("X96", ERROR, "legacy-stream 7.2", "the context begins with HEADER", on=Record, record="END")
def header(_event: Record, stream: Stream) -> Iterator[Broken]:
    event = stream.hvm_context
    if event and event.data and begun(stream) is None:
        begin = event.data[: len(hvm.CONTEXT_START)].hex(" ")
        yield Broken(event.body.offset, f"{begin}, {len(event.data):,} bytes", hvm.CONTEXT_START.hex(" "))


@rule("X97", ERROR, "legacy-stream 7.2", "the context has version 1", on=Record, record="END")
def version(_event: Record, stream: Stream) -> Iterator[Broken]:
    if found := begun(stream):
        at, data = found
        value = int(np.frombuffer(data, hvm.CONTEXT_HEADER, 1, HEAD)[0]["version"])
        if value != hvm.CONTEXT_VERSION:
            at += HEAD + field_offset(hvm.CONTEXT_HEADER, "version")
            yield Broken(at, f"{value}", f"{hvm.CONTEXT_VERSION}")


@rule("X98", ERROR, "legacy-stream 7.2", "the context's entries reach to END", on=Record, record="END")
def end(_event: Record, stream: Stream) -> Iterator[Broken]:
    if found := walk(stream).broken:
        yield found


@rule("X99", WARNING, "xen-restore-behaviour 293", "nothing but zeros is behind END", on=Record, record="END")
def behind(_event: Record, stream: Stream) -> Iterator[Broken]:
    end, found = walk(stream).end, begun(stream)
    if end is not None and found and any(found[1][end:]):
        yield Broken(found[0] + end, f"{len(found[1]) - end:,} bytes that nobody reads")


# ---- its entries -----------------------------------------------------------------------------------------


@rule("X100", ERROR, "legacy-stream 7.2", "the types of entries are known", on=Record, record="END")
def types(_event: Record, stream: Stream) -> Iterator[Broken]:
    wrong = (
        Broken(entry.offset, f"{entry.name} again" if entry.type == ContextType.HEADER else entry.name)
        for entry in walk(stream).entries
        if entry.type == ContextType.HEADER or entry.type not in set(ContextType)
    )
    yield from islice(wrong, FEW)


@rule("X101", ERROR, "legacy-stream 7.2", "entries have a length of their type", on=Record, record="END")
def lengths(_event: Record, stream: Stream) -> Iterator[Broken]:
    yield from islice(_lengths(stream), FEW)


def _lengths(stream: Stream) -> Iterator[Broken]:
    """A length too new for the release that was asked for; all others take every length of theirs."""
    for entry in walk(stream).entries:
        form, size = hvm.CONTEXT_FORMS.get(entry.type), len(entry.body)
        if form is None or entry.type == ContextType.HEADER:
            continue
        found = f"{entry.name} of {size:,} bytes"
        since_first = since(hvm.CONTEXT_LENGTH_SINCE.get((entry.type, size), RELEASES[0]))
        if form.lengths and size not in form.lengths and not (form.grows and size < form.lengths[-1]):
            yield Broken(entry.length_at, found, " or ".join(map(str, form.lengths)))
        elif stream.release and stream.release not in since_first:
            yield Broken(entry.length_at, found, "a length that it knows", ALL - since_first)


@rule("X102", WARNING, "legacy-stream 7.2", "entries are not shorter than ever", on=Record, record="END")
def short(_event: Record, stream: Stream) -> Iterator[Broken]:
    wrong = (
        Broken(
            entry.length_at, f"{entry.name} of {len(entry.body):,} bytes", " or ".join(map(str, form.lengths))
        )
        for entry in walk(stream).entries
        if (form := hvm.CONTEXT_FORMS.get(entry.type)) and form.grows
        if len(entry.body) < form.lengths[-1] and len(entry.body) not in form.lengths
    )
    yield from islice(wrong, FEW)


@rule(
    "X103",
    ERROR,
    "xen-restore-behaviour 296",
    "entries are of vCPUs and devices that can be",
    on=Record,
    record="END",
)
def instances(_event: Record, stream: Stream) -> Iterator[Broken]:
    yield from islice(_instances(walk(stream).entries), FEW)


def _instances(entries: list[Entry]) -> Iterator[Broken]:
    for entry in entries:
        form = hvm.CONTEXT_FORMS.get(entry.type)
        if form and form.instances > 1 and entry.instance >= form.instances:
            yield Broken(_instance_at(entry), f"{entry.name} {entry.instance}", f"below {form.instances}")


@rule("X109", WARNING, "legacy-stream 7.2", "vCPU 0 has state", on=Record, record="END")
def vcpu_0(_event: Record, stream: Stream) -> Iterator[Broken]:
    """Xen takes it: that vCPU stays offline."""
    processors = [entry for entry in walk(stream).entries if entry.type == ContextType.CPU]
    if processors and all(entry.instance for entry in processors):
        yield Broken(_instance_at(processors[0]), f"CPU {processors[0].instance}", "CPU 0 too")


def _instance_at(entry: Entry) -> int:
    return entry.offset + field_offset(hvm.CONTEXT_RECORD, "instance")


@rule("X104", WARNING, "legacy-stream 7.2", "an instance has one entry of a type", on=Record, record="END")
def twice(_event: Record, stream: Stream) -> Iterator[Broken]:
    seen: set[tuple[int, int]] = set()
    wrong = []
    for entry in walk(stream).entries:
        if (entry.type, entry.instance) in seen:
            wrong.append(Broken(entry.offset, f"{entry.name} {entry.instance} again: the last is applied"))
        seen.add((entry.type, entry.instance))
    yield from wrong[:FEW]


@rule("X108", ERROR, "legacy-stream 7.2", "lists of an entry fit its length", on=Record, record="END")
def contents(_event: Record, stream: Stream) -> Iterator[Broken]:
    yield from islice(_contents(stream), FEW)


def _contents(stream: Stream) -> Iterator[Broken]:
    """An xsave area has its legacy region and header; MSRs are as many as their count says."""
    for entry in walk(stream).entries:
        size = len(entry.body)
        if entry.type == ContextType.CPU_XSAVE:
            least = hvm.CONTEXT_XSAVE.itemsize + hvm.XSAVE_AREA_MIN
            if size < least:
                yield Broken(entry.length_at, f"CPU_XSAVE of {size:,} bytes", f"at least {least}")
        elif entry.type == ContextType.CPU_MSR:
            count = int.from_bytes(entry.body[:4], "little")
            if not count or size != hvm.CONTEXT_MSRS.itemsize + count * hvm.CONTEXT_MSR.itemsize:
                yield Broken(entry.length_at, f"CPU_MSR of {size:,} bytes", f"those of {count:,} MSRs, not 0")
