"""What the manifest says of an image and of the stream made of it: what can be counted and sorted by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from xenmig_np.errors import XenmigError
from xenmig_np.io.source import open_source
from xenmig_np.read.image import find
from xenmig_np.read.info import image_info
from xenmig_np.wire.legacy import GUEST_BY_NAME, Guest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenmig_np.conversion.run import Conversion
    from xenmig_np.read.info import ImageInfo

OF_IMAGE: Final = (
    "carrier",
    "guest",
    "width",
    "saved_by",
    "p2m_size",
    "batches",
    "pages",
    "distinct_pages",
    "device_model",
)
OF_STREAM: Final = ("target", "format", "carrier", "restored_by", "records", "words", "left_out")


def of_image(info: ImageInfo) -> dict[str, Any]:
    """A whole image."""
    facts = info.to_dict()
    return {name: facts[name] for name in OF_IMAGE} | {"vcpus": list(info.vcpus), "name": info.config.name}


def of_stream(made: Conversion) -> dict[str, Any]:
    """What was made of it."""
    report = made.to_dict()
    return {name: report[name] for name in OF_STREAM}


def of_failed(path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """An image that failed, of which the beginning may be all there is.

    ``asked``: options of the conversion. Raises what reading a file raises where nothing can be told.
    """
    guest = asked.get("guest")
    with open_source(path) as source:
        image = find(source, width=asked.get("width"), guest=guest and GUEST_BY_NAME[guest])
        facts, header = image.new_facts(), image.carried.header
        try:
            for _ in image.events(facts):
                pass
        except XenmigError:  # a release, as all that the whole image tells, would be a guess
            known = facts.info is not None or facts.shape.guest is Guest.HVM
            return {
                "carrier": image.carried.carrier,
                **({"guest": facts.guest_name} if known else {}),
                "width": facts.shape.width,
                "name": header.guest_name if header else None,
            }
        return of_image(image_info(image, facts))
