"""The plan of a conversion: what will be written and how much, before a byte of it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenmig_np.conversion.collapse import Collapse
from xenmig_np.conversion.givenback import LeftOut
from xenmig_np.conversion.planner import Choice, Planner
from xenmig_np.errors import InvalidImage, Note
from xenmig_np.io.plan import Range
from xenmig_np.options import Format
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from xenmig_np.carriers.wrap import Wrapping
    from xenmig_np.io.plan import Segment
    from xenmig_np.read.facts import Facts
    from xenmig_np.read.image import LegacyImage
    from xenmig_np.wire.targets import Target


class Plan:
    """A conversion of an image that can be read twice; its segments are made anew each time.

    Making one walks the heads of the image, so all that is wrong with it is raised then.
    """

    def __init__(  # noqa: PLR0913 - the input, and what is asked for
        self,
        image: LegacyImage,
        target: Target,
        wrapping: Wrapping,
        *,
        skip_qemu: bool = False,
        drop_tmem: bool = False,
        collapse: bool = False,
    ) -> None:
        self.image = image
        self._left_out: LeftOut | None = None
        self._collapse: Collapse | None = None
        automatic = wrapping.format is Format.AUTO
        first = Format.LIBXL if automatic else wrapping.format
        try:
            self._measure(Choice(target, first, wrapping, skip_qemu, drop_tmem))
        except InvalidImage:  # perhaps in what libxc format has no place for
            if not automatic or not self._lacks_device_model():
                raise
            self._measure(Choice(target, Format.LIBXC, wrapping, skip_qemu, drop_tmem))
        if self.facts.unmapped_sent or (self.facts.unmapped_entries and self.facts.superseded):
            self._left_out = LeftOut(image, self.facts)
        if collapse and (self.facts.superseded or self.facts.verify):
            self._collapse = Collapse(image, self.facts, self._left_out)
        if self._left_out or self._collapse:
            self._measure(self.choice)

    def _lacks_device_model(self) -> bool:
        return self.image.detected.shape.guest is Guest.HVM and self.image.survey().device_model is None

    def _measure(self, choice: Choice) -> None:
        self.choice = choice
        self.planner = self._new_planner()
        self.size = sum(segment.length for segment in self.planner.segments())
        if (left_out := self._left_out) and self.planner.dropped:
            given_back = self.planner.dropped - left_out.tables
            text = (
                f"left out: entries of pages that the guest gave back ({given_back:,}), "
                f"and superseded page tables that refer to such pages ({left_out.tables:,})"
            )
            self.facts.notes.add(Note("D22", text))
        if self._collapse:
            for text in self._collapse.remarks():
                self.facts.notes.add(Note("collapse", text))

    def _new_planner(self) -> Planner:
        facts = self.image.new_facts()
        return Planner(self.image, self.choice, facts, left_out=self._left_out, collapse=self._collapse)

    @property
    def facts(self) -> Facts:
        """What the image says; notes of the conversion are among it."""
        return self.planner.facts

    @property
    def in_order(self) -> bool:
        """Whether each segment has to be read before the next is asked for: decoded pages do not last."""
        return bool(self.facts.chunks["compressed_data"])

    def segments(self) -> Generator[Segment, None, None]:
        """The output in order."""
        return self._new_planner().segments()

    def lines(self) -> Iterator[str]:
        """The segments in words: offset in the output, length, and where the bytes come from."""
        at = 0
        for segment in self.segments():
            origin = "made"
            if isinstance(segment, Range):
                where = "what was decoded" if segment.source else "the input"
                origin = f"from {segment.offset:#x} of {where} ({segment.item})"
            yield f"{at:#014x} {segment.length:>10,} bytes {origin}"
            at += segment.length
