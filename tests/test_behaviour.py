"""Each row of xen-restore-behaviour.md: Xen's verdict on it, if Xen's code is here, and ours."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from behaviour.rows import ROWS
from behaviour.table import HVM, PV32, PV64
from judge import judged, specified, wording

from xenmig_np.carriers.recognise import recognise
from xenmig_np.errors import XenmigError
from xenmig_np.io.source import open_source
from xenmig_np.testing import records, streams
from xenmig_np.verification.engine import Verification
from xenmig_np.verification.finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from behaviour.table import Row

DIFFERENCES: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("data").joinpath("verifier_differences.toml").read_text()
)
"""Rows that our verifier judges otherwise than the specification advises, and why."""
JUDGEMENTS = {Severity.NOTE: "fine", Severity.WARNING: "warning", Severity.ERROR: "error"}

every_row = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{number} {row.text}", marks=[pytest.mark.slow] if row.large else [])
        for number, row in ROWS.items()
    ],
)


def files(row: Row, folder: Path) -> Iterator[Path]:
    """Each stream of a row in a file, one at a time."""
    path = folder / "stream"
    for stream in row.streams:
        with path.open("wb") as file:
            stream.write(file)
        yield path


def test_every_row_of_the_specification_is_here() -> None:
    here = {number: (row.xen, row.verifier) for number, row in ROWS.items()}
    there = {
        number: (verdict.split()[0], judgement.split("**")[1])
        for number, (_, verdict, _, judgement) in specified().items()
    }
    assert len(there) == 325
    assert here == there


@pytest.mark.judge
@every_row
def test_xen_gives_the_verdict_that_the_row_states(row: Row, tmp_path: Path) -> None:
    message = specified()[row.number][2].strip("`")
    for path in files(row, tmp_path):
        report = judged(path, *row.waiting)
        assert report["verdict"] == row.xen, report
        if row.xen == "crashed":
            assert report["crash"]["signal"] == message.partition(":")[0]
        else:  # the same words, for the reason that the row is about
            assert wording(next(iter(report["errors"]), "")) == wording(message.partition(" / ")[0])


def found(path: Path, release: str | None = None) -> list[Finding | XenmigError]:
    """All that our verifier says of a file; an error is what it cannot even recognise."""
    try:
        source = open_source(path)
        carried = recognise(source)
        return list(Verification(source, carried.at, release=release, carried=carried).findings())
    except XenmigError as error:
        return [error]


def judgement(findings: list[Finding | XenmigError]) -> str:
    """The worst of them."""
    if any(isinstance(finding, XenmigError) for finding in findings):
        return "error"
    severities = [finding.severity for finding in findings if isinstance(finding, Finding)]
    return JUDGEMENTS[max(severities, default=Severity.NOTE)]


@every_row
def test_the_verifier_judges_as_the_row_advises(row: Row, tmp_path: Path) -> None:
    difference = DIFFERENCES.get(str(row.number), {})
    for path in files(row, tmp_path):
        findings = found(path)
        assert judgement(findings) == difference.get("ours", row.verifier), [*map(str, findings)]
        if difference.get("releases"):
            assert judgement(found(path, "4.17")) == row.verifier


@pytest.mark.parametrize("number", DIFFERENCES)
def test_differences_are_differences_and_have_reasons(number: str) -> None:
    difference = DIFFERENCES[number]
    assert {"ours", "reason"} <= set(difference) <= {"ours", "reason", "releases"}
    assert difference["ours"] in set(JUDGEMENTS.values()) - {ROWS[int(number)].verifier}
    assert len(difference["reason"]) > 20


# ---- the streams that rows begin with --------------------------------------------------------------------

DEVICE_MODEL = (
    records.emulator(
        records.XENSTORE_DATA,
        records.xenstore_pairs(("physmap/1000/start_addr", "f0000000"), ("physmap/1000/size", "1000")),
    ),
    records.emulator(records.EMULATOR_CONTEXT, b"QEVM\0\0\0\3\0\0"),
    records.Record(records.LIBXL_END),
)
GOOD: dict[str, streams.Built] = {
    f"{name} of version {version}": stream.version3() if version == 3 else stream
    for name, stream in {"HVM": HVM, "PV64": PV64, "PV32": PV32}.items()
    for version in (2, 3)
}
GOOD |= {f"{name} in libxl": streams.Libxl(inner=stream) for name, stream in GOOD.items() if "PV" in name}
GOOD["HVM in libxl"] = streams.Libxl(inner=HVM, behind=DEVICE_MODEL)
GOOD |= {f"{name} in xl": streams.Xl(inner=stream) for name, stream in GOOD.items() if "libxl" in name}

every_good_one = pytest.mark.parametrize("stream", GOOD.values(), ids=GOOD)


@pytest.mark.judge
@every_good_one
def test_xen_finds_nothing_wrong_with_good_streams(stream: streams.Built, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(stream.to_bytes())
    report = judged(path)
    assert report["clean"], report


@every_good_one
def test_the_verifier_finds_nothing_wrong_with_good_streams(stream: streams.Built, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(stream.to_bytes())
    assert not found(path)


@every_good_one
def test_parts_follow_each_other_and_have_their_own_names(stream: streams.Built, tmp_path: Path) -> None:
    with (tmp_path / "stream").open("wb+") as file:
        stream.write(file)
        file.seek(0)
        written = file.read()
    parts = stream.parts()
    assert written == stream.to_bytes()
    assert [part.offset for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == len(written)
    assert len({part.name for part in parts}) == len(parts)


def test_long_zeros_become_holes(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    with path.open("wb") as file:
        ROWS[74].streams[0].write(file)
    assert path.stat().st_size > 128 << 20
    assert path.stat().st_blocks * 512 < 1 << 20
