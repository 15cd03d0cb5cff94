"""Who may act, by which name the web may be called, and how guessing is slowed."""

from __future__ import annotations

from typing import Any

import pytest
from calling_web import FakeFleet
from calling_web import Site as App

from spyglass.protocol import Op
from spyglass.web import pages
from spyglass.web.app import make_app
from spyglass.web.http import response
from spyglass.web.http.guard import Guard, client_network
from spyglass.web.http.problems import Problem
from spyglass.web.http.token import (
    GUESS_WINDOW,
    MAX_GUESSES,
    MAX_REMEMBERED,
    Guesses,
)

TOKEN = "a-token-that-nobody-would-guess"
RIGHT: dict[str, Any] = {"authorization": f"Bearer {TOKEN}"}
ACTIONS = [
    ("POST", "/v1/workers"),
    ("POST", "/v1/join"),
    ("DELETE", "/v1/workers/abcd"),
    ("DELETE", "/v1/workers/abcd?now=1"),
    ("DELETE", "/v1/quarantine"),
    ("DELETE", "/v1/quarantine/abcd"),
]
READ_ONLY = ["/", "/camera", "/status", "/v1/status", "/livez", "/readyz", "/healthz"]

each_action = pytest.mark.parametrize(("method", "path"), ACTIONS)


class Clock:
    """A clock that stands still until it is advanced."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def site(**more: Any) -> App:
    """The application with this guard."""
    app = App()
    app.app = make_app(app.fleet, guard=Guard(**more))  # type: ignore[arg-type]
    return app


def act(app: App, method: str, path: str, **headers: Any) -> Any:
    body = b'{"address": "tcp://127.0.0.1:8888"}' if method == "POST" else b""
    return app(method, path, body, **{"content_type": "application/json", **headers})


def refusal(
    guard: Guard,
    method: str = "DELETE",
    peer: str = "127.0.0.1",
    protocol: str = "HTTP/1.1",
    **headers: str,
) -> Any:
    """The status with which an action is refused, or None."""
    sent = {"Host": "localhost", "Content-Type": "application/json"}
    sent |= {name.title().replace("_", "-"): value for name, value in headers.items()}
    try:
        guard.check_action(method, sent, peer, protocol)
    except Problem as problem:
        return problem.kind.status
    return None


# --- the token --------------------------------------------------------------------------------


@each_action
def test_where_a_token_is_set_an_action_needs_it(method: str, path: str) -> None:
    app = site(token=TOKEN)
    for headers in ({}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": TOKEN}):
        refused = act(app, method, path, **headers)
        assert refused.status == 401
        assert refused.headers["Www-Authenticate"] == "Bearer"
        assert refused.json["detail"] == "This needs the admin token."
    assert app.fleet.controls == []
    assert act(app, method, path, **RIGHT).status == 200
    assert len(app.fleet.controls) == 1


def test_every_route_that_does_not_only_read_is_an_action() -> None:
    nobody: Any = None
    guard = Guard(token=TOKEN)
    app = site(token=TOKEN)
    routes = [(r.method, r.rule) for r in pages.make_pages(nobody, 1, nobody, guard).routes]
    changing = [(method, rule) for method, rule in routes if method not in ("GET", "OPTIONS")]
    assert len(changing) >= 4
    for method, rule in changing:
        path = rule.replace("<", "").replace(">", "")
        assert act(app, method, path).status == 401, rule


@pytest.mark.parametrize("path", READ_ONLY)
def test_reading_needs_no_token_and_no_action_is_read(path: str) -> None:
    app = site(bound="0.0.0.0", token=TOKEN)
    assert app("GET", path).status == 200
    for _, action in ACTIONS:
        for method in ("GET", "HEAD"):
            assert app(method, action, **RIGHT).status == 405
    assert app.fleet.controls == []


@each_action
def test_beyond_loopback_without_a_token_nobody_acts_but_all_may_read(
    method: str, path: str
) -> None:
    app = site(bound="0.0.0.0")
    refused = act(app, method, path)
    assert refused.status == 403
    assert "keys.py init" in refused.json["detail"]
    assert app.fleet.controls == []
    assert app("GET", "/v1/status").status == 200


@pytest.mark.parametrize(
    ("bound", "allowed", "headers"),
    [
        ("0.0.0.0", [], {}),
        ("192.168.1.7", [], {}),
        ("::", [], {}),
        ("127.0.0.1", ["spyglass.example.org"], {}),
        ("127.0.0.1", [], {"x_forwarded_for": "203.0.113.5"}),
        ("127.0.0.1", [], {"host": "203.0.113.5"}),
        ("127.0.0.1", [], {"host": ""}),
        ("127.0.0.1", [], {"protocol": "HTTP/1.0"}),
        ("127.0.0.1", [], {"protocol": ""}),
        ("127.0.0.1", [], {"peer": "203.0.113.5"}),
        ("127.0.0.1", [], {"peer": ""}),
    ],
)
def test_a_request_that_may_come_from_another_machine_needs_a_token(
    bound: str, allowed: list[str], headers: dict[str, str]
) -> None:
    assert refusal(Guard(bound, allowed), **headers) == 403
    assert refusal(Guard(bound, allowed, TOKEN), **headers) == 401
    assert refusal(Guard(bound, allowed, TOKEN), **headers, **RIGHT) is None


@pytest.mark.parametrize(
    "bound", ["127.0.0.1", "127.3.2.1", "localhost", "::1", "::ffff:127.0.0.1"]
)
def test_on_a_web_for_this_machine_alone_no_token_is_needed(bound: str) -> None:
    for host in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"):
        assert refusal(Guard(bound), host=host) is None


@each_action
def test_a_proxy_that_adds_no_header_is_known_by_its_old_protocol(method: str, path: str) -> None:
    app = site()
    app.version = "1.0"  # as nginx's bare proxy_pass does, which sets its own Host too
    assert act(app, method, path, host="127.0.0.1:8080").status == 403
    assert app.fleet.controls == []
    app.version = "1.1"
    assert act(app, method, path, host="127.0.0.1:8080").status == 200


def test_guessing_is_slowed_only_for_the_address_that_guesses() -> None:
    clock = Clock()
    guard = Guard(token=TOKEN, clock=clock)
    for n in range(MAX_GUESSES):
        assert refusal(guard, authorization=f"Bearer {n}") == 401
        clock.now += 1
    assert refusal(guard, authorization="Bearer guess") == 429
    assert refusal(guard) == 429, "missing gets the same answer as wrong"
    assert refusal(guard, **RIGHT) == 429, "a right guess is not revealed either"
    assert refusal(guard, peer="10.0.0.10", **RIGHT) is None
    clock.now += GUESS_WINDOW - MAX_GUESSES - 0.01
    assert refusal(guard, **RIGHT) == 429
    clock.now += 0.02
    assert refusal(guard, **RIGHT) is None


def test_a_missing_token_does_not_count_as_a_guess() -> None:
    guard = Guard(token=TOKEN)
    for _ in range(3 * MAX_GUESSES):
        assert refusal(guard) == 401
    assert refusal(guard, **RIGHT) is None


def test_after_too_many_wrong_tokens_the_response_says_when_to_retry() -> None:
    app = site(token=TOKEN)
    for _ in range(MAX_GUESSES):
        act(app, "DELETE", "/v1/workers/abcd", authorization="Bearer x")
    refused = act(app, "DELETE", "/v1/workers/abcd", **RIGHT)
    assert refused.status == 429
    assert 0 < int(refused.headers["Retry-After"]) <= GUESS_WINDOW
    assert app.fleet.controls == []


def test_a_forged_address_neither_escapes_the_limit_nor_locks_out_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = site(token=TOKEN)
    app.peer = "10.0.0.9"

    def guess(forged: str, **token: str) -> int:
        wrong = {"authorization": "Bearer x"}
        headers = {"x_forwarded_for": forged, **(token or wrong)}
        status: int = act(app, "DELETE", "/v1/workers/abcd", **headers).status
        return status

    statuses = [guess(f"10.0.0.{n}, forged") for n in range(40)]
    assert statuses == [401] * MAX_GUESSES + [429] * (40 - MAX_GUESSES)
    assert "forged" not in caplog.text and "10.0.0.9" in caplog.text
    app.peer = "10.0.0.10"
    assert guess("10.0.0.9", **RIGHT) == 200


def test_remembered_guesses_are_bounded_and_counted_by_network() -> None:
    guesses = Guesses()
    for n in range(MAX_REMEMBERED + 5):
        guesses.add(str(n), 0.0)
    assert len(guesses._wrong) == MAX_REMEMBERED
    assert client_network("2001:db8::1") == client_network("2001:db8::ffff:1:2%eth0")
    assert client_network("2001:db8::1") != client_network("2001:db8:0:1::1")
    assert (
        client_network("::ffff:10.0.0.1")
        == client_network("10.0.0.1")
        != client_network("10.0.0.2")
    )
    assert client_network("no address") == client_network("x" * 14_000) == ""


# --- other sites' pages -----------------------------------------------------------------------


@each_action
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://[x"},
        {"origin": "http://[localhost]"},
        {"origin": "http://localhost:9999"},
        {"origin": "http://localhost.evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_another_origins_page_cannot_act_even_with_the_token(
    method: str, path: str, headers: dict[str, str]
) -> None:
    app = site(token=TOKEN)
    assert act(app, method, path, **headers, **RIGHT).status == 403
    assert app.fleet.controls == []


def test_behind_a_proxy_that_sets_its_own_host_the_page_may_act() -> None:
    guard = Guard(allowed=["Spyglass.example.org"], token=TOKEN)
    own = {"origin": "https://spyglass.example.org", "sec_fetch_site": "same-origin", **RIGHT}
    assert refusal(guard, host="127.0.0.1:8080", **own) is None
    assert refusal(Guard(token=TOKEN), host="127.0.0.1:8080", **own) == 403


def test_a_form_cannot_act() -> None:
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert refusal(Guard(), "POST", content_type=kind) == 415
    assert refusal(Guard(), "POST", content_type="Application/JSON; charset=utf-8") is None


@pytest.mark.parametrize("path", ["/", "/status", "/v1/status", "/v1/classify"])
def test_a_host_that_is_not_ours_is_refused_since_dns_may_have_been_rebound(path: str) -> None:
    app = site()
    refused = app("POST" if path == "/v1/classify" else "GET", path, host="evil.example:8080")
    assert refused.status == 403
    assert "--allowed-host" in refused.json["detail"]
    assert refused.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("host", ["a b", "evil.example@localhost", "localhost:x", "[::1", "é", "/"])
def test_a_host_that_is_not_a_name_is_refused(host: str) -> None:
    assert site()("GET", "/v1/status", host=host).status == 403


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:8080", "localhost.", "127.0.0.1", "192.168.1.7:8080", "[::1]:80",
        "spyglass.example.org", "spyglass.example.org:8443", "lan-name", "other.example.org", "",
    ],
)  # fmt: skip
def test_own_names_and_numeric_addresses_are_accepted(host: str) -> None:
    app = site(bound="lan-name", allowed=["spyglass.example.org", "other.example.org:8443"])
    assert app("GET", "/v1/status", host=host).status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_health_answers_under_any_host(path: str) -> None:
    assert site(token=TOKEN)("GET", path, host="probe.example").status == 200


def test_every_response_forbids_scripts_of_other_sites_and_guessing_of_types() -> None:
    app = site(token=TOKEN)
    asked = [
        ("GET", "/"), ("GET", "/status"), ("GET", "/v1/status"), ("GET", "/livez"),
        ("GET", "/static/style.css"), ("GET", "/static/none.css"),
        ("GET", "/nope"), ("POST", "/v1/classify"), ("PUT", "/v1/classify"), ("POST", "/"),
        ("OPTIONS", "/status"), ("HEAD", "/"), ("DELETE", "/v1/workers/abcd"),
    ]  # fmt: skip
    statuses = set()
    for method, path in asked:
        for host in ("localhost", "evil.example"):
            for accept in ("text/html", "application/json"):
                answer = app(method, path, host=host, accept=accept)
                statuses.add(answer.status)
                for name, value in response.SECURITY_HEADERS.items():
                    assert answer.headers[name.title()] == value, (method, path, host)
    assert statuses == {200, 400, 401, 403, 404, 405}


def test_an_action_reaches_the_broker_as_it_was_asked() -> None:
    app = site(bound="0.0.0.0", token=TOKEN)
    assert isinstance(app.fleet, FakeFleet)
    act(app, "DELETE", "/v1/workers/abcd?now=1", host="10.0.0.5", **RIGHT)
    assert app.fleet.controls == [(Op.REMOVE, "abcd")]
