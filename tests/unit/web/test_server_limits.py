"""The limits of the HTTP server on a real port, each reached byte by byte."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from serving import DEADLINE, ask, echo_length, serving
from yardstick import slowness

from spyglass.web.http import server as server_module
from spyglass.web.http.server import HEADER_OVERHEAD, MAX_HEADER_BYTES, Server
from testbed.processes import PATIENCE, eventually, rss


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(echo_length) as server:
        yield server.port


# --- chunks -----------------------------------------------------------------------------------

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(size: int, total: int, extension: bytes = b"") -> bytes:
    """A body in chunks of one size."""
    chunk = b"%x%b\r\n%b\r\n" % (size, extension, b"x" * size)
    return CHUNKED + chunk * (total // size) + b"0\r\n\r\n"


def refused(port: int, request: bytes) -> bool:
    """Whether it is refused, be it that the connection is cut while we send."""
    try:
        answer = ask(port, request)
    except ConnectionError:
        return True
    assert answer[:12] in (b"", b"HTTP/1.1 200", b"HTTP/1.1 400")
    return not answer.startswith(b"HTTP/1.1 200")


def test_a_body_in_chunks_of_one_byte_is_refused_and_in_larger_ones_accepted(port: int) -> None:
    assert not refused(port, chunked(128, 99_968))
    assert not refused(port, chunked(1, 2000)), "a few, as of somebody who types"
    assert refused(port, chunked(1, 99_999))


def test_chunk_extensions_are_bounded(port: int) -> None:
    assert not refused(port, chunked(5000, 95_000, b";sha=abcdef"))
    assert refused(port, chunked(5000, 95_000, b";a=" + b"b" * 100_000))


def test_trailers_are_bounded_and_never_become_headers() -> None:
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await echo_length(scope, receive, send)
        heard.append(dict(scope["headers"]))

    body = CHUNKED + b"5\r\nhello\r\n0\r\n"
    with serving(app) as server:
        answer = ask(server.port, body + b"Authorization: Bearer x\r\nHost: y\r\n\r\n")
        assert b"5 bytes" in answer
        assert heard[0][b"host"] == b"x" and b"authorization" not in heard[0]
        assert refused(server.port, body + b"X-A: b\r\n" * 100_000 + b"\r\n")
        assert refused(server.port, body + b"X-A: " + b"b" * 1_000_000 + b"\r\n\r\n")


def test_no_request_of_a_few_megabytes_costs_much_cpu_or_memory(port: int) -> None:
    """The server is in this process, so that its CPU time and memory are ours."""
    requests = {
        "plain": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n"
        + b"x" * 4_000_000,
        "chunks of a byte": chunked(1, 600_000),
        "extensions": chunked(1, 100, b";" + b"a" * 40_000),
        "trailers": CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 500_000,
        "headers": b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 500_000,
        "address": b"GET /" + b"a" * 4_000_000,
        "empty lines": b"\r\n" * 2_000_000,
    }
    memory, slow = rss(os.getpid()), slowness()
    for name, request in requests.items():
        began = time.process_time()
        with suppress(ConnectionError):
            ask(port, request)
        took = time.process_time() - began
        print(f"{name}: {1000 * took:.0f} ms of CPU")
        assert took < 0.5 * slow, name
    assert rss(os.getpid()) - memory < 50_000_000


def test_headers_over_16_kib_are_refused_and_up_to_that_accepted(port: int) -> None:
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


def test_a_body_over_the_limit_is_cut_and_one_of_the_limit_is_not(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    assert b"100000 bytes" in ask(port, head % 100_000 + b"x" * 100_000)
    with suppress(ConnectionError):  # it may be cut while we send
        assert ask(port, head % 100_001 + b"x" * 100_001) == b""


def test_a_body_that_arrives_too_slowly_is_cut_while_others_are_served(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(0.1)
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        began = time.monotonic()

        def cut() -> bool:
            try:
                slow.sendall(b"x")  # one byte at a time would keep some servers waiting for ever
                return slow.recv(100) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        eventually(cut, "the connection is cut")
        assert time.monotonic() - began >= DEADLINE
        answer = ask(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        assert answer.startswith(b"HTTP/1.1 200")


def test_a_head_that_arrives_too_slowly_is_cut(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(PATIENCE)
        slow.sendall(b"GET / HT")
        assert slow.recv(100) == b""


def test_a_connection_that_sends_nothing_is_cut(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.settimeout(PATIENCE)
        assert silent.recv(100) == b""


def test_a_response_may_take_longer_than_its_request() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(2 * DEADLINE)
        await echo_length(scope, receive, send)

    with serving(slow) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(PATIENCE)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_a_client_that_reads_nothing_of_its_response_is_cut() -> None:
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


def test_a_client_that_disconnects_is_noticed_and_its_connection_forgotten() -> None:
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
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
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


def test_one_address_cannot_take_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module.LimitedProtocol, "max_per_address", 2)
    local = threading.Event()
    monkeypatch.setattr(server_module, "is_loopback", lambda peer: local.is_set())
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(echo_length) as server, ExitStack() as stack:
        taken = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(2)
        ]
        eventually(lambda: len(server.server_state.connections) == 2, "both are counted")
        assert ask(server.port, request).startswith(b"HTTP/1.1 429")
        elsewhere = socket.create_connection(
            ("127.0.0.1", server.port), source_address=("127.0.0.2", 0)
        )
        with elsewhere:
            elsewhere.sendall(request)
            assert elsewhere.recv(100).startswith(b"HTTP/1.1 200"), "another address has its own"
        local.set()
        assert ask(server.port, request).startswith(b"HTTP/1.1 200"), "this machine is not counted"
        local.clear()
        taken[0].close()
        eventually(lambda: ask(server.port, request).startswith(b"HTTP/1.1 200"), "room again")


def test_the_same_port_twice_is_an_error_not_a_shared_port(port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        Server(echo_length, "127.0.0.1", port, 1000)
