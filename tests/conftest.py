"""A real fleet of processes on random ports, with a stand-in for the model."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brokerclient import BrokerClient, RequestFailed
from chaos.fleet import free_port

ROOT = Path(__file__).resolve().parent.parent

#: Seconds any condition may take on a slow, busy machine.
PATIENCE = 30.0


def eventually(condition: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """Wait until the condition holds; its value."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if value := condition():
            return value
        select.select([], [], [], 0.002)
    raise AssertionError(f"never came true: {what}")


def rss(pid: int) -> int:
    """Bytes of memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Fleet:
    """Broker and stand-in workers as processes; everything is ended by `close`."""

    def __init__(self, frontend: str = "", backend: str = "") -> None:
        """At these addresses, or at free ports."""
        self.frontend = frontend or f"tcp://127.0.0.1:{free_port()}"
        self.backend = backend or f"tcp://127.0.0.1:{free_port()}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.broker: subprocess.Popen[bytes] | None = None
        self.client = BrokerClient([self.frontend])

    def start(self, *command: str, **more: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, **more)
        self.processes.append(process)
        return process

    def start_broker(self, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
        ends = ["--frontend", self.frontend, "--backend", self.backend]
        self.broker = self.start("broker.py", *ends, *flags, **more)
        return self.broker

    def start_worker(self, name: str, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
        """A worker with one child; waits until the broker lists it."""
        process = self.launch_worker(name, *flags, **more)
        eventually(lambda: name in self.names(), f"{name} joins")
        return process

    def launch_worker(
        self, name: str, *flags: str, at: str = "", **more: Any
    ) -> subprocess.Popen[bytes]:
        """A worker with one child, at another address than the broker's if `at` names one."""
        where = [] if "--listen" in flags else [at or self.backend]
        return self.start(
            "tests/stand_in.py", *where, "--processes", "1", "--name", name, *flags, **more
        )

    def status(self) -> dict[str, Any]:
        try:
            return self.client.status()
        except RequestFailed:
            return {"workers": [], "counters": {}, "departed": [], "events": [], "queue": {}}

    def names(self) -> list[str]:
        return [worker["name"] for worker in self.status()["workers"]]

    def worker(self, name: str) -> dict[str, Any]:
        return next(w for w in self.status()["workers"] if w["name"] == name)

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """A broker without workers."""
    fleet = Fleet()
    fleet.start_broker()
    eventually(lambda: fleet.status()["queue"], "the broker answers")
    try:
        yield fleet
    finally:
        fleet.close()
