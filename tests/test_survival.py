"""Quarantine, ejection, hedging and the retry budget by plain calls; the clock is a float."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
from test_dispatcher import CAT, DOG, EEL, fleet, given, ready, request, result, told

from decisions import Action, Policy
from dispatcher import Dispatcher
from health import FAILURES_IN_A_ROW
from quarantine import RETURN_GRACE
from zmq_protocol import Cancel, Nack, Reason, Request, Result

LONG = 600_000  # ms
NUMBERS = count(1000)


def crash(d: Dispatcher, worker: bytes, of: Request, now: float, batch: int = 1) -> list[Action]:
    return d.worker_refused(worker, Nack(of.id, Reason.CRASH, "", batch), now)


def live(d: Dispatcher, until: float, now: float = 0.0) -> list[Action]:
    """Every worker beats and the dispatcher ticks, ten times a second."""
    actions: list[Action] = []
    for tenth in range(int(10 * now), int(10 * until) + 1):
        for worker in list(d.workers):
            d.worker_heartbeat(worker, tenth / 10)
        actions += d.tick(tenth / 10)
    return actions


def copy_of(original: Request, number: int) -> Request:
    return replace(original, id=number.to_bytes(16, "big"))


# --- quarantine -----------------------------------------------------------------------------------


def test_a_picture_that_costs_two_children_is_quarantined_and_refused() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    assert given(crash(d, b"w1", CAT, 0.1)) == [(b"w2", CAT.id)]
    actions = crash(d, b"w2", CAT, 0.2)
    assert [n.reason for n in told(actions, Nack)] == [Reason.QUARANTINED] and not given(actions)
    again = d.request_arrived(b"web", copy_of(CAT, 9), 0.3)
    assert [n.reason for n in told(again, Nack)] == [Reason.QUARANTINED] and not given(again)
    assert d.record.counters.quarantined == 2
    assert given(d.request_arrived(b"web", DOG, 0.4)), "others are served"


def test_a_hung_child_counts_as_lost_too() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_refused(b"w1", Nack(CAT.id, Reason.HUNG), 0.1)
    actions = d.worker_refused(b"w2", Nack(CAT.id, Reason.HUNG), 0.2)
    assert [n.reason for n in told(actions, Nack)] == [Reason.QUARANTINED]


def test_quarantine_ends_after_ten_minutes_and_not_before() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    crash(d, b"w1", CAT, 0.0)
    crash(d, b"w2", CAT, 0.0)
    assert told(d.request_arrived(b"web", copy_of(CAT, 8), 599.9), Nack)
    assert given(d.request_arrived(b"web", copy_of(CAT, 9), 600.0))


def test_the_operator_clears_one_picture_or_all() -> None:
    d = fleet(b"w1", b"w2")
    for picture in (CAT, DOG):
        d.request_arrived(b"web", picture, 0.0)
        while holders := [w.address for w in d.workers.values() if picture.id in w.in_flight]:
            crash(d, holders[0], picture, 0.0)
    assert d.clear_quarantine("ab" * 32, 1.0)[0] == 0
    assert d.clear_quarantine(CAT.sha256, 1.0)[0] == 1
    assert given(d.request_arrived(b"web", copy_of(CAT, 8), 1.0))
    assert told(d.request_arrived(b"web", copy_of(DOG, 9), 1.0), Nack)
    assert d.clear_quarantine("", 1.0)[0] == 1


def test_an_answer_in_between_acquits_a_picture() -> None:
    d = fleet(b"w1", b"w2")
    for number in (7, 8, 9):
        copy = copy_of(CAT, number)
        ((first, _),) = given(d.request_arrived(b"web", copy, 0.0))
        ((second, _),) = given(crash(d, first, copy, 0.0))
        assert told(d.worker_answered(second, result(copy), 0.0), Result)


def test_bystanders_of_a_batch_are_tried_alone_before_anything_is_blamed() -> None:
    d = fleet(b"w1", b"w2", credit=4)
    for picture in (CAT, DOG):
        d.request_arrived(b"web", picture, 0.0)
    holders = {r: w for w in d.workers for r in d.workers[w].in_flight}
    actions = crash(d, holders[CAT.id], CAT, 0.1, batch=2)
    actions += crash(d, holders[DOG.id], DOG, 0.1, batch=2)
    retried = told(actions, Request)
    assert all(again.alone for again in retried) and len(retried) == 2
    for holder, request_id in given(actions):  # a second loss, in a batch again, blames nobody
        crash(d, holder, CAT if request_id == CAT.id else DOG, 0.2, batch=2)
    assert not d.jobs.quarantine.entries(0.3)


def test_copies_of_an_unknown_picture_are_computed_one_at_a_time() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    assert given(d.request_arrived(b"web", CAT, 0.0))
    copies = [copy_of(CAT, number) for number in range(50, 60)]
    assert not [g for c in copies for g in given(d.request_arrived(b"web", c, 0.0))]
    ((worker, next_one),) = given(crash(d, b"w1", CAT, 0.1))
    actions = crash(d, worker, replace(CAT, id=next_one), 0.2)
    assert not given(actions), "ten copies cost no more than two children"
    assert len(told(actions, Nack)) == 11 and d.waiting == d.jobs.waiting_bytes == 0


def test_copies_of_a_picture_known_to_be_good_are_computed_side_by_side() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    copies = [copy_of(CAT, number) for number in range(50, 53)]
    for copy in copies:
        d.request_arrived(b"web", copy, 0.0)
    assert len(given(d.worker_answered(b"w1", result(CAT), 0.1))) == 3


def test_a_copy_that_waits_is_not_held_up_when_the_first_is_cancelled() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"cli", copy_of(CAT, 9), 0.0)
    assert given(d.request_cancelled(b"web", CAT.id, 0.1)) == [(b"w2", copy_of(CAT, 9).id)]


def lose(d: Dispatcher, worker: bytes, now: float) -> list[Action]:
    """Its connection drops while it computes CAT."""
    d.worker_acked(worker, CAT.id, now)
    return d.worker_gone(worker, "connection closed", now)


def processes(*names: bytes) -> Dispatcher:
    """Workers that are different processes."""
    d = Dispatcher(Policy(), 0.0)
    for pid, name in enumerate(names):
        d.worker_ready(name, replace(ready(name=name.decode()), pid=pid), 0.0)
    return d


def test_a_picture_at_hand_when_two_workers_died_is_quarantined_once_they_stay_away() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    assert given(lose(d, b"w0", 0.1)) == [(b"w1", CAT.id)]
    actions = lose(d, b"w1", 0.2) + live(d, 0.2 + RETURN_GRACE - 0.1, 0.2)
    assert not given(actions), "a third worker must not be risked"
    assert not told(actions, Nack)
    assert d.next_deadline() <= 0.2 + RETURN_GRACE
    verdict = live(d, 0.3 + RETURN_GRACE, 0.2 + RETURN_GRACE)
    assert [n.reason for n in told(verdict, Nack)] == [Reason.QUARANTINED]


def test_a_worker_that_comes_back_was_not_killed_by_its_picture() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    lose(d, b"w0", 0.1)
    assert not given(crash(d, b"w1", CAT, 0.16)), "one of the two losses is not certain"
    assert not given(d.request_arrived(b"web", copy_of(CAT, 9), 0.2)), "nor is a copy computed"
    back = d.worker_ready(b"new", replace(ready(name="w0"), pid=0), 1.0)
    ((worker, request_id),) = given(back)
    assert request_id == CAT.id and told(back, Request)[0].alone
    actions = d.worker_answered(worker, result(CAT), 1.1)
    assert told(actions, Result) and given(actions), "the copy follows"
    live(d, 2 * RETURN_GRACE, 1.2)
    assert not d.jobs.quarantine.entries(2 * RETURN_GRACE)


def test_another_process_that_joins_does_not_speak_for_the_dead() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    lose(d, b"w0", 0.1)
    crash(d, b"w1", CAT, 0.2)
    assert not given(d.worker_ready(b"new", replace(ready(name="w0"), pid=99), 0.3))
    assert told(live(d, 0.2 + RETURN_GRACE, 0.3), Nack)


def test_a_worker_that_returns_after_the_verdict_still_clears_its_picture() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    lose(d, b"w0", 0.1)
    crash(d, b"w1", CAT, 0.2)
    live(d, 0.3 + RETURN_GRACE, 0.3)
    assert d.jobs.quarantine.entries(6.0)
    d.worker_ready(b"new", replace(ready(name="w0"), pid=0), 30.0)
    assert given(d.request_arrived(b"web", copy_of(CAT, 9), 30.0))


def test_an_answer_ends_a_trial_for_every_model_the_picture_was_sent_to() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.worker_ready(b"other", replace(ready(name="other", model="resnet18"), pid=9), 0.0)
    d.request_arrived(b"web", CAT, 0.0)
    ((first, _),) = [(w, r) for w in d.workers for r in d.workers[w].in_flight]
    d.worker_answered(first, result(CAT), 0.0)
    copies = [copy_of(CAT, number) for number in (50, 51, 52)]
    holders = [given(d.request_arrived(b"web", copy, 0.1))[0][0] for copy in copies]
    d.worker_acked(holders[0], copies[0].id, 0.1)
    d.worker_gone(holders[0], "connection closed", 0.2)
    crash(d, holders[1], copies[1], 0.2)
    elsewhere = replace(copy_of(CAT, 53), model="resnet18")
    assert not given(d.request_arrived(b"web", elsewhere, 0.3)), "the picture is on trial"
    actions = d.worker_answered(holders[2], result(copies[2]), 0.4)
    assert (b"other", elsewhere.id) in given(actions)


def test_a_request_whose_picture_is_on_trial_is_answered_at_its_deadline() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", replace(CAT, budget_ms=1000), 0.0)
    lose(d, b"w0", 0.1)
    crash(d, b"w1", CAT, 0.2)
    assert [n.reason for n in told(live(d, 1.0, 0.3), Nack)] == [Reason.DEADLINE]
    assert d.waiting == 0


# --- ejection -------------------------------------------------------------------------------------


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
    assert d.record.counters.ejected == 2


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


def test_a_worker_that_comes_back_under_its_name_is_no_stranger() -> None:
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
    assert states(d)["w1"] == "ejected" and d.record.counters.failed == 0


def test_three_answers_nobody_asked_for_eject() -> None:
    d = fleet(b"w1", b"w2")
    for n in range(3):
        assert states(d)["w1"] == "ready"
        d.worker_answered(b"w1", result(request(100 + n)), 0.0)
    assert states(d)["w1"] == "ejected"
    assert d.record.counters.duplicate == 3


# --- hedging --------------------------------------------------------------------------------------


def test_a_slow_request_is_given_to_an_idle_worker_as_well_and_the_first_answer_wins() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    assert not given(d.tick(0.29))
    assert given(d.tick(0.3)) == [(b"w2", CAT.id)]
    actions = d.worker_answered(b"w2", result(CAT), 0.35)
    assert [a.worker for a in told(actions, Result)] == ["w2"]
    assert [c.id for c in told(actions, Cancel)] == [CAT.id], "the loser is told to drop it"
    late = d.worker_answered(b"w1", result(CAT), 0.4)
    assert not told(late, Result) and d.record.counters.late == 1
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
        for holder in [w.address for w in d.workers.values() if picture.id in w.owed]:
            d.worker_answered(holder, result(picture), now + 0.36)
    assert 3 <= d.record.counters.hedged <= 3 + 0.05 * 400


def test_the_loss_of_one_of_two_attempts_moves_nothing() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    assert given(d.tick(0.3)) == [(b"w2", CAT.id)]
    assert not given(d.worker_gone(b"w1", "connection closed", 0.4))
    assert told(d.worker_answered(b"w2", result(CAT), 0.5), Result)
    assert d.record.counters.requeued == 0


# --- the retry budget -----------------------------------------------------------------------------


@pytest.mark.parametrize(("requests", "allowed"), [(8, 3), (40, 8)])
def test_retries_are_a_fifth_of_what_is_at_hand_and_the_rest_wait_unharmed(
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
        actions = d.worker_answered(worker, Result(request_id, 1.0, result(CAT).body), 0.3)
        answered += len(told(actions, Result))
        moved += given(actions)
        assert len(moved) <= allowed
    assert answered == requests, "none was lost by waiting"


# --- slow workers ---------------------------------------------------------------------------------


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
    moved = told(d.worker_gone(b"w1", "unreachable", 0.2, unreachable=True), Request)
    assert {again.id: again.attempt for again in moved} == {CAT.id: 2, DOG.id: 1}
