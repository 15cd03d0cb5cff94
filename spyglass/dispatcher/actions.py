"""What the dispatcher decides: actions for the broker to carry out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from spyglass.protocol import Message


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
class LogEvent:
    """Log one state change, as a sentence."""

    text: str
    requests: tuple[bytes, ...] = ()  # the ids of those it concerns


Action: TypeAlias = ToWorker | ToClient | LogEvent
