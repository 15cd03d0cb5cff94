"""A client's connection to one broker: whether it is up, why not, and when to try again."""

from __future__ import annotations

import logging
from contextlib import suppress

import zmq

from spyglass.protocol import Direction, Message, encode
from spyglass.transport.credentials import REFUSED, no_answer_text, split_address
from spyglass.transport.framing import Inbox, send
from spyglass.transport.socket_options import DEALER_EVENTS, dealer

log = logging.getLogger(__name__)

#: Seconds after a failed handshake until the next.
RECONNECT_DELAY = 1.0


class ClientConnection:
    """One DEALER to one broker. The session that owns it reads its socket and its monitor."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.address, self._keys = split_address(address)
        self.connected = False
        self.trouble = no_answer_text(self.address, self._keys, False)  # while not connected
        self.reconnect_at = float("inf")  # after a failed handshake
        self.unacknowledged_bytes = 0  # bytes of pictures not acknowledged yet
        self.socket = dealer(context, self._keys)
        self.inbox = Inbox(self.socket, Direction.BROKER_TO_CLIENT.most_frames)
        self.monitor = self.socket.get_monitor_socket(DEALER_EVENTS)
        self.socket.connect(self.address)

    def handshake_succeeded(self) -> None:
        """The broker is connected."""
        self.connected, self.reconnect_at = True, float("inf")
        self.trouble = no_answer_text(self.address, self._keys, False)

    def handshake_failed(self, by_key: bool, now: float) -> None:
        """libzmq itself does not try again after some kinds of failure, so it is done here.

        Args:
            by_key: the broker refused our key.
        """
        before = self.trouble
        if by_key:
            self.trouble = f"The broker at {self.address} {REFUSED}"
        elif self.reconnect_at == float("inf"):  # otherwise the reason is known already
            self.trouble = no_answer_text(self.address, self._keys, True)
        self.reconnect_at = now + RECONNECT_DELAY
        if self.trouble != before:
            log.warning("%s", self.trouble)

    def reconnect(self) -> None:
        """Discard what libzmq still has of the connection, and start a new one."""
        self.reconnect_at = float("inf")
        with suppress(zmq.ZMQError):  # libzmq has discarded it already
            self.socket.disconnect(self.address)
        self.socket.connect(self.address)

    def send(self, message: Message) -> bool:
        """Send it; return False if ZeroMQ's queue is full at the moment."""
        try:
            send(self.socket, encode(message))
        except zmq.Again:
            return False
        return True
