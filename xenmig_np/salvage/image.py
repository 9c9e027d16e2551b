"""What was recovered, as an image that the converter takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenmig_np.read.events import P2mSize
from xenmig_np.read.image import LegacyImage
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.read.events import AnyEvent
    from xenmig_np.salvage.memory import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvagedImage(LegacyImage):
    """An image whose events are those that were proven; it goes through the converter as any other."""

    memory: Memory

    def _read(self) -> Iterator[AnyEvent]:
        head = self.memory.found.head
        if head is None or self.memory.guessed:
            yield P2mSize(self.carried.at, 0, self.memory.p2m_size)
        else:
            yield from head.events
        yield from self.memory.events()


def without_stream(memory: Memory) -> str | None:
    """Why no stream can be made, if none can."""
    found = memory.found
    if not found.tail:
        return "the end of the image is lost: there is no state of the processors"
    if found.shape.guest is Guest.PV and (found.head is None or found.head.fault):
        why = found.head.fault if found.head and found.head.fault else "it cannot be read"
        return f"the beginning of the image is damaged ({why}), and a PV guest needs what stands there"
    return None
