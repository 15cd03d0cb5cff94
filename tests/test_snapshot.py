"""The numbers on the status page."""

from __future__ import annotations

import pytest
from test_dispatcher import fleet, request, result

from snapshot import snapshot


@pytest.mark.parametrize(
    ("milliseconds", "p95"),
    [([40], 40), ([10, 90], 90), (list(range(1, 21)), 19), (list(range(1, 101)), 95)],
)
def test_95_of_100_answers_took_no_longer_than_p95(milliseconds: list[int], p95: float) -> None:
    # Nearest rank. This used to show the shorter one of two.
    d = fleet(b"w1")
    for n, took in enumerate(milliseconds):
        d.request_arrived(b"web", request(n), float(n))
        d.worker_answered(b"w1", result(request(n)), n + took / 1000)
    (worker,) = snapshot(d, now=1000.0)["workers"]
    assert worker["p95_ms"] == pytest.approx(p95)
    assert worker["mean_ms"] == pytest.approx(sum(milliseconds) / len(milliseconds))


def test_a_worker_without_answers_has_no_latency() -> None:
    (worker,) = snapshot(fleet(b"w1"), now=1.0)["workers"]
    assert (worker["p95_ms"], worker["mean_ms"]) == (None, None)
