"""A legacy image that has been found in an input: what carries it, its shape, its events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenmig_np.carriers.recognise import Carried, misplaced, recognise
from xenmig_np.carriers.xapi import StructuredHeader, behind
from xenmig_np.errors import Note, NotRecognised, NotSupported, UsageError
from xenmig_np.read import consistency, v2
from xenmig_np.read.detect import GUEST_NAMES, Detected, detect
from xenmig_np.read.events import EndOfImage, Remark
from xenmig_np.read.facts import Facts
from xenmig_np.read.legacy import LegacyReader
from xenmig_np.read.places import Event, Extent
from xenmig_np.read.records import NumberingName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenmig_np.carriers.xapi import Record
    from xenmig_np.io.source import Source
    from xenmig_np.read.events import AnyEvent
    from xenmig_np.read.pagestore import PageStore
    from xenmig_np.wire.legacy import Guest


@dataclass(slots=True, eq=False)
class CarriedRecord(Event):
    """A record that the carrier has behind the image, the last one too; it comes before its end."""

    record: Record
    body: Extent


@dataclass(frozen=True, slots=True)
class LegacyImage:
    """Iterate over :meth:`events` as often as wanted, once where the source cannot be read twice."""

    source: Source
    carried: Carried
    detected: Detected
    to_tail: bool = False
    """Nothing behind the tail is read, not even a device-model record: others go on there."""
    listener: Callable[[AnyEvent], None] | None = None
    """Called with each event before it is handed out."""
    store: PageStore | None = None
    """Keeps decoded pages, for as long as it is open; None: they go with the iteration that made them."""

    def events(self, facts: Facts) -> Iterator[AnyEvent]:
        """All events in order, each noted in ``facts`` first, and remarks on what does not fit them.

        Raises as :class:`LegacyReader` does.
        """
        self.source.release()
        for event in self._read():
            facts.see(event)
            if self.listener:
                self.listener(event)
            yield event
            for remark in consistency.remarks(event, facts):
                facts.see(remark)
                yield remark

    def _read(self) -> Iterator[AnyEvent]:
        """The events, and the carrier's records where the reader sees trailing bytes."""
        shape = self.detected.shape
        reader = LegacyReader(self.source, self.carried.at, shape, to_tail=self.to_tail, store=self.store)
        if not (self.source.drained and isinstance(self.carried.header, StructuredHeader)):
            yield from reader.events()
            return
        for event in reader.events():
            if isinstance(event, EndOfImage):
                yield from self._behind(reader.reading.cursor.source, event.offset)
            if not (isinstance(event, Remark) and event.note.rule == "trailing"):
                yield event

    def _behind(self, source: Source, at: int) -> Iterator[CarriedRecord | Remark]:
        """``source``: the input, or what keeps the end of a pipe."""
        records, notes = behind(source, at)
        for record in records:
            begin = record.end - record.length
            place = Extent(begin, record.length, None if source is self.source else source)
            yield CarriedRecord(record.offset, record.end - record.offset, record, place)
        yield from map(Remark, notes)

    def new_facts(self) -> Facts:
        """Facts of this image before its first event."""
        facts = Facts(self.detected.shape, self.source.path)
        for note in (*self.carried.notes, *self._contradicted()):
            facts.notes.add(note)
        return facts

    def _contradicted(self) -> Iterator[Note]:
        """What the carrier says of the image and is not so."""
        header, shape = self.carried.header, self.detected.shape
        if header and header.guest not in {None, shape.guest}:
            said, found = (GUEST_NAMES[guest].upper() for guest in (header.guest, shape.guest) if guest)
            yield Note(
                "containers 3.5", f"the configuration is of a {said} guest, the image of a {found} one", None
            )
        if header and header.width not in {None, shape.width}:
            text = f"the carrier is of {header.width}-bit tools, the image of {shape.width}-bit ones"
            yield Note("containers 4.2", text, self.carried.at)

    def survey(self) -> Facts:
        """Walk all heads and return what they say; pages are stepped over."""
        facts = self.new_facts()
        for _ in self.events(facts):
            pass
        return facts


def find(
    source: Source, *, width: int | None = None, guest: Guest | None = None, yielding: bool = False
) -> LegacyImage:
    """Recognise the carrier and detect the shape; the rest is as :func:`detect` takes it.

    Raises :class:`NotRecognised`, :class:`NotSupported` (also for a stream that is v2 or v3 already),
    :class:`UsageError`, :class:`InvalidImage`.
    """
    carried = recognise(source)
    if carried.stream != "legacy":
        raise NotSupported(
            f"it already is {_described(v2.identify(source, carried.at))}",
            path=source.path,
            offset=carried.at,
            item="stream",
            hint="; ".join(note.text for note in carried.notes) or "it needs no conversion",
        )
    likely = carried.header.guest if carried.header else None
    try:
        shape = detect(source, carried.at, width=width, guest=guest, likely=likely, yielding=yielding)
        return LegacyImage(source, carried, shape)
    except NotRecognised as error:
        if carried.otherwise:
            raise carried.otherwise.refusal(source.path, source.start) from error
        if further := misplaced(source):
            at, name = further
            error.hint = f"{name} begins at byte {at}: try --skip {at}"
        raise


def skip(source: Source, count: int) -> None:
    """Let the input begin ``count`` bytes later: they precede the image. Raises :class:`UsageError`."""
    end = source.known_end
    most = None if end is None else end - source.start
    if count < 0 or (most is not None and count > most):
        expected = "0 bytes or more" if most is None else f"0 to the {most:,} bytes of the input"
        raise UsageError("--skip", path=source.path, found=f"{count:,} bytes", expected=expected)
    source.start += count


def _described(kind: v2.StreamKind) -> str:
    numbering = "" if kind.numbering is NumberingName.UNKNOWN else f" in {kind.numbering} numbering"
    origin = "converted from a legacy image" if kind.converted else f"saved by {kind.saved_by}"
    layers = f"{kind.format} format{numbering}"
    return f"a migration v{kind.libxc_version} stream, {layers}, {kind.guest.upper()} guest, {origin}"
