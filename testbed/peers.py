"""Workers, clients and brokers made of bare sockets, to send what a real one would not."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from typing import TypeVar

import zmq

from spyglass.protocol import (
    ID_BYTES,
    Ack,
    Body,
    Direction,
    Message,
    Ready,
    Request,
    Result,
    Times,
    decode,
    encode,
)
from spyglass.transport.credentials import ClientKeys
from spyglass.transport.socket_options import dealer, router

#: ZMTP 3.0 (rfc.zeromq.org/spec/23): the greeting with the NULL mechanism.
GREETING = bytes((0xFF, *[0] * 7, 1, 0x7F, 3, 0)) + b"NULL".ljust(20, b"\0") + bytes(32)
#: READY of a DEALER, after the greeting.
PROPERTY = b"\x0bSocket-Type" + struct.pack("!I", 6) + b"DEALER"
READY = bytes((4, 6 + len(PROPERTY))) + b"\x05READY" + PROPERTY

#: Milliseconds to wait for a message on a slow, busy machine.
PATIENCE_MS = 30_000
#: The model of the stand-in with the default weights.
MODEL, DIGEST = "squeezenet1_1", hashlib.sha256(b"ndf").hexdigest()

Received = TypeVar("Received", bound=Message)


class Peer:
    """One DEALER connected to a broker's port; `close` it."""

    def __init__(
        self,
        address: str,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        keys: ClientKeys | None = None,
        routing_id: bytes = b"",
    ) -> None:
        """`routing_id` is one to bring along, as no real peer does."""
        self.context = context or zmq.Context()
        self._own = context is None
        self.socket = dealer(self.context, keys)
        if routing_id:
            self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self.socket.connect(address)

    def send(self, message: Message) -> None:
        """Send, waiting for the connection if need be."""
        assert self.socket.poll(PATIENCE_MS, zmq.POLLOUT), "no broker takes it"
        self.socket.send_multipart(encode(message))

    def receive(self, direction: Direction, wait_ms: int = PATIENCE_MS) -> Message | None:
        """The next message, or None if none comes."""
        if not self.socket.poll(wait_ms):
            return None
        return decode(self.socket.recv_multipart(), direction)

    def close(self) -> None:
        self.socket.close(linger=0)
        if self._own:
            self.context.destroy(linger=0)


class FakeWorker(Peer):
    """A worker that does as it is called."""

    def join(self, name: str, credit: int = 1) -> None:
        self.send(Ready(MODEL, DIGEST, credit, host="here", pid=os.getpid(), name=name))

    def request(self) -> Request:
        """Wait for the next request."""
        while True:
            message = self.receive(Direction.BROKER_TO_WORKER)
            assert message is not None, "no request came"
            if isinstance(message, Request):
                return message

    def answer(self, request_id: bytes, label: str = "tabby") -> None:
        row = f'[{{"label": "{label}", "index": 281, "probability": 0.5}}]'
        self.send(Result(request_id, Times(0.5, 1.0), Body.of(row.encode())))

    def serve(self, request: Request) -> None:
        self.send(Ack(request.id))
        self.answer(request.id)


class FakeBroker:
    """As much of a broker as one worker needs."""

    def __init__(self, patience: float) -> None:
        """`patience` is how many seconds the worker may take for a message."""
        self._patience = patience
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = router(self._context, workers=True)
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"tcp://127.0.0.1:{port}"
        self._worker = b""

    def receive(self, kind: type[Received]) -> Received:
        """The next message of this kind; others are passed over.

        Raises:
            TimeoutError: the worker sent nothing for long.
        """
        while True:
            if not self._socket.poll(int(1000 * self._patience)):
                raise TimeoutError(f"the worker sent nothing for {self._patience:g} s")
            self._worker, *frames = self._socket.recv_multipart()
            message = decode(frames, Direction.WORKER_TO_BROKER)
            if isinstance(message, kind):
                return message

    def request(self, image: bytes) -> None:
        """Send a picture."""
        frames = encode(picture_request(image, budget_ms=60_000))
        self._socket.send_multipart([self._worker, *frames])

    def close(self) -> None:
        self._context.destroy(linger=0)


def picture_request(picture: bytes = b"picture", budget_ms: int = 10_000) -> Request:
    """A request as a client sends it."""
    sha256 = hashlib.sha256(picture).hexdigest()
    return Request(os.urandom(ID_BYTES), "", 5, budget_ms, sha256, Body.of(picture))


def connect_tcp(address: str) -> socket.socket:
    """A bare TCP connection to a ZeroMQ port."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def cut_off(stranger: socket.socket) -> bool:
    """Whether the other end has ended this connection; waits for that, or for bytes."""
    try:
        return not stranger.recv(4096)
    except ConnectionError:
        return True
