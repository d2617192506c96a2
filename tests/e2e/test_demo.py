"""The demo as a newcomer runs it, and the console in a real browser while it serves.

``DEMO_PICTURES=docs pytest tests/e2e/test_demo.py`` renews the pictures of the README.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e.browser import open_browser, set_width, whole_page
from e2e.site import ICHOR
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


@dataclass
class Demo:
    process: subprocess.Popen[str]
    lines: list[str]

    @property
    def address(self) -> str:
        return next(line.split()[1] for line in self.lines if line.startswith("Console: "))


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """A demo that has printed its table and serves on."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("ICHOR_", "PROMETHEUS_"))}
    process = subprocess.Popen(
        [*ICHOR, "demo", "--data", str(tmp_path / "demo")], stdout=subprocess.PIPE, text=True, env=environ,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit it ignored
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith("Serving on"):
            break
    yield Demo(process, lines)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
    process.stdout.close()


def keep(browser: object, name: str) -> None:
    folder = os.environ.get("DEMO_PICTURES")
    if folder:
        whole_page(browser, Path(folder) / f"{name}.png")  # type: ignore[arg-type]


def test_the_demo_comes_back_right_and_its_console_shows_it(
    demo: Demo, peer: Callable[[str, str], str], tmp_path: Path
) -> None:
    peer("chromedriver", "chromium-driver")
    table = "\n".join(demo.lines)
    assert "All came back right." in table, table
    rows = [line for line in demo.lines if line.startswith(("bleed of", "no bleed", "a slice was lost"))]
    assert len(rows) == 4
    assert [float(n) for n in re.findall(r"0\.\d\d", rows[0])] > [0.7]

    browser = open_browser(tmp_path / "profile")
    try:
        set_width(browser, 1200)
        browser.get(demo.address)
        page = browser.find_element(By.TAG_NAME, "body").text
        assert "RESEARCH" in page
        assert page.count("mL") >= 2
        assert "lacks slices" in page
        keep(browser, "console-studies")

        studies = {
            link.get_attribute("href"): link.find_element(By.XPATH, "ancestor::*[self::tr or self::li or self::article][1]").text
            for link in browser.find_elements(By.CSS_SELECTOR, "a[href*='/studies/']")
        }  # fmt: skip
        found = next(h for h, text in studies.items() if re.search(r"[1-9][\d.]* mL", text))
        lost = next(h for h, text in studies.items() if "lacks slices" in text)

        browser.get(str(found))
        WebDriverWait(browser, 120).until(
            lambda b: any(
                b.execute_script("return arguments[0].naturalWidth", i) > 200 for i in b.find_elements(By.TAG_NAME, "img")
            )
        )  # fmt: skip
        text = browser.find_element(By.TAG_NAME, "body").text
        for word in ("receive", "assemble", "infer", "encode", "send", "counted", "sent", "haematoma"):
            assert word in text.lower(), word
        keep(browser, "console-study")
        picture = next(
            i for i in browser.find_elements(By.TAG_NAME, "img")
            if browser.execute_script("return arguments[0].naturalWidth", i) > 200
        )  # fmt: skip
        if os.environ.get("DEMO_PICTURES"):
            import urllib.request

            with urllib.request.urlopen(str(picture.get_attribute("src")), timeout=60) as answer:
                (Path(os.environ["DEMO_PICTURES"]) / "result.png").write_bytes(answer.read())

        browser.get(str(lost))
        text = browser.find_element(By.TAG_NAME, "body").text
        assert "27 of 28 images" in text
        assert "not analysed" in text.lower()
        keep(browser, "console-not-analysed")
    finally:
        browser.quit()
