"""Transcendent memory: refused by name, or dropped and told (legacy-stream.md 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import open_file, piped
from drawn import UNSUPPORTED, converted, shape, twin
from real import ALL, Sample, each

import xenmig_np
from xenmig_np.errors import InvalidImage, NotSupported
from xenmig_np.testing.builder import LegacyImage, small_image
from xenmig_np.testing.fields import Filled
from xenmig_np.testing.pieces import Piece, Raw, Tmem, TmemExtra, TmemPool

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = Filled(4096, 0x5A)
OPTIONS: Final[dict[str, Any]] = {"target": "xen-4.6", "format": "libxl", "drop_tmem": True}


def pages(oid: int, count: int, size: int = 4096) -> tuple[tuple[bytes, int, Filled], ...]:
    return tuple((bytes([number % 250 + 1]) * oid, number, Filled(size, 0x5A)) for number in range(count))


def chunks(oid: int) -> dict[str, tuple[Piece, ...]]:
    """Payloads with object ids of so many bytes."""
    ones = b"\xff" * oid
    return {
        "no pool": (Tmem(),),
        "two pools": (Tmem((TmemPool(0, 1, pages(oid, 3)), TmemPool(1, 0))),),
        "larger pages": (Tmem((TmemPool(0, 0x11, pages(oid, 2, 8192)),)),),
        "early end": (Tmem((TmemPool(0, 1, pages(oid, 2), count=700, ends=ones), TmemPool(2))),),
        "no page": (Tmem((TmemPool(0, 1, count=5, ends=ones),)),),
        "more than a MiB": (Tmem((TmemPool(0, 1, pages(oid, 600)),)),),
        "invalidations": (Tmem(), TmemExtra(((0, bytes(oid), 7), (1, bytes(oid), 8)))),
        "nothing to invalidate": (TmemExtra(),),
    }


def images(oid: int) -> Iterator[tuple[str, LegacyImage, LegacyImage]]:
    """Name, image with the chunks, image without."""
    for guest in ("hvm", "pv64"):
        image = small_image(guest)
        for name, there in chunks(oid).items():
            yield f"{guest} {name}", replace(image, body=(*there, *image.body)), image


CASES: Final = [(f"{name}, {oid}", image, without) for oid in (24, 8) for name, image, without in images(oid)]


@pytest.mark.parametrize(("image", "without"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_dropped_if_wanted(image: LegacyImage, without: LegacyImage) -> None:
    data = image.to_bytes()
    options = OPTIONS | shape(image)
    made = converted(data, **options)
    assert made == twin(data, **options)
    assert made == converted(without.to_bytes(), target="xen-4.6", format="libxl")
    assert converted(data) == converted(data, pipe=True, **options) == UNSUPPORTED


def test_what_is_lost_is_told() -> None:
    image = CASES[1][1]
    more = replace(image, body=(image.body[0], TmemExtra(((0, bytes(24), 7),)), *image.body[1:]))
    with open_file(more.to_bytes()) as fd:
        told = list(xenmig_np.convert(fd, "/dev/null", **OPTIONS).warnings)
    assert [(note.rule, note.offset) for note in told] == [
        ("legacy 6", more.part(f"body.{number}.id").offset) for number in (0, 1)
    ]
    assert [note.text for note in told] == [
        "tmem contents lost: 3 pages of chunk -5 (tmem) left out",
        "tmem contents lost: 1 invalidations of chunk -6 (tmem_extra) left out",
    ]


def test_refused_by_name() -> None:
    data = CASES[1][1].to_bytes()
    for given in (open_file, piped):
        with given(data) as fd, pytest.raises(NotSupported, match="transcendent memory") as caught:
            xenmig_np.convert(fd, "/dev/null")
        assert caught.value.item == "chunk -5 (tmem)"
        assert caught.value.hint
    with open_file(data) as fd:
        assert "transcendent memory" in str(xenmig_np.info(fd).refused)


BAD: Final[dict[str, tuple[Piece, str]]] = {
    "first separator": (Tmem(separators=(0, -1)), "tmem, separator"),
    "second separator": (Tmem(separators=(-1, 1)), "tmem, separator"),
    "size of pages": (Tmem((TmemPool(0, 0x31, pages(24, 1, 32768)),)), "tmem, pool"),
    "more pages than there are": (Tmem((TmemPool(0, 1, count=1 << 31),)), "tmem, entries"),
    "no chunk behind it": (Tmem((TmemPool(0, 0),), separators=(-1, -1)), "tmem"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_chunks(name: str) -> None:
    piece, item = BAD[name]
    image = small_image("pv64")
    behind = (Raw(b"\x99" * 64),) if name.startswith("no chunk") else ()
    data = replace(image, body=(piece, *behind, *image.body)).to_bytes()
    with open_file(data) as fd, pytest.raises(InvalidImage) as caught:
        xenmig_np.convert(fd, "/dev/null", **OPTIONS)
    assert str(caught.value.item).startswith(item)
    options = OPTIONS | shape(image)
    assert twin(data, **options) == converted(data, **options)


@pytest.mark.parametrize("sample", each([sample for sample in ALL if "-tmem" in sample.name]))
def test_samples(sample: Sample) -> None:
    data = sample.unpacked()
    options = OPTIONS | {"width": sample.width, "guest": sample.kind}
    made = converted(data, **options)
    assert isinstance(made, bytes)
    assert made == twin(data, **options)
    with open_file(data) as fd:
        (first, *_) = [note.text for note in xenmig_np.convert(fd, "/dev/null", **OPTIONS).warnings]
    known = sum(len(pool["pages"]) for pool in sample.truth["tmem"]["pools"])
    if sample.name.startswith("pv64-40"):
        assert first == f"tmem contents lost: {known} pages of chunk -5 (tmem) left out"
