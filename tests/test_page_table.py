"""The page table of an image, which is made from its heads alone, against the plain parse of the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import plain.legacy
import pytest
from conftest import open_file, piped
from drawn import drawn, images_are_long, parsed, shape
from hypothesis import given
from real import COVERED, PAGE, Sample, each

import xenmig_np
from xenmig_np.errors import UsageError
from xenmig_np.image.pagetable import PAGE_TABLE
from xenmig_np.testing.builder import small_image
from xenmig_np.testing.strategies import legacy_images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xenmig_np.testing.builder import LegacyImage

pytestmark = images_are_long


def page_table(data: bytes, **options: Any) -> NDArray[np.void]:
    with open_file(data) as fd, xenmig_np.open_image(fd, **options) as image:
        return image.page_table


def check(data: bytes, table: NDArray[np.void], width: int, guest: str) -> None:
    body = parsed(data, width, guest).body
    batches = [item for item in body if isinstance(item, plain.legacy.Batch)]
    words = [(word, number) for number, batch in enumerate(batches) for word in batch.words]
    assert table.dtype == PAGE_TABLE
    assert table.shape == (len(words),)
    assert table["pfn"].tolist() == [word.pfn for word, _ in words]
    assert table["type"].tolist() == [word.type for word, _ in words]
    assert table["batch"].tolist() == [number for _, number in words]
    for (word, _), offset in zip(words, table["offset"].tolist(), strict=True):
        assert (offset == -1) == (word.page is None)
        assert word.page is None or data[offset : offset + PAGE] == word.page


@drawn(150)
@given(legacy_images(extended_info=True))
def test_drawn_images(image: LegacyImage) -> None:
    data = image.to_bytes()
    check(data, page_table(data, **shape(image)), **shape(image))


@pytest.mark.parametrize("sample", each(COVERED))
def test_samples(sample: Sample) -> None:
    data = sample.unpacked()
    check(data, page_table(data), sample.width, sample.kind)


def test_an_image_without_batches() -> None:
    image = replace(small_image("pv64"), body=())
    assert page_table(image.to_bytes(), **shape(image)).shape == (0,)


def test_a_pipe_is_refused() -> None:
    with piped(small_image("hvm").to_bytes()) as fd, pytest.raises(UsageError, match="only once"):
        xenmig_np.open_image(fd)
