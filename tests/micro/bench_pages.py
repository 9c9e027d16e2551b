"""Micro-benchmarks of the arithmetic on pages, with pytest-benchmark. The tests run each once, untimed.

    python -m pytest -p benchmark -n0 tests/micro/bench_pages.py

Arrays are those of a batch of 1024 words as savers write them, the image is one of 16 MiB.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from plain.delta import FULL, PAGE, encode_page

import xenmig_np
from xenmig_np.io.runs import runs
from xenmig_np.io.source import FileSource
from xenmig_np.read.delta import DeltaBody
from xenmig_np.read.pagestore import LastCopies, PageStore
from xenmig_np.read.pagetables import ENTRIES, last_mentions, page_index, referred
from xenmig_np.read.pfnset import PfnSet
from xenmig_np.sample import SampleOptions, sample_image
from xenmig_np.wire.pages import HAS_DATA, PTE, PageType

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pytest_benchmark.fixture import BenchmarkFixture

WORDS = 1024
PAGES = 1 << 24
"""Of a guest of 64 GiB."""
MEMORY = 16 << 20

BODY: Final = MEMORY // PAGE
"""Pages of a compressed checkpoint: one pass in a second is 16 MiB of pages in a second."""


@pytest.fixture
def types() -> NDArray[np.uint8]:
    """Types of a batch of which every eighth word has no page."""
    made = np.full(WORDS, PageType.NOTAB, np.uint8)
    made[::8] = PageType.XTAB
    return made


@pytest.fixture
def pfns() -> NDArray[np.uint32]:
    """Ascending, every second one from the middle of the guest on."""
    return np.arange(PAGES // 2, PAGES // 2 + 2 * WORDS, 2, dtype=np.uint32)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("micro") / "image"
    with path.open("wb") as file:
        file.writelines(sample_image(SampleOptions(memory=MEMORY)))
    yield path
    path.unlink()


def test_page_index(benchmark: BenchmarkFixture, types: NDArray[np.uint8]) -> None:
    numbers = benchmark(page_index, types)
    assert numbers[-1] == np.count_nonzero(HAS_DATA[types]) - 1


def test_runs(benchmark: BenchmarkFixture, types: NDArray[np.uint8]) -> None:
    found = benchmark(lambda: list(runs(np.flatnonzero(HAS_DATA[types]))))
    assert found == [(first + 1, 7) for first in range(0, WORDS, 8)]


def test_last_mentions(benchmark: BenchmarkFixture, pfns: NDArray[np.uint32]) -> None:
    twice = np.concatenate([pfns[: WORDS // 2]] * 2)
    last = benchmark(last_mentions, twice, np.ones(WORDS, np.bool_))
    assert last.tolist() == [False] * (WORDS // 2) + [True] * (WORDS // 2)


def test_referred(benchmark: BenchmarkFixture) -> None:
    """Page tables, as many as a batch can hold."""
    entries = np.arange(WORDS * ENTRIES, dtype=PTE).reshape(WORDS, ENTRIES) << np.uint64(12) | np.uint64(1)
    present, references = benchmark(referred, entries.view(np.uint8))
    assert present.all()
    assert references[-1, -1] == WORDS * ENTRIES - 1


def test_pfns_of_a_set(benchmark: BenchmarkFixture, pfns: NDArray[np.uint32]) -> None:
    known = PfnSet(PAGES)
    benchmark(known.add, pfns)
    assert len(known) == WORDS
    assert known.contains(pfns).all()


def test_page_table(benchmark: BenchmarkFixture, image: Path) -> None:
    def table() -> int:
        with xenmig_np.open_image(image) as opened:
            return len(opened.page_table)

    assert benchmark(table) > MEMORY // 4096


def test_plan(benchmark: BenchmarkFixture, image: Path) -> None:
    def segments() -> int:
        with xenmig_np.plan(image) as made:
            return sum(1 for _ in made.segments())

    assert benchmark(segments) > MEMORY // (WORDS * 4096)


# ---- compressed checkpoints ------------------------------------------------------------------------------

BASE: Final = random.Random(1).randbytes(PAGE)
FULLY: Final = bytes([FULL]) + BASE
CHANGED: Final = encode_page(BASE, BASE[:1000] + bytes(200) + BASE[1200:3000] + bytes(8) + BASE[3008:])
"""Two of its structures are written."""
EVERY_OTHER: Final = encode_page(BASE, b"".join(BASE[at : at + 4] + bytes(4) for at in range(0, PAGE, 8)))
"""The worst: each second word differs, so that a head stands for each."""


@pytest.mark.parametrize(
    "pages",
    [[FULLY], [FULLY, FULLY, FULLY, CHANGED], [CHANGED], [EVERY_OTHER]],
    ids=["full", "3-full-1-delta", "deltas", "worst"],
)
def test_compressed_checkpoint(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """A body as it comes: 1024 pfns, then their data in one chunk."""
    chunk = memoryview(b"".join(pages * (WORDS // len(pages))))
    all_pfns = np.arange(BODY, dtype=np.uint32)
    fd = os.memfd_create("checkpoint")
    os.write(fd, bytes(PAGE) + BASE * BODY + chunk)  # nothing that came lies at 0
    end = os.fstat(fd).st_size
    with FileSource(fd, "checkpoint", owned=True) as source, PageStore() as store:
        copies = LastCopies(BODY, source, store)
        copies.plain(all_pfns, PAGE, "pages")

        def decode() -> int:
            copies.begin()
            body = DeltaBody(copies, source.path)
            for pfns in np.split(all_pfns, BODY // WORDS):
                body.announce(pfns)
                body.feed(chunk, end - len(chunk))
            assert body.finish(end) is None
            copies.commit()
            return body.delivered

        assert benchmark(decode) == BODY
