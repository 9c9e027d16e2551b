"""A legacy image that has been found in an input: what carries it, its shape, its events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenmig_np.carriers.recognise import Carried, misplaced, recognise
from xenmig_np.errors import NotRecognised, NotSupported
from xenmig_np.read import consistency, v2
from xenmig_np.read.detect import Detected, detect
from xenmig_np.read.facts import Facts
from xenmig_np.read.legacy import LegacyReader
from xenmig_np.read.records import NumberingName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenmig_np.io.source import Source
    from xenmig_np.read.events import AnyEvent
    from xenmig_np.wire.legacy import Guest


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

    def events(self, facts: Facts) -> Iterator[AnyEvent]:
        """All events in order, each noted in ``facts`` first, and remarks on what does not fit them.

        Raises as :class:`LegacyReader` does.
        """
        self.source.release()
        shape = self.detected.shape
        for event in LegacyReader(self.source, self.carried.at, shape, to_tail=self.to_tail).events():
            facts.see(event)
            if self.listener:
                self.listener(event)
            yield event
            for remark in consistency.remarks(event, facts):
                facts.see(remark)
                yield remark

    def new_facts(self) -> Facts:
        """Facts of this image before its first event."""
        facts = Facts(self.detected.shape, self.source.path)
        for note in self.carried.notes:
            facts.notes.add(note)
        return facts

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
            hint="it needs no conversion",
        )
    try:
        shape = detect(source, carried.at, width=width, guest=guest, yielding=yielding)
        return LegacyImage(source, carried, shape)
    except NotRecognised as error:
        if carried.otherwise:
            raise carried.otherwise.refusal(source.path, source.start) from error
        if further := misplaced(source):
            at, name = further
            error.hint = f"{name} begins at byte {at}: cut off what precedes it"
        raise


def _described(kind: v2.StreamKind) -> str:
    numbering = "" if kind.numbering is NumberingName.UNKNOWN else f" in {kind.numbering} numbering"
    origin = "converted from a legacy image" if kind.converted else f"saved by {kind.saved_by}"
    layers = f"{kind.format} format{numbering}"
    return f"a migration v{kind.libxc_version} stream, {layers}, {kind.guest.upper()} guest, {origin}"
