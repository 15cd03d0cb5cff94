"""A worker's connection to one broker: opened, kept alive by heartbeats, reconnected on silence."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import zmq

from spyglass.protocol import (
    BUSY_INTERVAL,
    HEARTBEAT_INTERVAL,
    Direction,
    Heartbeat,
    Message,
    ProtocolError,
    Ready,
    encode,
    patience,
)
from spyglass.runtime import logs
from spyglass.runtime.internal_errors import InternalErrors
from spyglass.transport.addresses import beyond_loopback
from spyglass.transport.credentials import REFUSED, no_answer_text, split_address
from spyglass.transport.framing import Inbox, incoming, send
from spyglass.transport.peers import bytes_received, monitor_events
from spyglass.transport.socket_options import DEALER_EVENTS, dealer

log = logging.getLogger(__name__)

#: Seconds without a connection after which a line in the log reports it.
REPORT_AFTER = 3.0
#: Seconds of silence after which a connected broker counts as dead while requests of it are here.
#: Longer than what the broker allows a worker: it notices a silence in both directions itself, and
#: must not lose all its workers because it was slow for a second.
BUSY_PATIENCE = 1.5
#: Seconds in which READY is sent once, however often the broker asks: it does so for each message
#: that was on its way before the READY.
READY_INTERVAL = 0.5
#: Bytes between two heartbeats that can only be part of a picture: a heartbeat has some forty.
PICTURE_BYTES = 4096
#: Seconds before the socket is rebuilt after a connected broker fell silent: the first wait, and
#: the most. Doubled each time, with jitter, so that a fleet does not return in step.
FIRST_REBUILD_DELAY, MAX_REBUILD_DELAY = 0.1, 5.0


class BrokerConnection:
    """One DEALER and what is known of the broker behind it.

    libzmq reconnects by itself, and each connection is a new peer to the broker: so READY is
    sent after every handshake, and requests that came over an earlier connection are void.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        listen: bool,
        ready: Callable[[], Ready | None],
    ) -> None:
        self.address, self._keys = split_address(address)
        self.connected = False
        self.epoch = 0  # counts connections
        self._context = context
        self._listen = listen
        self._ready = ready
        self._internal_errors = InternalErrors()
        self._last_received = 0.0
        self._fd = -1  # of the connection
        self._bytes_received = 0  # when the last heartbeat was sent
        self._busy = False
        self._interval = HEARTBEAT_INTERVAL  # while idle, as the broker wants it
        self._last_heartbeat = float("inf")
        self._last_sent = 0.0  # when anything was sent
        self._sent_since_tick = False
        self._ready_sent_at = float("-inf")
        self._rebuild_delay = FIRST_REBUILD_DELAY
        self._rebuild_at = float("inf")
        self._report_at = float("inf")  # when to log that nobody answers
        self._reported = False  # since it was connected last
        self._handshake_failed = False  # something accepts connections there, and ends them
        # None before `open`, after `close`, and while a rebuild waits for its time.
        self._sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]] | None = None

    def open(self, poller: zmq.Poller, now: float) -> None:
        """Connect, or bind when brokers dial this worker.

        Raises:
            zmq.ZMQError: the address to listen on is in use or not ours.
        """
        self._poller = poller
        socket = dealer(self._context, self._keys, worker=True)
        monitor = socket.get_monitor_socket(DEALER_EVENTS)
        self._sockets = socket, monitor
        self._inbox = Inbox(socket, Direction.BROKER_TO_WORKER.most_frames)
        poller.register(socket, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        if self._listen:
            socket.bind(self.address)
            self.address = socket.last_endpoint.decode()  # type: ignore[union-attr]
            if beyond_loopback(self.address):
                how = "encrypted" if self._keys else "unencrypted, and open to everybody there"
                logs.always(
                    log, "other machines may reach this worker at %s: %s", self.address, how
                )
        else:
            socket.connect(self.address)
            if not self._reported:
                self._report_at = min(self._report_at, now + REPORT_AFTER)

    def close(self) -> None:
        """Disconnect; what was sent last still has a moment to go out."""
        self.connected = False
        if self._sockets is None:
            return
        socket, monitor = self._sockets
        self._sockets = None
        self._poller.unregister(socket)
        self._poller.unregister(monitor)
        socket.disable_monitor()
        monitor.close()
        socket.close()

    def send(self, message: Message) -> None:
        """Send, or drop it when the broker is not there: it gets READY when it is."""
        if self._sockets is None:
            return
        self._sent_since_tick = True
        try:
            send(self._sockets[0], encode(message))
        except zmq.Again:
            log.debug("%s takes nothing; dropped a %s", self.address, type(message).__name__)
        except ProtocolError as error:
            self._internal_errors.add(f"a {type(message).__name__} could not be sent", error)

    def receive(self, now: float) -> list[Message]:
        """The broker's messages; changes of the connection are noted."""
        messages: list[Message] = []
        if self._sockets is None:
            return messages
        _, monitor = self._sockets
        failed = False
        for event, value in monitor_events(monitor):
            if event in (zmq.EVENT_CONNECTED, zmq.EVENT_ACCEPTED):
                self._fd = value
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected(now)
            elif event == zmq.EVENT_DISCONNECTED and self.connected:
                self.connected = False
                self._last_heartbeat = float("inf")
                self._report_at = now + REPORT_AFTER
                log.info("lost the broker at %s; trying again", self.address)
            elif event == zmq.EVENT_DISCONNECTED:
                failed = self._handshake_failed = True
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and not self._reported:
                self._reported = True
                self._report_at = float("inf")
                log.error("the broker at %s %s", self.address, REFUSED)
        if failed and not self._listen and self._sockets is not None:
            # libzmq itself tries no more once a handshake has gone wrong.
            self._start_over(now)
            return messages
        for message in incoming(self._inbox, Direction.BROKER_TO_WORKER):
            self._last_received = now
            self._rebuild_delay = FIRST_REBUILD_DELAY
            if isinstance(message, ProtocolError):
                log.warning("the broker at %s sent an invalid message: %s", self.address, message)
            else:
                messages.append(message)
                if isinstance(message, Heartbeat):
                    self._interval = message.interval_ms / 1000 or HEARTBEAT_INTERVAL
        return messages

    def send_ready(self, now: float) -> None:
        """Send READY: no request is here, and new ones are taken. Not more often than needed."""
        ready = self._ready() if now - self._ready_sent_at >= READY_INTERVAL else None
        if ready is not None:
            self._ready_sent_at = now
            self.epoch += 1
            self.send(ready)

    def tick(self, now: float, busy: bool, heartbeat: Callable[[], Heartbeat]) -> None:
        """Send heartbeats, more often if `busy` with a request of this broker, and start over when
        a connected broker stays silent."""
        if now >= self._report_at:
            self._report_at, self._reported = float("inf"), True
            log.warning(
                "%s Still trying", no_answer_text(self.address, self._keys, self._handshake_failed)
            )
        if self._sent_since_tick:
            self._sent_since_tick, self._last_sent = False, now
        self._busy = busy
        if now >= self._rebuild_at:
            self._rebuild_at = float("inf")
            self.open(self._poller, now)
        elif now >= self._next_heartbeat():
            self._last_heartbeat = now
            self._note_progress(now)
            allowed = BUSY_PATIENCE if busy else patience(self._interval)
            if now - self._last_received > allowed and not self._listen:
                log.warning("the broker at %s is silent; reconnecting", self.address)
                self._start_over(now)
            else:
                self.send(heartbeat())
                self._sent_since_tick, self._last_sent = False, now

    def next_due(self) -> float:
        """When `tick` has something to do."""
        return min(self._next_heartbeat(), self._rebuild_at, self._report_at)

    def _next_heartbeat(self) -> float:
        """Any message is a sign of life, but only a heartbeat asks the broker for one."""
        # However much else is sent: the answer to it names the next interval.
        due = self._last_heartbeat + self._interval
        if not self._busy:
            return due
        both_sent = max(self._last_heartbeat, min(self._last_sent, self._last_received))
        return min(due, both_sent + BUSY_INTERVAL)

    def _connected(self, now: float) -> None:
        log.info("connected to the broker at %s", self.address)
        self.connected = True
        self._report_at, self._reported, self._handshake_failed = float("inf"), False, False
        self._last_received = now
        self._interval = HEARTBEAT_INTERVAL
        self._bytes_received = 0
        self._last_heartbeat = now
        self._ready_sent_at = float("-inf")
        self.send_ready(now)

    def _note_progress(self, now: float) -> None:
        """A broker that sends a large picture on a slow line can send nothing else, but lives."""
        before, self._bytes_received = self._bytes_received, bytes_received(self._fd)
        if self._bytes_received - before > PICTURE_BYTES:
            self._last_received = now

    def _start_over(self, now: float) -> None:
        self.close()
        self._last_heartbeat = float("inf")
        self._rebuild_at = now + self._rebuild_delay * random.uniform(0.5, 1.0)
        self._rebuild_delay = min(MAX_REBUILD_DELAY, 2 * self._rebuild_delay)
