"""Where the last copy of each page lies: in the input, or in a file of decoded pages.

One number says it, an address: below :data:`STORED` an offset in the input, from there on an offset in the
file. :class:`Addressed` reads both, so whatever takes a source can take pages from either.

Pages of a checkpoint that breaks off must not leak into the result, and the file must not grow with the
length of a checkpointed image. So :class:`LastCopies` keeps what a checkpoint superseded until that is
complete; then those pages of the file are free for the next. The file is never larger than one page for each
pfn whose last copy is in it and one for each page of a single checkpoint.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any, Final, Self

import numpy as np

from xenmig_np.errors import InputOutputError, TruncatedImage
from xenmig_np.io.memory import lazy_zeros
from xenmig_np.io.runs import runs
from xenmig_np.io.source import Source
from xenmig_np.wire.pages import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

STORED: Final = 1 << 62
"""Addresses from here on are of the store."""
Copies = tuple["NDArray[Any]", "NDArray[np.int64]"]
"""Pfns and the addresses of a copy of each, both of shape (pages,)."""
NOWHERE: Final = 0
"""The address of a page that never came; an input does not begin with a page."""


class PageStore:
    """Pages in a file without a name, in ``folder`` or where temporary files go, made when it is needed."""

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._free = np.empty(0, np.int64)
        self._pages = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    @property
    def size(self) -> int:
        """Bytes of the file when all that was taken is written."""
        return self._pages << PAGE_SHIFT

    def take(self, count: int) -> NDArray[np.int64]:
        """Addresses for ``count`` pages, shape (count,) and ascending: free ones first."""
        reused, self._free = self._free[:count], self._free[count:]
        fresh = np.arange(self._pages, self._pages + count - len(reused))
        self._pages += len(fresh)
        return np.concatenate([reused, (fresh << PAGE_SHIFT) + STORED])

    def give_back(self, addresses: NDArray[np.int64]) -> None:
        """Addresses of pages that nobody needs any more, shape (pages,); repeats are fine."""
        if len(addresses):
            self._free = np.unique(np.concatenate([self._free, addresses]))

    def write(self, addresses: NDArray[np.int64], pages: NDArray[np.uint8]) -> None:
        """Write pages of shape (pages, 4096) to ascending addresses. Raises :class:`InputOutputError`."""
        done = 0
        for first, count in runs(addresses >> PAGE_SHIFT):
            self._write((first << PAGE_SHIFT) - STORED, pages[done : done + count].reshape(-1).data)
            done += count

    def _write(self, offset: int, piece: memoryview) -> None:
        try:
            file = self._opened()
            while piece:
                count = os.pwrite(file.fileno(), piece, offset)
                piece, offset = piece[count:], offset + count
        except OSError as error:
            raise self._failed(error) from error

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill ``into`` from ``offset`` of the file on; returns the number of bytes.

        Raises :class:`InputOutputError`.
        """
        done = 0
        try:
            file = self._opened()
            while done < len(into) and (count := os.preadv(file.fileno(), [into[done:]], offset + done)):
                done += count
        except OSError as error:
            raise self._failed(error) from error
        return done

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            import tempfile  # noqa: PLC0415 - brings much, and is seldom wanted

            self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115 - see close
        return self._file

    def _failed(self, error: OSError) -> InputOutputError:
        return InputOutputError("cannot keep decoded pages", path=self._folder, cause=error)


class Addressed(Source):
    """An input and a store as one source: offsets of the first, addresses of the second.

    Closing it closes neither.
    """

    def __init__(self, source: Source, store: PageStore) -> None:
        super().__init__(source.fd, source.path, owned=False)
        self.fds = source.fds
        self.seekable, self.heads, self.drained = source.seekable, source.heads, source.drained
        self.start, self.end = source.start, source.known_end
        self.compression = source.compression
        self._source = source
        self._store = store

    def read_at(self, offset: int, into: memoryview) -> int:
        if offset >= STORED:
            return self._store.read_at(offset - STORED, into)
        return self._source.read_at(offset, into)

    def release(self) -> None:
        self._source.release()

    def leave(self, at: int) -> None:
        self._source.leave(at)


class LastCopies:
    """For each pfn the address of its last copy: 8 bytes for each pfn that came.

    Between :meth:`begin` and :meth:`commit` changes can be taken back by :meth:`rollback`. Addresses that a
    checkpoint used or superseded hold until the next one begins to keep pages. Outside of a checkpoint, as in
    the first body, without which there is no image at all, what is superseded is forgotten at once.
    """

    def __init__(self, p2m_size: int, source: Source, store: PageStore, *, contents: bool = True) -> None:
        """All pfns are below ``p2m_size``. Without ``contents`` pages get addresses and are not written."""
        self.rereads = source.seekable and not source.compression
        """Whether a page can be left in the input, to be read from there in any order; else each is kept."""
        self.contents = contents
        self.source = Addressed(source, store)
        self._store = store
        self._addresses: NDArray[np.int64] = lazy_zeros(p2m_size, np.int64)
        self._in_checkpoint = False
        self._superseded: list[Copies] = []
        self._kept: list[Copies] = []

    def of(self, pfns: NDArray[Any]) -> NDArray[np.int64]:
        """The addresses of pfns, same shape; :data:`NOWHERE` for those that never came."""
        found: NDArray[np.int64] = self._addresses[pfns]
        return found

    def plain(self, pfns: NDArray[Any], offset: int, item: str) -> None:
        """Copies that lie one behind the other in the input from ``offset`` on: left there, or read and kept.

        Raises as :meth:`read` and :meth:`keep`.
        """
        addresses = offset + PAGE_SIZE * np.arange(len(pfns))
        if self.rereads:
            self.note(pfns, addresses)
        else:
            self.keep(pfns, self.read(addresses, item) if self.contents else None)

    def note(self, pfns: NDArray[Any], addresses: NDArray[np.int64]) -> None:
        """Copies that lie at addresses, both of shape (pages,); of equal pfns the last one counts."""
        self._superseded.append((pfns, self.of(pfns)))
        self._addresses[pfns] = addresses
        if not self._in_checkpoint:
            self.commit()

    def keep(self, pfns: NDArray[Any], pages: NDArray[np.uint8] | None) -> NDArray[np.int64]:
        """Write copies of shape (pages, 4096) into the store; returns their addresses, ascending.

        Without ``contents`` nobody looks at the pages. Raises :class:`InputOutputError`.
        """
        addresses = self._store.take(len(pfns))
        self._kept.append((pfns, addresses))
        if pages is not None and self.contents:
            self._store.write(addresses, pages)
        self.note(pfns, addresses)
        return addresses

    def read(self, addresses: NDArray[np.int64], item: str) -> NDArray[np.uint8]:
        """Pages at addresses, shape (pages, 4096); neighbours are read together.

        Raises :class:`InputOutputError`, and :class:`TruncatedImage` if the input has become shorter.
        """
        pages = np.empty((len(addresses), PAGE_SIZE), np.uint8)
        order = np.argsort(addresses, kind="stable")
        ordered = addresses[order]
        breaks = np.flatnonzero(np.diff(ordered) != PAGE_SIZE) + 1
        ends = [*breaks.tolist(), len(ordered)] if len(ordered) else []
        first = 0
        for end in ends:
            self._read(int(ordered[first]), pages[first:end], item)
            first = end
        in_order = bool((order[1:] > order[:-1]).all())
        return pages if in_order else pages[np.argsort(order)]

    def _read(self, address: int, into: NDArray[np.uint8], item: str) -> None:
        if (got := self.source.read_at(address, into.reshape(-1).data)) < into.nbytes:
            raise TruncatedImage(
                path=self.source.path,
                offset=address,
                item=item,
                found=f"the end of the input after {got:,} bytes",
                expected=f"{into.nbytes:,} bytes of pages",
            )

    def begin(self) -> None:
        """A checkpoint begins."""
        self._in_checkpoint = True

    def commit(self) -> None:
        """It is complete: pages in the store that are no last copy are free."""
        copies = self._superseded + self._kept
        gone = [addresses[self.of(pfns) != addresses] for pfns, addresses in copies]
        self._give_back(gone)
        self._end()

    def rollback(self) -> None:
        """It broke off: everything is as if it had never begun."""
        for pfns, before in reversed(self._superseded):
            self._addresses[pfns] = before
        self._give_back([addresses for _, addresses in self._kept])
        self._end()

    def _give_back(self, gone: list[NDArray[np.int64]]) -> None:
        addresses = np.concatenate([np.empty(0, np.int64), *gone])
        self._store.give_back(addresses[addresses >= STORED])

    def _end(self) -> None:
        self._in_checkpoint = False
        self._superseded.clear()
        self._kept.clear()
