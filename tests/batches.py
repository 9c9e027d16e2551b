"""What the tests of batches share: archives, the command, and what a run has left."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from conftest import COMMAND, ENVIRONMENT, PATIENCE, ran, sample

from xenmig_np.batch.manifest import lines

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from conftest import Argument, Ran

BATCH = (*COMMAND, "batch")
OF_RUN = {"run", "began", "seconds", "attempt", "output_mtime_ns", "host"}
"""Fields of a result that are not the same the next time."""


def batch(*arguments: Argument, stdin: bytes = b"", cwd: Path | None = None) -> Ran:
    """Run the command to its end."""
    done = subprocess.run(
        [*BATCH, *arguments],
        input=stdin,
        capture_output=True,
        env=ENVIRONMENT,
        cwd=cwd,
        timeout=PATIENCE,
        check=False,
    )
    return ran(done.returncode, done.stdout, done.stderr)


def archive(folder: Path, count: int = 6, **options: Any) -> Path:
    """A folder with images of all kinds, each different; every third one lies a folder deeper."""
    kinds = ("hvm", "pv64", "pv32")
    for number in range(count):
        place = folder / "deep" if number % 3 == 2 else folder
        place.mkdir(parents=True, exist_ok=True)
        data = sample(kinds[number % 3], seed=number, xl=bool(number % 2), **options)
        (place / f"guest{number}.save").write_bytes(data)
    return folder


def tree(folder: Path, but: Iterable[str] = ("xenmig-np.jsonl",)) -> dict[str, bytes]:
    """Files below a folder, hidden ones too, by their names."""
    found = {}
    for place, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                found[os.fsdecode(os.path.relpath(path, os.fsencode(folder)))] = file.read()
    return {name: data for name, data in found.items() if os.path.basename(name) not in set(but)}


def last_results(manifest: Path | str, out: Path | str) -> dict[str, Any]:
    """The last result of each image, without what is not the same the next time."""
    found = {}
    for line in lines(str(manifest)):
        if line["event"] == "image":
            kept = {name: value for name, value in line.items() if name not in OF_RUN}
            kept["output"] = kept["output"] and os.path.relpath(kept["output"], out)
            found[line["input"]] = kept
    return found
