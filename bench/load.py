"""A closed loop of HTTP requests on kept connections, as cheap as it can be made.

What the load costs is taken from the cores that the fleet needs, so requests are built before and
answers hardly looked at: about 0.1 ms of CPU for a photo.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

#: Bytes read at a time; an answer has some hundred.
_CHUNK = 64 * 1024
#: Seconds an answer may take before the measurement is given up.
PATIENCE = 30.0


@dataclass(frozen=True)
class Measured:
    """What a run gave: answers a second, and for each how long it took, in seconds, and its body,
    the quickest first."""

    rate: float
    answers: list[tuple[float, bytes]]

    def at(self, share: float) -> float:
        """The latency, in milliseconds, that this share of the answers did not exceed."""
        ordered = self.answers
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))][0]


class _Connection:
    """One request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self.body = b""  # of the last answer, as far as it has come
        self._answer = b""

    def ask(self, request: bytes) -> None:
        self.began = time.perf_counter()
        self._answer = b""
        self.socket.sendall(request)

    def read(self) -> bool:
        """Take what has come; whether the answer is complete.

        Raises:
            ConnectionError: it is no answer with predictions.
        """
        data = self.socket.recv(_CHUNK)
        self._answer += data
        head, end, self.body = self._answer.partition(b"\r\n\r\n")
        if not data or (end and not head.startswith(b"HTTP/1.1 200 ")):
            raise ConnectionError(head.partition(b"\r\n")[0].decode() or "the connection broke")
        if not end:
            return False
        at = head.index(b"content-length: ") + len(b"content-length: ")
        return len(self.body) >= int(head[at:].partition(b"\r\n")[0])


def requests(pictures: Sequence[bytes]) -> list[bytes]:
    """One request for each picture, as it goes over the wire."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    return [head + b"Content-Length: %d\r\n\r\n" % len(p) + p for p in pictures]


def run(port: int, asked: Sequence[bytes], connections: int, for_seconds: float) -> Measured:
    """Keep a request open on each connection for so long; the last answers are waited for.

    Raises:
        ConnectionError: an answer was none.
        TimeoutError: no answer came for long.
    """
    answers: list[tuple[float, bytes]] = []
    turn = 0
    with selectors.DefaultSelector() as selector:
        opened = [_Connection(port) for _ in range(connections)]
        for connection in opened:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        began = time.perf_counter()
        until = began + for_seconds
        for connection in opened:
            connection.ask(asked[turn % len(asked)])
            turn += 1
        while len(answers) < turn:
            ready = selector.select(PATIENCE)
            if not ready:
                raise TimeoutError(f"no answer came within {PATIENCE:.0f} s")
            for key, _ in ready:
                connection = key.data
                if not connection.read():
                    continue
                now = time.perf_counter()
                answers.append((now - connection.began, connection.body))
                if now < until:
                    connection.ask(asked[turn % len(asked)])
                    turn += 1
        elapsed = time.perf_counter() - began
        for connection in opened:
            connection.socket.close()
    return Measured(turn / elapsed, sorted(answers))
