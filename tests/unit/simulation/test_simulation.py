"""The dispatcher with a simulated fleet: every promise holds, and a broken dispatcher is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulation import figures
from simulation.__main__ import main
from simulation.plan import FAILOVER, Faults, Plan
from simulation.study import plans
from simulation.world import World
from spyglass.dispatcher.job_state import Attempt, Job
from spyglass.dispatcher.jobs import Jobs
from spyglass.protocol import Reason, Result

#: Everything goes wrong within a third of a second, ten times as often as usual.
FAULTS = Faults(0.05, 0.05, 0.02, 0.05, 0.005, 0.002, 0.0004)
PLAN = Plan(workers=200, requests=5000, faults=FAULTS)


def played(plan: Plan) -> World:
    world = World(plan)
    world.run()
    return world


@pytest.fixture(scope="module")
def world() -> World:
    return played(PLAN)


def test_every_request_is_answered_once_whatever_fails(world: World) -> None:
    ledger = world.ledger
    assert (ledger.sent, ledger.lost, ledger.twice) == (5000, 0, 0)
    counters = world.sides[0].dispatcher.journal.counters
    assert counters.requeued and counters.handed_back and counters.quarantined
    assert ledger.outcomes["answered"] > 4900
    assert not world.sides[0].dispatcher.jobs.open


def test_work_goes_to_workers_by_their_speed(world: World) -> None:
    assert figures.of(world).jain_workers > 0.8
    assert figures.of(world).jain_clients > 0.99


def test_the_same_seed_gives_the_same_run(world: World) -> None:
    again = played(PLAN)
    assert again.ledger.latencies == world.ledger.latencies
    assert again.ledger.outcomes == world.ledger.outcomes
    assert again.sides[0].calls == world.sides[0].calls
    assert played(replace(PLAN, seed=2)).ledger.latencies != world.ledger.latencies


@pytest.mark.parametrize("split", [False, True])
def test_a_second_broker_answers_what_the_first_one_held(split: bool) -> None:
    world = played(replace(PLAN, requests=2000, brokers=2, split=split, kill=True))
    assert (world.ledger.lost, world.ledger.twice) == (0, 0)
    failover = figures.of(world).failover
    assert failover is not None and failover.again > 0
    assert FAILOVER < failover.first_s <= failover.last_s < PLAN.timeout


def test_a_fleet_that_loses_all_connections_at_once_loses_no_request() -> None:
    world = played(replace(PLAN, requests=2000, storm=True))
    assert (world.ledger.lost, world.ledger.twice) == (0, 0)
    assert world.ledger.outcomes[Reason.WORKER_LOST.value] == 0


def test_an_overload_is_refused_and_not_lost() -> None:
    world = played(replace(PLAN, requests=3000, load=3.0, max_waiting=100))
    assert (world.ledger.lost, world.ledger.twice) == (0, 0)
    assert world.ledger.outcomes[Reason.BUSY.value] > 300


def test_a_dispatcher_that_forgets_a_dead_workers_requests_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Jobs, "retry", lambda jobs, attempt, reason: jobs.take_back(attempt))
    monkeypatch.setattr(Jobs, "expire", lambda jobs, job: None)  # nor is its deadline kept
    assert played(replace(PLAN, requests=1000)).ledger.lost > 0


def test_a_dispatcher_that_answers_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Jobs.answer

    def twice(jobs: Jobs, attempt: Attempt, result: Result, now: float) -> None:
        job: Job = attempt.job
        answer(jobs, attempt, result, now)
        jobs._journal.to_client(job.senders.youngest, result)

    monkeypatch.setattr(Jobs, "answer", twice)
    assert played(replace(PLAN, requests=200)).ledger.twice > 190


def test_jains_index_is_one_for_equals_and_one_nth_for_a_single_winner() -> None:
    assert figures.jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert figures.jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_the_command_writes_a_table_figures_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--workers", "20", "--requests", "400", "--folder", str(tmp_path)]
    assert main([*few, "--only", "workers", "--only", "storm"]) == 0
    names = [name for part in ("workers", "storm") for name, _ in plans(part, Plan(workers=20))]
    shown = capsys.readouterr()
    assert all(name in shown.out + shown.err for name in names)
    assert {"simulation.json", "simulation.png"} <= {p.name for p in tmp_path.iterdir()}


def test_a_lost_request_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jobs, "answer", lambda *_: None)
    monkeypatch.setattr(Jobs, "expire", lambda jobs, job: None)
    few = ["--workers", "5", "--requests", "100", "--folder", str(tmp_path)]
    assert main([*few, "--only", "storm"]) == 1
