"""The two kinds of ZeroMQ sockets Spyglass uses, their options, and who is at the other end.

Options are set before bind or connect and never changed: libzmq 4.3.5 may crash when high-water
marks change on a living pipe (libzmq issue 4524).
"""

from __future__ import annotations

import contextlib
import os
import socket as network
import struct
from collections.abc import Iterable

import zmq

from spyglass.protocol import MAX_ANSWER_PARTS, MAX_CREDIT, MAX_PARTS, PART_BYTES, ProtocolError
from spyglass.transport.credentials import Guard, Login
from spyglass.transport.framing import waits

#: Milliseconds between ZMTP pings on the clients' port, where there are no heartbeats of our own.
#: Both ends ping: a ping's TTL does not replace the other end's, since any later frame stops its
#: clock (a broker that relied on it never noticed a silence that began between a frame and the next
#: ping). Workers beat instead: the pings of 1,000 idle ones took a tenth of a core.
PING_INTERVAL_MS = 250
#: Milliseconds without any frame after which the connection is cut.
PING_TIMEOUT_MS = 750
#: Milliseconds for which Linux waits until what was sent between broker and worker is acknowledged,
#: before it ends the connection (tcp(7), TCP_USER_TIMEOUT). By itself it would try for a quarter of
#: an hour, at longer and longer intervals, and leave one half-open behind each partition.
UNACKNOWLEDGED_MS = 3000
#: Seconds after which Linux asks for itself whether a peer is there to which nobody sends anything:
#: one that vanished before it said READY.
KEEPALIVE_AFTER = 30
#: Milliseconds one attempt to connect broker and worker may take: more than the round trip of any
#: link served. By itself Linux tries again after 1, 2, 4 ... s, long after a partition has ended.
CONNECT_TIMEOUT_MS = 400
#: Milliseconds a stranger has to finish the ZMTP handshake.
HANDSHAKE_MS = 2000
#: Bytes of one frame. Our parts have 64 KiB; anything above 1 MiB is not ours.
MAX_FRAME_BYTES = 1024 * 1024
#: Bytes that a whole message, of a client and of a worker, never reaches with all its frames: its
#: parts, and a few for the rest.
MAX_MESSAGE_BYTES = MAX_PARTS * PART_BYTES + 1024 * 1024
MAX_ANSWER_BYTES = MAX_ANSWER_PARTS * PART_BYTES + 64 * 1024
#: The ZAP domain of ports that are not encrypted.
PLAIN_DOMAIN = b"plain"
#: Messages queued to one peer: above the largest credit, so only a peer that reads nothing at
#: all ever fills it.
SEND_QUEUE = 2048
#: Messages a client queues: a dead broker must not get thousands of old ones later.
CLIENT_SEND_QUEUE = 64
#: Messages a worker queues: an ACK and a last word for all its credit may come at once, and none be
#: lost. Twice as many, since libzmq makes room only when half of the queue was sent.
WORKER_SEND_QUEUE = 4 * MAX_CREDIT
#: Milliseconds a closing DEALER may still send its goodbye.
DEALER_LINGER_MS = 200
#: Milliseconds until the first and at most between later attempts to connect again. Short: after
#: a broker's restart 20 of 20 workers were back 0.15 s after the port.
RECONNECT_MS, RECONNECT_MAX_MS = 100, 1000

#: Of struct tcp_info in linux/tcp.h: where tcpi_bytes_received stands, and bytes up to its end.
_BYTES_RECEIVED_AT, _TCP_INFO_BYTES = 128, 136

#: Connections come and go: value = file descriptor. Not the default mask: with
#: HANDSHAKE_FAILED_PROTOCOL in it one corrupted frame wedges a CURVE connection for ever.
ROUTER_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
DEALER_EVENTS = ROUTER_EVENTS | zmq.EVENT_HANDSHAKE_SUCCEEDED


def router(
    context: zmq.Context[zmq.Socket[bytes]], guard: Guard | None = None, workers: bool = False
) -> zmq.Socket[bytes]:
    """A broker's socket, for clients or for `workers`. Not yet bound; encrypted by `guard`."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to a gone peer is an error, not silence
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    # Flow control is by credit. A bounded receive queue, ZMTP pings and a stalled loop together
    # silently lost 8,723 of 20,000 messages; unbounded lost none.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
    socket.setsockopt(zmq.LINGER, 0)
    if guard is not None:
        guard.apply(socket)
    else:
        _refuse_the_past(socket)
    _common(socket, workers)
    return socket


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], login: Login | None = None, worker: bool = False
) -> zmq.Socket[bytes]:
    """A client's or a `worker`'s socket, encrypted by `login`. No identity is set: the ROUTER gives
    each connection a fresh one, so two peers can never claim the same (libzmq issue 4503)."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IMMEDIATE, 1)  # queue nothing for a broker that is not there
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, WORKER_SEND_QUEUE if worker else CLIENT_SEND_QUEUE)
    socket.setsockopt(zmq.LINGER, DEALER_LINGER_MS)
    if login is not None:
        login.apply(socket)
    else:
        _refuse_the_past(socket)
    _common(socket, worker)
    return socket


def _refuse_the_past(socket: zmq.Socket[bytes]) -> None:
    """Let nobody in who speaks ZMTP 1.0, which has no greeting: whatever a web page makes a browser
    send to a port would be messages. libzmq refuses it where ZAP has a domain, and asks ZAP only if
    somebody answers there."""
    socket.setsockopt(zmq.ZAP_DOMAIN, PLAIN_DOMAIN)


def _common(socket: zmq.Socket[bytes], workers: bool) -> None:
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    if workers:
        socket.setsockopt(zmq.TCP_MAXRT, UNACKNOWLEDGED_MS)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_AFTER)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
    else:
        socket.setsockopt(zmq.HEARTBEAT_IVL, PING_INTERVAL_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, PING_TIMEOUT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)


class Waker:
    """Wakes a poller from a signal handler or another thread."""

    def __init__(self) -> None:
        self._reader, self._writer = network.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the poller return. Never blocks."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._writer.send(b"!")  # full of earlier wake-ups, or closed: nothing to do

    def clear(self) -> None:
        """Forget all wake-ups so far."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


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


class DropWatch:
    """Knows, within milliseconds, which peer's connection to a ROUTER has dropped.

    The monitor tells file descriptors, messages tell identities; `Frame.get(SRCFD)` joins them.
    Descriptors are reused at once, so a connection is (descriptor, generation). A peer that is gone
    before its first message is read may so be taken for the one that has its descriptor now: it
    counts as dropped with that one, or as soon as a message for it finds nobody.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.monitor = socket.get_monitor_socket(ROUTER_EVENTS)
        self._socket = socket
        self.youngest = 0  # its generation
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

    def read(self) -> None:
        """Take in what the monitor has to tell. Call before trusting a message's descriptor."""
        for event, fd in monitor_events(self.monitor):
            if event in (zmq.EVENT_ACCEPTED, zmq.EVENT_CONNECTED):
                self.youngest += 1
                self._live[fd] = self.youngest
            elif event == zmq.EVENT_DISCONNECTED:
                for peer in self._peers.pop((fd, self._live.pop(fd, 0)), ()):
                    self._dropped[peer] = None

    def saw(self, identity: zmq.Frame) -> bytes:
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
            self.read()
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

    def unreachable(self, address: bytes) -> None:
        """A message for this peer found no connection, so it has dropped."""
        self._dropped[address] = None

    def place_of(self, address: bytes) -> str:
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

    def cut(self, address: bytes) -> None:
        """End this peer's connection. libzmq has no stable call for it, but it takes the end of
        the TCP connection beneath as the peer's own."""
        self._end(*self._connection.get(address, (-1, 0)))

    def silent(self) -> list[tuple[int, int]]:
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
        self.read()
        if generation and self._live.get(fd) == generation:
            with contextlib.suppress(OSError), network.socket(fileno=os.dup(fd)) as connection:
                connection.shutdown(network.SHUT_RDWR)

    def close(self) -> None:
        self._socket.disable_monitor()
