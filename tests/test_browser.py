"""The pages in a real Chromium, with the real model behind them, all as processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Site, eventually
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from brokerclient import RequestFailed

CHROMIUM = shutil.which("chromium") or ""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ARTEFACTS = ROOT / "artefacts"
CAT = ROOT / "static" / "samples" / "cat.jpg"

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")

#: Milliseconds an expectation may take.
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One for all, with a real worker."""
    site = Site()
    try:
        site.start_broker()
        site.start("worker.py", site.backend, "--processes", "1", "--name", "attic")
        site.start_web()
        eventually(lambda: site.get("/readyz")[0] == 200, "the worker joins", 120)
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    ARTEFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose console must stay clean, but for failed answers that a test provokes."""
    errors: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            errors.append(message.text)

    page = browser.new_page()
    page.on("console", heard)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


def show(page: Page, name: str) -> None:
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


def test_a_chosen_picture_is_shown_with_five_labelled_bars(site: Site, page: Page) -> None:
    page.goto(site.url)
    page.set_input_files("#file", CAT)
    expect(page.locator("#result")).to_have_attribute("data-state", "done")
    expect(page.locator("#predictions > .prediction")).to_have_count(5)
    expect(page.locator("#predictions .label").first).to_contain_text("cat")
    expect(page.locator("#receipt [data-field=worker]")).to_have_text("attic")
    show(page, "upload-done")


def test_a_dropped_picture_is_recognised(site: Site, page: Page) -> None:
    page.goto(site.url)
    data = page.evaluate_handle(
        """async () => {
            const picture = await (await fetch("/static/samples/cat.jpg")).blob();
            const transfer = new DataTransfer();
            transfer.items.add(new File([picture], "cat.jpg", {type: "image/jpeg"}));
            return transfer;
        }"""
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    expect(page.locator("#result")).to_have_attribute("data-state", "done")


def test_a_file_that_is_no_picture_is_explained(site: Site, page: Page, tmp_path: Path) -> None:
    text = tmp_path / "letter.jpg"
    text.write_text("Dear all")
    page.goto(site.url)
    page.set_input_files("#file", text)
    expect(page.locator("#error [data-field=detail]")).to_contain_text("Send a JPEG")
    show(page, "upload-error")


def test_the_form_works_without_script(site: Site, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site.url)
    page.set_input_files("#file", CAT)
    page.click("#send")
    expect(page.locator("#predictions > .prediction")).to_have_count(5)
    context.close()


def test_the_status_page_follows_workers_as_they_come_and_go(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/status")
    expect(page.locator("tr.worker")).to_have_count(1)
    second = site.launch_worker("cellar", "--model", "stand-in")
    expect(page.locator("tr.worker")).to_have_count(2)
    second.kill()
    expect(page.locator("tr.worker")).to_have_count(1)
    show(page, "status")


def test_a_picture_is_let_out_of_quarantine_when_the_operator_confirms(
    site: Site, page: Page
) -> None:
    doomed = site.start_worker("doomed", "--model", "stand-in")
    with pytest.raises(RequestFailed):
        site.client.submit(b"crash", model="stand-in").result(30)
    page.goto(f"{site.url}/status")
    expect(page.locator("li.quarantined")).to_have_count(1)
    show(page, "status-quarantine")
    page.set_viewport_size({"width": 390, "height": 800})
    show(page, "status-quarantine-390")
    answers = [False, True]
    page.on("dialog", lambda d: d.accept() if answers.pop(0) else d.dismiss())
    page.click("[data-let-out]")
    assert len(site.status()["quarantine"]) == 1, "only asked"
    page.click("[data-let-out]")
    expect(page.locator("li.quarantined")).to_have_count(0)
    assert site.status()["quarantine"] == []
    doomed.kill()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_pages_fit_phone_and_desk(
    site: Site, browser: Browser, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    context = browser.new_context(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
    page = context.new_page()
    for path in ("", "status"):
        page.goto(f"{site.url}/{path}")
        show(page, f"{path or 'upload'}-{scheme}-{width}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_the_status_page_says_when_the_broker_is_down_and_heals(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/status")
    expect(page.locator("#status")).to_have_attribute("data-condition", "serving")
    assert site.broker is not None
    site.broker.kill()
    site.broker.wait()
    expect(page.locator("#status")).to_have_attribute("data-condition", "down")
    site.start_broker()
    expect(page.locator("#status")).to_have_attribute("data-condition", "serving")
