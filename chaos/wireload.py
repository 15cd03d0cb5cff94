"""Two users of the wire protocol: a probe that counts answers, and an observer of the brokers.

Both use nothing of the client library: they are here to catch its mistakes as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import zmq

from chaos.ledger import Event, Final, Record, merge
from chaos.pictures import Pictures
from spyglass.protocol import (
    ID_BYTES,
    Ack,
    Body,
    Direction,
    Message,
    Nack,
    Op,
    ProtocolError,
    Query,
    Reason,
    Reply,
    Request,
    Result,
    encode,
)
from spyglass.transport.framing import Inbox, incoming, send
from spyglass.transport.peers import monitor_events
from spyglass.transport.socket_options import DEALER_EVENTS, dealer
from spyglass.transport.waker import Waker

#: Seconds a broker has to acknowledge before the request is sent again.
ACK_TIMEOUT = 0.5
#: Seconds until a request that was handed back is sent again.
RESEND_DELAY = 0.1
#: NACKs that are no final answer: the picture is whole here, and is sent again.
HANDED_BACK = frozenset((Reason.DRAINING, Reason.CHECKSUM))
#: Seconds between two readings of each broker's status, and until an unanswered one is repeated.
LOOK_EVERY, LOOK_TIMEOUT = 0.1, 0.5


class Line:
    """A DEALER to one broker's front, and whether somebody is there."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.connected = False
        self.socket = dealer(context)
        self.inbox = Inbox(self.socket, Direction.BROKER_TO_CLIENT.most_frames)
        self.monitor = self.socket.get_monitor_socket(DEALER_EVENTS)
        self.socket.connect(address)

    def changed(self) -> bool:
        """Read the monitor; whether the connection came or went."""
        changed = False
        for event, _ in monitor_events(self.monitor):
            self.connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            changed = True
        return changed

    def send(self, message: Message) -> bool:
        try:
            send(self.socket, encode(message))
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[Message]:
        """All that has come; what is no message of ours is as good as lost."""
        received = incoming(self.inbox, Direction.BROKER_TO_CLIENT)
        return [message for message in received if not isinstance(message, ProtocolError)]


class _Loop(ABC):
    """A thread that owns lines to all brokers and wakes at least every 20 ms."""

    def __init__(self, name: str, fronts: Sequence[str], clock: Callable[[], float]) -> None:
        self.clock = clock
        self.waker = Waker()
        self._closing = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self.lines = [Line(self._context, front) for front in fronts]
        self._poller = zmq.Poller()
        self._poller.register(self.waker.fileno(), zmq.POLLIN)
        for line in self.lines:
            self._poller.register(line.socket, zmq.POLLIN)
            self._poller.register(line.monitor, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self.waker.wake()
        self._thread.join()
        self.waker.close()

    @abstractmethod
    def turn(self, now: float) -> None:
        """Read and send what there is, without blocking."""

    def _run(self) -> None:
        try:
            while not self._closing:
                self._poller.poll(20)
                self.waker.clear()
                self.turn(self.clock())
        finally:
            for line in self.lines:
                line.socket.disable_monitor()
                line.monitor.close()
            self._context.destroy(linger=0)


@dataclass(slots=True, eq=False)
class _Open:
    record: Record
    request: Request
    line: Line | None = None  # where it was sent last, if that connection still stands
    acked: bool = False
    resend_at: float = 0.0


class Probe(_Loop):
    """Sends pictures as a Lazy Pirate does, and counts every final message for each."""

    def __init__(
        self,
        fronts: Sequence[str],
        pictures: Pictures,
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self.records: list[Record] = []
        self.resent = 0  # sendings beyond the first
        self._pictures = pictures
        self._timeout = timeout
        self._wanted: deque[int] = deque()
        self._all: dict[bytes, _Open] = {}  # answered ones too: they may be answered twice
        self._unanswered: dict[bytes, _Open] = {}
        super().__init__("probe", fronts, clock)

    def submit(self, number: int) -> None:
        """Send so many pictures at once. Any thread."""
        self._wanted.append(number)
        self.waker.wake()

    @property
    def unanswered(self) -> int:
        """Requests without a final answer whose time is not over."""
        return len(self._unanswered) + len(self._wanted)

    def turn(self, now: float) -> None:
        for line in self.lines:
            if line.changed():
                self._moved(line, now)
            for message in line.receive():
                self._heard(message, now)
        while self._wanted:
            for _ in range(self._wanted.popleft()):
                self._begin(now)
        for open_ in list(self._unanswered.values()):
            if now > open_.record.deadline + 1.0:
                del self._unanswered[open_.request.id]  # the ledger will call it lost
            elif not open_.acked and now >= open_.resend_at and now < open_.record.deadline:
                self._send(open_, now)

    def _begin(self, now: float) -> None:
        number = 10**9 + len(self.records)  # never a number of the HTTP load
        picture, wanted = self._pictures.get(number)
        digest = hashlib.sha256(picture).hexdigest()
        request = Request(os.urandom(ID_BYTES), "", 1, 0, digest, Body.of(picture))
        record = Record(
            number, "wire", wanted, now, now + self._timeout, request.id.hex(), sendings=0
        )
        self.records.append(record)
        open_ = self._all[request.id] = self._unanswered[request.id] = _Open(record, request)
        self._send(open_, now)

    def _send(self, open_: _Open, now: float) -> None:
        line = next((line for line in self.lines if line.connected), None)
        budget = int(1000 * (open_.record.deadline - now))
        open_.line, open_.acked, open_.resend_at = None, False, now + RESEND_DELAY
        if line is not None and budget > 0 and line.send(replace(open_.request, budget_ms=budget)):
            open_.line, open_.resend_at = line, now + ACK_TIMEOUT
            self.resent += open_.record.sendings > 0
            open_.record.sendings += 1

    def _moved(self, line: Line, now: float) -> None:
        """A connection came, or went: what was on it is sent again, over whichever there is."""
        for open_ in self._unanswered.values():
            if open_.line in (None, line):
                self._send(open_, now)

    def _heard(self, message: Message, now: float) -> None:
        open_ = self._all.get(message.id)
        if open_ is None:
            return
        match message:
            case Ack():
                open_.acked = True
                return
            case Nack(reason=reason) if reason in HANDED_BACK:
                open_.record.sendings -= 1  # it is as if it had not been sent
                open_.line, open_.acked, open_.resend_at = None, False, now + RESEND_DELAY
                return
            case Result() if not message.body.intact():
                open_.record.sendings -= 1  # it has brought no answer, so one more may come
                if message.id in self._unanswered:
                    self._send(open_, now)
                return
            case Nack():
                final = Final(now, message.reason.value, message.id.hex())
            case Result():
                final = _final(message, now)
            case _:
                return
        self._unanswered.pop(message.id, None)
        open_.record.finals.append(final)


def _final(result: Result, now: float) -> Final:
    label = json.loads(result.body.join())[0]["label"]
    return Final(now, "ok", result.id.hex(), label, result.worker, result.attempts)


@dataclass(slots=True)
class _Watched:
    """What is known of one broker's present life."""

    events: list[Event] = field(default_factory=list)
    uptime: float = 0.0
    present: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()
    asked: float = float("-inf")
    question: bytes = b""


class Observer(_Loop):
    """Reads each broker's status ten times a second: its events, and who is ready."""

    def __init__(self, fronts: Sequence[str], clock: Callable[[], float]) -> None:
        self.ready_over_time: list[tuple[float, int]] = []
        self._past: list[Event] = []  # of brokers that were killed
        self._watched = [_Watched() for _ in fronts]
        super().__init__("observer", fronts, clock)

    @property
    def events(self) -> list[Event]:
        """All events of all brokers so far, those of each broker in order."""
        return [*self._past, *(event for w in self._watched for event in w.events)]

    @property
    def ready(self) -> frozenset[str]:
        """Names of workers that some broker may give work to."""
        return frozenset().union(*(w.ready for w in self._watched))

    @property
    def present_everywhere(self) -> frozenset[str]:
        """Names of workers that every broker lists, ejected ones too: those come back with work."""
        return frozenset.intersection(*(w.present for w in self._watched))

    def turn(self, now: float) -> None:
        for number, (line, watched) in enumerate(zip(self.lines, self._watched, strict=True)):
            if line.changed() and not line.connected:
                watched.ready = watched.present = frozenset()
                watched.question = b""
                self.ready_over_time.append((now, len(self.ready)))
            for message in line.receive():
                if isinstance(message, Reply) and message.id == watched.question:
                    self._learn(number, watched, json.loads(message.body.join()), self.clock())
            waited = now - watched.asked
            if line.connected and waited >= (LOOK_TIMEOUT if watched.question else LOOK_EVERY):
                watched.question, watched.asked = os.urandom(ID_BYTES), now
                line.send(Query(watched.question, Op.STATUS))

    def _learn(self, number: int, watched: _Watched, status: dict[str, Any], now: float) -> None:
        watched.question = b""
        if status["broker"]["uptime_s"] < watched.uptime:
            self._past += watched.events
            watched.events = []
        watched.uptime = status["broker"]["uptime_s"]
        seen = [
            Event(now - event["ago_s"], number, event["text"])
            for event in reversed(status["events"])
        ]
        merge(watched.events, seen)
        states = {worker["name"]: worker["state"] for worker in status["workers"]}
        watched.present = frozenset(n for n, state in states.items() if state != "draining")
        watched.ready = frozenset(n for n, state in states.items() if state in ("ready", "busy"))
        self.ready_over_time.append((now, len(self.ready)))
