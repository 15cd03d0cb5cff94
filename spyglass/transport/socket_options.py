"""The two kinds of ZeroMQ sockets Spyglass uses, and their options.

Options are set before bind or connect and never changed: libzmq 4.3.5 may crash when high-water
marks change on a living pipe (libzmq issue 4524).
"""

from __future__ import annotations

import zmq

from spyglass.protocol import MAX_ANSWER_PARTS, MAX_CREDIT, MAX_PARTS, PART_BYTES
from spyglass.transport.credentials import ClientKeys, ServerKeys

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
    context: zmq.Context[zmq.Socket[bytes]],
    keys: ServerKeys | None = None,
    workers: bool = False,
) -> zmq.Socket[bytes]:
    """A broker's socket, for clients or for `workers`. Not yet bound; encrypted by `keys`."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to a gone peer is an error, not silence
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    # Flow control is by credit. A bounded receive queue, ZMTP pings and a stalled loop together
    # silently lost 8,723 of 20,000 messages; unbounded lost none.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
    socket.setsockopt(zmq.LINGER, 0)
    if keys is not None:
        keys.apply(socket)
    else:
        _refuse_the_past(socket)
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
    socket.setsockopt(zmq.IMMEDIATE, 1)  # queue nothing for a broker that is not there
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, WORKER_SEND_QUEUE if worker else CLIENT_SEND_QUEUE)
    socket.setsockopt(zmq.LINGER, DEALER_LINGER_MS)
    if keys is not None:
        keys.apply(socket)
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
