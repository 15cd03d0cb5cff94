"""One pool for each model: its workers, and the requests that wait for one of them.

No clock, no I/O; `now` is an argument and every time is in seconds of one monotonic clock.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable

from spyglass.dispatcher.idle import Idle
from spyglass.dispatcher.job_state import Attempt, Job
from spyglass.dispatcher.policy import LATENCY_REFRESH, LATENCY_WINDOW, LEAST_TYPICAL, Policy
from spyglass.dispatcher.stats import percentile
from spyglass.dispatcher.worker_state import Worker
from spyglass.protocol import PROTOCOL_REVISION, Ready

#: The model asked for when a request names none, if a worker offers it.
DEFAULT_MODEL = "squeezenet1_1"


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
        """Keep a job out of the queue until the present copy of its picture is done, or until
        it is decided whether the picture goes into quarantine."""
        self.dequeue(job)
        job.queued = True
        self._parked.setdefault(job.request.sha256, []).append(job)
        self._parked_jobs += 1

    def begins(self, attempt: Attempt) -> None:
        """A worker got the job."""
        self.running += 1
        self.retrying += attempt.number > 1
        self.computing[attempt.job.request.sha256] += 1

    def ends(self, attempt: Attempt) -> None:
        """The worker no longer has the job; copies of its picture return to the queue."""
        sha256 = attempt.job.request.sha256
        self.running -= 1
        self.retrying -= attempt.number > 1
        self.computing[sha256] -= 1
        if not self.computing[sha256]:
            del self.computing[sha256]
        self.unpark(sha256)

    def unpark(self, sha256: str) -> None:
        """The copies of a picture that were kept out return to the queue."""
        copies = self._parked.pop(sha256, ())
        self._parked_jobs -= len(copies)
        for copy in copies:
            self.requeue(copy)

    def waiting_jobs(self) -> Iterable[Job]:
        yield from self.queue()
        for copies in self._parked.values():
            yield from copies

    def queue(self, retries: bool = True) -> Iterable[Job]:
        """Those that may be given to a worker, in their order; the retried ones only if wanted."""
        yield from (job for job in self._requeued if retries or not job.tried)
        yield from self._fresh.values()

    def oldest_arrival(self) -> float | None:
        """When the job that has waited longest arrived; None if none waits."""
        firsts = [self._requeued[:1], *(copies[:1] for copies in self._parked.values())]
        oldest = [job.arrived for first in firsts for job in first]
        if self._fresh:
            oldest.append(next(iter(self._fresh.values())).arrived)
        return min(oldest, default=None)

    def next_match(
        self, retries: bool, held_up: Callable[[str, bool], bool]
    ) -> tuple[Job, Worker] | None:
        """The next job and the worker that gets it; the job leaves the queue.

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
        """Workers that must not get this job."""
        if not job.excluded:
            return job.excluded
        # A fleet of one still has to try again: its worker replaces the child that crashed.
        others = any(
            address not in job.excluded and worker.fit for address, worker in self.workers.items()
        )
        return job.excluded if others else set()

    # --- how fast -----------------------------------------------------------------------------

    def answered_in(self, seconds: float) -> None:
        """Take the time of one more answer into the figures of the model."""
        self._latencies.append(seconds)
        self._refresh_in -= 1
        if self._refresh_in < 0:
            recent = sorted(self._latencies)
            self.typical = max(LEAST_TYPICAL, percentile(recent, 0.5))
            self.p95 = percentile(recent, 0.95)
            self._refresh_in = min(LATENCY_REFRESH, len(recent))


class Pools(dict[str, Pool]):
    """The pools by model, the first one named first."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy

    @property
    def waiting(self) -> int:
        """Requests that no worker has."""
        return sum([pool.waiting for pool in self.values()])

    def default(self) -> Pool | None:
        """The pool of requests that name no model: the default's, or the first offered."""
        default = self.get(DEFAULT_MODEL)
        if default is not None and default.digest:
            return default
        return next((pool for pool in self.values() if pool.digest), default)

    def opened(self, model: str) -> Pool:
        """The model's pool, made if there is none yet."""
        if model not in self:
            self[model] = Pool(model, self._policy.hedge_burst)
        return self[model]

    def of(self, model: str) -> Pool | None:
        """The pool of a request for this model, or for none; None if nobody ever offered it."""
        if not self and model in ("", DEFAULT_MODEL):
            # Nobody joined yet: let it wait for the first worker rather than fail at once.
            return self.opened(DEFAULT_MODEL)
        return self.get(model) if model else self.default()

    def unknown(self) -> str:
        """The detail of the NACK to a request for an unknown model."""
        known = ", ".join(sorted(self)) or "none yet"
        return f"No worker offers this model. Offered: {known}."

    def rehome(self, pool: Pool) -> None:
        """Requests that named no model before any worker came go to the first one that came."""
        early = self.get(DEFAULT_MODEL)
        if early is None or early is pool or early.digest:
            return
        for job in [job for job in early.waiting_jobs() if not job.request.model]:
            early.dequeue(job)
            job.pool = pool
            pool.enqueue(job)

    def refusal(self, hello: Ready) -> str:
        """Why this worker may not join; empty if it may."""
        if hello.revision != PROTOCOL_REVISION:
            return f"it speaks protocol revision {hello.revision}, the broker {PROTOCOL_REVISION}"
        pool = self.get(hello.model)
        if pool is None and len(self) >= self._policy.max_models:
            return f"the broker serves {len(self)} models already"
        if pool is not None and pool.workers and hello.digest != pool.digest:
            return (
                f"its {hello.model} has digest {hello.digest[:12]}, the others have"
                f" {pool.digest[:12]}; start it with the same --weights as the others"
            )
        return ""
