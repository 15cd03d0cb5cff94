"""The routes that classify pictures: no port, no broker, a stand-in for the client."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from calling_web import FORM, LIMIT, Response, Site, form, jpeg

from spyglass.client.thread_client import RequestFailed
from spyglass.protocol import Reason
from spyglass.web.api import classify
from spyglass.web.http.problems import REASONS
from spyglass.web.http.request import Request


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_raw_body_is_answered_with_labels_id_and_timings(site: Site) -> None:
    answer = site("POST", "/v1/classify?top_k=3&model=googlenet&timeout_ms=700", jpeg())
    assert answer.status == 200
    assert answer.json["predictions"][0]["index"] == 285
    steps = {"queue", "decode", "infer", "worker", "broker", "total"}
    assert set(answer.json["timings_ms"]) == steps
    assert answer.headers["X-Request-Id"] == answer.json["request_id"]
    assert "infer;dur=11.2" in answer.headers["Server-Timing"]
    assert site.fleet.asked == [(jpeg(), "googlenet", 3, 0.7)]


def test_a_form_field_gives_the_same_answer_as_a_raw_body(site: Site) -> None:
    assert site("POST", "/v1/classify", form(jpeg()), **FORM).status == 200
    assert site.fleet.asked[0][0] == jpeg()


def test_the_page_works_without_javascript_and_escapes_what_it_shows(site: Site) -> None:
    page = site("POST", "/", form(jpeg(), name="<script>alert(1)</script>.jpg"), **FORM)
    assert page.status == 200
    assert b"&lt;b&gt;cat&lt;/b&gt;" in page.body
    assert b"<script>alert" not in page.body


def test_the_page_shows_an_error_as_a_sentence(site: Site) -> None:
    page = site("POST", "/", form(b"hello"), **FORM)
    assert page.status == 415
    assert b"Send a JPEG, PNG, WebP, GIF or BMP file" in page.body


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_status_and_becomes_a_problem(site: Site, reason: Reason) -> None:
    site.fleet.failure = RequestFailed(reason, "A sentence.", "ef" * 16)
    answer = site("POST", "/v1/classify", jpeg())
    assert answer.status == REASONS[reason].status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["code"] == reason.value
    assert answer.json["request_id"] == "ef" * 16 == answer.headers["X-Request-Id"]
    assert ("Retry-After" in answer.headers) == (answer.status == 503)


def test_a_crash_a_hang_and_a_lost_worker_have_titles_of_their_own(site: Site) -> None:
    titles = []
    for reason in (Reason.CRASH, Reason.HUNG, Reason.WORKER_LOST):
        site.fleet.failure = RequestFailed(reason, "A sentence.")
        titles.append(site("POST", "/v1/classify", jpeg()).json["title"])
    assert titles == ["Worker crashed", "Worker stopped responding", "Worker lost"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 400, "malformed"),
        (b"just some text", {}, 415, "unsupported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, 415, "unsupported"),
        (jpeg(LIMIT + 1), {}, 413, "too-large"),
        (form(jpeg(LIMIT + 1)), FORM, 413, "too-large"),
        (form(jpeg(), field="other"), FORM, 400, "malformed"),
        (form(jpeg(), times=2), FORM, 400, "malformed"),
        (form(jpeg())[:80], FORM, 400, "malformed"),
        (b"\r\n" * 9000, FORM, 400, "malformed"),
        (form(jpeg()), {"content_type": "multipart/form-data"}, 400, "malformed"),
        (jpeg(), {"content-length": "many"}, 400, "malformed"),
    ],
)  # fmt: skip
def test_a_bad_upload_is_refused_with_its_code_and_reaches_no_worker(
    site: Site, body: bytes, headers: dict[str, Any], status: int, code: str
) -> None:
    answer = site("POST", "/v1/classify", body, **headers)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["detail"].endswith(".")
    assert site.fleet.asked == []


def test_a_picture_of_exactly_the_limit_is_accepted(site: Site) -> None:
    assert site("POST", "/v1/classify", jpeg(LIMIT)).status == 200
    assert site("POST", "/v1/classify", form(jpeg(LIMIT)), **FORM).status == 200


def test_an_announced_length_over_the_limit_is_refused_before_the_body_is_read(site: Site) -> None:
    announced: dict[str, Any] = {"content-length": "20000000"}
    answer = site("POST", "/v1/classify", b"", **announced)
    assert answer.status == 413


@pytest.mark.parametrize(
    "query", ["top_k=0", "top_k=1001", "top_k=x", "timeout_ms=0", "timeout_ms=9999999", "top_k=-1"]
)
def test_a_bad_parameter_is_malformed(site: Site, query: str) -> None:
    assert site("POST", f"/v1/classify?{query}", jpeg()).json["code"] == "malformed"


@pytest.mark.parametrize("query", ["top_k=1", "top_k=1000", "timeout_ms=1", "timeout_ms=3600000"])
def test_a_parameter_at_its_limit_is_accepted(site: Site, query: str) -> None:
    assert site("POST", f"/v1/classify?{query}", jpeg()).status == 200


def test_a_model_with_an_impossible_name_is_unknown(site: Site) -> None:
    assert site("POST", "/v1/classify?model=%3Cscript%3E", jpeg()).json["code"] == "no-model"


def test_a_picture_without_an_answer_fails_after_its_deadline(site: Site) -> None:
    site.fleet.hangs = True
    began = time.monotonic()
    assert site("POST", "/v1/classify?timeout_ms=50", jpeg()).json["code"] == "deadline"
    assert time.monotonic() - began < 5


def test_the_picture_of_a_client_that_disconnects_is_cancelled(site: Site) -> None:
    site.fleet.hangs = True
    assert site("POST", "/v1/classify", jpeg(), hangs_up=True).status == 0
    assert site.fleet.futures[0].cancelled()


def test_pictures_beyond_those_that_may_be_in_flight_are_refused_as_busy(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classify, "MAX_IN_FLIGHT", 3)
    site.fleet.hangs = True

    async def at_once() -> list[Response]:
        asks = [site.ask("POST", "/v1/classify?timeout_ms=50", jpeg()) for _ in range(4)]
        return await asyncio.gather(*asks)

    answers = asyncio.run(at_once())
    assert sorted(answer.json["code"] for answer in answers) == ["busy", *["deadline"] * 3]
    assert len(site.fleet.asked) == 3
    assert asyncio.run(at_once()), "their places are free again"
    assert len(site.fleet.asked) == 6


def test_pictures_received_at_the_same_time_are_bounded_too(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classify, "MAX_IN_FLIGHT", 3)
    site.fleet.hangs = True
    arrived = asyncio.Event()
    read = Request.next_part

    async def read_together(request: Request) -> tuple[bytes, bool]:
        await arrived.wait()
        return await read(request)

    async def at_once() -> list[Response]:
        asks = [site.ask("POST", "/v1/classify?timeout_ms=50", jpeg()) for _ in range(4)]
        asyncio.get_running_loop().call_later(0.1, arrived.set)
        return await asyncio.gather(*asks)

    monkeypatch.setattr(Request, "next_part", read_together)
    answers = asyncio.run(at_once())
    assert sorted(answer.json["code"] for answer in answers) == ["busy", *["deadline"] * 3]


@pytest.mark.parametrize(("room", "status"), [(LIMIT, 200), (LIMIT - 1, 503)])
def test_uploads_being_received_are_bounded_in_bytes(
    site: Site, monkeypatch: pytest.MonkeyPatch, room: int, status: int
) -> None:
    monkeypatch.setattr(classify, "MAX_ARRIVING", room)
    for _ in range(2):  # once received, an upload makes room for the next
        assert site("POST", "/v1/classify", jpeg(LIMIT)).status == status


def test_a_bug_is_answered_without_its_details(site: Site) -> None:
    site.fleet.failure = ValueError("secret")
    answer = site("POST", "/v1/classify", jpeg())
    assert (answer.status, answer.json["code"]) == (500, "internal-server-error")
    assert b"secret" not in answer.body
