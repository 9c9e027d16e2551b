"""From manifests to the file of a page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from xenmig_np.errors import Refused, UsageError
from xenmig_np.io.files import Output
from xenmig_np.io.sink import write_all
from xenmig_np.report.html import html
from xenmig_np.report.reading import read_report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenmig_np.report.model import Report


class Written(NamedTuple):
    """A report, and the bytes of its page."""

    report: Report
    bytes: int


def write_report(
    manifests: Iterable[str], out: str, *, title: str | None = None, force: bool = False
) -> Written:
    """Write the page on some manifests; ``out`` is there whole or not at all, ``-`` is standard output.

    Raises as :func:`read_report`, :class:`NotSupported` where Jinja2 is missing, :class:`OutputExists`,
    :class:`Refused`, :class:`InputOutputError`.
    """
    names = list(manifests)
    if not names:
        raise UsageError("no manifest to report on")
    output = Output(out, None, force=force)
    for name in names:
        if os.path.exists(out) and os.path.exists(name) and os.path.samefile(name, out):
            raise Refused("is the input itself", path=out, hint="write to another name")
    report = read_report(names)
    size = 0
    with output:
        for piece in html(report, title or _title(names)):
            data = piece.encode()
            write_all(output.fd, output.path, [data])
            size += len(data)
        output.commit(sync=False)
    return Written(report, size)


def _title(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return f"Conversion of an archive: {os.path.basename(names[0])}{more}"
