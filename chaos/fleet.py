"""The fleet under test as real processes on free ports of this machine: start, hit, replace, end.

Nothing here is stopped by name: every signal goes to a process this module started, or to one
below it in /proc. Only one thread may use a Fleet.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from testbed.relay import Relay

ROOT = Path(__file__).resolve().parent.parent

#: Seconds a stopped process has to leave before it is killed at the end.
LEAVE_WITHIN = 3.0
#: Seconds the processes of a killed one have to end by themselves.
GONE_WITHIN = 3.0


def free_port() -> int:
    """A port of the loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def below(pid: int) -> list[int]:
    """All processes below one, parents first. Empty when it is gone."""
    found = []
    for child in _children(pid):
        found += [child, *below(child)]
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    return _state(pid) not in "Z"


def computes(pid: int) -> bool:
    """Whether a process is on a core, or waits for one."""
    return _state(pid) == "R"


def child_of(worker: int) -> int | None:
    """The child that computes: it hangs below the fork server, which hangs below the worker."""
    children = set(below(worker)) - set(_children(worker))
    return max(children, default=None)


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; whether there was somebody to get it."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _state(pid: int) -> str:
    """The letter of proc(5), or nothing."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""


def _children(pid: int) -> Iterator[int]:
    for task in _list(f"/proc/{pid}/task"):
        with suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
            yield from map(int, file.read().split())


def _list(path: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(path)
    return []


@dataclass(eq=False)
class Broker:
    """A broker's place: its addresses stay when its process is replaced."""

    number: int
    front: str
    back: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"broker-{self.number + 1}"


@dataclass(eq=False)
class Worker:
    """A worker's place in the fleet, and the process that has it at present."""

    number: int
    relays: list[Relay]  # one for each broker, or none
    generation: int = 0
    process: subprocess.Popen[bytes] | None = None
    family: set[int] = field(default_factory=set)  # of processes that were killed

    @property
    def name(self) -> str:
        """A fresh name for each process: what is said of an old one is not said of the new."""
        return f"w{self.number + 1}.{self.generation}"


class Fleet:
    """Brokers, workers and the web. `start` it, `close` it."""

    def __init__(
        self,
        workers: int,
        relayed: Sequence[int],
        brokers: int,
        job_limit: float,
        logs: Path,
        worker: Sequence[str] = ("worker.py",),
    ) -> None:
        """Open nothing but ports and relays.

        Args:
            workers, relayed, brokers: as in the schedule.
            job_limit: seconds a worker allows a picture.
            logs: folder for what the processes say.
            worker: the worker's program, for tests without a model.
        """
        self._logs = logs
        self._job_limit = job_limit
        self._worker = list(worker)
        self._started: list[subprocess.Popen[bytes]] = []
        self._doomed: set[subprocess.Popen[bytes]] = set()  # those that may end
        self._relays: list[Relay] = []
        self.web: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.brokers = [
            Broker(n, f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}")
            for n in range(brokers)
        ]
        try:
            self.workers = [
                Worker(n, self._open_relays() if n in relayed else []) for n in range(workers)
            ]
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start everything, the web last. Waits for nothing."""
        for broker in self.brokers:
            self.start_broker(broker)
        for worker in self.workers:
            self.start_worker(worker)
        flags = [word for broker in self.brokers for word in ("--broker", broker.front)]
        self.web = self._run("web", "web.py", *flags, "--port", str(self.port))

    def start_broker(self, broker: Broker) -> None:
        """Start a broker, or start it again where it was."""
        ends = ("--frontend", broker.front, "--backend", broker.back)
        broker.process = self._run(broker.name, "broker.py", *ends)

    def start_worker(self, worker: Worker) -> None:
        """Start a worker in this place under a fresh name."""
        worker.generation += 1
        addresses = [r.address for r in worker.relays] or [b.back for b in self.brokers]
        flags = ("--processes", "1", "--job-limit", str(self._job_limit), "--name", worker.name)
        worker.process = self._run(worker.name, *self._worker, *addresses, *flags)

    def kill(self, place: Broker | Worker, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to one process. Those below it must end by themselves; they are noted."""
        if isinstance(place, Worker):
            place.family.update(below(process.pid))
        self._doomed.add(process)
        process.kill()
        process.wait()

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """SIGTERM to one process."""
        self._doomed.add(process)
        process.terminate()

    def replace_dead(self) -> list[str]:
        """Start anew whatever ended by itself, as a supervisor does; a sentence on each."""
        found = []
        places: list[Broker | Worker] = [*self.brokers, *self.workers]
        for place in places:
            process = place.process
            if process is None or process in self._doomed or process.poll() is None:
                continue
            found.append(f"{place.name} ended by itself, with {process.returncode}.")
            if isinstance(place, Broker):
                self.start_broker(place)
            else:
                self.start_worker(place)
        if self.web is not None and self.web not in self._doomed and self.web.poll() is not None:
            self._doomed.add(self.web)
            found.append(f"the web ended by itself, with {self.web.returncode}.")
        return found

    def keep_one(self) -> None:
        """Stop all workers but the first, and wait until they have left."""
        others = [w.process for w in self.workers[1:] if w.process is not None]
        for process in others:
            self.stop(process)
        wait_for(lambda: all(p.poll() is not None for p in others), 10.0, "stopping the others")

    def left_behind(self) -> list[int]:
        """Processes of killed workers that outlived them by seconds."""
        until = time.monotonic() + GONE_WITHIN
        pids = {pid for worker in self.workers for pid in worker.family}
        while (left := sorted(filter(alive, pids))) and time.monotonic() < until:
            time.sleep(0.05)
        return left

    def close(self) -> None:
        """End all that was started, and what is below it; frozen or not, nothing stays."""
        running = [process for process in self._started if process.poll() is None]
        everybody = [pid for process in running for pid in below(process.pid)]
        for pid in everybody:
            send(pid, signal.SIGCONT)
        for process in running:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        until = time.monotonic() + LEAVE_WITHIN
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        for process in running:
            if process.poll() is None:
                everybody += below(process.pid)
                process.kill()
                process.wait()
        for pid in everybody:
            if alive(pid):
                send(pid, signal.SIGKILL)
        for relay in self._relays:
            relay.close()

    def _open_relays(self) -> list[Relay]:
        mine = []
        for broker in self.brokers:
            mine.append(Relay(target=broker.back.removeprefix("tcp://")))
            self._relays.append(mine[-1])
        return mine

    def _run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches this program alone, which then ends the others.
        with open(self._logs / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if not k.startswith("SPYGLASS_")},
            )
        self._started.append(process)
        return process


def wait_for(condition: Callable[[], bool], within: float, what: str) -> None:
    """Look every 50 ms until the condition holds.

    Raises:
        TimeoutError: it never did.
    """
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} took longer than {within:.0f} s")
        time.sleep(0.05)
