"""Slow requests and second attempts, by plain calls; the clock is a float."""

from __future__ import annotations

import pytest
from dispatching import CAT, DOG, LONG, fleet, given, live, messages, ready, request, result

from spyglass.protocol import Cancel, Nack, Reason, Result, Times


def test_a_slow_request_is_given_to_an_idle_worker_as_well_and_the_first_answer_wins() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    assert not given(d.tick(0.29))
    assert given(d.tick(0.3)) == [(b"w2", CAT.id)]
    actions = d.worker_answered(b"w2", result(CAT), 0.35)
    assert [a.worker for a in messages(actions, Result)] == ["w2"]
    assert [c.id for c in messages(actions, Cancel)] == [CAT.id], "the other attempt is cancelled"
    late = d.worker_answered(b"w1", result(CAT), 0.4)
    assert not messages(late, Result) and d.journal.counters.late == 1
    assert d.workers[b"w1"].credit == d.workers[b"w2"].credit == 1


def test_a_request_is_slow_beyond_three_times_the_95th_percentile() -> None:
    d = fleet(b"w1", b"w2")
    for n in range(30):
        picture = request(100 + n)
        ((worker, _),) = given(d.request_arrived(b"web", picture, 0.0))
        d.worker_answered(worker, result(picture), 0.2)
    ((worker, _),) = given(d.request_arrived(b"web", CAT, 1.0))
    d.worker_acked(worker, CAT.id, 1.0)
    assert not given(live(d, 1.5, 1.0))
    assert given(live(d, 1.7, 1.6))


def test_there_is_no_hedge_without_an_idle_worker() -> None:
    d = fleet(b"w1", b"w2")
    for picture in (CAT, DOG):
        ((worker, _),) = given(d.request_arrived(b"web", picture, 0.0))
        d.worker_acked(worker, picture.id, 0.0)
    assert not given(live(d, 1.4))


def test_hedges_stay_within_five_percent_extra() -> None:
    d = fleet(*(f"w{n}".encode() for n in range(4)))
    now = 0.0
    for n in range(400):  # every single one is slow
        now += 1.0
        picture = request(n + 1)
        ((worker, _),) = given(d.request_arrived(b"web", picture, now))
        d.worker_acked(worker, picture.id, now)
        for beating in list(d.workers):
            d.worker_heartbeat(beating, now)
        d.tick(now + 0.35)
        for holder in [w.address for w in d.workers.values() if picture.id in w.awaiting_reply]:
            d.worker_answered(holder, result(picture), now + 0.36)
    assert 3 <= d.journal.counters.hedged <= 3 + 0.05 * 400


def test_the_loss_of_one_of_two_attempts_moves_nothing() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    assert given(d.tick(0.3)) == [(b"w2", CAT.id)]
    assert not given(d.worker_gone(b"w1", "connection closed", 0.4))
    assert messages(d.worker_answered(b"w2", result(CAT), 0.5), Result)
    assert d.journal.counters.requeued == 0


@pytest.mark.parametrize(("requests", "allowed"), [(8, 3), (40, 8)])
def test_retries_are_a_fifth_of_the_open_requests_and_the_rest_wait_unharmed(
    requests: int, allowed: int
) -> None:
    d = fleet(b"w1", credit=requests)
    for n in range(requests):
        d.request_arrived(b"web", request(n + 1, LONG), 0.0)
    d.worker_ready(b"w2", ready(requests, name="w2"), 0.1)
    moved = given(d.worker_gone(b"w1", "connection closed", 0.2))
    assert len(moved) == allowed
    answered = 0
    while moved:
        worker, request_id = moved.pop()
        actions = d.worker_answered(
            worker, Result(request_id, Times(0.1, 1.0), result(CAT).body), 0.3
        )
        answered += len(messages(actions, Result))
        moved += given(actions)
        assert len(moved) <= allowed
    assert answered == requests, "none was lost by waiting"


def test_the_worker_of_a_hedge_acknowledges_it_and_no_third_is_asked() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    assert given(d.tick(0.3)) == [(b"w2", CAT.id)]
    d.worker_acked(b"w2", CAT.id, 0.35)
    assert not given(live(d, 1.4, 0.4)) and d.journal.counters.hedged == 1


def test_a_second_ack_does_not_prolong_an_attempt() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", request(1, LONG), 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    (attempt,) = d.workers[b"w1"].in_flight.values()
    ends = attempt.deadline
    d.worker_acked(b"w1", CAT.id, 1.0)
    assert attempt.deadline == ends and d.workers[b"w1"].silence.bytes_on_the_way == 0


def test_a_hedge_that_a_leaving_worker_hands_back_is_not_queued_again() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    assert given(d.tick(0.3)) == [(b"w2", CAT.id)]
    assert not given(d.worker_refused(b"w2", Nack(CAT.id, Reason.DRAINING), 0.4))
    assert d.waiting == 0 and d.journal.counters.handed_back == 0
    assert messages(d.worker_answered(b"w1", result(CAT), 0.5), Result)
