"""Which workers are connected: they join, give signs of life, and leave or fall silent.

The requests of a worker that is gone move to the others (jobs.py). Part of the dispatcher: no I/O,
and `now` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict

from spyglass.dispatcher.jobs import Jobs
from spyglass.dispatcher.journal import Departed, Journal
from spyglass.dispatcher.names import Names
from spyglass.dispatcher.outliers import Outliers
from spyglass.dispatcher.policy import INTERVAL_SHRINK, RETURN_GRACE, Policy
from spyglass.dispatcher.pools import Pool
from spyglass.dispatcher.quarantine import Loss
from spyglass.dispatcher.worker_state import Silence, Worker
from spyglass.protocol import (
    BEAT,
    HEARTBEAT_INTERVAL,
    Bye,
    Heartbeat,
    Ready,
    Reason,
    heartbeat_interval,
    patience,
)


class Membership:
    """Every connected worker, and how long it may be silent."""

    def __init__(
        self, policy: Policy, journal: Journal, jobs: Jobs, outliers: Outliers, now: float
    ) -> None:
        #: By address, the longest silent first, so that expiry looks only at the front.
        self.workers: OrderedDict[bytes, Worker] = OrderedDict()
        #: Those of them that acknowledged a request and have not replied to it, in the same order.
        self.at_work: OrderedDict[bytes, Worker] = OrderedDict()
        self.heartbeats_to_answer: dict[bytes, None] = {}  # addresses, each once
        #: Seconds between heartbeats of workers that hold nothing, as the last answer named it.
        self.interval = HEARTBEAT_INTERVAL
        self.no_expiry_before = now
        #: No worker can be silent for too long before: one that sends a message meanwhile only has
        #: more time, and one that joins or gets work has more than is left until the next look.
        self.next_expiry = now
        self._expiry_at_work = policy.expiry_at_work
        self._journal = journal
        self._jobs = jobs
        self._outliers = outliers
        self._names = Names()

    def join(self, address: bytes, id: str, hello: Ready, pool: Pool, now: float) -> None:
        """A worker sent READY, and takes work from now on under this public id."""
        name = self._names.take(hello.name)
        health = self._outliers.recall(hello.host, name)
        worker = Worker(address, id, hello, name, pool, now, Silence(now), hello.credit, health)
        self.workers[address] = pool.workers[address] = worker
        self._journal.log_event(f"{name} joined from {hello.host} with {hello.model}", now)
        self._outliers.joined(worker, now)
        self.settle(worker, now)

    def settle(self, worker: Worker, now: float) -> None:
        """To be called when a worker's load or its readiness changed: put it into its place among
        the idle ones, dismiss it if it is drained, and give waiting requests to workers, to others
        as well: a request may have been kept from them only because this one was there."""
        worker.pool.idle.put(worker)
        if not worker.acknowledged:
            self.at_work.pop(worker.address, None)
        if worker.dismissed and not worker.in_flight:
            self.dismiss(worker, now)
        else:
            self._jobs.assign(worker.pool, now)

    # --- signs of life ------------------------------------------------------------------------

    def message_from(self, address: bytes, now: float) -> Worker | None:
        """A message came: its worker is alive. An unknown one is asked to send READY."""
        try:
            worker = self.workers[address]
        except KeyError:
            self._journal.to_worker(address, Bye("not registered; send READY", again=True))
            return None
        silence_ends = worker.silence.message_came(now)
        self.workers.move_to_end(address)
        if worker.acknowledged:
            self.at_work.move_to_end(address)
        if silence_ends:
            worker.pool.idle.put(worker)
            self._jobs.assign(worker.pool, now)
        return worker

    def answer_heartbeats(self) -> None:
        """All at once, which costs the sockets a third less than one by one. The answer names the
        interval, by the size of the fleet. It is shortened only step by step: a worker learns of it
        at its next heartbeat, and must not count as silent before."""
        wanted = heartbeat_interval(len(self.workers))
        self.interval = max(wanted, INTERVAL_SHRINK * self.interval)
        beat = BEAT
        if self.interval != HEARTBEAT_INTERVAL:
            beat = Heartbeat(interval_ms=round(1000 * self.interval))
        for address in self.heartbeats_to_answer:
            if address in self.workers:
                self._journal.to_worker(address, beat)
        self.heartbeats_to_answer.clear()

    def expire(self, now: float) -> None:
        """Workers that were silent for too long are lost."""
        while (worker := self._silent_too_long(now)) is not None:
            self._journal.to_worker(worker.address, Bye("silent for too long", again=True))
            self.lose(worker, f"silent for {now - worker.silence.last_message:.1f} s", now)

    def _silent_too_long(self, now: float) -> Worker | None:
        """A worker that was; None if there is none, and then there is none before `next_expiry`."""
        self.next_expiry = float("inf")
        for workers, allowed in (
            (self.at_work, self._expiry_at_work),
            (self.workers, patience(self.interval)),
        ):
            if workers:
                worker = next(iter(workers.values()))
                expiry = max(worker.silence.last_message + allowed, self.no_expiry_before)
                if now >= expiry:
                    return worker
                self.next_expiry = min(self.next_expiry, expiry)
        return None

    # --- leaving ------------------------------------------------------------------------------

    def drain(self, worker: Worker, why: str, now: float) -> None:
        """It gets no more work. The caller calls `settle` next."""
        if not worker.draining:
            worker.draining = True
            worker.pool.draining += 1
            self._outliers.keep_enough(worker.pool, now)
            self._journal.log_event(f"{worker.name} is draining: {why}", now)

    def dismiss(self, worker: Worker, now: float) -> None:
        """The operator removes it."""
        self._journal.to_worker(worker.address, Bye("removed by the operator"))
        self.forget(worker, "removed by the operator", now, lost=False)

    def lose(self, worker: Worker, reason: str, now: float, unreachable: bool = False) -> None:
        """Its connection dropped, or it is silent: a picture it had may be the cause, even one that
        it had no time to acknowledge."""
        process = worker.hello.host, worker.hello.pid
        had = [a.job for a in worker.in_flight.values() if a.acked or not unreachable]
        for job in had:
            loss = Loss(worker.name, len(had) == 1, process, now + RETURN_GRACE)
            self._jobs.record_loss(job, loss, now)
        self.forget(worker, reason, now, unreachable=unreachable)

    def forget(
        self,
        worker: Worker,
        reason: str,
        now: float,
        lost: bool = True,
        unreachable: bool = False,
    ) -> None:
        """It is gone: whatever it held moves to the others, oldest first.

        Args:
            lost: it did not leave of its own accord, so what it held has lost an attempt.
            unreachable: a message could not be sent, so what it did not acknowledge never arrived
                there, and loses no attempt.
        """
        del self.workers[worker.address]
        self.at_work.pop(worker.address, None)
        del worker.pool.workers[worker.address]
        worker.pool.draining -= worker.draining
        self._names.release(worker.name)
        worker.pool.idle.remove(worker)
        hello = worker.hello
        self._journal.departed.append(
            Departed(worker.name, hello.host, reason, now, worker.done, worker.failed)
        )
        held = list(worker.in_flight.values())
        moved = f"; {len(held)} request{'s' * (len(held) != 1)} moved" if held else ""
        what = f"{worker.name} {'lost' if lost else 'left'}: {reason}{moved}"
        self._jobs.follow(self._journal.log_event(what, now, tuple(worker.in_flight)), held)
        worker.awaiting_reply.clear()
        for attempt in held:
            if lost and (attempt.acked or not unreachable):
                self._jobs.retry(attempt, Reason.WORKER_LOST)
            else:
                self._jobs.hand_back(attempt)
        if held and lost:
            self._outliers.failed(worker, now)
        self._outliers.left(worker, now)
        self._jobs.assign(worker.pool, now)  # some may have waited because this one was there
