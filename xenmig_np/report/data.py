"""The rows of a report as the script of the page takes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from xenmig_np.report.texts import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.report.model import Row

BLOCK: Final = 1000
"""Rows of a block of data."""


class Data:
    """Rows as lists, in blocks; words that come again stand in one list, and their number in the rows."""

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self._rows = rows
        self._words: dict[str, int] = {}
        for row in rows:
            for word in _words_of(row):
                self._words.setdefault(word, len(self._words))

    @property
    def words(self) -> list[str]:
        return [visible(word) for word in self._words]

    def blocks(self) -> Iterator[list[list[Any]]]:
        for first in range(0, len(self._rows), BLOCK):
            yield [self._packed(row) for row in self._rows[first : first + BLOCK]]

    def _packed(self, row: Row) -> list[Any]:
        packed: list[Any] = [self._words[word] for word in _words_of(row)]
        packed += [visible(row.name), visible(row.title), row.input_bytes, row.output_bytes]
        packed += [math.floor(row.began), round(row.seconds, 2), row.attempt, int(row.proven)]
        packed.append(len(row.warnings))
        if row.failure:
            packed += [visible(row.failure.text), row.failure.offset]
        return packed


def _words_of(row: Row) -> tuple[str, ...]:
    failure = row.failure
    told = (failure.reason, failure.hint) if failure else ("", "")
    return (row.status, row.folder, row.guest, row.release, row.carrier, ", ".join(row.warnings), *told)
