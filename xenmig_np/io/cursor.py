"""A place in a source: takes the small things that stand there, and says so when they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xenmig_np.errors import TruncatedImage
from xenmig_np.limits import HEADS, MIB

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.io.source import Source


class Cursor:
    """Reads heads through a small window; large extents are stepped over, not read."""

    def __init__(self, source: Source, at: int) -> None:
        self.source = source
        self.at = at
        self._window = memoryview(bytearray(HEADS))
        self._first = at
        self._end = at

    def _reach(self, length: int) -> memoryview:
        """The bytes from here on that are in the window, ``length`` of them if the input has as many."""
        if not self._first <= self.at <= self._end:
            self._first = self._end = self.at
        have = self._end - self.at
        if have < length:
            rest = bytes(self._window[self.at - self._first : self._end - self._first])
            self._window[:have] = rest
            want = self._window[have : max(length, self.source.heads)]
            self._first = self.at
            self._end += self.source.read_at(self._end, want)
        return self._window[self.at - self._first : self._end - self._first]

    def peek(self, length: int) -> bytes:
        """Up to ``length`` bytes from here on, without passing them; fewer only at the end of the input."""
        return bytes(self._reach(length)[:length])

    def take(self, length: int, item: str) -> bytes:
        """The next ``length`` bytes. Raises :class:`TruncatedImage`.

        Memory grows with what is really there, whatever ``length`` says.
        """
        if length <= len(self._window):
            taken = bytes(self._reach(length)[:length])
        else:
            self.check(length, item)
            taken = self._take_long(length)
        if len(taken) < length:
            raise self.truncated(length, item, len(taken))
        self.at += length
        return taken

    def _take_long(self, length: int) -> bytes:
        parts = [bytes(self._reach(0))]
        at = self.at + len(parts[0])
        left = length - len(parts[0])
        while left:
            part = bytearray(min(left, 4 * MIB))
            got = self.source.read_at(at, memoryview(part))
            parts.append(bytes(part[:got]))
            at += got
            left -= got
            if got < len(part):
                break
        return b"".join(parts)

    def array(self, dtype: np.dtype[Any], count: int, item: str) -> NDArray[Any]:
        """The next ``count`` elements, shape ``(count,)``, read-only. Raises :class:`TruncatedImage`."""
        return np.frombuffer(self.take(dtype.itemsize * count, item), dtype)

    def one(self, dtype: np.dtype[Any], item: str) -> Any:  # noqa: ANN401 - a scalar of that dtype
        """The next element. Raises :class:`TruncatedImage`."""
        return self.array(dtype, 1, item)[0]

    def number(self, dtype: np.dtype[Any], item: str) -> int:
        return int(self.one(dtype, item))

    def left(self, most: int) -> int:
        """Bytes from here to the end of the input, or ``most``; on a pipe they are read to be counted."""
        if self.source.end is not None:
            return self.source.end - self.at
        at = self._end if self._first <= self.at <= self._end else self.at
        piece = memoryview(bytearray(256 << 10))
        while at - self.at < most and (got := self.source.read_at(at, piece)):
            at += got
        return min(at - self.at, most)

    def check(self, length: int, item: str) -> None:
        """Raise :class:`TruncatedImage` if the input is known to have fewer than ``length`` bytes left."""
        end = self.source.known_end
        if end is not None and self.at + length > end:
            raise self.truncated(length, item, max(end - self.at, 0))

    def skip(self, length: int, item: str) -> int:
        """Step over ``length`` bytes; returns their offset. A pipe notices at the next read if they lack."""
        self.check(length, item)
        at = self.at
        self.at += length
        return at

    def truncated(self, length: int, item: str, left: int) -> TruncatedImage:
        return TruncatedImage(
            path=self.source.path,
            offset=self.at,
            item=item,
            found=f"the end of the input after {left:,} bytes",
            expected=f"{length:,} bytes",
        )
