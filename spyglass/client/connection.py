"""A client's connection to one broker: whether it stands, why not, and when to try again."""

from __future__ import annotations

import logging
from contextlib import suppress

import zmq

from spyglass.protocol import Direction, Message, encode
from spyglass.transport.credentials import REFUSED, no_answer_text, split_address
from spyglass.transport.framing import Inbox, send
from spyglass.transport.socket_options import DEALER_EVENTS, dealer

log = logging.getLogger(__name__)

#: Seconds after a handshake that went wrong until the next, if somebody waits.
CONNECT_AGAIN = 1.0


class ClientConnection:
    """One DEALER to one broker; whoever drives the client reads its socket and its monitor."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.address, self._keys = split_address(address)
        self.connected = False
        self.trouble = no_answer_text(self.address, self._keys, False)  # while it is not connected
        self.again_at = float("inf")  # when to connect anew
        self.unacknowledged_bytes = 0  # bytes of pictures not acknowledged yet
        self.socket = dealer(context, self._keys)
        self.inbox = Inbox(self.socket, Direction.BROKER_TO_CLIENT.most_frames)
        self.monitor = self.socket.get_monitor_socket(DEALER_EVENTS)
        self.socket.connect(self.address)

    def greeted(self) -> None:
        """The broker is there."""
        self.connected, self.again_at = True, float("inf")
        self.trouble = no_answer_text(self.address, self._keys, False)

    def refused(self, by_key: bool, now: float) -> None:
        """The handshake went wrong. libzmq itself tries no more after some of the reasons."""
        before = self.trouble
        if by_key:
            self.trouble = f"The broker at {self.address} {REFUSED}"
        elif self.again_at == float("inf"):  # else the reason is known already
            self.trouble = no_answer_text(self.address, self._keys, True)
        self.again_at = now + CONNECT_AGAIN
        if self.trouble != before:
            log.warning("%s", self.trouble)

    def connect_again(self) -> None:
        """Give up what libzmq still has of the connection, and begin a new one."""
        self.again_at = float("inf")
        with suppress(zmq.ZMQError):  # it has given it up itself
            self.socket.disconnect(self.address)
        self.socket.connect(self.address)

    def send(self, message: Message) -> bool:
        """Send it; False if ZeroMQ takes no more at the moment."""
        try:
            send(self.socket, encode(message))
        except zmq.Again:
            return False
        return True
