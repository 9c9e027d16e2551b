"""The converter and its plain twin give the same bytes, or the same refusal, for any image.

HYPOTHESIS_PROFILE=long draws thirty times as many.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from drawn import (
    FORMATS,
    INVALID,
    TARGETS,
    UNSUPPORTED,
    USAGE,
    converted,
    drawn,
    images_are_long,
    shape,
    twin,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from xenmig_np.testing.builder import small_image
from xenmig_np.testing.pieces import Toolstack
from xenmig_np.testing.strategies import (
    LIBXL_RECORD,
    REMUS_RECORD,
    XAPI_RECORD,
    XEND_RECORD,
    Damaged,
    damaged_images,
    legacy_images,
)

if TYPE_CHECKING:
    from xenmig_np.testing.builder import LegacyImage

pytestmark = images_are_long

ALL = list(itertools.product(TARGETS, FORMATS))
SIGNATURES = (LIBXL_RECORD, REMUS_RECORD, XAPI_RECORD, XEND_RECORD)


def wanted(choice: tuple[str, str], image: LegacyImage) -> dict[str, Any]:
    """The options; an image whose bytes 4 to 7 say 64 bit though it has 32 is none that a saver writes."""
    assume(image.width == 64 or image.blocks is not None or image.guest == "hvm" or image.frames[0])
    target, form = choice
    return {"target": target, "format": form, **shape(image)}


choices = st.sampled_from(ALL)


@drawn(150)
@given(legacy_images())
def test_from_a_file(image: LegacyImage) -> None:
    data = image.to_bytes()
    for choice in ALL:
        options = wanted(choice, image)
        assert converted(data, **options) == twin(data, **options), choice


@drawn(300)
@given(legacy_images(signatures=SIGNATURES), choices, st.booleans())
def test_from_a_pipe(image: LegacyImage, choice: tuple[str, str], into_pipe: bool) -> None:  # noqa: FBT001
    data = image.to_bytes()
    options = wanted(choice, image)
    assert converted(data, pipe=True, into_pipe=into_pipe, **options) == twin(data, pipe=True, **options)


@drawn(100)
@given(legacy_images(guests=("hvm",), signatures=SIGNATURES), choices)
def test_device_model_records(image: LegacyImage, choice: tuple[str, str]) -> None:
    data = image.to_bytes()
    options = wanted(choice, image)
    assert converted(data, **options) == twin(data, **options)


@drawn(60)
@given(
    legacy_images(guests=("hvm",), signatures=(LIBXL_RECORD, REMUS_RECORD, XAPI_RECORD)),
    st.sampled_from(TARGETS),
    st.booleans(),
)
def test_device_model_left_out(image: LegacyImage, target: str, pipe: bool) -> None:  # noqa: FBT001
    data = image.to_bytes()
    options = wanted((target, "libxc"), image) | {"skip_qemu": True}
    assert converted(data, pipe=pipe, **options) == twin(data, **options)


def test_bad_toolstack_data_does_not_matter_in_libxc_format() -> None:
    """Of a bare HVM image without a record `auto` makes libxc format, which has no place for the data."""
    image = small_image("hvm")
    data = replace(image, body=(*image.body, Toolstack((), version=2)), device_model=None).to_bytes()
    options = {"target": "xen-4.6", "format": "auto", **shape(image)}
    assert isinstance(twin(data, **options), bytes)
    assert converted(data, **options) == twin(data, **options)
    assert converted(data, pipe=True, **options) == INVALID


@drawn(400)
@given(damaged_images(legacy_images(signatures=SIGNATURES)), choices, st.booleans())
def test_damage(damaged: Damaged, choice: tuple[str, str], pipe: bool) -> None:  # noqa: FBT001
    """Of two faults either may be told; and the damage may belie the width or guest given.

    On a pipe one change can make both: a longer list of unmapped pfns, and everything behind it shifted.
    """
    whole = damaged.image.to_bytes()
    options = wanted(choice, damaged.image)
    expected = twin(damaged.data, pipe=pipe, **options)
    found = converted(damaged.data, pipe=pipe, **options)
    if found == USAGE:
        proof = damaged.image.part("p2m_size").offset + 16
        assert damaged.data[:proof] != whole[:proof]
    elif found != expected:
        assert {found, expected} == {INVALID, UNSUPPORTED}
        assert pipe or twin(whole, **options) == UNSUPPORTED
