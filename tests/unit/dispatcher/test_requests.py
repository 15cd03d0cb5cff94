"""What clients may ask, send again and cancel, by plain calls; the clock is a float."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
from dispatching import CAT, DOG, EEL, fleet, given, messages, ready, receivers, request, result

from spyglass.dispatcher.actions import ToClient
from spyglass.dispatcher.job_state import JobState
from spyglass.dispatcher.policy import FEW_TIMERS
from spyglass.protocol import (
    Ack,
    Body,
    Cancel,
    Nack,
    Reason,
    Request,
    Result,
)


def test_a_request_past_its_deadline_is_answered_once_and_its_late_result_dropped() -> None:
    d = fleet(b"w1")
    short = request(1, budget_ms=200)
    d.request_arrived(b"web", short, 0.0)
    (end,) = messages(d.tick(0.2), Nack)
    assert end.reason is Reason.DEADLINE
    assert messages(d.worker_answered(b"w1", result(short), 0.3), Result) == []
    assert d.workers[b"w1"].credit == 1


def test_a_request_that_never_saw_a_worker_ends_with_a_reason_of_its_own() -> None:
    d = fleet()
    assert not messages(d.request_arrived(b"web", request(1, budget_ms=200), 0.0), Nack)
    (end,) = messages(d.tick(0.2), Nack)
    assert end.reason is Reason.NO_WORKERS


def test_a_request_is_acknowledged_unless_it_is_answered_before() -> None:
    d = fleet(b"w1", credit=2)
    d.tick(0.0)
    assert not messages(d.request_arrived(b"web", CAT, 0.0), Ack)
    assert not messages(d.request_arrived(b"web", DOG, 0.0), Ack)
    d.worker_answered(b"w1", result(CAT), 0.02)
    assert d.next_deadline() == 0.2
    assert not messages(d.tick(0.19), Ack)
    assert d.tick(0.2) == [ToClient(b"web", Ack(DOG.id))]
    assert not messages(d.tick(0.21), Ack)


def test_who_would_be_acknowledged_soon_is_in_the_same_go() -> None:
    d = fleet()
    for number, arrived in enumerate((0.0, 0.1, 0.11)):
        d.request_arrived(b"web", request(number), arrived)
    assert [ack.id for ack in messages(d.tick(0.2), Ack)] == [request(0).id, request(1).id]
    assert [ack.id for ack in messages(d.tick(0.31), Ack)] == [request(2).id]


def test_an_answered_request_wakes_nobody_to_acknowledge_it() -> None:
    d = fleet(b"w1")
    d.tick(0.0)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_answered(b"w1", result(CAT), 0.02)
    assert d.next_deadline() > 0.2
    assert not messages(d.tick(0.2), Ack)


def test_the_picture_of_an_answered_request_is_kept_no_longer() -> None:
    class Part(bytearray):
        pass

    d = fleet(b"w1")
    part = Part(b"picture")
    d.request_arrived(b"web", replace(CAT, body=Body((part,), 0)), 0.0)
    kept = weakref.ref(part)
    del part
    assert kept() is not None
    d.worker_answered(b"w1", result(CAT), 0.02)
    assert kept() is None, "though its deadline is a minute away"


def test_a_client_that_has_gone_gets_no_acknowledgement() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.client_gone(b"web", 0.01)
    assert not messages(d.tick(0.05), Ack)


def test_what_is_left_of_the_budget_travels_with_the_request() -> None:
    d = fleet()
    d.request_arrived(b"web", request(1, budget_ms=1000), 0.0)
    (sent,) = messages(d.worker_ready(b"w1", ready(), 0.4), Request)
    assert sent.budget_ms == 600


def test_a_queue_takes_its_limit_and_refuses_one_more() -> None:
    d = fleet(b"w1", max_waiting=2)
    for n in range(3):
        assert not messages(d.request_arrived(b"web", request(n), 0.0), Nack)
    (nack,) = messages(d.request_arrived(b"web", request(9), 0.0), Nack)
    assert nack.reason is Reason.BUSY


def test_a_queue_is_bounded_in_bytes_too() -> None:
    d = fleet(b"w1", max_waiting_bytes=20)
    d.request_arrived(b"web", request(0), 0.0)
    assert not messages(d.request_arrived(b"web", request(1, size=20), 0.0), Nack)
    (nack,) = messages(d.request_arrived(b"web", request(2, size=1), 0.0), Nack)
    assert nack.reason is Reason.BUSY


def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    (nack,) = messages(fleet(b"w1").request_arrived(b"web", request(1, model="vgg"), 0.0), Nack)
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
    d.request_arrived(b"old", CAT, 0.0, made=1)
    actions = d.request_arrived(b"new", CAT, 0.1, made=2)
    assert actions == [ToClient(b"new", Ack(CAT.id))]
    assert receivers(d.worker_answered(b"w1", result(CAT), 0.2)) == [(b"new", (b"old",))]


def test_an_older_copy_that_is_read_later_does_not_take_the_request_over() -> None:
    # It used to: then the end of the old connection cancelled it, and the client, which had its ACK
    # over the new one, waited until its deadline.
    d = fleet(b"w1")
    d.request_arrived(b"new", CAT, 0.0, made=2)
    assert d.request_arrived(b"old", CAT, 0.0, made=1) == [ToClient(b"old", Ack(CAT.id))]
    assert receivers(d.tick(0.3)) == [(b"new", (b"old",))], "that it was accepted"
    assert d.client_gone(b"old", 0.4) == []
    assert receivers(d.worker_answered(b"w1", result(CAT), 0.5)) == [(b"new", ())]


def test_what_was_sent_over_two_connections_is_cancelled_with_the_last_of_them() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"old", CAT, 0.0, made=1)
    d.request_arrived(b"new", CAT, 0.0, made=2)
    d.request_arrived(b"old", CAT, 0.0, made=1)
    assert d.client_gone(b"new", 0.1) == [], "the older one has sent it, and stands"
    assert messages(d.client_gone(b"old", 0.2), Cancel)
    assert not d.jobs.open


def test_the_requests_of_a_client_that_is_gone_are_cancelled_in_the_order_they_came() -> None:
    # Their order used to depend on the hash of their ids, which Python draws anew in each process.
    d = fleet(b"w1", credit=50)
    pictures = [request(number) for number in range(50)]
    for picture in pictures:
        d.request_arrived(b"web", picture, 0.0)
    cancels = messages(d.client_gone(b"web", 0.1), Cancel)
    assert [cancel.id for cancel in cancels] == [picture.id for picture in pictures]


def test_only_the_client_that_asked_may_cancel() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    assert d.request_cancelled(b"thief", CAT.id, 0.5) == []
    assert messages(d.request_cancelled(b"web", CAT.id, 0.5), Cancel) == [Cancel(CAT.id)]
    assert not d.jobs.open


def test_a_client_that_is_gone_leaves_nothing_waiting() -> None:
    d = fleet(b"w1")
    for waiting in (CAT, DOG, EEL):
        d.request_arrived(b"web", waiting, 0.0)
    d.client_gone(b"web", 0.5)
    assert (d.waiting, len(d.jobs.open), d.jobs.waiting_bytes) == (0, 0, 0)


def test_a_bad_picture_is_final() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.BAD_IMAGE, "truncated"), 0.1)
    assert messages(actions, Nack) == [Nack(CAT.id, Reason.BAD_IMAGE, "truncated")]


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
    assert [nack.reason for nack in messages(actions, Nack)] == [Reason.CHECKSUM]
    assert d.workers[b"w1"].failed == 0 and d.workers[b"w1"].credit == 1


def test_a_request_that_waits_behind_others_ends_at_its_deadline() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.request_arrived(b"web", request(2, budget_ms=200), 0.0)
    assert messages(d.tick(0.19), Nack) == []
    (end,) = messages(d.tick(0.2), Nack)
    assert (end.id, end.reason) == (request(2).id, Reason.DEADLINE)
    assert d.jobs.waiting_bytes == 0


def test_a_request_without_time_is_refused() -> None:
    (nack,) = messages(fleet(b"w1").request_arrived(b"web", request(1, budget_ms=0), 0.0), Nack)
    assert nack.reason is Reason.DEADLINE


def test_a_full_queue_of_bytes_takes_exactly_its_limit() -> None:
    d = fleet(b"w1", max_waiting_bytes=20)
    d.request_arrived(b"web", request(0), 0.0)
    (nack,) = messages(d.request_arrived(b"web", request(1, size=21), 0.0), Nack)
    assert nack.reason is Reason.BUSY
    assert not messages(d.request_arrived(b"web", request(2, size=20), 0.0), Nack)
    assert d.jobs.waiting_bytes == 20
    assert d.journal.counters.refused == 1


def test_a_request_sent_again_is_not_computed_twice_nor_counted_twice() -> None:
    d = fleet(b"w1", credit=2)
    d.request_arrived(b"web", CAT, 0.0)
    assert d.request_arrived(b"web", CAT, 0.1) == [ToClient(b"web", Ack(CAT.id))]
    assert d.journal.counters.accepted == 1
    assert d.workers[b"w1"].credit == 1


def test_the_end_of_the_old_connection_does_not_cancel_what_moved_to_the_new_one() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"old", CAT, 0.0, made=1)
    d.request_arrived(b"new", CAT, 0.1, made=2)
    assert d.client_gone(b"old", 0.5) == []
    assert d.request_cancelled(b"old", CAT.id, 0.5) == []
    assert CAT.id in d.jobs.open


def test_a_cancel_over_an_older_connection_ends_only_what_was_sent_there() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"new", CAT, 0.0, made=2)
    d.request_arrived(b"old", CAT, 0.0, made=1)
    assert d.request_cancelled(b"old", CAT.id, 0.1) == []
    assert d.request_cancelled(b"stranger", CAT.id, 0.1) == []
    assert receivers(d.tick(0.3)) == [(b"new", ())]
    assert messages(d.request_cancelled(b"new", CAT.id, 0.4), Cancel)
    assert not d.jobs.open


def test_the_credit_of_a_cancelled_request_returns_with_the_workers_reply() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_cancelled(b"web", CAT.id, 0.5)
    assert d.workers[b"w1"].credit == 0
    assert messages(d.worker_refused(b"w1", Nack(CAT.id, Reason.CANCELLED), 0.1), Nack) == []
    assert d.workers[b"w1"].credit == 1


def test_a_client_that_is_gone_does_not_take_anothers_requests_along() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"other", DOG, 0.0)
    d.client_gone(b"web", 0.5)
    assert list(d.jobs.open) == [DOG.id]


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


def test_a_request_sent_again_after_its_client_was_gone_leaks_no_credit() -> None:
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


def test_requests_that_came_before_any_worker_end_once_though_there_is_credit_for_one() -> None:
    d = fleet()
    for early in (CAT, DOG, EEL):
        d.request_arrived(b"web", early, 0.0)
    assert given(d.worker_ready(b"w1", ready(1, model="googlenet"), 0.1)) == [(b"w1", CAT.id)]
    d.request_cancelled(b"web", DOG.id, 0.2)
    assert given(d.worker_answered(b"w1", result(CAT), 0.3)) == [(b"w1", EEL.id)]
    d.worker_answered(b"w1", result(EEL), 0.4)
    assert (d.waiting, d.jobs.waiting_bytes, len(d.jobs.open)) == (0, 0, 0)


def test_a_cancel_of_a_request_that_is_not_open_changes_nothing() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_answered(b"w1", result(CAT), 0.1)
    for unknown in (CAT, DOG):
        assert d.request_cancelled(b"web", unknown.id, 0.2) == []
    assert d.journal.counters.cancelled == 0


def test_a_copy_that_is_released_past_its_deadline_expires_with_the_first() -> None:
    d = fleet(b"w1", b"w2")
    first = request(1, budget_ms=200)
    copy = replace(first, id=DOG.id)
    assert given(d.request_arrived(b"web", first, 0.0)) == [(b"w1", first.id)]
    assert not given(d.request_arrived(b"web", copy, 0.0)), "it waits for the first"
    actions = d.tick(0.2)
    assert [(nack.id, nack.reason) for nack in messages(actions, Nack)] == [
        (first.id, Reason.DEADLINE),
        (copy.id, Reason.DEADLINE),
    ]
    assert not given(actions) and d.journal.counters.expired == 2
    assert d.jobs.waiting_bytes == 0


def test_a_request_whose_time_ran_out_on_the_worker_is_not_tried_again() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    actions = d.worker_refused(b"w1", Nack(CAT.id, Reason.DEADLINE), 0.1)
    assert [nack.reason for nack in messages(actions, Nack)] == [Reason.DEADLINE]
    assert not given(actions) and d.workers[b"w1"].failed == 0


def test_a_request_waits_is_sent_runs_and_is_answered() -> None:
    d = fleet()
    d.request_arrived(b"web", CAT, 0.0)
    job = d.jobs.open[CAT.id]
    states = [job.state]
    d.worker_ready(b"w1", ready(), 0.1)
    states.append(job.state)
    d.worker_acked(b"w1", CAT.id, 0.1)
    states.append(job.state)
    d.worker_answered(b"w1", result(CAT), 0.2)
    states.append(job.state)
    assert states == [JobState.WAITING, JobState.SENT, JobState.RUNNING, JobState.ANSWERED]


def test_timers_of_answered_requests_are_dropped_beyond_a_thousand() -> None:
    d = fleet(b"w1")
    for number in range(FEW_TIMERS + 2):
        now = number / 1000
        d.request_arrived(b"web", request(number), now)
        d.worker_answered(b"w1", result(request(number)), now)
    assert d.jobs.next_timer() > 1.0, "the first was due at 0.3 s"
