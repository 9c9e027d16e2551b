"""A report as one HTML page that loads nothing: style, script, figures and data stand in it.

Nothing from a manifest is markup: Jinja2 escapes every value, and whatever cannot be seen, such as control
characters and bytes that are no UTF-8, is shown as an escape. A policy in the page lets no script run but
its own. All rows are in blocks of JSON that the script shows a page at a time; without it the first
:data:`STATIC_ROWS` are there, failed ones before all others.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from xenmig_np.errors import NotSupported
from xenmig_np.report.data import Data
from xenmig_np.report.figures import Chart, Kinds, reasons, tables
from xenmig_np.report.texts import duration, moment, place, size, view, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jinja2 import Environment

    from xenmig_np.report.model import Report

STATIC_ROWS: Final = 500
REASONS_SHOWN: Final = 20
RUNS_SHOWN: Final = 50
"""The last ones."""
PIECES: Final = 500
"""Parts of the page that are handed on as one."""
SOURCES: Final = ("report.css", "report.js")
COLUMNS: Final = {
    "status": "Status",
    "name": "Image",
    "guest": "Guest",
    "release": "Saved by Xen",
    "carrier": "Carrier",
    "input": "Size",
    "output": "Result",
    "began": "Begun, UTC",
    "seconds": "Time",
    "warnings": "Warnings",
}
"""Of the table, with their titles; the script sorts by these names."""


def html(report: Report, title: str) -> Iterator[str]:
    """The page, piece by piece. Raises :class:`NotSupported` where Jinja2 is missing."""
    template = _environment().get_template("report.html.j2")
    style, script = (files(__package__).joinpath("templates", name).read_text("utf-8") for name in SOURCES)
    facts = {
        "title": title,
        "report": report,
        "chart": Chart.of(report.timeline),
        "reasons": reasons(report.failed)[:REASONS_SHOWN],
        "tables": tables(report),
        "kinds": Kinds.of(report.kinds),
        "columns": COLUMNS,
        "rows": [view(row) for row in report.rows[:STATIC_ROWS]],
        "blank": dict.fromkeys(view(report.rows[0]), "") if report.rows else {},
        "data": Data(report.rows),
        "runs": report.runs[-RUNS_SHOWN:],
        "style": style,
        "script": script,
    }
    stream = template.stream(facts)
    stream.enable_buffering(PIECES)
    return stream


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - an extra
        from markupsafe import Markup  # noqa: PLC0415 - comes with it
    except ImportError:
        raise NotSupported(
            "a report without the library Jinja2", hint="pip install 'xenmig-np[report]'"
        ) from None

    def shown(value: Any) -> Any:  # noqa: ANN401 - what an expression gives
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = Environment(
        loader=PackageLoader("xenmig_np.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    made.filters.update(
        size=size, duration=duration, moment=moment, place=place, source=Markup, source_hash=source_hash
    )
    return made


def source_hash(source: str) -> str:
    """What a policy of content knows a style or a script by."""
    digest = hashlib.sha256(source.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
