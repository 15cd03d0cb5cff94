"""Workers that fail or are slow, by plain calls; the clock is a float."""

from __future__ import annotations

from itertools import count

from dispatching import CAT, DOG, EEL, LONG, fleet, given, live, messages, ready, request, result

from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.policy import FAILURES_IN_A_ROW, HEALTHS_KEPT
from spyglass.protocol import Nack, Reason, Request, Result

NUMBERS = count(1000)


def fail(d: Dispatcher, worker: bytes, times: int, now: float = 0.0) -> None:
    """Failures of one worker in a row, until it is ejected; the others do well."""
    while times and d.workers[worker].health.until is None:
        picture = request(next(NUMBERS))
        d.request_arrived(b"web", picture, now)
        if picture.id in d.workers[worker].in_flight:
            d.worker_refused(worker, Nack(picture.id, Reason.CHECKSUM), now)
            times -= 1
        for other in list(d.workers):
            if picture.id in d.workers[other].in_flight:
                d.worker_answered(other, result(picture), now)


def states(d: Dispatcher) -> dict[str, str]:
    return {w.name: w.state for w in d.workers.values()}


def test_a_worker_that_fails_five_times_in_a_row_is_ejected_and_not_after_four() -> None:
    d = fleet(b"w1", b"w2")
    fail(d, b"w1", FAILURES_IN_A_ROW - 1)
    assert states(d)["w1"] == "ready"
    fail(d, b"w1", 1)
    assert states(d) == {"w1": "ejected", "w2": "ready"}
    d.request_arrived(b"web", CAT, 0.1)
    d.request_arrived(b"web", DOG, 0.1)
    assert not d.workers[b"w1"].in_flight and d.waiting == 1


def test_an_ejected_worker_gets_one_probe_and_returns_when_it_answers_it() -> None:
    d = fleet(b"w1", b"w2", credit=2)
    fail(d, b"w1", FAILURES_IN_A_ROW)
    live(d, 31.0)
    for n in range(4):
        d.request_arrived(b"web", request(n + 1, LONG), 31.0)
    assert len(d.workers[b"w1"].in_flight) == 1, "one request, though it has credit for two"
    (probe,) = d.workers[b"w1"].in_flight.values()
    assert given(d.worker_answered(b"w1", result(probe.job.request), 31.1))
    assert d.workers[b"w1"].state == "busy"


def test_a_failed_probe_ejects_for_longer() -> None:
    d = fleet(b"w1", b"w2")
    fail(d, b"w1", FAILURES_IN_A_ROW)
    live(d, 31.0)
    fail(d, b"w1", 1, now=31.0)
    assert d.workers[b"w1"].health.until == 31.0 + 60.0
    assert d.journal.counters.ejected == 2


def test_at_most_half_of_the_workers_are_ejected() -> None:
    d = fleet(b"w1", b"w2", b"w3", b"w4", b"w5")
    for worker in (b"w1", b"w2", b"w3"):
        fail(d, worker, 2 * FAILURES_IN_A_ROW)
    assert sorted(states(d).values()).count("ejected") == 2


def test_a_fleet_of_one_is_never_ejected() -> None:
    d = fleet(b"w1")
    for n in range(20):
        d.request_arrived(b"web", request(n + 1), 0.0)
        while d.workers[b"w1"].in_flight:
            (held,) = d.workers[b"w1"].in_flight
            d.worker_refused(b"w1", Nack(held, Reason.CHECKSUM), 0.0)
    assert states(d) == {"w1": "ready"}


def test_the_ejected_serve_again_when_the_others_leave() -> None:
    d = fleet(b"w1", b"w2")
    fail(d, b"w1", FAILURES_IN_A_ROW)
    d.worker_gone(b"w2", "connection closed", 0.1)
    assert given(d.request_arrived(b"web", CAT, 0.2)) == [(b"w1", CAT.id)]


def test_a_worker_that_comes_back_under_its_name_stays_ejected() -> None:
    d = fleet(b"w1", b"w2")
    fail(d, b"w1", FAILURES_IN_A_ROW)
    d.worker_gone(b"w1", "connection closed", 1.0)
    d.worker_ready(b"new", ready(name="w1"), 2.0)
    assert states(d)["w1"] == "ejected"


def test_a_flapping_worker_that_fails_every_second_request_is_ejected() -> None:
    d = fleet(b"w1", b"w2")
    for _ in range(5):
        assert states(d)["w1"] == "ready"
        while True:
            good = request(next(NUMBERS))
            ((worker, _),) = given(d.request_arrived(b"web", good, 0.0))
            d.worker_answered(worker, result(good), 0.0)
            if worker == b"w1":
                break
        fail(d, b"w1", 1)
    assert states(d)["w1"] == "ejected" and d.journal.counters.failed == 0


def test_a_pause_is_one_failure_and_what_is_answered_after_it_is_late() -> None:
    d = fleet(b"w1", credit=6)
    pictures = [request(n) for n in range(6)]
    for picture in pictures:
        d.request_arrived(b"web", picture, 0.0)
    d.worker_ready(b"w2", ready(6, name="w2"), 0.1)
    d.tick(0.29)
    assert len(given(d.tick(0.31))) == 3, "the rest waits for the budget of retries"
    assert d.workers[b"w1"].failed == 1
    for picture in pictures:
        d.worker_answered(b"w1", result(picture), 0.6)
    d.worker_answered(b"w1", result(pictures[0]), 0.7)
    assert states(d)["w1"] == "ready" and d.workers[b"w1"].credit == 6
    counters = d.journal.counters
    assert (counters.late, counters.duplicate, counters.ejected) == (6, 1, 0)


def test_a_pause_after_a_message_that_crossed_the_pictures_is_one_failure_too() -> None:
    d = fleet(b"w1", credit=8)
    for number in range(8):
        d.request_arrived(b"web", request(number), 0.001 * number)
    d.worker_heartbeat(b"w1", 0.008)  # its last before the pause
    d.worker_ready(b"w2", ready(8, name="w2"), 0.1)
    for hundredth in range(10, 60):
        d.worker_heartbeat(b"w2", hundredth / 100)
        d.tick(hundredth / 100)
    assert not d.workers[b"w1"].in_flight
    assert d.workers[b"w1"].failed == 1 and states(d)["w1"] != "ejected"


def test_a_worker_that_beats_and_acknowledges_nothing_is_ejected() -> None:
    d = fleet(b"w1", b"w2")
    for number in range(12):
        d.request_arrived(b"web", request(number), 0.5 * number)
        for hundredth in range(50):
            now = 0.5 * number + hundredth / 100
            d.worker_heartbeat(b"w1", now)
            for held in list(d.workers[b"w2"].in_flight.values()):
                d.worker_answered(b"w2", result(held.job.request), now)
            d.tick(now)
    assert states(d)["w1"] == "ejected"


def test_what_was_abandoned_and_is_handed_back_later_leaves_no_trace() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.tick(0.29)
    assert given(d.tick(0.31)) == [(b"w2", CAT.id)]
    d.worker_refused(b"w1", Nack(CAT.id, Reason.CANCELLED), 0.5)
    assert not d.workers[b"w1"].silence.abandoned
    assert d.journal.counters.late == 1


def test_a_late_reply_does_not_end_an_attempt_that_began_after_it() -> None:
    d = fleet(b"w1", b"w2")  # their network is cut for 0.7 s
    d.request_arrived(b"web", CAT, 0.0)
    for hundredth in range(70):
        d.tick(hundredth / 100)
    assert not d.workers[b"w1"].fit and not d.workers[b"w2"].fit
    assert given(d.worker_refused(b"w1", Nack(CAT.id, Reason.CANCELLED), 0.7)) == [(b"w1", CAT.id)]
    d.worker_refused(b"w2", Nack(CAT.id, Reason.CANCELLED), 0.7)
    assert CAT.id in d.workers[b"w1"].in_flight and d.journal.counters.late == 2
    assert messages(d.worker_answered(b"w1", result(CAT), 0.8), Result)
    assert not d.workers[b"w1"].silence.abandoned and d.workers[b"w1"].credit == 1


def test_each_abandoned_attempt_has_a_late_reply_of_its_own() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    for hundredth in range(1, 70):
        d.tick(hundredth / 100)
        if hundredth == 1:
            d.worker_heartbeat(b"w1", 0.01)
    assert d.jobs.open[CAT.id].tried == 2
    for _ in range(2):
        d.worker_refused(b"w1", Nack(CAT.id, Reason.CANCELLED), 0.7)
    assert messages(d.worker_answered(b"w1", result(CAT), 0.8), Result)
    assert d.journal.counters.late == 2


def test_three_answers_nobody_asked_for_eject() -> None:
    d = fleet(b"w1", b"w2")
    for n in range(3):
        assert states(d)["w1"] == "ready"
        d.worker_answered(b"w1", result(request(100 + n)), 0.0)
    assert states(d)["w1"] == "ejected"
    assert d.journal.counters.duplicate == 3


def test_a_slow_workers_share_falls_to_what_the_others_cannot_take() -> None:
    d = fleet(b"slow", b"w2", b"w3")
    share = {worker: 0 for worker in d.workers}
    for n in range(300):
        picture = request(n + 1)
        ((worker, _),) = given(d.request_arrived(b"web", picture, float(n)))
        share[worker] += 1
        d.worker_answered(worker, result(picture), n + (0.2 if worker == b"slow" else 0.02))
        for beating in list(d.workers):
            d.worker_heartbeat(beating, n + 0.5)
    assert share[b"slow"] < 15
    d.request_arrived(b"web", CAT, 400.0)
    d.request_arrived(b"web", DOG, 400.0)
    assert given(d.request_arrived(b"web", EEL, 400.0)) == [(b"slow", EEL.id)]


def test_what_could_not_be_sent_costs_no_attempt() -> None:
    d = fleet(b"w1", credit=2)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    d.worker_ready(b"w2", ready(2, name="w2"), 0.1)
    moved = messages(d.worker_gone(b"w1", "unreachable", 0.2, unreachable=True), Request)
    assert {again.id: again.attempt for again in moved} == {CAT.id: 2, DOG.id: 1}


def test_a_worker_lost_with_work_for_the_fifth_time_comes_back_ejected() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    fail(d, b"w1", FAILURES_IN_A_ROW - 1)
    for number in range(3):
        d.request_arrived(b"web", request(number + 1), 0.0)
    assert d.workers[b"w1"].in_flight
    d.worker_gone(b"w1", "connection closed", 0.1)
    assert d.journal.counters.ejected == 1
    d.worker_ready(b"w4", ready(name="w1"), 0.2)
    assert d.workers[b"w4"].state == "ejected"


def test_of_workers_that_failed_and_left_the_last_thousand_are_remembered() -> None:
    d = fleet(*(b"%d" % number for number in range(HEALTHS_KEPT + 1)))
    left = []
    while d.workers:
        picture = request(next(NUMBERS))
        ((worker, _),) = given(d.request_arrived(b"web", picture, 0.0))
        left.append(worker.decode())
        for another, _ in given(d.worker_gone(worker, "connection closed", 0.0)):
            d.worker_answered(another, result(picture), 0.0)
    first, second, *_ = left
    assert d.outliers.recall("host", first).unremarkable
    assert not d.outliers.recall("host", second).unremarkable
