"""Who asked what and what became of it, kept apart from the dispatcher that is being checked."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass

from spyglass.protocol import Message, Nack, Request, Result


@dataclass(slots=True, eq=False)
class Asked:
    """A request that has no final answer yet."""

    request: Request
    client: int
    sent: float
    side: int  # the broker it was sent to last
    again: bool = False  # sent to a second broker


class Ledger:
    """Every request by its number, and its final answers."""

    def __init__(self, requests: int, clients: int) -> None:
        self.open: dict[bytes, Asked] = {}
        self.finals = bytearray(requests)
        self.sent = 0
        self.latencies = array("d")  # s, of answers with predictions, in the order they came
        self.answered_at = array("d")  # s, beside them
        self.waits: list[array[float]] = [array("d") for _ in range(clients)]
        self.asked_by = [0] * clients
        self.outcomes: Counter[str] = Counter()  # "answered", or the reason
        self.last_of_again = 0.0  # when the last request that was sent again had its answer
        self.first_of_again = float("inf")
        self.again = 0

    def ask(self, asked: Asked) -> None:
        """It leaves its client."""
        self.open[asked.request.id] = asked
        self.asked_by[asked.client] += 1
        self.sent += 1

    def final(self, message: Message, now: float) -> None:
        """Predictions or a reason arrive at the client; anything else is not final."""
        if not isinstance(message, (Result, Nack)):
            return
        number = int.from_bytes(message.id, "big")
        self.finals[number] = min(255, self.finals[number] + 1)
        asked = self.open.pop(message.id, None)
        if asked is None:
            return  # a second one: `twice` counts it
        if isinstance(message, Nack):
            self.outcomes[message.reason.value] += 1
        else:
            self.outcomes["answered"] += 1
            self.latencies.append(now - asked.sent)
            self.answered_at.append(now)
            self.waits[asked.client].append(now - asked.sent)
        if asked.again:
            self.first_of_again = min(self.first_of_again, now)
            self.last_of_again = max(self.last_of_again, now)

    @property
    def lost(self) -> int:
        """Requests without any final answer."""
        return self.finals[: self.sent].count(0)

    @property
    def twice(self) -> int:
        """Requests with more than one."""
        return self.sent - self.finals[: self.sent].count(0) - self.finals[: self.sent].count(1)
