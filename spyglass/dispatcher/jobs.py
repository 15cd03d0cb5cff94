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
from collections import deque
from itertools import count

from spyglass.dispatcher.job_state import Attempt, Job
from spyglass.dispatcher.journal import Event, Journal, Move
from spyglass.dispatcher.policy import FEW_TIMERS, Policy
from spyglass.dispatcher.pools import Pool
from spyglass.dispatcher.quarantine import Loss, Quarantine
from spyglass.dispatcher.senders import Connection, Senders, Waiting
from spyglass.dispatcher.worker_state import Worker
from spyglass.protocol import Ack, Cancel, Message, Nack, Reason, Request, Result

#: The answer to the sender of a picture in quarantine.
QUARANTINED = (
    "Two processes died while this picture was being processed, so it is refused for some minutes."
    " Send another one; an operator can release it on the status page."
)


class Jobs:
    """Every open request, its timers, and the moves between the states above."""

    def __init__(self, policy: Policy, journal: Journal) -> None:
        self.open: dict[bytes, Job] = {}
        self.quarantine = Quarantine(policy.quarantine)
        self.waiting_bytes = 0
        self._policy = policy
        self._journal = journal
        self._clients = Waiting()
        self._unacknowledged: deque[tuple[float, Job]] = deque()  # the earliest due first
        self._timers: list[tuple[float, int, Job]] = []
        self._timer_order = count()
        self._sweep_at = FEW_TIMERS

    # --- in -----------------------------------------------------------------------------------

    def accept(self, sender: Connection, request: Request, pool: Pool, now: float) -> None:
        """From here on the request gets exactly one answer."""
        deadline = now + request.budget_ms / 1000
        job = Job(Senders(sender), request, pool, now, deadline, request.body.size)
        self._journal.counters.accepted += 1
        self._unacknowledged.append((now + self._policy.ack_delay, job))
        self.open[request.id] = job
        self._clients.add(sender.client, request.id)
        self.waiting_bytes += job.size
        pool.hedges = min(self._policy.hedge_burst, pool.hedges + self._policy.hedge_share)
        pool.enqueue(job)
        self.assign(pool, now)
        if job.queued:  # else its attempt armed it
            self.arm(job)

    def sent_again(self, job: Job, sender: Connection) -> None:
        """The same request came again, possibly over another connection."""
        self._journal.to_client(sender.client, Ack(job.request.id))
        job.senders.add(sender)
        self._clients.add(sender.client, job.request.id)

    def cancelled(self, job: Job, client: bytes, now: float) -> None:
        """A client no longer waits for it. It is closed if the youngest connection that sent it
        cancels it; an older one cancels only what was sent there, since the client may have sent it
        again over a younger one."""
        if client == job.senders.youngest:
            self._close_unwanted([job], now)
        elif client in job.senders:
            self._drop_sender(job, client)

    def client_gone(self, client: bytes, now: float) -> None:
        """A connection ended. What was sent over this one alone is closed without an answer."""
        jobs = [self.open[request_id] for request_id in self._clients.of(client)]
        for job in jobs:
            if len(job.senders) > 1:
                self._drop_sender(job, client)
        self._close_unwanted([job for job in jobs if client in job.senders], now)

    def acknowledge(self, now: float) -> None:
        """ACKs for requests accepted some time ago; an answer that came first serves as one."""
        if not self._unacknowledged or self._unacknowledged[0][0] > now:
            return
        soon = now + self._policy.ack_spread
        while self._unacknowledged and self._unacknowledged[0][0] <= soon:
            job = self._unacknowledged.popleft()[1]
            if not job.closed:
                self._send_to_client(job, Ack(job.request.id))

    # --- to a worker and back -----------------------------------------------------------------

    def assign(self, pool: Pool, now: float) -> None:
        """Give waiting jobs to workers with credit until one of the two runs out."""
        while pool.queued and pool.idle:
            retries = not pool.requeued or self._may_retry(pool)
            match = pool.next_match(retries, self.quarantine.must_wait)
            if match is None:
                return
            job, worker = match
            self.waiting_bytes -= job.size
            if now >= job.deadline:
                self.expire(job)
                continue
            self._hand_out(job, worker, now)

    def hedge(self, job: Job, now: float) -> None:
        """A job is slow: give it to an idle worker as well, if there is one and the share of
        hedges allows it."""
        pool, policy = job.pool, self._policy
        job.hedge_at = float("inf") if len(job.attempts) > 1 else now + policy.hedge_floor
        if len(job.attempts) != 1 or pool.hedges < 1 or not self._may_retry(pool):
            return
        if self.quarantine.suspected(job.request.sha256):
            return  # computed once at a time
        elsewhere = job.excluded | {job.attempts[0].worker.address}
        worker = pool.idle.choose(job.request.id, elsewhere, below=1)
        if worker is None or job.tried >= policy.max_attempts:
            return
        pool.hedges -= 1
        self._journal.counters.hedged += 1
        first = job.attempts[0]
        what = f"a request is slow on {first.worker.name} ({now - first.sent:.1f} s)"
        self._journal.log_event(f"{what}; given to {worker.name} as well", now, (job.request.id,))
        job.hedge_at = float("inf")
        self._hand_out(job, worker, now)

    def acknowledged(self, attempt: Attempt, now: float) -> None:
        """The request arrived at the worker whole."""
        if not attempt.acked:
            attempt.acked = True
            attempt.worker.silence.request_off_the_way(attempt.job.size)
            attempt.deadline = now + self._policy.attempt_timeout
            if len(attempt.job.attempts) == 1:
                attempt.job.hedge_at = now + self._hedge_after(attempt.job.pool)
                self.arm(attempt.job)

    def returned(self, worker: Worker, request_id: bytes) -> Job | None:
        """A worker's reply to a request: its credit returns. None if no reply was awaited.

        The job may be closed or on other workers by now; it is still on this one if it is in
        `worker.in_flight`.
        """
        job = worker.awaiting_reply.pop(request_id, None)
        worker.acknowledged.discard(request_id)
        if job is not None:
            worker.credit += 1
            if request_id not in worker.in_flight:
                self._journal.counters.late += 1
        return job

    def take_back(self, attempt: Attempt) -> None:
        """End an attempt; its worker may still be computing it."""
        job = attempt.job
        del attempt.worker.in_flight[job.request.id]
        if not attempt.acked:
            attempt.worker.silence.request_off_the_way(job.size)
        job.attempts.remove(attempt)
        job.hedge_at = float("inf")
        job.pool.ends(attempt)

    def retry(self, attempt: Attempt, reason: Reason) -> None:
        """An attempt failed: the job returns to the head of the queue unless another attempt still
        runs, or ends if it had all its attempts. The caller calls `assign` next."""
        job = attempt.job
        self.take_back(attempt)
        job.excluded.add(attempt.worker.address)
        if job.attempts:
            return
        if job.tried - job.uncounted_attempts >= self._policy.max_attempts:
            what = f"{job.tried} attempts on this picture failed, the last one: {reason.value}."
            self.fail(job, Reason.WORKER_LOST, what)
            return
        self._journal.counters.requeued += 1
        self._requeue(job)

    def hand_back(self, attempt: Attempt) -> None:
        """Its worker left before it began to compute: the job moves without losing an attempt."""
        job = attempt.job
        self.take_back(attempt)
        job.tried -= 1
        job.excluded.add(attempt.worker.address)
        if not job.attempts:
            self._journal.counters.handed_back += 1
            self._requeue(job)

    def follow(self, event: Event, attempts: list[Attempt]) -> None:
        """Give the event its outcome once it is known what became of the requests it moved."""
        move = Move(event, len(attempts))
        for attempt in attempts:
            attempt.job.moves += (move,)

    def _requeue(self, job: Job) -> None:
        job.pool.requeue(job)
        self.waiting_bytes += job.size
        self.arm(job)

    def _hand_out(self, job: Job, worker: Worker, now: float) -> None:
        pool, request = job.pool, job.request
        job.tried += 1
        on_the_way = worker.silence.request_sent(job.size)
        allowed = self._policy.ack_timeout + on_the_way / self._policy.slowest_link
        attempt = Attempt(job, worker, job.tried, now, now + allowed)
        job.attempts.append(attempt)
        pool.begins(attempt)
        worker.in_flight[request.id] = attempt
        worker.awaiting_reply[request.id] = job
        worker.credit -= 1
        pool.idle.put(worker)
        alone = attempt.number > 1 or self.quarantine.suspected(request.sha256)
        left = max(0, int(1000 * (job.deadline - now)))
        message = request.forwarded(left, attempt.number, alone)
        self._journal.to_worker(worker.address, message)
        self.arm(job)

    def _may_retry(self, pool: Pool) -> bool:
        """Whether one more second or later attempt may run now."""
        active = pool.waiting + pool.running
        return pool.retrying < max(self._policy.retries_always, self._policy.retry_share * active)

    def _hedge_after(self, pool: Pool) -> float:
        """Seconds after which a job is slow."""
        return max(self._policy.hedge_floor, self._policy.hedge_factor * pool.p95)

    # --- out ----------------------------------------------------------------------------------

    def answer(self, attempt: Attempt, result: Result, now: float) -> None:
        """Send the predictions, with what the broker knows of them, and close the request."""
        job, worker = attempt.job, attempt.worker
        worker.done += 1
        worker.answered_in(now - attempt.sent)
        queue_ms = round(1000 * (attempt.sent - job.arrived), 3)
        hello = worker.hello
        broker_ms = round(1000 * (now - job.arrived), 3)
        who = hello.model, hello.digest, worker.name
        complete = result.completed(*who, job.tried, queue_ms, broker_ms)
        self._journal.counters.answered += 1
        for move in job.moves:
            move.was_answered(now)
        job.moves = ()
        self._close(job)
        self._send_to_client(job, complete)

    def fail(self, job: Job, reason: Reason, detail: str) -> None:
        """Send a reason instead of predictions, and close the request."""
        self._journal.counters.failed += 1
        self._close(job)
        self._send_to_client(job, Nack(job.request.id, reason, detail))

    def expire(self, job: Job) -> None:
        """Its time ran out: send a reason, and close the request."""
        self._journal.counters.expired += 1
        if not job.attempts and not job.pool.workers:
            what = f"No worker with model {job.pool.model} was connected in time."
            self.fail(job, Reason.NO_WORKERS, what)
        else:
            self.fail(job, Reason.DEADLINE, "The time allowed for this picture ran out.")

    def clear_suspicion(self, job: Job, now: float) -> None:
        """Its picture was computed and no process died, so copies may be computed side by side.
        The caller calls `assign` next."""
        job.pool.unpark(job.request.sha256)
        if self.quarantine.clear_suspicion(job.request.sha256):
            self._resume(job.request.sha256, now)

    def came_back(self, host: str, pid: int, now: float) -> None:
        """A process joins: if it counted as lost, it had only lost its connection."""
        for sha256 in self.quarantine.came_back(host, pid):
            self._resume(sha256, now)

    def record_loss(self, job: Job, loss: Loss, now: float) -> None:
        """A child or worker was lost while it computed the job's picture."""
        self.quarantine.record_loss(job.request.sha256, loss, now)
        self.decide_quarantine(now)

    def decide_quarantine(self, now: float) -> None:
        """Put pictures into quarantine that are due for it, and answer all who sent them."""
        for sha256 in self.quarantine.newly_quarantined(now):
            minutes = self._policy.quarantine / 60
            what = f"picture {sha256[:12]} was being processed when two processes died"
            self._journal.log_event(f"{what}; in quarantine for {minutes:.0f} minutes", now)
            copies = self._copies(sha256)
            for copy in copies:
                self._journal.counters.quarantined += 1
                self.fail(copy, Reason.QUARANTINED, QUARANTINED)
            self._assign_all(copies, now)

    def _close_unwanted(self, jobs: list[Job], now: float) -> None:
        """Close jobs for which no client waits, without an answer."""
        for job in jobs:
            self._journal.counters.cancelled += 1
            self._close(job)
        self._assign_all(jobs, now)

    def _resume(self, sha256: str, now: float) -> None:
        """A picture may be computed again, for every model it was sent to."""
        copies = self._copies(sha256)
        for copy in copies:
            copy.pool.unpark(sha256)
        self._assign_all(copies, now)

    def _copies(self, sha256: str) -> list[Job]:
        """All open requests with this picture."""
        return [job for job in self.open.values() if job.request.sha256 == sha256]

    def _assign_all(self, jobs: list[Job], now: float) -> None:
        """These jobs no longer hold up others: copies of their pictures, other retries."""
        for pool in {job.pool.model: job.pool for job in jobs}.values():
            self.assign(pool, now)

    def _close(self, job: Job) -> None:
        if job.queued:
            job.pool.dequeue(job)
            self.waiting_bytes -= job.size
        for attempt in list(job.attempts):
            self.take_back(attempt)
            if job.request.id in attempt.worker.awaiting_reply:  # else it has just replied
                self._journal.to_worker(attempt.worker.address, Cancel(job.request.id))
        for move in job.moves:
            move.was_not_answered()
        job.closed = True
        # Its timers stay until they are due, and must not keep the picture so long.
        job.request = job.request.emptied()
        del self.open[job.request.id]
        for client in (job.senders.youngest, *job.senders.others):
            self._clients.remove(client, job.request.id)

    def _drop_sender(self, job: Job, client: bytes) -> None:
        """One of several connections that sent it no longer waits for it."""
        job.senders.remove(client)
        self._clients.remove(client, job.request.id)

    def _send_to_client(self, job: Job, message: Message) -> None:
        self._journal.to_client(job.senders.youngest, message, job.senders.others)

    # --- time ---------------------------------------------------------------------------------

    def due(self, now: float) -> list[Job]:
        """Jobs for which a deadline has passed: their own, or that of the present attempt."""
        due: dict[Job, None] = {}  # in order, each once: a job may have several timers
        while self._timers and self._timers[0][0] <= now:
            job = heapq.heappop(self._timers)[2]
            job.armed = float("inf")
            if job.closed:
                continue
            if job.next_timer <= now:
                due[job] = None
            else:
                self.arm(job)
        return list(due)

    def next_timer(self) -> float:
        """When `due` or `acknowledge` must be asked at the latest."""
        while self._unacknowledged and self._unacknowledged[0][1].closed:
            self._unacknowledged.popleft()
        first = self._timers[0][0] if self._timers else float("inf")
        return min(first, self._unacknowledged[0][0]) if self._unacknowledged else first

    def arm(self, job: Job) -> None:
        """Make `due` return the job when something must happen to it. If a timer is set already
        for this time or an earlier one, it is enough: `due` looks again then."""
        at = job.next_timer
        if at >= job.armed:
            return
        job.armed = at
        heapq.heappush(self._timers, (at, next(self._timer_order), job))
        if len(self._timers) > self._sweep_at:
            # Timers of answered jobs would stay until they are due.
            self._timers = [t for t in self._timers if not t[2].closed]
            heapq.heapify(self._timers)
            self._sweep_at = max(FEW_TIMERS, 2 * len(self._timers))
