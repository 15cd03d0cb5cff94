"""The application as a whole: bugs of ours, and addresses that nothing answers."""

from __future__ import annotations

import logging

import pytest
from calling_web import TYPED, Site, jpeg

from spyglass.protocol import Op
from spyglass.web.http.request import Request


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize("fault", [ValueError, RuntimeError, KeyError])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status"),
        ("GET", "/v1/status"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/models"),
        ("GET", "/ping"),
        ("GET", "/v2/health/ready"),
        ("POST", "/v1/workers"),
        ("POST", "/v1/classify"),
        ("POST", "/"),
    ],
)
def test_a_bug_in_any_route_is_logged_with_its_traceback_and_answered_500(
    site: Site,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[Exception],
    method: str,
    path: str,
) -> None:
    site.fleet.failure = fault("a secret")

    def broken(op: Op, target: str) -> tuple[bool, str]:
        raise fault("a secret")

    monkeypatch.setattr(site.fleet, "control", broken)
    typed = TYPED if path == "/v1/workers" else {}
    body = b'{"address": "tcp://127.0.0.1:8888"}' if typed else jpeg()
    answer = site(method, path, body, **typed)
    assert answer.status == 500
    assert b"secret" not in answer.body
    (logged,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged.getMessage() == f"{method} {path} failed"
    assert logged.exc_info is not None and logged.exc_info[0] is fault
    assert "Traceback (most recent call last)" in caplog.text


def test_a_bug_in_watching_the_connection_does_not_pass_for_a_client_that_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(request: Request) -> None:
        raise ValueError("a secret")

    site.fleet.hangs = True
    monkeypatch.setattr(Request, "disconnected", broken)
    assert site("POST", "/v1/classify", jpeg()).status == 500


def test_a_bug_in_a_page_is_shown_to_a_person_as_a_page(site: Site) -> None:
    site.fleet.failure = ValueError("a secret")
    page = site("GET", "/status", accept="text/html")
    assert page.status == 500
    assert page.headers["Content-Type"].startswith("text/html")
    assert b"Details are in the web server" in page.body and b"secret" not in page.body


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("DELETE", "/v1/classify", 405),
        ("GET", "/v1/workers/ab", 405),
        ("GET", "/static/../web.py", 404),
        ("GET", "/static/..%2fweb.py", 404),
        ("PUT", "/", 405),
    ],
)
def test_wrong_paths_and_methods_are_problems_too(
    site: Site, method: str, path: str, status: int
) -> None:
    answer = site(method, path)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert status != 405 or answer.headers["Allow"]
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert b"import" not in answer.body


def test_a_browser_at_a_wrong_path_gets_a_page(site: Site) -> None:
    page = site("GET", "/nope", accept="text/html")
    assert page.status == 404
    assert b"<!doctype html>" in page.body
