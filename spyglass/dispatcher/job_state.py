"""One accepted request, and its attempts on workers. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from spyglass.dispatcher.journal import Move
from spyglass.dispatcher.senders import Senders
from spyglass.protocol import Request

if TYPE_CHECKING:  # they refer to jobs and attempts in turn
    from spyglass.dispatcher.pools import Pool
    from spyglass.dispatcher.worker_state import Worker


class JobState(Enum):
    """Where an accepted request stands. It moves forward, or back to WAITING when requeued."""

    WAITING = "waiting"  # in its pool's queue
    SENT = "sent"  # on its way to a worker, not yet acknowledged
    RUNNING = "running"  # acknowledged: a worker has it whole
    ANSWERED = "answered"  # the client has its one final answer


@dataclass(slots=True, eq=False)
class Job:
    """One accepted request until it is answered. Two jobs are the same only by identity."""

    senders: Senders
    request: Request
    pool: Pool
    arrived: float
    deadline: float
    size: int  # bytes of the picture
    tried: int = 0  # attempts begun
    uncounted_attempts: int = 0  # those of them on a worker that was cut off: nobody failed
    attempts: list[Attempt] = field(default_factory=list)  # those that run: one, or its hedge too
    hedge_at: float = float("inf")
    armed: float = float("inf")  # the earliest timer set for it
    excluded: set[bytes] = field(default_factory=set)  # workers that failed this request
    moves: tuple[Move, ...] = ()  # the times it lost its worker
    queued: bool = True  # it waits; else a worker has it, or it is closed
    closed: bool = False

    @property
    def state(self) -> JobState:
        """Which of the four it is in."""
        if self.closed:
            return JobState.ANSWERED
        if any(attempt.acked for attempt in self.attempts):
            return JobState.RUNNING
        return JobState.SENT if self.attempts else JobState.WAITING

    @property
    def next_timer(self) -> float:
        """When something must happen to it at the latest."""
        return min([self.deadline, self.hedge_at, *[each.deadline for each in self.attempts]])


@dataclass(slots=True, eq=False)
class Attempt:
    """A job on a worker."""

    job: Job
    worker: Worker
    number: int  # 1 for the job's first
    sent: float
    deadline: float  # of the ACK at first, of the answer once acknowledged
    acked: bool = False
