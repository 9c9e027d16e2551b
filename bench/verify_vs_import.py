"""Times ``xenmig-np verify`` of a cached stream against ``python -c 'import numpy'``: processes, in pairs.

Verification never reads pages, so it should cost little more than starting. The stream is a converted
synthetic image; it needs room twice in ``--dir``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence

from convert_vs_cp import MIB, PROGRAM, run

IMPORT = (sys.executable, "-c", "import numpy")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", default="4GiB", metavar="SIZE", help="of the guest (default: 4GiB)")
    parser.add_argument("--guest", choices=("hvm", "pv64", "pv32"), default="hvm")
    parser.add_argument("--runs", type=int, default=9, help="pairs that count (default: 9)")
    parser.add_argument("--dir", help="where to work (default: the folder for temporary files)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="verify_vs_import.", dir=options.dir) as folder:
        image, stream = os.path.join(folder, "image"), os.path.join(folder, "stream")
        run(*PROGRAM, "sample", "--quiet", f"--guest={options.guest}", f"--memory={options.memory}", image)
        run(*PROGRAM, "convert", "--quiet", "--no-sync", image, stream)
        os.unlink(image)
        pairs = [(run(*PROGRAM, "verify", "--quiet", stream), run(*IMPORT)) for _ in range(options.runs + 1)]
        size = os.path.getsize(stream)
    verify, started = zip(*pairs[1:], strict=True)
    ratios = [ours.seconds / theirs.seconds for ours, theirs in zip(verify, started, strict=True)]
    peak = max(usage.peak for usage in verify)
    print(f"{options.memory} {options.guest}: stream of {size / MIB:,.1f} MiB, {options.runs} pairs, medians")
    for name, runs in (("verify", verify), ("import numpy", started)):
        print(f"  {name:<14} {statistics.median(usage.seconds for usage in runs):.3f} s")
    print(f"  ratio          {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"  peak resident memory of verify: {peak / MIB:.1f} MiB")
    if options.json:
        report = {"memory": options.memory, "guest": options.guest, "ratios": ratios, "peak": peak}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
