"""One connection of the HTTP server without a network: bytes in, what ran and what was sent out."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from spyglass.web.http.server import LimitedProtocol

#: Bytes of the largest body on the wire of a test.
MAX_BODY = 100_000
#: Turns of the event loop in which an application that never waits has long answered.
TURNS = 20


class Wire(asyncio.Transport):
    """The server's end of a connection. Once closed it delivers nothing, as uvloop's does."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.late = b""  # written when it was closed already
        self.closed = False
        self.protocol: LimitedProtocol | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def write(self, data: Any) -> None:
        if self.closed:
            self.late += data
        else:
            self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            assert self.protocol is not None
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@dataclass
class Talk:
    """What became of the bytes.

    Attributes:
        ran: method, path and body of every request that reached the application, in order; the body
            is None where its sender was gone before its end.
        sent: all that the server sent.
        closed: whether the server closed the connection.
    """

    ran: list[tuple[str, str, bytes | None]] = field(default_factory=list)
    sent: bytes = b""
    closed: bool = False

    @property
    def answers(self) -> list[int]:
        """The status of each answer."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", self.sent)]


async def converse(parts: Sequence[bytes], hang_up: bool = False) -> Talk:
    """Feed these parts to a connection, one after the other, and hang up after them if so asked.

    The application answers with the length of a request's body; under /early before it has read
    any of it, under /never not at all until the client is gone.
    """
    talk = Talk()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        body, more = b"", path != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                talk.ran.append((method, path, None))
                return
            body += message["body"]
            more = message["more_body"] or path == "/never"
        talk.ran.append((method, path, body))
        body_sent = b"%d bytes\n" % len(body)
        length = (b"content-length", b"%d" % len(body_sent))
        status = 413 if path == "/early" else 200
        await send({"type": "http.response.start", "status": status, "headers": [length]})
        await send({"type": "http.response.body", "body": body_sent})

    shared = {"max_body": MAX_BODY, "callers": Counter[str]()}
    protocol_class = type("Protocol", (LimitedProtocol,), shared)
    config = uvicorn.Config(app, http=protocol_class, ws="none", lifespan="off", log_config=None)
    config.load()
    wire = Wire()
    protocol = protocol_class(config, ServerState(), {})
    wire.protocol = protocol
    protocol.connection_made(wire)
    for part in parts:
        if wire.closed:
            break
        protocol.data_received(part)
        await rest()
    if hang_up and not wire.closed and not protocol.eof_received():
        wire.close()
    await rest()
    talk.sent, talk.closed = wire.sent, wire.closed
    wire.close()
    await rest()
    assert not protocol.tasks, "a request is still in hand"
    assert not wire.late, "an answer was written when nobody could take it"
    protocol._unset_keepalive_if_required()
    return talk


async def rest() -> None:
    """Let everything run that waits for nothing."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


def talks(whole: bytes, hang_up: bool = False) -> list[tuple[str, Talk]]:
    """What becomes of these bytes in one piece, byte by byte, and cut in two at every place."""
    ways = {"in one": [whole], "byte by byte": [bytes([byte]) for byte in whole]}
    ways |= {f"cut at {at}": [whole[:at], whole[at:]] for at in range(1, len(whole))}

    async def all_of_them() -> list[tuple[str, Talk]]:
        return [(way, await converse(parts, hang_up)) for way, parts in ways.items()]

    return asyncio.run(all_of_them())
