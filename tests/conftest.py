"""The fixtures: fleets of real processes with a stand-in for the model, and browsers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from broker_thread import BrokerThread

from testbed.encrypted import EncryptedFleet
from testbed.fleet import Fleet, Site
from testbed.processes import PATIENCE

# An example may take any time: others use this machine as well.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


def with_a_broker(fleet: Fleet) -> Iterator[Fleet]:
    """Its broker, and nothing else of it yet."""
    with fleet:
        fleet.start_broker()
        fleet.wait_for_broker()
        yield fleet


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """A broker without workers."""
    yield from with_a_broker(Fleet())


@pytest.fixture
def site() -> Iterator[Site]:
    """A broker and a web; workers as the test wishes."""
    with Site() as site:
        site.start_broker()
        site.start_web()
        yield site


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Fleet]:
    """A broker without workers, both of whose ports are encrypted."""
    yield from with_a_broker(EncryptedFleet(tmp_path / "keys"))


@pytest.fixture
def broker_thread(tmp_path: Path) -> Iterator[BrokerThread]:
    """A broker's loop in this process, both of whose ports are encrypted."""
    broker_thread = BrokerThread(tmp_path / "keys")
    try:
        yield broker_thread
    finally:
        broker_thread.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of a module. Playwright keeps an event loop running meanwhile, and
    nothing else could run one in this thread."""
    browsing = pytest.importorskip("browsing")
    if not browsing.CHROMIUM:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * PATIENCE)
    browsing.ARTEFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browsing.CHROMIUM, args=browsing.FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def all_pages(browser: Any) -> Iterator[Any]:
    from browsing import Pages

    pages = Pages()
    yield pages
    pages.close()


@pytest.fixture
def pages(all_pages: Any) -> Any:
    """Web, broker and two stand-in workers, shared by all tests of the pages."""
    all_pages.start_missing()
    return all_pages


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose console must stay clean, but for failed answers that a test provokes."""
    errors: list[str] = []

    def note_error(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            errors.append(message.text)

    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("console", note_error)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(f"a foreign script ran: {dialog.message}"))
    yield page
    page.unroute_all(behavior="ignoreErrors")  # one may be asking a web that ends meanwhile
    page.close()
    assert errors == []
