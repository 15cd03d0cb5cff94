"""What the dispatcher decides: actions for the broker to carry out, and the record it keeps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from spyglass.protocol import (
    BUSY_INTERVAL,
    DEFAULT_JOB_LIMIT,
    SLOWEST_LINK,
    Message,
)
from spyglass.protocol.snapshot import MAX_MODELS

#: Events kept for the status page: some screens full.
EVENTS_KEPT = 200
#: Departed workers kept for the status page.
DEPARTED_KEPT = 50


@dataclass(frozen=True)
class Policy:
    """The numbers behind the decisions. Seconds, unless a field says otherwise."""

    #: Silence after which a worker at work counts as dead, one that acknowledged a request and owes
    #: its last word: four heartbeats, so that what it held is with another worker within 1.2 s.
    expiry_at_work: float = BUSY_INTERVAL * 4
    #: The longest sleep of the broker's loop. A loop that wakes later than after twice this expires
    #: nobody for `grace`: signs of life may lie unread.
    longest_sleep: float = 0.25
    grace: float = 0.5
    #: Requests waiting for a worker. About 2 s of work for two workers of 50 images/s each;
    #: beyond that an immediate "busy" is kinder than a late answer.
    max_waiting: int = 200
    #: Bytes of all waiting pictures: bounds the broker's memory.
    max_waiting_bytes: int = 256 * 1024 * 1024
    #: Workers one request may be tried on.
    max_attempts: int = 3
    #: A client is told that its request was accepted unless it is answered within this: most are,
    #: and an answer says it too (as TCP delays its ACKs). Less than half of what a client waits for
    #: one, so that a round trip of 0.3 s is none too long.
    ack_delay: float = 0.2
    #: Who is told then is everybody who would be within this, in one go: a wake-up, of the broker
    #: and of its client, takes more than an ACK does.
    ack_spread: float = 0.1
    #: A worker must acknowledge a request within this, plus the time its picture, and those on
    #: their way before it, take on the slowest link we serve. An ACK costs no computation, so only
    #: a lost message is this late.
    ack_timeout: float = 0.3
    slowest_link: float = SLOWEST_LINK
    #: From ACK to answer. The worker kills a hung child at its job limit and may hold one more
    #: request before ours; this is the net beneath, one second later.
    attempt_timeout: float = 2 * DEFAULT_JOB_LIMIT + 1.0
    #: Of a model's requests at hand, how many may be on a second or later attempt at a time, and
    #: how many always may: retries must not amplify an overload (Envoy's retry budget: 20 %, 3).
    retry_share: float = 0.2
    retries_always: int = 3
    #: A request that runs longer than this, or than three times the 95th percentile, is hedged:
    #: given to an idle worker as well (Dean and Barroso, The Tail at Scale, 2013).
    hedge_floor: float = 0.3
    hedge_factor: float = 3.0
    #: Extra work by hedging, as a share of the requests accepted, and hedges allowed at once.
    hedge_share: float = 0.05
    hedge_burst: float = 3.0
    #: How long a picture that cost two workers or children is refused.
    quarantine: float = 600.0
    #: Share of a model's workers that may be ejected at a time.
    ejected_share: float = 0.5
    max_models: int = MAX_MODELS


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
    others: tuple[bytes, ...] = ()  # where to send it if that cannot be reached, the first that can


@dataclass(frozen=True, slots=True)
class Note:
    """Log one state change, in words."""

    text: str
    requests: tuple[bytes, ...] = ()  # the ids of those it concerns


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


@dataclass(slots=True, eq=False)
class Event:
    """A line of the status page's log."""

    number: int  # 1 for the first since the start
    at: float
    text: str
    outcome: str = ""  # what became of it, once that is known


@dataclass(slots=True, eq=False)
class Move:
    """Requests that left a worker together. When the last of them is closed, the event that told
    of it also tells what became of them."""

    event: Event
    requests: int
    answered: int = 0
    unanswered: int = 0  # failed, or nobody waits for them any more
    last_answer: float = 0.0

    def was_answered(self, now: float) -> None:
        """One of them has its predictions."""
        self.answered += 1
        self.last_answer = now
        self._closed()

    def was_not_answered(self) -> None:
        """One of them is closed without."""
        self.unanswered += 1
        self._closed()

    def _closed(self) -> None:
        if self.answered + self.unanswered < self.requests:
            return
        took = f"answered {1000 * (self.last_answer - self.event.at):.0f} ms later"
        if not self.unanswered:
            self.event.outcome = took
        elif self.answered:
            self.event.outcome = f"{self.answered} {took}, {self.unanswered} not answered"
        else:
            self.event.outcome = "not answered"


@dataclass(slots=True)
class Counters:
    """Counts for the snapshot; spyglass/protocol/snapshot.py says what each of them counts."""

    accepted: int = 0
    answered: int = 0
    failed: int = 0
    requeued: int = 0
    handed_back: int = 0
    hedged: int = 0
    quarantined: int = 0
    refused: int = 0
    expired: int = 0
    cancelled: int = 0
    late: int = 0
    duplicate: int = 0
    ejected: int = 0
    bad_frames: int = 0
    mishaps: int = 0


class Record:
    """Actions decided in the present event, and what the status page tells of the past."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.departed: deque[Departed] = deque(maxlen=DEPARTED_KEPT)
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._noted = 0
        self._actions: list[Action] = []

    def to_worker(self, address: bytes, message: Message) -> None:
        self._actions.append(ToWorker(address, message))

    def to_client(self, address: bytes, message: Message, others: tuple[bytes, ...] = ()) -> None:
        self._actions.append(ToClient(address, message, others))

    def note(self, text: str, now: float, requests: tuple[bytes, ...] = ()) -> Event:
        self._noted += 1
        event = Event(self._noted, now, text)
        self.events.append(event)
        self._actions.append(Note(text, requests))
        return event

    def flush(self) -> list[Action]:
        """The actions since the last flush, in the order they were decided."""
        actions, self._actions = self._actions, []
        return actions
