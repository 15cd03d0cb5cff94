"""The HTTP server on a real port, spoken to byte by byte."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from conftest import eventually

from httpserver import make_server

#: Seconds a request may take to arrive in these tests.
DEADLINE = 1.0


def echo_length(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(len(body)).encode()]


@pytest.fixture
def port() -> Iterator[int]:
    server = make_server(echo_length, "127.0.0.1", 0, 8, 1000, DEADLINE)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield int(server.effective_port)
    server.close()
    server.task_dispatcher.shutdown()
    thread.join(5)


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


def test_an_ordinary_request_is_answered_without_naming_the_server(port: int) -> None:
    answer = ask(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Server:" not in answer


def test_a_chunked_body_is_read_whole(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert ask(port, head + b"5\r\nhello\r\n0\r\n\r\n").endswith(b"5")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length: +5\r\n",
    ],
)
def test_a_request_of_ambiguous_length_is_refused(port: int, headers: bytes) -> None:
    answer = ask(port, b"POST / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n0\r\n\r\n")
    assert answer.split()[1] in (b"400", b"501")
    assert answer.count(b"HTTP/1.") == 1


def test_headers_over_16_kib_are_refused_and_under_it_taken(port: int) -> None:
    def sized(filling: int) -> bytes:
        return b"GET / HTTP/1.1\r\nHost: x\r\nX-Fill: " + b"a" * filling + b"\r\n\r\n"

    assert ask(port, sized(15_000)).startswith(b"HTTP/1.1 200")
    assert not ask(port, sized(300_000)).startswith(b"HTTP/1.1 200")


def test_a_body_that_drips_is_cut_while_others_are_served(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(0.1)
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        began = time.monotonic()

        def cut() -> bool:
            try:
                slow.sendall(b"x")  # one byte at a time keeps other servers waiting for ever
                return slow.recv(100) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        eventually(cut, "the connection is cut")
        assert time.monotonic() - began >= DEADLINE
        answer = ask(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        assert answer.startswith(b"HTTP/1.1 200")


def test_a_client_that_hangs_up_is_seen_and_its_connection_forgotten() -> None:
    begun, seen = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        begun.set()
        eventually(environ["waitress.client_disconnected"], "it has hung up")
        busy = time.process_time()
        threading.Event().wait(0.5)  # work goes on, and the server's loop rests meanwhile
        assert time.process_time() - busy < 0.25
        seen.set()
        start_response("200 OK", [])
        return [b"to nobody"]

    server = make_server(app, "127.0.0.1", 0, 8, 1000, DEADLINE)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        with socket.create_connection(("127.0.0.1", server.effective_port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert begun.wait(30)
        assert seen.wait(30)
        eventually(lambda: not server.active_channels, "the connection is forgotten")
    finally:
        server.close()
        server.task_dispatcher.shutdown()
        thread.join(5)


def test_the_same_port_twice_is_an_error_not_a_shared_port(port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        make_server(echo_length, "127.0.0.1", port, 1, 1000, DEADLINE)
