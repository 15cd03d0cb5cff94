"""What every client of a broker does, whatever drives it: keep, send, send again, settle.

A request is kept until it is answered and sent again, with the same id, when a broker restarts or
does not acknowledge: the Lazy Pirate of the ZeroMQ guide, chapter 4. Its future is always settled
by its deadline + 0.5 s. A thread drives a BrokerClient (thread_client.py), the event loop
of the web an AioClient (aio_client.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from logging import DEBUG, INFO
from typing import Any, Protocol

import zmq

from spyglass.client.connection import ClientConnection
from spyglass.protocol import (
    ID_BYTES,
    MAX_PARTS,
    MAX_TARGET,
    MAX_TIMEOUT,
    PART_BYTES,
    SLOWEST_LINK,
    Ack,
    Body,
    Cancel,
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
    Times,
)
from spyglass.runtime.internal_errors import InternalErrors
from spyglass.transport.framing import incoming
from spyglass.transport.peers import monitor_events

log = logging.getLogger(__name__)

#: Seconds a broker has to acknowledge, plus the time that the picture, and those on their way
#: before it, take on the slowest link.
ACK_TIMEOUT = 0.5
#: Seconds between two looks at deadlines. The promise is the deadline + 0.5 s.
SWEEP_INTERVAL = 0.025
#: Seconds after its deadline in which the word of the broker that has it may still arrive.
GRACE = 0.25
#: Seconds before a request that was handed back is sent again.
RESEND_DELAY = 0.1
#: Seconds for an answer to a question about the fleet.
QUERY_TIMEOUT = 2.0
#: Bytes of the largest picture a message carries.
MAX_PICTURE_BYTES = MAX_PARTS * PART_BYTES

#: NACKs that say nothing against the picture: it is whole here, so it is sent again.
RESENT = frozenset((Reason.DRAINING, Reason.CHECKSUM))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a picture shows, and how that came about."""

    request_id: str
    model: str
    digest: str
    predictions: list[dict[str, Any]]  # label, index, probability; the likeliest first
    worker: str
    attempts: int
    times: Times
    total_ms: float  # milliseconds from submit to here


class RequestFailed(Exception):
    """A picture has no predictions; `reason` is a word, `str()` a sentence."""

    def __init__(self, reason: Reason, detail: str, request_id: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.request_id = request_id


class NotAllowed(Exception):
    """A change of the fleet that the broker does not take from this client's key; why."""


class Promise(Protocol):
    """What of a future is needed here: threads have one kind, event loops another."""

    def done(self) -> bool:
        """Whether it is settled or cancelled."""

    def set_result(self, result: Any, /) -> None:
        """Settle it."""

    def set_exception(self, exception: Any, /) -> None:
        """Settle it by a failure."""


@dataclass(slots=True, eq=False)
class Pending:
    """A message that waits for its answer."""

    message: Request | Query
    future: Promise
    began: float
    deadline: float
    connection: ClientConnection | None = None  # where it was sent, if that connection still stands
    unacknowledged_bytes: int = 0  # bytes of it that `connection` counts
    sent: bool = False
    acked: bool = False
    resend_at: float = 0.0  # when to send (again) unless acknowledged


class ClientSession(ABC):
    """Connected in the background to brokers; of several, the first that is connected is used.

    Whoever drives it calls `_begin`, `_read`, `_sweep` and `_abandon` from one thread: a ZeroMQ
    socket touched by two aborts the process.
    """

    def __init__(self, brokers: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: dict[bytes, Pending] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        try:
            self._connections = [ClientConnection(self._context, address) for address in brokers]
        except BaseException:  # an address that is none must not leave sockets and a thread behind
            self._context.destroy(linger=0)
            raise
        self._detailed = log.isEnabledFor(DEBUG)
        self._internal_errors = InternalErrors()

    # --- for callers, any thread --------------------------------------------------------------

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it is driven."""

    @property
    def connected(self) -> bool:
        """Whether a broker is connected; one that hangs is for 0.75 s more."""
        return any(c.connected for c in self._connections)

    @property
    def address(self) -> str:
        """Where the broker is looked for, for messages to people."""
        return ", ".join(c.address for c in self._connections)

    def status(self, timeout: float = QUERY_TIMEOUT) -> dict[str, Any]:
        """The broker's snapshot of the fleet.

        Raises:
            RequestFailed: no broker answered in time, `timeout` seconds.
        """
        reply = self._ask(Query(os.urandom(ID_BYTES), Op.STATUS), timeout)
        value: dict[str, Any] = json.loads(reply.body.join())
        return value

    def control(self, op: Op, target: str) -> tuple[bool, str]:
        """Drain, remove or add a worker; whether it was done, and a sentence.

        Raises:
            RequestFailed: no broker answered in time.
            NotAllowed: this client's key is none of an admin.
        """
        if len(target) > MAX_TARGET or not target.isprintable():
            return False, f"A name or address is printable, and {MAX_TARGET} characters at most."
        query = Query(os.urandom(ID_BYTES), op, target)
        reply = self._ask(query, QUERY_TIMEOUT)
        if not reply.allowed:
            raise NotAllowed(reply.detail)
        return reply.ok, reply.detail

    @abstractmethod
    def _ask(self, query: Query, timeout: float) -> Reply:
        """Have a query answered, waiting for it."""

    # --- for whoever drives it, one thread ----------------------------------------------------

    def _begin(self, pending: Pending, now: float) -> None:
        """Take it on and send it."""
        self._pending[pending.message.id] = pending
        self._send(pending, now)

    def _abandon(self, request_id: bytes) -> None:
        """Nobody waits for it any more: tell the broker that has it."""
        gone = self._pending.pop(request_id, None)
        if gone is not None:
            _arrived(gone)
            if gone.connection is not None:
                gone.connection.send(Cancel(request_id))

    def _read(self, now: float) -> None:
        """Take in all that brokers said and what became of the connections."""
        for connection in self._connections:
            self._read_monitor(connection, now)
            self._read_messages(connection, now)

    def _send(self, pending: Pending, now: float) -> None:
        """Send it over the first connection there is; else it waits for one."""
        _arrived(pending)
        left = pending.deadline - now
        connection = next((c for c in self._connections if c.connected), None)
        if connection is None or left <= 0:
            pending.connection, pending.resend_at = None, now
            return
        message = pending.message
        size = 0
        if isinstance(message, Request):
            message = replace(message, budget_ms=max(1, int(1000 * min(MAX_TIMEOUT, left))))
            size = message.body.size
        pending.acked = False
        try:
            taken = connection.send(message)
        except ProtocolError as error:  # a model's name may be anything
            self._fail(pending, Reason.NO_MODEL, f"This cannot be asked for: {error}.")
            return
        if not taken:
            pending.connection, pending.resend_at = None, now + RESEND_DELAY
            return
        pending.connection, pending.unacknowledged_bytes = connection, size
        connection.unacknowledged_bytes += size
        if size and (pending.sent or self._detailed):
            told, level = ("sent again", INFO) if pending.sent else ("sent", DEBUG)
            whose = {"request_id": message.id.hex()}
            log.log(level, "%s to the broker at %s", told, connection.address, extra=whose)
        pending.sent = True
        pending.resend_at = now + ACK_TIMEOUT + connection.unacknowledged_bytes / SLOWEST_LINK

    def _read_monitor(self, connection: ClientConnection, now: float) -> None:
        for event, _ in monitor_events(connection.monitor):
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                connection.greeted()
                log.info("connected to the broker at %s", connection.address)
                for pending in list(self._pending.values()):
                    if pending.connection is None:
                        self._send(pending, now)
            elif event == zmq.EVENT_DISCONNECTED and connection.connected:
                connection.connected = False
                log.info("lost the broker at %s", connection.address)
                for pending in list(self._pending.values()):
                    if pending.connection is connection:
                        self._send(pending, now)
            elif event in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_DISCONNECTED):
                connection.refused(event == zmq.EVENT_HANDSHAKE_FAILED_AUTH, now)

    def _read_messages(self, connection: ClientConnection, now: float) -> None:
        for message in incoming(connection.inbox, Direction.BROKER_TO_CLIENT):
            if isinstance(message, ProtocolError):
                log.warning(
                    "the broker at %s sent no message of ours: %s", connection.address, message
                )
                continue
            pending = self._pending.get(message.id)
            if pending is None:  # a late answer: its future is settled
                continue
            try:
                self._handle(pending, message, now)
            except zmq.ZMQError:
                raise  # a socket of ours is broken, not a message
            except Exception as error:
                self._internal_errors.add("an answer could not be dealt with", error)
                if message.id in self._pending:
                    self._fail(pending, Reason.CHECKSUM, "The answer cannot be read.")

    def _handle(self, pending: Pending, message: Message, now: float) -> None:
        match message:
            case Ack():
                _arrived(pending)
                pending.acked = True
            case Nack(reason=reason) if reason in RESENT:
                _arrived(pending)
                pending.connection, pending.acked, pending.resend_at = (
                    None,
                    False,
                    now + RESEND_DELAY,
                )
            case Nack():
                self._fail(pending, message.reason, message.detail)
            case Result() | Reply() if not message.body.intact():
                log.warning("an answer was damaged on the way; asking again")
                self._send(pending, now)
            case Result():
                try:
                    answer = self._answer(pending, message, now)
                except (ValueError, RecursionError):  # no JSON, or nested without end
                    self._fail(pending, Reason.CHECKSUM, "The worker's answer is not JSON.")
                else:
                    self._settle(pending, answer)
            case Reply():
                self._settle(pending, message)

    def _answer(self, pending: Pending, result: Result, now: float) -> Answer:
        return Answer(
            request_id=result.id.hex(),
            model=result.model,
            digest=result.digest,
            predictions=json.loads(result.body.join()),
            worker=result.worker,
            attempts=result.attempts,
            times=result.times,
            total_ms=round(1000 * (now - pending.began), 3),
        )

    def _sweep(self, now: float) -> None:
        """Send again what nobody acknowledged; fail what is past its deadline."""
        for connection in self._connections:
            if now >= connection.again_at:
                connection.connect_again()
        for pending in list(self._pending.values()):
            if now >= pending.deadline + (GRACE if pending.connection else 0):
                if not any(c.connected for c in self._connections):
                    what = " ".join(c.trouble for c in self._connections)
                    self._fail(pending, Reason.NO_BROKER, what)
                else:
                    self._fail(pending, Reason.DEADLINE, "No answer came in the time allowed.")
            elif not pending.acked and pending.resend_at <= now < pending.deadline:
                self._send(pending, now)

    def _settle(self, pending: Pending, value: Answer | Reply) -> None:
        _arrived(pending)
        del self._pending[pending.message.id]
        with suppress(InvalidStateError):  # cancelled a moment ago, by another thread
            if not pending.future.done():
                pending.future.set_result(value)

    def _fail(self, pending: Pending, reason: Reason, detail: str) -> None:
        _arrived(pending)
        del self._pending[pending.message.id]
        with suppress(InvalidStateError):  # cancelled a moment ago, by another thread
            if not pending.future.done():
                failure = RequestFailed(reason, detail, pending.message.id.hex())
                pending.future.set_exception(failure)

    def _close(self) -> None:
        """Fail whatever is open, and disconnect."""
        for pending in list(self._pending.values()):
            self._fail(pending, Reason.NO_BROKER, "The client was closed.")
        for connection in self._connections:
            connection.socket.disable_monitor()
        self._context.destroy(linger=0)


def check_size(size: int) -> None:
    """Whether a message carries a picture of so many bytes.

    Raises:
        ValueError: it is empty, or larger than that.
    """
    if not 0 < size <= MAX_PICTURE_BYTES:
        raise ValueError(f"a picture has 1 to {MAX_PICTURE_BYTES} bytes, not {size}")


def request_for(picture: bytes, model: str, top_k: int) -> Request:
    """The message that asks what a picture shows; its budget is set each time it is sent.

    Raises:
        ValueError: it is empty, or larger than a message carries.
    """
    check_size(len(picture))
    return Request(
        id=os.urandom(ID_BYTES),
        model=model,
        top_k=top_k,
        budget_ms=0,
        sha256=hashlib.sha256(picture).hexdigest(),
        body=Body.of(picture),
    )


def _arrived(pending: Pending) -> None:
    """Nothing behind it waits for it any more: the broker has it, or it is sent anew or no more."""
    if pending.connection is not None:
        pending.connection.unacknowledged_bytes -= pending.unacknowledged_bytes
    pending.unacknowledged_bytes = 0
