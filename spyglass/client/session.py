"""The requests of a client: kept, sent, sent again and settled.

A request is kept until it is answered. It is sent again, with the same id, when a broker restarts
or does not acknowledge it: the Lazy Pirate pattern of the ZeroMQ guide, chapter 4. Its future is
always settled by its deadline + 0.5 s. A thread runs a BrokerClient (thread_client.py), the event
loop of the web an AioClient (aio_client.py).
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

#: Seconds a broker has to acknowledge a request, plus the time that its picture, and those sent
#: before it and not acknowledged, take on the slowest link.
ACK_TIMEOUT = 0.5
#: Seconds between two checks of deadlines. The promise is the deadline + 0.5 s.
SWEEP_INTERVAL = 0.025
#: Seconds after a request's deadline in which the broker's own failure message may still arrive.
GRACE = 0.25
#: Seconds before a request is sent again that was handed back, or that a full queue did not take.
RESEND_DELAY = 0.1
#: Seconds for a reply to a query about the fleet.
QUERY_TIMEOUT = 2.0
#: Bytes of the largest picture a message carries.
MAX_PICTURE_BYTES = MAX_PARTS * PART_BYTES

#: Reasons of NACKs that do not concern the picture: the client has it intact, and sends it again.
RESENT = frozenset((Reason.DRAINING, Reason.CHECKSUM))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a picture shows, and how that was found."""

    request_id: str
    model: str
    digest: str
    predictions: list[dict[str, Any]]  # label, index, probability; the likeliest first
    worker: str
    attempts: int
    times: Times
    total_ms: float  # milliseconds from submit to here


class RequestFailed(Exception):
    """A picture has no predictions, or a query no reply. `reason` is a code, `str()` a sentence."""

    def __init__(self, reason: Reason, detail: str, request_id: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.request_id = request_id


class NotAllowed(Exception):
    """The broker does not allow this client's key to change the fleet; `str()` is a sentence."""


class Promise(Protocol):
    """The methods of a future that are used here: threads have one kind, event loops another."""

    def done(self) -> bool:
        """Whether it is settled or cancelled."""

    def set_result(self, result: Any, /) -> None:
        """Settle it."""

    def set_exception(self, exception: Any, /) -> None:
        """Settle it by a failure."""


@dataclass(slots=True, eq=False)
class Pending:
    """A request or query that has no answer yet."""

    message: Request | Query
    future: Promise
    began: float
    deadline: float
    connection: ClientConnection | None = None  # where it was sent, if that is still up
    unacknowledged_bytes: int = 0  # its share of those of `connection`
    sent: bool = False
    acked: bool = False
    resend_at: float = 0.0  # when to send it (again) unless acknowledged


class ClientSession(ABC):
    """Connects to brokers in the background; of several, the first that is connected is used.

    A subclass calls `_begin`, `_read`, `_sweep` and `_abandon` from one thread: a ZeroMQ socket
    that two threads use aborts the process.
    """

    def __init__(self, brokers: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: dict[bytes, Pending] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        try:
            self._connections = [ClientConnection(self._context, address) for address in brokers]
        except BaseException:  # a wrong address must not leave sockets and a thread behind
            self._context.destroy(linger=0)
            raise
        self._detailed = log.isEnabledFor(DEBUG)
        self._internal_errors = InternalErrors()

    # --- for callers, any thread --------------------------------------------------------------

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether the thread or event loop that runs it still does."""

    @property
    def connected(self) -> bool:
        """Whether a broker is connected. One that hangs counts as connected for 0.75 s more."""
        return any(c.connected for c in self._connections)

    @property
    def address(self) -> str:
        """The addresses of its brokers, for messages to people."""
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
        """Change the fleet; whether that was done, and a sentence.

        Raises:
            RequestFailed: no broker answered in time.
            NotAllowed: this client's key is not an admin's.
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
        """Send a query and wait for its reply."""

    # --- for subclasses, one thread ------------------------------------------------------------

    def _begin(self, pending: Pending, now: float) -> None:
        """Keep it until it is answered, and send it."""
        self._pending[pending.message.id] = pending
        self._send(pending, now)

    def _abandon(self, request_id: bytes) -> None:
        """Nobody waits for it any more: cancel it at the broker that has it."""
        gone = self._pending.pop(request_id, None)
        if gone is not None:
            _release_bytes(gone)
            if gone.connection is not None:
                gone.connection.send(Cancel(request_id))

    def _read(self, now: float) -> None:
        """Process what has come from brokers, and what happened to connections."""
        for connection in self._connections:
            self._read_monitor(connection, now)
            self._read_messages(connection, now)

    def _send(self, pending: Pending, now: float) -> None:
        """Send it over the first connection that is up; without any it waits for one."""
        _release_bytes(pending)
        remaining = pending.deadline - now
        connection = next((c for c in self._connections if c.connected), None)
        if connection is None or remaining <= 0:
            pending.connection, pending.resend_at = None, now
            return
        message = pending.message
        size = 0
        if isinstance(message, Request):
            message = replace(message, budget_ms=max(1, int(1000 * min(MAX_TIMEOUT, remaining))))
            size = message.body.size
        pending.acked = False
        try:
            accepted = connection.send(message)
        except ProtocolError as error:  # a caller may give any text as a model's name
            self._fail(pending, Reason.NO_MODEL, f"This cannot be asked for: {error}.")
            return
        if not accepted:
            pending.connection, pending.resend_at = None, now + RESEND_DELAY
            return
        pending.connection, pending.unacknowledged_bytes = connection, size
        connection.unacknowledged_bytes += size
        if size and (pending.sent or self._detailed):
            what, level = ("sent again", INFO) if pending.sent else ("sent", DEBUG)
            fields = {"request_id": message.id.hex()}
            log.log(level, "%s to the broker at %s", what, connection.address, extra=fields)
        pending.sent = True
        pending.resend_at = now + ACK_TIMEOUT + connection.unacknowledged_bytes / SLOWEST_LINK

    def _read_monitor(self, connection: ClientConnection, now: float) -> None:
        for event, _ in monitor_events(connection.monitor):
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                connection.handshake_succeeded()
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
                connection.handshake_failed(event == zmq.EVENT_HANDSHAKE_FAILED_AUTH, now)

    def _read_messages(self, connection: ClientConnection, now: float) -> None:
        for message in incoming(connection.inbox, Direction.BROKER_TO_CLIENT):
            if isinstance(message, ProtocolError):
                log.warning(
                    "the broker at %s sent an invalid message: %s", connection.address, message
                )
                continue
            pending = self._pending.get(message.id)
            if pending is None:  # a late answer: its future is settled already
                continue
            try:
                self._handle(pending, message, now)
            except zmq.ZMQError:
                raise  # our own socket failed, not a message
            except Exception as error:
                self._internal_errors.add("an answer could not be processed", error)
                if message.id in self._pending:
                    self._fail(pending, Reason.CHECKSUM, "The answer cannot be read.")

    def _handle(self, pending: Pending, message: Message, now: float) -> None:
        match message:
            case Ack():
                _release_bytes(pending)
                pending.acked = True
            case Nack(reason=reason) if reason in RESENT:
                _release_bytes(pending)
                pending.connection, pending.acked, pending.resend_at = (
                    None,
                    False,
                    now + RESEND_DELAY,
                )
            case Nack():
                self._fail(pending, message.reason, message.detail)
            case Result() | Reply() if not message.body.intact():
                log.warning("an answer was damaged on its way; sending the request again")
                self._send(pending, now)
            case Result():
                try:
                    answer = self._answer(pending, message, now)
                except (ValueError, RecursionError):  # not JSON, or nested too deeply
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
        """Send again what was not acknowledged in time; fail what is past its deadline."""
        for connection in self._connections:
            if now >= connection.reconnect_at:
                connection.reconnect()
        for pending in list(self._pending.values()):
            if now >= pending.deadline + (GRACE if pending.connection else 0):
                if not any(c.connected for c in self._connections):
                    why = " ".join(c.trouble for c in self._connections)
                    self._fail(pending, Reason.NO_BROKER, why)
                else:
                    self._fail(pending, Reason.DEADLINE, "No answer came in the time allowed.")
            elif not pending.acked and pending.resend_at <= now < pending.deadline:
                self._send(pending, now)

    def _settle(self, pending: Pending, value: Answer | Reply) -> None:
        _release_bytes(pending)
        del self._pending[pending.message.id]
        with suppress(InvalidStateError):  # cancelled a moment ago, by another thread
            if not pending.future.done():
                pending.future.set_result(value)

    def _fail(self, pending: Pending, reason: Reason, detail: str) -> None:
        _release_bytes(pending)
        del self._pending[pending.message.id]
        with suppress(InvalidStateError):  # cancelled a moment ago, by another thread
            if not pending.future.done():
                failure = RequestFailed(reason, detail, pending.message.id.hex())
                pending.future.set_exception(failure)

    def _close(self) -> None:
        """Fail all that is pending, and disconnect."""
        for pending in list(self._pending.values()):
            self._fail(pending, Reason.NO_BROKER, "The client was closed.")
        for connection in self._connections:
            connection.socket.disable_monitor()
        self._context.destroy(linger=0)


def check_size(size: int) -> None:
    """Check that a picture of this many bytes can be sent.

    Raises:
        ValueError: it is empty, or too large.
    """
    if not 0 < size <= MAX_PICTURE_BYTES:
        raise ValueError(f"a picture has 1 to {MAX_PICTURE_BYTES} bytes, not {size}")


def request_for(picture: bytes, model: str, top_k: int) -> Request:
    """The request for a picture. Its budget is set each time it is sent.

    Raises:
        ValueError: the picture is empty, or too large.
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


def _release_bytes(pending: Pending) -> None:
    """Its bytes no longer delay requests sent after it: the broker has them, or they are sent again
    or no more."""
    if pending.connection is not None:
        pending.connection.unacknowledged_bytes -= pending.unacknowledged_bytes
    pending.unacknowledged_bytes = 0
