"""A TCP relay that misbehaves on command, as a process of its own.

    with Relay("127.0.0.1:5556") as relay:
        worker(relay.address)
        relay.set("stall")  # a silent partition: both ends keep their connection, nothing passes

Modes: `pass`; `stall`, `oneway_up`, `oneway_down` (that way is held back); `reset` and `close`
(all connections end by RST or FIN, then `pass`); `corrupt N` (one bit in every N bytes upstream is
flipped); `truncate N` (cut after N bytes upstream); `slow BYTES_PER_S`; `delay SECONDS` (each way,
give or take a quarter, without losing speed); `refuse` (new connections are reset). "Upstream" is
towards the target.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

#: Bytes read at a time: small enough that `slow` is even, large enough to cost little.
CHUNK = 16 * 1024
#: Chunks read ahead of what is passed on: 4 MiB, what 200 ms hold at 20 MB/s.
MAX_ON_THE_WAY = 256
#: Seconds between two looks at a mode that holds bytes back.
HELD = 0.005
#: Makes close() send RST: linger on, for no time.
AT_ONCE = struct.pack("ii", 1, 0)


class Relay:
    """The relay's process, from outside."""

    def __init__(self, target: str) -> None:
        """Start relaying to `HOST:PORT` from a free port of this machine."""
        command = [sys.executable, str(Path(__file__).resolve()), target]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.port = int(self._answer())

    @property
    def address(self) -> str:
        """What to connect to instead of the target."""
        return f"tcp://127.0.0.1:{self.port}"

    def set(self, mode: str) -> None:
        """Change the mode; returns when it is in force."""
        assert self._process.stdin is not None
        self._process.stdin.write(mode + "\n")
        if (answer := self._answer()) != "ok":
            raise ValueError(f"the relay does not know the mode {mode!r}: {answer}")

    def close(self) -> None:
        """End it, and with it all connections."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class _Serving:
    """The relay's process, from inside."""

    MODES = frozenset(
        [
            "pass",
            "stall",
            "oneway_up",
            "oneway_down",
            "corrupt",
            "truncate",
            "slow",
            "delay",
            "refuse",
        ]
    )

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._mode, self._number = "pass", 0.0
        self._writers: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        """Serve until standard input ends."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(self._set(line.split()), flush=True)

    def _set(self, order: list[str]) -> str:
        mode, *rest = order or [""]
        if mode in ("reset", "close"):
            self._mode = "pass"
            for writer in list(self._writers):
                _end(writer, reset=mode == "reset")
            return "ok"
        if mode not in self.MODES:
            return "unknown"
        self._mode, self._number = mode, float(rest[0]) if rest else 0.0
        return "ok"

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "refuse":
            _end(writer, reset=True)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _end(writer, reset=True)
            return
        ends = {writer, up_writer}
        self._writers |= ends
        upward = asyncio.create_task(self._pump(reader, up_writer, up=True))
        downward = asyncio.create_task(self._pump(up_reader, writer, up=False))
        await asyncio.wait((upward, downward), return_when=asyncio.FIRST_COMPLETED)
        upward.cancel()
        downward.cancel()
        self._writers -= ends
        for end in ends:
            _end(end)

    async def _pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, up: bool) -> None:
        passed = 0
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_ON_THE_WAY)
        reading = asyncio.create_task(_read(source, arrived))
        with suppress(OSError), ExitStack() as stack:
            stack.callback(reading.cancel)  # also when this pump is cancelled itself
            while (chunk := await arrived.get())[1]:
                since, data = chunk
                if self._mode == "delay":
                    late = since + self._number * random.uniform(0.75, 1.25) - loop.time()
                    await asyncio.sleep(max(0.0, late))
                while self._mode in ("stall", "oneway_up" if up else "oneway_down"):
                    await asyncio.sleep(HELD)
                if self._mode == "slow" and self._number:
                    await asyncio.sleep(len(data) / self._number)
                if up and self._mode == "corrupt" and self._number:
                    data = _flipped(data, passed, int(self._number))
                if up and self._mode == "truncate" and passed + len(data) > self._number:
                    to.write(data[: max(0, int(self._number) - passed)])
                    return
                passed += len(data)
                to.write(data)
                await to.drain()


async def _read(source: asyncio.StreamReader, arrived: asyncio.Queue[tuple[float, bytes]]) -> None:
    """Note when each chunk came; an empty one is the end."""
    loop = asyncio.get_running_loop()
    data = b"begun"
    while data:
        try:
            data = await source.read(CHUNK)
        except OSError:
            data = b""
        await arrived.put((loop.time(), data))


def _flipped(data: bytes, before: int, every: int) -> bytes:
    """One bit flipped in each `every` bytes of a stream of which `before` bytes have passed."""
    damaged = bytearray(data)
    for at in range((-before - 1) % every, len(data), every):
        damaged[at] ^= 1
    return bytes(damaged)


def _end(writer: asyncio.StreamWriter, reset: bool = False) -> None:
    if reset:
        raw = writer.get_extra_info("socket")
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        writer.transport.abort()
    else:
        writer.close()


if __name__ == "__main__":
    _host, _, _port = sys.argv[1].rpartition(":")
    asyncio.run(_Serving(_host, int(_port)).run())
