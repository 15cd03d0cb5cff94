"""The requests of a worker that are not answered yet: those that wait for a child, and those that
children compute.

Each is answered once, over the connection it came by, or never if that connection is gone: its
broker has sent it to other workers then. Children are not known here: loop.py feeds them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

from spyglass.protocol import ID_BYTES, Ack, Message, Nack, Reason, Request
from spyglass.runtime import logs
from spyglass.worker import request_log
from spyglass.worker.connection import BrokerConnection
from spyglass.worker.pipe import Frame


@dataclass(slots=True, eq=False)
class InflightRequest:
    """A request this worker was given and has not yet answered."""

    connection: BrokerConnection
    epoch: int  # the connection's, when it came
    request: Request
    arrived: float
    deadline: float


class InflightRequests:
    """Requests from arrived to answered. Times are seconds on any monotonic clock."""

    def __init__(self, room: int) -> None:
        """
        Args:
            room: how many may wait: the credit given, to all brokers together.
        """
        self.waiting: deque[InflightRequest] = deque()
        #: By the id of their frame on the pipe. The request's own id will not do: the same request
        #: may come again, over a new connection or from another broker, while it is computed.
        self.running: dict[bytes, InflightRequest] = {}
        self.leaving = False  # then nothing new is taken
        self._room = room
        self._arrived: list[InflightRequest] = []  # not acknowledged yet
        self._tokens = count(1)
        self._detailed = logs.detailed()

    def awaiting_reply(self, connection: BrokerConnection) -> int:
        """How many of this broker's requests are not answered yet."""
        return sum(
            entry.connection is connection for entry in chain(self.running.values(), self.waiting)
        )

    def holds(self, connection: BrokerConnection) -> bool:
        """Whether any is: then heartbeats are sent more often, as somebody waits."""
        return any(
            entry.connection is connection for entry in chain(self.running.values(), self.waiting)
        )

    # --- in -----------------------------------------------------------------------------------

    def take(self, connection: BrokerConnection, request: Request, now: float) -> None:
        """A request has arrived: queue it for a child, or refuse it."""
        entry = InflightRequest(
            connection, connection.epoch, request, now, now + request.budget_ms / 1000
        )
        if self.leaving:
            self.answer(entry, Nack(request.id, Reason.DRAINING, "the worker is leaving"))
        elif not request.body.intact():
            self.answer(entry, Nack(request.id, Reason.CHECKSUM, "damaged on the way"))
        elif self._full():
            self.answer(entry, Nack(request.id, Reason.BUSY, "more than the credit given"))
        else:
            if self._detailed:
                request_log.sent_to_broker(Ack(request.id))
            self._arrived.append(entry)
            self.waiting.append(entry)

    def acknowledge(self) -> None:
        """Acknowledge what has arrived; children were fed first, so that they need not wait."""
        for entry in self._arrived:
            self._send(entry, Ack(entry.request.id))
        self._arrived.clear()

    def _full(self) -> bool:
        """Whether more arrived than credit was given for. Requests of connections that are gone
        are dropped: their brokers have sent them to other workers."""
        if len(self.waiting) >= self._room:
            self.waiting = deque(
                entry for entry in self.waiting if entry.epoch == entry.connection.epoch
            )
        return len(self.waiting) >= self._room

    # --- to a child and back ------------------------------------------------------------------

    def next_batch(self, most: int, now: float) -> list[Frame]:
        """The next requests for a child, at most so many; none if no time was left for any."""
        frames: list[Frame] = []
        while self.waiting and len(frames) < most:
            alone = self.waiting[0].request.alone
            if frames and alone:
                break
            entry = self.waiting.popleft()
            request = entry.request
            if entry.epoch != entry.connection.epoch:
                continue  # it came over a connection that is gone
            if now >= entry.deadline:
                self.answer(entry, Nack(request.id, Reason.DEADLINE, "no time was left"))
                continue
            token = next(self._tokens).to_bytes(ID_BYTES, "big")
            self.running[token] = entry
            frames.append(Frame(token, request.top_k, request.body.join()))
            if alone:
                break
        return frames

    def put_back(self, tokens: Sequence[bytes]) -> None:
        """A child ended before it began these: they come next, in this order."""
        self.waiting.extendleft(self.running.pop(token) for token in reversed(tokens))

    # --- out ----------------------------------------------------------------------------------

    def answer(self, entry: InflightRequest, message: Message) -> None:
        """Answer over the connection that the request came by, and over no newer one. A request
        that is refused is not acknowledged afterwards."""
        if entry in self._arrived:
            self._arrived.remove(entry)
        if self._detailed or isinstance(message, Nack):
            request_log.sent_to_broker(message)
        self._send(entry, message)

    def cancel(self, connection: BrokerConnection, request_id: bytes) -> None:
        """Drop it if it has not begun. One that is being computed is finished: no child stops."""
        for entry in self.waiting:
            if entry.request.id == request_id and entry.connection is connection:
                self.waiting.remove(entry)
                self.answer(entry, Nack(request_id, Reason.CANCELLED))
                return

    def leave(self) -> None:
        """Take nothing new, and hand back what has not begun."""
        self.leaving = True
        while self.waiting:
            entry = self.waiting.popleft()
            self.answer(entry, Nack(entry.request.id, Reason.DRAINING, "the worker is leaving"))

    def _send(self, entry: InflightRequest, message: Message) -> None:
        if entry.connection.connected and entry.epoch == entry.connection.epoch:
            entry.connection.send(message)
