"""Health, files, and the pages around them."""

from __future__ import annotations

import pytest
from calling_web import Site


@pytest.fixture
def site() -> Site:
    return Site()


def test_head_of_a_file_is_answered_to_a_client_that_accepts_gzip(site: Site) -> None:
    # This used to end in a 500: the head of a file has no body to compress.
    answer = site("HEAD", "/static/style.css", accept_encoding="gzip")
    assert (answer.status, answer.body) == (200, b"")


def test_health_distinguishes_alive_from_ready(site: Site) -> None:
    assert site("GET", "/livez").status == 200
    assert site("GET", "/readyz").status == 200
    site.fleet.workers = 0
    assert site("GET", "/readyz").json["code"] == "no-workers"
    assert site("GET", "/livez").status == 200
    site.fleet.alive = False
    assert site("GET", "/livez").status == 503
