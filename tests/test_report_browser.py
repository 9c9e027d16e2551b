"""The page of a report in a real browser: it shows, filters and sorts, at every width and in every light."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

import pytest
from browser import browser
from reports import BEGAN, ODD_NAMES, image_line, odd_lines, run_lines, write_manifest

from xenmig_np.report import write_report

pytest.importorskip("jinja2")
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from browser import Browser, Page

pytestmark = pytest.mark.slow
COUNT = 300
LARGE = 100_000
scripts = pytest.mark.parametrize("script", [True, False], ids=["script", "plain"])
widths = pytest.mark.parametrize("width", [320, 390, 768, 1200, 1201, 1920])
lights = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
TEXTS = """
[...document.querySelectorAll("#table tbody tr")].slice(0, 100).map(
    (row) => [...row.querySelectorAll("[data-field]")].map((node) => [node.dataset.field, node.textContent]))
"""
NAMES = '[...document.querySelectorAll("#table [data-field=name]")].map((node) => node.textContent)'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the pages ``usual``, ``odd``, ``large`` and ``empty``."""
    folder = tmp_path_factory.mktemp("reports")
    later = image_line(COUNT, began=BEGAN + 90_000)
    skipped = image_line(COUNT + 1, status="skipped", image=None, stream=None, output=None, output_bytes=None)
    lines = {
        "usual": run_lines([*map(image_line, range(COUNT)), later, skipped]),
        "odd": odd_lines(),
        "large": run_lines(map(image_line, range(LARGE))),
        "empty": run_lines([]),
    }
    for name, some in lines.items():
        manifest = write_manifest(folder / f"{name}.jsonl", some)
        write_report([manifest], str(folder / f"{name}.html"))
    return folder


@pytest.fixture
def usual(chromium: Browser, folder: Path) -> Iterator[Page]:
    with chromium.page(url(folder, "usual")) as page:
        yield page


def url(folder: Path, name: str) -> str:
    return (folder / f"{name}.html").as_uri()


def choose(page: Page, selector: str, value: str | int) -> None:
    """Give a control a value, as its user does."""
    page.get(
        f"{{ const one = document.querySelector({json.dumps(selector)}); one.value = {json.dumps(value)};"
        "for (const kind of ['input', 'change']) one.dispatchEvent(new Event(kind, {bubbles: true})) }"
    )


def option(page: Page, name: str, text: str) -> None:
    """Choose, in a filter, what begins so."""
    value = page.get(
        f"[...document.querySelector('[data-filter={name}]').options]"
        f".find((one) => one.text.startsWith({json.dumps(text)})).value"
    )
    choose(page, f"[data-filter={name}]", value)


def column(page: Page, name: str) -> list[str]:
    found: list[str] = page.get(
        f"[...document.querySelectorAll('#table [data-field={name}]')].map((node) => node.textContent)"
    )
    return found


def click(page: Page, selector: str) -> None:
    page.get(f"document.querySelector({json.dumps(selector)}).click()")


def wait_for(page: Page, expression: str, value: object) -> None:
    """Until it has come about: a search begins when its user stops typing."""
    until = time.monotonic() + 20
    while (found := page.get(expression)) != value:
        assert time.monotonic() < until, f"{expression}: {found!r}, not {value!r}"
        time.sleep(0.02)


SHOWN = "document.querySelector('#count').textContent"


@pytest.mark.parametrize("name", ["usual", "odd", "empty"])
@scripts
def test_nothing_complains_and_nothing_is_loaded(
    name: str, *, script: bool, chromium: Browser, folder: Path
) -> None:
    with chromium.page(url(folder, name), script=script) as page:
        page.get("1")  # what happened has been told
        assert page.events("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") == []
        asked = {event["request"]["url"] for event in page.events("Network.requestWillBeSent")}
        assert {one for one in asked if not one.startswith("data:")} == {url(folder, name)}


def test_policy_holds(usual: Page) -> None:
    """What would come in by a way that nobody has thought of does not run and loads nothing."""
    usual.get("""{
        const script = document.createElement("script");
        script.textContent = "window.broken = 1";
        document.body.append(script);
        const picture = document.createElement("img");
        picture.src = "http://127.0.0.1:9/picture";
        document.body.append(picture);
    }""")
    wait_for(usual, "document.images[0].complete", value=True)
    assert usual.get("typeof window.broken") == "undefined"
    assert len(usual.events("Log.entryAdded")) >= 2


@widths
@pytest.mark.parametrize("name", ["usual", "odd", "empty"])
@scripts
def test_fits(width: int, name: str, *, script: bool, chromium: Browser, folder: Path) -> None:
    with chromium.page(url(folder, name), width=width, script=script) as page:
        page.get("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        assert page.get("document.documentElement.scrollWidth") == width == page.get("innerWidth")
        beyond = page.get(f"""
            [...document.querySelectorAll("h1, h2, p, dl, li, figure, label, select, input, .images td > *")]
                .filter((one) => one.getBoundingClientRect().right > {width} + 0.5)
                .map((one) => one.outerHTML)
        """)
        assert beyond == []


@lights
@pytest.mark.parametrize("width", [390, 1280])
def test_can_be_read(width: int, *, dark: bool, chromium: Browser, folder: Path) -> None:
    """Contrast of all texts with what is behind them, 4.5 as WCAG 2 wants."""
    with chromium.page(url(folder, "usual"), width=width, dark=dark) as page:
        ground = luminance(page.get("getComputedStyle(document.body).backgroundColor"))
        assert ground < 0.1 if dark else ground > 0.9
        pairs = page.get("""
            [...document.querySelectorAll("body *")]
                .filter((one) => one.checkVisibility() && getComputedStyle(one).opacity === "1")
                .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
                .map((one) => {
                    let behind = one;
                    const ground = (node) => getComputedStyle(node).backgroundColor;
                    while (ground(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
                    return [getComputedStyle(one).color, ground(behind), one.tagName + " " + one.className];
                })
        """)
        assert len(pairs) > 100
        for ink, behind, what in pairs:
            assert contrast(ink, behind) >= 4.5, (what, ink, behind)


def luminance(colour: str) -> float:
    """Of ``rgb(1, 2, 3)``."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else math.pow((part + 0.055) / 1.055, 2.4) for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["usual", "odd"])
def test_script_shows_what_the_page_shows_without_it(name: str, chromium: Browser, folder: Path) -> None:
    found: list[Any] = []
    for script in (True, False):
        with chromium.page(url(folder, name), script=script) as page:
            found.append(page.get(TEXTS))
            assert page.get("document.querySelector('#controls').hidden") is not script
    assert found[0] == found[1]
    assert len(found[0]) == (100 if name == "usual" else len(ODD_NAMES))


def test_failed_ones_are_first(usual: Page) -> None:
    statuses = column(usual, "status")
    failed = sum(number % 7 == 3 for number in range(COUNT))
    assert statuses == ["failed"] * failed + ["converted"] * (100 - failed)
    assert usual.get("[...document.querySelectorAll('.failures li')].length") == failed
    assert usual.get("document.querySelector('.failures li').innerText.split(/\\n+/)") == [
        "/old/host3/guest000003.save",
        "page batch 7: found the end of the input",
        "offset 0x3000 (12,288)",
        "hint: look for another copy",
    ]


def test_filters(usual: Page) -> None:
    assert usual.get(SHOWN) == f"{COUNT + 2} images"
    option(usual, "guest", "pv64")
    assert set(column(usual, "guest")) == {"pv64"}
    option(usual, "carrier", "xend")
    assert set(column(usual, "carrier")) == {"xend"}
    wanted = [n for n in range(COUNT) if n % 3 == 1 and n % 4 == 1 and n % 7 != 3]
    assert usual.get(SHOWN) == f"{len(wanted)} of {COUNT + 2} images"
    assert sorted(usual.get(NAMES)) == [f"guest{n:06}.save" for n in wanted]
    for name in ("guest", "carrier"):
        choose(usual, f"[data-filter={name}]", "")
    option(usual, "status", "skipped")
    assert usual.get(NAMES) == [f"guest{COUNT + 1:06}.save"]
    option(usual, "guest", "pv64")
    assert usual.get(SHOWN) == f"0 of {COUNT + 2} images"
    assert usual.get(NAMES) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("GUEST00012", 10),
        ("host3/guest", 43),
        ("/old/host3", 43),
        ("truncated", 43),
        ("vm299", 1),
        ("D1", 86),
    ],
)
def test_search(text: str, count: int, usual: Page) -> None:
    choose(usual, "#search", text)
    wait_for(usual, SHOWN, f"{count} of {COUNT + 2} images")
    choose(usual, "#search", "")
    wait_for(usual, SHOWN, f"{COUNT + 2} images")


def test_sorts(usual: Page) -> None:
    def head() -> Any:
        return usual.get(
            "[...document.querySelectorAll('[aria-sort]')].map((one) => [one.dataset.sort, one.ariaSort])"
        )

    assert head() == [["status", "ascending"]]
    click(usual, "[data-sort=name] button")
    assert head() == [["name", "ascending"]]
    assert usual.get(NAMES) == [f"guest{n:06}.save" for n in range(100)]
    click(usual, "[data-sort=name] button")
    assert head() == [["name", "descending"]]
    assert usual.get(NAMES)[:2] == [f"guest{COUNT + 1:06}.save", f"guest{COUNT:06}.save"]
    click(usual, "[data-sort=input] button")
    assert set(column(usual, "input")[:6]) == {"2.9 MiB"}
    click(usual, "[data-sort=input] button")
    assert set(column(usual, "input")[:6]) == {"143.1 MiB"}


@pytest.mark.parametrize("direction", ["1", "-1"])
def test_what_is_not_known_comes_last(direction: str, chromium: Browser, folder: Path) -> None:
    """The way that phones have."""
    with chromium.page(url(folder, "usual"), width=390) as page:
        assert page.get("document.querySelector('#order').checkVisibility()")
        choose(page, "#order", "output")
        choose(page, "#direction", direction)
        assert "" not in column(page, "output")
        for _ in range(3):
            click(page, "#after")
        assert set(column(page, "output")) == {""}


def test_pages(usual: Page) -> None:
    seen = usual.get(NAMES)
    assert usual.get("document.querySelector('#before').disabled")
    for number in (2, 3, 4):
        click(usual, "#after")
        assert usual.get("document.querySelector('#page').textContent") == f"page {number} of 4"
        seen += usual.get(NAMES)
    assert usual.get("document.querySelector('#after').disabled")
    assert len(seen) == len(set(seen)) == COUNT + 2
    click(usual, "#before")
    assert usual.get(NAMES) == seen[200:300]
    option(usual, "status", "skipped")
    assert usual.get("document.querySelector('#pages').hidden")


def test_names_stay_texts(chromium: Browser, folder: Path) -> None:
    with chromium.page(url(folder, "odd")) as page:
        assert sorted(page.get(NAMES)) == sorted(ODD_NAMES.values())
        assert page.get("typeof window.broken") == "undefined"
        assert page.get("document.images.length") == 0
        kinds = page.get("[...document.scripts].map((one) => one.type + one.className)")
        assert kinds == ["application/json", "application/jsonrows", ""]


def test_figure_stands_for_the_time(usual: Page) -> None:
    bars = usual.get(
        "[...document.querySelectorAll('.chart .rate')].map((one) => Number(one.getAttribute('height')))"
    )
    assert len(bars) == 120
    assert max(bars) == 100
    assert usual.get("document.querySelectorAll('.chart .break').length") == 1
    failed = usual.get("document.querySelectorAll('.chart .failed').length")
    assert failed == sum(number % 7 == 3 for number in range(COUNT))
    assert usual.get("document.querySelector('.chart title').textContent").startswith("2023-11-14 22:13:20: ")


def test_large_archive(chromium: Browser, folder: Path) -> None:
    """Times are bounds on a slow machine with other things to do."""
    assert (folder / "large.html").stat().st_size < 150 * LARGE
    began = time.monotonic()
    with chromium.page(url(folder, "large")) as page:
        assert page.get(SHOWN) == f"{LARGE:,} images"
        assert time.monotonic() - began < 30
        assert page.get("document.querySelectorAll('*').length") < 20_000
        began = time.monotonic()
        choose(page, "#search", "guest09999")
        wait_for(page, SHOWN, f"10 of {LARGE:,} images")
        choose(page, "#search", "")
        wait_for(page, SHOWN, f"{LARGE:,} images")
        click(page, "[data-sort=name] button")
        assert page.get(NAMES)[0] == "guest000000.save"
        assert time.monotonic() - began < 15
    with chromium.page(url(folder, "large"), script=False) as page:
        assert page.get("document.querySelectorAll('#table tbody tr').length") == 500
        assert "The first 500 of 100,000 images" in page.get(SHOWN)
