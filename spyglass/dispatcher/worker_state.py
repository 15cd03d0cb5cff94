"""One connected worker. Plain data with the few methods that keep it consistent."""

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
class Silence:
    """What a worker did not acknowledge in time, and whether it has been silent since.

        SPEAKING --- no ACK in time, and no message since the request was sent ---> SILENT
            ^                                                                         |
            '------------------------------- any message -----------------------------'

    A silent worker gets no more work, and a request that it did not acknowledge has lost no attempt
    by it: rather the network failed. A worker that sends other messages but no ACK goes on
    SPEAKING, and has failed.
    """

    last_message: float  # when it was read
    silent: bool = False
    last_ack_timeout: float = float("-inf")
    bytes_on_the_way: int = 0  # of pictures sent and not acknowledged
    #: Requests abandoned without an ACK, the earliest first, and how many times: a reply may still
    #: come for each time.
    abandoned: dict[bytes, int] = field(default_factory=dict)

    def message_came(self, now: float) -> bool:
        """Any message from the worker. Whether it ends a silence."""
        was_silent, self.silent, self.last_message = self.silent, False, now
        return was_silent

    def request_sent(self, size: int) -> int:
        """A request with so many bytes follows those on the way; how many bytes are on it now."""
        self.bytes_on_the_way += size
        return self.bytes_on_the_way

    def request_off_the_way(self, size: int) -> None:
        """The worker acknowledged it, or it was taken back before."""
        self.bytes_on_the_way -= size

    def ack_timed_out(self, request_id: bytes, sent: float, most: int, now: float) -> bool:
        """A request sent at `sent` is abandoned; of the abandoned, `most` are kept. Whether a
        pause of the worker begins with it: all that it misses in one pause is one failure."""
        begins = self.last_message > self.last_ack_timeout
        self.abandoned[request_id] = self.abandoned.pop(request_id, 0) + 1
        if len(self.abandoned) > most:
            del self.abandoned[next(iter(self.abandoned))]
        self.silent = self.last_message <= sent
        self.last_ack_timeout = now
        return begins

    def late_reply(self, request_id: bytes) -> bool:
        """A result or a refusal came: whether it is on an attempt that was abandoned, each of which
        has one."""
        expected = self.abandoned.pop(request_id, 0)
        if expected > 1:
            self.abandoned[request_id] = expected - 1
        return expected > 0


@dataclass(slots=True, eq=False)
class Worker:
    """One connected worker. `silence` shows whether it is alive, `credit` whether it is ready,
    `in_flight` what is lost when it dies."""

    address: bytes
    id: str  # its public name: never its address, from which others' addresses could be guessed
    hello: Ready
    name: str
    pool: Pool
    joined: float
    silence: Silence
    credit: int
    health: Health = field(default_factory=Health)
    in_flight: dict[bytes, Attempt] = field(default_factory=dict)
    #: Requests it will still answer or NACK, each holding one credit: those in flight and those
    #: taken from it (deadline, hung) that its child may still be computing.
    awaiting_reply: dict[bytes, Job] = field(default_factory=dict)
    acknowledged: set[bytes] = field(default_factory=set)  # those of them that it acknowledged
    draining: bool = False
    dismissed: bool = False  # the operator wants it to leave after its work
    done: int = 0
    failed: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_WINDOW))
    pace: float = 0.0  # s, moving mean of the time from sending a request to its answer
    handicap: int = 1  # how many times slower than usual, 1 if not remarkably

    @property
    def state(self) -> str:
        """As the status page shows it."""
        if self.draining:
            return "draining"
        if self.health.out:
            return "ejected"
        return "busy" if self.in_flight else "ready"

    @property
    def fit(self) -> bool:
        """Whether it may get work at all: it does not leave, is not silent and not ejected."""
        return not (self.draining or self.silence.silent or self.health.until is not None)

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
