"""Manifests of shards and workers as one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from xenmig_np.batch.manifest import results
from xenmig_np.errors import UsageError
from xenmig_np.io.files import Output
from xenmig_np.io.sink import write_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenmig_np.batch.result import Result

GATHERED = 1000
"""Lines of one write."""


def final(manifests: Iterable[str]) -> list[Result]:
    """One result for each image, the last one, in the order of their names.

    Raises as :func:`xenmig_np.batch.manifest.lines`.
    """
    last: dict[str, Result] = {}
    for path in manifests:
        for result in results(path):
            known = last.get(result.input)
            if known is None or (known.attempt, known.ended) <= (result.attempt, result.ended):
                last[result.input] = result
    return [last[name] for name in sorted(last)]


def merge(manifests: Iterable[str], merged: str, *, force: bool = False) -> int:
    """Write the final results of some manifests into one; returns how many they are.

    Raises as :func:`final`, and :class:`OutputExists`, :class:`InputOutputError`.
    """
    names = list(manifests)
    if not names:
        raise UsageError("no manifest to merge")
    found = final(names)
    with Output(merged, None, force=force) as out:
        for first in range(0, len(found), GATHERED):
            some = found[first : first + GATHERED]
            text = "".join(json.dumps(one.to_dict(), separators=(",", ":")) + "\n" for one in some)
            write_all(out.fd, out.path, [text.encode()])
        out.commit(sync=True)
    return len(found)
