"""The chaos run's own parts: its schedule, its ledger, its report. Only the slow tests start a
fleet."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from itertools import count, pairwise
from pathlib import Path
from typing import cast

import pytest
from conftest import ROOT, eventually

from chaos import __main__ as command
from chaos import faults, report
from chaos.fleet import Fleet, alive, below
from chaos.ledger import (
    ALL_OPEN,
    CRASH_LIMIT_MS,
    FROM_ITS_END,
    Event,
    Failover,
    Final,
    Injected,
    Overload,
    Record,
    breaches,
    count_lost,
    count_twice,
    failover_breaches,
    failovers,
    merge,
    middle_round,
    overload_breaches,
    percentile,
)
from chaos.pictures import SAMPLES, Pictures
from chaos.run import Outcome, Run
from chaos.schedule import (
    BRIEF_KINDS,
    BROKER_SPACING,
    LINK_KINDS,
    LONG_KINDS,
    RECOVERY,
    Fault,
    Kind,
    schedule,
)

SEEDS = range(50)


# --- the schedule -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_faults() -> None:
    assert schedule(7, 60) == schedule(7, 60)
    assert schedule(7, 60) != schedule(8, 60)
    assert schedule(7, 15) == schedule(7, 60)[:15]


@pytest.mark.parametrize("seed", SEEDS)
def test_there_is_one_fault_in_each_second(seed: int) -> None:
    assert [int(fault.at) for fault in schedule(seed, 60)] == list(range(1, 61))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fault_that_lasts_leaves_another_worker_untouched(seed: int) -> None:
    hurt_until = [0.0, 0.0, 0.0]
    for fault in schedule(seed, 60):
        if fault.kind is Kind.BROKER_KILL:
            continue
        if fault.kind not in BRIEF_KINDS:
            assert hurt_until[fault.victim] <= fault.at, "it has not recovered"
            assert sum(until <= fault.at for until in hurt_until) >= 2, "nobody is left"
        over = fault.at + RECOVERY[fault.kind]
        hurt_until[fault.victim] = max(over, hurt_until[fault.victim])


@pytest.mark.parametrize("brokers", [1, 2])
def test_broker_kills_are_spaced_out_and_reach_every_broker(brokers: int) -> None:
    kills = [f for seed in SEEDS for f in schedule(seed, 60, brokers=brokers)]
    kills = [f for f in kills if f.kind is Kind.BROKER_KILL]
    assert {f.victim for f in kills} == set(range(brokers))
    for seed in SEEDS:
        at = [f.at for f in schedule(seed, 60) if f.kind is Kind.BROKER_KILL]
        assert all(b - a >= BROKER_SPACING for a, b in pairwise(at))


def test_links_are_cut_only_where_a_relay_is() -> None:
    faults = [f for seed in SEEDS for f in schedule(seed, 60, relayed=(2,))]
    assert {f.victim for f in faults if f.kind in LINK_KINDS} == {2}


def test_a_minute_has_every_kind_and_no_two_workers_load_at_once() -> None:
    for seed in SEEDS:
        faults = schedule(seed, 60)
        assert set(Counter(f.kind for f in faults)) == set(Kind)
        long = [f for f in faults if f.kind in LONG_KINDS]
        assert all(b.at - a.at >= RECOVERY[a.kind] for a, b in pairwise(long))


def test_one_worker_is_no_fleet_to_hit() -> None:
    with pytest.raises(ValueError, match="two workers"):
        schedule(1, 10, workers=1)


# --- the ledger -------------------------------------------------------------------------------


def record(*finals: Final, way: str = "wire", sendings: int = 1) -> Record:
    request_id = "aa" if way == "wire" else ""
    return Record(1, way, "tiger cat", 0.0, 10.0, request_id, sendings, list(finals))


def final(
    at: float = 0.1, code: str = "ok", request_id: str = "aa", label: str = "tiger cat"
) -> Final:
    return Final(at, code, request_id, label)


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


def test_one_id_in_two_http_answers_is_told() -> None:
    both = [record(final(), way="http"), record(final(), way="http")]
    assert breaches(both) == ["request id aa is in 2 answers."]


def test_a_wrong_label_and_a_foreign_id_are_told() -> None:
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


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile(range(1, 101), 99) == 99
    assert percentile([5.0], 99) == 5.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


# --- failover times ---------------------------------------------------------------------------


def hit(kind: Kind, at: float = 5.0, name: str = "w2.1", **more: object) -> Injected:
    return Injected(Fault(at, kind, 1), at, name, **more)  # type: ignore[arg-type]


def table(*hits: Injected, events: list[Event]) -> dict[str, Failover]:
    return {row.what: row for row in failovers(hits, events, [], job_limit=1.0, brokers=1)}


def test_a_killed_worker_is_measured_to_the_brokers_word() -> None:
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


def test_a_missed_fault_is_no_figure() -> None:
    missed = hit(Kind.WORKER_KILL, missed="it was not running")
    assert table(missed, events=[Event(5.1, 0, "w2.1 lost: connection closed")]) == {}


def test_a_stopped_worker_must_leave_cleanly_and_move_nothing() -> None:
    stopped = hit(Kind.WORKER_STOP, exit_code=0)
    assert failover_breaches([], [stopped], [Event(5.1, 0, "w2.1 left: stopped")]) == []
    moved = [Event(5.1, 0, "w2.1 lost: connection closed; 1 request moved")]
    assert "running work moved" in failover_breaches([], [stopped], moved)[0]
    assert "did not leave" in failover_breaches([], [hit(Kind.WORKER_STOP)], [])[0]


def test_a_brokers_events_read_again_are_counted_once() -> None:
    known: list[Event] = []
    merge(known, [Event(1.00, 0, "a"), Event(2.00, 0, "b")])
    merge(known, [Event(1.01, 0, "a"), Event(1.99, 0, "b"), Event(2.5, 0, "b")])
    merge(known, [Event(2.5, 0, "b"), Event(3.0, 0, "c")])  # the list is bounded
    assert [(e.at, e.text) for e in known] == [(1.0, "a"), (1.99, "b"), (2.5, "b"), (3.0, "c")]


def test_overload_is_held_to_goodput_speed_and_words() -> None:
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


# --- the faults -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("looks", "caught"), [("RRSR", True), ("SSR", True), ("RRRR", False), ("RRSS", False)]
)
def test_a_child_is_hit_when_it_begins_to_compute(
    looks: str, caught: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter(looks)
    last = looks[-1]
    monkeypatch.setattr(faults, "computes", lambda _: next(seen, last) == "R")
    ticks = count()
    fleet = cast(Fleet, None)
    injector = faults.Injector(fleet, lambda: next(ticks) * faults.CATCH_WITHIN / 10)
    assert injector._catch_busy(1) == caught


# --- pictures ---------------------------------------------------------------------------------


def test_no_two_pictures_are_the_same() -> None:
    pictures = Pictures(ROOT / "static" / "samples")
    assert len({pictures.get(n)[0] for n in range(99)}) == 99
    assert {pictures.get(n)[1] for n in range(3)} == set(SAMPLES.values())


# --- the command ------------------------------------------------------------------------------


def outcome(*records: Record) -> Outcome:
    options = command.parser().parse_args(["--seed", "7", "--seconds", "3"])
    hits = [hit(kind, at=n + 1.0, exit_code=0) for n, kind in enumerate(Kind)]
    return Outcome(command.plan_of(options), list(records), hits, [], [(0.0, 3), (1.0, 2)])


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([record(final())], 0),
        ([record()], 1),
        ([record(final(), final())], 1),
        ([record(final(label="toaster"))], 1),
        ([record(final(12.0))], 1),
    ],
    ids=["kept", "lost", "twice", "wrong", "late"],
)
def test_a_broken_promise_is_the_exit_code(
    records: list[Record],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Run, "execute", lambda self: outcome(*records))
    monkeypatch.setattr(report, "plot", lambda *_: None)
    figures = tmp_path / "figures.json"
    assert command.main(["--logs", str(tmp_path), "--json", str(figures), "--seed", "7"]) == code
    said = capsys.readouterr().out
    assert "1 sent, " in said and " answered twice\n" in said
    assert bool(json.loads(figures.read_text())["breaches"]) == bool(code)


def test_a_process_that_ends_by_itself_is_a_broken_promise() -> None:
    seen = outcome(record(final()))
    assert seen.breaches() == []
    seen.deaths.append("w1.2 ended by itself, with 1.")
    seen.left_behind = 2
    assert len(seen.breaches()) == 2


def test_wrong_usage_is_exit_code_2() -> None:
    for wrong in (["--brokers", "3"], ["--seconds", "0"], ["--workers", "1"], ["--what"]):
        with pytest.raises(SystemExit) as left:
            command.main(wrong)
        assert left.value.code == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_plot_marks_every_kind_of_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    marks: list[str] = []
    draw = Axes.text

    def text(self: Axes, x: float, y: float, letter: str, **more: object) -> object:
        marks.append(letter)
        return draw(self, x, y, letter, **more)

    monkeypatch.setattr(Axes, "text", text)
    path = tmp_path / "new" / "chaos.png"
    report.plot(outcome(record(final())), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert {letter for letter, _ in report.MARKS.values()} <= set(marks)


# --- real fleets ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("brokers", [1, 2])
def test_a_real_fleet_keeps_its_promises(brokers: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable, "-m", "chaos", "--seed", "7", "--seconds", "15", "--overload", "0",
            "--brokers", str(brokers), "--plot", str(tmp_path / "chaos.png"),
            "--logs", str(tmp_path),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 lost, 0 answered twice\n" in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_process_behind(number: signal.Signals, tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "chaos", "--seed", "7", "--logs", str(tmp_path)],
        cwd=ROOT, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stderr is not None
    said = b""
    while b"w3.1" not in said:  # the second fault: its worker is frozen
        assert select.select([run.stderr], [], [], 120)[0], said
        said += os.read(run.stderr.fileno(), 65536)
    everybody = below(run.pid)
    assert len(everybody) > 10
    run.send_signal(number)
    run.communicate(timeout=30)
    assert run.returncode == command.EXIT_STOPPED
    eventually(lambda: not any(map(alive, everybody)), "its processes are gone")
