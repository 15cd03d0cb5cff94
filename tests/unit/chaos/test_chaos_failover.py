"""How long a fleet in chaos needed after each fault, and what overload did to it."""

from __future__ import annotations

from collections import Counter

import pytest
from chaos_records import final, hit

from chaos.failover import (
    ALL_OPEN,
    CRASH_LIMIT_MS,
    FROM_ITS_END,
    Failover,
    failover_breaches,
    failovers,
    percentile,
)
from chaos.ledger import Event, Injected, Record
from chaos.overload import Overload, middle_round, overload_breaches
from chaos.schedule import Kind


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile(range(1, 101), 99) == 99
    assert percentile([5.0], 99) == 5.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


# --- failover times ---------------------------------------------------------------------------


def table(*hits: Injected, events: list[Event]) -> dict[str, Failover]:
    return {row.what: row for row in failovers(hits, events, [], job_limit=1.0, brokers=1)}


def test_a_killed_worker_is_measured_until_the_broker_reports_it() -> None:
    events = [
        Event(4.9, 0, "w2.1 lost: connection closed"),  # before: another fault's
        Event(5.01, 0, "w2.2 lost: connection closed"),  # another worker
        Event(5.02, 0, "w2.1 lost: connection closed; 2 requests moved"),
    ]
    row = table(hit(Kind.WORKER_KILL), events=events)["worker killed"]
    assert row.samples == pytest.approx([20.0])
    assert row.limit_ms == CRASH_LIMIT_MS and not row.broken


def test_a_crashed_child_is_held_to_its_limit_from_its_end() -> None:
    events = [Event(5.08, 0, "w2.1: crash on a request; moved")]
    rows = table(hit(Kind.CHILD_CRASH, busy=True, ended_ms=60.0), events=events)
    assert rows["child crashed"].samples == pytest.approx([80.0])
    assert not rows["child crashed"].broken
    assert rows[FROM_ITS_END].samples == pytest.approx([20.0])


def test_a_failover_above_its_limit_is_a_broken_promise() -> None:
    slow = [Event(5.2, 0, "w2.1 lost: connection closed; 1 request moved")]
    rows = list(table(hit(Kind.LINK_RESET), events=slow).values())
    assert "the limit is 50 ms" in failover_breaches(rows, [], [])[0]
    hung = hit(Kind.CHILD_HANG, busy=True, ended_ms=1600.0)
    rows = list(table(hung, events=[]).values())
    assert "the limit is 1250 ms" in failover_breaches(rows, [], [])[0]


def test_an_event_belongs_to_the_last_fault_before_it() -> None:
    first, second = hit(Kind.LINK_RESET, at=5.0), hit(Kind.LINK_RESET, at=5.6)
    row = table(first, second, events=[Event(5.61, 0, "w2.1 lost: connection closed")])
    assert row["link reset"].samples == pytest.approx([10.0])


def test_an_idle_child_that_crashes_is_no_figure() -> None:
    idle = hit(Kind.CHILD_CRASH, ended_ms=20.0)
    assert table(idle, events=[Event(5.5, 0, "w2.1: crash on a request; moved")]) == {}


def test_a_killed_broker_is_measured_by_what_clients_see() -> None:
    waited = Record(1, "http", "tiger cat", 4.9, 15.0, finals=[final(6.2)])
    after = Record(2, "http", "tiger cat", 5.1, 15.0, finals=[final(5.9)])
    kill = hit(Kind.BROKER_KILL, name="broker-1")
    rows = failovers([kill], [], [waited, after], job_limit=1.0, brokers=2)
    assert [row.what for row in rows] == ["broker killed", ALL_OPEN]
    assert rows[0].samples == pytest.approx([900.0])
    assert rows[1].samples == pytest.approx([1200.0])


@pytest.mark.parametrize(("brokers", "limit"), [(1, 4500.0), (2, 2500.0)])
def test_a_frozen_broker_is_held_to_when_answers_come_again(brokers: int, limit: float) -> None:
    frozen = hit(Kind.BROKER_FREEZE, name="broker-2")
    (row,) = failovers(
        [frozen], [], [Record(1, "http", "cat", 5.1, 15.0, finals=[final(9.6)])], 1.0, brokers
    )
    assert (row.what, row.limit_ms) == ("broker frozen", limit)
    assert row.samples == pytest.approx([4600.0]) and row.broken


def test_what_a_frozen_broker_reports_of_its_workers_gives_no_time() -> None:
    frozen = hit(Kind.BROKER_FREEZE, at=4.8, name="broker-2")
    late = Event(7.9, 1, "w2.1 lost: unreachable; 1 request moved")
    killed, stopped = hit(Kind.WORKER_KILL), hit(Kind.WORKER_STOP, exit_code=0)
    assert "worker killed" not in table(frozen, killed, events=[late])
    assert failover_breaches([], [frozen, stopped], [late]) == []
    in_time = Event(5.02, 0, "w2.1 lost: connection closed; 1 request moved")
    row = table(frozen, killed, events=[late, in_time])["worker killed"]
    assert row.samples == pytest.approx([20.0]), "the other broker's"


def test_a_fault_that_could_not_be_injected_is_no_figure() -> None:
    missed = hit(Kind.WORKER_KILL, missed="it was not running")
    assert table(missed, events=[Event(5.1, 0, "w2.1 lost: connection closed")]) == {}


def test_a_stopped_worker_must_leave_cleanly_and_move_nothing() -> None:
    stopped = hit(Kind.WORKER_STOP, exit_code=0)
    assert failover_breaches([], [stopped], [Event(5.1, 0, "w2.1 left: stopped")]) == []
    moved = [Event(5.1, 0, "w2.1 lost: connection closed; 1 request moved")]
    assert "running work moved" in failover_breaches([], [stopped], moved)[0]
    assert "did not leave" in failover_breaches([], [hit(Kind.WORKER_STOP)], [])[0]


# --- overload ---------------------------------------------------------------------------------


def test_overload_is_held_to_goodput_speed_and_kinds_of_failure() -> None:
    good = Overload(40.0, 120.0, 39.0, 500, 20.0, Counter())
    assert overload_breaches(good) == []
    bad = Overload(40.0, 120.0, 30.0, 500, 150.0, Counter({"504 deadline": 3}))
    assert len(overload_breaches(bad)) == 3


def test_of_several_rounds_of_overload_the_middle_one_counts_but_every_failure_does() -> None:
    rounds = [
        Overload(40.0, 120.0, goodput, 100, busy, Counter({"504 deadline": failed}))
        for goodput, busy, failed in ((39.0, 20.0, 0), (20.0, 90.0, 2), (38.0, 30.0, 1))
    ]
    seen = middle_round(rounds)
    assert (seen.goodput, seen.busy, seen.busy_p99_ms) == (38.0, 300, 90.0)
    assert seen.unexpected["504 deadline"] == 3
