"""Reads a legacy image: bytes in, located events out (legacy-stream.md 1, 13).

Forward only, page contents stepped over; a second checkpoint and later ones are read twice, first to see
that they are complete. The checks here are those that keep a reader on its way and those without which a
word has no meaning; what savers never do but restore bears is remarked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenmig_np.io.cursor import Cursor
from xenmig_np.read.checkpoints import checkpoint, head, later_checkpoints
from xenmig_np.read.events import EndOfImage
from xenmig_np.read.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.io.source import Source
    from xenmig_np.read.events import AnyEvent
    from xenmig_np.read.pagestore import PageStore
    from xenmig_np.read.reading import Shape


class LegacyReader:
    """Reads one image from ``at`` on; iterate over :meth:`events` once.

    With ``to_tail`` nothing behind its tail is read, not even a device-model record. Decoded pages are kept
    in ``store``, or for as long as the iteration goes on. Raises :class:`InvalidImage`,
    :class:`TruncatedImage`, :class:`NotSupported` (what cannot be read past), :class:`InputOutputError`.
    """

    def __init__(
        self, source: Source, at: int, shape: Shape, *, to_tail: bool = False, store: PageStore | None = None
    ) -> None:
        self.reading = Reading(Cursor(source, at), shape, to_tail)
        self._store = store
        self._own_store: PageStore | None = None

    def events(self) -> Iterator[AnyEvent]:
        """All events, in the order of the image."""
        reading = self.reading
        try:
            yield from head(reading)
            yield from checkpoint(reading)
            yield from later_checkpoints(reading, self._kept)
            yield EndOfImage(reading.cursor.at, 0)
        finally:
            if self._own_store:
                self._own_store.close()
            if reading.held:
                reading.held.close()

    def _kept(self) -> PageStore:
        """Where decoded pages are kept."""
        if self._store is None:
            from xenmig_np.read.pagestore import PageStore  # noqa: PLC0415 - of compressed images alone

            self._store = self._own_store = PageStore()
        return self._store
