"""The numbers on the status page."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dispatching import fleet, ready, request, result

from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.policy import SAMPLES_KEPT
from spyglass.dispatcher.snapshot import snapshot
from spyglass.protocol import Nack, Reason
from spyglass.protocol.snapshot import Counters


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


def test_the_counters_are_those_the_protocol_names_in_the_same_order() -> None:
    counted = snapshot(fleet(), now=1.0)["counters"]
    assert list(counted) == list(Counters.__annotations__)


def test_a_worker_without_answers_has_no_latency() -> None:
    (worker,) = snapshot(fleet(b"w1"), now=1.0)["workers"]
    assert (worker["p95_ms"], worker["mean_ms"]) == (None, None)


def outcomes(d: Dispatcher) -> list[str]:
    """The events with an outcome, the newest first."""
    events = snapshot(d, now=9.0)["events"]
    return [f"{event['text']}, {event['outcome']}" for event in events if event["outcome"]]


def test_the_log_shows_when_the_requests_of_a_lost_worker_were_answered() -> None:
    d = fleet(b"attic", b"cellar", credit=2)
    for n in range(2):
        d.request_arrived(b"web", request(n), 0.0)  # the second goes to the cellar
    d.worker_gone(b"cellar", "connection closed", 1.0)
    assert outcomes(d) == []
    d.worker_answered(b"attic", result(request(1)), 1.041)
    assert outcomes(d) == ["cellar lost: connection closed; 1 request moved, answered 41 ms later"]


def test_the_log_shows_that_a_moved_request_was_not_answered() -> None:
    d = fleet(b"attic", credit=3)
    for n in range(3):
        d.request_arrived(b"web", request(n), 0.0)
    d.worker_gone(b"attic", "connection closed", 1.0)
    d.worker_ready(b"cellar", ready(3, name="cellar"), 1.1)
    d.worker_answered(b"cellar", result(request(0)), 1.25)
    d.request_cancelled(b"web", request(1).id, 1.3)
    d.request_cancelled(b"web", request(2).id, 1.4)
    (line,) = outcomes(d)
    assert line.endswith("3 requests moved, 1 answered 250 ms later, 2 not answered")


def test_a_request_that_loses_two_workers_is_in_both_lines() -> None:
    d = fleet(b"attic", b"cellar")
    d.request_arrived(b"web", request(0), 0.0)
    d.worker_gone(b"attic", "connection closed", 1.0)
    d.worker_refused(b"cellar", Nack(request(0).id, Reason.CHECKSUM), 1.5)
    d.worker_answered(b"cellar", result(request(0)), 2.0)
    assert outcomes(d) == [
        "cellar: checksum on a request; moved, answered 500 ms later",
        "attic lost: connection closed; 1 request moved, answered 1000 ms later",
    ]


def test_the_trend_has_a_sample_a_second_and_the_last_five_minutes() -> None:
    d = fleet()
    for half_second in range(2 * SAMPLES_KEPT + 21):
        d.tick(half_second / 2)
    trend = snapshot(d, now=SAMPLES_KEPT + 10)["trend"]
    assert trend["ago_s"] == [float(age) for age in range(SAMPLES_KEPT - 1, -1, -1)]
    assert {len(column) for column in trend.values()} == {SAMPLES_KEPT}


def test_the_trend_shows_what_waits_and_counts_what_was_answered() -> None:
    d = fleet(b"attic")
    for n in range(3):
        d.request_arrived(b"web", request(n), 0.0)
    d.tick(0.0)
    d.worker_answered(b"attic", result(request(0)), 0.4)
    d.worker_acked(b"attic", request(1).id, 0.4)
    d.tick(0.5)  # too early for a sample
    d.tick(1.0)
    trend = snapshot(d, now=1.0)["trend"]
    assert trend == {
        "ago_s": [1.0, 0.0],
        "waiting": [2, 1],
        "in_flight": [1, 1],
        "answered": [0, 1],
    }


def test_a_picture_in_quarantine_is_listed_with_those_it_cost_and_those_refused() -> None:
    d = fleet(b"attic", b"cellar")
    d.request_arrived(b"web", request(0), 0.0)
    for worker in (b"attic", b"cellar"):
        d.worker_refused(worker, Nack(request(0).id, Reason.CRASH), 1.0)
    again = replace(request(0), id=bytes(15) + b"!")
    d.request_arrived(b"web", again, 2.0)
    assert snapshot(d, now=11.0)["quarantine"] == [
        {
            "sha256": request(0).sha256,
            "left_s": 590.0,
            "workers": ["attic", "cellar"],
            "refused": 1,
        }
    ]
