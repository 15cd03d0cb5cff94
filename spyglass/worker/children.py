"""A worker's child processes as their parent sees them: what each computes, and until when."""

from __future__ import annotations

import random
import signal
import socket
from collections import deque
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess

from spyglass.worker.pipe import LAST_OF_BATCH, Frame, Reassembly, receive
from spyglass.worker.spawner import ChildSpawner

#: Seconds before a child that died early is replaced: none at first, then doubling up to this.
MAX_RESTART_DELAY = 5.0
#: Seconds of the first delay.
FIRST_RESTART_DELAY = 0.1
#: Seconds a child may have computed its batch and still get a second one to begin next. A batch
#: that takes longer may take very long, and another child may be free before.
QUICK = 0.05
#: Seconds a new child may take from start to greeting: a cold disk, a large model on a GPU.
START_LIMIT = 120.0


@dataclass(slots=True)
class Batch:
    """Pictures computed together, by their frames' ids, and the seconds they may take."""

    ids: list[bytes]
    limit: float


@dataclass(eq=False)
class Child:
    """One child process and the batches it has: one being computed, and one ahead."""

    process: BaseProcess
    connection: socket.socket
    started: float
    model: str = ""
    digest: str = ""
    ready: bool = False
    busy_since: float = 0.0
    limit: float = float("inf")  # when its present batch must be done
    batches: deque[Batch] = field(default_factory=deque)  # the first is being computed
    hung: bool = False  # killed at its limit
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    stream: Reassembly = field(default_factory=Reassembly)

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    @property
    def state(self) -> str:
        """Its state in heartbeats."""
        if not self.ready:
            return "starting"
        return "busy" if self.batches else "idle"

    @property
    def working_on(self) -> list[bytes]:
        """Frame ids of the batch being computed."""
        return self.batches[0].ids if self.batches else []

    @property
    def ahead(self) -> list[bytes]:
        """Frame ids of the batch it has not begun."""
        return [frame_id for batch in list(self.batches)[1:] for frame_id in batch.ids]

    def give(self, frames: list[Frame], now: float, limit: float) -> None:
        """A batch to be done within `limit` seconds from its beginning, which is now or when
        the one before is done."""
        *most, last = frames
        last = replace(last, number=last.number | LAST_OF_BATCH)
        self.batches.append(Batch([frame.id for frame in frames], limit))
        if len(self.batches) == 1:
            self._begin(now)
        packed = b"".join(frame.pack() for frame in [*most, last])
        self.unsent = memoryview(bytes(self.unsent) + packed if self.unsent else packed)
        self.push()

    def answered(self, frame_id: bytes, now: float) -> None:
        """One of the pictures in the present batch is done; with the last of them, the batch."""
        self.working_on.remove(frame_id)
        if not self.working_on:
            self.batches.popleft()
            self._begin(now)

    def _begin(self, now: float) -> None:
        self.busy_since = now
        self.limit = now + self.batches[0].limit if self.batches else float("inf")

    def push(self) -> None:
        """Write as much as the pipe takes. A stopped child must not block the parent."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.connection.send(self.unsent) :]
        except BlockingIOError:
            pass  # the poller reports when there is room again
        except ConnectionError:
            self.unsent = memoryview(b"")  # it is dead, as reading will show

    def read(self) -> list[Frame] | None:
        """Frames that have arrived, or None when it is dead."""
        try:
            data = receive(self.connection)
        except BlockingIOError:
            return []
        return self.stream.feed(data) if data else None

    def kill(self) -> None:
        if self.process.pid:
            self.process.kill()


class Children:
    """The set of children: keeps `wanted` of them alive."""

    def __init__(self, spawner: ChildSpawner, wanted: int) -> None:
        self.spawner = spawner
        self.wanted = wanted
        self.alive: list[Child] = []
        self._starting = 0
        self._early_deaths = 0
        self._start_at = 0.0

    @property
    def ready(self) -> list[Child]:
        return [c for c in self.alive if c.ready]

    def next_free(self, now: float) -> Child | None:
        """The child for the next batch: of those that are idle, the one that has been so longest;
        else one that computes its only batch, so that it can begin the next without a pause.
        """
        ready = self.ready
        idle = [c for c in ready if not c.batches]
        if idle:
            return min(idle, key=lambda c: c.busy_since)
        quick = [
            c for c in ready if len(c.batches) == 1 and now - c.busy_since < QUICK and not c.hung
        ]
        return min(quick, key=lambda c: c.busy_since, default=None)

    def collect(self) -> list[Child]:
        """Children that have been started since the last call."""
        new = []
        while self.spawner.started:
            new.append(Child(*self.spawner.started.popleft()))
            self._starting -= 1
        self.alive += new
        return new

    def keep_up(self, now: float) -> None:
        """Ask for replacements, not faster than the back-off allows."""
        while len(self.alive) + self._starting < self.wanted and now >= self._start_at:
            self._starting += 1
            self.spawner.request_one()

    def next_due(self) -> float:
        """When `keep_up` or `overdue` have something to do, at the latest."""
        limits = [c.limit for c in self.alive]
        limits += [c.started + START_LIMIT for c in self.alive if not c.ready]
        if len(self.alive) + self._starting < self.wanted:
            limits.append(self._start_at)
        return min(limits, default=float("inf"))

    def overdue(self, now: float) -> list[Child]:
        """Children past their limit; each is marked and killed, and ends within milliseconds."""
        late = [
            c
            for c in self.alive
            if not c.hung and (now >= c.limit or (not c.ready and now >= c.started + START_LIMIT))
        ]
        for c in late:
            c.hung = True
            c.limit = float("inf")
            c.kill()
        return late

    def reap(self, dead: Child, now: float) -> None:
        """Forget a dead child and plan its replacement: at once if it had served, later and
        later if children die before they serve."""
        self.alive.remove(dead)
        dead.connection.close()
        dead.kill()  # it may have closed its pipe without dying
        self._early_deaths = 0 if dead.ready else self._early_deaths + 1
        delay = 0.0
        if self._early_deaths:
            delay = min(MAX_RESTART_DELAY, FIRST_RESTART_DELAY * 2 ** (self._early_deaths - 1))
        self._start_at = now + delay * random.uniform(0.5, 1.0)

    def close(self) -> None:
        """End them all: an idle one leaves when its pipe is closed, the others are killed."""
        self.spawner.close()
        for c in self.alive:
            c.connection.close()
            if c.state != "idle":
                c.kill()
        for c in self.alive:
            c.process.join(1.0)
            c.kill()


def how_it_ended(dead: Child) -> str:
    """How it ended, as a phrase for the log."""
    if dead.hung:
        return "hung and was killed"
    dead.process.join(0.05)  # a fork server that lives reports exit codes within milliseconds
    code = dead.process.exitcode
    if code is None:
        return "died"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with code {code}"
