"""What the status page shows of the past, and the actions decided in the present event."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from spyglass.dispatcher.actions import Action, LogEvent, ToClient, ToWorker
from spyglass.dispatcher.policy import DEPARTED_KEPT, EVENTS_KEPT
from spyglass.dispatcher.stats import Counters
from spyglass.protocol import Message


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
    """Requests that left a worker together. When the last of them is closed, the event of their
    move gets its outcome: what became of them."""

    event: Event
    requests: int
    answered: int = 0
    unanswered: int = 0  # failed, or nobody waits for them any more
    last_answer: float = 0.0

    def was_answered(self, now: float) -> None:
        """One of them was answered with predictions."""
        self.answered += 1
        self.last_answer = now
        self._closed()

    def was_not_answered(self) -> None:
        """One of them was closed without predictions."""
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


class Journal:
    """The actions decided in the present event, and what the status page shows of the past."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.departed: deque[Departed] = deque(maxlen=DEPARTED_KEPT)
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._logged = 0
        self._actions: list[Action] = []

    def to_worker(self, address: bytes, message: Message) -> None:
        self._actions.append(ToWorker(address, message))

    def to_client(self, address: bytes, message: Message, others: tuple[bytes, ...] = ()) -> None:
        self._actions.append(ToClient(address, message, others))

    def log_event(self, text: str, now: float, requests: tuple[bytes, ...] = ()) -> Event:
        self._logged += 1
        event = Event(self._logged, now, text)
        self.events.append(event)
        self._actions.append(LogEvent(text, requests))
        return event

    def flush(self) -> list[Action]:
        """The actions since the last flush, in the order they were decided."""
        actions, self._actions = self._actions, []
        return actions
