"""Pictures that cost children and workers, by plain calls; the clock is a float."""

from __future__ import annotations

from dataclasses import replace

from dispatching import CAT, DOG, fleet, given, live, messages, ready, result

from spyglass.dispatcher.actions import Action
from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.policy import PICTURES_REMEMBERED, RETURN_GRACE, Policy
from spyglass.dispatcher.quarantine import Loss, Quarantine
from spyglass.protocol import Nack, Reason, Request, Result


def crash(d: Dispatcher, worker: bytes, of: Request, now: float, batch: int = 1) -> list[Action]:
    return d.worker_refused(worker, Nack(of.id, Reason.CRASH, "", batch), now)


def copy_of(original: Request, number: int) -> Request:
    return replace(original, id=number.to_bytes(16, "big"))


def test_a_picture_that_costs_two_children_is_quarantined_and_refused() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    assert given(crash(d, b"w1", CAT, 0.1)) == [(b"w2", CAT.id)]
    actions = crash(d, b"w2", CAT, 0.2)
    assert [nack.reason for nack in messages(actions, Nack)] == [Reason.QUARANTINED]
    assert not given(actions)
    again = d.request_arrived(b"web", copy_of(CAT, 9), 0.3)
    assert [n.reason for n in messages(again, Nack)] == [Reason.QUARANTINED] and not given(again)
    assert d.journal.counters.quarantined == 2
    assert given(d.request_arrived(b"web", DOG, 0.4)), "others are served"


def test_a_hung_child_counts_as_lost_too() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_refused(b"w1", Nack(CAT.id, Reason.HUNG), 0.1)
    actions = d.worker_refused(b"w2", Nack(CAT.id, Reason.HUNG), 0.2)
    assert [n.reason for n in messages(actions, Nack)] == [Reason.QUARANTINED]


def test_quarantine_ends_after_ten_minutes_and_not_before() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    crash(d, b"w1", CAT, 0.0)
    crash(d, b"w2", CAT, 0.0)
    assert messages(d.request_arrived(b"web", copy_of(CAT, 8), 599.9), Nack)
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
    assert messages(d.request_arrived(b"web", copy_of(DOG, 9), 1.0), Nack)
    assert d.clear_quarantine("", 1.0)[0] == 1


def test_an_answer_in_between_clears_a_picture() -> None:
    d = fleet(b"w1", b"w2")
    for number in (7, 8, 9):
        copy = copy_of(CAT, number)
        ((first, _),) = given(d.request_arrived(b"web", copy, 0.0))
        ((second, _),) = given(crash(d, first, copy, 0.0))
        assert messages(d.worker_answered(second, result(copy), 0.0), Result)


def test_bystanders_of_a_batch_are_tried_alone_before_any_is_quarantined() -> None:
    d = fleet(b"w1", b"w2", credit=4)
    for picture in (CAT, DOG):
        d.request_arrived(b"web", picture, 0.0)
    holders = {r: w for w in d.workers for r in d.workers[w].in_flight}
    actions = crash(d, holders[CAT.id], CAT, 0.1, batch=2)
    actions += crash(d, holders[DOG.id], DOG, 0.1, batch=2)
    retried = messages(actions, Request)
    assert all(again.alone for again in retried) and len(retried) == 2
    for holder, request_id in given(actions):  # a second loss in a batch decides nothing
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
    assert len(messages(actions, Nack)) == 11 and d.waiting == d.jobs.waiting_bytes == 0


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


def test_a_picture_that_two_dead_workers_computed_is_quarantined_once_they_stay_away() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    assert given(lose(d, b"w0", 0.1)) == [(b"w1", CAT.id)]
    actions = lose(d, b"w1", 0.2) + live(d, 0.2 + RETURN_GRACE - 0.1, 0.2)
    assert not given(actions), "a third worker must not be risked"
    assert not messages(actions, Nack)
    assert d.next_deadline() <= 0.2 + RETURN_GRACE
    decision = live(d, 0.3 + RETURN_GRACE, 0.2 + RETURN_GRACE)
    assert [n.reason for n in messages(decision, Nack)] == [Reason.QUARANTINED]


def test_a_picture_that_ends_workers_before_their_ack_got_away_costs_no_third() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    assert given(d.worker_gone(b"w0", "connection closed", 0.1)) == [(b"w1", CAT.id)]
    actions = d.worker_gone(b"w1", "connection closed", 0.2)
    actions += live(d, 0.3 + RETURN_GRACE, 0.2)
    assert not given(actions)
    assert [n.reason for n in messages(actions, Nack)] == [Reason.QUARANTINED]


def test_a_worker_that_comes_back_was_not_killed_by_its_picture() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    lose(d, b"w0", 0.1)
    assert not given(crash(d, b"w1", CAT, 0.16)), "one of the two losses is not certain"
    assert not given(d.request_arrived(b"web", copy_of(CAT, 9), 0.2)), "nor is a copy computed"
    back = d.worker_ready(b"new", replace(ready(name="w0"), pid=0), 1.0)
    ((worker, request_id),) = given(back)
    assert request_id == CAT.id and messages(back, Request)[0].alone
    actions = d.worker_answered(worker, result(CAT), 1.1)
    assert messages(actions, Result) and given(actions), "the copy follows"
    live(d, 2 * RETURN_GRACE, 1.2)
    assert not d.jobs.quarantine.entries(2 * RETURN_GRACE)


def test_another_process_that_joins_does_not_clear_the_pictures_of_a_dead_one() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    lose(d, b"w0", 0.1)
    crash(d, b"w1", CAT, 0.2)
    assert not given(d.worker_ready(b"new", replace(ready(name="w0"), pid=99), 0.3))
    assert messages(live(d, 0.2 + RETURN_GRACE, 0.3), Nack)


def test_a_worker_that_returns_after_the_quarantine_began_still_clears_its_picture() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    lose(d, b"w0", 0.1)
    crash(d, b"w1", CAT, 0.2)
    live(d, 0.3 + RETURN_GRACE, 0.3)
    assert d.jobs.quarantine.entries(6.0)
    d.worker_ready(b"new", replace(ready(name="w0"), pid=0), 30.0)
    assert given(d.request_arrived(b"web", copy_of(CAT, 9), 30.0))


def test_an_answer_clears_a_picture_for_every_model_it_was_sent_to() -> None:
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
    assert not given(d.request_arrived(b"web", elsewhere, 0.3)), "the picture must wait"
    actions = d.worker_answered(holders[2], result(copies[2]), 0.4)
    assert (b"other", elsewhere.id) in given(actions)


def test_a_request_whose_picture_must_wait_is_answered_at_its_deadline() -> None:
    d = processes(b"w0", b"w1", b"w2")
    d.request_arrived(b"web", replace(CAT, budget_ms=1000), 0.0)
    lose(d, b"w0", 0.1)
    crash(d, b"w1", CAT, 0.2)
    assert [n.reason for n in messages(live(d, 1.0, 0.3), Nack)] == [Reason.DEADLINE]
    assert d.waiting == 0


def test_two_children_are_the_most_a_picture_costs_whichever_attempt_ends_last() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    ((first, _),) = [(w, r) for w in d.workers for r in d.workers[w].in_flight]
    d.worker_acked(first, CAT.id, 0.0)
    ((second, _),) = given(live(d, 0.5))
    assert not given(crash(d, second, CAT, 0.6)), "the first attempt still runs"
    actions = crash(d, first, CAT, 0.7, batch=4)
    assert [nack.reason for nack in messages(actions, Nack)] == [Reason.QUARANTINED]
    assert not given(actions)


def test_a_suspect_that_takes_long_is_not_computed_twice_at_a_time() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    assert given(crash(d, b"w1", CAT, 0.2)) == [(b"w2", CAT.id)]
    d.worker_acked(b"w2", CAT.id, 0.2)
    assert given(live(d, 2.0, 0.3)) == []


def test_processes_that_never_come_back_are_forgotten_with_their_pictures() -> None:
    q = Quarantine(600.0)
    for number in range(3 * PICTURES_REMEMBERED):
        q.record_loss(f"{number:064x}", Loss("w", True, ("host", number)), float(number))
    assert len(q._lost) <= 2 * PICTURES_REMEMBERED
    last = f"{3 * PICTURES_REMEMBERED - 1:064x}"
    assert q.suspected(last)
    q.came_back("host", 3 * PICTURES_REMEMBERED - 1)
    assert not q.suspected(last)


def test_a_copy_that_is_answered_after_the_quarantine_began_does_not_clear_its_picture() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_answered(b"w1", result(CAT), 0.1)  # copies may be computed side by side now
    copies = [copy_of(CAT, number) for number in (7, 8, 9)]
    ((a, _), (b, _), (c, _)) = [given(d.request_arrived(b"web", copy, 0.2))[0] for copy in copies]
    crash(d, a, copies[0], 0.3)
    crash(d, b, copies[1], 0.3)
    assert not messages(d.worker_answered(c, result(copies[2]), 0.4), Result)
    again = d.request_arrived(b"web", copy_of(CAT, 10), 0.5)
    assert [n.reason for n in messages(again, Nack)] == [Reason.QUARANTINED]


def test_a_picture_that_cost_two_others_still_waits_when_one_worker_returns() -> None:
    q = Quarantine(600.0)
    for pid in range(3):
        q.record_loss(CAT.sha256, Loss("w", True, ("host", pid), certain_at=5.0), 0.0)
    assert q.came_back("host", 0) == []
    assert q.must_wait(CAT.sha256, computing=False)
    assert q.newly_quarantined(5.0) == [CAT.sha256]


def test_a_worker_whose_picture_is_forgotten_may_come_back() -> None:
    q = Quarantine(600.0)
    q.record_loss(CAT.sha256, Loss("w", True, ("host", 1)), 0.0)
    assert q.refuses(CAT.sha256, 600.0) is None
    assert q.came_back("host", 1) == []


def test_of_good_pictures_the_last_are_remembered() -> None:
    q = Quarantine(600.0)
    for number in range(PICTURES_REMEMBERED + 1):
        q.clear_suspicion(f"{number:064x}")
    assert q.must_wait(f"{0:064x}", computing=True), "as one that was never answered"
    assert not q.must_wait(f"{1:064x}", computing=True)


def test_processes_are_forgotten_while_pictures_are_suspected_of_costing_children() -> None:
    q = Quarantine(600.0)
    q.record_loss(CAT.sha256, Loss("w", True), 0.0)
    for number in range(PICTURES_REMEMBERED + 1):
        q.record_loss(CAT.sha256, Loss("w", True, ("host", number)), 0.0)
    q.came_back("host", 0)
    assert len(q.entries(0.0)) == 0 and q.newly_quarantined(0.0) == [CAT.sha256]


def test_copies_that_wait_for_their_picture_are_among_the_waiting() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", copy_of(CAT, 9), 0.0)
    pool = d.pools["squeezenet1_1"]
    assert [job.request.id for job in pool.waiting_jobs()] == [copy_of(CAT, 9).id]
    assert repr(pool) == "<Pool squeezenet1_1 2 workers, 1 idle, 1 waiting>"
