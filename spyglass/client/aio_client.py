"""A client of a broker on an asyncio event loop, for the web.

Unlike with a BrokerClient, a picture passes through no other thread: that saves two wake-ups and a
future.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from spyglass.client.session import (
    QUERY_TIMEOUT,
    SWEEP_INTERVAL,
    Answer,
    ClientSession,
    Pending,
    RequestFailed,
    request_for,
)
from spyglass.protocol import DEFAULT_TIMEOUT, ID_BYTES, Op, Query, Reason, Reply, Request
from spyglass.transport.framing import message_waiting

#: Seconds after its timeout when a thread stops waiting for a reply: the loop must have ended.
LOOP_ENDED_AFTER = 1.0


class AioClient(ClientSession):
    """For one event loop, and for other threads that query the fleet.

    Connects in the background when it is made; `open` it on the loop, `close` it when that ends.
    """

    def __init__(self, brokers: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(brokers, clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeping = False

    @property
    def alive(self) -> bool:
        """Whether its loop runs."""
        return self._loop is not None and self._loop.is_running()

    def open(self) -> None:
        """Process what comes from brokers on the running loop."""
        self._loop = asyncio.get_running_loop()
        for connection in self._connections:
            for socket in (connection.socket, connection.monitor):
                self._loop.add_reader(socket.FD, self._turn)
        self._turn()

    def submit(
        self,
        picture: bytes,
        *,
        model: str = "",
        top_k: int = 5,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> asyncio.Future[Answer]:
        """Have a picture recognised. On the loop only; otherwise like `BrokerClient.submit`."""
        return self._submit(request_for(picture, model, top_k), timeout)

    def close(self) -> None:
        """Disconnect. The loop has ended, with the coroutines that waited there; the queries of
        other threads fail."""
        queries = {id: p for id, p in self._pending.items() if isinstance(p.message, Query)}
        self._pending = queries
        self._close()

    def _ask(self, query: Query, timeout: float) -> Reply:
        if self._loop is None:
            raise RuntimeError("this client is not open")
        now = self._clock()
        future: Future[Any] = Future()
        pending = Pending(query, future, now, now + timeout)
        try:
            self._loop.call_soon_threadsafe(self._start, pending)
        except RuntimeError:  # the loop is closed
            raise RequestFailed(Reason.NO_BROKER, "This program is ending.") from None
        try:
            reply: Reply = future.result(timeout + LOOP_ENDED_AFTER)
        except TimeoutError:
            raise RequestFailed(Reason.NO_BROKER, "This program is ending.") from None
        return reply

    async def fleet(self) -> dict[str, Any]:
        """Like `status`, but a coroutine. On the loop only.

        Raises:
            RequestFailed: no broker answered in time.
        """
        query = Query(os.urandom(ID_BYTES), Op.STATUS)
        reply: Reply = await self._submit(query, QUERY_TIMEOUT)
        value: dict[str, Any] = json.loads(reply.body.join())
        return value

    def _submit(self, message: Request | Query, timeout: float) -> asyncio.Future[Any]:
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        now = self._clock()
        future.add_done_callback(partial(self._done, message.id))
        self._start(Pending(message, future, now, now + timeout))
        return future

    def _start(self, pending: Pending) -> None:
        self._begin(pending, self._clock())
        self._read_soon_if_waiting()
        if not self._sweeping:
            self._plan_sweep()

    def _done(self, request_id: bytes, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._abandon(request_id)
            self._read_soon_if_waiting()

    def _turn(self) -> None:
        self._read(self._clock())
        self._read_soon_if_waiting()

    def _read_soon_if_waiting(self) -> None:
        """A ZeroMQ socket's descriptor is readable only when something came since the socket was
        last used, and sending uses it too (zmq_getsockopt(3), ZMQ_FD): so check after each use."""
        assert self._loop is not None
        if any([message_waiting(c.socket) for c in self._connections]):
            self._loop.call_soon(self._turn)

    def _plan_sweep(self) -> None:
        assert self._loop is not None
        self._sweeping = bool(self._pending)
        if self._sweeping:
            self._loop.call_later(SWEEP_INTERVAL, self._on_sweep)

    def _on_sweep(self) -> None:
        try:
            self._sweep(self._clock())
            self._read_soon_if_waiting()
        finally:
            self._plan_sweep()
