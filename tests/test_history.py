"""Random histories of the dispatcher, each from its seed.

After every event: a request is open in exactly one place (a queue or one worker), or it has been
answered exactly once or cancelled; a worker never owes more than the credit it announced; the
bytes counted as waiting are those that wait. When time has run out, nothing is left open.
"""

from __future__ import annotations

import random
from collections import Counter

from test_dispatcher import ready, request

from decisions import Action, Policy, ToClient, ToWorker
from dispatcher import Dispatcher
from pool import JobState
from zmq_protocol import Body, Bye, Nack, Reason, Request, Result

HISTORIES = 1000
EVENTS = 60


class History:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.d = Dispatcher(Policy(max_waiting=6), now=0.0)
        self.sent: list[tuple[bytes, bytes]] = []  # (worker, request id) ever offered
        self.accepted: set[bytes] = set()
        self.cancelled: set[bytes] = set()
        self.finals: Counter[bytes] = Counter()
        self.number = 0

    def play(self) -> None:
        for _ in range(EVENTS):
            self.now += self.random.choice([0.0, 0.001, 0.05, 0.4, 1.6])
            self.take(self.event())
            self.take(self.d.tick(self.now))
            self.check()
        self.now += 1000
        self.take(self.d.tick(self.now))
        self.take(self.d.tick(self.now + 1000))
        self.check()
        assert not self.d.jobs.open
        assert self.accepted - self.cancelled <= set(self.finals)

    def event(self) -> list[Action]:
        pick = self.random.choice
        worker, client = pick([b"w1", b"w2", b"w3"]), pick([b"c1", b"c2"])
        someone, some_id = pick(self.sent) if self.sent else (worker, bytes(16))
        match self.random.randrange(12):
            case 0:
                return self.d.worker_ready(worker, ready(pick([1, 2, 4])), self.now)
            case 1 | 2 | 3:
                self.number += 1
                new = request(self.number, budget_ms=pick([1, 500, 5000]))
                actions = self.d.request_arrived(client, new, self.now)
                if new.id in self.d.jobs.open or self.final(actions, Result):
                    self.accepted.add(new.id)
                return actions
            case 4:
                return self.d.worker_acked(someone, some_id, self.now)
            case 5 | 6:
                return self.d.worker_answered(someone, answer(some_id), self.now)
            case 7:
                reason = pick([Reason.CRASH, Reason.BAD_IMAGE, Reason.DRAINING, Reason.DEADLINE])
                return self.d.worker_refused(someone, Nack(some_id, reason), self.now)
            case 8:
                return self.d.worker_heartbeat(worker, self.now)
            case 9:
                return self.d.worker_gone(worker, "connection closed", self.now)
            case 10:
                return self.d.worker_bye(worker, Bye("leaving", pick([0, 1])), self.now)
            case _:
                before = set(self.d.jobs.open)
                actions = self.d.client_gone(client)
                self.cancelled |= before - set(self.d.jobs.open)
                return actions

    def final(self, actions: list[Action], kind: type) -> bool:
        return any(isinstance(a, ToClient) and isinstance(a.message, kind) for a in actions)

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, ToWorker) and isinstance(action.message, Request):
                self.sent.append((action.worker, action.message.id))
            final = isinstance(action, ToClient) and isinstance(action.message, (Result, Nack))
            if final and action.message.id in self.accepted:
                self.finals[action.message.id] += 1

    def check(self) -> None:
        places: Counter[bytes] = Counter()
        waiting_bytes = 0
        for pool in self.d.pools.values():
            for job in pool.waiting_jobs():
                assert job.state is JobState.WAITING and job.worker is None
                places[job.request.id] += 1
                waiting_bytes += job.size
        for worker in self.d.workers.values():
            assert worker.credit >= 0
            assert worker.credit + len(worker.owed) == worker.hello.credit
            assert set(worker.in_flight) <= worker.owed
            places.update(worker.in_flight.keys())
        assert set(places.values()) <= {1}
        assert set(places) == set(self.d.jobs.open)
        assert waiting_bytes == self.d.jobs.waiting_bytes
        assert set(self.finals.values()) <= {1}
        assert not set(self.finals) & set(self.d.jobs.open)
        assert not set(self.finals) & self.cancelled


def answer(request_id: bytes) -> Result:
    return Result(request_id, 10.0, Body.of(b"[]"))


def test_a_thousand_random_histories_keep_every_promise() -> None:
    for seed in range(HISTORIES):
        try:
            History(seed).play()
        except AssertionError as error:
            raise AssertionError(f"history {seed} breaks a promise") from error
