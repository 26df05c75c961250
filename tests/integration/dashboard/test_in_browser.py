"""The dashboard in a real browser, before a router with small workers: one launch for all, one test after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic, sleep
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tercet.core.api_keys import ApiKey, digest_of
from tests.browser import Browser, browser
from tests.integration.dashboard.fleet import Fleet, fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WIDE, PHONE = 1440, 390
ADMIN, USER = "the-admins-key", "some-users-key"
KEYS = (ApiKey("ops", digest_of(ADMIN), admin=True).line(), ApiKey("user", digest_of(USER)).line())
SENT = {"Authorization": f"Bearer {ADMIN}"}

BEYOND_THE_EDGE = """
return [...document.querySelectorAll('main *, header *')]
  .filter((element) => !element.closest('.hidden, .skip, .hops, thead') && element.getClientRects().length)
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
  .map((element) => element.tagName + '.' + element.getAttribute('class')).slice(0, 5);
"""
TABBED = """
const element = document.activeElement;
return element.id || element.dataset.rank || element.dataset.mode || element.className || element.tagName;
"""


@pytest.fixture(scope="module")
def here() -> Iterator[Fleet]:
    with fleet("PPDD", "pd", api_keys=KEYS, worker_api_key="w", health_interval_s=1.0) as started:
        for worker in started.setup.workers:
            worker.kv_use = 0.5
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, here: Fleet) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.emulate("light", WIDE)
        opened.visit(here.setup.url + "/ui")
        yield opened


def wait(check: Callable[[], Any], timeout_s: float = 30.0) -> float:
    """Return after how many seconds `check` was true."""
    began = monotonic()
    while not check():
        assert monotonic() - began < timeout_s, "timed out"
        sleep(0.05)
    return monotonic() - began


def text(page: Browser, selector: str) -> str:
    return str(page.run(f"return document.querySelector({json.dumps(selector)})?.textContent ?? ''"))


def press(page: Browser, *keys: str) -> None:
    actions = ActionChains(page.driver)
    actions.send_keys(*keys).perform()


def talk(here: Fleet, turns: int = 1, **options: Any) -> None:
    said = ["hello " * 40]
    for _ in range(turns):
        got = here.do(here.setup.chat(*said, stream=True, max_tokens=4, headers=SENT, **options))
        said += [got.streamed, "more"]


def enter_key(page: Browser, key: str) -> None:
    wait(lambda: page.run("return document.getElementById('key-dialog').open"))
    press(page, key, Keys.ENTER)


def test_nothing_is_shown_nor_drained_without_an_admins_key(page: Browser, here: Fleet) -> None:
    wait(lambda: page.run("return document.getElementById('key-dialog').open"))
    assert page.run("return document.querySelectorAll('#worker-table tbody tr').length") == 0
    asked = "return fetch('workers/D1', {method: 'DELETE', headers: %s}).then((answer) => answer.status)"
    assert page.run(asked % "{}") == 401
    assert page.run(asked % f"{{Authorization: 'Bearer {USER}'}}") == 403
    enter_key(page, USER)
    wait(lambda: "no admin" in text(page, "#key-problem"))
    assert "D1" in [rank.label for rank in here.setup.router.parts.fleet.ranks.values()]
    assert not here.setup.router.roster.draining


def test_with_the_key_it_shows_the_fleet(page: Browser, here: Fleet) -> None:
    page.console()  # refusals are errors to a browser
    enter_key(page, ADMIN)
    wait(lambda: text(page, "#state-text") == "Ready")
    assert page.run("return sessionStorage.getItem('tercet-admin-key')") == ADMIN
    assert page.run("return JSON.stringify(localStorage)").count(ADMIN) == 0
    ranks = "return [...document.querySelectorAll('#graph [data-rank]')].map((box) => box.dataset.rank).sort()"
    assert page.run(ranks) == ["D0", "D1", "P0", "P1"]
    assert page.run("return document.querySelectorAll('#worker-table tbody tr').length") == 4
    wait(lambda: "50" in text(page, "#worker-table .wide span:last-child"))
    talk(here, 2)
    wait(lambda: page.run("return document.querySelectorAll('#request-table tbody tr').length") == 2)
    assert page.run("return document.querySelectorAll('#request-table .hops i.prefill').length") == 2
    wait(lambda: page.run("return document.querySelectorAll('#graph .edge.busy').length") >= 2)
    assert text(page, ".phases tr.ttft td").endswith("ms")


def test_every_control_is_reached_and_worked_by_keyboard(page: Browser, here: Fleet) -> None:
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    met = []
    for _ in range(40):
        press(page, Keys.TAB)
        met.append(page.run(TABBED))
        if met[-1] == "more":
            break
    order = ["skip", "pause", "key", "theme", "aggregated", "replicated", "pd", "ppd", "epd", "eppd"]
    assert [name for name in met if name in order] == order
    boxes = [name for name in met if name in ("P0", "P1", "D0", "D1")]
    assert boxes == ["P0", "P1", "D0", "D1"] and met.count("drain") == 4 and met[-1] == "more"
    outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "what has the focus is seen"
    press(page, Keys.ENTER)
    assert page.run("return document.querySelectorAll('#request-table .detail .spans li').length") >= 3
    press(page, Keys.ENTER)
    page.run("document.querySelector('[data-rank=P1]').focus()")
    press(page, Keys.SPACE)
    assert page.run("return document.querySelector('[data-rank=P1]').getAttribute('aria-pressed')") == "true"
    assert "P1" in text(page, "#clear-rank")
    press(page, Keys.ENTER)
    assert page.run("return document.getElementById('clear-rank').hidden")


def test_it_switches_the_mode_and_shows_what_that_did(page: Browser, here: Fleet) -> None:
    talk(here, 3)
    talk(here, 3)
    page.run("document.querySelector('[data-mode=epd]').focus()")
    press(page, Keys.ENTER)
    assert "encode" in text(page, "#mode-hint") and here.setup.router.parts.fleet.mode == "pd"
    page.run("document.querySelector('[data-mode=ppd]').focus()")
    press(page, Keys.SPACE)
    wait(lambda: here.setup.router.parts.fleet.mode == "ppd")
    wait(lambda: page.run("return document.querySelector('[data-mode=ppd]').getAttribute('aria-pressed')") == "true")
    talk(here, 6)
    wait(lambda: "pd → ppd" in text(page, "#effect caption"))
    wait(lambda: "medians of" in text(page, "#effect caption"))
    wait(lambda: page.run("return document.querySelectorAll('.spark-marks path').length") > 0)


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_on_a_screen_and_on_a_phone(page: Browser, theme: str, width: int) -> None:
    page.emulate(theme, width)
    ground = "rgb(244, 246, 248)" if theme == "light" else "rgb(13, 19, 27)"
    wait(lambda: page.run("return getComputedStyle(document.body).backgroundColor") == ground)
    sleep(0.3)
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(BEYOND_THE_EDGE) == []


def test_the_button_switches_the_theme(page: Browser) -> None:
    page.emulate("light", WIDE)
    page.run("document.getElementById('theme').click()")
    assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(13, 19, 27)"
    page.run("document.getElementById('theme').click()")
    assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(244, 246, 248)"


def test_dots_stand_still_for_who_wants_no_motion(page: Browser, here: Fleet) -> None:
    dots = "const dots = document.querySelector('.edge.busy .dots'); return dots && getComputedStyle(dots)"

    def moves(name: str) -> bool:
        talk(here)  # an edge is busy for a while only
        return bool(page.run(f"{dots}.animationName") == name)

    for still, name in ((False, "flow"), (True, "none")):
        page.emulate("light", WIDE, still=still)
        wait(partial(moves, name))
    page.emulate("light", WIDE)


def test_a_killed_worker_is_seen_within_three_seconds(page: Browser, here: Fleet) -> None:
    killed = here.setup.role("P")[1]
    row = f"[data-worker='{killed.url}']"
    said = "return document.querySelector('[data-rank=P1]').getAttribute('class')"
    for _ in range(3):  # a busy machine may show it late once
        here.do(killed.stop())
        seconds = wait(lambda: "down" in page.run(said))
        if seconds < 3:
            break
        here.do(killed.restart())
        wait(lambda: "down" not in page.run(said))
    assert seconds < 3
    assert "P1 is down" in text(page, "#alerts") and "connect" in text(page, row)


def test_it_drains_a_worker(page: Browser, here: Fleet) -> None:
    url = here.setup.role("D")[1].url
    button = f"document.querySelector('tr[data-worker=\"{url}\"] .drain')"
    page.run(f"{button}.focus()")
    press(page, Keys.ENTER)
    wait(lambda: page.run("return document.getElementById('drain-dialog').open"))
    assert "D1" in text(page, "#drain-title") and text(page, "#drain-warning") == ""
    press(page, Keys.ESCAPE)
    wait(lambda: not page.run("return document.getElementById('drain-dialog').open"))
    assert not here.setup.router.roster.draining
    page.run(f"{button}.focus()")
    press(page, Keys.ENTER)
    page.run("document.querySelector('#drain-dialog .danger').focus()")
    press(page, Keys.ENTER)
    wait(lambda: url not in here.setup.router.parts.fleet.workers)
    wait(lambda: page.run("return document.querySelector('[data-rank=D1]')") is None)


def test_the_last_of_its_stage_is_not_drained_unwarned(page: Browser, here: Fleet) -> None:
    url = here.setup.role("D")[0].url
    page.run(f"document.querySelector('tr[data-worker=\"{url}\"] .drain').click()")
    wait(lambda: "No other ready worker can decode" in text(page, "#drain-warning"))
    described = page.run("return document.getElementById('drain-dialog').getAttribute('aria-describedby')").split()
    assert "drain-warning" in described, "it is read out, too"
    press(page, Keys.ESCAPE)


def test_a_refused_change_of_mode_is_said_until_another_mode_is_looked_at(page: Browser) -> None:
    refuse = "Promise.resolve(new Response(JSON.stringify({error: {message: 'not now'}}), {status: 409}))"
    page.run(f"window.real = fetch; window.fetch = (path, how) => how.method === 'POST' ? {refuse} : real(path, how);")
    page.run("document.querySelector('[data-mode=pd]').click()")
    wait(lambda: "Not switched: not now" in text(page, "#mode-hint"))
    for _ in range(2):  # looks at the router
        uptime = text(page, "#where")
        wait(partial(lambda before: text(page, "#where") != before, uptime))
    assert "Not switched: not now" in text(page, "#mode-hint")
    page.run("window.fetch = window.real; document.querySelector('[data-mode=replicated]').focus()")
    assert "Not switched" not in text(page, "#mode-hint")


def test_an_answer_that_is_no_routers_ends_nothing(page: Browser) -> None:
    page.run("window.real = fetch; window.fetch = () => Promise.resolve(new Response('{}'));")
    wait(lambda: text(page, "#state-text") == "No answer")
    page.run("window.fetch = window.real")
    wait(lambda: text(page, "#state-text") == "Ready")
    page.console()  # it was complained of there


def test_rows_stand_still_while_the_focus_goes_from_one_to_the_next(page: Browser, here: Fleet) -> None:
    rows = "return [...document.querySelectorAll('#request-table .more')].map((row) => row.getAttribute('aria-label'))"
    page.run("document.querySelector('#request-table .more').focus()")
    before = page.run(rows)
    talk(here)
    wait(lambda: "wait while you read" in text(page, "#requests-note"))
    press(page, Keys.TAB)
    assert page.run("return document.activeElement.getAttribute('aria-label')") == before[1]
    assert page.run(rows) == before
    page.run("document.activeElement.blur()")
    wait(lambda: page.run(rows) != before)


def test_a_button_whose_word_changes_is_not_pressed_besides(page: Browser) -> None:
    for word in ("Resume", "Pause"):
        page.run("document.getElementById('pause').click()")
        assert text(page, "#pause") == word
        assert page.run("return document.getElementById('pause').hasAttribute('aria-pressed')") is False


STORE = """
const { Store } = await import('./ui/store.js');
const ended = (at) => ({id: `r${at}`, started_at: at, duration_ms: 1, status: 200, mode: 'pd', spans: [], workers: []});
const status = (at, requests) => ({time: at, uptime_s: at, in_flight: 0, counts: {pd: {requests}}});
const store = new Store();
"""


def test_requests_that_were_missed_in_a_burst_take_their_place(page: Browser) -> None:
    found = page.run(f"""return (async () => {{ {STORE}
        store.met([4, 3].map(ended));
        const fresh = store.met([5, 4, 3, 2, 1].map(ended));
        return [fresh, store.latest().map((record) => record.id)]; }})()""")
    assert found == [3, ["r5", "r4", "r3", "r2", "r1"]]


def test_rates_begin_anew_when_the_counters_do(page: Browser) -> None:
    found = page.run(f"""return (async () => {{ {STORE}
        const rates = [[100, 50], [101, 2], [103, 12]].map(([at, requests]) => {{
          store.saw(status(at, requests));
          return store.rate('requests');
        }});
        return rates; }})()""")
    assert found == [None, None, 5]


def test_nothing_was_complained_of_and_nothing_else_was_asked(page: Browser, here: Fleet) -> None:
    assert page.console() == []
    asked = page.requests()
    assert len(asked) > 20 and {url.split("/")[2] for url in asked} == {here.setup.url.split("/")[2]}
