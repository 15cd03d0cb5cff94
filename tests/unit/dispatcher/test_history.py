"""Random histories of the dispatcher, each from its seed.

After every event:

- every accepted request is open in exactly one place (a queue, or one worker and perhaps its
  hedge on another), or it has been answered exactly once by a Result or a Nack to a client, or it
  was cancelled;
- clients connect anew and send what they wait for again, and what they sent over an older
  connection is read at any time until the end of that one. Whatever is read last, an answer goes to
  the youngest connection that sent the request and still stands; neither the end of another one
  nor a Cancel over it closes the request;
- a picture in quarantine is open nowhere; one never answered is computed once at a time, or
  twice as a hedge; no request has more than three attempts;
- at most half of the workers that stay are ejected;
- a worker's credit and the replies awaited from it make what it announced, so it is never offered
  more than that; a leaving worker is offered nothing;
- those at work acknowledged a request and have not replied to it; they, and all workers, stand in
  the order of their last messages; none is silent for longer than allowed, and the next look at
  them is in time;
- the bytes counted as waiting are those that wait, and a queue holds only WAITING jobs.

When time has run out, or the broker hands back what it holds, nothing is left open. And no
request waits while a worker that may have it has credit.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import TypeGuard

from dispatching import ready, request

from spyglass.dispatcher.actions import Action, ToClient, ToWorker
from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.job_state import Job, JobState
from spyglass.dispatcher.policy import Policy
from spyglass.dispatcher.pools import Pool
from spyglass.protocol import Body, Bye, Nack, Reason, Request, Result, Times, patience

HISTORIES = 1000
EVENTS = 60
WORKERS = (b"w1", b"w2", b"w3")
CLIENTS = ("web", "cli")
#: Connections of a client that have not ended yet, as far as the dispatcher knows.
MOST_CONNECTIONS = 3
REFUSALS = (
    Reason.CRASH,
    Reason.HUNG,
    Reason.BAD_IMAGE,
    Reason.DRAINING,
    Reason.DEADLINE,
    Reason.CANCELLED,
    Reason.CHECKSUM,
)


class History:
    """One dispatcher and everything that happens to it.

    Args:
        eager: also hold it to the last promise above, that nobody waits in vain.
        anew: a client sends a request again after it was closed, with the same id.
        attempt_timeout: seconds; the default is beyond every budget used here.
    """

    def __init__(
        self, seed: int, eager: bool = False, anew: bool = False, attempt_timeout: float = 11.0
    ) -> None:
        self.random = random.Random(seed)
        self.eager = eager
        self.anew = anew
        self.now = 0.0
        policy = Policy(max_waiting=6, max_waiting_bytes=60, attempt_timeout=attempt_timeout)
        self.d = Dispatcher(policy, now=0.0)
        self.sent: list[tuple[bytes, bytes]] = []  # (worker, request id) ever offered
        self.accepted: set[bytes] = set()
        self.cancelled: set[bytes] = set()
        self.finals: Counter[bytes] = Counter()
        self.refused: set[bytes] = set()  # refused in the present event
        self.known: dict[bytes, Request] = {}
        self.made = 0
        # Of each client, the oldest first; new ones under names that do not show their age.
        self.connections: dict[str, list[bytes]] = {client: [] for client in CLIENTS}
        self.age: dict[bytes, int] = {}
        self.senders: dict[bytes, set[bytes]] = {}  # of each request, those that stand
        for client in CLIENTS:
            self.connect(client)

    def play(self) -> None:
        for _ in range(EVENTS):
            self.now += self.random.choice([0.0, 0.001, 0.05, 0.2, 0.4, 1.6])
            leaving = [worker for worker in self.d.workers.values() if worker.draining]
            self.refused = set()
            actions = self.event()
            self.take(actions)
            self.check()
            actions += self.tick()
            offered = {a.worker for a in actions if is_offer(a)}
            stayed = [w for w in leaving if self.d.workers.get(w.address) is w]
            assert not any(w.address in offered for w in stayed)
        if self.random.random() < 0.3:
            self.take(self.d.stop(self.now))
            self.take(self.d.hand_back())
        else:
            for _ in range(2):
                self.now += 1000
                self.tick()
        self.check()
        assert not self.d.jobs.open
        assert self.d.waiting == self.d.jobs.waiting_bytes == 0
        assert set(self.finals) | self.cancelled == self.accepted

    def tick(self) -> list[Action]:
        actions = self.d.tick(self.now)
        self.take(actions)
        self.check()
        assert all(job.next_timer > self.now for job in self.d.jobs.open.values())
        assert self.d.next_deadline() > self.now
        if self.now >= self.d.membership.no_expiry_before:
            policy = self.d.policy
            allowed = patience(self.d.membership.interval)
            assert all(self.now < w.silence.last_message + allowed for w in self.d.workers.values())
            assert all(
                self.now < w.silence.last_message + policy.expiry_at_work
                for w in self.d.membership.at_work.values()
            )
        return actions

    def event(self) -> list[Action]:
        pick = self.random.choice
        worker, client = pick(WORKERS), pick(CLIENTS)
        here = self.connections[client][-1]
        someone, some_id = pick(self.sent) if self.sent else (worker, bytes(16))
        match self.random.randrange(17):
            case 0:
                return self.d.worker_ready(worker, ready(pick([1, 2, 4])), self.now)
            case 1 | 2 | 3:
                number = len(self.known) + 1
                size = pick([1, 7, 40])
                new = request(number, pick([1, 500, 5000]), size=size)
                if self.random.random() < 0.5:  # a copy of one of three popular pictures
                    new = replace(new, sha256=f"{pick([1, 2, 3]):064x}")
                return self.arrive(here, new)
            case 4:
                return self.d.worker_acked(someone, some_id, self.now)
            case 5 | 6:
                return self.d.worker_answered(someone, answer(some_id), self.now)
            case 7:
                return self.d.worker_refused(someone, Nack(some_id, pick(REFUSALS)), self.now)
            case 8:
                return self.d.worker_heartbeat(worker, self.now)
            case 9:
                return self.d.worker_gone(worker, "connection closed", self.now)
            case 10:
                return self.d.worker_bye(worker, Bye("leaving", pick([0, 1])), self.now)
            case 11 if self.known:
                again = pick(list(self.known.values()))
                if self.anew or again.id in self.d.jobs.open:
                    return self.arrive(pick(self.connections[client]), again)
            case 12 if self.known:
                return self.cancel(pick(self.connections[client]), pick(list(self.known)))
            case 13:
                return self.end(client, pick(self.connections[client]))
            case 14 if len(self.connections[client]) < MOST_CONNECTIONS:
                return self.connect_anew(client)
            case 15 if len(self.connections[client]) > 1:
                return self.end(client, self.connections[client][0])
            case _ if self.d.workers:
                named = pick(list(self.d.workers.values()))
                return pick([self.d.drain_worker, self.d.remove_worker])(named.id, self.now)[1]
        return []

    def may_run(self, pool: Pool, job: Job) -> bool:
        """Whether the retry budget and the copies of its picture allow it to run."""
        active = pool.waiting + pool.running
        budget = not job.tried or pool.retrying < max(3, 0.2 * active)
        sha256 = job.request.sha256
        return budget and not self.d.jobs.quarantine.must_wait(sha256, sha256 in pool.computing)

    def connect(self, client: str) -> None:
        self.made += 1
        name = b"%d" % self.random.randrange(10**9)
        self.age[name] = self.made
        self.connections[client].append(name)

    def connect_anew(self, client: str) -> list[Action]:
        """A further connection, over which the client sends again what it waits for."""
        before = self.connections[client][-1]
        self.connect(client)
        sent = [self.known[id] for id in self.d.jobs.open if before in self.senders[id]]
        now = self.connections[client][-1]
        return [action for request in sent for action in self.arrive(now, request)]

    def end(self, client: str, connection: bytes) -> list[Action]:
        """A connection is gone, and another one made if it was the last."""
        self.connections[client].remove(connection)
        if not self.connections[client]:
            self.connect(client)
        for senders in self.senders.values():
            senders.discard(connection)
        alone = {id for id in self.d.jobs.open if not self.senders[id]}
        self.cancelled |= alone
        actions = self.d.client_gone(connection, self.now)
        assert not alone & set(self.d.jobs.open)
        return actions

    def youngest(self, request_id: bytes) -> bytes:
        return max(self.senders[request_id], key=self.age.__getitem__)

    def arrive(self, connection: bytes, new: Request) -> list[Action]:
        self.known[new.id] = new
        was_open = new.id in self.d.jobs.open
        accepted = self.d.journal.counters.accepted
        if not was_open:
            self.senders[new.id] = set()
        self.senders[new.id].add(connection)
        actions = self.d.request_arrived(connection, new, self.now, self.age[connection])
        assert not was_open or self.d.journal.counters.accepted == accepted
        if self.d.journal.counters.accepted == accepted and not was_open:
            self.refused = {new.id}  # refused, which is no final answer to an accepted request
        elif not was_open:  # a new life, perhaps of an old id
            self.accepted.add(new.id)
            self.cancelled.discard(new.id)
            del self.finals[new.id]
        return actions

    def cancel(self, connection: bytes, request_id: bytes) -> list[Action]:
        was_open = request_id in self.d.jobs.open
        ends = was_open and self.youngest(request_id) == connection
        if ends:
            self.cancelled.add(request_id)
        self.senders[request_id].discard(connection)
        actions = self.d.request_cancelled(connection, request_id, self.now)
        assert (request_id in self.d.jobs.open) == (was_open and not ends)
        return actions

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            if is_offer(action):
                self.sent.append((action.worker, action.message.id))
            if isinstance(action, ToClient) and isinstance(action.message, (Result, Nack)):
                final = action.message.id
                if final not in self.refused:
                    self.finals[final] += 1
                    assert action.client == self.youngest(final)
                    assert {action.client, *action.others} == self.senders[final]

    def check(self) -> None:
        places: Counter[bytes] = Counter()
        waiting_bytes = 0
        for pool in self.d.pools.values():
            for job in pool.waiting_jobs():
                assert job.state is JobState.WAITING and job.queued
                places[job.request.id] += 1
                waiting_bytes += job.size
                if self.eager and self.may_run(pool, job):
                    assert pool.idle.choose(job.request.id, pool.excluded(job)) is None
            assert pool.running == sum(len(w.in_flight) for w in pool.workers.values())
            assert pool.running == sum(pool.computing.values())
            running = [a for w in pool.workers.values() for a in w.in_flight.values()]
            assert pool.retrying == sum(attempt.number > 1 for attempt in running)
            for sha256 in pool.computing:
                copies = {a.job for a in running if a.job.request.sha256 == sha256}
                known = self.d.jobs.quarantine
                # A good name may be lost while copies are computed side by side.
                assert (
                    len(copies) == 1 or not known.must_wait(sha256, True) or known.suspected(sha256)
                )
            staying = [w for w in pool.workers.values() if not w.draining]
            assert 2 * sum(w.health.out for w in staying) <= len(staying)
        for silent_longest_first in (self.d.workers, self.d.membership.at_work):
            last_messages = [
                worker.silence.last_message for worker in silent_longest_first.values()
            ]
            assert last_messages == sorted(last_messages)
        assert set(self.d.membership.at_work) <= set(self.d.workers)
        for worker in self.d.workers.values():
            acked = {id for id, attempt in worker.in_flight.items() if attempt.acked}
            assert acked <= worker.acknowledged <= set(worker.awaiting_reply)
            assert (worker.address in self.d.membership.at_work) == bool(worker.acknowledged)
            assert worker.credit >= 0
            assert worker.credit + len(worker.awaiting_reply) == worker.hello.credit
            assert set(worker.in_flight) <= set(worker.awaiting_reply)
            assert (worker in worker.pool.idle) == worker.willing
            for attempt in worker.in_flight.values():
                job = attempt.job
                assert attempt.worker is worker and attempt in job.attempts and not job.queued
                assert job.state in (JobState.SENT, JobState.RUNNING)
                assert len(job.attempts) <= 2 and job.tried - job.uncounted_attempts <= 3
            places.update(worker.in_flight.keys())
        for job in self.d.jobs.open.values():
            if len(job.attempts) == 2:
                places[job.request.id] -= 1
            assert not self.d.jobs.quarantine.refuses(job.request.sha256, self.now)
        assert set(places.values()) <= {1}
        assert set(places) == set(self.d.jobs.open)
        assert waiting_bytes == self.d.jobs.waiting_bytes
        assert set(self.finals.values()) <= {1}
        assert not set(self.finals) & set(self.d.jobs.open)
        assert not set(self.finals) & self.cancelled
        assert self.accepted == set(self.finals) | self.cancelled | set(self.d.jobs.open)


def answer(request_id: bytes) -> Result:
    return Result(request_id, Times(1.0, 10.0), Body.of(b"[]"))


def is_offer(action: Action) -> TypeGuard[ToWorker]:
    return isinstance(action, ToWorker) and isinstance(action.message, Request)


def play_all(histories: int, **kind: bool | float) -> None:
    for seed in range(histories):
        try:
            History(seed, **kind).play()  # type: ignore[arg-type]
        except AssertionError as error:
            raise AssertionError(f"history {seed} breaks a promise") from error


def test_a_thousand_random_histories_keep_every_promise() -> None:
    play_all(HISTORIES)


def test_in_no_random_history_does_a_request_wait_in_vain() -> None:
    play_all(HISTORIES, eager=True)


def test_random_histories_with_attempts_that_take_too_long_keep_every_promise() -> None:
    play_all(HISTORIES, attempt_timeout=0.5)


def test_random_histories_with_requests_sent_again_keep_every_promise() -> None:
    play_all(HISTORIES, anew=True)
