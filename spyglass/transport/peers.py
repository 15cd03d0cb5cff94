"""The connections of a ZeroMQ socket: when they come and go, whose they are, and their bytes."""

from __future__ import annotations

import contextlib
import os
import socket as network
import struct
from collections.abc import Iterable

import zmq

from spyglass.protocol import ProtocolError
from spyglass.transport.framing import message_waiting
from spyglass.transport.socket_options import ROUTER_EVENTS

#: Of struct tcp_info in linux/tcp.h: the offset of tcpi_bytes_received, and the bytes up to its
#: end.
_BYTES_RECEIVED_AT, _TCP_INFO_BYTES = 128, 136


def monitor_events(monitor: zmq.Socket[bytes]) -> Iterable[tuple[int, int]]:
    """The (event, value) pairs that have come to a monitor socket (zmq_socket_monitor(3))."""
    while message_waiting(monitor):
        yield struct.unpack("=HI", monitor.recv_multipart()[0])


def bytes_received(fd: int) -> int:
    """Bytes received over a TCP connection so far, including those of unfinished messages; 0 if it
    is unknown (tcp(7), TCP_INFO, tcpi_bytes_received)."""
    try:
        # With family and type given, Python asks the kernel nothing. It must not close the
        # descriptor, which is libzmq's.
        connection = network.socket(network.AF_INET, network.SOCK_STREAM, 0, fileno=fd)
        try:
            info = connection.getsockopt(network.IPPROTO_TCP, network.TCP_INFO, _TCP_INFO_BYTES)
        finally:
            connection.detach()
        return int(struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)[0])
    except (OSError, ValueError, struct.error):
        return 0


def _remote_address(fd: int) -> str:
    """The address at the other end of a TCP connection, for the log."""
    try:
        with network.socket(fileno=os.dup(fd)) as connection:
            return str(connection.getpeername())
    except OSError:
        return "unknown"


def user_of(frame: zmq.Frame) -> str:
    """The public key, in Z85, of the peer that sent a message, as ZAP allowed it. On encrypted
    ports only."""
    return str(frame.get("User-Id"))


class PeerTracker:
    """Tracks which peer of a ROUTER has which connection, and notices within milliseconds when one
    drops.

    Monitor events have file descriptors, messages have identities; `Frame.get(SRCFD)` gives the
    descriptor of a message. Descriptors are reused at once, so a connection is a pair (descriptor,
    generation). A peer that has left before its first message is read may therefore be taken for
    the peer that has its descriptor now. It counts as dropped with that one, or as soon as a
    message to it cannot be delivered.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.monitor = socket.get_monitor_socket(ROUTER_EVENTS)
        self._socket = socket
        self.newest_generation = 0  # of the connection made last
        self._live: dict[int, int] = {}
        self._peers: dict[tuple[int, int], list[bytes]] = {}
        self._connection: dict[bytes, tuple[int, int]] = {}
        self._dropped: dict[bytes, None] = {}  # in order, each once
        encrypted = bool(socket.getsockopt(zmq.CURVE_SERVER))
        self.domain = str(socket.getsockopt_string(zmq.ZAP_DOMAIN)) if encrypted else ""
        self._active: set[int] = set()  # descriptors with a whole message since the last check
        self.users: dict[bytes, str] = {}  # the public key of each peer, on an encrypted port

    @property
    def connections(self) -> int:
        """Open connections, including those of peers that have sent nothing yet."""
        return len(self._live)

    def read_monitor(self) -> None:
        """Process the monitor's events. Call before trusting a message's descriptor."""
        for event, fd in monitor_events(self.monitor):
            if event in (zmq.EVENT_ACCEPTED, zmq.EVENT_CONNECTED):
                self.newest_generation += 1
                self._live[fd] = self.newest_generation
            elif event == zmq.EVENT_DISCONNECTED:
                for peer in self._peers.pop((fd, self._live.pop(fd, 0)), ()):
                    self._dropped[peer] = None

    def message_from(self, identity: zmq.Frame) -> bytes:
        """Note the connection over which a message came. Returns the peer's address.

        Raises:
            ProtocolError: libzmq does not know the connection.
        """
        address = identity.bytes
        known = self._connection.get(address)
        if known is not None:
            self._active.add(known[0])
        else:
            try:
                fd = int(identity.get(zmq.SRCFD))
            except zmq.ZMQError as error:
                raise ProtocolError(f"a message without a connection: {error}") from None
            self._active.add(fd)
            self.read_monitor()
            connection = (fd, self._live.get(fd, 0))
            self._connection[address] = connection
            if self.domain:
                self.users[address] = user_of(identity)
            if connection[1]:
                self._peers.setdefault(connection, []).append(address)
            else:  # it has dropped already: its message counts, but nothing can be sent to it
                self._dropped[address] = None
        return address

    def generation(self, address: bytes) -> int:
        """A number that is higher the later this peer's connection was made; 0 if it has
        dropped."""
        return self._connection.get(address, (-1, 0))[1]

    def mark_unreachable(self, address: bytes) -> None:
        """A message to this peer could not be delivered, so it has dropped."""
        self._dropped[address] = None

    def describe(self, address: bytes) -> str:
        """The network address of this peer, for the log. Not its ZeroMQ address, from which those
        of other peers could be guessed."""
        fd, generation = self._connection.get(address, (-1, 0))
        return _remote_address(fd) if self._live.get(fd) == generation else "a peer that has left"

    def take_dropped(self) -> list[bytes]:
        """Peers that dropped since the last call. Call when all messages are read: those that a
        peer sent before it dropped still count."""
        dropped, self._dropped = list(self._dropped), {}
        for address in dropped:
            self._connection.pop(address, None)
            self.users.pop(address, None)
        return dropped

    def disconnect(self, address: bytes) -> None:
        """End this peer's connection. libzmq has no stable call for it, but when the TCP connection
        beneath is shut down it acts as if the peer had closed it."""
        self._end(*self._connection.get(address, (-1, 0)))

    def without_message(self) -> list[tuple[int, int]]:
        """The connections over which no whole message came since the last call."""
        quiet = [live for live in self._live.items() if live[0] not in self._active]
        self._active.clear()
        return quiet

    def end(self, connection: tuple[int, int]) -> str:
        """End one of the connections of `without_message`. Returns its peer's network address."""
        place = _remote_address(connection[0])
        self._end(*connection)
        return place

    def _end(self, fd: int, generation: int) -> None:
        self.read_monitor()
        if generation and self._live.get(fd) == generation:
            with contextlib.suppress(OSError), network.socket(fileno=os.dup(fd)) as connection:
                connection.shutdown(network.SHUT_RDWR)

    def close(self) -> None:
        self._socket.disable_monitor()
