"""Many pictures at once, in a real Chromium."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from browsing import CAT, HOSTILE, Pages, answering, picture, shoot
from playwright.sync_api import FilePayload, Page, Route, expect
from yardstick import slowness


@pytest.fixture
def gallery(pages: Pages, page: Page) -> Page:
    page.goto(pages.url)
    return page


def choose(page: Page, *pictures: FilePayload) -> None:
    page.set_input_files("#file", list(pictures))


def finished(page: Page, within: float = 30) -> None:
    """Wait, at most so many seconds, until all pictures are processed."""
    gallery = page.locator("#gallery")
    expect(gallery).to_have_attribute("data-state", "finished", timeout=1000 * within)


def names(page: Page) -> list[str]:
    return page.locator("#cards .card:visible .file").all_text_contents()


def saved(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_text(encoding="utf-8-sig")


def test_many_pictures_become_cards_that_sort_and_filter_by_label(gallery: Page) -> None:
    labels = ["tabby", "beagle", "tabby", "anchor"]
    choose(gallery, *(picture(f"label:{label} {n}", f"{n}.jpg") for n, label in enumerate(labels)))
    finished(gallery)
    expect(gallery.locator("#gallery-title")).to_have_text("4 pictures")
    expect(gallery.locator("#gallery-line")).to_have_text("Done: 4 recognised.")
    expect(gallery.locator("#gallery-announce")).to_have_text("Done: 4 recognised.")
    assert names(gallery) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    gallery.select_option("#gallery-sort", "label")
    assert names(gallery) == ["3.jpg", "1.jpg", "0.jpg", "2.jpg"]
    gallery.select_option("#gallery-filter", "label tabby")
    assert names(gallery) == ["0.jpg", "2.jpg"]
    offered = gallery.locator("#gallery-filter option").all_text_contents()
    assert offered == ["Everything (4)", "anchor (1)", "beagle (1)", "tabby (2)"]
    rows = list(csv.reader(io.StringIO(saved(gallery, "#gallery-csv"))))
    assert [row[0] for row in rows] == ["file", "0.jpg", "2.jpg"], "what is shown is saved"


def test_answers_are_saved_as_csv_and_json_whatever_the_files_are_called(gallery: Page) -> None:
    label = HOSTILE.replace(" ", "/")
    choose(
        gallery,
        picture(f"label:{label}", "=cmd|' /C calc'!A0.jpg"),
        picture("label:tabby", f"{HOSTILE}, and more.jpg"),
        picture("bad", "torn.jpg"),
    )
    finished(gallery)
    shoot(gallery, "gallery-hostile")
    assert gallery.locator("main img[src=x]").count() == 0
    header, formula, hostile, torn = csv.reader(io.StringIO(saved(gallery, "#gallery-csv")))
    assert header[:3] == ["file", "label_1", "probability_1"]
    assert formula[0].startswith("'="), "no spreadsheet may run it"
    assert formula[1:3] == [label, "0.5"]
    assert hostile[0] == f"{HOSTILE}, and more.jpg"
    assert "Send a photo." in torn[-1]
    told = json.loads(saved(gallery, "#gallery-json"))
    assert told[0]["file"] == "=cmd|' /C calc'!A0.jpg"
    assert told[1]["predictions"][0] == {"index": 0, "label": "tabby", "probability": 0.5}
    assert told[2]["error"]["code"] == "bad-image"


def test_the_keyboard_keeps_its_place_when_the_cards_are_sorted(gallery: Page) -> None:
    choose(gallery, picture("label:tabby", "one.jpg"), picture("label:beagle", "two.jpg"))
    finished(gallery)
    second = gallery.locator(".card button").filter(has_text="two.jpg")
    second.focus()
    gallery.evaluate(
        """() => {
            const order = document.querySelector("#gallery-sort");
            order.value = "label";
            order.dispatchEvent(new Event("change"));
        }"""
    )
    assert names(gallery) == ["two.jpg", "one.jpg"]
    expect(second).to_be_focused()


def test_a_card_opens_large_with_its_five_names(gallery: Page) -> None:
    choose(gallery, picture("label:tabby", "one.jpg"), picture("label:beagle", "two.jpg"))
    finished(gallery)
    gallery.locator(".card button").first.press("Enter")
    expect(gallery.locator("#detail")).to_be_visible()
    expect(gallery.locator("#detail .prediction")).to_have_count(5)
    expect(gallery.locator("#detail-name")).to_have_text("one.jpg")
    expect(gallery.locator("#detail-receipt")).to_contain_text(
        re.compile(r"^Answered by (attic|cellar) in \d+\.\d ms, first try\.")
    )
    gallery.keyboard.press("ArrowRight")
    expect(gallery.locator("#detail-name")).to_have_text("two.jpg")
    gallery.keyboard.press("Escape")
    expect(gallery.locator("#detail")).to_be_hidden()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one of them deeper, and something else."""
    deep = tmp_path / "holiday" / "day 2"
    deep.mkdir(parents=True)
    (deep / "b.jpg").write_bytes(CAT.read_bytes())
    (deep.parent / "a.jpg").write_bytes(CAT.read_bytes())
    (deep.parent / "notes.txt").write_text("Dear all")
    return deep.parent


def test_a_whole_folder_may_be_chosen(gallery: Page, folder: Path) -> None:
    gallery.set_input_files("#folder", folder)
    finished(gallery)
    assert sorted(names(gallery)) == ["holiday/a.jpg", "holiday/day 2/b.jpg"]
    expect(gallery.locator("#gallery-line")).to_contain_text("Skipped notes.txt: not a picture.")


def test_files_that_are_no_pictures_are_skipped_and_counted(gallery: Page) -> None:
    letters = [
        FilePayload(name=f"{n}.txt", mimeType="text/plain", buffer=b"Dear all") for n in range(2)
    ]
    choose(gallery, picture("label:tabby"), *letters, picture("label:beagle"))
    finished(gallery)
    expect(gallery.locator("#gallery-line")).to_have_text(
        "Done: 2 recognised. Skipped 2 files that are not pictures."
    )


def test_a_whole_folder_may_be_dropped(gallery: Page, folder: Path) -> None:
    drag = gallery.context.new_cdp_session(gallery)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        drag.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 400, "data": data})
    finished(gallery)
    assert sorted(names(gallery)) == ["holiday/a.jpg", "holiday/day 2/b.jpg"]


def test_a_busy_service_makes_all_wait_and_fails_none(gallery: Page) -> None:
    asked = answering(gallery, 503, {"Retry-After": "1"})
    choose(gallery, *(picture(f"label:tabby {n}") for n in range(12)))
    expect(gallery.locator("#gallery")).to_have_attribute("data-state", "holding")
    expect(gallery.locator("#gallery-line")).to_contain_text("Continues automatically.")
    assert asked() <= 4, "only those in flight were asked"
    shoot(gallery, "gallery-holding")
    gallery.unroute("**/v1/classify*")
    finished(gallery)
    expect(gallery.locator("#gallery-line")).to_have_text("Done: 12 recognised.")


def test_those_that_failed_are_tried_again_on_demand(gallery: Page) -> None:
    answering(gallery, 502)
    choose(gallery, *(picture(f"label:tabby {n}") for n in range(3)))
    finished(gallery)
    expect(gallery.locator(".card[data-state=failed]")).to_have_count(3)
    gallery.unroute("**/v1/classify*")
    gallery.get_by_role("button", name="Retry 3").click()
    expect(gallery.locator(".card[data-state=done]")).to_have_count(3)
    expect(gallery.locator("#gallery-retry")).to_be_hidden()


def test_pictures_are_added_while_others_wait_and_all_is_left_at_once(gallery: Page) -> None:
    held: list[Route] = []
    gallery.route("**/v1/classify*", lambda route: held.append(route))
    choose(gallery, *(picture(f"label:tabby {n}") for n in range(8)))
    expect(gallery.locator(".card[data-state=looking]")).to_have_count(4)
    gallery.click("#gallery-pause")
    expect(gallery.locator("#gallery-line")).to_have_text("0 done, 8 to go. Paused.")
    choose(gallery, picture("label:beagle"))
    expect(gallery.locator("#gallery-title")).to_have_text("9 pictures")
    assert len(held) == 4
    gallery.click("#gallery-close")
    expect(gallery.locator("#gallery")).to_be_hidden()
    gallery.unroute_all(behavior="ignoreErrors")
    choose(gallery, picture("label:tabby"))
    expect(gallery.locator("#predictions .label").first).to_have_text("tabby")


def test_five_hundred_pictures_keep_the_page_smooth(gallery: Page) -> None:
    slow = slowness()
    meter = gallery.context.new_cdp_session(gallery)
    # The processor's time, not the clock's: others use this machine as well.
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})

    def figures() -> dict[str, float]:
        told = meter.send("Performance.getMetrics")["metrics"]
        return {figure["name"]: figure["value"] for figure in told}

    gallery.evaluate(
        """() => {
            window.gaps = [];
            let last = performance.now();
            const frame = (now) => {
                gaps.push(now - last);
                last = now;
                requestAnimationFrame(frame);
            };
            requestAnimationFrame(frame);
        }"""
    )
    choose(gallery, *(picture(f"label:label-{n % 40} {n}", f"{n}.jpg") for n in range(500)))
    before = figures()
    gallery.select_option("#gallery-sort", "label")
    for _ in range(20):
        gallery.mouse.wheel(0, 400)
    finished(gallery, within=120)
    after = figures()
    gaps = sorted(gallery.evaluate("gaps"))
    # Painting without a graphics card takes the rest: that is the machine's, and shared.
    ours = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
    each = 1000 * sum(after[name] - before[name] for name in ours) / 500
    usual = gaps[int(0.95 * len(gaps))]
    print(f"500 pictures: {each:.1f} ms of work for each; 95 of 100 frames in {usual:.0f} ms")
    slow = max(slow, slowness())  # others may have come in the meantime
    assert each < 20 * slow  # 3 on a quiet machine, 16 on a slow one
    assert usual < 500 * slow  # 400 to 450 on the latter, whose speed changes by half in between
    shoot(gallery, "gallery-500", whole=False)
    expect(gallery.locator("#gallery-line")).to_have_text("Done: 500 recognised.")
    gallery.select_option("#gallery-filter", "label label-7")
    expect(gallery.locator("#cards .card:visible")).to_have_count(13)
