"""Workers that join, drain and leave, by plain calls; the clock is a float."""

from __future__ import annotations

import pytest
from dispatching import CAT, DIGEST, DOG, EEL, fleet, given, messages, ready, result, ticked

from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.policy import REFUSAL_LOGGED_EVERY, REFUSALS_REMEMBERED, Policy
from spyglass.dispatcher.refusals import Refusals
from spyglass.protocol import NAME, PROTOCOL_REVISION, Bye, Nack, Ready, Reason, Request, Result

# --- joining ----------------------------------------------------------------------------------


def test_an_unknown_worker_is_asked_for_ready_whatever_it_sends() -> None:
    d = fleet()
    for actions in (
        d.worker_heartbeat(b"stranger", 0.0),
        d.worker_acked(b"stranger", CAT.id, 0.0),
        d.worker_answered(b"stranger", result(CAT), 0.0),
        d.worker_refused(b"stranger", Nack(CAT.id, Reason.CRASH), 0.0),
    ):
        (bye,) = messages(actions, Bye)
        assert bye.again
        assert len(actions) == 1


def test_the_goodbye_of_an_unknown_worker_is_not_answered() -> None:
    d = fleet()
    assert d.worker_bye(b"stranger", Bye(), 0.0) == []
    assert d.worker_gone(b"stranger", "connection closed", 0.0) == []


def test_a_worker_with_another_digest_is_refused() -> None:
    d = fleet(b"w1")
    (nack,) = messages(d.worker_ready(b"w2", ready(digest="ef" * 32), 0.0), Nack)
    assert nack.reason is Reason.WRONG_MODEL
    assert b"w2" not in d.workers


def test_a_worker_refused_repeatedly_is_logged_once_a_minute_with_the_count() -> None:
    d = fleet(b"w1")
    stranger = ready(name="stranger", digest="cd" * 32)

    def logged() -> list[str]:
        return [event.text.split(":")[0] for event in d.journal.events if "stranger" in event.text]

    for second in range(minute := int(REFUSAL_LOGGED_EVERY)):
        assert messages(d.worker_ready(b"s%d" % second, stranger, float(second)), Nack)
    assert logged() == ["stranger refused"]
    d.worker_ready(b"s", stranger, float(minute))
    assert sorted(logged()) == ["stranger refused", f"stranger refused {minute} times"]
    d.worker_ready(b"t", ready(name="other", digest="cd" * 32), 61.0)
    assert "other refused" in d.journal.events[-1].text, "another one is named at once"


def test_the_id_that_people_see_is_not_its_address_and_lasts_as_long_as_its_connection() -> None:
    d = Dispatcher(Policy(), 0.0, iter(["7f", "a1"]))
    for worker in (b"w1", b"w2", b"w1"):
        d.worker_ready(worker, ready(), 0.0)
    assert {w.address: w.id for w in d.workers.values()} == {b"w1": "7f", b"w2": "a1"}


def test_two_workers_of_one_name_get_different_names() -> None:
    d = fleet()
    d.worker_ready(b"w1", ready(name="attic"), 0.0)
    d.worker_ready(b"w2", ready(name="attic"), 0.0)
    assert [w.name for w in d.workers.values()] == ["attic", "attic#2"]


def test_ready_again_requeues_what_the_worker_held() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    assert given(d.worker_ready(b"w1", ready(), 0.1)) == [(b"w1", CAT.id)]


def test_a_worker_of_another_protocol_revision_is_refused() -> None:
    d = fleet()
    hello = Ready("squeezenet1_1", DIGEST, 1, "host", 1, "w", revision=PROTOCOL_REVISION + 1)
    (nack,) = messages(d.worker_ready(b"w1", hello, 0.0), Nack)
    assert (nack.id, nack.reason) == (b"", Reason.WRONG_MODEL)


def test_a_new_digest_is_welcome_once_the_old_workers_left() -> None:
    d = fleet(b"w1")
    d.worker_bye(b"w1", Bye(), 0.1)
    assert messages(d.worker_ready(b"w2", ready(digest="ef" * 32), 0.2), Nack) == []


@pytest.mark.parametrize("worker_id", ["", "zz", "2", b"w1".hex()])
def test_no_worker_is_found_by_a_foreign_id(worker_id: str) -> None:
    d = fleet(b"w1")
    assert d.drain_worker(worker_id, 0.1) == d.remove_worker(worker_id, 0.1) == (None, [])
    assert b"w1" in d.workers


def test_a_name_of_full_length_is_made_different_too_and_stays_legal() -> None:
    d = fleet()
    for n in range(3):
        d.worker_ready(b"w%d" % n, ready(name="x" * 64), 0.0)
    names = [worker.name for worker in d.workers.values()]
    assert len(set(names)) == 3
    assert all(NAME.fullmatch(name) for name in names)


def test_a_worker_that_sends_ready_again_keeps_its_name() -> None:
    d = fleet(b"w1")
    d.worker_ready(b"w1", ready(name="w1"), 0.1)
    assert [w.name for w in d.workers.values()] == ["w1"]


def test_the_repr_shows_the_state() -> None:
    d = fleet(b"w1", b"w2")
    for arrived in (CAT, DOG, EEL):
        d.request_arrived(b"web", arrived, 0.0)
    assert repr(d) == "<Dispatcher 2 workers, 0 idle, 2 in flight, 1 waiting>"


# --- leaving, and what becomes of the work ----------------------------------------------------


def test_a_request_goes_back_to_a_worker_that_failed_it_if_the_others_are_silent() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    assert given(d.worker_refused(b"w1", Nack(CAT.id, Reason.CRASH), 0.1)) == []
    actions = ticked(d, 0.2, 0.4)
    assert (b"w1", CAT.id) in given(actions)


def test_a_leaving_worker_gets_nothing_new_and_finishes_what_it_has() -> None:
    d = fleet(b"w1", credit=2)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_bye(b"w1", Bye("stopped", owed=1), 0.1)
    assert given(d.request_arrived(b"web", DOG, 0.2)) == []
    assert messages(d.worker_answered(b"w1", result(CAT), 0.3), Result)
    d.worker_bye(b"w1", Bye("stopped"), 0.4)
    assert d.journal.counters.requeued == 0


def test_a_goodbye_costs_its_requests_no_attempt() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_bye(b"w1", Bye(), 0.1)
    (sent,) = messages(d.worker_ready(b"w2", ready(), 0.2), Request)
    assert sent.attempt == 1


def test_a_drained_worker_is_dismissed_after_its_work_and_draining_twice_is_the_same() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    worker_id = d.workers[b"w1"].id
    for _ in range(2):
        name, actions = d.drain_worker(worker_id, 0.1)
        assert name == "w1" and messages(actions, Bye) == []
    assert messages(d.worker_answered(b"w1", result(CAT), 0.2), Bye) == [
        Bye("removed by the operator")
    ]
    assert not d.workers


def test_a_removed_worker_loses_its_work_at_once() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    name, actions = d.remove_worker(d.workers[b"w1"].id, 0.1)
    assert name == "w1" and given(actions) == [(b"w2", CAT.id)]
    assert messages(actions, Bye)


def test_a_leaving_broker_accepts_nothing_and_hands_back_what_is_open() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.stop(0.1)
    (refused,) = messages(d.request_arrived(b"web", DOG, 0.2), Nack)
    (back,) = messages(d.hand_back(), Nack)
    assert (refused.reason, back.reason) == (Reason.DRAINING, Reason.DRAINING)


def test_a_request_that_met_a_leaving_worker_moves_without_costing_an_attempt() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.DRAINING), 0.1)
    (sent,) = messages(actions, Request)
    assert given(actions) == [(b"w2", CAT.id)]
    assert sent.attempt == 1
    assert d.workers[b"w1"].draining


def test_an_idle_worker_that_is_drained_leaves_at_once() -> None:
    d = fleet(b"w1")
    _, actions = d.drain_worker(d.workers[b"w1"].id, 0.1)
    assert messages(actions, Bye) == [Bye("removed by the operator")]
    assert not d.workers


def test_a_worker_that_was_drained_may_still_be_removed() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    worker_id = d.workers[b"w1"].id
    d.drain_worker(worker_id, 0.1)
    _, actions = d.remove_worker(worker_id, 0.2)
    assert given(actions) == [(b"w2", CAT.id)]
    assert messages(actions, Bye) == [Bye("removed by the operator")]


def test_a_removal_costs_its_requests_no_attempt() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    (sent,) = messages(d.remove_worker(d.workers[b"w1"].id, 0.1)[1], Request)
    assert sent.attempt == 1


def test_a_leaving_broker_lets_open_requests_finish() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    d.stop(0.1)
    actions = d.worker_answered(b"w1", result(CAT), 0.2)
    assert messages(actions, Result) and given(actions) == [(b"w1", DOG.id)]
    assert messages(d.worker_answered(b"w1", result(DOG), 0.3), Result)
    assert d.hand_back() == []


def test_a_request_does_not_wait_for_a_worker_that_left_holding_nothing() -> None:
    # w1 is excluded while w2 exists; when w2 goes, w1 is a fleet of one and has credit.
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    d.worker_refused(b"w1", Nack(CAT.id, Reason.CRASH), 0.1)
    d.request_cancelled(b"web", DOG.id, 0.5)
    actions = d.worker_gone(b"w2", "connection closed", 0.2)
    assert given(actions + d.tick(0.3)) == [(b"w1", CAT.id)]


def test_a_request_does_not_wait_for_a_worker_that_drains_and_leaves() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    d.worker_bye(b"w2", Bye("stopped", owed=1), 0.1)
    actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.CRASH), 0.2)
    actions += d.worker_answered(b"w2", result(DOG), 0.3)
    actions += d.worker_bye(b"w2", Bye("stopped"), 0.4)
    assert given(actions) == [(b"w1", CAT.id)]


def test_shutting_out_a_peer_that_never_joined_changes_nothing() -> None:
    d = fleet(b"w1")
    assert d.worker_shut_out(b"stranger", "its key was revoked", 0.0) == []
    assert list(d.workers) == [b"w1"]


def test_a_broker_serves_so_many_models_and_refuses_the_next() -> None:
    d = fleet(max_models=2)
    for number, model in enumerate(("one", "two", "three", "two")):
        d.worker_ready(b"%d" % number, ready(model=model, name=model), 0.0)
    assert [worker.hello.model for worker in d.workers.values()] == ["one", "two", "two"]
    assert d.journal.events[-2].text == "three refused: the broker serves 2 models already"


def test_of_the_refused_only_the_last_hundred_are_remembered() -> None:
    refusals = Refusals()
    names = [f"w{number}" for number in range(REFUSALS_REMEMBERED + 1)]
    assert all(refusals.line(name, "no", 0.0) for name in names)
    assert refusals.line(names[1], "no", 1.0) is None, "it was named just now"
    assert refusals.line(names[0], "no", 1.0), "it was named too, and is forgotten"


def test_only_a_worker_with_credit_is_idle() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    idle = d.pools["squeezenet1_1"].idle
    assert d.workers[b"w1"] not in idle and d.workers[b"w2"] in idle


def test_a_draining_worker_is_shown_as_one() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.drain_worker(d.workers[b"w1"].id, 0.1)
    assert d.workers[b"w1"].state == "draining"
