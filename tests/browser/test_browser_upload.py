"""The upload page in a real Chromium: the ways in, what comes out, and what all pages share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browsing import CAT, HOSTILE, Pages, answering, picture, shoot
from playwright.sync_api import Browser, FilePayload, Page, Route, expect

from testbed.processes import ROOT

ALL_PAGES = ("", "camera", "status")
#: Bytes of a page with its scripts, style and thumbnails.
WEIGHT = 100_000
#: Times as long as a page of one word until something is painted, on loopback.
FIRST_PAINT = 5


def recognised(page: Page) -> None:
    expect(page.locator("#result")).to_have_attribute("data-state", "done")
    expect(page.locator("#predictions > .prediction")).to_have_count(5)


def test_a_chosen_picture_is_shown_with_five_labelled_bars_and_a_receipt(
    pages: Pages, page: Page
) -> None:
    page.goto(pages.url)
    page.set_input_files("#file", picture("label:tabby"))
    recognised(page)
    expect(page.locator("#predictions .label").first).to_have_text("tabby")
    expect(page.locator("#predictions .percent").first).to_have_text("50.0%")
    expect(page.locator("#preview")).to_be_visible()
    receipt = page.locator("#receipt")
    expect(receipt.locator("[data-field=worker]")).to_have_text(re.compile("^(attic|cellar)$"))
    expect(receipt.locator("[data-field=attempts]")).to_have_text("1")
    for step in ("queue", "decode", "infer", "total"):
        expect(receipt.locator(f"[data-field={step}]")).to_have_text(re.compile(r"^\d+\.\d ms$"))
    expect(receipt.locator("[data-field=request_id]")).to_have_text(re.compile("^[0-9a-f]{32}$"))
    expect(page.locator("#announce")).to_contain_text("Most likely tabby, 50.0%")
    shoot(page, "upload-done")


def test_a_picture_may_be_dropped_pasted_or_a_sample(pages: Pages, page: Page) -> None:
    page.goto(pages.url)
    transfer = page.evaluate_handle(
        """async () => {
            const picture = await (await fetch("/static/samples/cat.jpg")).blob();
            const transfer = new DataTransfer();
            transfer.items.add(new File([picture], "dropped.jpg", {type: "image/jpeg"}));
            return transfer;
        }"""
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    recognised(page)
    expect(page.locator("#picture-name")).to_have_text("dropped.jpg")
    page.evaluate(
        """async () => {
            const picture = await (await fetch("/static/samples/coffee.jpg")).blob();
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([picture], "pasted.jpg", {type: "image/jpeg"}));
            dispatchEvent(new ClipboardEvent("paste", {clipboardData}));
        }"""
    )
    expect(page.locator("#picture-name")).to_have_text("pasted.jpg")
    recognised(page)
    page.get_by_role("button", name="Rocket").click()
    expect(page.locator("#picture-name")).to_have_text("rocket.jpg")
    recognised(page)


def test_of_two_samples_clicked_quickly_the_last_is_shown(pages: Pages, page: Page) -> None:
    page.goto(pages.url)
    held: list[Route] = []
    page.route("**/samples/cat.jpg", lambda route: held.append(route))
    page.get_by_role("button", name="Cat").click()
    page.get_by_role("button", name="Rocket").click()
    expect(page.locator("#picture-name")).to_have_text("rocket.jpg")
    with page.expect_response("**/samples/cat.jpg"):
        held[0].continue_()
    recognised(page)
    expect(page.locator("#picture-name")).to_have_text("rocket.jpg")


def test_the_keyboard_alone_is_enough(pages: Pages, page: Page) -> None:
    page.goto(pages.url)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    # Asked for before the walk to the input: Playwright does not wait until it would notice.
    with page.expect_file_chooser() as chooser:
        while page.evaluate("document.activeElement.id") != "file":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    chooser.value.set_files(CAT)
    recognised(page)
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, a, input, select")].filter((element) =>
            element.checkVisibility() && !element.labels?.length && !element.innerText.trim()
            && !element.getAttribute("aria-label")).map((element) => element.outerHTML)"""
    )
    assert nameless == [], "a screen reader has nothing to say"


def test_what_is_wrong_with_a_file_stands_next_to_it_as_a_sentence(
    pages: Pages, page: Page
) -> None:
    page.goto(pages.url)
    detail = page.locator("#error [data-field=detail]")
    text: FilePayload = {
        "name": "letter.jpg",
        "mimeType": "image/jpeg",
        "buffer": b"Dear all",
    }
    page.set_input_files("#file", text)
    expect(detail).to_contain_text("Send a JPEG, PNG, WebP, GIF or BMP file.")
    expect(page.locator("#error [data-field=reference]")).to_have_text(
        re.compile("^Error code unsupported, request [0-9a-f]{32}$")
    )
    expect(page.locator("#error")).to_have_attribute("role", "alert")
    expect(page.locator("#preview")).to_be_hidden()
    shoot(page, "upload-error")
    page.set_input_files("#file", {**text, "buffer": b""})
    expect(detail).to_contain_text("This file has no content.")
    large = page.evaluate_handle(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(10_000_001)], "large.jpg"));
            return transfer;
        }"""
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": large})
    expect(detail).to_contain_text("This file has 10.1 MB; the limit is 10 MB.")
    page.set_input_files("#file", picture("bad"))
    expect(detail).to_contain_text("Send a photo.")
    expect(page.locator("#again")).to_be_hidden()


def test_a_busy_service_is_asked_again_when_it_says(pages: Pages, page: Page) -> None:
    page.goto(pages.url)
    asked = answering(page, 503, {"Retry-After": "1"})
    page.set_input_files("#file", picture("label:tabby"))
    expect(page.locator("#progress")).to_contain_text("Retrying in 1 s (1 of 3)")
    assert asked() == 1
    page.unroute("**/v1/classify*")
    recognised(page)


def test_a_server_that_is_away_leaves_the_picture_and_a_button(pages: Pages, page: Page) -> None:
    page.goto(pages.url)
    answering(page, 500)
    page.set_input_files("#file", picture("label:tabby"))
    expect(page.locator("#again")).to_be_visible()
    page.unroute("**/v1/classify*")
    page.click("#again")
    recognised(page)


def test_hostile_names_and_labels_are_only_text(pages: Pages, page: Page) -> None:
    page.goto(pages.url)
    label = HOSTILE.replace(" ", "/")
    page.set_input_files("#file", picture(f"label:{label}", name=f"{HOSTILE}.jpg"))
    recognised(page)
    expect(page.locator("#picture-name")).to_have_text(f"{HOSTILE}.jpg")
    expect(page.locator("#predictions .label").first).to_have_text(label)
    assert page.locator("main img[src=x]").count() == 0
    shoot(page, "upload-hostile")


def test_the_form_works_without_script_and_escapes_the_name(pages: Pages, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages.url)
    expect(page.locator("#samples")).to_be_hidden()
    page.set_input_files("#file", picture("label:tabby", name="<i>cat</i>.jpg"))
    page.click("#send")
    expect(page.locator("#predictions > .prediction")).to_have_count(5)
    expect(page.locator("#picture-name")).to_have_text("<i>cat</i>.jpg")
    shoot(page, "upload-no-script")
    for path in ("camera", "status"):
        page.goto(f"{pages.url}/{path}")
        assert page.locator("h1").is_visible()
        assert page.locator(".with-script:visible").count() == 0, "nothing there would work"
    context.close()


# --- all pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_pages_fit_phone_and_desk(
    pages: Pages, browser: Browser, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    context = browser.new_context(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
    page = context.new_page()
    for path in ALL_PAGES:
        page.goto(f"{pages.url}/{path}")
        shoot(page, f"{path or 'upload'}-{scheme}-{width}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def first_paint(page: Page, url: str) -> float:
    """Milliseconds from asking for a page to the first thing that is seen of it."""
    page.goto(url)
    told: float = page.evaluate("""() => new Promise((resolve) => {
        new PerformanceObserver((list) => resolve(list.getEntries()[0].startTime))
            .observe({type: "paint", buffered: true});
    })""")
    return told


def test_something_is_painted_at_once_and_nothing_comes_from_elsewhere(
    pages: Pages, page: Page
) -> None:
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    for path in ALL_PAGES:
        # Beside a page of one word, at its best: others use this machine too.
        paints = [
            [first_paint(page, f"{pages.url}/{each}") for each in (path, "livez")] for _ in range(3)
        ]
        print(f"/{path}: first paint after {paints} ms")
        assert min(ours / word for ours, word in paints) < FIRST_PAINT, (path, paints)
    assert hosts == {pages.url.split("/")[2]}


def test_the_pages_weigh_little(pages: Pages, page: Page) -> None:
    sent: dict[str, int] = {}
    for path in ALL_PAGES:
        page.goto(f"{pages.url}/{path}")
        page.locator("footer").scroll_into_view_if_needed()
        page.wait_for_load_state("load")
        files = page.evaluate("""() => [...performance.getEntriesByType("navigation"),
            ...performance.getEntriesByType("resource")].filter(({name}) => !name.includes("/v1/"))
            .map(({name, encodedBodySize: packed, decodedBodySize: whole}) =>
                 [name, packed, whole])""")
        whole = sum(unpacked for _, _, unpacked in files)
        print(f"/{path}: {whole:,} bytes, sent as {sum(packed for _, packed, _ in files):,}")
        assert 0 < whole < WEIGHT, path
        sent |= {name: packed for name, packed, _ in files if packed}
    print(f"all: {sum(sent.values()):,} bytes sent")
    names = {name.split("/")[-1] for name in sent}
    assert {"status.js", "gallery.js", "style.css", "status.css"} <= names
    assert sum(sent.values()) < WEIGHT, "all pages together"


def test_no_page_has_a_script_or_a_style_inside(pages: Pages, page: Page) -> None:
    for path in (*ALL_PAGES, "nothing-here"):
        answer = page.goto(f"{pages.url}/{path}")
        assert answer is not None
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        text = answer.text()
        assert text.count("<script") == text.count('<script type="module" src=')
        for word in ("<style", " style=", " onclick=", " onerror=", " onload=", "javascript:"):
            assert word not in text, (path, word)


def test_every_template_escapes_what_it_shows() -> None:
    for template in Path(ROOT / "views").glob("*.tpl"):
        assert "{{!" not in template.read_text(), template.name
