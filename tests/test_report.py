"""Reports: what is counted, that the page holds all of it, and that nothing from a manifest is markup."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import ENVIRONMENT, PATIENCE, ran
from hypothesis import given
from hypothesis import strategies as st
from reports import BEGAN, ODD_NAMES, failed, image_line, odd_lines, run_lines, write_manifest

from xenmig_np.batch.manifest import InvalidManifest, end_line, run_line
from xenmig_np.errors import NotSupported, OutputExists, Refused, UsageError, XenmigError
from xenmig_np.report import read_report, write_report
from xenmig_np.report.html import html, source_hash
from xenmig_np.report.texts import duration, moment, size, visible
from xenmig_np.report.timeline import BINS, PAUSE, Span, timeline

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Argument, Ran

    from xenmig_np.report import Report

needs_jinja2 = pytest.mark.skipif(find_spec("jinja2") is None, reason="Jinja2 is not installed")
PROGRAM = """
import typer
from xenmig_np.cli.report import report
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(report)
app(prog_name="xenmig-np report")
"""
VOID = {"meta", "link", "input"}


def reported(tmp_path: Path, *manifests: list[dict[str, Any]]) -> Report:
    return read_report(
        write_manifest(tmp_path / f"manifest{number}", lines) for number, lines in enumerate(manifests)
    )


def page(report: Report) -> str:
    return "".join(html(report, "Title"))


def command(*arguments: Argument) -> Ran:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        env=ENVIRONMENT,
        timeout=PATIENCE,
        check=False,
    )
    return ran(done.returncode, done.stdout, done.stderr)


class Parsed(HTMLParser):
    """Elements and data blocks of a page, which has to be well-formed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[Any] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag = self.open[-1] if self.open else ""
        if tag == "script" and self.seen[-1][1].get("type") == "application/json":
            self.blocks.append(json.loads(data))
        elif tag in {"script", "style"}:
            self.texts[tag] = data


# ---- what is counted ---------------------------------------------------------------------------------------


def test_counts(tmp_path: Path) -> None:
    lines = [image_line(number) for number in range(70)]
    report = reported(tmp_path, run_lines(lines))
    made = [line for line in lines if line["status"] == "converted"]
    assert report.statuses == {"converted": 60, "failed": 10}
    assert len(report.failed) == 10
    assert all(row.failure for row in report.failed)
    assert report.proven == sum(line["proven"] for line in made)
    assert report.input_bytes == sum(line["input_bytes"] for line in made)
    assert report.output_bytes == report.input_bytes + 60 * 100
    assert sum(report.kinds.values()) == 70
    assert report.kinds["3.0", "pv64"] == sum(
        line["image"] is not None and line["image"]["guest"] == "pv64" for line in lines
    )
    assert report.kinds["", ""] == 10
    assert sum(report.carriers.values()) == 60
    assert report.becomes == {"xen-4.6, libxl": 60}
    assert [(one.rule, one.example) for one in report.warnings] == [("D0", "text of 0"), ("D1", "text of 1")]
    assert report.warnings[0].images == sum(bool(line["warnings"]) for line in lines)
    (run,) = report.runs
    assert (run.images, run.failed, run.seconds, run.ended) == (70, 10, 12.5, "to its end")
    assert run.others == {"no image": 3}


def test_rows_are_in_order(tmp_path: Path) -> None:
    report = reported(tmp_path, [image_line(number) for number in range(40)])
    keys = [(row.failure is None, row.path) for row in report.rows]
    assert keys == sorted(keys)
    assert len(report.failed) == 6
    first = report.rows[0]
    assert first.failure
    assert first.path == "/old/host3/guest000003.save"
    assert first.failure.reason == "truncated image"
    assert first.failure.text == "page batch 7: found the end of the input"
    assert (first.failure.offset, first.failure.hint) == (4096 * 3, "look for another copy")


def test_last_result_counts(tmp_path: Path) -> None:
    path = image_line(3)["input"]
    again = image_line(4, input=path, attempt=2, run="bbbb")
    report = reported(tmp_path, [image_line(3), again])
    assert report.statuses == {"converted": 1}
    assert report.rows[0].attempt == 2
    assert [(run.run, run.images, run.failed) for run in report.runs] == [("aaaa", 1, 1), ("bbbb", 1, 0)]
    assert reported(tmp_path, [again], [image_line(3)]).rows == report.rows


def test_streams_are_no_releases(tmp_path: Path) -> None:
    nothing = {"image": None, "stream": None}
    lines = [
        image_line(n, status=status, **nothing) for n, status in enumerate(("copied", "linked", "skipped"))
    ]
    report = reported(tmp_path, lines)
    assert report.kinds == {("v2 or v3 stream", ""): 3}
    assert report.input_bytes == lines[0]["input_bytes"]


@pytest.mark.parametrize(
    ("end", "ended", "seconds"),
    [
        ([], "not ended", None),
        ([end_line("aaaa", cut_off=True)], "cut off", None),
        ([end_line("aaaa", stopped="no space left", seconds=1)], "stopped: no space left", 1.0),
    ],
)
def test_ends_of_runs(end: list[Any], ended: str, seconds: float | None, tmp_path: Path) -> None:
    (run,) = reported(tmp_path, [run_line("aaaa", "/new"), image_line(0), *end]).runs
    assert (run.ended, run.seconds, run.began) == (ended, seconds, 0.0)


def test_nothing(tmp_path: Path) -> None:
    report = reported(tmp_path, [])
    assert (report.rows, report.runs, report.timeline.bins) == ((), (), ())


@pytest.mark.parametrize(
    "change",
    [
        {"input": 1},
        {"status": "lost"},
        {"began": "now"},
        {"began": float("nan")},
        {"began": 1e300},
        {"began": -1.0},
        {"seconds": float("inf")},
        {"seconds": None},
        {"input_bytes": -1},
        {"input_bytes": 1 << 70},
        {"output_bytes": True},
        {"attempt": "1"},
        {"image": "hvm"},
        {"image": {"guest": ["hvm"]}},
        {"stream": {"target": {}}},
        {"warnings": [1]},
        {"warnings": 1},
        {"warnings": [{"rule": "D1"}]},
        {"run": []},
        {"event": "run", "out": "/new", "others": 1},
        {"event": "end", "seconds": "long"},
        {**failed("/old", 1), "error": "no"},
        failed("/old", -1),
    ],
    ids=str,
)
def test_values_that_no_release_writes(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest) as raised:
        reported(tmp_path, [image_line(0), image_line(1) | change])
    assert raised.value.item == "line 2"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@needs_jinja2
@given(st.sampled_from(sorted(image_line(0))), JSON, st.sampled_from([0, 3]))
def test_any_value_is_shown_or_refused(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any, number: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    line = image_line(number)
    if field in {"error", "image", "stream"} and line[field] is not None:
        line[field] = dict.fromkeys(line[field], value)
    else:
        line[field] = value
    try:
        report = read_report([write_manifest(path, [line])])
    except XenmigError:
        return
    Parsed(page(report))


# ---- throughput --------------------------------------------------------------------------------------------

SPANS = st.lists(
    st.builds(Span, st.floats(0, 1e5).map(BEGAN.__add__), st.floats(0, 1e4), st.integers(0, 1 << 40)),
    max_size=20,
)


@given(SPANS, SPANS)
def test_all_bytes_and_failures_are_in_the_bins(made: list[Span], wrong: list[Span]) -> None:
    line = timeline(made, wrong)
    total = sum(span.bytes for span in made)
    assert sum(one.rate * line.width for one in line.bins) == pytest.approx(total, rel=1e-9)
    assert sum(one.failed for one in line.bins) == len(wrong)
    assert all(one.rate >= 0 for one in line.bins)
    times = [one.began for one in line.bins]
    assert times == sorted(times)
    if made or wrong:
        assert len(times) == BINS
        spans = made + wrong
        assert times[0] == min(span.began for span in spans)
        assert line.ended == max(span.began + span.seconds for span in spans)
        assert line.seconds <= sum(span.seconds for span in spans) + PAUSE * (len(spans) - 1) + 0.002 * len(
            spans
        )


def test_bytes_are_spread_over_the_time_they_took() -> None:
    line = timeline([Span(BEGAN, 120.0, 1200), Span(BEGAN + 60, 60.0, 600)], [Span(BEGAN, 30.5, 0)])
    assert line.width == 1.0
    assert [one.rate for one in line.bins] == pytest.approx([10.0] * 60 + [20.0] * 60)
    assert [one.failed for one in line.bins].index(1) == 30
    assert line.breaks == ()


def test_time_without_work_is_left_out() -> None:
    line = timeline([Span(BEGAN, 60.0, 60), Span(BEGAN + 100_000, 60.0, 120)], [])
    assert line.seconds == 120.0
    assert line.breaks == (60,)
    assert line.bins[60].began == BEGAN + 100_000
    assert line.peak == pytest.approx(2.0)


def test_image_that_took_no_time() -> None:
    line = timeline([Span(BEGAN, 0.0, 1000)], [])
    assert sum(one.rate for one in line.bins) * line.width == pytest.approx(1000)
    assert np.isfinite(line.peak)


# ---- texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shown"), ODD_NAMES.items(), ids=ascii)
def test_what_cannot_be_seen_is_shown(name: str, shown: str) -> None:
    assert visible(name) == shown


@given(st.text(st.characters()))
def test_all_that_is_shown_can_be_seen(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2304, "2.3 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 * 10**12, "4.5 TiB"),
        ((1 << 63) - 1, "8,192.0 PiB"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (0.125, "0.13 s"),
        (9.99, "9.99 s"),
        (10, "10 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3600, "1 h 0 min"),
        (10**7, "2,777 h 46 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_moments() -> None:
    assert moment(BEGAN + 0.9) == "2023-11-14 22:13:20"


# ---- the page ----------------------------------------------------------------------------------------------


@needs_jinja2
@pytest.mark.parametrize("count", [0, 1, 2, 7, 600, 2500])
def test_page_holds_every_row(count: int, tmp_path: Path) -> None:
    report = reported(tmp_path, run_lines(image_line(number) for number in range(count)))
    parsed = Parsed(page(report))
    words, *blocks = parsed.blocks
    rows = [row for block in blocks for row in block]
    assert all(len(block) <= 1000 for block in blocks)
    assert len(rows) == count
    for packed, row in zip(rows, report.rows, strict=True):
        assert [words[number] for number in packed[:5]] == [
            row.status,
            row.folder,
            row.guest,
            row.release,
            row.carrier,
        ]
        assert packed[8:12] == [row.name, row.title, row.input_bytes, row.output_bytes]
        assert packed[17:] == ([row.failure.text, row.failure.offset] if row.failure else [])
    static = [attributes for tag, attributes in parsed.seen if tag == "tr" and "data-status" in attributes]
    assert len(static) == (min(count, 500) + 1 if count else 0)  # and the one that the script fills


@needs_jinja2
def test_nothing_of_a_manifest_is_markup(tmp_path: Path) -> None:
    usual, odd = (
        Parsed(page(reported(tmp_path, lines)))
        for lines in ([image_line(n * 7 + 3 * (n % 2)) for n in range(len(ODD_NAMES))], odd_lines())
    )
    assert {tag for tag, _ in odd.seen} <= {tag for tag, _ in usual.seen}
    names = {name for _, attributes in odd.seen for name in attributes}
    assert names <= {name for _, attributes in usual.seen for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    shown = {row[8] for block in odd.blocks[1:] for row in block}
    assert shown == set(ODD_NAMES.values())


@needs_jinja2
def test_page_has_only_signs_that_can_be_seen(tmp_path: Path) -> None:
    text = page(reported(tmp_path, odd_lines())).replace("\n", "")
    assert text.isprintable()
    assert text.encode()


@needs_jinja2
def test_page_needs_nothing_else(tmp_path: Path) -> None:
    text = page(reported(tmp_path, run_lines([image_line(0)])))
    parsed = Parsed(text)
    links = [
        value
        for _, attributes in parsed.seen
        for name, value in attributes.items()
        if name in {"src", "href"}
    ]
    assert links == ["data:,"]
    assert not re.search(r"https?:|@import|url\(|//[a-z]+\.", text)
    (policy,) = (attributes["content"] for _, attributes in parsed.seen if attributes.get("http-equiv"))
    assert policy
    assert policy.startswith("default-src 'none'; ")
    for kind in ("style", "script"):
        assert f"{kind}-src '{source_hash(parsed.texts[kind])}'" in policy


@needs_jinja2
def test_many_failures_and_runs_are_told_to_be_more(tmp_path: Path) -> None:
    lines = []
    for number in range(120):
        path = f"/old/{number}"
        reason = "NotSupported" if number < 70 else f"Reason{number}"
        lines.append(image_line(number, input=path, run=str(number), **failed(path, None, reason)))
    text = page(reported(tmp_path, lines))
    assert "20 more like these" in text
    assert "The last 50 of 120." in text
    assert text.count("<details") == 20


# ---- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    return write_manifest(tmp_path / "manifest", run_lines(image_line(number) for number in range(20)))


@needs_jinja2
def test_command(manifest: str, tmp_path: Path) -> None:
    made = tmp_path / "report.html"
    done = command(manifest, "-o", made)
    assert done.code == 0
    assert re.fullmatch(rf"{made}: 20 images, [\d.]+ KiB", done.err.strip())
    data = made.read_bytes()
    assert b"<title>Conversion of an archive: manifest</title>" in data
    assert command(manifest, "-o", "-", "--quiet") == ran(0, data, b"")
    assert sorted(os.listdir(tmp_path)) == ["manifest", "report.html"]


@needs_jinja2
def test_existing_page_is_kept(manifest: str, tmp_path: Path) -> None:
    made = tmp_path / "report.html"
    made.write_text("mine")
    done = command(manifest, "-o", made)
    assert (done.code, made.read_text()) == (6, "mine")
    assert "--force" in done.err
    assert command(manifest, "-o", made, "--force", "--title", "<Mine>", "-q") == ran(0, b"", b"")
    assert "<title>&lt;Mine&gt;</title>" in made.read_text()


def test_manifest_is_kept(manifest: str, tmp_path: Path) -> None:
    before = (tmp_path / "manifest").read_bytes()
    os.symlink(manifest, tmp_path / "link")
    for out in (manifest, str(tmp_path / "link")):
        with pytest.raises(Refused, match="is the input itself"):
            write_report([manifest], out, force=True)
        with pytest.raises(OutputExists):
            write_report([manifest], out)
    assert (tmp_path / "manifest").read_bytes() == before


def test_what_is_no_manifest(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("{}\n")
    done = command(other, "-o", tmp_path / "report.html")
    assert done.code == 1
    assert "expected xenmig-np/manifest" in done.err
    assert command(tmp_path / "none", "-o", tmp_path / "report.html").code == 4
    assert os.listdir(tmp_path) == ["other"]
    with pytest.raises(UsageError):
        write_report([], str(tmp_path / "report.html"))


def test_without_jinja2(manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(NotSupported, match="Jinja2") as raised:
        write_report([manifest], str(tmp_path / "report.html"))
    assert raised.value.hint == "pip install 'xenmig-np[report]'"
    assert os.listdir(tmp_path) == ["manifest"]


@needs_jinja2
@pytest.mark.slow
def test_memory_of_a_large_archive(tmp_path: Path) -> None:
    """100,000 images in less than 200 MiB; the page has less than 150 bytes for each."""
    manifest = write_manifest(tmp_path / "large", map(image_line, range(100_000)))
    program = (  # ru_maxrss would be that of whoever started it
        "import re, sys; from xenmig_np.report import write_report; "
        "made = write_report([sys.argv[1]], sys.argv[2]); "
        "print(made.bytes, re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, manifest, tmp_path / "report.html"],
        capture_output=True,
        env=ENVIRONMENT,
        check=True,
        timeout=PATIENCE,
    )
    length, memory = map(int, done.stdout.split())
    assert length < 150 * 100_000
    assert memory < 200 * 1024
