"""A simulated worker: it computes some pictures side by side, each for a random time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from math import log
from random import Random

from simulation.plan import FAST_SHARE, FAST_SLOTS, SPEED_SPREAD, SPREAD, Plan
from spyglass.protocol import Ready, Request

#: Pictures a worker takes for each that it computes at a time, as worker.py does.
CREDIT_PER_SLOT = 2
#: Processes that share a fast worker's slots; each takes a batch.
FAST_PROCESSES = 4
DIGEST = "ab" * 32


@dataclass(slots=True, eq=False)
class Task:
    """A request on a worker."""

    side: int  # the broker it came from
    worker: Worker
    request: Request
    begins: float
    ends: float
    dropped: bool = False  # no reply will come


@dataclass(slots=True, eq=False)
class Worker:
    """One machine.

    Attributes:
        address: of its present connection.
        speed: pictures a slot computes, as a multiple of the usual.
        free_at: when each of its slots is free, a heap.
        held: requests it has not replied to.
        sides: the brokers it joins.
        last_sent: when it sent its last message.
        thaws: when it sends messages again, if it is frozen.
        steady: whether it never failed, left or lost a connection.
    """

    number: int
    speed: float
    slots: int
    sides: tuple[int, ...]
    address: bytes = b""
    process: int = 0
    free_at: list[float] = field(default_factory=list)
    held: list[Task] = field(default_factory=list)
    connected: bool = False
    leaving: bool = False
    last_sent: float = 0.0
    thaws: float = 0.0
    steady: bool = True
    done: int = 0

    @property
    def rate(self) -> float:
        """Pictures of the usual kind it computes in the time of one."""
        return self.speed * self.slots

    def connect(self, address: bytes, process: int) -> Ready:
        """A new connection; its first message."""
        self.address, self.process, self.connected, self.leaving = address, process, True, False
        return self.hello()

    def hello(self) -> Ready:
        """Its READY."""
        processes = min(self.slots, FAST_PROCESSES)
        credit = CREDIT_PER_SLOT * self.slots
        name = f"w{self.number}"
        return Ready("squeezenet1_1", DIGEST, credit, name, self.process, name, processes)

    def take(self, side: int, request: Request, at: float, needs: float) -> Task:
        """Give it a request at this time, for so many seconds of a usual slot."""
        begins = max(at, self.free_at[0])
        task = Task(side, self, request, begins, begins + needs / self.speed)
        heapq.heapreplace(self.free_at, task.ends)
        self.held.append(task)
        return task

    def drop(self, side: int | None = None) -> None:
        """Forget what it holds, for one broker or all."""
        for task in self.held:
            task.dropped = task.dropped or side is None or task.side == side
        self.held = [task for task in self.held if not task.dropped]

    def restart(self, at: float) -> None:
        """Its process is new: all slots are free."""
        self.free_at = [at] * self.slots


def make(plan: Plan, random: Random) -> list[Worker]:
    """The fleet, each worker with a random speed."""
    workers = []
    for number in range(plan.workers):
        slots = FAST_SLOTS if random.random() < FAST_SHARE else 1
        both = tuple(range(plan.brokers))
        sides = (number % plan.brokers,) if plan.split else both
        speed = random.lognormvariate(0.0, SPEED_SPREAD)
        workers.append(Worker(number, speed, slots, sides, free_at=[0.0] * slots))
    return workers


def needs(plan: Plan, random: Random) -> float:
    """Seconds a picture takes on a usual slot."""
    return random.lognormvariate(log(plan.service) - SPREAD**2 / 2, SPREAD)
