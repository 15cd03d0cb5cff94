"""An HTTP request as an ASGI server passes it on: its head, and its body while it arrives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientDisconnected(Exception):
    """The client has closed the connection: there is nobody to respond to."""


class Request:
    """One HTTP request: its head, and its body as it arrives."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self.query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        self.args: dict[str, str] = {}  # parts of its path, by their <name> in the rule
        self._receive = receive

    @property
    def wants_html(self) -> bool:
        """Whether the client is a browser, in which a person reads the response."""
        return "text/html" in self.headers.get(b"accept", "")

    async def next_part(self) -> tuple[bytes, bool]:
        """Some bytes of the body, and whether more will come."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        return message.get("body", b""), message.get("more_body", False)

    async def disconnected(self) -> None:
        """Wait until the client closes the connection; only when the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
