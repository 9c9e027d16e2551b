"""The converter and its plain twin give the same bytes, or the same refusal, for any image.

HYPOTHESIS_PROFILE=long draws thirty times as many.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from drawn import FORMATS, INVALID, TARGETS, UNSUPPORTED, USAGE, converted, drawn, shape, twin
from hypothesis import given
from hypothesis import strategies as st

from xenmig_np.testing.builder import LegacyImage
from xenmig_np.testing.strategies import (
    LIBXL_RECORD,
    REMUS_RECORD,
    XAPI_RECORD,
    XEND_RECORD,
    Damaged,
    damaged_images,
    legacy_images,
)

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of images that differ

ALL = list(itertools.product(TARGETS, FORMATS))
SIGNATURES = (LIBXL_RECORD, REMUS_RECORD, XAPI_RECORD, XEND_RECORD)


def wanted(choice: tuple[str, str], image: LegacyImage) -> dict[str, Any]:
    target, form = choice
    return {"target": target, "format": form, **shape(image)}


choices = st.sampled_from(ALL)


@drawn(100)
@given(legacy_images())
def test_from_a_file(image: LegacyImage) -> None:
    data = image.to_bytes()
    for choice in ALL:
        options = wanted(choice, image)
        assert converted(data, **options) == twin(data, **options), choice


@drawn(200)
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


@drawn(300)
@given(damaged_images(legacy_images(signatures=SIGNATURES)), choices, st.booleans())
def test_damage(damaged: Damaged, choice: tuple[str, str], pipe: bool) -> None:  # noqa: FBT001
    """Of two things that are wrong either may be told, and that the damage belies the width or guest given."""
    whole = damaged.image.to_bytes()
    options = wanted(choice, damaged.image)
    expected = twin(damaged.data, pipe=pipe, **options)
    found = converted(damaged.data, pipe=pipe, **options)
    if found == USAGE:
        proof = damaged.image.part("p2m_size").offset + 16
        assert expected in (INVALID, UNSUPPORTED)
        assert damaged.data[:proof] != whole[:proof]
    elif found != expected:
        assert {found, expected} == {INVALID, UNSUPPORTED}
        assert twin(whole, pipe=pipe, **options) == UNSUPPORTED
