"""The fleet under test: every process has a place, and is replaced there after it was hit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.fleet import REAL, Programs
from testbed.processes import alive, below, eventually, free_address, free_port, undisturbed
from testbed.relay import Relay

#: Seconds a stopped process has to leave before it is killed at the end.
LEAVE_WITHIN = 3.0
#: Seconds the processes of a killed one have to end by themselves.
GONE_WITHIN = 3.0


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
    descendants: set[int] = field(default_factory=set)  # of processes that were killed

    @property
    def name(self) -> str:
        """A fresh name for each process: no event on an old one is taken for the new one's."""
        return f"w{self.number + 1}.{self.generation}"


class Fleet:
    """Brokers, workers and the web. `start` it, `close` it."""

    def __init__(
        self, workers: int, relayed: Sequence[int], brokers: int, job_limit: float, logs: Path
    ) -> None:
        """Open nothing but ports and relays.

        Args:
            workers, relayed, brokers: as in the schedule.
            job_limit: seconds a worker allows a picture.
            logs: folder for the output of the processes.
        """
        self._logs = logs
        self._job_limit = job_limit
        self._programs = Programs(LEAVE_WITHIN, **undisturbed())
        self._may_end: set[subprocess.Popen[bytes]] = set()
        self._relays: list[Relay] = []
        self.web: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.brokers = [Broker(n, free_address(), free_address()) for n in range(brokers)]
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
        fronts = [broker.front for broker in self.brokers]
        with self._log("web") as log:
            self.web = self._programs.run_web(fronts, self.port, **log)

    def start_broker(self, broker: Broker) -> None:
        """Start a broker, or start it again where it was."""
        with self._log(broker.name) as log:
            broker.process = self._programs.run_broker(broker.front, broker.back, **log)

    def start_worker(self, worker: Worker) -> None:
        """Start a worker in this place under a fresh name."""
        worker.generation += 1
        addresses = [r.address for r in worker.relays] or [b.back for b in self.brokers]
        limit = ("--job-limit", str(self._job_limit))
        with self._log(worker.name) as log:
            worker.process = self._programs.run_worker(
                worker.name, addresses, *limit, program=REAL, **log
            )

    def kill(self, place: Broker | Worker, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to one process. Those below it must end by themselves; they are noted."""
        if isinstance(place, Worker):
            place.descendants.update(below(process.pid))
        self._may_end.add(process)
        process.kill()
        process.wait()

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """SIGTERM to one process."""
        self._may_end.add(process)
        process.terminate()

    def replace_dead(self) -> list[str]:
        """Start anew whatever ended by itself, as a supervisor does; a sentence on each."""
        found = []
        places: list[Broker | Worker] = [*self.brokers, *self.workers]
        for place in places:
            process = place.process
            if process is None or process in self._may_end or process.poll() is None:
                continue
            found.append(f"{place.name} ended by itself, with {process.returncode}.")
            if isinstance(place, Broker):
                self.start_broker(place)
            else:
                self.start_worker(place)
        if self.web is not None and self.web not in self._may_end and self.web.poll() is not None:
            self._may_end.add(self.web)
            found.append(f"the web ended by itself, with {self.web.returncode}.")
        return found

    def keep_one(self) -> None:
        """Stop all workers but the first, and wait until they have left."""
        others = [w.process for w in self.workers[1:] if w.process is not None]
        for process in others:
            self.stop(process)
        eventually(lambda: all(p.poll() is not None for p in others), "the others stop", 10.0)

    def left_behind(self) -> list[int]:
        """Processes of killed workers that outlived them by seconds."""
        pids = {pid for worker in self.workers for pid in worker.descendants}
        with suppress(TimeoutError):
            eventually(lambda: not any(map(alive, pids)), "the killed leave nothing", GONE_WITHIN)
        return sorted(filter(alive, pids))

    def close(self) -> None:
        """End all that was started, and what is below it; frozen or not, nothing stays."""
        self._programs.close()
        for relay in self._relays:
            relay.close()

    def _open_relays(self) -> list[Relay]:
        mine = []
        for broker in self.brokers:
            mine.append(Relay(target=broker.back.removeprefix("tcp://")))
            self._relays.append(mine[-1])
        return mine

    @contextmanager
    def _log(self, name: str) -> Iterator[dict[str, Any]]:
        """Options for a process that writes to the log of this name."""
        with open(self._logs / f"{name}.log", "ab") as log:
            yield {"stdout": log, "stderr": log}
