"""Broker, workers and client as real processes, killed at will; only the model stands in."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from spyglass.client.thread_client import RequestFailed
from spyglass.protocol import Op, Reason
from testbed.fleet import Fleet
from testbed.processes import ROOT, alive, below, eventually, free_port


def test_a_picture_gets_its_predictions_and_says_who_made_them(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    answer = fleet.client.submit(b"hello", top_k=3).result(30)
    assert answer.worker == "attic"
    assert answer.attempts == 1
    assert [p["index"] for p in answer.predictions] == [0, 1, 2]


def test_a_picture_of_many_parts_arrives_whole(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    picture = os.urandom(3_000_001)
    small = fleet.client.submit(picture).result(30)
    assert small.predictions == fleet.client.submit(picture).result(30).predictions


def test_two_workers_share_the_load(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    fleet.start_worker("cellar")
    futures = [fleet.client.submit(b"sleep:0.01 %d" % n) for n in range(40)]
    shares = [future.result(30).worker for future in futures]
    assert 10 <= shares.count("attic") <= 30


def test_a_killed_worker_costs_its_clients_nothing(fleet: Fleet) -> None:
    doomed = fleet.start_worker("doomed")
    fleet.start_worker("survivor")
    futures = [fleet.client.submit(b"sleep:0.05 %d" % n) for n in range(30)]
    eventually(lambda: fleet.worker("doomed")["in_flight"], "doomed holds work")
    doomed.kill()
    answers = [future.result(30) for future in futures]
    assert max(answer.attempts for answer in answers) == 2
    assert all(answer.worker == "survivor" for answer in answers if answer.attempts == 2)


def has_left(fleet: Fleet, name: str) -> bool:
    return name not in fleet.names()


def test_a_killed_worker_leaves_the_list_within_50_ms(fleet: Fleet) -> None:
    delays = []
    for n in range(5):
        doomed = fleet.start_worker(f"doomed{n}")
        doomed.kill()
        killed = time.monotonic()
        eventually(partial(has_left, fleet, f"doomed{n}"), "it is gone")
        delays.append(time.monotonic() - killed)
    # The least: the machine that runs this test has other things to do as well. By heartbeats alone
    # it would take 0.4 s at the least.
    assert min(delays) < 0.05, delays
    assert fleet.status()["departed"][0]["reason"] == "connection closed"


def test_a_picture_that_crashes_two_children_is_refused_and_everybody_else_is_served(
    fleet: Fleet,
) -> None:
    workers = [fleet.start_worker(name) for name in ("attic", "cellar", "shed")]
    poison = [fleet.client.submit(b"crash") for _ in range(8)]  # from eight at once
    good = [fleet.client.submit(f"fine {n}".encode()) for n in range(50)]
    for future in poison:
        with pytest.raises(RequestFailed) as failure:
            future.result(30)
        assert failure.value.reason is Reason.QUARANTINED
    assert all(future.result(30).predictions for future in good)
    assert all(worker.poll() is None for worker in workers), "children die, workers stay"
    status = fleet.status()
    assert sum(worker["failed"] for worker in status["workers"]) == 2, "no third child was lost"
    (entry,) = status["quarantine"]
    assert entry["sha256"] == hashlib.sha256(b"crash").hexdigest() and entry["left_s"] > 500
    assert fleet.client.control(Op.CLEAR, "ab" * 32)[0] is False
    assert fleet.client.control(Op.CLEAR, entry["sha256"])[0] is True
    assert fleet.status()["quarantine"] == []


def test_a_slow_request_is_answered_by_a_second_worker(fleet: Fleet, tmp_path: Path) -> None:
    workers = {name: fleet.start_worker(name) for name in ("attic", "cellar")}
    flag = tmp_path / "begun"
    answer = fleet.client.submit(f"once:{flag} sleep:5".encode()).result(30)
    assert answer.attempts == 2 and 300 <= answer.total_ms < 3000
    assert fleet.status()["counters"]["hedged"] == 1
    assert all(worker.poll() is None for worker in workers.values())


def test_a_hung_child_is_killed_at_the_job_limit_while_the_heart_beats(fleet: Fleet) -> None:
    fleet.start_worker("attic", "--job-limit", "1.7")
    hung = fleet.client.submit(b"hang", timeout=2.5)
    with pytest.raises(RequestFailed):
        hung.result(30)
    assert fleet.client.submit(b"hello").result(30).worker == "attic"
    assert fleet.status()["departed"] == []  # 1.7 s is longer than three silent heartbeats


def test_a_bad_picture_is_refused_by_name_and_costs_no_attempt(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    with pytest.raises(RequestFailed, match="Send a photo") as failure:
        fleet.client.submit(b"bad").result(30)
    assert failure.value.reason is Reason.BAD_IMAGE
    assert fleet.status()["counters"]["requeued"] == 0


def test_each_timing_of_an_answer_lies_within_the_next_longer_one(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    answer = fleet.client.submit(b"sleep:0.05").result(30)
    times = answer.times
    assert times.infer >= 50
    assert times.decode + times.infer <= times.worker
    assert times.queue + times.worker <= times.broker <= answer.total_ms


def test_a_stopped_worker_finishes_its_work_and_exits_with_0(fleet: Fleet, tmp_path: Path) -> None:
    leaving = fleet.start_worker("leaving")
    begun = tmp_path / "begun"
    future = fleet.client.submit(f"mark:{begun}".encode())
    eventually(begun.exists, "it is at work")
    leaving.send_signal(signal.SIGTERM)
    answer = future.result(30)
    assert (answer.worker, answer.attempts) == ("leaving", 1)
    assert leaving.wait(30) == 0
    eventually(lambda: fleet.names() == [], "it is gone")
    assert fleet.status()["counters"]["requeued"] == 0


def test_work_on_its_way_to_a_worker_that_stops_is_not_lost(fleet: Fleet) -> None:
    leaving = fleet.start_worker("leaving")
    fleet.start_worker("staying")
    futures = [fleet.client.submit(b"sleep:0.05 %d" % n) for n in range(12)]
    leaving.send_signal(signal.SIGTERM)
    assert {future.result(30).attempts for future in futures} == {1}
    assert leaving.wait(30) == 0


def test_a_frozen_worker_loses_its_work_to_another_and_returns(fleet: Fleet) -> None:
    frozen = fleet.start_worker("frozen")
    future = fleet.client.submit(b"sleep:0.3 first")
    eventually(lambda: fleet.worker("frozen")["in_flight"], "it is at work")
    frozen.send_signal(signal.SIGSTOP)
    fleet.start_worker("awake")
    assert future.result(30).worker == "awake"
    frozen.send_signal(signal.SIGCONT)
    eventually(lambda: "frozen" in fleet.names(), "it is back")


def test_50_requests_survive_the_death_of_the_broker(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    fleet.start_worker("cellar")
    futures = [fleet.client.submit(b"sleep:0.1 %d" % n, timeout=30) for n in range(50)]
    eventually(lambda: fleet.status()["queue"].get("in_flight"), "work has begun")
    assert fleet.broker is not None
    fleet.broker.kill()
    fleet.broker.wait()
    fleet.start_broker()
    began = time.monotonic()
    eventually(lambda: len(fleet.names()) == 2, "both workers are back")
    assert time.monotonic() - began < 5  # 2 s on an idle machine
    assert len({future.result(30).request_id for future in futures}) == 50


def test_a_stopped_broker_finishes_its_work_and_exits_with_0(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    future = fleet.client.submit(b"sleep:0.3")
    eventually(lambda: fleet.status()["queue"].get("in_flight"), "work has begun")
    assert fleet.broker is not None
    fleet.broker.send_signal(signal.SIGTERM)
    assert future.result(30).worker == "attic"
    assert fleet.broker.wait(30) == 0


def test_a_full_queue_answers_busy_at_once(fleet: Fleet) -> None:
    assert fleet.broker is not None
    fleet.broker.kill()
    fleet.broker.wait()
    fleet.start_broker("--max-waiting", "3")
    fleet.start_worker("attic")
    futures = [fleet.client.submit(b"sleep:0.3 %d" % n) for n in range(8)]
    reasons = []
    for future in futures:
        try:
            future.result(30)
        except RequestFailed as failed:
            reasons.append(failed.reason)
    assert reasons == [Reason.BUSY] * 3  # two in the worker's hands, three in the queue


def test_without_a_worker_a_request_waits_for_one_until_its_deadline(fleet: Fleet) -> None:
    lost = fleet.client.submit(b"hello", timeout=0.3)
    with pytest.raises(RequestFailed) as failure:
        lost.result(30)
    assert failure.value.reason is Reason.NO_WORKERS
    waiting = fleet.client.submit(b"hello", timeout=30)
    fleet.start_worker("late")
    assert waiting.result(30).worker == "late"


def test_an_unknown_model_is_named_as_such(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    with pytest.raises(RequestFailed, match="squeezenet1_1") as failure:
        fleet.client.submit(b"hello", model="resnet9000").result(30)
    assert failure.value.reason is Reason.NO_MODEL


def test_a_worker_with_other_weights_is_refused_and_says_why(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    other = fleet.launch_worker("other", "--weights", "mine", stderr=subprocess.PIPE)
    _, said = other.communicate(timeout=30)
    assert other.returncode == 1
    assert b"--weights" in said
    assert fleet.names() == ["attic"]


def test_a_worker_whose_model_is_not_compiled_logs_why(fleet: Fleet, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        fleet.start_worker(
            "slow", stderr=stderr, env={**os.environ, "STAND_IN_UNFUSED": "no compiler here"}
        )
    eventually(lambda: "could be: no compiler here" in log.read_text(), "the log says it")


def test_a_worker_that_fails_its_golden_test_refuses_to_start(fleet: Fleet) -> None:
    wrong = fleet.launch_worker(
        "wrong", stderr=subprocess.PIPE, env={**os.environ, "STAND_IN_REFUSES": "1"}
    )
    _, said = wrong.communicate(timeout=30)
    assert wrong.returncode == 1
    assert b"toaster" in said


def test_the_operator_can_drain_remove_and_dial_workers(fleet: Fleet) -> None:
    drained = fleet.start_worker("drained")
    removed = fleet.start_worker("removed")
    assert fleet.client.control(Op.DRAIN, fleet.worker("drained")["id"])[0]
    assert drained.wait(30) == 0
    assert fleet.client.control(Op.REMOVE, fleet.worker("removed")["id"])[0]
    assert removed.wait(30) == 0
    assert not fleet.client.control(Op.REMOVE, "0011223344")[0]
    port = free_port()
    fleet.launch_worker("listening", "--listen", f"tcp://127.0.0.1:{port}")
    assert fleet.client.control(Op.ADD, f"tcp://127.0.0.1:{port}")[0]
    eventually(lambda: "listening" in fleet.names(), "the dialled worker joins")
    assert fleet.client.submit(b"hello").result(30).worker == "listening"


def test_a_second_broker_on_the_same_port_says_which_flag_to_change(fleet: Fleet) -> None:
    fleet.start_worker("attic")  # so the first is surely up
    second = fleet.run_broker(fleet.frontend, fleet.backend, stderr=subprocess.PIPE)
    _, said = second.communicate(timeout=30)
    assert second.returncode == 1
    assert b"--frontend" in said
    assert fleet.client.submit(b"hello").result(30).worker == "attic"


def test_a_killed_worker_leaves_no_children_behind(fleet: Fleet) -> None:
    worker = fleet.start_worker("attic")
    children = below(worker.pid)
    assert children
    worker.kill()
    worker.wait()
    eventually(lambda: not any(map(alive, children)), "its children are gone")


def test_the_command_line_ends_quietly_when_its_reader_has_seen_enough(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    samples = [str(ROOT / "static" / "samples" / "cat.jpg")] * 3
    client = fleet.start(
        "client.py", "--broker", fleet.frontend, *samples,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    client.stdout.close()  # as `| head` does
    client.stdout = None
    _, said = client.communicate(timeout=30)
    assert b"Traceback" not in said and b"Exception" not in said
    assert client.returncode == 1
