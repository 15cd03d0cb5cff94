"""What the status page says of its lists, with script and without."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from browsing import Pages
from playwright.sync_api import Page, Route, expect

from spyglass.web import templates

GONE = {"name": "attic", "host": "here", "ago_s": 3.0, "done": 12, "failed": 0}
GONE["reason"] = "connection closed"


def picture(refused: int) -> dict[str, Any]:
    return {"sha256": f"{refused:064x}", "left_s": 60.0, "workers": [], "refused": refused}


def model(workers: int, waiting: int) -> dict[str, Any]:
    name = f"model-{workers}"
    return {"name": name, "digest": "cd" * 32, "workers": workers, "waiting": waiting}


@pytest.mark.parametrize(
    ("change", "selector", "sentence"),
    [
        ({"workers": [], "departed": []}, "[data-empty=workers]", "No worker is connected."),
        (
            {"workers": [], "departed": [GONE]},
            "[data-empty=workers]",
            "No worker is connected. The last one, attic, left 3.0 s ago: connection closed.",
        ),
        ({"departed": [GONE]}, ".departed", "attic on here answered 12, then left: connection"),
        ({"departed": []}, "[data-empty=departed]", "None so far."),
        ({"quarantine": [picture(0)]}, "[data-field=story]", "Two processes died on it."),
        ({"quarantine": [picture(1)]}, "[data-field=story]", "died on it. Refused once since."),
        ({"quarantine": [picture(5)]}, "[data-field=story]", "on it. Refused 5 times since."),
        ({"quarantine": []}, "[data-empty=quarantine]", "No pictures in quarantine."),
        ({"models": [model(1, 1)]}, "[data-field=load]", "1 worker, 1 picture waiting"),
        ({"models": [model(2, 0)]}, "[data-field=load]", "2 workers, 0 pictures waiting"),
        ({"models": []}, "[data-empty=models]", "Models appear when a worker joins."),
        ({"events": []}, "[data-empty=events]", "No events yet."),
    ],
)
def test_list_texts_are_equal_with_and_without_script(
    pages: Pages, page: Page, change: dict[str, Any], selector: str, sentence: str
) -> None:
    def answer(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | change)

    page.route("**/v1/status", answer)
    page.goto(f"{pages.url}/status")
    place = page.locator(f"#figures {selector}").first
    expect(place).to_contain_text(sentence)
    snapshot = json.loads(pages.get("/v1/status")[1]) | change
    rendered = templates.page("status", status=snapshot, broker_address=pages.frontend)
    text = " ".join(re.sub("<[^>]+>", "", html.unescape(rendered)).split())
    assert sentence in text


def test_only_a_broker_on_loopback_says_that_it_takes_workers_of_this_machine_alone(
    pages: Pages, page: Page
) -> None:
    page.goto(f"{pages.url}/status")
    expect(page.locator("#only-here")).to_be_visible()

    def answer(route: Route) -> None:
        snapshot = route.fetch().json()
        snapshot["broker"]["security"]["backend"] = "encrypted"
        route.fulfill(json=snapshot)

    page.route("**/v1/status", answer)
    expect(page.locator("#only-here")).to_be_hidden()
