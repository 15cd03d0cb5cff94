"""The event loop of the simulation: a heap of what happens next, around the real dispatcher."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from random import Random
from time import thread_time
from typing import Any

from simulation import fleet
from simulation.fleet import Task, Worker
from simulation.ledger import Asked, Ledger
from simulation.plan import FAILOVER, FREEZE, HOP, RECONNECT, RESPAWN, RESTART, STORM_SPREAD, Plan
from spyglass.dispatcher.actions import Action, ToClient, ToWorker
from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.policy import Policy
from spyglass.protocol import (
    BUSY_INTERVAL,
    Body,
    Bye,
    Message,
    Nack,
    Reason,
    Request,
    Result,
    Times,
    heartbeat_interval,
)

#: Seconds between two ticks: a turn of a busy broker's loop.
TURN = 0.001
#: Seconds between two samples of the queue.
SAMPLE = 0.01
#: Seconds after the last arrival within which all must be answered: the requests' own time, and
#: what a second broker needs.
PATIENCE = 20.0
#: Seconds for which the world goes on after the last answer, to see whether another one comes.
LINGER = 0.5
#: Popular pictures.
POPULAR = 500
#: Bytes of a picture: a photo of 110 KB. All share one buffer.
PICTURE = Body.of(bytes(110_000))
ANSWER = Body.of(b"[]")
TIMES = Times(4.0, 8.0)


class Side:
    """A simulated broker: its dispatcher, and the CPU time that took."""

    def __init__(self, policy: Policy) -> None:
        self.dispatcher = Dispatcher(policy, 0.0)
        self.alive = True
        self.calls: Counter[str] = Counter()
        self.spent: defaultdict[str, float] = defaultdict(float)  # CPU s by the event's name


class World:
    """One run of a plan. `progress` is called with the number of requests just sent."""

    def __init__(self, plan: Plan, progress: Callable[[int], Any] = lambda sent: None) -> None:
        self.plan = plan
        self.now = 0.0
        self.random = Random(plan.seed)
        policy = Policy(max_waiting=plan.max_waiting)
        self.sides = [Side(policy) for _ in range(plan.brokers)]
        self.workers = fleet.make(plan, self.random)
        self.ledger = Ledger(plan.requests, plan.clients)
        self.samples: list[tuple[float, int, int]] = []  # when, waiting, in flight
        self.killed_at: float | None = None
        capacity = sum(worker.rate for worker in self.workers) / plan.service
        self.arrivals_a_second = plan.load * capacity
        self.lasts = plan.requests / self.arrivals_a_second
        self._progress = progress
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = 0
        self._connections = 0
        self._at: dict[bytes, Worker] = {}  # by the address of a connection
        self._poisons: set[str] = set()
        self._interval = heartbeat_interval(len(self.workers))
        self.begun = 0.0  # when the first request arrives

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Until every request has its answer, or the time for that is over."""
        for worker in self.workers:
            self._join(worker)
            self._after(self.random.random() * BUSY_INTERVAL, self._beat, worker)
        self.begun = self.now + BUSY_INTERVAL
        self._schedule_faults()
        self._after(self.begun, self._arrive, None)
        self._after(TURN, self._tick, None)
        self._after(self.begun, self._sample, None)
        until = self.begun + self.lasts + PATIENCE
        while self._events and self.now < until:
            self.now, _, happen, what = heapq.heappop(self._events)
            happen(what)
            if self.ledger.sent == self.plan.requests and not self.ledger.open:
                until = min(until, self.now + LINGER)

    def _after(self, seconds: float, happen: Callable[[Any], None], what: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now + seconds, self._order, happen, what))

    def _event(self, side: int, event: str, *what: Any) -> None:
        """An event for a broker's dispatcher; what it decides happens."""
        if actions := self._decide(side, event, *what):
            self._carry_out(side, actions)

    def _decide(self, side: int, event: str, *what: Any, **more: Any) -> list[Action]:
        broker = self.sides[side]
        if not broker.alive:
            return []
        handle: Callable[..., list[Action]] = getattr(broker.dispatcher, event)
        began = thread_time()
        actions = handle(*what, self.now, **more)
        broker.spent[event] += thread_time() - began
        broker.calls[event] += 1
        return actions

    def _tick(self, _: None) -> None:
        for side in range(len(self.sides)):
            self._event(side, "tick")
        self._after(TURN, self._tick, None)

    def _sample(self, _: None) -> None:
        alive = [side.dispatcher for side in self.sides if side.alive]
        waiting = sum(d.waiting for d in alive)
        at = self.now - self.begun
        self.samples.append((at, waiting, sum(d.open_requests for d in alive) - waiting))
        self._after(SAMPLE, self._sample, None)

    # --- what dispatchers decide --------------------------------------------------------------

    def _carry_out(self, side: int, actions: list[Action]) -> None:
        """As the broker's loop does: a message to a connection that has ended is an event."""
        for action in actions:
            if isinstance(action, ToClient):
                self._after(HOP, self._delivered, (side, action.message))
            elif isinstance(action, ToWorker) and isinstance(action.message, (Request, Bye)):
                address, message = action.worker, action.message
                if address in self._at:
                    self._after(HOP, self._reached, (side, address, message))
                else:
                    gone = address, "unreachable"
                    actions += self._decide(side, "worker_gone", *gone, unreachable=True)

    def _delivered(self, what: tuple[int, Message]) -> None:
        side, message = what
        if self.sides[side].alive:  # what a dead broker had not sent is gone
            self.ledger.final(message, self.now)

    def _reached(self, what: tuple[int, bytes, Message]) -> None:
        """A message arrives at a worker, unless its connection is gone."""
        side, address, message = what
        worker = self._at.get(address)
        if worker is None:
            return
        if worker.thaws > self.now:
            self._after(worker.thaws - self.now, self._reached, what)
        elif isinstance(message, Request):
            self._compute(side, worker, message)
        elif isinstance(message, Bye) and message.again:
            worker.drop(side)
            self._send(side, worker, "worker_ready", worker.hello())

    # --- workers ------------------------------------------------------------------------------

    def _join(self, worker: Worker) -> None:
        worker.restart(self.now)
        self._connect(worker, self._connections + 1)

    def _connect(self, worker: Worker, process: int) -> None:
        self._connections += 1
        hello = worker.connect(self._connections.to_bytes(5, "big"), process)
        self._at[worker.address] = worker
        for side in worker.sides:
            self._event(side, "worker_ready", worker.address, hello)

    def _send(self, side: int, worker: Worker, event: str, *what: Any) -> None:
        """Send a broker a message: it arrives a hop later."""
        worker.last_sent = self.now
        self._after(HOP, self._received, (side, worker.address, event, what))

    def _received(self, sent: tuple[int, bytes, str, tuple[Any, ...]]) -> None:
        side, address, event, what = sent
        if address in self._at:  # else the broker has seen the connection end
            self._event(side, event, address, *what)

    def _beat(self, worker: Worker) -> None:
        interval = BUSY_INTERVAL if worker.held else self._interval
        if (
            self.now >= worker.last_sent + interval
            and worker.connected
            and worker.thaws <= self.now
        ):
            worker.last_sent = self.now
            for side in worker.sides:
                self._event(side, "worker_heartbeat", worker.address)
        self._after(BUSY_INTERVAL, self._beat, worker)

    def _compute(self, side: int, worker: Worker, request: Request) -> None:
        faults, chance = self.plan.faults, self.random.random()
        if chance < faults.busy:
            self._send(side, worker, "worker_refused", Nack(request.id, Reason.BUSY))
            return
        if worker.leaving:
            self._send(side, worker, "worker_refused", Nack(request.id, Reason.DRAINING))
            return
        self._send(side, worker, "worker_acked", request.id)
        task = worker.take(side, request, self.now, fleet.needs(self.plan, self.random))
        dies = request.sha256 in self._poisons or chance > 1 - faults.child
        self._after(task.ends - self.now, self._dies if dies else self._done, task)

    def _done(self, task: Task) -> None:
        if self._may_reply(task, self._done):
            task.worker.done += 1
            result = Result(task.request.id, TIMES, ANSWER)
            self._finish(task, "worker_answered", result)

    def _dies(self, task: Task) -> None:
        """The child dies on it, and is replaced."""
        if self._may_reply(task, self._dies):
            heapq.heapreplace(task.worker.free_at, task.worker.free_at[0] + RESPAWN)
            self._finish(task, "worker_refused", Nack(task.request.id, Reason.CRASH))

    def _may_reply(self, task: Task, again: Callable[[Task], None]) -> bool:
        if not task.dropped and task.worker.thaws > self.now:
            self._after(task.worker.thaws - self.now, again, task)
            return False
        return not task.dropped

    def _finish(self, task: Task, event: str, message: Message) -> None:
        worker = task.worker
        worker.held.remove(task)
        self._send(task.side, worker, event, message)
        if worker.leaving and not worker.held:
            self._left(worker)

    # --- what goes wrong ----------------------------------------------------------------------

    def _schedule_faults(self) -> None:
        faults, random = self.plan.faults, self.random
        kinds: list[tuple[float, Callable[[Worker], None]]] = [
            (faults.crash, self._crash),
            (faults.reset, self._reset),
            (faults.freeze, self._freeze),
            (faults.leave, self._leave),
        ]
        struck = iter(random.sample(self.workers, len(self.workers)))  # each at most once
        for share, strike in kinds:
            for _ in range(round(share * len(self.workers))):
                self._after(self.begun + random.random() * self.lasts, strike, next(struck))
        count = round(faults.poison * self.plan.requests)
        self._poisons = {f"{2**200 + number:064x}" for number in range(count)}
        if self.plan.storm:
            self._after(self.begun + self.lasts / 2, self._storm, None)
        if self.plan.kill:
            self._after(self.begun + self.lasts / 2, self._kill, 0)

    def _lost(self, worker: Worker, back: float, rejoin: Callable[[Worker], None]) -> None:
        """Its connections end, and it is back after a while."""
        if not worker.connected:
            return
        worker.steady = worker.connected = False
        worker.drop()
        del self._at[worker.address]
        self._after(HOP, self._closed, worker.address)
        self._after(back, rejoin, worker)

    def _closed(self, address: bytes) -> None:
        for side in range(len(self.sides)):
            self._event(side, "worker_gone", address, "connection closed")

    def _crash(self, worker: Worker) -> None:
        self._lost(worker, RESTART, self._join)

    def _reset(self, worker: Worker) -> None:
        pause = RECONNECT + self.random.random() * STORM_SPREAD
        self._lost(worker, pause, lambda back: self._connect(back, back.process))

    def _storm(self, _: None) -> None:
        for worker in self.workers:
            self._reset(worker)

    def _freeze(self, worker: Worker) -> None:
        worker.steady, worker.thaws = False, self.now + FREEZE
        worker.free_at = [at + FREEZE for at in worker.free_at]

    def _leave(self, worker: Worker) -> None:
        """It hands back what has not begun, finishes the rest, and leaves."""
        if not worker.connected:
            return
        worker.steady, worker.leaving = False, True
        for side in worker.sides:
            owed = sum(task.side == side for task in worker.held)
            self._send(side, worker, "worker_bye", Bye("leaving", owed))
        for task in [task for task in worker.held if task.begins > self.now]:
            task.dropped = True
            worker.held.remove(task)
            nack = Nack(task.request.id, Reason.DRAINING)
            self._send(task.side, worker, "worker_refused", nack)
        if not worker.held:
            self._left(worker)

    def _left(self, worker: Worker) -> None:
        """It sends BYE, and its connection ends after it."""
        worker.connected = False
        for side in worker.sides:
            self._send(side, worker, "worker_bye", Bye("leaving", 0))
        self._after(2 * HOP, self._at.__delitem__, worker.address)
        self._after(RESTART, self._join, worker)

    def _kill(self, side: int) -> None:
        """A broker dies. Its clients send what is open to the next, under the same ids."""
        self.sides[side].alive = False
        self.killed_at = self.now
        for worker in self.workers:
            if side in worker.sides:
                worker.drop(side)
        self._after(FAILOVER, self._fail_over, side)

    def _fail_over(self, dead: int) -> None:
        for asked in [a for a in self.ledger.open.values() if a.side == dead]:
            asked.side, asked.again = (dead + 1) % len(self.sides), True
            self.ledger.again += 1
            left = self.plan.timeout - (self.now - asked.sent)
            self._ask(asked, int(1000 * left))

    # --- clients ------------------------------------------------------------------------------

    def _arrive(self, _: None) -> None:
        """A request reaches a broker; it left its client a hop ago. The next one is drawn."""
        number, random = self.ledger.sent, self.random
        # The first client sends as much as all others together.
        client = 0 if random.random() < 0.5 else random.randrange(1, self.plan.clients)
        ms = int(1000 * self.plan.timeout)
        id = number.to_bytes(16, "big")
        request = Request(id, "", 5, ms, self._picture(number), PICTURE)
        side = min(client, len(self.sides) - 1)  # half of the load to each of two
        asked = Asked(request, client, self.now - HOP, side)
        self.ledger.ask(asked)
        self._progress(1)
        self._ask(asked, ms)
        if self.ledger.sent < self.plan.requests:
            self._after(random.expovariate(self.arrivals_a_second), self._arrive, None)

    def _ask(self, asked: Asked, budget_ms: int) -> None:
        if not self.sides[asked.side].alive and self._noticed:
            asked.side = (asked.side + 1) % len(self.sides)
        r = asked.request
        request = Request(r.id, r.model, r.top_k, budget_ms, r.sha256, r.body)
        client = bytes((1, asked.client))
        self._event(asked.side, "request_arrived", client, request)

    @property
    def _noticed(self) -> bool:
        return self.killed_at is not None and self.now >= self.killed_at + FAILOVER

    def _picture(self, number: int) -> str:
        chance = self.random.random()
        if self._poisons and chance < 3 * len(self._poisons) / self.plan.requests:
            return f"{2**200 + self.random.randrange(len(self._poisons)):064x}"
        if chance > 1 - self.plan.copies:
            return f"{2**201 + self.random.randrange(POPULAR):064x}"
        return f"{number:064x}"
