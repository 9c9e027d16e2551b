"""Whole archives: many images by one command, each on its own, with a manifest of what became of them.

The names below are resolved on first use, as those of the package are.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from xenmig_np.batch.item import Item, convert_item
    from xenmig_np.batch.manifest import results
    from xenmig_np.batch.merging import merge
    from xenmig_np.batch.options import BatchOptions
    from xenmig_np.batch.planning import Asked
    from xenmig_np.batch.result import Result
    from xenmig_np.batch.runner import Batch, Sharing, run

__all__ = [
    "Asked",
    "Batch",
    "BatchOptions",
    "Item",
    "Result",
    "Sharing",
    "convert_item",
    "merge",
    "results",
    "run",
]

_HOME: Final = {
    "Asked": "planning",
    "Batch": "runner",
    "BatchOptions": "options",
    "Item": "item",
    "Result": "result",
    "convert_item": "item",
    "merge": "merging",
    "results": "manifest",
    "run": "runner",
    "Sharing": "runner",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
