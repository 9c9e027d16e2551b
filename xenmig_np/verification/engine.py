"""Runs the rules over one input, on past errors where the next record can be found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from xenmig_np.carriers.xapi import StructuredHeader
from xenmig_np.errors import NotSupported, TruncatedImage, XenmigError
from xenmig_np.read.records import DomainHeader, EndOfStream, ImageHeader, LibxlHeader, LibxlRecord, Record
from xenmig_np.read.v2 import StreamReader
from xenmig_np.verification import rules as _rules  # noqa: F401 - fills the table
from xenmig_np.verification.behind import Behind, look_at_records, look_behind
from xenmig_np.verification.finding import Finding, Severity
from xenmig_np.verification.releases import ALL, LIBXC_V3, Releases
from xenmig_np.verification.rule import RULES, Chosen, Level, Rule
from xenmig_np.verification.state import Stream
from xenmig_np.wire import libxc
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.carriers.recognise import Carried
    from xenmig_np.io.source import Source
    from xenmig_np.options import Format
    from xenmig_np.read.records import AnyRecord
    from xenmig_np.verification.rule import Broken

TRUNCATED = {False: "V11", True: "V53"}
"""The rule that a stream breaks which ends too early: in its libxc and its libxl layer."""


class Listener(Protocol):
    """Is told of a stream while it is verified."""

    def read(self, event: AnyRecord) -> None:
        """It was read, and will be checked."""

    def passed(self, event: AnyRecord) -> None:
        """Nothing was found in it."""


@dataclass(slots=True)
class Verification:
    """Reads one stream; iterate over :meth:`findings` once, then look at the state."""

    source: Source
    at: int
    """Offset of the stream."""
    level: Level = Level.RESTORE
    release: str | None = None
    carried: Carried | None = None
    """What carries it, to be judged too."""
    form: Format | None = None
    """What the stream has to be; None: what it begins as."""
    listener: Listener | None = None
    stream: Stream = field(init=False)
    ended: bool = field(default=False, init=False)
    """The END of the outer layer was read."""
    end: int = field(default=0, init=False)
    """Offset behind the last thing that was read."""
    _index: Counter[type] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        self.stream = Stream(self.source, self.level, self.release, self.carried)

    def findings(self) -> Iterator[Finding]:
        """All findings, in the order of the stream."""
        self.source.release()
        chosen = Chosen(self.level)
        reader = StreamReader(self.source, self.at, bodies=True, form=self.form)
        while True:
            try:
                for event in reader.events():
                    yield from self._checked(event, chosen)
            except (NotSupported, XenmigError) as error:
                if error.exit_code not in {NotSupported.exit_code, TruncatedImage.exit_code}:
                    raise
                yield self._of_reader(error)
                continue
            break
        self.end = reader.cursor.at

    def _checked(self, event: AnyRecord, chosen: Chosen) -> Iterator[Finding]:
        if isinstance(event, EndOfStream) and self.level is Level.RESTORE and self.source.drained:
            self.stream.behind = self._behind(event.offset)
        if self.listener is not None:
            self.listener.read(event)
        passed = True
        for row, broken in chosen.run(event, self.stream):
            if (finding := self._finding(row, broken, event)) is not None:
                passed = False
                yield finding
        if self.listener is not None and passed:
            self.listener.passed(event)
        self.stream.add(event)
        self._index[LibxlRecord if isinstance(event, LibxlRecord) else Record] += isinstance(
            event, LibxlRecord | Record
        )
        self.ended |= isinstance(event, EndOfStream)

    def _behind(self, at: int) -> Behind:
        if self.carried and isinstance(self.carried.header, StructuredHeader):
            return look_at_records(self.source, at)
        bare_hvm = self.stream.libxl is None and self.stream.guest is Guest.HVM
        return look_behind(self.source, at, device_model=bare_hvm)

    def _finding(self, row: Rule, broken: Broken, event: AnyRecord) -> Finding | None:
        severity, releases = self._weighed(row, broken.refused_by)
        if severity is None:
            return None
        return Finding(
            rule=row.id,
            severity=severity,
            path=self.source.path,
            offset=broken.offset,
            record=self._number(event),
            item=_item(event),
            text=row.text,
            found=broken.found,
            expected=broken.expected,
            section=row.section,
            releases=tuple(sorted(releases, key=lambda name: int(name[2:]))),
        )

    def _weighed(self, row: Rule, refused_by: Releases | None) -> tuple[Severity | None, Releases]:
        """Severity of a broken rule, None if it does not matter; and the releases to name."""
        if self.level is Level.REFERENCE:
            return Severity.ERROR, frozenset()
        if refused_by is None:
            return row.severity, frozenset()
        if self.release is not None:
            return (Severity.ERROR, refused_by) if self.release in refused_by else (None, refused_by)
        takers = LIBXC_V3 if self.stream.version >= libxc.VERSION_414 else ALL
        if takers <= refused_by:
            return Severity.ERROR, refused_by
        return (Severity.WARNING, refused_by & takers) if refused_by & takers else (None, refused_by)

    def _number(self, event: AnyRecord) -> int | None:
        if isinstance(event, LibxlRecord):
            return self._index[LibxlRecord]
        return self._index[Record] if isinstance(event, Record) else None

    def _of_reader(self, error: XenmigError) -> Finding:
        inside_libxl = self.stream.libxl is not None and not self.stream.image
        inside_libxl |= bool(self.stream.libxl and self.stream.records["END"])
        row = RULES[error.rule or TRUNCATED[inside_libxl]]
        return Finding(
            rule=row.id,
            severity=Severity.ERROR,
            path=self.source.path,
            offset=error.offset if error.offset is not None else self.at,
            record=None,
            item=error.item or "stream",
            text=row.text if error.found is None else "",
            found=error.found or error.message,
            expected=error.expected or "",
            section=row.section,
        )


def _item(event: Any) -> str:  # noqa: ANN401 - an event of the reader
    match event:
        case LibxlHeader():
            return "libxl header"
        case ImageHeader():
            return "libxc image header"
        case DomainHeader():
            return "libxc domain header"
        case LibxlRecord():
            return f"libxl record {event.name}"
        case Record():
            return f"record {event.name}"
    return "end of stream"
