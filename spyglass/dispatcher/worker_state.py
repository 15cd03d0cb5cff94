"""One connected worker. Plain data with the few moves that keep it consistent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spyglass.dispatcher.health import Health
from spyglass.dispatcher.job_state import Attempt, Job
from spyglass.dispatcher.policy import LATENCY_WINDOW, MAX_HANDICAP, PACE_WEIGHT, SLOW_FACTOR
from spyglass.protocol import Ready

if TYPE_CHECKING:  # it refers to workers in turn
    from spyglass.dispatcher.pools import Pool


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
    awaiting_reply: dict[bytes, Job] = field(default_factory=dict)
    acknowledged: set[bytes] = field(default_factory=set)  # those of them that it acknowledged
    #: Requests it let go unacknowledged, and how many times, each time with a last word that it may
    #: still say; the earliest first.
    abandoned: dict[bytes, int] = field(default_factory=dict)
    on_the_way: int = 0  # bytes of pictures sent and not acknowledged
    last_ack_timeout: float = float("-inf")  # when it last let a request go unacknowledged
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
        return not (self.health.probing and self.awaiting_reply)

    @property
    def level(self) -> int:
        """How long work would wait there: 0 while a child of usual speed is idle."""
        return (len(self.awaiting_reply) // self.hello.processes + 1) * self.handicap - 1

    def answered_in(self, seconds: float) -> None:
        """Learn from an answer how fast it is, next to the others of its pool."""
        self.latencies.append(seconds)
        self.pace += (seconds - self.pace) * (PACE_WEIGHT if len(self.latencies) > 1 else 1)
        self.pool.answered_in(seconds)
        slower = self.pace / self.pool.typical
        self.handicap = min(MAX_HANDICAP, int(slower)) if slower >= SLOW_FACTOR else 1
