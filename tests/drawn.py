"""What the tests with drawn images share: how many, what the converter makes of one, and its plain twin."""

from __future__ import annotations

import os
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final

import plain.convert
import plain.legacy
import pytest
from conftest import open_file, piped
from hypothesis import HealthCheck, settings

import xenmig_np
from xenmig_np.errors import ExitCode, XenmigError

if TYPE_CHECKING:
    from xenmig_np.testing.builder import LegacyImage

TARGETS: Final = ("draft-v7", "xen-4.6", "xen-4.14")
FORMATS: Final = ("libxc", "libxl", "auto")
FACTORS: Final = {"default": 1, "long": 30}
"""How many times the usual number of examples is drawn, by the environment variable HYPOTHESIS_PROFILE."""

images_are_long = pytest.mark.filterwarnings("ignore:Generating overly large repr")
"""Of modules that draw images: an image that fails is to be shown, whatever it takes."""

Outcome = bytes | str
"""A converted stream, or the kind of a refusal: the name of its exit code."""
INVALID, UNSUPPORTED, USAGE = "invalid", "unsupported", "usage"


def drawn(examples: int) -> settings:
    """Settings of a test that usually draws so many images."""
    factor = FACTORS.get(os.environ.get("HYPOTHESIS_PROFILE", "default"), 1)
    return settings(
        max_examples=examples * factor,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def shape(image: LegacyImage) -> dict[str, Any]:
    """Width and guest, as the converter and its twin take them."""
    return {"width": image.width, "guest": "hvm" if image.guest == "hvm" else "pv"}


def converted(data: bytes, *, pipe: bool = False, into_pipe: bool = False, **options: Any) -> Outcome:
    """What the converter makes of an image, from a file or pipe into one; a refusal leaves no file behind."""
    with (piped if pipe else open_file)(data) as source, tempfile.TemporaryDirectory() as folder:
        try:
            if into_pipe:
                return _collected(source, options)
            new = os.path.join(folder, "new")
            xenmig_np.convert(source, new, sync=False, **options)
        except XenmigError as error:
            assert os.listdir(folder) == []
            return ExitCode(error.exit_code).name.lower()
        with open(new, "rb") as file:
            return file.read()


def twin(data: bytes, *, pipe: bool = False, **options: Any) -> Outcome:
    """What the plain twin makes of it; of a pipe, what the specification wants of one (v2-stream.md 19.4)."""
    if pipe and options["format"] == "auto":
        options["format"] = "libxl"
    try:
        made = plain.convert.convert(data, pipe=pipe, **options)
    except plain.legacy.Invalid:
        return INVALID
    except plain.legacy.Unsupported:
        return UNSUPPORTED
    given_back = pipe and options["guest"] == "pv" and leaves_out(data, options["width"])
    return UNSUPPORTED if given_back else made


def leaves_out(data: bytes, width: int) -> bool:
    """Whether the plain twin leaves out words of the PV image that D22 names."""
    image = parsed(data, width, "pv")
    return list(plain.convert._without_unmapped(image)) != list(image.body)


def parsed(data: bytes, width: int, guest: str) -> plain.legacy.Image:
    """The plain parse of a bare image or of one behind an xl header."""
    _, at = plain.convert._xl_header(data)
    return plain.legacy.parse(data, width, guest, at)


def _collected(source: int, options: dict[str, Any]) -> bytes:
    """What comes out of a pipe into which the converter writes."""
    reading, writing = os.pipe()
    received = bytearray()

    def read() -> None:
        with open(reading, "rb", buffering=0) as end:
            while piece := end.read(1 << 16):
                received.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        xenmig_np.convert(source, writing, **options)
    finally:
        os.close(writing)
        reader.join()
    return bytes(received)
