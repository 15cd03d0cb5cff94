"""The web's HTTP server in this process, on a real port, and bytes sent to it as they are."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from spyglass.web.http.server import Server
from testbed.processes import PATIENCE

#: Seconds a request may take to arrive in these tests.
DEADLINE = 1.0


async def echo_length(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d bytes" % size})


@contextmanager
def serving(app: Any) -> Iterator[Server]:
    server = Server(app, "127.0.0.1", 0, max_body=100_000, receive_within=DEADLINE)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def ask(port: int, request: bytes) -> bytes:
    """Send bytes as they are; all that comes back until the server closes or rests."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        connection.settimeout(0.5)
        answer = b""
        with suppress(TimeoutError, ConnectionResetError):
            while data := connection.recv(65536):
                answer += data
        return answer
