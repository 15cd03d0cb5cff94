"""The life of a request, from accepted to answered exactly once.

                .---- requeued at the head: worker gone, NACK, no ACK in time, attempt too long
                v                                                    |
     accepted -> WAITING ---credit---> SENT ---ACK---> RUNNING ------+---> ANSWERED, once
                |                                                    |
                '------------- deadline, cancel, client gone --------'

Part of the dispatcher: no I/O, and `now` is an argument.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from itertools import count

from decisions import Policy, Record
from pool import Job, JobState, Pool, Worker
from zmq_protocol import Ack, Cancel, Nack, Reason, Request, Result

#: Timers below which sweeping out those of answered jobs is not worth a pass.
FEW_TIMERS = 1000


class Jobs:
    """Every open request, its timers, and the moves between the states above."""

    def __init__(self, policy: Policy, record: Record) -> None:
        self.open: dict[bytes, Job] = {}
        self.waiting_bytes = 0
        self._policy = policy
        self._record = record
        self._of_client: dict[bytes, set[bytes]] = {}
        self._timers: list[tuple[float, int, Job]] = []
        self._timer_order = count()
        self._sweep_at = FEW_TIMERS

    # --- in -----------------------------------------------------------------------------------

    def accept(self, client: bytes, request: Request, pool: Pool, now: float) -> None:
        """Take responsibility: from here on the request gets exactly one answer."""
        deadline = now + request.budget_ms / 1000
        job = Job(client, request, pool, now, deadline, request.body.size)
        self._record.counters.accepted += 1
        self._record.to_client(client, Ack(request.id))
        self.open[request.id] = job
        self._of_client.setdefault(client, set()).add(request.id)
        self.waiting_bytes += job.size
        pool.enqueue(job)
        self._arm(job)
        self.assign(pool, now)

    def hand_over(self, job: Job, client: bytes) -> None:
        """The same request came again, over a new connection perhaps: answer there."""
        self._record.to_client(client, Ack(job.request.id))
        if job.client != client:
            self._unlist(job)
            job.client = client
            self._of_client.setdefault(client, set()).add(job.request.id)

    def of_client(self, client: bytes) -> list[Job]:
        """What this client still waits for."""
        return [self.open[request_id] for request_id in self._of_client.get(client, ())]

    # --- to a worker and back -----------------------------------------------------------------

    def assign(self, pool: Pool, now: float) -> None:
        """Give waiting jobs to workers with credit until one of the two runs out."""
        while (match := pool.next_match()) is not None:
            job, worker = match
            self.waiting_bytes -= job.size
            job.state, job.worker, job.sent = JobState.SENT, worker, now
            job.attempts += 1
            allowed = self._policy.ack_timeout + job.size / self._policy.slowest_link
            job.attempt_deadline = now + allowed
            worker.in_flight[job.request.id] = job
            worker.owed.add(job.request.id)
            worker.credit -= 1
            pool.idle.put(worker)
            left = max(0, int(1000 * (job.deadline - now)))
            message = replace(job.request, budget_ms=left, attempt=job.attempts)
            self._record.to_worker(worker.address, message)
            self._arm(job)

    def acknowledged(self, job: Job, now: float) -> None:
        """The worker has it whole."""
        if job.state is JobState.SENT:
            job.state = JobState.RUNNING
            job.attempt_deadline = now + self._policy.attempt_timeout

    def returned(self, worker: Worker, request_id: bytes) -> Job | None:
        """A worker's last word on a request: its credit returns, and the job if still its own."""
        if request_id not in worker.owed:
            self._record.counters.late += 1
            return None
        worker.owed.remove(request_id)
        worker.credit += 1
        job = worker.in_flight.get(request_id)
        if job is None:
            self._record.counters.late += 1
        return job

    def take_back(self, job: Job) -> None:
        """Part a job from its worker, which may still be computing it."""
        if job.worker is not None:
            del job.worker.in_flight[job.request.id]
            job.worker = None

    def retry(self, job: Job, worker: Worker, reason: Reason) -> None:
        """Back to the head of the queue, or the end if it had its attempts. `assign` is next."""
        self.take_back(job)
        job.excluded.add(worker.address)
        if job.attempts >= self._policy.max_attempts:
            what = f"{job.attempts} attempts on this picture failed, the last one: {reason.value}."
            self.fail(job, Reason.WORKER_LOST, what)
            return
        self._record.counters.requeued += 1
        job.state = JobState.WAITING
        job.pool.requeue(job)
        self.waiting_bytes += job.size
        self._arm(job)

    # --- out ----------------------------------------------------------------------------------

    def answer(self, job: Job, result: Result, now: float) -> None:
        """Predictions, with what the broker knows of them."""
        worker = job.worker
        assert worker is not None, "an answer comes from the worker that holds the job"
        worker.done += 1
        worker.latencies.append(now - job.sent)
        complete = replace(
            result,
            model=worker.hello.model,
            digest=worker.hello.digest,
            worker=worker.name,
            attempts=job.attempts,
            queue_ms=round(1000 * (job.sent - job.arrived), 3),
        )
        self._record.counters.answered += 1
        self._close(job)
        self._record.to_client(job.client, complete)

    def fail(self, job: Job, reason: Reason, detail: str) -> None:
        """A reason instead of predictions, just as final."""
        self._record.counters.failed += 1
        self._close(job)
        self._record.to_client(job.client, Nack(job.request.id, reason, detail))

    def expire(self, job: Job) -> None:
        """Its time ran out."""
        self._record.counters.expired += 1
        if job.state is JobState.WAITING and not job.pool.workers:
            what = f"No worker with model {job.pool.model} was connected in time."
            self.fail(job, Reason.NO_WORKERS, what)
        else:
            self.fail(job, Reason.DEADLINE, "The time allowed for this picture ran out.")

    def abandon(self, job: Job) -> None:
        """Close a job nobody waits for, without an answer."""
        self._record.counters.cancelled += 1
        self._close(job)

    def _close(self, job: Job) -> None:
        if job.state is JobState.WAITING:
            job.pool.dequeue(job)
            self.waiting_bytes -= job.size
        worker = job.worker
        if worker is not None:
            self.take_back(job)
            if job.request.id in worker.owed:  # it still computes what nobody will read
                self._record.to_worker(worker.address, Cancel(job.request.id))
        job.state = JobState.ANSWERED
        del self.open[job.request.id]
        self._unlist(job)

    def _unlist(self, job: Job) -> None:
        requests = self._of_client[job.client]
        requests.discard(job.request.id)
        if not requests:
            del self._of_client[job.client]

    # --- time ---------------------------------------------------------------------------------

    def due(self, now: float) -> list[Job]:
        """Jobs for which a deadline has passed: their own, or that of the present attempt."""
        due: dict[Job, None] = {}  # in order, each once: a job may have several timers
        while self._timers and self._timers[0][0] <= now:
            job = heapq.heappop(self._timers)[2]
            if job.state is JobState.ANSWERED:
                continue
            if job.next_timer <= now:
                due[job] = None
            else:
                self._arm(job)
        return list(due)

    def next_timer(self) -> float:
        """When `due` must be asked at the latest."""
        return self._timers[0][0] if self._timers else float("inf")

    def _arm(self, job: Job) -> None:
        heapq.heappush(self._timers, (job.next_timer, next(self._timer_order), job))
        if len(self._timers) > self._sweep_at:
            # Timers of answered jobs would stay until they are due.
            self._timers = [t for t in self._timers if t[2].state is not JobState.ANSWERED]
            heapq.heapify(self._timers)
            self._sweep_at = max(FEW_TIMERS, 2 * len(self._timers))
