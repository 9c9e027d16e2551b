"""What the tests of reports share: manifests of archives that never were."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from xenmig_np.batch.manifest import end_line, run_line
from xenmig_np.batch.result import Result, Status

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BEGAN = 1_700_000_000.0
"""2023-11-14 22:13:20 UTC."""
KINDS = (("hvm", "4.2 to 4.5"), ("pv64", "3.0"), ("pv32", "4.0, or Remus of a later one"))
CARRIERS = ("xl", "xend", "bare", "libvirt")
ODD_NAMES = {
    "<script>window.broken = 1<\\script>": "<script>window.broken = 1<\\script>",
    '"><img src=x onerror="window.broken = 2">': '"><img src=x onerror="window.broken = 2">',
    "<!--<script>": "<!--<script>",
    "{{ 7 * 7 }}{% raw %}&amp;&lt;": "{{ 7 * 7 }}{% raw %}&amp;&lt;",
    "bytes \udcff\udcfe": "bytes \\xff\\xfe",
    "\x1b[31mred\nline\ttab\rreturn\x00\x7f\x85": (
        "\\u001b[31mred\\u000aline\\u0009tab\\u000dreturn\\u0000\\u007f\\u0085"
    ),
    "turned \u202egpj.exe": "turned \\u202egpj.exe",
    "\u2028\u200b\ufeff\U000e0041": "\\u2028\\u200b\\ufeff\\U000e0041",
    "lone \ud800": "lone \\ud800",
    "שלום 🦀 ä": "שלום 🦀 ä",
    "long " + "x" * 240: "long " + "x" * 240,
    "]]>';alert(1);'`${1}`": "]]>';alert(1);'`${1}`",
}
"""Names of files, and how they are shown."""


def image_line(number: int, **changes: Any) -> dict[str, Any]:
    """A result, of all kinds in turn; each seventh has failed."""
    guest, release = KINDS[number % 3]
    size = (number % 50 + 1) * 3_000_001
    known: dict[str, Any] = {
        "status": Status.CONVERTED,
        "input": f"/old/host{number % 7}/guest{number:06}.save",
        "output": f"/new/guest{number:06}",
        "run": "aaaa",
        "attempt": 1 + (number % 11 == 5),
        "began": BEGAN + number * 0.125,
        "seconds": 0.25,
        "host": "dom0",
        "tool": "1.2.3",
        "options": {},
        "input_bytes": size,
        "output_bytes": size + 100,
        "image": {
            "guest": guest,
            "saved_by": release,
            "carrier": CARRIERS[number % 4],
            "name": f"vm{number}",
        },
        "stream": {"target": "xen-4.6", "format": "libxl"},
        "proven": number % 2 == 0,
        "warnings": [
            {"rule": f"D{rule}", "text": f"text of {rule}", "offset": 1} for rule in range(number % 3)
        ],
    }
    if number % 7 == 3:
        known |= failed(known["input"], 4096 * number)
    return Result(**(known | changes)).to_dict()


def failed(path: str, offset: int | None, reason: str = "TruncatedImage") -> dict[str, Any]:
    """Changes of a result into one of a failure."""
    error = {
        "class": reason,
        "message": f"{path}: page batch 7: found the end of the input",
        "offset": offset,
        "hint": "look for another copy",
    }
    made = ("output", "output_bytes", "image", "stream")
    return dict.fromkeys(made) | {"status": Status.FAILED, "proven": False, "warnings": [], "error": error}


def odd_lines() -> list[dict[str, Any]]:
    """A result for each odd name, each second one a failure that tells it too."""
    lines = []
    for number, name in enumerate(ODD_NAMES):
        path = f"/old/{name}"
        changes: dict[str, Any] = {"input": path, "host": name, "run": name}
        if number % 2:
            changes |= failed(path, 1)
            changes["error"] |= {"message": name, "hint": name, "class": name}
        else:
            changes["image"] = dict.fromkeys(("guest", "saved_by", "carrier", "name"), name)
            changes["warnings"] = [{"rule": name, "text": name, "offset": None}]
        lines.append(image_line(0, **changes))
    return lines


def run_lines(images: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a run that has come to its end."""
    began = run_line(
        "aaaa", "/new", host="dom0", tool="1.2.3", began=BEGAN, jobs=2, done_before=0, others={"no image": 3}
    )
    return [began, *images, end_line("aaaa", results={}, stopped=None, seconds=12.5)]


def write_manifest(path: Path, lines: Iterable[dict[str, Any]]) -> str:
    """The name of a manifest with these lines."""
    with path.open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return str(path)
