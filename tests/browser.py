"""A real headless Chromium, with its console and its network traffic written down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip

HOW_TO_INSTALL = "run `make chromium`, or install Debian's chromium and chromium-driver, then try again"
PAGE_LOAD_S = 60


def programs() -> tuple[str, str]:
    """Return the paths of the browser and its driver. Fails the test, saying what to do, when one is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    missing = [name for name, path in (("chromium", browser), ("chromedriver", driver)) if path is None]
    assert browser is not None and driver is not None, f"{' and '.join(missing)} is missing: {HOW_TO_INSTALL}"
    return browser, driver


class Browser:
    """One browser with one page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._uri = ""

    def emulate(self, theme: str, width: int, height: int = 900, *, still: bool = False, pixels: float = 1.0) -> None:
        """Prefer `theme` ("light" or "dark") on a screen of `width` CSS pixels, each of `pixels` squared; narrow
        ones are phones. `still`: as who wants no motion."""
        screen = {"width": width, "height": height, "deviceScaleFactor": pixels, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce" if still else "no-preference"}
        wanted = {"features": [{"name": name, "value": value} for name, value in features.items()]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)

    def open(self, page: Path) -> None:
        """Load a file; what the console said before is forgotten."""
        self.visit(page.resolve().as_uri())

    def visit(self, url: str) -> None:
        """Load a page; what the console said before is forgotten."""
        self.console()
        self._uri = url
        self.driver.get(url)

    def run(self, script: str) -> Any:
        """Return what JavaScript returns."""
        return self.driver.execute_script(script)

    def console(self) -> list[str]:
        """Return what the console said since last asked: errors, warnings, refused resources."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """Return the URLs that the page asked for since last asked, its own page first."""
        found = []
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent" and message["params"]["documentURL"] == self._uri:
                found.append(str(message["params"]["request"]["url"]))
        return found


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with a fresh `profile` folder; it is gone when this is left."""
    binary, driver_path = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        driver.set_page_load_timeout(PAGE_LOAD_S)
        yield Browser(driver)
    finally:
        driver.quit()
