"""Xen's own restore code accepts what we make of real and synthetic images, and rebuilds the same guest."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import sample as synthetic
from drawn import converted
from judge import judged
from real import PAGE, WHOLE, Sample, each, memory, taken_apart

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.judge

TARGETS: Final = ("xen-4.6", "xen-4.14")
NAMES: Final = {
    "NOTAB": "NOTAB", "L1TAB": "L1", "L2TAB": "L2", "L3TAB": "L3", "L4TAB": "L4", "L1TAB|LPIN": "L1PIN",
    "L2TAB|LPIN": "L2PIN", "L3TAB|LPIN": "L3PIN", "L4TAB|LPIN": "L4PIN",
}  # fmt: skip
"""Types of pages that hold something, as the truth and as the tool name them."""


def restored(stream: bytes, folder: Path) -> tuple[dict[str, Any], dict[int, int]]:
    """The report on an accepted stream, and the CRC-32 of each page but those that a restore writes anew."""
    path, dump = folder / "stream", folder / "memory"
    path.write_bytes(stream)
    report = judged(path, "--dump-memory", str(dump))
    assert report["verdict"] == "accepted"
    assert report["errors"] == []
    assert report["mock_refusals"] == []
    assert report["stream"]["bytes_after_end"] == 0
    pfns = memory(taken_apart(stream)).pages.keys()
    assert report["guest"]["pages"] == len(pfns)
    fd = os.open(dump, os.O_RDONLY)
    try:
        same = sorted(pfns - set(report["rewritten_pfns"]))
        return report, {pfn: zlib.crc32(os.pread(fd, PAGE, pfn * PAGE)) for pfn in same}
    finally:
        os.close(fd)


def known_crcs(sample: Sample, stream: bytes) -> dict[int, int]:
    """CRC-32 of each page: the truth; it knows none of guests that ran, of these what the stream holds."""
    if sample.ran:
        return {pfn: zlib.crc32(page) for pfn, page in memory(taken_apart(stream)).pages.items()}
    known = sample.truth["memory"]
    pfns = [pfn for first, count in known["present_runs"] for pfn in range(first, first + count)]
    crcs = known["crc32"]
    return {pfn: int(crcs[8 * index : 8 * index + 8], 16) for index, pfn in enumerate(pfns)}


def odd(sample: Sample) -> list[str]:
    """How the concerns begin that the guest itself gives cause for."""
    truth, concerns = sample.truth, []
    if sample.guest == "pv32" and (sample.ran or sample.width == 64):
        concerns.append("page tables: ")  # 64-bit tools leave entries of Xen's own area in, with pfn 0
    if sample.name == "pv64-303-t64-live":
        concerns.append("page tables: ")  # an entry of this guest maps its descriptor table writable
    if sample.ran:
        return concerns
    online = truth["guest"]["vcpus_online"]
    if sample.kind == "pv" and (offline := sorted(set(range(max(online))) - set(online))):
        concerns.append(f"vcpus without basic state stay offline: {offline}")
    if sample.kind == "hvm" and "17" not in truth["hvm"]["params"]:
        concerns.append("console: no ring page is named")
    if not truth["tsc"]:
        concerns.append("no TSC information was set")
    return concerns


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sample", each(WHOLE))
def test_samples(sample: Sample, target: str, tmp_path: Path) -> None:
    stream = converted(sample.image(), target=target, format="libxl")
    assert isinstance(stream, bytes)
    report, crcs = restored(stream, tmp_path)
    assert len(report["concerns"]) == len(odd(sample))
    assert all(map(str.startswith, report["concerns"], odd(sample)))
    known = known_crcs(sample, stream)
    assert crcs == {pfn: crc for pfn, crc in known.items() if pfn not in report["rewritten_pfns"]}
    if not sample.ran:
        types = sample.truth["memory"]["type_counts"]
        assert report["page_types"] == {NAMES[name]: count for name, count in types.items() if name in NAMES}
    if sample.kind == "pv":
        assert report["p2m_check"]["wrong"] == report["p2m_check"]["frames_not_owned"] == 0


@pytest.mark.parametrize("live", [False, True], ids=["plain", "live"])
@pytest.mark.parametrize("width", [64, 32])
@pytest.mark.parametrize("guest", ["hvm", "pv64", "pv32"])
def test_synthetic_samples(guest: str, width: int, live: bool, tmp_path: Path) -> None:  # noqa: FBT001
    stream = converted(synthetic(guest, width, live=live, xl=live))
    assert isinstance(stream, bytes)
    report, crcs = restored(stream, tmp_path)
    assert report["clean"], report["concerns"]
    pages = memory(taken_apart(stream)).pages
    rewritten = set(report["rewritten_pfns"])
    assert crcs == {pfn: zlib.crc32(page) for pfn, page in pages.items() if pfn not in rewritten}
