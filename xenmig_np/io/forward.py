"""Bytes that come in order, and can be looked at before they are taken."""

from __future__ import annotations

import os
import select
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenmig_np.errors import InputOutputError


class Forward(ABC):
    """Bytes in order. What was looked at comes all the same."""

    def __init__(self, start: int = 0) -> None:
        self.start = start
        """Offset of the first byte in its file."""
        self._ahead = b""

    def look(self, length: int) -> bytes:
        """The next ``length`` bytes, fewer at the end. Raises as :meth:`read`."""
        more = bytearray(max(length - len(self._ahead), 0))
        self._ahead += more[: self._more(memoryview(more))]
        return self._ahead[:length]

    @property
    def looked_at(self) -> bool:
        """Whether bytes were looked at that have not come yet."""
        return bool(self._ahead)

    def read(self, into: memoryview) -> int:
        """Fill ``into`` and return the number of bytes: fewer only at the end."""
        ahead = self._ahead[: len(into)]
        into[: len(ahead)] = ahead
        self._ahead = self._ahead[len(ahead) :]
        return len(ahead) + self._more(into[len(ahead) :])

    @abstractmethod
    def _more(self, into: memoryview) -> int:
        """As :meth:`read`, of what was not looked at yet."""


class Descriptor(Forward):
    """What comes out of a descriptor."""

    def __init__(self, fd: int, failed: Callable[[OSError], InputOutputError]) -> None:
        super().__init__()
        self._fd = fd
        self._failed = failed

    def _more(self, into: memoryview) -> int:
        done = 0
        while done < len(into):
            try:
                count = os.readv(self._fd, [into[done:]])
            except BlockingIOError:
                select.select([self._fd], [], [])
                continue
            except OSError as error:
                raise self._failed(error) from error
            if not count:
                break
            done += count
        return done
