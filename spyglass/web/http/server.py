"""uvicorn, with limits it does not have: a deadline for a whole request, sizes, and strict framing.

uvicorn reads requests with llhttp (Node's parser), which refuses every request whose length two
parsers might understand differently (request smuggling, RFC 9112 section 6.1). It bounds neither
the headers nor the time in which a request must arrive, so that a client could occupy a connection
for ever; that is done here.

When a request offers another protocol (`Upgrade`), HTTP ends for llhttp, and uvicorn lets it read
the request's body as the next request: a body could hide a request, which a proxy in front of the
web has never checked. No other protocol is spoken here, so such offers are ignored, as RFC 9110
section 7.8 allows, and the body is read by its Content-Length or chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from spyglass.web.http.guard import client_network, is_loopback
from spyglass.web.http.response import SECURITY_HEADERS

#: Seconds a client has to send a whole request, to begin its first one, or to read a response.
RECEIVE_WITHIN = 20.0
#: Connections at a time.
MAX_CONNECTIONS = 1000
#: Of these, connections from one address: a browser opens six, so a dozen people behind one router
#: have enough, and no single address can take all.
MAX_PER_ADDRESS = 100
#: Connections that wait in the kernel's queue.
BACKLOG = 1024
#: Bytes of a request's line and headers.
MAX_HEADER_BYTES = 16 * 1024
#: Bytes counted for a header besides its name and value.
HEADER_OVERHEAD = 4
#: One byte of framing is allowed for this many bytes of a body, besides MAX_HEADER_BYTES: chunks of
#: one byte each cost the server hundreds of times what a plain body does.
FRAMING_SHARE = 16
#: Headers that say where a request ends.
FRAMING_HEADERS = (b"content-length", b"transfer-encoding")
HEAD_TOO_LARGE = f"The request's line and headers must not exceed {MAX_HEADER_BYTES} bytes."
#: Seconds between two checks for slow connections.
SLOW_CHECK_INTERVAL = 0.25
#: Seconds a server that is shutting down lets requests finish.
SHUTDOWN_WITHIN = 10


class RequestRefused(Exception):
    """Stops the parser; the connection has been closed."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection, which is closed when it asks for too much or takes too long.

    Attributes:
        max_body: bytes of the largest body read; beyond it the connection is cut. A body that is
            within it, but too large for the application, is refused by the application.
        callers: open connections of each address but this machine's; shared by all.
        receiving_since: when the request being received began, or when the connection was opened;
            None while the request is being answered, or there is none.
        stuck_since: since when the client has read nothing of its response.
    """

    max_body = 0
    max_per_address = MAX_PER_ADDRESS
    callers: Counter[str]
    receiving_since: float | None = None
    stuck_since: float | None = None
    _caller = ""  # the network this connection is counted by
    _in_head = False
    _in_body = False
    _head = 0  # bytes of the present request's line and headers that are complete
    _unread_head = 0  # bytes received since then for the incomplete rest of its head
    _began = False  # whether a request began in the bytes just received
    _body = 0
    _framing = 0  # bytes received with the present body that are not its content
    _hosts = 0  # Host headers of the present request
    _coding = b""  # its Transfer-Encoding
    _cycles: deque[RequestResponseCycle]  # unanswered requests, oldest first; uvicorn has the last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._cycles = deque()
        self.receiving_since = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "There are too many connections. Try again shortly.")
            return
        peer = self.client[0] if self.client else ""
        if peer and not is_loopback(peer):  # on loopback, many may come through one proxy
            self._caller = client_network(peer)
            self.callers[self._caller] += 1
            if self.callers[self._caller] > self.max_per_address:
                self._refuse(429, "There are too many connections from your address.")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_requests()
        if self._caller:
            self.callers[self._caller] -= 1
            if not self.callers[self._caller]:
                del self.callers[self._caller]

    def data_received(self, data: bytes) -> None:
        if self.receiving_since is None:
            self.receiving_since = self.loop.time()
        self._began = False
        in_body, body = self._in_body, self._body
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            if not self.transport.is_closing():  # else RequestRefused stopped it
                self._refuse(400, "This is not an HTTP request.")
            return
        if self._began:
            return  # of these bytes, those before belong to other requests
        if self._in_head:
            self._unread_head += len(data)
            if self._unread_head > MAX_HEADER_BYTES:
                self._refuse(431, HEAD_TOO_LARGE)
        elif in_body and self._in_body:
            self._framing += len(data) - (self._body - body)
            if self._framing > MAX_HEADER_BYTES + self._body // FRAMING_SHARE:
                self._refuse(400, "Send the body in larger chunks.")

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """Read on after a head whose body this parser does not read: replace the parser by one that
        has been fed a head with the same framing and no offer."""
        headers = [header for header in self.headers if header[0] in FRAMING_HEADERS]
        if not self.cycle.keep_alive:
            headers.append((b"connection", b"close"))  # what follows the body is dropped
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(lines))

    def on_message_begin(self) -> None:
        if self._in_body:
            return  # _ignore_upgrade feeds its head a second time
        super().on_message_begin()
        self._in_head, self._head, self._unread_head, self._body = True, 0, 0, 0
        self._framing, self._hosts, self._coding = 0, 0, b""
        self._began = True

    def on_url(self, url: bytes) -> None:
        if not self._in_head:
            return
        self._head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer must not pass for a header
        self._head += len(name) + len(value) + HEADER_OVERHEAD
        super().on_header(name, value)
        name = self.headers[-1][0]  # in lower case now
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding":
            self._coding += value.lower()

    def on_headers_complete(self) -> None:
        if not self._in_head:
            return
        version = self.parser.get_http_version()
        modern = version == "1.1"
        if version not in ("1.1", "1.0"):
            self._refuse(505, "Speak HTTP/1.1.")
        elif self.parser.get_method() == b"CONNECT":  # what follows would not be HTTP
            self._refuse(400, "Spyglass is not a proxy.")
        elif self._head > MAX_HEADER_BYTES:
            self._refuse(431, HEAD_TOO_LARGE)
        elif self._hosts != 1 and (modern or self._hosts):
            self._refuse(400, "Send one Host header.")
        elif self._coding and (self._coding != b"chunked" or not modern):
            self._refuse(400, "Send the body with a Content-Length, or chunked and not compressed.")
        else:
            super().on_headers_complete()
            self._in_head, self._in_body = False, True
            while self._cycles and self._cycles[0].response_complete:
                self._cycles.popleft()
            self._cycles.append(self.cycle)
            return
        raise RequestRefused

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        if self._body > self.max_body:
            self._cut()
            raise RequestRefused
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # only for the parser: the body follows
        self._in_body = False
        self.receiving_since = None
        super().on_message_complete()

    def cut_if_slow(self, now: float, limit: float) -> None:
        """Cut the connection if the server has waited for its client for too long."""
        if not self.transport.get_write_buffer_size():
            self.stuck_since = None
        elif self.stuck_since is None:
            self.stuck_since = now
        for since in (self.receiving_since, self.stuck_since):
            if since is not None and now - since > limit:
                self._cut()

    def _refuse(self, status: int, detail: str) -> None:
        """Send the reason and close; close without it where it could be taken for the response to
        another request, or for a second response to this one."""
        running = self.cycle is not None and not self.cycle.response_complete
        if self._in_body and not running:  # it was answered before its body ended
            self.transport.close()
            return
        if running and (self.cycle.response_started or self.pipeline or not self._in_body):
            self._cut()
            return
        self._stop_requests()
        body = f"{detail}\n"
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **SECURITY_HEADERS,
        }
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name.lower()}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", body]).encode())
        self.transport.close()

    def _cut(self) -> None:
        self._stop_requests()
        self.transport.abort()

    def _stop_requests(self) -> None:
        """Stop the unanswered requests: nobody can receive their responses any more."""
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()


class Server(uvicorn.Server):
    """A server for one ASGI application, bound to its port but not running.

    Args:
        app: the application.
        host, port: where to listen; port 0 takes any.
        max_body: bytes of the largest body that is read at all.
        on_loop: called once, when the event loop runs.
        receive_within: seconds for a client to send its request.

    Raises:
        OSError: the address is in use, or not of this machine.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        max_body: int,
        on_loop: Callable[[], None] = lambda: None,
        receive_within: float = RECEIVE_WITHIN,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio turns Nagle's algorithm off only for a socket whose protocol is named; with it a
        # response's body waits 40 ms for the client to acknowledge its head.
        self._listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listening.bind((host, port))
            self._listening.listen(BACKLOG)
        except OSError:
            self._listening.close()
            raise
        self.host, self.port = self._listening.getsockname()[:2]
        self._receive_within = receive_within
        self._on_loop = on_loop
        shared = {"max_body": max_body, "callers": Counter[str]()}
        protocol = type("Protocol", (LimitedProtocol,), shared)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                loop="uvloop",
                backlog=BACKLOG,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(max(1, receive_within)),
                timeout_graceful_shutdown=SHUTDOWN_WITHIN,
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGTERM, SIGINT, or `should_exit` is set; finish begun requests."""
        super().run(sockets or [self._listening])

    async def main_loop(self) -> None:
        """Serve, and cut slow connections meanwhile."""
        self._on_loop()
        async with self._slow_clients_cut():
            await super().main_loop()

    @contextlib.asynccontextmanager
    async def _slow_clients_cut(self) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._cut_slow_clients())
        try:
            yield
        finally:
            watch.cancel()

    async def _cut_slow_clients(self) -> None:
        while True:
            await asyncio.sleep(SLOW_CHECK_INTERVAL)
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedProtocol):
                    connection.cut_if_slow(now, self._receive_within)
