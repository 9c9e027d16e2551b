"""Reads the heads of a finished output again and counts: what was planned must be there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenmig_np.carriers.xapi import records_behind
from xenmig_np.errors import InputOutputError, XenmigError
from xenmig_np.read.info import type_names
from xenmig_np.read.v2 import tally
from xenmig_np.wire.libxc import RecordType

if TYPE_CHECKING:
    from xenmig_np.conversion.planner import Planner
    from xenmig_np.io.source import Source


def check_written(output: Source, planner: Planner, size: int) -> None:
    """Raise :class:`InputOutputError` unless ``output`` holds what ``planner`` made, ``size`` bytes."""
    wrapping = planner.choice.wrapping
    try:
        found = tally(output, output.start + len(wrapping.head))
        end = records_behind(output, found.end)[-1].end if wrapping.structured else output.end
    except InputOutputError:
        raise
    except XenmigError as error:
        raise InputOutputError(f"what was written does not read back: {error}", path=output.path) from error
    made = {RecordType(kind).name: count for kind, count in planner.records.items()}
    for what, there, planned in (
        ("bytes", output.end, size),
        ("end", end, size),
        ("records", dict(found.records), made),
        ("page entries", type_names(found.words), type_names(planner.words)),
    ):
        if there != planned:
            raise InputOutputError(
                f"what was written does not read back: {what} {there}, planned {planned}", path=output.path
            )
