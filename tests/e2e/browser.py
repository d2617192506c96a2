"""Debian's chromium without a screen, driven by its own chromedriver. Opens nothing but what a test names."""

from __future__ import annotations

import shutil
from pathlib import Path

from absent import absent
from selenium import webdriver

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-device-scale-factor=1",
)  # fmt: skip


def open_browser(profile: Path, *flags: str) -> webdriver.Chrome:
    """A browser with a fresh profile; skips (CI: fails) where chromium is not installed."""
    paths = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in paths:
        message = "chromium is not installed: apt install chromium chromium-driver"
        absent(message)
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    for flag in (*_FLAGS, f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(paths[1])))


def set_scheme(browser: webdriver.Chrome, scheme: str) -> None:
    """``light`` or ``dark``, as the system of a reader would ask for."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def set_width(browser: webdriver.Chrome, width: int, height: int = 900) -> None:
    """CSS pixels of the window, also narrower than a real window may be."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def whole_page(browser: webdriver.Chrome, path: Path) -> None:
    """A screenshot of all of the page, also what is below the window."""
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    width = browser.execute_script("return window.innerWidth")
    set_width(browser, width, min(int(size["height"]), 4000))
    path.write_bytes(browser.get_screenshot_as_png())
    set_width(browser, width)
