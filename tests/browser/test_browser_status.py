"""The status page in a real Chromium: what it shows, and what an operator does there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import HOSTILE, Pages, shoot
from playwright.sync_api import Page, Route, expect

from spyglass.client.thread_client import RequestFailed
from spyglass.web import templates
from testbed.fleet import Site
from testbed.processes import eventually, free_port

TOKEN = "a-token-that-nobody-would-guess"


@pytest.fixture
def status(pages: Pages, page: Page) -> Page:
    page.goto(f"{pages.url}/status")
    expect(page.locator("#status")).to_have_attribute("data-condition", "serving")
    return page


def row(page: Page, name: str) -> Any:
    return page.locator("tr.worker").filter(has=page.locator(".name", has_text=name))


def confirm(page: Page, question: str) -> None:
    expect(page.locator("#confirm-title")).to_have_text(question)
    page.click("#confirm-yes")
    expect(page.locator("#confirm")).to_be_hidden()


def with_changed_snapshot(page: Page, change: Any) -> None:
    """Show the page the real snapshot, changed."""

    def answer(route: Route) -> None:
        snapshot = route.fetch().json()
        change(snapshot)
        route.fulfill(json=snapshot)

    page.route("**/v1/status", answer)


def test_the_page_shows_in_words_what_a_death_cost(pages: Pages, status: Page) -> None:
    future = pages.client.submit(b"sleep:3")  # time for the page to see it
    busy = eventually(
        lambda: [w["name"] for w in pages.status()["workers"] if w["in_flight"]], "one has it"
    )[0]
    expect(row(status, busy).locator(".state")).to_have_text("busy")
    pages.workers[busy].kill()
    expect(row(status, busy)).to_have_count(0)
    assert future.result(30).attempts == 2
    line = re.compile(rf"^{busy} lost: .*; 1 request moved, answered \d+ ms later$")
    expect(status.locator("li.event bdi").filter(has_text=line)).to_have_count(1)
    departed = status.locator("#departed li").first
    expect(departed).to_be_hidden()
    status.click("#departed summary")
    expect(departed).to_contain_text(busy)
    expect(departed).to_contain_text("connection closed")
    shoot(status, "status-death")
    pages.start_missing()
    expect(row(status, busy).locator(".state")).to_have_text("ready")


def test_a_worker_is_drained_or_removed_after_asking(pages: Pages, status: Page) -> None:
    for action, question in (("Drain", "Drain loft?"), ("Remove", "Remove loft at once?")):
        loft = pages.start_worker("loft", "--model", "another")
        button = row(status, "loft").get_by_role("button", name=action)
        button.click()
        expect(status.locator("#confirm-title")).to_have_text(question)
        shoot(status, f"status-{action.lower()}", whole=False)
        expect(status.locator("#confirm-no")).to_be_focused()
        status.keyboard.press("Enter")
        expect(status.locator("#confirm")).to_be_hidden()
        assert "loft" in pages.names(), "only asked"
        button.click()
        confirm(status, question)
        expect(row(status, "loft")).to_have_count(0)
        assert loft.wait(30) == 0


def test_a_refusal_is_shown_in_the_question(pages: Pages, status: Page) -> None:
    loft = pages.start_worker("loft", "--model", "another")
    row(status, "loft").get_by_role("button", name="Drain").click()
    loft.kill()
    loft.wait()
    eventually(lambda: "loft" not in pages.names(), "the broker noticed")
    status.click("#confirm-yes")
    expect(status.locator("#confirm-error")).to_have_text("No worker with this id is connected.")
    status.click("#confirm-no")


def test_a_slow_action_leaves_a_later_question_open(status: Page) -> None:
    held: list[Route] = []
    status.route("**/v1/workers/*", lambda route: held.append(route))
    row(status, "attic").get_by_role("button", name="Drain").click()
    status.click("#confirm-yes")
    status.click("#confirm-no")
    row(status, "cellar").get_by_role("button", name="Drain").click()
    with status.expect_response("**/v1/workers/*"):
        held[0].fulfill(body='{"detail": "done"}')
    with status.expect_response("**/v1/status"):
        pass  # the page has gone on since
    expect(status.locator("#confirm-title")).to_have_text("Drain cellar?")
    expect(status.locator("#confirm")).to_be_visible()
    expect(status.locator("#confirm-yes")).to_be_enabled()
    status.click("#confirm-no")
    status.unroute("**/v1/workers/*")


def test_a_listening_worker_is_added_by_its_address(pages: Pages, status: Page) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    pages.launch_worker("pier", "--listen", address, "--model", "another")
    status.fill("#address", address)
    status.get_by_role("button", name="Add").click()
    expect(status.locator("#added")).not_to_be_empty()
    expect(row(status, "pier")).to_have_count(1)
    status.fill("#address", "tcp://nowhere")
    status.get_by_role("button", name="Add").click()
    expect(status.locator("#added")).to_contain_text("Send JSON such as")
    pages.processes[-1].kill()


@pytest.fixture
def guarded(page: Page, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, Page]]:
    """The status page of a web whose actions need TOKEN."""
    monkeypatch.setenv("SPYGLASS_ADMIN_TOKEN", TOKEN)
    site = Site()
    try:
        site.start_broker()
        site.start_worker("attic")
        site.start_worker("loft", "--model", "another")
        site.start_web()
        page.goto(f"{site.url}/status")
        expect(page.locator("#status")).to_have_attribute("data-condition", "serving")
        yield site, page
    finally:
        site.close()


def test_an_action_asks_for_the_admin_token_where_it_is_needed(
    guarded: tuple[Site, Page],
) -> None:
    site, page = guarded
    row(page, "loft").get_by_role("button", name="Drain").click()
    field = page.get_by_label("Admin token").and_(page.locator("#confirm-token"))
    expect(field).to_be_hidden()
    page.click("#confirm-yes")
    expect(page.locator("#confirm-error")).to_have_text("This needs the admin token.")
    expect(field).to_be_focused()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for name, width in (("desktop", 1280), ("phone", 390)):
            page.set_viewport_size({"width": width, "height": 800})
            shoot(page, f"status-token-{name}-{scheme}", whole=False)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    for wrong, told in (
        ("not-the-token", "That is not the admin token."),
        ("é", "A token may contain only letters, digits and punctuation."),
    ):
        page.keyboard.type(wrong)
        page.keyboard.press("Enter")
        expect(page.locator("#confirm-error")).to_have_text(told)
        expect(field).to_be_focused()
        expect(field).to_be_empty()
    assert set(site.names()) == {"attic", "loft"}
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_be_hidden()
    expect(row(page, "loft")).to_have_count(0)
    row(page, "attic").get_by_role("button", name="Remove").click()
    confirm(page, "Remove attic at once?")
    eventually(lambda: site.names() == [], "the page remembers it, and asks once only")
    assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])") == "[{},{}]"


def test_the_form_that_adds_a_worker_asks_for_the_token_too(guarded: tuple[Site, Page]) -> None:
    site, page = guarded
    address = f"tcp://127.0.0.1:{free_port()}"
    site.launch_worker("pier", "--listen", address)
    page.fill("#address", address)
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#added")).to_have_text("This needs the admin token.")
    expect(page.locator("#add-token")).to_be_focused()
    for name, width in (("desktop", 1280), ("phone", 390)):
        page.set_viewport_size({"width": width, "height": 800})
        page.locator("#join-title").scroll_into_view_if_needed()
        shoot(page, f"status-token-add-{name}", whole=False)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(row(page, "pier")).to_have_count(1)
    expect(page.locator("#add-token")).to_be_hidden()


def test_the_form_that_makes_a_line_asks_for_the_token_too(guarded: tuple[Site, Page]) -> None:
    _, page = guarded
    asked: list[Any] = []

    def made(route: Route) -> None:
        if route.request.headers.get("authorization") == f"Bearer {TOKEN}":
            asked.append(route.request.post_data_json)
            route.fulfill(json={"detail": "python worker.py 'tcp://10.0.0.5:5556#secret'"})
        else:
            route.continue_()  # the real web refuses it

    page.route("**/v1/join", made)
    with_changed_snapshot(
        page, lambda snapshot: snapshot["broker"]["security"].update(backend="encrypted")
    )
    expect(page.locator("#let-in")).to_be_visible()
    page.fill("#let-in-name", "kitchen")
    page.locator("#let-in-name").press("Enter")
    expect(page.locator("#let-in-line")).to_have_text("This needs the admin token.")
    expect(page.locator("#let-in-token")).to_be_focused()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#let-in-line")).to_contain_text("#secret")
    expect(page.locator("#let-in-token")).to_be_hidden()
    assert asked == [{"name": "kitchen"}]


def test_pictures_are_released_from_quarantine_after_asking(pages: Pages, status: Page) -> None:
    doomed = pages.start_worker("doomed", "--model", "stand-in")
    for n in range(2):
        with pytest.raises(RequestFailed):
            pages.client.submit(b"crash %d" % n, model="stand-in").result(30)
    expect(status.locator("li.quarantined")).to_have_count(2)
    shoot(status, "status-quarantine")
    status.locator("li.quarantined").first.get_by_role("button", name="Release").click()
    confirm(status, "Release this picture from quarantine?")
    expect(status.locator("li.quarantined")).to_have_count(1)
    with pytest.raises(RequestFailed):
        pages.client.submit(b"crash 3", model="stand-in").result(30)
    status.click("#clear")
    confirm(status, "Release all pictures from quarantine?")
    expect(status.locator("li.quarantined")).to_have_count(0)
    assert pages.status()["quarantine"] == []
    doomed.kill()


def test_the_charts_show_the_last_minutes_to_one_who_just_came(pages: Pages, page: Page) -> None:
    for n in range(20):
        pages.client.submit(b"cat %d" % n).result(30)
    eventually(lambda: pages.status()["trend"]["answered"][-1] >= 20, "it is sampled")
    page.goto(f"{pages.url}/status")
    rate = page.locator("[data-chart=rate]")
    expect(rate.locator(".line")).to_have_attribute("d", re.compile(r"^M[\d.]+ [\d.]+L"))
    expect(rate.locator(".peak")).not_to_have_text("peak 0")
    rate.locator("svg").hover()
    expect(rate.locator(".peak")).to_have_text(re.compile(" ago$"))


def test_the_page_follows_each_second_without_flicker_or_jump(pages: Pages, status: Page) -> None:
    status.set_viewport_size({"width": 1280, "height": 500})
    status.locator("#join-title").scroll_into_view_if_needed()
    status.evaluate(
        """() => {
            window.replaced = 0;
            new MutationObserver((changes) => { replaced += changes.filter(({target, addedNodes}) =>
                [...addedNodes].some((node) => node.nodeType === 1)).length; })
                .observe(document.querySelector("main"), {childList: true, subtree: true});
            window.began = scrollY;
        }"""
    )
    ages = []
    for _ in range(3):
        with status.expect_response("**/v1/status"):
            pass
        ages.append(status.evaluate("performance.now()"))
        assert status.evaluate("scrollY === began && began > 0")
    assert (ages[-1] - ages[0]) / 2 < 1300, "about once a second, on a busy machine too"
    assert status.evaluate("replaced") == 0, "elements are kept, only their texts change"
    status.click("#pause")
    status.wait_for_timeout(100)
    with pytest.raises(Exception, match="Timeout"):
        status.wait_for_event("request", timeout=1200)


def test_a_thousand_workers_are_searched_sorted_and_paged(pages: Pages, status: Page) -> None:
    def thousandfold(snapshot: dict[str, Any]) -> None:
        one = snapshot["workers"][0]
        snapshot["workers"] = [
            one | {"id": f"{n:08x}", "name": f"w{n}", "done": n, "host": f"host-{n % 10}"}
            for n in range(1000)
        ]

    with_changed_snapshot(status, thousandfold)
    expect(status.locator("#condition")).to_have_text("Serving: 1,000 workers")
    expect(status.locator("#pager-line")).to_have_text("1 to 20 of 1,000.")
    status.click("#next")
    expect(status.locator("tr.worker .name").first).to_have_text("w20")
    status.get_by_role("button", name="Answered").click()
    expect(status.locator("tr.worker .name").first).to_have_text("w999")
    shoot(status, "status-1000")
    status.fill("#find", "host-7 w99")
    expect(status.locator("tr.worker .name")).to_have_text(["w997"])
    status.fill("#find", "nobody")
    expect(status.locator("#pager-line")).to_have_text("None of 1,000 matches.")
    status.fill("#find", "")
    status.evaluate(
        """() => { window.slow = [];
            new PerformanceObserver((list) => {
                slow.push(...list.getEntries().map(({duration}) => duration));
            }).observe({type: "longtask"}); }"""
    )
    for _ in range(3):
        with status.expect_response("**/v1/status"):
            pass
    tasks = status.evaluate("slow")
    print(f"1,000 workers: tasks above 50 ms: {tasks}")
    assert all(task < 300 for task in tasks), "the page stays usable"


def test_the_keyboard_keeps_its_place_when_the_row_before_leaves(
    pages: Pages, status: Page
) -> None:
    drain = row(status, "cellar").get_by_role("button", name="Drain")
    drain.focus()
    with_changed_snapshot(status, lambda snapshot: snapshot["workers"].pop(0))
    expect(row(status, "attic")).to_have_count(0)
    expect(drain).to_be_focused()


def test_a_truncated_answer_shows_an_error_and_recovers(pages: Pages, status: Page) -> None:
    status.route("**/v1/status", lambda route: route.fulfill(body='{"broker": '))
    expect(status.locator("#status")).to_have_attribute("data-condition", "down")
    status.unroute("**/v1/status")
    expect(status.locator("#status")).to_have_attribute("data-condition", "serving")


def hostile(snapshot: dict[str, Any]) -> None:
    """Every text of the snapshot that a peer may choose, and some that none may."""
    worker = snapshot["workers"][0]
    worker |= dict.fromkeys(("name", "host", "model", "digest", "id"), HOSTILE)
    snapshot["workers"] = [worker]
    snapshot["departed"] = [
        {"name": HOSTILE, "host": HOSTILE, "reason": HOSTILE, "ago_s": 1.0, "done": 0, "failed": 0}
    ]
    snapshot["events"] = [{"id": 1, "ago_s": 1.0, "text": HOSTILE, "outcome": HOSTILE}]
    snapshot["models"] = [{"name": HOSTILE, "digest": HOSTILE, "workers": 1, "waiting": 0}]
    snapshot["quarantine"] = [{"sha256": HOSTILE, "left_s": 1.0, "workers": [], "refused": 0}]
    snapshot["broker"] |= dict.fromkeys(("join", "backend", "frontend", "version"), HOSTILE)


def test_hostile_names_are_only_text(pages: Pages, status: Page) -> None:
    with_changed_snapshot(status, hostile)
    expect(status.locator("tr.worker .name")).to_have_text([HOSTILE])
    expect(status.locator("#join-line")).to_have_text(HOSTILE)
    expect(status.locator("li.event bdi")).to_have_text(f"{HOSTILE}, {HOSTILE}")
    assert status.locator("main img").count() == 0
    row(status, "").get_by_role("button", name="Drain").click()
    expect(status.locator("#confirm-title")).to_have_text(f"Drain {HOSTILE}?")
    status.click("#confirm-no")
    shoot(status, "status-hostile")
    assert status.evaluate("document.documentElement.scrollWidth") <= 1280
    snapshot = json.loads(pages.get("/v1/status")[1])
    hostile(snapshot)
    text = templates.page("status", status=snapshot, broker_address=HOSTILE)
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x") > 10


def test_the_line_to_join_is_copied_with_one_click(pages: Pages, status: Page) -> None:
    expect(status.locator("#join-line")).to_have_text(f"python worker.py {pages.backend}")
    status.context.grant_permissions(["clipboard-read", "clipboard-write"])
    status.click("#copy")
    expect(status.locator("#copy")).to_have_text("Copied")
    assert status.evaluate("navigator.clipboard.readText()") == f"python worker.py {pages.backend}"


def test_a_broker_that_is_down_is_shown_as_such_and_heals(pages: Pages, status: Page) -> None:
    assert pages.broker is not None
    pages.broker.kill()
    pages.broker.wait()
    expect(status.locator("#status")).to_have_attribute("data-condition", "down")
    expect(status.locator("#condition-detail")).to_have_text(
        re.compile(
            rf"^No reply from {re.escape(pages.frontend)}. Retrying automatically. "
            r"The figures below are from \d\d:\d\d:\d\d. "
            "If the broker does not come back, start it with: python broker.py$"
        )
    )
    shoot(status, "status-down")
    pages.start_broker()
    expect(status.locator("#status")).to_have_attribute("data-condition", "serving")
    expect(status.locator("tr.worker")).to_have_count(2)


def test_a_line_with_a_secret_is_made_when_the_worker_port_is_encrypted(status: Page) -> None:
    expect(status.locator("#let-in")).to_be_hidden()  # on loopback none is needed
    with_changed_snapshot(
        status, lambda snapshot: snapshot["broker"]["security"].update(backend="encrypted")
    )
    asked: list[Any] = []
    made = f"python worker.py 'tcp://10.0.0.5:5556#{'secret' * 14}'"
    status.set_viewport_size({"width": 400, "height": 800})

    def make(route: Route) -> None:
        asked.append(route.request.post_data_json)
        route.fulfill(json={"detail": made})

    status.route("**/v1/join", make)
    status.fill("#let-in-name", "kitchen")
    status.click("#let-in button")
    line = status.locator("#let-in-line")
    expect(line).to_have_text(made)
    assert status.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it runs out"
    assert asked == [{"name": "kitchen"}]
    shoot(status, "status-join")


def test_an_insecure_port_is_reported_as_long_as_it_is_one(status: Page) -> None:
    expect(status.locator("#insecure")).to_be_hidden()
    with_changed_snapshot(
        status, lambda snapshot: snapshot["broker"]["security"].update(backend="insecure")
    )
    expect(status.locator("#insecure")).to_be_visible()
    expect(status.locator("#insecure")).to_contain_text("--insecure")
