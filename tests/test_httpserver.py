"""The HTTP server on a real port, spoken to byte by byte."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from conftest import PATIENCE, eventually

import httpserver
from httpserver import HEADER_OVERHEAD, MAX_HEADER_BYTES, Server

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


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(echo_length) as server:
        yield server.port


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


def test_an_answers_body_does_not_wait_for_its_head_to_be_acknowledged() -> None:
    with serving(echo_length) as server, socket.create_connection(("127.0.0.1", server.port)):
        connections = server.server_state.connections
        eventually(lambda: connections, "the connection is accepted")
        transport = next(iter(connections)).transport
        accepted = transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_chunked_body_is_read_whole(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert ask(port, head + b"5\r\nhello\r\n0\r\n\r\n").endswith(b"5 bytes\r\n0\r\n\r\n")


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
    def sized(head: int) -> bytes:
        filling = head - len("/") - len("HostxX-Fill") - 2 * HEADER_OVERHEAD
        return b"GET / HTTP/1.1\r\nHost: x\r\nX-Fill: " + b"a" * filling + b"\r\n\r\n"

    assert ask(port, sized(MAX_HEADER_BYTES)).startswith(b"HTTP/1.1 200")
    assert ask(port, sized(MAX_HEADER_BYTES + 1)).startswith(b"HTTP/1.1 431")
    many = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEADER_BYTES // 6 + 1) + b"\r\n"
    assert ask(port, many).startswith(b"HTTP/1.1 431")


def test_a_header_that_never_ends_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as endless:
        endless.settimeout(PATIENCE)
        with suppress(ConnectionError):  # it may be closed while we send
            endless.sendall(b"GET / HTTP/1.1\r\nX-Fill: ")
            for _ in range(100):
                endless.sendall(b"a" * 1000)
        with suppress(ConnectionError):
            assert endless.recv(100)[:12] in (b"HTTP/1.1 431", b"")


def test_a_body_beyond_any_sense_is_cut_and_a_large_one_is_not(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    assert b"100000 bytes" in ask(port, head % 100_000 + b"x" * 100_000)
    with suppress(ConnectionError):  # it may be cut while we send
        assert ask(port, head % 100_001 + b"x" * 100_001) == b""


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


def test_a_head_that_drips_is_cut(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(PATIENCE)
        slow.sendall(b"GET / HT")
        assert slow.recv(100) == b""


def test_a_connection_that_says_nothing_is_cut(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.settimeout(PATIENCE)
        assert silent.recv(100) == b""


def test_an_answer_may_take_longer_than_its_request() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(2 * DEADLINE)
        await echo_length(scope, receive, send)

    with serving(slow) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(PATIENCE)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_a_client_that_takes_nothing_of_its_answer_is_cut() -> None:
    over = threading.Event()

    async def huge(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 50_000_000})
        await receive()  # returns at the end of the connection, or of the answer
        over.set()

    with serving(huge) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert over.wait(PATIENCE)
        eventually(lambda: not server.server_state.connections, "the connection is forgotten")


def test_a_client_that_hangs_up_is_seen_and_its_connection_forgotten() -> None:
    begun, seen = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        seen.set()

    with serving(app) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert begun.wait(PATIENCE)
        assert seen.wait(PATIENCE)
        eventually(lambda: not server.server_state.connections, "the connection is forgotten")


def test_one_connection_more_than_allowed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpserver, "MAX_CONNECTIONS", 2)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(echo_length) as server, ExitStack() as stack:
        taken = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(2)
        ]
        for connection in taken:
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert ask(server.port, request).startswith(b"HTTP/1.1 503")
        taken[0].close()
        eventually(lambda: ask(server.port, request).startswith(b"HTTP/1.1 200"), "room again")


def test_the_same_port_twice_is_an_error_not_a_shared_port(port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        Server(echo_length, "127.0.0.1", port, 1000)
