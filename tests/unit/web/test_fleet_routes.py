"""The routes that show and change the fleet."""

from __future__ import annotations

from typing import Any

import pytest
from calling_web import TYPED, Site

from spyglass.client.thread_client import RequestFailed
from spyglass.protocol import Op, Reason


@pytest.fixture
def site() -> Site:
    return Site()


def test_the_status_page_is_shown_while_the_broker_is_down(site: Site) -> None:
    site.fleet.failure = RequestFailed(Reason.NO_BROKER, "No broker answers.")
    assert site("GET", "/status").status == 200
    assert site("GET", "/v1/status").json["code"] == "no-broker"


@pytest.mark.parametrize("path", ["/v1/workers/%C2%8D", "/v1/quarantine/%C2%8D", "/v1/workers/%0A"])
def test_an_id_that_no_message_can_hold_is_unknown(site: Site, path: str) -> None:
    # It used to be sent, dropped by the broker as a broken message, and answered 503 after 2 s.
    assert site("DELETE", path).status == 404


def test_the_quarantine_is_cleared_by_picture_or_as_a_whole(site: Site) -> None:
    assert site("DELETE", f"/v1/quarantine/{'ab' * 32}").status == 200
    assert site("DELETE", "/v1/quarantine").status == 200
    assert site.fleet.controls == [(Op.CLEAR, "ab" * 32), (Op.CLEAR, "")]
    assert site("GET", "/v1/quarantine").status == 405


def test_workers_are_drained_removed_and_added(site: Site) -> None:
    assert site("DELETE", "/v1/workers/abcd").status == 200
    assert site("DELETE", "/v1/workers/abcd?now=1").status == 200
    body = b'{"address": "tcp://127.0.0.1:8888"}'
    assert site("POST", "/v1/workers", body, **TYPED).status == 200
    expected = [(Op.DRAIN, "abcd"), (Op.REMOVE, "abcd"), (Op.ADD, "tcp://127.0.0.1:8888")]
    assert site.fleet.controls == expected
    assert site("DELETE", "/v1/workers/unknown").status == 404
    refused = site("DELETE", "/v1/workers/forbidden")
    assert (refused.status, refused.json["detail"]) == (403, "This key may only look.")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"address": 5}', b'{"address": "http://x"}', b"{", b"\xff",
        b"[" * 4000, b'{"address": "tcp://x:' + b"1" * 4000 + b'"}', b'{"address": "\\ud800"}',
    ],
)  # fmt: skip
def test_a_bad_address_is_malformed(site: Site, body: bytes) -> None:
    assert site("POST", "/v1/workers", body, **TYPED).json["code"] == "malformed"
    assert site.fleet.controls == []


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}]
)
def test_another_sites_page_cannot_act(site: Site, headers: dict[str, Any]) -> None:
    assert site("DELETE", "/v1/workers/abcd", **headers).status == 403
    assert site.fleet.controls == []


def test_our_own_page_can_act(site: Site) -> None:
    own: dict[str, Any] = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert site("DELETE", "/v1/workers/abcd", **own).status == 200


@pytest.mark.parametrize("name", ["{}", "null", "0", "[]", '"a b"', '"\\ud800"', "[" * 4000])
def test_an_invalid_name_to_join_by_is_malformed(site: Site, name: str) -> None:
    # A value that is neither a string nor true used to count as no name, and ended in a 500.
    body = b'{"name": %s}' % name.encode()
    assert site("POST", "/v1/join", body, **TYPED).json["code"] == "malformed"
