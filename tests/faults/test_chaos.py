"""The chaos run: its schedule, its faults, its report, its exit code. Only the slow tests start a
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
from typing import Any, cast

import pytest
from chaos_records import final, hit, record

from chaos import __main__ as command
from chaos import faults, report
from chaos.fleet import Fleet
from chaos.ledger import Record
from chaos.pictures import SAMPLES, Pictures
from chaos.run import Outcome, Run
from chaos.schedule import (
    BRIEF_KINDS,
    BROKER_KINDS,
    BROKER_SPACING,
    LINK_KINDS,
    LONG_KINDS,
    RECOVERY,
    Kind,
    schedule,
)
from testbed.processes import ROOT, alive, below, eventually

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
        if fault.kind in BROKER_KINDS:
            continue
        if fault.kind not in BRIEF_KINDS:
            assert hurt_until[fault.victim] <= fault.at, "it has not recovered"
            assert sum(until <= fault.at for until in hurt_until) >= 2, "nobody is left"
        over = fault.at + RECOVERY[fault.kind]
        hurt_until[fault.victim] = max(over, hurt_until[fault.victim])


@pytest.mark.parametrize("brokers", [1, 2])
def test_faults_of_brokers_are_spaced_out_and_reach_every_broker(brokers: int) -> None:
    faults = [f for seed in SEEDS for f in schedule(seed, 60, brokers=brokers)]
    for kind in BROKER_KINDS:
        assert {f.victim for f in faults if f.kind is kind} == set(range(brokers))
    for seed in SEEDS:
        at = [f.at for f in schedule(seed, 60) if f.kind in BROKER_KINDS]
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

    def text(self: Axes, x: float, y: float, letter: str, **more: Any) -> object:
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
            sys.executable, "-m", "chaos", "--seed", "8", "--seconds", "15", "--overload", "0",
            "--brokers", str(brokers), "--plot", str(tmp_path / "chaos.png"),
            "--logs", str(tmp_path),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 lost, 0 answered twice\n" in ended.stdout
    assert all(kind.value in ended.stdout for kind in BROKER_KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_process_behind(number: signal.Signals, tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "chaos", "--seed", "7", "--logs", str(tmp_path)],
        cwd=ROOT, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stderr is not None
    said = b""
    while b"w1.1" not in said:  # the second fault: its worker is frozen
        assert select.select([run.stderr], [], [], 120)[0], said
        said += os.read(run.stderr.fileno(), 65536)
    everybody = below(run.pid)
    assert len(everybody) > 10
    run.send_signal(number)
    run.communicate(timeout=30)
    assert run.returncode == command.EXIT_STOPPED
    eventually(lambda: not any(map(alive, everybody)), "its processes are gone")
