"""The two kinds of ZeroMQ sockets Spyglass uses, and their options.

Options are set before bind or connect and never changed: libzmq 4.3.5 may crash when high-water
marks change on a living pipe (libzmq issue 4524).
"""

from __future__ import annotations

import zmq

from spyglass.protocol import MAX_ANSWER_PARTS, MAX_CREDIT, MAX_PARTS, PART_BYTES
from spyglass.transport.credentials import ClientKeys, ServerKeys

#: Milliseconds between ZMTP pings on the clients' port, where SPY1 has no heartbeats. Both ends
#: ping: the TTL in one end's ping does not replace the other end's pings, since any later frame
#: stops its clock (a broker that relied on it never noticed a silence that began between a frame
#: and the next ping). Workers send SPY1 heartbeats instead: ZMTP pings of 1,000 idle workers took a
#: tenth of a core.
PING_INTERVAL_MS = 250
#: Milliseconds without any frame after which libzmq ends the connection.
PING_TIMEOUT_MS = 750
#: Milliseconds for which bytes between broker and worker may stay unacknowledged by TCP before
#: Linux ends the connection (tcp(7), TCP_USER_TIMEOUT). Its default is to retry for a quarter of an
#: hour, at longer and longer intervals: each network partition would leave half-open connections.
UNACKNOWLEDGED_MS = 3000
#: Seconds without traffic after which Linux probes a connection (TCP keepalive). It finds a peer
#: that vanished before its READY, to which the broker sends nothing.
KEEPALIVE_AFTER = 30
#: Milliseconds one attempt to connect broker and worker may take: more than the round trip of any
#: link served. Linux would retry it after 1, 2, 4 ... s, long after a partition has ended.
CONNECT_TIMEOUT_MS = 400
#: Milliseconds a peer has to finish the ZMTP handshake.
HANDSHAKE_MS = 2000
#: Bytes of one frame. Parts have 64 KiB; a frame above 1 MiB is not SPY1.
MAX_FRAME_BYTES = 1024 * 1024
#: Bytes that all frames of a legal message of a client, and of a worker, never reach: its parts,
#: and some for the rest.
MAX_MESSAGE_BYTES = MAX_PARTS * PART_BYTES + 1024 * 1024
MAX_ANSWER_BYTES = MAX_ANSWER_PARTS * PART_BYTES + 64 * 1024
#: The ZAP domain of ports that are not encrypted.
PLAIN_DOMAIN = b"plain"
#: Messages the broker queues for one peer: more than the largest credit, so only a peer that reads
#: nothing at all fills it.
SEND_QUEUE = 2048
#: Messages a client queues: a broker that comes back must not get thousands of old ones.
CLIENT_SEND_QUEUE = 64
#: Messages a worker queues: an ACK and a final reply for all its credit may be sent at once, and
#: none may be lost. Twice as many, since libzmq makes room only when half of the queue was sent.
WORKER_SEND_QUEUE = 4 * MAX_CREDIT
#: Milliseconds for which a closing DEALER may still send its BYE.
DEALER_LINGER_MS = 200
#: Milliseconds until the first attempt to reconnect, and at most between later ones. Short: 20 of
#: 20 workers were connected 0.15 s after a restarted broker had opened its port.
RECONNECT_MS, RECONNECT_MAX_MS = 100, 1000

#: Monitor events of connections that come and go; their value is the file descriptor. Not all
#: events: with HANDSHAKE_FAILED_PROTOCOL one corrupted frame blocks a CURVE connection for ever.
ROUTER_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
DEALER_EVENTS = ROUTER_EVENTS | zmq.EVENT_HANDSHAKE_SUCCEEDED


def router(
    context: zmq.Context[zmq.Socket[bytes]],
    keys: ServerKeys | None = None,
    workers: bool = False,
) -> zmq.Socket[bytes]:
    """A broker's socket, for clients or for `workers`. Not yet bound; encrypted by `keys`."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a message to a peer that has left is an error
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    # Credit bounds the flow instead. A bounded receive queue, ZMTP pings and a stalled loop
    # together silently lost 8,723 of 20,000 messages; an unbounded one lost none.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
    socket.setsockopt(zmq.LINGER, 0)
    if keys is not None:
        keys.apply(socket)
    else:
        _refuse_zmtp_1(socket)
    _common(socket, workers)
    return socket


def dealer(
    context: zmq.Context[zmq.Socket[bytes]],
    keys: ClientKeys | None = None,
    worker: bool = False,
) -> zmq.Socket[bytes]:
    """A client's or a `worker`'s socket, encrypted by `keys`. No identity is set: the ROUTER gives
    each connection a fresh one, so two peers can never claim the same (libzmq issue 4503)."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IMMEDIATE, 1)  # queue nothing for a broker that is not connected
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, WORKER_SEND_QUEUE if worker else CLIENT_SEND_QUEUE)
    socket.setsockopt(zmq.LINGER, DEALER_LINGER_MS)
    if keys is not None:
        keys.apply(socket)
    else:
        _refuse_zmtp_1(socket)
    _common(socket, worker)
    return socket


def _refuse_zmtp_1(socket: zmq.Socket[bytes]) -> None:
    """Refuse peers that use ZMTP 1.0. It has no greeting, so whatever a web page makes a browser
    send to a port would be taken for messages. libzmq refuses it where ZAP has a domain, and asks
    ZAP only if a handler for it exists."""
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
