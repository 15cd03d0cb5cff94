"""A fleet on a real Ray cluster of two nodes: what Ray kills comes back, and no picture is lost.

Needs Ray, which is no part of the product: `make ray` installs it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.fleet import STAND_IN, Fleet
from testbed.processes import ROOT, eventually

ray = pytest.importorskip("ray", reason="Ray is not installed; `make ray` does that")

from ray.cluster_utils import Cluster  # noqa: E402

from deploy import ray_fleet  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

#: Bytes of shared memory of each node: the least that Ray takes. No picture goes there.
STORE = 80 * 1024 * 1024
#: Seconds for Ray to start actors on a busy machine.
START = 90.0
#: Runs the command with the stand-in for the model.
COMMAND = "import sys; from deploy import ray_fleet; sys.exit(ray_fleet.main({!r}, {!r}))"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine, each with room for four workers."""
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=4, object_store_memory=STORE, include_dashboard=False)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


class Pictures:
    """Pictures that flow all the time, eight in flight. An answer too few or too many shows."""

    def __init__(self, fleet: Fleet) -> None:
        self.sent = 0
        self.answers: list[str] = []
        self._fleet = fleet
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._flow, args=(n,)) for n in range(8)]
        for thread in self._threads:
            thread.start()

    def _flow(self, number: int) -> None:
        for n in range(100_000):
            if self._stop.is_set():
                return
            self.sent += 1
            picture = f"sleep:0.02 {number} {n}".encode()
            answer = self._fleet.client.submit(picture, timeout=60.0).result()
            self.answers.append(answer.predictions[0]["label"])

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def pids(fleet: Fleet) -> dict[str, int]:
    """The process of each worker that is connected."""
    return {w["name"]: w["pid"] for w in fleet.status()["workers"]}


def actor_of(worker: int) -> int:
    """The process that waits for a worker."""
    return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])


def rejoined(fleet: Fleet, ray_fleet_: Any, old: dict[str, int], name: str) -> bool:
    """Whether another process works under this name, and everybody else still does."""
    ray_fleet_.look()
    now = pids(fleet)
    return set(now) == set(old) and now[name] != old[name]


def test_what_is_killed_comes_back_and_no_picture_is_lost(cluster: Any, fleet: Fleet) -> None:
    with contextlib.ExitStack() as end:
        ray_fleet.connect(cluster.address)
        end.callback(ray.shutdown)
        workers = ray_fleet.RayFleet([fleet.backend], 4, program=STAND_IN)
        eventually(lambda: workers.look().running == 4, "Ray runs them", START)
        assert workers.look().nodes == 2
        eventually(lambda: len(pids(fleet)) == 4, "they join", START)
        flow = Pictures(fleet)
        end.callback(flow.end)

        def killed(name: str, kill: Any) -> None:
            old = pids(fleet)
            done = len(flow.answers)
            kill(old[name])
            eventually(lambda: rejoined(fleet, workers, old, name), f"{name} rejoins", START)
            eventually(lambda: not Path(f"/proc/{old[name]}").exists(), "the old one has ended")
            eventually(lambda: len(flow.answers) > done + 50, "pictures flow")

        killed("ray-1", lambda pid: ray.kill(workers.actors[0], no_restart=False))
        killed("ray-2", lambda pid: os.kill(actor_of(pid), signal.SIGKILL))
        killed("ray-3", lambda pid: os.kill(pid, signal.SIGKILL))
        assert workers.look().restarts == 3

        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        eventually(lambda: workers.look().nodes == 1, "Ray has seen that the node is lost", START)
        eventually(lambda: workers.look().running == 4, "its workers move", START)
        eventually(lambda: len(pids(fleet)) == 4, "and join", START)
        flow.end()
        assert len(flow.answers) == flow.sent > 200
        assert len(set(flow.answers)) == flow.sent  # each its own, by its picture's hash
        assert fleet.status()["counters"]["failed"] == 0
        assert workers.stop() == 0


def test_the_command_ends_after_all_workers_have_left(cluster: Any, fleet: Fleet) -> None:
    flags = [fleet.backend, "--workers", "2", "--address", cluster.address]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(flags, STAND_IN)], cwd=ROOT, stdout=subprocess.PIPE
    ) as command:
        try:
            eventually(lambda: len(pids(fleet)) == 2, "they join", START)
            future = fleet.client.submit(b"sleep:1", timeout=30.0)
            eventually(lambda: fleet.status()["queue"]["in_flight"], "one computes")
            command.send_signal(signal.SIGINT)
            assert future.result().predictions
            said, _ = command.communicate(timeout=START)
        finally:
            command.kill()
    assert command.returncode == 0
    assert b"2 of 2 workers run" in said
    assert b"all workers have left" in said
    assert {gone["reason"] for gone in fleet.status()["departed"]} == {"stopped by its operator"}


def test_a_cluster_that_is_not_there_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert ray_fleet.main(["--address", "127.0.0.1:1"]) == 3
    assert "Start one with `ray start --head`" in capsys.readouterr().err
