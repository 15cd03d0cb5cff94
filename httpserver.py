"""waitress, with the two things it lacks: a deadline for a whole request, and strict framing.

Its own channel_timeout starts anew at every byte, so a body that drips pins a connection for
ever; and it answers 200 to a request with both Content-Length and Transfer-Encoding, which a
proxy in front may read differently (request smuggling, RFC 9112 section 6.1).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server

#: Seconds a client has to send a whole request, or to begin its first one.
RECEIVE_WITHIN = 20.0
#: Connections at a time.
MAX_CONNECTIONS = 1000
#: Connections that wait in the kernel's queue.
BACKLOG = 1024
#: Bytes read at a time. The server looks at all its connections between two reads, so reading a
#: photo in pieces of waitress's 8 KiB cost 3 ms of a core.
RECEIVE_BYTES = 256 * 1024
#: Bytes of a request's headers.
MAX_HEADER_BYTES = 16 * 1024

_TRANSFER_ENCODING = re.compile(rb"\r\n[ \t]*transfer-encoding[ \t]*:", re.IGNORECASE)
_CONTENT_LENGTH = re.compile(rb"\r\n[ \t]*content-length[ \t]*:", re.IGNORECASE)


class StrictParser(HTTPRequestParser):  # type: ignore[misc]
    """Refuses every request whose length two readers might understand differently."""

    def parse_header(self, head: bytes) -> None:
        """Check the header block, then let waitress read it."""
        encodings = len(_TRANSFER_ENCODING.findall(head))
        lengths = len(_CONTENT_LENGTH.findall(head))
        if encodings + lengths > 1:
            raise ParsingError("The length of the request is ambiguous")
        if b"\r\n " in head or b"\r\n\t" in head:
            raise ParsingError("Folded headers are not accepted")
        if encodings and b"HTTP/1.1" not in head.split(b"\r\n", 1)[0]:
            raise ParsingError("Transfer-Encoding needs HTTP/1.1")
        super().parse_header(head)


class DeadlineChannel(HTTPChannel):  # type: ignore[misc]
    """A connection that knows when the request being received began."""

    parser_class = StrictParser
    receiving_since: float | None = None

    def check_client_disconnected(self) -> bool:
        """Whether the client hung up, for the thread that answers it (environ
        "waitress.client_disconnected"). waitress would read on during a request to know, and look
        at 200 more connections in each round of its loop."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
        except BlockingIOError:
            return False
        except OSError:
            return True

    def received(self, data: bytes) -> bool:
        """Take in bytes, and note when their request began."""
        if self.receiving_since is None:
            self.receiving_since = time.monotonic()
        taken = bool(super().received(data))
        if self.request is None:  # complete: the next byte begins another
            self.receiving_since = None
        return taken


def make_server(
    app: Any, host: str, port: int, threads: int, max_upload: int, receive_within: float
) -> Any:
    """A waitress server for `app`, bound but not running.

    Raises:
        OSError: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    server = create_server(
        app,
        sockets=[listening],
        threads=threads,
        connection_limit=MAX_CONNECTIONS,
        asyncore_use_poll=True,  # select() ends at descriptor 1,024
        cleanup_interval=1,  # second between two looks at slow connections
        channel_timeout=int(max(1, receive_within)),
        recv_bytes=RECEIVE_BYTES,
        max_request_header_size=MAX_HEADER_BYTES,
        # The app tells a person what is too large; waitress cuts what goes beyond any sense.
        max_request_body_size=4 * max_upload,
        inbuf_overflow=4 * max_upload,  # pictures stay in memory, never in a temporary file
        ident=None,
        clear_untrusted_proxy_headers=True,
    )
    server.channel_class = DeadlineChannel
    server.maintenance = _with_deadline(server, server.maintenance, receive_within)
    return server


def _with_deadline(
    server: Any, usual: Callable[[float], None], limit: float
) -> Callable[[float], None]:
    def maintenance(now: float) -> None:
        usual(now)
        for channel in list(server.active_channels.values()):
            began = channel.receiving_since
            if began is not None and time.monotonic() - began > limit:
                channel.will_close = True

    return maintenance
