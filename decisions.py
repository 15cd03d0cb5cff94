"""What the dispatcher decides: actions for the broker to carry out, and the record it keeps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from zmq_protocol import (
    DEFAULT_JOB_LIMIT,
    HEARTBEAT_INTERVAL,
    LIVENESS,
    SLOWEST_LINK,
    Message,
)

#: Events kept for the status page: some screens full.
EVENTS_KEPT = 200
#: Departed workers kept for the status page.
DEPARTED_KEPT = 50


@dataclass(frozen=True)
class Policy:
    """The numbers behind the decisions. Seconds, unless a field says otherwise."""

    heartbeat_interval: float = HEARTBEAT_INTERVAL
    liveness: int = LIVENESS
    #: Requests waiting for a worker. About 2 s of work for two workers of 50 images/s each;
    #: beyond that an immediate "busy" is kinder than a late answer.
    max_waiting: int = 200
    #: Bytes of all waiting pictures: bounds the broker's memory.
    max_waiting_bytes: int = 256 * 1024 * 1024
    #: Workers one request may be tried on.
    max_attempts: int = 3
    #: A worker must acknowledge a request within this, plus the time its picture takes on the
    #: slowest link we serve. An ACK costs no computation, so only a lost message is this late.
    ack_timeout: float = 0.3
    slowest_link: float = SLOWEST_LINK
    #: From ACK to answer. The worker kills a hung child at its job limit and may hold one more
    #: request before ours; this is the net beneath, one second later.
    attempt_timeout: float = 2 * DEFAULT_JOB_LIMIT + 1.0
    #: Models one broker serves: a worker that invents names must not fill the memory.
    max_models: int = 64

    @property
    def expiry_after(self) -> float:
        """Seconds of silence after which a worker counts as dead."""
        return self.heartbeat_interval * self.liveness


@dataclass(frozen=True, slots=True)
class ToWorker:
    """Send a message to a worker's address."""

    worker: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class ToClient:
    """Send a message to a client's address."""

    client: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Note:
    """Log one state change, in words."""

    text: str


Action: TypeAlias = ToWorker | ToClient | Note


@dataclass(frozen=True, slots=True)
class Departed:
    """A worker that left, kept for the status page."""

    name: str
    host: str
    reason: str
    at: float
    done: int
    failed: int


@dataclass(slots=True)
class Counters:
    """What has happened since the broker started, in requests unless said otherwise."""

    accepted: int = 0
    answered: int = 0  # with predictions
    failed: int = 0  # with a reason instead
    requeued: int = 0  # moves to another worker
    refused: int = 0  # not accepted: full, no such model, leaving
    expired: int = 0  # of the failed: deadline passed
    cancelled: int = 0  # nobody waited any more
    late: int = 0  # words from workers on requests that were closed or moved before
    bad_frames: int = 0  # messages that were none


class Record:
    """Actions decided in the present event, and what the status page tells of the past."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.departed: deque[Departed] = deque(maxlen=DEPARTED_KEPT)
        self.events: deque[tuple[float, str]] = deque(maxlen=EVENTS_KEPT)
        self._actions: list[Action] = []

    def to_worker(self, address: bytes, message: Message) -> None:
        self._actions.append(ToWorker(address, message))

    def to_client(self, address: bytes, message: Message) -> None:
        self._actions.append(ToClient(address, message))

    def note(self, text: str, now: float) -> None:
        self.events.append((now, text))
        self._actions.append(Note(text))

    def flush(self) -> list[Action]:
        """The actions since the last flush, in the order they were decided."""
        actions, self._actions = self._actions, []
        return actions
