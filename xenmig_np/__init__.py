"""Convert, check and look into legacy Xen suspend images (migration v1).

The names below are resolved on first use: importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

__version__ = "0.1.0"

if TYPE_CHECKING:
    from xenmig_np import batch
    from xenmig_np.conversion.run import Conversion, convert, plan
    from xenmig_np.errors import XenmigError
    from xenmig_np.image.access import Image, info, open_image
    from xenmig_np.read.info import ImageInfo
    from xenmig_np.verification.run import compare, verify

__all__ = [
    "Conversion",
    "Image",
    "ImageInfo",
    "XenmigError",
    "batch",
    "compare",
    "convert",
    "info",
    "open_image",
    "plan",
    "verify",
]

_HOME: Final = {
    "Conversion": "conversion.run",
    "convert": "conversion.run",
    "plan": "conversion.run",
    "XenmigError": "errors",
    "Image": "image.access",
    "info": "image.access",
    "open_image": "image.access",
    "ImageInfo": "read.info",
    "compare": "verification.run",
    "verify": "verification.run",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name == "batch":
        return import_module(f"{__name__}.batch")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
