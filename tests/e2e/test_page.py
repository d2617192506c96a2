"""The page in a real browser: what a person sees of studies in flight, answered, not analysed and failed."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from e2e.browser import open_browser, set_scheme, set_width, whole_page
from PIL import Image, ImageDraw
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from unit.console.conftest import MemoryBlobs
from unit.history.made import (
    arrival,
    assembled,
    deliveries,
    delivery,
    done,
    failed,
    job,
    publish,
    series,
    started,
    uid,
    whole_way,
)

from console.role import run_console
from ichor.bus.memory import MemoryBus
from ichor.clock import SystemClock
from ichor.messages import Data, ReceiveRefused
from ichor.types import Grade

PICTURES = (
    ("results/3/outline.png", "Slice 21 of 40, haematoma outlined"),
    ("results/3/probability.png", "Slice 21 of 40, probability"),
)


def head_png(*, filled: bool) -> bytes:
    """A head like the ones that the pipelines draw: bone, brain, one bright bleed and its outline."""
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    radius = np.hypot(x / 0.72, y / 0.88)
    grey = np.where(radius < 1, 235.0, 0.0)
    brain = radius < 0.9
    ripple = 6 * np.sin(9 * x + 4 * np.cos(7 * y)) + 5 * np.cos(11 * y - 3 * x)
    grey[brain] = (96 + ripple + np.random.default_rng(1).normal(0, 5, x.shape))[brain]
    grey[(np.hypot((np.abs(x) - 0.11) / 0.07, (y + 0.05) / 0.26) < 1) & brain] = 48
    bleed = np.hypot((x + 0.31) / 0.17, (y - 0.06) / 0.21) < 1 + 0.12 * np.sin(5 * np.arctan2(y, x))
    grey[bleed & brain] = 178
    colour = np.repeat(np.clip(grey, 0, 255)[..., None], 3, axis=2).astype(np.uint8)
    if filled:
        colour[bleed, 0], colour[bleed, 1] = 255, 120
    image = Image.fromarray(colour)
    if not filled:
        edge = bleed ^ (
            np.roll(bleed, 1, 0) & np.roll(bleed, -1, 0) & np.roll(bleed, 1, 1) & np.roll(bleed, -1, 1) & bleed
        )
        for py, px in np.argwhere(edge):
            ImageDraw.Draw(image).ellipse((px - 1, py - 1, px + 1, py + 1), fill=(255, 196, 0))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def night(now: float) -> list[Data]:
    """A night's studies, one of each fate, the newest a few seconds old."""
    localizer = series(3, 2, Grade.REGULAR, instances=2, roles=(), reason="a localizer")
    bone = series(3, 3, Grade.COUNTED, instances=40, roles=(), reason="bone kernel")
    report = series(3, 4, Grade.REGULAR, instances=1, roles=(), modality="SR", reason="a report")
    t1, t2, t3, t4, t5 = now - 5, now - 48, now - 400, now - 1500, now - 5400
    found = whole_way(3, t3, pictures=PICTURES)
    found[1] = assembled(3, t3 + 4.05, series=(series(3, 1), bone, localizer, report))
    both = (job(6, at=t5), job(6, 2, at=t5 + 300))
    return [
        # arriving now
        assembled(1, t1 + 2, received_at=t1, receiving=True, open=True, series=(series(1, 1, Grade.OPEN, instances=17),), jobs=()),
        # at work
        *whole_way(2, t2)[:3],
        # answered
        *arrival(3, at=t3), *found,
        # none found, one destination away
        *whole_way(4, t4)[:3],
        done(4, at=t4 + 9, outcome="none", kinds=2, destinations=("pacs", "archive")),
        *[delivery(4, n, at=t4 + 9.5) for n in range(2)],
        *[delivery(4, n, destination="archive", state="pending", attempts=12, at=now - 20, reason="connection refused") for n in range(2)],
        # not analysed
        assembled(5, t5 + 4.05, received_at=t5, series=(series(5, 1, Grade.SHORT, instances=38, reason="the series lacks slices"),),
                  jobs=(job(5, at=t5, refusal="the series lacks slices"),)),
        started(5, at=t5 + 4.2), done(5, at=t5 + 4.6, outcome="not_analysed", reason="the series lacks slices", kinds=2),
        *deliveries(5, at=t5 + 5)[:2],
        # amended by a late slice
        *whole_way(6, t5 - 60, pictures=PICTURES[:1]),
        assembled(6, t5 + 310, received_at=t5 - 60, revision=2, jobs=both, series=(series(6, 1, instances=41),)),
        started(6, 2, at=t5 + 311), done(6, 2, at=t5 + 316, pictures=PICTURES[:1]), *deliveries(6, revision=2, at=t5 + 317),
        # given up
        *whole_way(7, t5 - 600)[:3], failed(7, attempt=5, final=True, at=t5 - 560, reason="the worker died on this job"),
        # nothing applies
        assembled(8, t5 - 900, received_at=t5 - 905, jobs=(), reason="no pipeline applies", series=(series(8, 1, roles=(), modality="MR", reason="not a head"),)),
        ReceiveRefused(study_instance_uid="", calling_ae="CT2", status="0xC000", reason="no readable Study or Series Instance UID", at=now - 900),
        ReceiveRefused(study_instance_uid="", calling_ae="PORTABLE", status="rejected", reason="called AE title not recognised", at=now - 4000),
    ]  # fmt: skip


@dataclass
class Place:
    """A console that serves, and the bus that feeds it."""

    address: str
    bus: MemoryBus
    now: float
    stop: threading.Event


@pytest.fixture
def place(free_port: Callable[[], int]) -> Iterator[Place]:
    bus, blobs, port, now = MemoryBus(), MemoryBlobs(), free_port(), time.time()
    blobs.kept = {PICTURES[0][0]: head_png(filled=False), PICTURES[1][0]: head_png(filled=True)}
    publish(bus, *night(now))
    stop, ready = threading.Event(), threading.Event()
    role = threading.Thread(
        target=run_console,
        kwargs={
            "host": "127.0.0.1", "port": port, "bus": bus, "blobs": blobs, "journal": None, "token": None,
            "ready": lambda: (True, "ready"), "waiting": lambda: None, "clock": SystemClock(), "stop": stop,
            "on_ready": ready.set,
        },
    )  # fmt: skip
    role.start()
    try:
        assert ready.wait(120)
        yield Place(f"http://127.0.0.1:{port}", bus, now, stop)
    finally:
        stop.set()
        role.join(60)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    driver = open_browser(tmp_path / "profile")
    set_width(driver, 1280)
    yield driver
    driver.quit()


@pytest.fixture
def picture(tmp_path: Path, browser: webdriver.Chrome) -> Callable[[str], None]:
    """``picture("name")``: a screenshot, kept where PAGE_PICTURES names a folder."""
    folder = Path(os.environ.get("PAGE_PICTURES") or tmp_path)

    def take(name: str) -> None:
        whole_page(browser, folder / f"{name}.png")

    return take


def text(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "main").text


def assert_no_complaints(browser: webdriver.Chrome) -> None:
    """Nothing that the Content-Security-Policy stopped, nothing missing, no script error."""
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_a_person_follows_a_study(place: Place, browser: webdriver.Chrome, picture: Callable[[str], None]) -> None:
    set_scheme(browser, "light")
    browser.get(place.address + "/")
    shown = text(browser)
    for line in (
        "CT series …4711.1.1 is open with 17 objects: the sender's association is open", "The pipeline haematoma is at work (attempt 1)",
        "Intracerebral haematoma, 23.4 mL.", "Not analysed: the series lacks slices", "revision 2",
        "The pipeline haematoma was given up: the worker died on this job", "No pipeline applies",
    ):  # fmt: skip
        assert line in shown, line
    assert "RESEARCH" in browser.find_element(By.TAG_NAME, "header").text
    picture("studies-light")

    browser.find_element(By.PARTIAL_LINK_TEXT, uid(3)).click()
    images = browser.find_elements(By.CSS_SELECTOR, "figure img")
    WebDriverWait(browser, 120).until(lambda _: all(i.get_property("naturalWidth") == 512 for i in images))
    shown = text(browser)
    for line in (
        "23.4 mL",
        "Slice 21 of 40, haematoma outlined",
        "Not used: bone kernel",
        "counted",
        "pacs took 4 objects",
        "3.9 s",
    ):
        assert line in shown, line
    picture("study-light")
    assert_no_complaints(browser)


def test_it_changes_by_itself_and_keeps_its_pictures(place: Place, browser: webdriver.Chrome) -> None:
    browser.get(place.address + "/")
    WebDriverWait(browser, 120).until(lambda b: b.find_element(By.CSS_SELECTOR, ".thumb img").get_property("complete"))
    first = browser.find_element(By.CSS_SELECTOR, ".thumb img")
    browser.execute_script("arguments[0].keptByTest = true", first)
    publish(place.bus, done(2, at=place.now), *deliveries(2, at=place.now))
    in_flight = "section:first-of-type"
    WebDriverWait(browser, 120).until(lambda b: uid(2) not in b.find_element(By.CSS_SELECTOR, in_flight).text)
    assert uid(2) in text(browser)
    # The picture that was there is the same element: nothing was loaded or drawn again.
    kept = "return [...document.querySelectorAll('.thumb img')].filter(i => i.keptByTest).length"
    assert browser.execute_script(kept) == 1
    assert_no_complaints(browser)


def test_a_console_that_is_gone_is_said(place: Place, browser: webdriver.Chrome) -> None:
    browser.get(place.address + "/")
    notice = browser.find_element(By.CSS_SELECTOR, ".stale")
    assert not notice.is_displayed()
    place.stop.set()
    WebDriverWait(browser, 120).until(lambda _: notice.is_displayed())
    assert "may be out of date" in notice.text


def test_finding_by_accession_number(place: Place, browser: webdriver.Chrome) -> None:
    browser.get(place.address + "/refusals")
    assert "Called AE title not recognised" in text(browser)
    field = browser.find_element(By.ID, "what")
    field.send_keys("ACC3\n")
    WebDriverWait(browser, 120).until(lambda b: b.current_url == f"{place.address}/studies/{uid(3)}")


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_no_page_is_wider_than_its_window(
    place: Place, browser: webdriver.Chrome, picture: Callable[[str], None], width: int
) -> None:
    set_scheme(browser, "dark")
    set_width(browser, width)
    for name, path in (
        ("studies", "/"), ("study", f"/studies/{uid(3)}"), ("failed", f"/studies/{uid(7)}"), ("refusals", "/refusals"),
    ):  # fmt: skip
        browser.get(place.address + path)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, path
        picture(f"{name}-dark-{width}")


def test_it_is_readable_without_a_script(place: Place, tmp_path: Path) -> None:
    browser = open_browser(tmp_path / "no-script", "--blink-settings=scriptEnabled=false")
    try:
        browser.get(place.address + "/")
        assert "Intracerebral haematoma, 23.4 mL." in text(browser)
        assert browser.find_elements(By.CSS_SELECTOR, "noscript meta[http-equiv=refresh]")
    finally:
        browser.quit()
