"""The dispatcher by plain calls; the clock is a float."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import pytest
from conftest import ROOT

from decisions import Action, Policy, ToClient, ToWorker
from dispatcher import Dispatcher
from refusals import SAID_EVERY
from zmq_protocol import (
    NAME,
    PROTOCOL_REVISION,
    Ack,
    Body,
    Bye,
    Cancel,
    Heartbeat,
    Message,
    Nack,
    Ready,
    Reason,
    Request,
    Result,
)

DIGEST = "ab" * 32


def ready(
    credit: int = 1,
    name: str = "worker",
    digest: str = DIGEST,
    model: str = "squeezenet1_1",
    processes: int = 1,
) -> Ready:
    return Ready(model, digest, credit, "host", 1, name, processes)


def request(number: int, budget_ms: int = 60_000, model: str = "", size: int = 7) -> Request:
    body = Body.of(b"x" * size)
    return Request(number.to_bytes(16, "big"), model, 5, budget_ms, f"{number:064x}", body)


CAT, DOG, EEL = request(1), request(2), request(3)


def result(of: Request) -> Result:
    return Result(of.id, 10.0, Body.of(b"[]"))


def given(actions: list[Action]) -> list[tuple[bytes, bytes]]:
    """(worker, request id) of all work handed out."""
    return [
        (a.worker, a.message.id)
        for a in actions
        if isinstance(a, ToWorker) and isinstance(a.message, Request)
    ]


def told(actions: list[Action], kind: type[Message]) -> list[Any]:
    return [a.message for a in actions if not_note(a) and isinstance(a.message, kind)]  # type: ignore[union-attr]


def not_note(action: Action) -> bool:
    return isinstance(action, (ToWorker, ToClient))


def fleet(*workers: bytes, credit: int = 1, **policy: Any) -> Dispatcher:
    d = Dispatcher(Policy(**policy), now=0.0)
    for worker in workers:
        d.worker_ready(worker, ready(credit, name=worker.decode()), now=0.0)
    return d


def test_a_request_goes_to_a_ready_worker_and_its_answer_to_the_client() -> None:
    d = fleet(b"w1")
    assert given(d.request_arrived(b"web", CAT, 0.0)) == [(b"w1", CAT.id)]
    (answer,) = told(d.worker_answered(b"w1", result(CAT), 0.5), Result)
    assert (answer.worker, answer.attempts, answer.digest) == ("w1", 1, DIGEST)


def test_silent_worker_loses_its_request_to_the_next_idle_one() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.tick(0.5)
    d.worker_ready(b"w2", ready(name="w2"), 1.0)
    d.tick(1.0)
    assert given(d.tick(1.4)) == []
    assert given(d.tick(1.5)) == [(b"w2", CAT.id)]
    assert b"w1" not in d.workers


def test_a_worker_that_lives_does_not_hide_a_silent_one_behind_it() -> None:
    d = fleet(b"w1", b"w2")
    for tenth in range(1, 16):
        d.worker_heartbeat(b"w1", tenth / 10)
        d.tick(tenth / 10)
    assert list(d.workers) == [b"w1"]


def test_a_heartbeat_renews_life_but_never_gives_credit() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    for beat in range(1, 10):
        actions = d.worker_heartbeat(b"w1", beat / 2) + d.tick(beat / 2)
        assert given(actions) == []
    assert b"w1" in d.workers


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
    (end,) = told(d.worker_refused(b"w1", Nack(CAT.id, Reason.CHECKSUM), 0.1), Nack)
    assert end.reason is Reason.WORKER_LOST


def test_a_second_answer_is_dropped_and_gives_no_credit() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_answered(b"w1", result(CAT), 0.1)
    assert told(d.worker_answered(b"w1", result(CAT), 0.2), Result) == []
    assert d.workers[b"w1"].credit == 1
    assert d.record.counters.duplicate == 1


def test_a_worker_cannot_answer_anothers_request() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    assert told(d.worker_answered(b"w2", result(CAT), 0.1), Result) == []
    assert CAT.id in d.jobs.open


def test_no_ack_in_time_moves_the_request_and_returns_the_credit() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_heartbeat(b"w1", 0.3)
    actions = d.tick(0.31)
    assert given(actions) == [(b"w2", CAT.id)]
    assert told(actions, Cancel) == [Cancel(CAT.id)]
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


def test_a_request_past_its_deadline_is_answered_once_and_its_late_result_dropped() -> None:
    d = fleet(b"w1")
    short = request(1, budget_ms=200)
    d.request_arrived(b"web", short, 0.0)
    (end,) = told(d.tick(0.2), Nack)
    assert end.reason is Reason.DEADLINE
    assert told(d.worker_answered(b"w1", result(short), 0.3), Result) == []
    assert d.workers[b"w1"].credit == 1


def test_a_request_that_never_saw_a_worker_is_told_so() -> None:
    d = fleet()
    assert told(d.request_arrived(b"web", request(1, budget_ms=200), 0.0), Ack)
    (end,) = told(d.tick(0.2), Nack)
    assert end.reason is Reason.NO_WORKERS


def test_what_is_left_of_the_budget_travels_with_the_request() -> None:
    d = fleet()
    d.request_arrived(b"web", request(1, budget_ms=1000), 0.0)
    (sent,) = told(d.worker_ready(b"w1", ready(), 0.4), Request)
    assert sent.budget_ms == 600


def test_an_unknown_worker_is_asked_to_say_ready_whatever_it_says() -> None:
    d = fleet()
    for actions in (
        d.worker_heartbeat(b"stranger", 0.0),
        d.worker_acked(b"stranger", CAT.id, 0.0),
        d.worker_answered(b"stranger", result(CAT), 0.0),
        d.worker_refused(b"stranger", Nack(CAT.id, Reason.CRASH), 0.0),
    ):
        (bye,) = told(actions, Bye)
        assert bye.again
        assert len(actions) == 1


def test_the_goodbye_of_an_unknown_worker_is_not_answered() -> None:
    d = fleet()
    assert d.worker_bye(b"stranger", Bye(), 0.0) == []
    assert d.worker_gone(b"stranger", "connection closed", 0.0) == []


def test_a_worker_with_another_digest_is_refused() -> None:
    d = fleet(b"w1")
    (nack,) = told(d.worker_ready(b"w2", ready(digest="ef" * 32), 0.0), Nack)
    assert nack.reason is Reason.WRONG_MODEL
    assert b"w2" not in d.workers


def test_a_worker_refused_for_ever_is_named_once_a_minute_with_how_often() -> None:
    d = fleet(b"w1")
    stranger = ready(name="stranger", digest="cd" * 32)

    def said() -> list[str]:
        return [event.text.split(":")[0] for event in d.record.events if "stranger" in event.text]

    for second in range(minute := int(SAID_EVERY)):
        assert told(d.worker_ready(b"s%d" % second, stranger, float(second)), Nack)
    assert said() == ["stranger refused"]
    d.worker_ready(b"s", stranger, float(minute))
    assert sorted(said()) == ["stranger refused", f"stranger refused {minute} times"]
    d.worker_ready(b"t", ready(name="other", digest="cd" * 32), 61.0)
    assert "other refused" in d.record.events[-1].text, "another one is named at once"


def test_a_queue_takes_its_limit_and_refuses_one_more() -> None:
    d = fleet(b"w1", max_waiting=2)
    for n in range(3):
        assert told(d.request_arrived(b"web", request(n), 0.0), Ack)
    (nack,) = told(d.request_arrived(b"web", request(9), 0.0), Nack)
    assert nack.reason is Reason.BUSY


def test_a_queue_is_bounded_in_bytes_too() -> None:
    d = fleet(b"w1", max_waiting_bytes=20)
    d.request_arrived(b"web", request(0), 0.0)
    assert told(d.request_arrived(b"web", request(1, size=20), 0.0), Ack)
    (nack,) = told(d.request_arrived(b"web", request(2, size=1), 0.0), Nack)
    assert nack.reason is Reason.BUSY


def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    (nack,) = told(fleet(b"w1").request_arrived(b"web", request(1, model="vgg"), 0.0), Nack)
    assert nack.reason is Reason.NO_MODEL
    assert "squeezenet1_1" in nack.detail


def test_each_model_has_its_own_workers() -> None:
    d = fleet(b"w1")
    d.worker_ready(b"w2", ready(model="googlenet"), 0.0)
    assert given(d.request_arrived(b"web", request(1, model="googlenet"), 0.0)) == [
        (b"w2", request(1).id)
    ]
    assert given(d.request_arrived(b"web", request(2), 0.0)) == [(b"w1", request(2).id)]


def test_the_same_request_again_is_acknowledged_and_answered_to_the_newer_connection() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"old", CAT, 0.0)
    actions = d.request_arrived(b"new", CAT, 0.1)
    assert actions == [ToClient(b"new", Ack(CAT.id))]
    (answer,) = (a for a in d.worker_answered(b"w1", result(CAT), 0.2) if isinstance(a, ToClient))
    assert answer.client == b"new"


def test_only_the_client_that_asked_may_cancel() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    assert d.request_cancelled(b"thief", CAT.id, 0.5) == []
    assert told(d.request_cancelled(b"web", CAT.id, 0.5), Cancel) == [Cancel(CAT.id)]
    assert not d.jobs.open


def test_a_client_that_is_gone_leaves_nothing_waiting() -> None:
    d = fleet(b"w1")
    for waiting in (CAT, DOG, EEL):
        d.request_arrived(b"web", waiting, 0.0)
    d.client_gone(b"web", 0.5)
    assert (d.waiting, len(d.jobs.open), d.jobs.waiting_bytes) == (0, 0, 0)


def test_a_leaving_worker_gets_nothing_new_and_finishes_what_it_has() -> None:
    d = fleet(b"w1", credit=2)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_bye(b"w1", Bye("stopped", owed=1), 0.1)
    assert given(d.request_arrived(b"web", DOG, 0.2)) == []
    assert told(d.worker_answered(b"w1", result(CAT), 0.3), Result)
    d.worker_bye(b"w1", Bye("stopped"), 0.4)
    assert d.record.counters.requeued == 0


def test_a_goodbye_costs_its_requests_no_attempt() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_bye(b"w1", Bye(), 0.1)
    (sent,) = told(d.worker_ready(b"w2", ready(), 0.2), Request)
    assert sent.attempt == 1


def test_a_drained_worker_is_dismissed_after_its_work_and_draining_twice_is_the_same() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    worker = d.find_worker(b"w1".hex())
    assert worker is not None
    for _ in range(2):
        assert told(d.drain_worker(worker, 0.1), Bye) == []
    assert told(d.worker_answered(b"w1", result(CAT), 0.2), Bye) == [Bye("removed by the operator")]
    assert d.find_worker(b"w1".hex()) is None


def test_a_removed_worker_loses_its_work_at_once() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.remove_worker(d.workers[b"w1"], 0.1)
    assert given(actions) == [(b"w2", CAT.id)]
    assert told(actions, Bye)


def test_a_leaving_broker_accepts_nothing_and_hands_back_what_is_open() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.stop(0.1)
    (refused,) = told(d.request_arrived(b"web", DOG, 0.2), Nack)
    (back,) = told(d.hand_back(), Nack)
    assert (refused.reason, back.reason) == (Reason.DRAINING, Reason.DRAINING)


def test_after_a_stall_of_our_own_loop_nobody_is_expired_at_once() -> None:
    d = fleet(b"w1")
    d.tick(0.0)
    d.tick(10.0)
    assert b"w1" in d.workers
    d.worker_heartbeat(b"w1", 10.1)
    d.tick(10.6)
    assert b"w1" in d.workers


def test_heartbeats_go_to_every_worker_each_interval_without_traffic() -> None:
    d = fleet(b"w1", b"w2")
    assert len(told(d.tick(0.0), Heartbeat)) == 2
    assert told(d.tick(0.4), Heartbeat) == []
    assert len(told(d.tick(0.5), Heartbeat)) == 2


def test_the_next_deadline_is_never_later_than_what_is_due() -> None:
    d = fleet(b"w1")
    d.tick(0.0)
    assert d.next_deadline() == 0.5
    d.request_arrived(b"web", request(1, budget_ms=100), 0.0)
    assert d.next_deadline() == pytest.approx(0.1)


def test_two_workers_of_one_name_are_told_apart() -> None:
    d = fleet()
    d.worker_ready(b"w1", ready(name="attic"), 0.0)
    d.worker_ready(b"w2", ready(name="attic"), 0.0)
    assert [w.name for w in d.workers.values()] == ["attic", "attic#2"]


def test_ready_again_requeues_what_the_worker_held() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    assert given(d.worker_ready(b"w1", ready(), 0.1)) == [(b"w1", CAT.id)]


def test_a_bad_picture_is_final() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.BAD_IMAGE, "truncated"), 0.1)
    assert told(actions, Nack) == [Nack(CAT.id, Reason.BAD_IMAGE, "truncated")]


def test_a_picture_damaged_on_its_way_to_a_worker_moves() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.CHECKSUM), 0.1)
    assert given(actions) == [(b"w2", CAT.id)]


def test_a_picture_damaged_before_the_broker_returns_to_its_client_and_no_worker_is_blamed() -> (
    None
):
    d = fleet(b"w1", b"w2")
    damaged = replace(CAT, body=Body(CAT.body.parts, CAT.body.crc ^ 1))
    d.request_arrived(b"web", damaged, 0.0)
    actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.CHECKSUM), 0.1)
    assert [nack.reason for nack in told(actions, Nack)] == [Reason.CHECKSUM]
    assert d.workers[b"w1"].failed == 0 and d.workers[b"w1"].credit == 1


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


def test_three_lost_workers_are_three_attempts() -> None:
    d = fleet(b"w1", b"w2", b"w3", b"w4")
    d.request_arrived(b"web", CAT, 0.0)
    for lost in (b"w1", b"w2"):
        assert len(given(d.worker_gone(lost, "connection closed", 0.1))) == 1
    actions = d.worker_gone(b"w3", "connection closed", 0.1)
    assert given(actions) == []
    (end,) = told(actions, Nack)
    assert (end.id, end.reason) == (CAT.id, Reason.WORKER_LOST)
    assert not d.jobs.open


def test_an_answer_from_the_worker_that_lost_the_request_is_late() -> None:
    d = fleet(b"w1", b"w2", attempt_timeout=1.0)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.worker_heartbeat(b"w1", 0.9)
    d.worker_heartbeat(b"w2", 0.9)
    assert given(d.tick(1.0)) == [(b"w2", CAT.id)]
    assert told(d.worker_answered(b"w1", result(CAT), 1.1), Result) == []
    assert d.workers[b"w1"].credit == 1
    assert d.record.counters.late == 1
    assert len(told(d.worker_answered(b"w2", result(CAT), 1.2), Result)) == 1


def test_an_answer_to_a_request_nobody_made_is_counted_and_gives_no_credit() -> None:
    d = fleet(b"w1")
    assert d.worker_answered(b"w1", result(EEL), 0.1) == []
    assert d.worker_refused(b"w1", Nack(EEL.id, Reason.CRASH), 0.1) == []
    assert d.workers[b"w1"].credit == 1
    assert (d.record.counters.duplicate, d.record.counters.late) == (1, 1)


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


def test_a_request_that_waits_behind_others_ends_at_its_deadline() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.request_arrived(b"web", request(2, budget_ms=200), 0.0)
    assert told(d.tick(0.19), Nack) == []
    (end,) = told(d.tick(0.2), Nack)
    assert (end.id, end.reason) == (request(2).id, Reason.DEADLINE)
    assert d.jobs.waiting_bytes == 0


def test_a_request_without_time_is_refused() -> None:
    (nack,) = told(fleet(b"w1").request_arrived(b"web", request(1, budget_ms=0), 0.0), Nack)
    assert nack.reason is Reason.DEADLINE


def test_a_worker_of_another_protocol_revision_is_refused() -> None:
    d = fleet()
    hello = Ready("squeezenet1_1", DIGEST, 1, "host", 1, "w", revision=PROTOCOL_REVISION + 1)
    (nack,) = told(d.worker_ready(b"w1", hello, 0.0), Nack)
    assert (nack.id, nack.reason) == (b"", Reason.WRONG_MODEL)


def test_a_new_digest_is_welcome_once_the_old_workers_left() -> None:
    d = fleet(b"w1")
    d.worker_bye(b"w1", Bye(), 0.1)
    assert told(d.worker_ready(b"w2", ready(digest="ef" * 32), 0.2), Nack) == []


def test_a_full_queue_of_bytes_takes_exactly_its_limit() -> None:
    d = fleet(b"w1", max_waiting_bytes=20)
    d.request_arrived(b"web", request(0), 0.0)
    (nack,) = told(d.request_arrived(b"web", request(1, size=21), 0.0), Nack)
    assert nack.reason is Reason.BUSY
    assert told(d.request_arrived(b"web", request(2, size=20), 0.0), Ack)
    assert d.jobs.waiting_bytes == 20
    assert d.record.counters.refused == 1


def test_a_request_sent_again_is_not_computed_twice_nor_counted_twice() -> None:
    d = fleet(b"w1", credit=2)
    d.request_arrived(b"web", CAT, 0.0)
    assert d.request_arrived(b"web", CAT, 0.1) == [ToClient(b"web", Ack(CAT.id))]
    assert d.record.counters.accepted == 1
    assert d.workers[b"w1"].credit == 1


def test_the_end_of_the_old_connection_does_not_cancel_what_moved_to_the_new_one() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"old", CAT, 0.0)
    d.request_arrived(b"new", CAT, 0.1)
    assert d.client_gone(b"old", 0.5) == []
    assert d.request_cancelled(b"old", CAT.id, 0.5) == []
    assert CAT.id in d.jobs.open


def test_the_credit_of_a_cancelled_request_returns_with_the_workers_last_word() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_cancelled(b"web", CAT.id, 0.5)
    assert d.workers[b"w1"].credit == 0
    assert told(d.worker_refused(b"w1", Nack(CAT.id, Reason.CANCELLED), 0.1), Nack) == []
    assert d.workers[b"w1"].credit == 1


def test_a_client_that_is_gone_does_not_take_anothers_requests_along() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"other", DOG, 0.0)
    d.client_gone(b"web", 0.5)
    assert list(d.jobs.open) == [DOG.id]


def test_a_request_that_met_a_leaving_worker_moves_without_costing_an_attempt() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.DRAINING), 0.1)
    (sent,) = told(actions, Request)
    assert given(actions) == [(b"w2", CAT.id)]
    assert sent.attempt == 1
    assert d.workers[b"w1"].draining


def test_an_idle_worker_that_is_drained_leaves_at_once() -> None:
    d = fleet(b"w1")
    assert told(d.drain_worker(d.workers[b"w1"], 0.1), Bye) == [Bye("removed by the operator")]
    assert d.find_worker(b"w1".hex()) is None


def test_a_worker_that_was_drained_may_still_be_removed() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    worker = d.workers[b"w1"]
    d.drain_worker(worker, 0.1)
    actions = d.remove_worker(worker, 0.2)
    assert given(actions) == [(b"w2", CAT.id)]
    assert told(actions, Bye) == [Bye("removed by the operator")]


def test_a_removal_costs_its_requests_no_attempt() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    (sent,) = told(d.remove_worker(d.workers[b"w1"], 0.1), Request)
    assert sent.attempt == 1


@pytest.mark.parametrize("worker_id", ["", "zz", "77", b"w2".hex()])
def test_no_worker_is_found_by_a_foreign_id(worker_id: str) -> None:
    assert fleet(b"w1").find_worker(worker_id) is None


def test_a_leaving_broker_lets_finish_what_it_holds() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    d.stop(0.1)
    actions = d.worker_answered(b"w1", result(CAT), 0.2)
    assert told(actions, Result) and given(actions) == [(b"w1", DOG.id)]
    assert told(d.worker_answered(b"w1", result(DOG), 0.3), Result)
    assert d.hand_back() == []


def test_a_worker_still_silent_after_the_grace_of_a_stall_is_expired() -> None:
    d = fleet(b"w1")
    d.tick(0.0)
    d.tick(10.0)
    d.tick(10.4)
    assert b"w1" in d.workers
    actions = d.tick(10.5)
    assert b"w1" not in d.workers
    (bye,) = told(actions, Bye)
    assert bye.again


def test_the_next_deadline_is_the_end_of_the_grace_after_a_stall() -> None:
    d = fleet(b"w1")
    d.tick(0.0)
    d.tick(10.0)
    assert d.next_deadline() == 10.5


def test_the_next_deadline_follows_the_ack_of_what_was_just_sent() -> None:
    d = fleet(b"w1", ack_timeout=0.25, slowest_link=7e6)
    d.tick(0.0)
    d.request_arrived(b"web", CAT, 0.0)
    assert d.next_deadline() == pytest.approx(0.25 + 1e-6)


def test_a_name_of_full_length_is_told_apart_too_and_stays_legal() -> None:
    d = fleet()
    for n in range(3):
        d.worker_ready(b"w%d" % n, ready(name="x" * 64), 0.0)
    names = [worker.name for worker in d.workers.values()]
    assert len(set(names)) == 3
    assert all(NAME.fullmatch(name) for name in names)


def test_a_worker_that_says_ready_again_keeps_its_name() -> None:
    d = fleet(b"w1")
    d.worker_ready(b"w1", ready(name="w1"), 0.1)
    assert [w.name for w in d.workers.values()] == ["w1"]


@pytest.mark.parametrize("reason", [Reason.BAD_IMAGE, Reason.TOO_MANY_PIXELS, Reason.UNSUPPORTED])
def test_what_is_wrong_with_the_picture_is_not_tried_elsewhere(reason: Reason) -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.worker_refused(b"w1", Nack(CAT.id, reason), 0.1)
    assert given(actions) == []
    assert not d.jobs.open
    assert d.workers[b"w1"].credit == 1
    assert d.workers[b"w1"].failed == 0


def test_a_picture_damaged_on_the_way_is_sent_again() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.CHECKSUM), 0.1)
    assert given(actions) == [(b"w2", CAT.id)]


def test_the_repr_shows_the_state() -> None:
    d = fleet(b"w1", b"w2")
    for arrived in (CAT, DOG, EEL):
        d.request_arrived(b"web", arrived, 0.0)
    assert repr(d) == "<Dispatcher 2 workers, 0 idle, 2 in flight, 1 waiting>"


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


def test_a_request_given_twice_to_one_worker_returns_both_credits() -> None:
    # The first attempt ran too long; its child finishes it all the same.
    d = fleet(b"w1", credit=2, attempt_timeout=1.0)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.worker_heartbeat(b"w1", 0.9)
    again = given(d.tick(1.0))
    again += given(d.worker_answered(b"w1", result(CAT), 1.1))
    assert again == [(b"w1", CAT.id)]
    for _ in again:
        d.worker_answered(b"w1", result(CAT), 1.2)
    assert d.workers[b"w1"].credit == 2


def test_a_request_sent_anew_after_its_client_was_gone_leaks_no_credit() -> None:
    # PROTOCOL.md has a client send an open request again over a new connection.
    d = fleet(b"w1", credit=2)
    d.request_arrived(b"old", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.client_gone(b"old", 0.5)
    again = given(d.request_arrived(b"new", CAT, 0.1))
    again += given(d.worker_answered(b"w1", result(CAT), 0.2))
    assert again == [(b"w1", CAT.id)]
    for _ in again:
        d.worker_answered(b"w1", result(CAT), 0.3)
    assert d.workers[b"w1"].credit == 2


def test_a_request_that_came_before_any_worker_does_not_make_the_default() -> None:
    # "squeezenet1_1 if a worker ever offered it, else the first that was offered" (PROTOCOL.md).
    d = fleet()
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.worker_ready(b"w1", ready(2, model="googlenet"), 0.1)
    actions += d.request_arrived(b"web", DOG, 0.2)
    assert (b"w1", DOG.id) in given(actions)


@pytest.mark.parametrize(
    "module",
    [
        "dispatcher",
        "jobs",
        "pool",
        "decisions",
        "refusals",
        "trend",
        "zmq_protocol",
        "messages",
        "header",
    ],
)
def test_the_state_machine_knows_no_clock_no_socket_and_no_chance(module: str) -> None:
    tree = ast.parse((ROOT / f"{module}.py").read_text())
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
    assert not imported & {"zmq", "time", "logging", "threading", "random", "socket", "bottle"}
