"""The HTTP server on a real port, spoken to byte by byte."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from serving import ask, echo_length, serving

from spyglass.web.http.response import SECURITY_HEADERS
from testbed.processes import PATIENCE, eventually


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(echo_length) as server:
        yield server.port


def test_an_ordinary_request_is_answered_without_naming_the_server(port: int) -> None:
    answer = ask(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Server:" not in answer


def test_a_responses_body_does_not_wait_for_its_head_to_be_acknowledged() -> None:
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
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length : 5\r\n",
        b"Content-Length: 5\nX-A: b\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"X-A: b\r\n c\r\nTransfer-Encoding: chunked\r\n",
        b"X\0A: b\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_a_request_of_ambiguous_length_is_refused(port: int, headers: bytes) -> None:
    answer = ask(port, b"POST / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n0\r\n\r\n")
    assert answer.split()[1] == b"400"
    assert answer.count(b"HTTP/1.") == 1


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"5;a\0b\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\nhello\r\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFF5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-A: b\nX-C: d\r\n\r\n",
    ],
)
def test_a_chunk_that_two_parsers_might_read_differently_is_refused(port: int, body: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = ask(port, head + body + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.split()[1] == b"400"
    assert answer.count(b"HTTP/1.") == 1


def test_an_old_request_cannot_be_chunked(port: int) -> None:
    head = b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert ask(port, head + b"5\r\nhello\r\n0\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        (b"1.1", b"Host: x\r\n", b"200"),
        (b"1.1", b"Host:\r\n", b"200"),
        (b"1.1", b"", b"400"),
        (b"1.1", b"Host: x\r\nHost: x\r\n", b"400"),
        (b"1.1", b"Host: x\r\nhOST: y\r\n", b"400"),
        (b"1.0", b"", b"200"),
        (b"1.0", b"Host: x\r\nHost: y\r\n", b"400"),
    ],
)
def test_a_request_has_one_host(port: int, version: bytes, hosts: bytes, status: bytes) -> None:
    answer = ask(port, b"GET / HTTP/%b\r\n%bConnection: close\r\n\r\n" % (version, hosts))
    assert answer.split()[1] == status


def test_a_refusal_by_the_server_has_a_sentence_and_the_security_headers(
    port: int,
) -> None:
    for request in (b"GET / HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n"):
        head, _, body = ask(port, request).decode().partition("\r\n\r\n")
        assert body.endswith(".\n")
        assert f"content-length: {len(body)}" in head
        for name, value in SECURITY_HEADERS.items():
            assert f"{name.lower()}: {value}" in head


def test_a_refusal_is_never_taken_for_the_response_to_an_earlier_request() -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.to_thread(go_on.wait, PATIENCE)
        await echo_length(scope, receive, send)

    with serving(slow) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(PATIENCE)
        client.sendall(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
        assert begun.wait(PATIENCE)
        client.sendall(b"GET /second HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            assert client.recv(100) == b""
        go_on.set()
