"""Requests over HTTP at a steady rate, whatever becomes of the ones before (an open loop).

One thread with an asyncio loop and one connection for each request: a client library would take
longer than the broker does, and retry behind our back.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

from chaos.ledger import Final, Record
from chaos.pictures import Pictures

#: Seconds past deadline and grace until a silent connection is given up.
PATIENCE = 2.0


class HttpLoad:
    """Sends and records. `clock` gives seconds since the load began."""

    def __init__(
        self, port: int, pictures: Pictures, timeout: float, clock: Callable[[], float]
    ) -> None:
        self.records: list[Record] = []
        self._port = port
        self._pictures = pictures
        self._timeout = timeout
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.Task[None]] = set()
        self._pace: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-load")
        self._thread.start()

    def start(self, rate: float) -> None:
        """Send `rate` requests a second from now on."""
        self._call(self._start(rate))

    def stop(self) -> None:
        """Send no more. Those on their way go on."""
        self._call(self._stop())

    def drain(self) -> None:
        """Wait until every request has its answer, or is given up."""
        self._call(self._drain())

    def saturate(self, at_a_time: int, seconds: float) -> None:
        """Keep so many requests on their way for some seconds (a closed loop)."""
        self._call(self._saturate(at_a_time, seconds))

    def close(self) -> None:
        """Give up what is open and end the thread."""
        self._call(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # --- in the loop --------------------------------------------------------------------------

    async def _start(self, rate: float) -> None:
        self._pace = asyncio.create_task(self._send_steadily(rate))

    async def _stop(self) -> None:
        if self._pace is not None:
            self._pace.cancel()
            self._pace = None

    async def _send_steadily(self, rate: float) -> None:
        began, sent = self._clock(), 0
        while True:
            await asyncio.sleep(max(0.0, began + sent / rate - self._clock()))
            sent += 1
            task = asyncio.create_task(self._one())
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _saturate(self, at_a_time: int, seconds: float) -> None:
        until = self._clock() + seconds

        async def again_and_again() -> None:
            while self._clock() < until:
                await self._one()

        await asyncio.gather(*(again_and_again() for _ in range(at_a_time)))

    async def _drain(self) -> None:
        await asyncio.gather(*self._open)

    async def _cancel(self) -> None:
        await self._stop()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _one(self) -> None:
        number = len(self.records)
        picture, wanted = self._pictures.get(number)
        now = self._clock()
        record = Record(number, "http", wanted, now, now + self._timeout)
        self.records.append(record)
        try:
            async with asyncio.timeout(self._timeout + PATIENCE):
                status, headers, body = await self._post(picture)
            record.finals.append(_final(self._clock(), status, headers, body))
        except (OSError, ValueError, asyncio.IncompleteReadError):
            return  # no answer, or none that is HTTP and JSON: the ledger calls that lost

    async def _post(self, picture: bytes) -> tuple[int, dict[str, str], bytes]:
        """POST /v1/classify: status, headers, body.

        Raises:
            OSError, asyncio.IncompleteReadError: the connection failed (TimeoutError is one).
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = (
                f"POST /v1/classify?timeout_ms={int(1000 * self._timeout)} HTTP/1.1\r\n"
                f"Host: 127.0.0.1\r\nContent-Type: image/jpeg\r\nConnection: close\r\n"
                f"Content-Length: {len(picture)}\r\n\r\n"
            )
            writer.write(head.encode() + picture)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in lines[1:])
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            return int(lines[0].split()[1]), headers, body
        except (KeyError, IndexError) as error:
            raise ValueError("not an HTTP answer") from error
        finally:
            writer.close()


def _final(now: float, status: int, headers: dict[str, str], body: bytes) -> Final:
    """What became of a request, from its HTTP answer.

    Raises:
        ValueError: it is not as the web promises.
    """
    answer = json.loads(body)
    if status != 200:
        code = str(answer.get("code"))
        return Final(
            now, code, answer["request_id"], status=status, retry_after="retry-after" in headers
        )
    if headers.get("x-request-id") != answer["request_id"]:
        raise ValueError("two request ids in one answer")
    return Final(
        now,
        "ok",
        answer["request_id"],
        label=answer["predictions"][0]["label"],
        worker=answer["worker"],
        attempts=answer["attempts"],
        status=status,
    )
