"""The ledger of a chaos run: which answers, and which missing ones, break a promise."""

from __future__ import annotations

from dataclasses import replace

from chaos_records import final, hit, record

from chaos.ledger import Event, Final, Record, breaches, count_lost, count_twice, merge
from chaos.schedule import Kind


def test_a_right_answer_in_time_breaks_nothing() -> None:
    assert breaches([record(final())]) == []
    assert breaches([record(final(10.4))]) == []  # the deadline + 0.5 s


def test_a_request_without_an_answer_is_lost() -> None:
    assert count_lost([record()]) == 1
    assert "never got an answer" in breaches([record()])[0]


def test_an_answer_past_the_deadline_and_half_a_second_is_lost() -> None:
    assert count_lost([record(final(10.6))]) == 1
    assert "0.60 s after its deadline" in breaches([record(final(10.6))])[0]


def test_two_answers_to_one_sending_are_one_too_many() -> None:
    twice = [record(final(0.1), final(0.2))]
    assert count_twice(twice) == 1
    assert "answered 2" in breaches(twice)[0]


def test_two_answers_to_two_sendings_are_fair() -> None:
    assert breaches([record(final(0.1), final(0.2), sendings=2)]) == []


def test_one_id_in_two_http_answers_is_found() -> None:
    both = [record(final(), way="http"), record(final(), way="http")]
    assert breaches(both) == ["request id aa is in 2 answers."]


def test_a_wrong_label_and_a_foreign_id_are_found() -> None:
    assert "answered 'toaster'" in breaches([record(final(label="toaster"))])[0]
    assert "under the id bb" in breaches([record(final(request_id="bb"))])[0]


def test_busy_with_retry_after_is_promised_and_other_failures_are_not() -> None:
    busy = Final(0.1, "busy", "aa", status=503, retry_after=True)
    assert breaches([record(busy, way="http")]) == []
    bare = Final(0.1, "busy", "aa", status=503)
    assert "without Retry-After" in breaches([record(bare, way="http")])[0]
    for code in ("worker-lost", "deadline", "quarantined", "internal-server-error"):
        assert code in breaches([record(final(code=code))])[0]


def taken(name: str, at: float, words: str = "lost: connection closed; 1 request moved") -> Event:
    return Event(at, 0, f"{name} {words}")


def refused(code: str) -> list[Record]:
    """Sent at 5.0 s, refused at 7.0 s."""
    record_ = record(final(7.0, code=code))
    record_.sent = 5.0
    return [record_]


def test_quarantine_is_promised_to_a_picture_over_which_two_died() -> None:
    crash, kill = hit(Kind.CHILD_CRASH, 5.3, "w1.1"), hit(Kind.WORKER_KILL, 5.8, "w2.1")
    stall = hit(Kind.LINK_STALL, 5.0, "w2.1")
    crashed = Event(5.4, 0, "w1.1: crash on a request; moved")
    assert breaches(refused("quarantined"), [crash, kill], [crashed, taken("w2.1", 5.81)]) == []
    for hits, events in (
        ([crash], [crashed]),
        ([crash, kill], [crashed]),  # the killed one held nothing
        ([crash, stall], [crashed, taken("w2.1", 5.81)]),
        ([crash, kill], [crashed, taken("w2.1", 4.9)]),
        ([], []),
    ):
        assert "quarantined" in breaches(refused("quarantined"), hits, events)[0]


def test_a_lost_request_is_forgiven_if_three_attempts_met_faults_while_it_was_open() -> None:
    names = ("w1.1", "w2.1", "w3.1")
    hits = [hit(Kind.LINK_RESET, 5.0 + 0.5 * n, name) for n, name in enumerate(names)]
    events = [taken(name, 5.01 + 0.5 * n) for n, name in enumerate(names)]
    events[1].text = "w2.1#2 did not acknowledge a request in time; moved"
    assert breaches(refused("worker-lost"), hits, events) == []
    missed = hit(Kind.LINK_RESET, 5.0, "w1.1", missed="it was not running")
    elsewhere = Event(events[2].at, 1, events[2].text)
    handed_back = taken("w3.1", events[2].at, "left: stopped; 1 request moved")
    for wrong_hits, wrong_events in (
        ([missed, *hits[1:]], events),
        (hits, events[:2]),
        (hits[:2], events),  # nobody had hit the third
        (hits, [*events[:2], elsewhere]),  # another broker's attempts
        (hits, [*events[:2], handed_back]),
        (hits, [*events[:2], taken("w3.1", 7.1)]),  # after the refusal
    ):
        assert "worker-lost" in breaches(refused("worker-lost"), wrong_hits, wrong_events)[0]


def test_a_frozen_broker_costs_each_of_its_workers_an_attempt() -> None:
    resets = [hit(Kind.LINK_RESET, 5.0, "w1.1"), hit(Kind.LINK_RESET, 5.3, "w2.1")]
    frozen = hit(Kind.BROKER_FREEZE, 5.5, "broker-2")
    events = [taken("w1.1", 5.01), taken("w2.1", 5.31), taken("w3.1", 8.6)]
    for event in events:
        event.broker = 1
    lost = refused("worker-lost")
    lost[0].finals = [final(8.7, code="worker-lost")]
    assert breaches(lost, [*resets, frozen], events) == []
    assert "worker-lost" in breaches(lost, resets, events)[0]
    assert "worker-lost" in breaches(lost, [*resets, replace(frozen, missed="gone")], events)[0]
    events[2].broker = 0
    assert "worker-lost" in breaches(lost, [*resets, frozen], events)[0]


def test_a_brokers_events_read_again_are_counted_once() -> None:
    known: list[Event] = []
    merge(known, [Event(1.00, 0, "a"), Event(2.00, 0, "b")])
    merge(known, [Event(1.01, 0, "a"), Event(1.99, 0, "b"), Event(2.5, 0, "b")])
    merge(known, [Event(2.5, 0, "b"), Event(3.0, 0, "c")])  # the list is bounded
    assert [(e.at, e.text) for e in known] == [(1.0, "a"), (1.99, "b"), (2.5, "b"), (3.0, "c")]
