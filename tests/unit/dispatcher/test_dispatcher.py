"""Who gets which work, and what becomes of it, by plain calls; the clock is a float."""

from __future__ import annotations

import ast

import pytest
from dispatching import CAT, DIGEST, DOG, EEL, fleet, given, messages, ready, request, result

from spyglass.dispatcher.actions import LogEvent
from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.policy import Policy
from spyglass.protocol import (
    Cancel,
    Nack,
    Reason,
    Result,
)
from testbed.processes import ROOT


def test_a_request_goes_to_a_ready_worker_and_its_answer_to_the_client() -> None:
    d = fleet(b"w1")
    assert given(d.request_arrived(b"web", CAT, 0.0)) == [(b"w1", CAT.id)]
    (answer,) = messages(d.worker_answered(b"w1", result(CAT), 0.5), Result)
    assert (answer.worker, answer.attempts, answer.digest) == ("w1", 1, DIGEST)


def test_silent_worker_loses_its_request_to_the_next_idle_one() -> None:
    d = fleet(b"w1", hedge_burst=0.0, hedge_share=0.0)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.worker_ready(b"w2", ready(name="w2"), 0.1)
    moved = [given(d.tick(tenth / 10)) for tenth in range(2, 11)]
    assert moved == [[]] * 8 + [[(b"w2", CAT.id)]]
    assert b"w1" not in d.workers


def test_the_worker_that_rested_longest_is_next() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    order = []
    for n in range(6):
        ((worker, _),) = given(d.request_arrived(b"web", request(n), float(n)))
        d.worker_answered(worker, result(request(n)), n + 0.5)
        order.append(worker)
    assert order == [b"w1", b"w2", b"w3"] * 2


def test_an_idle_child_is_preferred_to_a_place_in_a_busy_workers_queue() -> None:
    d = Dispatcher(Policy(), 0.0)
    d.worker_ready(b"big", ready(8, "big", processes=4), 0.0)
    d.worker_ready(b"small", ready(2, "small", processes=1), 0.0)
    shares = [given(d.request_arrived(b"web", request(n), 0.0))[0][0] for n in range(5)]
    assert shares.count(b"small") == 1


def test_a_requeued_request_goes_before_all_that_wait() -> None:
    d = fleet(b"w1")
    for waiting in (CAT, DOG, EEL):
        d.request_arrived(b"web", waiting, 0.0)
    d.worker_gone(b"w1", "connection closed", 0.1)
    assert given(d.worker_ready(b"w2", ready(2), 0.2)) == [(b"w2", CAT.id), (b"w2", DOG.id)]


def test_a_worker_that_failed_a_request_does_not_get_it_again_while_others_exist() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    assert given(d.worker_refused(b"w1", Nack(CAT.id, Reason.CRASH), 0.1)) == []
    assert given(d.worker_answered(b"w2", result(DOG), 0.2)) == [(b"w2", CAT.id)]


def test_a_fleet_of_one_tries_again_and_gives_up_after_three_attempts() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    for _ in range(2):
        actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.CHECKSUM), 0.1)
        assert given(actions) == [(b"w1", CAT.id)]
    (end,) = messages(d.worker_refused(b"w1", Nack(CAT.id, Reason.CHECKSUM), 0.1), Nack)
    assert end.reason is Reason.WORKER_LOST


def test_a_second_answer_is_dropped_and_gives_no_credit() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_answered(b"w1", result(CAT), 0.1)
    assert messages(d.worker_answered(b"w1", result(CAT), 0.2), Result) == []
    assert d.workers[b"w1"].credit == 1
    assert d.journal.counters.duplicate == 1


def test_a_worker_cannot_answer_anothers_request() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    assert messages(d.worker_answered(b"w2", result(CAT), 0.1), Result) == []
    assert CAT.id in d.jobs.open


def test_no_ack_in_time_moves_the_request_and_returns_the_credit() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_heartbeat(b"w1", 0.3)
    actions = d.tick(0.31)
    assert given(actions) == [(b"w2", CAT.id)]
    assert messages(actions, Cancel) == [Cancel(CAT.id)]
    assert d.workers[b"w1"].credit == 1


def test_the_ack_of_a_large_picture_may_take_longer() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", request(1, size=900_000), 0.0)
    d.worker_heartbeat(b"w1", 1.0)
    assert given(d.tick(1.2)) == []
    assert given(d.tick(1.31)) != []


def test_the_ack_of_a_picture_behind_another_may_take_as_long_as_both() -> None:
    d = fleet(b"w1", credit=2)
    for number in (1, 2):
        d.request_arrived(b"web", request(number, size=900_000), 0.0)
    d.worker_acked(b"w1", CAT.id, 1.2)
    assert given(d.tick(2.2)) == []
    assert given(d.tick(2.31)) == [(b"w1", DOG.id)]


def test_an_attempt_that_takes_too_long_moves_but_keeps_the_credit() -> None:
    d = fleet(b"w1", b"w2", attempt_timeout=6.0, hedge_burst=0.0, hedge_share=0.0)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.1)
    moved = []
    for tenth in range(1, 63):
        d.worker_heartbeat(b"w1", tenth / 10)
        d.worker_heartbeat(b"w2", tenth / 10)
        moved += given(d.tick(tenth / 10))
    assert moved == [(b"w2", CAT.id)]
    assert d.workers[b"w1"].credit == 0


def test_a_worker_is_chosen_by_full_rounds_of_work_and_then_by_rest() -> None:
    d = Dispatcher(Policy(), 0.0)
    d.worker_ready(b"w1", ready(2, "w1"), 0.0)
    d.worker_ready(b"w2", ready(2, "w2"), 0.0)
    shares = [given(d.request_arrived(b"web", request(n), 0.0))[0][0] for n in range(4)]
    assert shares == [b"w1", b"w2", b"w1", b"w2"]
    d.worker_answered(b"w2", result(request(1)), 0.1)
    d.worker_answered(b"w2", result(request(3)), 0.1)
    d.worker_answered(b"w1", result(request(0)), 0.1)
    assert given(d.request_arrived(b"web", request(9), 0.2)) == [(b"w2", request(9).id)]


def test_of_two_requeued_requests_the_older_goes_first() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", DOG, 0.1)
    d.worker_gone(b"w2", "connection closed", 0.2)
    d.worker_gone(b"w1", "connection closed", 0.3)
    d.request_arrived(b"web", EEL, 0.4)
    order = [id for _, id in given(d.worker_ready(b"w3", ready(3), 0.5))]
    assert order == [CAT.id, DOG.id, EEL.id]


def test_a_requeued_request_that_must_wait_for_another_worker_does_not_hold_up_the_rest() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    d.worker_refused(b"w1", Nack(CAT.id, Reason.CRASH), 0.1)
    assert given(d.request_arrived(b"web", EEL, 0.2)) == [(b"w1", EEL.id)]
    assert given(d.worker_answered(b"w2", result(DOG), 0.3)) == [(b"w2", CAT.id)]


def test_a_request_that_failed_on_the_whole_fleet_is_tried_on_it_again() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    assert given(d.worker_refused(b"w1", Nack(CAT.id, Reason.CRASH), 0.1)) == [(b"w2", CAT.id)]
    assert len(given(d.worker_refused(b"w2", Nack(CAT.id, Reason.CHECKSUM), 0.2))) == 1


def test_three_workers_that_are_shut_out_are_three_attempts() -> None:
    d = fleet(b"w1", b"w2", b"w3", b"w4")
    d.request_arrived(b"web", CAT, 0.0)
    for lost in (b"w1", b"w2"):
        assert len(given(d.worker_shut_out(lost, "its key was revoked", 0.1))) == 1
    actions = d.worker_shut_out(b"w3", "its key was revoked", 0.1)
    assert given(actions) == []
    (end,) = messages(actions, Nack)
    assert (end.id, end.reason) == (CAT.id, Reason.WORKER_LOST)
    assert not d.jobs.open


def test_an_answer_from_the_worker_that_lost_the_request_is_late() -> None:
    d = fleet(b"w1", b"w2", attempt_timeout=1.0)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.worker_heartbeat(b"w1", 0.9)
    d.worker_heartbeat(b"w2", 0.9)
    assert given(d.tick(1.0)) == [(b"w2", CAT.id)]
    assert messages(d.worker_answered(b"w1", result(CAT), 1.1), Result) == []
    assert d.workers[b"w1"].credit == 1
    assert d.journal.counters.late == 1
    assert len(messages(d.worker_answered(b"w2", result(CAT), 1.2), Result)) == 1


def test_an_answer_to_a_request_nobody_made_is_counted_and_gives_no_credit() -> None:
    d = fleet(b"w1")
    assert d.worker_answered(b"w1", result(EEL), 0.1) == []
    assert d.worker_refused(b"w1", Nack(EEL.id, Reason.CRASH), 0.1) == []
    assert d.workers[b"w1"].credit == 1
    assert (d.journal.counters.duplicate, d.journal.counters.late) == (1, 1)


def test_an_ack_gives_no_credit_and_stops_the_clock_of_the_ack() -> None:
    d = fleet(b"w1", b"w2", hedge_burst=0.0, hedge_share=0.0)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.2)
    assert d.workers[b"w1"].credit == 0
    assert given(d.tick(1.0)) == []


def test_a_foreign_ack_does_not_stop_the_clock() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w2", CAT.id, 0.1)
    assert given(d.tick(0.4)) == [(b"w2", CAT.id)]


def test_what_the_broker_could_not_read_or_deal_with_is_counted() -> None:
    d = fleet()
    d.bad_frame()
    for _ in range(2):
        d.message_failed()
    assert (d.counters.bad_frames, d.counters.internal_errors) == (1, 2)


def test_what_the_broker_has_seen_itself_is_logged_with_the_other_events() -> None:
    d = fleet()
    assert d.log_event("many connections are open", 1.0) == [LogEvent("many connections are open")]
    assert d.journal.events[-1].text == "many connections are open"


def test_the_broker_sees_copies_and_names_not_what_the_dispatcher_works_with() -> None:
    d = fleet(b"w1")
    before = d.counters
    d.request_arrived(b"web", request(1, size=30), 0.0)
    d.request_arrived(b"web", request(2, size=12), 0.0)
    assert before.accepted == 0 and d.counters.accepted == 2
    assert (d.open_requests, d.open_bytes) == (2, 42)
    assert (d.name_of(b"w1"), d.name_of(b"stranger")) == ("w1", None)


@pytest.mark.parametrize(
    "module",
    [
        str(path.relative_to(ROOT))
        for room in ("dispatcher", "protocol")
        for path in sorted((ROOT / "spyglass" / room).glob("*.py"))
    ],
)
def test_the_state_machine_knows_no_clock_no_socket_and_no_chance(module: str) -> None:
    tree = ast.parse((ROOT / module).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    outside = {"zmq", "time", "logging", "threading", "random", "socket", "os", "bottle"}
    assert not imported & outside
