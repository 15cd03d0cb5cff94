"""What the dispatcher remembers: jobs, workers, and one pool of both for each model.

Plain data with the few moves that keep it consistent. No clock, no I/O; `now` is an argument and
every time is in seconds of one monotonic clock.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from zmq_protocol import Ready, Request

#: Answers a worker's latency figures are drawn from: recent enough to follow a change, enough
#: for a 95th percentile.
LATENCY_WINDOW = 200


class JobState(Enum):
    """Where an accepted request stands. It moves forward, or back to WAITING when requeued."""

    WAITING = "waiting"  # in its pool's queue
    SENT = "sent"  # on its way to a worker, not yet acknowledged
    RUNNING = "running"  # acknowledged: the worker has it whole
    ANSWERED = "answered"  # the client has its one final answer


@dataclass(slots=True, eq=False)
class Job:
    """One accepted request until it is answered. Two jobs are the same only by identity."""

    client: bytes
    request: Request
    pool: Pool
    arrived: float
    deadline: float
    size: int  # bytes of the picture
    state: JobState = JobState.WAITING
    attempts: int = 0
    worker: Worker | None = None
    excluded: set[bytes] = field(default_factory=set)  # workers that failed this request
    sent: float = 0.0
    attempt_deadline: float = float("inf")  # of the ACK while SENT, of the answer while RUNNING

    @property
    def next_timer(self) -> float:
        """When something must happen to it at the latest."""
        if self.worker is None:
            return self.deadline
        return min(self.deadline, self.attempt_deadline)


@dataclass(slots=True, eq=False)
class Worker:
    """One connected worker. Alive is `heard`, willing is `credit`, what is lost is `in_flight`."""

    address: bytes
    hello: Ready
    name: str
    pool: Pool
    joined: float
    heard: float
    credit: int
    in_flight: dict[bytes, Job] = field(default_factory=dict)
    #: Requests it will still answer or NACK, each holding one credit: those in flight and those
    #: taken from it (deadline, hung) that its child may still be computing.
    owed: set[bytes] = field(default_factory=set)
    draining: bool = False
    dismissed: bool = False  # told by the operator to leave after its work
    done: int = 0
    failed: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_WINDOW))

    @property
    def id(self) -> str:
        """How people name this connection: its address in hexadecimal."""
        return self.address.hex()

    @property
    def state(self) -> str:
        """The word on the status page."""
        if self.draining:
            return "draining"
        return "busy" if self.in_flight else "ready"

    @property
    def level(self) -> int:
        """Full rounds of work it holds: 0 while a child is idle, 1 when work would queue there."""
        return len(self.owed) // self.hello.processes


class Idle:
    """Workers with credit, the least loaded first, among those the least recently used.

    One ordered dictionary per level of load, so that both choosing and moving a worker cost the
    same with two workers as with a thousand.
    """

    def __init__(self) -> None:
        self._levels: list[OrderedDict[bytes, Worker]] = []
        self._level_of: dict[bytes, int] = {}

    def __bool__(self) -> bool:
        return bool(self._level_of)

    def __len__(self) -> int:
        return len(self._level_of)

    def __contains__(self, worker: Worker) -> bool:
        return worker.address in self._level_of

    def put(self, worker: Worker) -> None:
        """File a worker under its present load, or take it out if it may get nothing."""
        self.remove(worker)
        if worker.credit <= 0 or worker.draining:
            return
        level = worker.level
        while len(self._levels) <= level:
            self._levels.append(OrderedDict())
        self._levels[level][worker.address] = worker
        self._level_of[worker.address] = level

    def remove(self, worker: Worker) -> None:
        level = self._level_of.pop(worker.address, None)
        if level is not None:
            del self._levels[level][worker.address]

    def choose(self, request_id: bytes, excluded: set[bytes]) -> Worker | None:
        """The worker whose turn it is, passing over the excluded ones.

        Passed over too is one that still owes its last word on this very request, from an
        earlier attempt: a second one could not be told from the first, nor its credit.
        """
        for level in self._levels:
            for address, worker in level.items():
                if address not in excluded and request_id not in worker.owed:
                    return worker
        return None


class Pool:
    """Everything about one model: its workers, and the jobs that wait for one of them."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.digest = ""
        self.workers: dict[bytes, Worker] = {}
        self.idle = Idle()
        self._fresh: OrderedDict[bytes, Job] = OrderedDict()  # first come, first served
        self._requeued: list[Job] = []  # before all fresh ones, the longest waiting first

    def __repr__(self) -> str:
        return (
            f"<Pool {self.model} {len(self.workers)} workers, {len(self.idle)} idle,"
            f" {self.waiting} waiting>"
        )

    @property
    def waiting(self) -> int:
        """Jobs that no worker has."""
        return len(self._fresh) + len(self._requeued)

    def enqueue(self, job: Job) -> None:
        """A new job, to the end of the queue."""
        self._fresh[job.request.id] = job

    def requeue(self, job: Job) -> None:
        """A job that lost its worker, to the head of the queue."""
        insort(self._requeued, job, key=lambda waiting: waiting.arrived)

    def dequeue(self, job: Job) -> None:
        """Take a waiting job out, wherever it stands."""
        if self._fresh.pop(job.request.id, None) is None:
            self._requeued.remove(job)

    def waiting_jobs(self) -> Iterable[Job]:
        yield from self._requeued
        yield from self._fresh.values()

    def oldest_arrival(self) -> float | None:
        """When the longest waiting job came, or None."""
        if self._requeued:
            return self._requeued[0].arrived
        return next(iter(self._fresh.values())).arrived if self._fresh else None

    def next_match(self) -> tuple[Job, Worker] | None:
        """The job that is next and the worker that shall have it; the job leaves the queue."""
        if not self.idle:
            return None
        for job in self.waiting_jobs():
            worker = self.idle.choose(job.request.id, self._excluded(job))
            if worker is not None:
                self.dequeue(job)
                return job, worker
        return None

    def _excluded(self, job: Job) -> set[bytes]:
        if not job.excluded:
            return job.excluded
        # A fleet of one still has to try again: its worker replaces the child that crashed.
        others = any(
            address not in job.excluded and not worker.draining
            for address, worker in self.workers.items()
        )
        return job.excluded if others else set()
