"""Values as texts. The script of the page has the same, for the rows that it shows."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from xenmig_np.report.model import Row

UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")


def visible(text: str) -> str:
    r"""Text without what cannot be seen or changes what is beside it.

    A byte that is no UTF-8 is shown as ``\xff``, another sign that has no picture as ``\u202e``.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(sign: str) -> str:
    if sign.isprintable():
        return sign
    code = ord(sign)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size(count: float | None) -> str:
    """``71.9 MiB``."""
    if count is None:
        return ""
    if count < 1024:
        return f"{math.floor(count):,} B"
    power = min((math.floor(count).bit_length() - 1) // 10, len(UNITS))
    return f"{math.floor(count / 1024**power * 10 + 0.5) / 10:,.1f} {UNITS[power - 1]}"


def duration(seconds: float) -> str:
    """``0.25 s``, ``12 s``, ``2 min 5 s``, ``3 h 0 min``."""
    if seconds < 10:
        return f"{math.floor(seconds * 100 + 0.5) / 100:.2f} s"
    whole = math.floor(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def moment(seconds: float) -> str:
    """``2026-01-31 23:59:59``, in UTC; ``seconds`` since 1970."""
    return datetime.fromtimestamp(math.floor(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S")


def place(offset: int | None) -> str:
    """``offset 0x1000 (4,096)``."""
    return "" if offset is None else f"offset {offset:#x} ({offset:,})"


def view(row: Row) -> dict[str, str]:
    """The texts of a row, by the fields of its markup."""
    failure = row.failure
    return {
        "status": row.status,
        "proven": "proven" if row.proven else "",
        "attempt": f"attempt {row.attempt}" if row.attempt > 1 else "",
        "name": row.name,
        "folder": row.folder,
        "title": row.title,
        "reason": failure.reason if failure else "",
        "text": failure.text if failure else "",
        "place": place(failure.offset) if failure else "",
        "hint": failure.hint if failure else "",
        "guest": row.guest,
        "release": row.release,
        "carrier": row.carrier,
        "input": size(row.input_bytes),
        "output": size(row.output_bytes),
        "began": moment(row.began),
        "seconds": duration(round(row.seconds, 2)),
        "warnings": f"{len(row.warnings):,}" if row.warnings else "",
        "rules": ", ".join(row.warnings),
    }
