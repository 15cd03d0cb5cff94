"""A client of a broker for any number of threads: submit a picture, get a future.

    client = BrokerClient(["tcp://127.0.0.1:5555"])
    answer = client.submit(open("cat.jpg", "rb").read()).result()
    print(answer.predictions[0]["label"])
    client.close()

One I/O thread owns the sockets. Callers append requests to a deque and wake it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import zmq

from spyglass.client.session import (
    SWEEP_INTERVAL,
    Answer,
    ClientSession,
    Pending,
    RequestFailed,
    request_for,
)
from spyglass.protocol import DEFAULT_TIMEOUT, Query, Reply, Request
from spyglass.transport.waker import Waker

__all__ = ["Answer", "BrokerClient", "RequestFailed"]


class BrokerClient(ClientSession):
    """Thread-safe. Connects in the background; `close` it when done."""

    def __init__(self, brokers: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """Start the I/O thread. Of several brokers, the first that is connected is used."""
        super().__init__(brokers, clock)
        self._waker = Waker()
        self._submitted: deque[Pending] = deque()
        self._cancelled: deque[bytes] = deque()
        self._closing = False
        self._poller = zmq.Poller()
        self._poller.register(self._waker.fileno(), zmq.POLLIN)
        for connection in self._connections:
            self._poller.register(connection.socket, zmq.POLLIN)
            self._poller.register(connection.monitor, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name="broker-client", daemon=True)
        self._thread.start()

    # --- for callers, any thread --------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the I/O thread runs."""
        return self._thread.is_alive()

    def submit(
        self,
        picture: bytes,
        *,
        model: str = "",
        top_k: int = 5,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Future[Answer]:
        """Have a picture recognised.

        Args:
            picture: the file's bytes, at most 64 MiB: JPEG, PNG, WebP, GIF or BMP.
            model: the model's name; empty for the broker's default.
            top_k: predictions wanted, 1 to 1,000.
            timeout: seconds after which an answer is no longer of use.

        Returns:
            A future of an `Answer`; it raises `RequestFailed`. Cancelling it cancels the request.
        """
        return self._submit(request_for(picture, model, top_k), timeout)

    def close(self) -> None:
        """Stop; all that is pending fails. Waits for the I/O thread."""
        self._closing = True
        self._waker.wake()
        self._thread.join()
        self._waker.close()

    def _ask(self, query: Query, timeout: float) -> Reply:
        reply: Reply = self._submit(query, timeout).result()
        return reply

    def _submit(self, message: Request | Query, timeout: float) -> Future[Any]:
        now = self._clock()
        future: Future[Any] = Future()
        if self._closing or not self.alive:
            raise RuntimeError("this client is closed")
        self._submitted.append(Pending(message, future, now, now + timeout))
        future.add_done_callback(partial(self._done, message.id))
        self._waker.wake()
        if not self.alive:  # it ended since the check above, and may have missed this one
            raise RuntimeError("this client is closed")
        return future

    def _done(self, request_id: bytes, future: Future[Any]) -> None:
        """Called in the thread that settled it. Only a cancellation concerns the I/O thread."""
        if future.cancelled():
            self._cancelled.append(request_id)
            self._waker.wake()

    # --- the I/O thread -----------------------------------------------------------------------

    def _run(self) -> None:
        next_sweep = 0.0
        try:
            while not self._closing:
                busy = self._pending or self._submitted
                self._poller.poll(1 + int(1000 * SWEEP_INTERVAL) if busy else None)
                self._waker.clear()
                now = self._clock()
                self._read(now)
                while self._submitted:
                    self._begin(self._submitted.popleft(), now)
                while self._cancelled:
                    self._abandon(self._cancelled.popleft())
                if now >= next_sweep:
                    self._sweep(now)
                    next_sweep = now + SWEEP_INTERVAL
        finally:
            for pending in self._submitted:
                self._pending[pending.message.id] = pending
            self._close()
