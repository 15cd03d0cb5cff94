"""/openapi.json describes the app as it is: its routes, and what they answer."""

from __future__ import annotations

import re
from typing import Any

import pytest
from calling_web import LIMIT, TYPED, FakeFleet, Site, asking, jpeg
from dispatching import fleet
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from spyglass.client.session import RequestFailed
from spyglass.dispatcher import snapshot
from spyglass.protocol import Op, Reason
from spyglass.web.api import openapi
from spyglass.web.app import make_app, picture_routes
from spyglass.web.fleet_metrics import FleetCollector
from spyglass.web.http.guard import Guard
from spyglass.web.http.token import MAX_GUESSES
from spyglass.web.metrics import Metrics
from spyglass.web.pages import make_pages

TOKEN = "a-token-that-nobody-would-guess"
DOCUMENT = openapi.document()
OPERATIONS = {
    (method.upper(), path): described
    for path, methods in DOCUMENT["paths"].items()
    for method, described in methods.items()
}
#: Values for the parameters in a path.
ARGUMENTS = {
    "model": "squeezenet1_1", "version": "1.0", "worker_id": "ab", "sha256": "ab" * 32,
    "path": "style.css",
}  # fmt: skip


class Fleet(FakeFleet):
    """Answers with the snapshot of a real dispatcher; if it is to fail, everything fails."""

    def status(self, timeout: float = 1.0) -> dict[str, Any]:
        super().status()  # may fail
        dispatcher = fleet(*([b"attic"] if self.workers else []))
        return snapshot.snapshot(dispatcher, now=1.0)

    def control(self, op: Op, target: str) -> tuple[bool, str]:
        if self.failure:
            raise self.failure
        return target != "unknown", "done"


@pytest.fixture
def site() -> Site:
    return Site(Fleet())


def body_for(path: str) -> bytes:
    if path == "/v1/join":
        return b'{"name": "kitchen"}'
    if path == "/v1/workers":
        return b'{"address": "tcp://127.0.0.1:8888"}'
    return asking(jpeg()) if path.startswith("/v2") else jpeg()


def asked(site: Site, method: str, path: str, **more: Any) -> tuple[int, str]:
    """Ask, and compare the answer with its description; the status and media type."""
    operation = OPERATIONS[method, path]
    arguments = ARGUMENTS | ({"version": "1"} if path.startswith("/v2") else {})
    target = re.sub(r"\{(\w+)\}", lambda name: arguments[name[1]], path)
    body = more.pop("body", None)
    if body is None:
        body = body_for(path)
    if path in ("/v1/workers", "/v1/join"):
        more = TYPED | more
    answer = site(method, target, body, **more)
    assert str(answer.status) in operation["responses"], (answer.status, answer.body)
    content = operation["responses"][str(answer.status)]["content"]
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in content or "*/*" in content
    if kind.endswith("json"):
        root = {**content[kind]["schema"], "components": DOCUMENT["components"]}
        OAS31Validator(root).validate(answer.json)
    return answer.status, kind


def test_the_description_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_route_is_described_and_every_described_route_is_there() -> None:
    nobody: Any = FakeFleet()
    metrics = Metrics(FleetCollector(nobody))
    there = {(route.method, route.rule) for route in make_pages(nobody, 1, metrics, nobody).routes}
    for rule, methods in picture_routes(nobody, 1, 1.0, metrics).items():
        there |= {(method, rule) for method in methods}
    described = {(method, re.sub(r"<(\w+)(:\w+)?>", r"{\1}", rule)) for method, rule in there}
    assert described == set(OPERATIONS)


def test_the_description_is_served(site: Site) -> None:
    assert site("GET", "/openapi.json").json == DOCUMENT
    assert site("OPTIONS", "/").json == DOCUMENT


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_success_is_answered_as_described(site: Site, method: str, path: str) -> None:
    assert asked(site, method, path)[0] == 200


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_failure_is_answered_as_described(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """Try whatever may make a route fail: exactly the failures described are seen."""
    seen = set()
    foreign = {"origin": "http://elsewhere"}
    for more in (
        {"body": b""},
        {"body": b"text"},
        {"body": jpeg(LIMIT * 9)},
        foreign,
        {"host": "elsewhere.example"},
        {"body": asking(b"text")},
    ):
        seen.add(asked(site, method, path, **more)[0])
    site.fleet.workers = 0
    seen.add(asked(site, method, path)[0])
    site.fleet.workers = 1
    for reason in Reason if method in ("POST", "PUT") else [Reason.NO_BROKER]:
        site.fleet.failure = RequestFailed(reason, "A sentence.")
        seen.add(asked(site, method, path)[0])
    site.fleet.failure = None
    site.fleet.alive = False
    seen.add(asked(site, method, path)[0])
    for name in ARGUMENTS:
        monkeypatch.setitem(ARGUMENTS, name, "unknown")
    seen.add(asked(site, method, path)[0])
    seen.add(asked(site, method, path, content_type="text/plain")[0])
    client: Any = site.fleet
    site.app = make_app(client, guard=Guard(token=TOKEN))
    for _ in range(MAX_GUESSES + 1):
        seen.add(asked(site, method, path, authorization="Bearer wrong")[0])
    described = {int(status) for status in OPERATIONS[method, path]["responses"]}
    assert described - {200, 500} <= seen


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_bug_is_answered_as_described(site: Site, method: str, path: str) -> None:
    site.fleet.failure = ValueError("secret")
    status, kind = asked(site, method, path)
    assert status in (200, 500)
    assert status == 200 or kind in ("application/problem+json", "application/json")
