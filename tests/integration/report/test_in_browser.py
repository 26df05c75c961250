"""The report's page in a real browser: both themes, a phone, no error, no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tercet.report.charts.palette import SERIES, SURFACE, TEXT, Ink
from tercet.report.gather import gather
from tercet.report.page.compose import compose
from tercet.report.page.html import to_html
from tests.browser import Browser, browser

from ...unit.report.synthetic import comparison

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WIDE, PHONE = 1280, 390

COLOURS = """
const line = document.querySelector('#ttft figure svg path[stroke="var(--s0)"]');
const style = (element, name) => getComputedStyle(element)[name];
const panel = document.querySelector('figure');
return [style(panel, 'backgroundColor'), style(document.body, 'color'), style(line, 'stroke')];
"""

BEYOND_THE_EDGE = """
const scrolls = (element) => element.closest('.scroll, nav ul');
return [...document.querySelectorAll('main *, header *')]
  .filter((element) => !scrolls(element) && element.getBoundingClientRect().right > innerWidth + 1)
  .map((element) => element.tagName + '.' + element.className).slice(0, 5);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    modes = ("replicated", "pd", "ppd", "epd")
    results = comparison(modes, workloads=("W1", "W2"), loads=(1, 2, 8), invalid=("pd", 8), blocks=3, conversations=4)
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(to_html(compose(results, gather(results)), ("summary.csv",)))
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def rgb(ink: Ink, theme: str) -> str:
    color = getattr(ink, theme)
    return f"rgb({', '.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))})"


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_on_a_screen_and_on_a_phone(chromium: Browser, page: Path, theme: str, width: int) -> None:
    chromium.emulate(theme, width)
    chromium.open(page)
    assert chromium.run("return document.querySelectorAll('figure svg').length") > 25
    assert chromium.run(COLOURS) == [rgb(SURFACE, theme), rgb(TEXT, theme), rgb(SERIES[0], theme)]
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    assert chromium.run(BEYOND_THE_EDGE) == []
    assert chromium.console() == []
    assert chromium.requests() == [page.resolve().as_uri()]


def test_the_button_switches_the_theme(chromium: Browser, page: Path) -> None:
    chromium.emulate("light", WIDE)
    chromium.open(page)
    click = "document.getElementById('theme').click();"
    try:
        chromium.run(click)
        assert chromium.run(COLOURS) == [rgb(SURFACE, "dark"), rgb(TEXT, "dark"), rgb(SERIES[0], "dark")]
        assert chromium.run("return document.getElementById('theme').textContent") == "Light theme"
    finally:
        chromium.run(click)
    assert chromium.run(COLOURS) == [rgb(SURFACE, "light"), rgb(TEXT, "light"), rgb(SERIES[0], "light")]
    assert chromium.console() == []


def test_a_point_tells_its_figure(chromium: Browser, page: Path) -> None:
    chromium.emulate("light", WIDE)
    chromium.open(page)
    told = chromium.run(
        """
        const point = document.querySelector('#ttft figure svg [aria-label*="requests/s"]');
        point.scrollIntoView({block: 'center'});
        const box = point.getBoundingClientRect();
        const place = {bubbles: true, clientX: box.x + 2, clientY: box.y + 2};
        point.dispatchEvent(new PointerEvent('pointermove', place));
        const tip = document.getElementById('tip');
        return [tip.hidden, tip.textContent, point.getAttribute('aria-label')];
        """
    )
    assert told[0] is False
    assert told[1] == told[2]
    assert " ms" in told[1]


def test_what_a_page_should_not_do_is_noticed(chromium: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    script = "fetch('http://127.0.0.1:9/x').catch(() => 0); nowhere()"
    bad.write_text(f"<link rel=icon href='data:,'><script>{script}</script>")
    chromium.emulate("light", WIDE)
    chromium.open(bad)
    said: list[str] = []
    asked: list[str] = []
    until = monotonic() + 20
    while monotonic() < until and not (said and len(asked) > 1):
        said += chromium.console()
        asked += chromium.requests()
    assert any("nowhere is not defined" in line for line in said)
    assert "http://127.0.0.1:9/x" in asked
