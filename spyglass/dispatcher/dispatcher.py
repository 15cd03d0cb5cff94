"""Which workers are alive, and which gets which request: the broker's decisions, without its
sockets or its clock.

Events go in through the methods, with `now` in seconds of one monotonic clock; what must be sent
comes out as a list of actions. The same events at the same times always give the same actions, so
every rule is tested by plain calls.

The pattern is the Paranoid Pirate (https://rfc.zeromq.org/spec/6/) with two additions: the broker
keeps each request until it is answered (jobs.py), and being alive (membership.py), ready and busy
are tracked separately. Any valid message renews a worker's life; only READY, a result or a NACK
gives credit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count

from spyglass.dispatcher.actions import Action
from spyglass.dispatcher.admission import LEAVING, Admission, Refusal
from spyglass.dispatcher.job_state import Attempt, Job
from spyglass.dispatcher.jobs import Jobs
from spyglass.dispatcher.journal import Journal
from spyglass.dispatcher.membership import Membership
from spyglass.dispatcher.outliers import Outliers
from spyglass.dispatcher.policy import Policy
from spyglass.dispatcher.pools import Pools
from spyglass.dispatcher.quarantine import Loss
from spyglass.dispatcher.refusals import Refusals
from spyglass.dispatcher.senders import Connection
from spyglass.dispatcher.stats import Counters
from spyglass.dispatcher.trend import Trend
from spyglass.dispatcher.worker_state import Worker
from spyglass.protocol import Bye, Cancel, Nack, Ready, Reason, Request, Result

#: NACKs from a worker that end the request: trying elsewhere would give the same answer.
FINAL = frozenset((Reason.BAD_IMAGE, Reason.TOO_MANY_PIXELS, Reason.UNSUPPORTED))

#: NACKs by which a worker reports that the child computing the request is lost.
LETHAL = frozenset((Reason.CRASH, Reason.HUNG))


class Dispatcher:
    """The state machine. Every event method takes `now` and returns what to do."""

    def __init__(self, policy: Policy, now: float, ids: Iterator[str] | None = None) -> None:
        """
        Args:
            policy: the numbers behind the decisions.
            now: when it starts.
            ids: the workers' public ids, no two the same. Without, they count up.
        """
        self.policy = policy
        self.started = now
        self.journal = Journal()
        self.jobs = Jobs(policy, self.journal)
        self.outliers = Outliers(policy, self.journal)
        self.pools = Pools(policy)
        self.membership = Membership(policy, self.journal, self.jobs, self.outliers, now)
        self._admission = Admission(policy, self.journal, self.jobs, self.pools)
        self.trend = Trend()
        self.stopping = False
        self._next_look = now
        self._refusals = Refusals()
        self._ids = map(str, count(1)) if ids is None else ids

    def __repr__(self) -> str:
        idle = sum(len(pool.idle) for pool in self.pools.values())
        return (
            f"<Dispatcher {len(self.workers)} workers, {idle} idle,"
            f" {self.open_requests - self.waiting} in flight, {self.waiting} waiting>"
        )

    @property
    def workers(self) -> Mapping[bytes, Worker]:
        """The connected ones, by address."""
        return self.membership.workers

    @property
    def waiting(self) -> int:
        """Requests that no worker has."""
        return self.pools.waiting

    @property
    def open_requests(self) -> int:
        """Requests accepted and not answered yet."""
        return len(self.jobs.open)

    @property
    def open_bytes(self) -> int:
        """Bytes of their pictures."""
        return sum([job.size for job in self.jobs.open.values()])

    @property
    def counters(self) -> Counters:
        """A copy of the present counts."""
        return replace(self.journal.counters)

    def name_of(self, address: bytes) -> str | None:
        """The name of the worker at this address; None if no worker is there."""
        worker = self.workers.get(address)
        return worker.name if worker is not None else None

    # --- events from workers ------------------------------------------------------------------

    def worker_ready(self, address: bytes, hello: Ready, now: float) -> list[Action]:
        """A worker joins; one that is known starts over, and what it held is requeued."""
        if (known := self.workers.get(address)) is not None:
            self.membership.forget(known, "sent READY again", now)
        if refusal := self.pools.refusal(hello):
            if line := self._refusals.line(hello.name, refusal, now):
                self.journal.log_event(line, now)
            self.journal.to_worker(address, Nack(b"", Reason.WRONG_MODEL, refusal))
            return self.journal.flush()
        pool = self.pools.opened(hello.model)
        pool.digest = hello.digest
        self.jobs.came_back(hello.host, hello.pid, now)
        self.pools.rehome(pool)
        self.membership.join(address, known.id if known else next(self._ids), hello, pool, now)
        return self.journal.flush()

    def worker_heartbeat(self, address: bytes, now: float) -> list[Action]:
        """A sign of life, answered by one at the next look. Gives no credit: alive is not ready."""
        if self.membership.message_from(address, now) is not None:
            self.membership.heartbeats_to_answer[address] = None
        return self.journal.flush()

    def worker_acked(self, address: bytes, request_id: bytes, now: float) -> list[Action]:
        """The request arrived at the worker whole and will be computed."""
        worker = self.membership.message_from(address, now)
        if worker is not None and request_id in worker.awaiting_reply:
            worker.acknowledged.add(request_id)
            self.membership.at_work.setdefault(address, worker)
            attempt = worker.in_flight.get(request_id)
            if attempt is not None:
                self.jobs.acknowledged(attempt, now)
        return self.journal.flush()

    def worker_answered(self, address: bytes, result: Result, now: float) -> list[Action]:
        """A worker sent predictions. Only the one that holds the request may answer it, once."""
        worker = self.membership.message_from(address, now)
        if worker is None:
            self.journal.counters.late += 1
            return self.journal.flush()
        attempt = worker.in_flight.get(result.id)
        job = self.jobs.returned(worker, result.id)
        if job is None and worker.silence.late_reply(result.id):
            self.journal.counters.late += 1
        elif job is None:
            self.outliers.unasked(worker, now)
        else:
            self.jobs.clear_suspicion(job, now)
        if attempt is not None:
            self.jobs.answer(attempt, result, now)
            self.outliers.succeeded(worker, now)
        self.membership.settle(worker, now)
        return self.journal.flush()

    def worker_refused(self, address: bytes, nack: Nack, now: float) -> list[Action]:
        """A worker sent a NACK: final for a bad picture; for any other reason another worker gets
        the request."""
        worker = self.membership.message_from(address, now)
        if worker is None:
            self.journal.counters.late += 1
            return self.journal.flush()
        if nack.reason is Reason.CANCELLED and worker.silence.late_reply(nack.id):
            # It may have the request again by now, possibly because this message ended its silence.
            self.journal.counters.late += 1
            return self.journal.flush()
        attempt = worker.in_flight.get(nack.id)
        job = self.jobs.returned(worker, nack.id)
        if job is None:
            worker.silence.late_reply(nack.id)
            self.journal.counters.late += 1
        elif nack.reason in LETHAL:
            self.jobs.record_loss(job, Loss(worker.name, nack.batch == 1), now)
        if attempt is not None and not attempt.job.closed:
            self._refused(attempt, nack, now)
        elif attempt is not None:  # its picture is in quarantine by now
            worker.failed += 1
        self.membership.settle(worker, now)
        return self.journal.flush()

    def worker_bye(self, address: bytes, bye: Bye, now: float) -> list[Action]:
        """It takes no more work; when it will send no more replies either, it is gone."""
        worker = self.workers.get(address)
        if worker is not None:
            if bye.owed:
                self.membership.drain(worker, bye.reason or "leaving", now)
                self.membership.settle(worker, now)
            else:
                self.membership.forget(worker, bye.reason or "left", now, lost=False)
        return self.journal.flush()

    def worker_gone(
        self, address: bytes, reason: str, now: float, unreachable: bool = False
    ) -> list[Action]:
        """Its connection dropped, or no message can be sent to it: its requests move at once."""
        worker = self.workers.get(address)
        if worker is not None:
            self.membership.lose(worker, reason, now, unreachable)
        return self.journal.flush()

    # --- events from clients ------------------------------------------------------------------

    def request_arrived(
        self, client: bytes, request: Request, now: float, made: int = 0
    ) -> list[Action]:
        """Accepted (ACK, unless an answer is quicker) or refused (NACK). An open request sent again
        is only acknowledged. `made` is higher the later the client's connection was made."""
        sender = Connection(made, client)
        known = self.jobs.open.get(request.id)
        if known is not None:
            self.jobs.sent_again(known, sender)
            return self.journal.flush()
        pool = self._admission.admit(request, self.stopping, now)
        if isinstance(pool, Refusal):
            self.journal.counters.refused += 1
            self.journal.to_client(client, Nack(request.id, pool.reason, pool.detail))
        else:
            self.jobs.accept(sender, request, pool, now)
        return self.journal.flush()

    def request_cancelled(self, client: bytes, request_id: bytes, now: float) -> list[Action]:
        """A client no longer waits for an answer. Only one that sent the request may cancel it."""
        job = self.jobs.open.get(request_id)
        if job is not None:
            self.jobs.cancelled(job, client, now)
        return self.journal.flush()

    def worker_shut_out(self, address: bytes, reason: str, now: float) -> list[Action]:
        """Its messages are no longer accepted: its requests move at once, and no picture is
        suspected for that."""
        worker = self.workers.get(address)
        if worker is not None:
            self.membership.forget(worker, reason, now)
        return self.journal.flush()

    def client_gone(self, client: bytes, now: float) -> list[Action]:
        """A client's connection dropped: what was sent over it is cancelled, except what was sent
        again over another one."""
        self.jobs.client_gone(client, now)
        return self.journal.flush()

    # --- events from the operator -------------------------------------------------------------

    def drain_worker(self, worker_id: str, now: float) -> tuple[str | None, list[Action]]:
        """The worker with this public id gets no new work, and leaves once it has answered what it
        holds. Its name; None if no such worker is connected."""
        worker = self._worker(worker_id)
        if worker is None:
            return None, []
        worker.dismissed = True
        self.membership.drain(worker, "removed by the operator", now)
        self.membership.settle(worker, now)
        return worker.name, self.journal.flush()

    def remove_worker(self, worker_id: str, now: float) -> tuple[str | None, list[Action]]:
        """The worker with this public id leaves at once: what it holds is requeued. Its name; None
        if no such worker is connected."""
        worker = self._worker(worker_id)
        if worker is None:
            return None, []
        self.membership.dismiss(worker, now)
        return worker.name, self.journal.flush()

    def clear_quarantine(self, sha256: str, now: float) -> tuple[int, list[Action]]:
        """One picture, or all if none is named, may be sent again; how many were cleared."""
        cleared = self.jobs.quarantine.clear(sha256)
        if cleared:
            self.journal.log_event(f"quarantine cleared of {cleared} by the operator", now)
        return cleared, self.journal.flush()

    def stop(self, now: float) -> list[Action]:
        """The broker is leaving: nothing new is accepted, what is held may finish."""
        self.stopping = True
        self.journal.log_event(f"broker is leaving, {self.open_requests} requests to finish", now)
        return self.journal.flush()

    def hand_back(self) -> list[Action]:
        """The broker leaves now: every open request is refused, and its client sends it again."""
        for job in list(self.jobs.open.values()):
            self.jobs.fail(job, *LEAVING)
        return self.journal.flush()

    # --- events of the broker itself ----------------------------------------------------------

    def bad_frame(self) -> None:
        """The frames of a peer were no message."""
        self.journal.counters.bad_frames += 1

    def message_failed(self) -> None:
        """A message was lost to a fault of the broker's own."""
        self.journal.counters.internal_errors += 1

    def log_event(self, text: str, now: float) -> list[Action]:
        """Something happened that the operator should see in the event log."""
        self.journal.log_event(text, now)
        return self.journal.flush()

    # --- time ---------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Whatever became due: deadlines, silent workers, answers to heartbeats, the ends of
        ejections."""
        if now - self._next_look > self.policy.longest_sleep:
            # Our own loop was late, so signs of life may not have been read yet.
            self.membership.no_expiry_before = now + self.policy.grace
        self.jobs.acknowledge(now)
        for job in self.jobs.due(now):
            self._overdue(job, now)
        self.jobs.decide_quarantine(now)
        if now >= self._next_look:
            self._next_look = now + self.policy.longest_sleep
            waiting, answered = self.waiting, self.journal.counters.answered
            self.trend.sample(waiting, self.open_requests - waiting, answered, now)
            self.membership.answer_heartbeats()
            for worker in [worker for pool in self.pools.values() for worker in pool.out.values()]:
                if self.outliers.end_ejection(worker, now):
                    self.membership.settle(worker, now)
        self.membership.expire(now)
        return self.journal.flush()

    def next_deadline(self) -> float:
        """When `tick` must be called at the latest."""
        timer, decision = self.jobs.next_timer(), self.jobs.quarantine.next_decision()
        return min(self._next_look, self.membership.next_expiry, timer, decision)

    def _worker(self, worker_id: str) -> Worker | None:
        return next((worker for worker in self.workers.values() if worker.id == worker_id), None)

    def _overdue(self, job: Job, now: float) -> None:
        if job.closed:
            return
        if now >= job.deadline:
            self.jobs.expire(job)
            self.jobs.assign(job.pool, now)
            return
        for attempt in [a for a in job.attempts if now >= a.deadline]:
            self._attempt_timed_out(attempt, now)
        if not job.closed:
            if now >= job.hedge_at:
                self.jobs.hedge(job, now)
            self.jobs.arm(job)

    def _attempt_timed_out(self, attempt: Attempt, now: float) -> None:
        """A worker did not acknowledge, or not answer, in time."""
        worker, request_id = attempt.worker, attempt.job.request.id
        what = "answer" if attempt.acked else "acknowledge"
        text = f"{worker.name} did not {what} a request in time; moved"
        event = self.journal.log_event(text, now, (request_id,))
        self.jobs.follow(event, [attempt])
        self.journal.to_worker(worker.address, Cancel(request_id))
        new_failure = True
        if not attempt.acked:
            silence, most = worker.silence, worker.hello.credit
            new_failure = silence.ack_timed_out(request_id, attempt.sent, most, now)
            self.jobs.returned(worker, request_id)  # it may not have it, so its credit is free
            attempt.job.uncounted_attempts += silence.silent
        self.jobs.retry(attempt, Reason.WORKER_LOST)
        if new_failure:
            self.outliers.failed(worker, now)
        self.membership.settle(worker, now)

    def _refused(self, attempt: Attempt, nack: Nack, now: float) -> None:
        worker, job = attempt.worker, attempt.job
        if nack.reason in FINAL:
            worker.done += 1  # rejecting a bad picture counts as success
            self.jobs.clear_suspicion(job, now)
            self.outliers.succeeded(worker, now)
            self.jobs.fail(job, nack.reason, nack.detail)
        elif nack.reason is Reason.DEADLINE:
            self.jobs.expire(job)
        elif nack.reason is Reason.CHECKSUM and not job.request.body.intact():
            # It was damaged before it came here, so no worker caused it or could do better.
            self.jobs.fail(
                job, Reason.CHECKSUM, "The picture was damaged on its way to the broker."
            )
        elif nack.reason is Reason.DRAINING:
            self.membership.drain(worker, nack.detail or "leaving", now)
            self.jobs.hand_back(attempt)
        else:
            what = f"{worker.name}: {nack.reason.value} on a request; moved"
            self.jobs.follow(self.journal.log_event(what, now, (nack.id,)), [attempt])
            self.jobs.retry(attempt, nack.reason)
            self.outliers.failed(worker, now)
