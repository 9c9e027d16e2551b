"""The page table of an image: which pfns it holds, of which type, and where their pages lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.read.events import PageBatch
from xenmig_np.wire import pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.read.image import LegacyImage

PAGE_TABLE: Final = np.dtype([("pfn", "<u4"), ("type", "u1"), ("batch", "<u4"), ("offset", "<i8")])
"""One row for each entry of a batch, in the order of the image.

``offset`` is that of the page in the input, -1 where the type has none. The pfn of a row of type XTAB means
nothing.
"""
NO_PAGE: Final = -1


def page_table(image: LegacyImage) -> NDArray[np.void]:
    """Rows of :data:`PAGE_TABLE`, shape (entries,). Pages are not read."""
    parts = [_rows(event) for event in image.events(image.new_facts()) if isinstance(event, PageBatch)]
    return np.concatenate(parts) if parts else np.zeros(0, PAGE_TABLE)


def _rows(batch: PageBatch) -> NDArray[np.void]:
    rows = np.empty(len(batch.types), PAGE_TABLE)
    has_data = pages.HAS_DATA[batch.types]
    number = np.cumsum(has_data) - 1
    rows["pfn"] = batch.pfns
    rows["type"] = batch.types
    rows["batch"] = batch.index
    rows["offset"] = np.where(has_data, batch.pages.offset + number * pages.PAGE_SIZE, NO_PAGE)
    return rows
