"""How long workers may be silent and when the loop looks, by plain calls; the clock is a float."""

from __future__ import annotations

import pytest
from dispatching import CAT, DOG, EEL, fleet, given, live, messages, ready, request, result, ticked

from spyglass.dispatcher.actions import ToWorker
from spyglass.protocol import Bye, Heartbeat, Nack, Reason, heartbeat_interval

# --- silence ----------------------------------------------------------------------------------


def test_a_worker_that_lives_does_not_hide_a_silent_one_behind_it() -> None:
    d = fleet(b"w1", b"w2")
    live(d, 0.0)
    for tenth in range(1, 61):
        d.worker_heartbeat(b"w1", tenth / 10)
        d.tick(tenth / 10)
    assert list(d.workers) == [b"w1"]


def test_a_worker_that_holds_nothing_may_be_silent_for_one_and_a_half_seconds() -> None:
    d = fleet(b"w1")
    ticked(d, 0.0, 1.4)
    d.tick(1.49)
    assert b"w1" in d.workers
    assert d.next_deadline() == 1.5
    (bye,) = messages(d.tick(1.5), Bye)
    assert bye.again and not d.workers


def test_a_worker_that_holds_a_request_may_be_silent_for_1_s() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.2)
    ticked(d, 0.0, 1.1)
    d.tick(1.19)
    assert b"w1" in d.workers
    assert d.next_deadline() == 1.2
    (bye,) = messages(d.tick(1.2), Bye)
    assert bye.again and not d.workers
    assert d.waiting == 1


def test_its_heartbeats_keep_a_worker_at_work_also_at_half_a_second() -> None:
    d = fleet(b"w1", hedge_burst=0.0, hedge_share=0.0)
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    for half in range(1, 10):
        ticked(d, half / 2 - 0.4, half / 2)
        d.worker_heartbeat(b"w1", half / 2)
    assert d.workers[b"w1"].in_flight


def test_a_worker_that_has_answered_may_rest_again() -> None:
    d = fleet(b"w1", credit=2)
    for picture in (CAT, DOG):
        d.request_arrived(b"web", picture, 0.0)
        d.worker_acked(b"w1", picture.id, 0.0)
    d.worker_answered(b"w1", result(CAT), 0.5)
    assert b"w1" in d.membership.at_work
    d.worker_refused(b"w1", Nack(DOG.id, Reason.BAD_IMAGE), 0.6)
    ticked(d, 0.7, 2.0)
    assert b"w1" in d.workers


def test_a_worker_that_still_computes_what_nobody_waits_for_is_at_work() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.request_cancelled(b"web", CAT.id, 0.1)
    d.worker_acked(b"w1", CAT.id, 0.2)
    ticked(d, 0.0, 1.1)
    assert b"w1" in d.workers
    d.tick(1.2)
    assert b"w1" not in d.workers


def test_a_large_picture_on_its_way_to_an_idle_worker_shortens_nobodys_life() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", request(1, size=4_000_000), 0.0)
    for second in range(4):
        d.worker_heartbeat(b"w1", second)
        ticked(d, second, second + 1.0)
    d.worker_acked(b"w1", CAT.id, 4.1)
    assert d.workers[b"w1"].in_flight


def test_nor_does_one_behind_a_picture_that_was_answered() -> None:
    d = fleet(b"w1", credit=2)
    d.request_arrived(b"web", CAT, 0.0)
    d.request_arrived(b"web", request(2, size=4_000_000), 0.0)
    d.worker_acked(b"w1", CAT.id, 0.1)
    d.worker_answered(b"w1", result(CAT), 0.2)
    for second in range(1, 4):
        ticked(d, second - 0.7, second + 0.2)
        d.worker_heartbeat(b"w1", second + 0.2)
    ticked(d, 3.3, 4.0)
    d.worker_acked(b"w1", DOG.id, 4.1)
    assert d.workers[b"w1"].in_flight


def test_a_picture_computed_by_a_worker_that_fell_silent_is_suspected_until_it_returns() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    ticked(d, 0.0, 1.0)
    assert d.jobs.quarantine.suspected(CAT.sha256)
    d.worker_ready(b"w1", ready(name="w1"), 2.0)
    assert not d.jobs.quarantine.suspected(CAT.sha256)


def test_a_worker_that_leaves_a_request_unacknowledged_gets_none_until_it_sends_a_message() -> None:
    d = fleet(b"w1", b"w2")
    d.request_arrived(b"web", CAT, 0.0)
    assert given(ticked(d, 0.0, 0.4)) == [(b"w2", CAT.id)]
    d.worker_answered(b"w2", result(CAT), 0.4)
    d.request_arrived(b"web", DOG, 0.4)
    assert given(d.request_arrived(b"web", EEL, 0.4)) == [], "w1 has credit"
    assert given(d.worker_heartbeat(b"w1", 0.5)) == [(b"w1", EEL.id)]


def test_a_cut_network_costs_no_attempt_however_many_workers_are_behind_it() -> None:
    d = fleet(b"w1", b"w2", b"w3", b"w4")
    d.request_arrived(b"web", CAT, 0.0)
    assert not messages(ticked(d, 0.0, 2.0), Nack) and not d.workers
    assert given(d.worker_ready(b"w1", ready(name="w1"), 2.1)) == [(b"w1", CAT.id)]


def test_a_worker_that_sent_another_message_but_no_ack_gets_the_next_request() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_heartbeat(b"w1", 0.1)
    assert given(ticked(d, 0.0, 0.4)) == [(b"w1", CAT.id)]


# --- heartbeats -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "interval"), [(1, 0.5), (165, 0.5), (660, 2.0), (990, 3.0), (10_000, 3.0)]
)
def test_the_larger_the_fleet_the_less_often_each_worker_beats(
    workers: int, interval: float
) -> None:
    assert heartbeat_interval(workers) == interval


def test_a_large_fleet_learns_its_interval_and_may_be_silent_for_as_long() -> None:
    d = fleet(*(b"%d" % n for n in range(660)))
    d.worker_heartbeat(b"7", 0.1)
    (answer,) = messages(ticked(d, 0.0, 0.3), Heartbeat)
    assert answer.interval_ms == 2000
    ticked(d, 0.4, 4.4)
    assert len(d.workers) == 660
    ticked(d, 4.5, 4.7)
    assert not d.workers


def test_no_worker_expires_before_it_can_know_that_the_fleet_has_shrunk() -> None:
    d = fleet(*(b"%d" % n for n in range(990)))
    ticked(d, 0.0, 1.0)
    for n in range(990):
        d.worker_heartbeat(b"%d" % n, 1.0)
    ticked(d, 1.1, 1.3)  # each answer names 3 s
    for n in range(989):
        d.worker_gone(b"%d" % n, "connection closed", 1.3)
    actions = ticked(d, 1.4, 4.2)
    assert not messages(actions, Bye) and len(d.workers) == 1
    d.worker_heartbeat(b"989", 4.2)
    ticked(d, 4.3, 20.0)
    assert not d.workers and d.membership.interval == 0.5


def test_a_heartbeat_renews_life_but_never_gives_credit() -> None:
    d = fleet(b"w1")
    d.request_arrived(b"web", CAT, 0.0)
    d.worker_acked(b"w1", CAT.id, 0.0)
    d.request_arrived(b"web", DOG, 0.0)
    for beat in range(1, 10):
        actions = d.worker_heartbeat(b"w1", beat / 2) + d.tick(beat / 2)
        assert given(actions) == []
    assert b"w1" in d.workers


def test_heartbeats_are_answered_together_at_the_next_look_and_none_is_sent_unasked() -> None:
    d = fleet(b"w1", b"w2", b"w3")
    assert d.tick(0.0) == []
    for beating in (b"w2", b"w3", b"w2"):
        assert d.worker_heartbeat(beating, 0.1) == []
    assert d.tick(0.24) == []
    assert d.next_deadline() == 0.25
    assert d.tick(0.25) == [ToWorker(b"w2", Heartbeat()), ToWorker(b"w3", Heartbeat())]
    assert messages(ticked(d, 0.3, 5.0), Heartbeat) == []


def test_the_heartbeat_of_a_worker_that_left_since_is_not_answered() -> None:
    d = fleet(b"w1")
    d.worker_heartbeat(b"w1", 0.1)
    d.worker_bye(b"w1", Bye(), 0.2)
    assert ticked(d, 0.3, 0.6) == []


# --- stalls of our own loop -------------------------------------------------------------------


def test_after_a_stall_of_our_own_loop_nobody_is_expired_at_once() -> None:
    d = fleet(b"w1")
    d.tick(0.0)
    d.tick(10.0)
    assert b"w1" in d.workers
    d.worker_heartbeat(b"w1", 10.1)
    ticked(d, 10.2, 10.6)
    assert b"w1" in d.workers


def test_a_loop_that_comes_a_little_late_expires_whom_it_must() -> None:
    for late, lives in ((0.24, False), (0.26, True)):
        d = fleet(b"w1")
        d.request_arrived(b"web", CAT, 0.0)
        d.worker_acked(b"w1", CAT.id, 0.0)
        for looks_at in (0.0, 0.25, 0.5, 0.75):
            d.tick(looks_at)
        d.tick(1.0 + late)
        assert (b"w1" in d.workers) is lives


def test_a_loop_that_stalls_never_takes_a_worker_for_dead_whose_heartbeats_lie_unread() -> None:
    for hundredths in range(100):  # since its last heartbeat
        d = fleet(b"w1")
        d.request_arrived(b"web", CAT, 0.0)
        d.worker_acked(b"w1", CAT.id, 0.0)
        d.tick(stalls_at := min(0.25, hundredths / 100))
        d.tick(stalls_at + 1.0)
        assert b"w1" in d.workers


def test_a_worker_still_silent_after_the_grace_of_a_stall_is_expired() -> None:
    d = fleet(b"w1")
    d.tick(0.0)
    d.tick(10.0)
    d.tick(10.4)
    assert b"w1" in d.workers
    actions = d.tick(10.5)
    assert b"w1" not in d.workers
    (bye,) = messages(actions, Bye)
    assert bye.again


# --- the next deadline ------------------------------------------------------------------------


def test_the_next_deadline_is_never_later_than_what_is_due() -> None:
    d = fleet(b"w1")
    d.tick(0.0)
    assert d.next_deadline() == 0.25
    d.request_arrived(b"web", request(1, budget_ms=240), 0.0)
    assert d.next_deadline() == pytest.approx(0.2), "the client gets its ACK"
    d.tick(0.2)
    assert d.next_deadline() == pytest.approx(0.24)


def test_the_next_deadline_is_the_end_of_the_grace_after_a_stall() -> None:
    d = fleet(b"w1")
    d.tick(0.0)
    d.tick(10.0)
    assert d.next_deadline() == 10.25
    d.tick(10.25)
    assert d.next_deadline() == 10.5


def test_the_next_deadline_follows_the_ack_of_what_was_just_sent() -> None:
    d = fleet(b"w1", ack_timeout=0.2, slowest_link=7e6)
    d.tick(0.0)
    d.request_arrived(b"web", CAT, 0.0)
    d.tick(0.2)
    assert d.next_deadline() == pytest.approx(0.2 + 1e-6)
