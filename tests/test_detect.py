"""Width and kind of guest, which no field of an image says, are found; nothing else is taken for an image."""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import open_file, piped
from drawn import drawn, images_are_long
from hypothesis import given
from real import ALL, Sample, each

import xenmig_np
from xenmig_np.errors import InvalidImage, NotRecognised, NotSupported, UsageError
from xenmig_np.io.source import open_source
from xenmig_np.read.image import find
from xenmig_np.testing.builder import PV_LAYOUTS, small_image
from xenmig_np.testing.strategies import legacy_images
from xenmig_np.wire.legacy import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.read.detect import Detected
    from xenmig_np.testing.builder import GuestKind, LegacyImage

pytestmark = images_are_long

KINDS: Final = {"hvm": Guest.HVM, "pv": Guest.PV}


def detected(data: bytes, *, pipe: bool = False) -> Detected:
    with (piped if pipe else open_file)(data) as fd, open_source(fd) as source:
        return find(source).detected


def check(found: Detected, width: int, guest: str) -> None:
    assert (found.shape.width, found.shape.guest) == (width, KINDS["hvm" if guest == "hvm" else "pv"])
    assert found.reasons
    assert all(found.reasons)


# ---- images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", each(ALL))
def test_samples(sample: Sample) -> None:
    """Taken out of its carrier each sample is known by its own bytes, old PV images too."""
    check(detected(sample.unpacked()[sample.stream_offset :]), sample.width, sample.guest)


AMBIGUOUS = {"pv32-302-t32-live", "pv32-304-t32-noext"}
"""Old images of which the whole is needed to tell the kind of guest; a user who knows it is believed."""


@pytest.mark.parametrize("sample", each([sample for sample in ALL if sample.carrier in ("bare", "xl")]))
def test_samples_on_a_pipe(sample: Sample) -> None:
    """There only the beginning can be seen, which of two old images does not suffice: the user is asked."""
    if sample.name in AMBIGUOUS:
        with pytest.raises(UsageError, match="reads both as PV and as HVM"):
            detected(sample.unpacked(), pipe=True)
    else:
        check(detected(sample.unpacked(), pipe=True), sample.width, sample.guest)


@pytest.mark.parametrize("sample", each([sample for sample in ALL if sample.covered]))
def test_a_wrong_override_is_refused(sample: Sample) -> None:
    other_guest = "pv" if sample.kind == "hvm" else "hvm"
    contradicting: list[dict[str, Any]] = [{"width": 96 - sample.width}]
    if sample.name not in AMBIGUOUS:
        contradicting.append({"guest": other_guest})
    for wrong in contradicting:
        with open_file(sample.unpacked()) as fd, pytest.raises(UsageError, match="contradicts the image"):
            xenmig_np.info(fd, **wrong)


@drawn(200)
@given(legacy_images(detectable=True))
def test_drawn_images(image: LegacyImage) -> None:
    for pipe in (False, True):
        check(detected(image.to_bytes(), pipe=pipe), image.width, image.guest)


# ---- anything else ---------------------------------------------------------------------------------------

NO_IMAGE: Final = (NotRecognised, NotSupported, InvalidImage)
FILES: Final = 3000


def ordinary_files() -> Iterator[str]:
    for folder in ("/etc", "/usr/lib"):
        for root, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(root, name)
                if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK):
                    yield path


def test_ordinary_files() -> None:
    for path in itertools.islice(ordinary_files(), FILES):
        with pytest.raises(NO_IMAGE):
            xenmig_np.info(path)


def test_random_blocks() -> None:
    chance = random.Random(20240807)
    for _ in range(2000):
        with open_file(chance.randbytes(4096)) as fd, pytest.raises(NO_IMAGE):
            xenmig_np.info(fd)


def test_random_blocks_that_begin_like_an_image() -> None:
    """A likely p2m_size, and a first chunk as an image of either width has it."""
    chance = random.Random(45)
    for _ in range(1000):
        width = chance.choice((4, 8))
        begin = chance.randrange(16, 1 << 20).to_bytes(width, "little")
        begin += chance.choice((-7, -2, *range(1, 1025))).to_bytes(4, "little", signed=True)
        with open_file(begin + chance.randbytes(60_000)) as fd, pytest.raises(NO_IMAGE):
            xenmig_np.info(fd)


# ---- images that begin like something else ---------------------------------------------------------------

MAGICS: Final = {
    "gzip data": b"\x1f\x8b\x08",
    "compress data": b"\x1f\x9d",
    "a Windows or DOS program": b"MZ",
}


@pytest.mark.parametrize("magic", MAGICS.values(), ids=MAGICS)
@pytest.mark.parametrize("width", [64, 32])
@pytest.mark.parametrize("guest", ["hvm", "pv64", "pv32"])
def test_a_p2m_size_like_a_magic(guest: GuestKind, width: int, magic: bytes) -> None:
    """Of a guest of the size at which its first bytes are a magic."""
    p2m_size = int.from_bytes(magic, "little")
    count = 0 if guest == "hvm" else PV_LAYOUTS[guest].frames(p2m_size)
    image = replace(small_image(guest, width), p2m_size=p2m_size, frames=tuple(range(1, 1 + count)))
    data = image.to_bytes()
    assert data.startswith(magic)
    for pipe in (False, True):
        check(detected(data, pipe=pipe), width, guest)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("compress data", b"\x1f\x9d\x90" + bytes(range(256)) * 40),
        ("a Windows or DOS program", b"MZ" + bytes(58) + b"\x80\0\0\0" + bytes(64) + b"PE\0\0" + bytes(4096)),
    ],
)
def test_what_has_the_magic_is_named(name: str, data: bytes) -> None:
    for opened in (open_file, piped):
        with opened(data) as fd, pytest.raises(NotSupported) as caught:
            xenmig_np.info(fd)
        assert name in caught.value.what
