"""The live camera in a real Chromium, with its fake camera."""

from __future__ import annotations

import pytest
from browsing import Pages, answering, shoot
from playwright.sync_api import Page, Request, expect

from testbed.processes import eventually

#: What stands where there is no figure yet.
NONE = "\N{EN DASH}"


def count(page: Page, gauge: str) -> int:
    return int((page.text_content(f"#gauges [data-field={gauge}]") or "0").strip(NONE) or "0")


def test_the_camera_goes_on_while_a_worker_is_killed_and_stops_cleanly(
    pages: Pages, page: Page
) -> None:
    flying: set[Request] = set()
    most = 0

    def sent(request: Request) -> None:
        nonlocal most
        if "/v1/classify" in request.url:
            flying.add(request)
            most = max(most, len(flying))

    page.on("request", sent)
    page.on("requestfinished", lambda request: flying.discard(request))
    page.on("requestfailed", lambda request: flying.discard(request))
    page.goto(f"{pages.url}/camera")
    page.click("#start")
    expect(page.locator("#sights .sight").first).to_contain_text("%")
    eventually_more(page, 5)
    expect(page.locator("#gauges [data-field=round]")).to_contain_text(" ms")
    expect(page.locator("#gauges [data-field=rate]")).not_to_have_text(NONE)
    assert not page.evaluate("document.querySelector('#video').paused")
    victim = page.text_content("#gauges [data-field=worker]")
    pages.workers[victim or ""].kill()
    eventually_more(page, 10)
    other = ({"attic", "cellar"} - {victim}).pop()
    expect(page.locator("#gauges [data-field=worker]")).to_have_text(other)
    expect(page.locator("#error")).to_be_hidden()
    shoot(page, "camera-on")
    assert most == 1, "only the newest frame is in flight"
    track = page.evaluate_handle("document.querySelector('#video').srcObject.getTracks()[0]")
    page.click("#stop")
    assert track.evaluate("track => track.readyState") == "ended"
    expect(page.locator("#start")).to_be_focused()

    def landed() -> bool:
        if not flying:
            return True
        page.wait_for_timeout(20)
        return False

    eventually(landed, "the last request is over")
    with pytest.raises(Exception, match="Timeout"), page.expect_request("**/v1/*", timeout=300):
        pass


def test_a_long_run_leaves_nothing_behind_for_each_frame(pages: Pages, page: Page) -> None:
    page.add_init_script(
        """{ window.held = 0;
            const { addEventListener, removeEventListener } = EventTarget.prototype;
            AbortSignal.prototype.addEventListener = function (...given) {
                held += 1;
                addEventListener.apply(this, given);
            };
            AbortSignal.prototype.removeEventListener = function (...given) {
                held -= 1;
                removeEventListener.apply(this, given);
            }; }"""
    )
    page.goto(f"{pages.url}/camera")
    page.click("#start")
    eventually_more(page, 10)
    assert page.evaluate("held") <= 1, "the frame waited for, and no other"


def eventually_more(page: Page, frames: int) -> None:
    goal = count(page, "answered") + frames

    def enough() -> bool:
        page.wait_for_timeout(20)
        return count(page, "answered") >= goal

    eventually(enough, "more frames")


def test_a_busy_service_is_shown_over_the_picture_and_clears(pages: Pages, page: Page) -> None:
    answering(page, 503, {"Retry-After": "1"})
    page.goto(f"{pages.url}/camera")
    page.click("#start")
    expect(page.locator("#trouble")).to_have_text("Busy. Resuming automatically.")
    page.unroute("**/v1/classify*")
    expect(page.locator("#sights .sight").first).to_contain_text("%")
    expect(page.locator("#trouble")).to_be_hidden()


@pytest.mark.parametrize(
    ("obstacle", "sentence"),
    [
        ("delete Navigator.prototype.mediaDevices", "only to pages over HTTPS"),
        ("NotFoundError", "no camera that the browser can find"),
        ("NotAllowedError", "Allow this page to use the camera"),
        ("NotReadableError", "Another program is using the camera"),
        ("AbortError", "The browser says: it does not."),
    ],
)
def test_a_camera_that_cannot_be_had_is_explained(
    pages: Pages, page: Page, obstacle: str, sentence: str
) -> None:
    refuse = "MediaDevices.prototype.getUserMedia = async () => { throw new DOMException(%r, %r); }"
    page.add_init_script(obstacle if " " in obstacle else refuse % ("it does not", obstacle))
    page.goto(f"{pages.url}/camera")
    page.click("#start")
    expect(page.locator("#error [data-field=detail]")).to_contain_text(sentence)
    expect(page.locator("#start")).to_be_visible()
    shoot(page, f"camera-{obstacle.split()[0]}")
