"""What the dispatcher remembers: jobs, workers, and one pool of both for each model.

Plain data with the few moves that keep it consistent. No clock, no I/O; `now` is an argument and
every time is in seconds of one monotonic clock.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from math import ceil

from spyglass.dispatcher.decisions import Move
from spyglass.dispatcher.health import Health
from spyglass.dispatcher.senders import Senders
from spyglass.protocol import Ready, Request

#: Answers the latency figures are drawn from: recent enough to follow a change, enough for a
#: 95th percentile.
LATENCY_WINDOW = 200
#: Answers between two looks at a pool's latencies: sorting them costs some 10 us.
LATENCY_REFRESH = 20
#: Weight of the newest answer in a worker's mean latency.
PACE_WEIGHT = 0.2
#: A worker this many times slower than the typical one of its pool counts as slow: less is what
#: chance and its queue make of equal machines.
SLOW = 3
#: Seconds a typical answer counts as at least: among faster ones no difference matters.
LEAST_TYPICAL = 0.005
#: A slow worker's handicap is at most this: beyond it, it is the last choice anyway.
MAX_HANDICAP = 16


class JobState(Enum):
    """Where an accepted request stands. It moves forward, or back to WAITING when requeued."""

    WAITING = "waiting"  # in its pool's queue
    SENT = "sent"  # on its way to a worker, not yet acknowledged
    RUNNING = "running"  # acknowledged: a worker has it whole
    ANSWERED = "answered"  # the client has its one final answer


@dataclass(slots=True, eq=False)
class Job:
    """One accepted request until it is answered. Two jobs are the same only by identity."""

    senders: Senders
    request: Request
    pool: Pool
    arrived: float
    deadline: float
    size: int  # bytes of the picture
    tried: int = 0  # attempts begun
    spared: int = 0  # those of them that count for nothing: a worker that was cut off had it
    attempts: list[Attempt] = field(default_factory=list)  # those that run: one, or its hedge too
    hedge_at: float = float("inf")
    armed: float = float("inf")  # the earliest timer set for it
    excluded: set[bytes] = field(default_factory=set)  # workers that failed this request
    moves: tuple[Move, ...] = ()  # the times it lost its worker
    queued: bool = True  # it waits; else a worker has it, or it is closed
    closed: bool = False

    @property
    def state(self) -> JobState:
        """Which of the four it is in."""
        if self.closed:
            return JobState.ANSWERED
        if any(attempt.acked for attempt in self.attempts):
            return JobState.RUNNING
        return JobState.SENT if self.attempts else JobState.WAITING

    @property
    def next_timer(self) -> float:
        """When something must happen to it at the latest."""
        return min([self.deadline, self.hedge_at, *[each.deadline for each in self.attempts]])


@dataclass(slots=True, eq=False)
class Attempt:
    """A job on a worker."""

    job: Job
    worker: Worker
    number: int  # 1 for the job's first
    sent: float
    deadline: float  # of the ACK at first, of the answer once acknowledged
    acked: bool = False


@dataclass(slots=True, eq=False)
class Worker:
    """One connected worker. Alive is `heard`, willing is `credit`, what is lost is `in_flight`."""

    address: bytes
    id: str  # how people and programs name it: never its address, which tells others' addresses
    hello: Ready
    name: str
    pool: Pool
    joined: float
    heard: float
    credit: int
    health: Health = field(default_factory=Health)
    in_flight: dict[bytes, Attempt] = field(default_factory=dict)
    #: Requests it will still answer or NACK, each holding one credit: those in flight and those
    #: taken from it (deadline, hung) that its child may still be computing.
    owed: dict[bytes, Job] = field(default_factory=dict)
    at_hand: set[bytes] = field(default_factory=set)  # those owed that it acknowledged
    #: Requests it let go unacknowledged, and how many times, each time with a last word that it may
    #: still say; the earliest first.
    given_up: dict[bytes, int] = field(default_factory=dict)
    on_the_way: int = 0  # bytes of pictures sent and not acknowledged
    let_go: float = float("-inf")  # when it last let a request go unacknowledged
    silent: bool = False  # it let a request go unacknowledged, and has said nothing since
    draining: bool = False
    dismissed: bool = False  # told by the operator to leave after its work
    done: int = 0
    failed: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_WINDOW))
    pace: float = 0.0  # s, moving mean of the time from sending a request to its answer
    handicap: int = 1  # how many times slower than usual, 1 if not remarkably

    @property
    def state(self) -> str:
        """The word on the status page."""
        if self.draining:
            return "draining"
        if self.health.out:
            return "ejected"
        return "busy" if self.in_flight else "ready"

    @property
    def fit(self) -> bool:
        """Whether it may get work at all: it stays, is not ejected, and answers."""
        return not (self.draining or self.silent or self.health.until is not None)

    @property
    def willing(self) -> bool:
        """Whether it may be given work: one request at a time if that is its probe."""
        if self.credit <= 0 or not self.fit:
            return False
        return not (self.health.probing and self.owed)

    @property
    def level(self) -> int:
        """How long work would wait there: 0 while a child of usual speed is idle."""
        return (len(self.owed) // self.hello.processes + 1) * self.handicap - 1

    def answered_in(self, seconds: float) -> None:
        """Learn from an answer how fast it is, next to the others of its pool."""
        self.latencies.append(seconds)
        self.pace += (seconds - self.pace) * (PACE_WEIGHT if len(self.latencies) > 1 else 1)
        self.pool.answered_in(seconds)
        slower = self.pace / self.pool.typical
        self.handicap = min(MAX_HANDICAP, int(slower)) if slower >= SLOW else 1


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
        if not worker.willing:
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

    def choose(
        self, request_id: bytes, excluded: set[bytes], below: int | None = None
    ) -> Worker | None:
        """The worker whose turn it is, passing over the excluded ones.

        Passed over too is one that still owes its last word on this very request, from an
        earlier attempt: a second one could not be told from the first, nor its credit.

        Args:
            below: look only at workers of a level below this.
        """
        for level in self._levels if below is None else self._levels[:below]:
            for address, worker in level.items():
                if address not in excluded and request_id not in worker.owed:
                    return worker
        return None


class Pool:
    """Everything about one model: its workers, and the jobs that wait for one of them."""

    def __init__(self, model: str, hedges: float) -> None:
        """
        Args:
            hedges: how many requests may be hedged before any share of them is earned.
        """
        self.model = model
        self.digest = ""
        self.workers: dict[bytes, Worker] = {}
        self.draining = 0  # of the workers
        self.out: dict[bytes, Worker] = {}  # ejected or on probation, the earliest first
        self.idle = Idle()
        self.running = 0  # attempts on workers
        self.retrying = 0  # those of them that are not a job's first
        self.computing: Counter[str] = Counter()  # the running attempts by picture
        self.hedges = hedges  # earned and not used
        self.typical = float("inf")  # s, median latency of the last answers
        self.p95 = 0.0  # s
        self._fresh: OrderedDict[bytes, Job] = OrderedDict()  # first come, first served
        self._requeued: list[Job] = []  # before all fresh ones, the longest waiting first
        self._parked: dict[str, list[Job]] = {}  # by picture, while a copy of it is computed
        self._parked_jobs = 0
        self._latencies: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self._refresh_in = 0

    def __repr__(self) -> str:
        return (
            f"<Pool {self.model} {len(self.workers)} workers, {len(self.idle)} idle,"
            f" {self.waiting} waiting>"
        )

    # --- jobs that no worker has --------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many there are."""
        return len(self._fresh) + len(self._requeued) + self._parked_jobs

    @property
    def queued(self) -> int:
        """How many of them do not wait for a copy of their picture."""
        return len(self._fresh) + len(self._requeued)

    @property
    def requeued(self) -> int:
        """How many of them stand at the head of the queue: most were tried before."""
        return len(self._requeued)

    def enqueue(self, job: Job) -> None:
        """A new job, to the end of the queue."""
        job.queued = True
        self._fresh[job.request.id] = job

    def requeue(self, job: Job) -> None:
        """A job that lost its worker, to the head of the queue."""
        job.queued = True
        insort(self._requeued, job, key=lambda waiting: waiting.arrived)

    def dequeue(self, job: Job) -> None:
        """Take a waiting job out, wherever it stands."""
        job.queued = False
        if self._fresh.pop(job.request.id, None) is not None:
            return
        if job in self._requeued:
            self._requeued.remove(job)
            return
        copies = self._parked[job.request.sha256]
        copies.remove(job)
        self._parked_jobs -= 1
        if not copies:
            del self._parked[job.request.sha256]

    def park(self, job: Job) -> None:
        """Keep a job out of the queue until the present copy of its picture is done, or its trial
        is over."""
        self.dequeue(job)
        job.queued = True
        self._parked.setdefault(job.request.sha256, []).append(job)
        self._parked_jobs += 1

    def begins(self, attempt: Attempt) -> None:
        """A worker has it."""
        self.running += 1
        self.retrying += attempt.number > 1
        self.computing[attempt.job.request.sha256] += 1

    def ends(self, attempt: Attempt) -> None:
        """A worker has it no more; copies of its picture may take their places again."""
        sha256 = attempt.job.request.sha256
        self.running -= 1
        self.retrying -= attempt.number > 1
        self.computing[sha256] -= 1
        if not self.computing[sha256]:
            del self.computing[sha256]
        self.unpark(sha256)

    def unpark(self, sha256: str) -> None:
        """Copies of a picture take their places in the queue again."""
        copies = self._parked.pop(sha256, ())
        self._parked_jobs -= len(copies)
        for copy in copies:
            self.requeue(copy)

    def waiting_jobs(self) -> Iterable[Job]:
        yield from self.queue()
        for copies in self._parked.values():
            yield from copies

    def queue(self, retries: bool = True) -> Iterable[Job]:
        """Those that a worker may have, in their order; the retried ones if wanted."""
        yield from (job for job in self._requeued if retries or not job.tried)
        yield from self._fresh.values()

    def oldest_arrival(self) -> float | None:
        """When the longest waiting job came, or None."""
        firsts = [self._requeued[:1], *(copies[:1] for copies in self._parked.values())]
        oldest = [job.arrived for first in firsts for job in first]
        if self._fresh:
            oldest.append(next(iter(self._fresh.values())).arrived)
        return min(oldest, default=None)

    def next_match(
        self, retries: bool, held_up: Callable[[str, bool], bool]
    ) -> tuple[Job, Worker] | None:
        """The job that is next and the worker that shall have it; the job leaves the queue.

        Args:
            retries: whether one that was tried before may be.
            held_up: whether a picture must wait, given whether a copy of it is computed now.
        """
        match, copies = None, []
        for job in self.queue(retries):
            sha256 = job.request.sha256
            if held_up(sha256, sha256 in self.computing):
                copies.append(job)
                continue
            worker = self.idle.choose(job.request.id, self.excluded(job))
            if worker is not None:
                match = job, worker
                self.dequeue(job)
                break
        for job in copies:
            self.park(job)
        return match

    def excluded(self, job: Job) -> set[bytes]:
        """Workers that shall not have this job."""
        if not job.excluded:
            return job.excluded
        # A fleet of one still has to try again: its worker replaces the child that crashed.
        others = any(
            address not in job.excluded and worker.fit for address, worker in self.workers.items()
        )
        return job.excluded if others else set()

    # --- how fast -----------------------------------------------------------------------------

    def answered_in(self, seconds: float) -> None:
        """Learn from an answer what is usual."""
        self._latencies.append(seconds)
        self._refresh_in -= 1
        if self._refresh_in < 0:
            recent = sorted(self._latencies)
            self.typical = max(LEAST_TYPICAL, percentile(recent, 0.5))
            self.p95 = percentile(recent, 0.95)
            self._refresh_in = min(LATENCY_REFRESH, len(recent))


def percentile(ascending: list[float], share: float) -> float:
    """By nearest rank, of at least one value."""
    return ascending[max(0, ceil(share * len(ascending)) - 1)]
