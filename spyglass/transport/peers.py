"""Who is at the other end of a ZeroMQ socket: connections that come and go, and bytes over them."""

from __future__ import annotations

import contextlib
import os
import socket as network
import struct
from collections.abc import Iterable

import zmq

from spyglass.protocol import ProtocolError
from spyglass.transport.framing import waits
from spyglass.transport.socket_options import ROUTER_EVENTS

#: Of struct tcp_info in linux/tcp.h: where tcpi_bytes_received stands, and bytes up to its end.
_BYTES_RECEIVED_AT, _TCP_INFO_BYTES = 128, 136


def monitor_events(monitor: zmq.Socket[bytes]) -> Iterable[tuple[int, int]]:
    """All (event, value) pairs that wait on a monitor socket (zmq_socket_monitor(3))."""
    while waits(monitor):
        yield struct.unpack("=HI", monitor.recv_multipart()[0])


def bytes_received(fd: int) -> int:
    """Bytes that have come over a TCP connection so far, also those of messages that are not
    complete; 0 if Linux cannot tell (tcp(7), TCP_INFO, tcpi_bytes_received)."""
    try:
        # Told what it is, Python asks nothing; and it must not close what is libzmq's.
        connection = network.socket(network.AF_INET, network.SOCK_STREAM, 0, fileno=fd)
        try:
            told = connection.getsockopt(network.IPPROTO_TCP, network.TCP_INFO, _TCP_INFO_BYTES)
        finally:
            connection.detach()
        return int(struct.unpack_from("=Q", told, _BYTES_RECEIVED_AT)[0])
    except (OSError, ValueError, struct.error):
        return 0


def _name_of_peer(fd: int) -> str:
    """Who is at the other end of a TCP connection, for the log."""
    try:
        with network.socket(fileno=os.dup(fd)) as connection:
            return str(connection.getpeername())
    except OSError:
        return "unknown"


def user_of(frame: zmq.Frame) -> str:
    """Whose message it is: the public key, in Z85, that ZAP let in. On encrypted ports only."""
    return str(frame.get("User-Id"))


class PeerTracker:
    """Knows, within milliseconds, which peer's connection to a ROUTER has dropped.

    The monitor tells file descriptors, messages tell identities; `Frame.get(SRCFD)` joins them.
    Descriptors are reused at once, so a connection is (descriptor, generation). A peer that is gone
    before its first message is read may so be taken for the one that has its descriptor now: it
    counts as dropped with that one, or as soon as a message for it finds nobody.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.monitor = socket.get_monitor_socket(ROUTER_EVENTS)
        self._socket = socket
        self.newest_generation = 0  # its generation
        self._live: dict[int, int] = {}
        self._peers: dict[tuple[int, int], list[bytes]] = {}
        self._connection: dict[bytes, tuple[int, int]] = {}
        self._dropped: dict[bytes, None] = {}  # in order, each once
        encrypted = bool(socket.getsockopt(zmq.CURVE_SERVER))
        self.domain = str(socket.getsockopt_string(zmq.ZAP_DOMAIN)) if encrypted else ""
        self._spoke: set[int] = set()  # descriptors of whole messages since the last look
        self.users: dict[bytes, str] = {}  # on an encrypted port: whose key each peer has

    @property
    def connections(self) -> int:
        """Open connections, also of strangers who have not said anything."""
        return len(self._live)

    def read_monitor(self) -> None:
        """Take in what the monitor has to tell. Call before trusting a message's descriptor."""
        for event, fd in monitor_events(self.monitor):
            if event in (zmq.EVENT_ACCEPTED, zmq.EVENT_CONNECTED):
                self.newest_generation += 1
                self._live[fd] = self.newest_generation
            elif event == zmq.EVENT_DISCONNECTED:
                for peer in self._peers.pop((fd, self._live.pop(fd, 0)), ()):
                    self._dropped[peer] = None

    def message_from(self, identity: zmq.Frame) -> bytes:
        """A message came from this peer; remember over which connection. Returns its address.

        Raises:
            ProtocolError: libzmq does not tell the connection.
        """
        address = identity.bytes
        known = self._connection.get(address)
        if known is not None:
            self._spoke.add(known[0])
        else:
            try:
                fd = int(identity.get(zmq.SRCFD))
            except zmq.ZMQError as error:
                raise ProtocolError(f"a message without a connection: {error}") from None
            self._spoke.add(fd)
            self.read_monitor()
            connection = (fd, self._live.get(fd, 0))
            self._connection[address] = connection
            if self.domain:
                self.users[address] = user_of(identity)
            if connection[1]:
                self._peers.setdefault(connection, []).append(address)
            else:  # it has dropped already: what it said counts, but it is not there
                self._dropped[address] = None
        return address

    def generation(self, address: bytes) -> int:
        """The later this peer's connection was made, the higher; 0 if it has dropped."""
        return self._connection.get(address, (-1, 0))[1]

    def mark_unreachable(self, address: bytes) -> None:
        """A message for this peer found no connection, so it has dropped."""
        self._dropped[address] = None

    def describe(self, address: bytes) -> str:
        """Where this peer is, for the log: not its address, from which others could be guessed."""
        fd, generation = self._connection.get(address, (-1, 0))
        return _name_of_peer(fd) if self._live.get(fd) == generation else "somebody who left"

    def take_dropped(self) -> list[bytes]:
        """Peers that dropped since the last call. Call when the data socket is drained: what a
        dead peer had sent before still counts."""
        dropped, self._dropped = list(self._dropped), {}
        for address in dropped:
            self._connection.pop(address, None)
            self.users.pop(address, None)
        return dropped

    def disconnect(self, address: bytes) -> None:
        """End this peer's connection. libzmq has no stable call for it, but it takes the end of
        the TCP connection beneath as the peer's own."""
        self._end(*self._connection.get(address, (-1, 0)))

    def without_message(self) -> list[tuple[int, int]]:
        """Connections over which no whole message came since the last call."""
        silent = [live for live in self._live.items() if live[0] not in self._spoke]
        self._spoke.clear()
        return silent

    def end(self, connection: tuple[int, int]) -> str:
        """End one of `silent`; where its peer is."""
        place = _name_of_peer(connection[0])
        self._end(*connection)
        return place

    def _end(self, fd: int, generation: int) -> None:
        self.read_monitor()
        if generation and self._live.get(fd) == generation:
            with contextlib.suppress(OSError), network.socket(fileno=os.dup(fd)) as connection:
                connection.shutdown(network.SHUT_RDWR)

    def close(self) -> None:
        self._socket.disable_monitor()
