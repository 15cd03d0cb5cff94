"""Peers that cost next to nothing, so that what lies between them is measured: a client that keeps
requests outstanding, workers that answer at once, and the two things that may lie between.

All speak SPY1 with frames made once. Client and workers are the same whether a broker or
`zmq.proxy` (C, libzmq's own) carries their messages; a proxy drops what is not for a client.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import zmq

from spyglass.protocol import (
    ID_BYTES,
    VERSION,
    Ack,
    Body,
    Heartbeat,
    Part,
    Ready,
    Request,
    Result,
    Times,
    encode,
    heartbeat_interval,
)
from spyglass.runtime.open_files import raise_open_files
from spyglass.transport.socket_options import dealer
from testbed.fleet import Programs
from testbed.processes import QUIET, cpu_seconds, free_address, undisturbed

#: Different requests a client has; more than it ever has outstanding. A broker remembers 4,096
#: pictures, and real ones hardly ever come twice.
REQUESTS = 16_384
#: Requests a worker takes at a time.
CREDIT = 8
#: Seconds of one request, so that none runs out in a long queue.
BUDGET_MS = 120_000
#: Seconds a process may take to start, or an answer to come.
PATIENCE = 60.0
#: Milliseconds between two looks at which heartbeats are due: a fleet does not beat in step.
BEAT_TICK_MS = 10
#: What every worker answers.
ANSWER = b'[{"label":"tabby","index":281,"probability":0.5}]'

_SPAWN = multiprocessing.get_context("spawn")


# --- the processes ----------------------------------------------------------------------------


def run_proxy(pipe: Connection) -> None:
    """`zmq.proxy` between two ports; sends us their addresses."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket in (front, back):
        socket.set_hwm(0)
        socket.bind("tcp://127.0.0.1:*")
    pipe.send((front.last_endpoint.decode(), back.last_endpoint.decode()))  # type: ignore[union-attr]
    zmq.proxy(front, back)


def run_workers(pipe: Connection, address: str, count: int, of: int) -> None:
    """So many workers in one process, `of` a fleet, which beat, acknowledge and answer."""
    raise_open_files()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    context.set(zmq.MAX_SOCKETS, 2 * count + 100)
    replies: dict[bytes, tuple[list[Part], list[Part]]] = {}
    heartbeat = encode(Heartbeat())
    sockets, poller = [], zmq.Poller()
    for n in range(count):
        socket = dealer(context, worker=True)
        socket.connect(address)
        poller.register(socket, zmq.POLLIN)
        hello = Ready("echo", "ab" * 32, CREDIT, "here", os.getpid(), f"{os.getpid()}.{n}", CREDIT)
        socket.send_multipart(encode(hello))
        sockets.append(socket)
    pipe.send(count)
    interval = heartbeat_interval(of) / count
    next_beat, beats = time.monotonic() + interval, 0
    while True:
        for ready, _ in poller.poll(max(BEAT_TICK_MS, int(1000 * interval))):
            _answer(ready, replies)
        while time.monotonic() >= next_beat:
            sockets[beats % count].send_multipart(heartbeat)
            next_beat += interval
            beats += 1


def _answer(socket: Any, replies: dict[bytes, tuple[list[Part], list[Part]]]) -> None:
    while True:
        try:
            frames = socket.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return
        envelope = [] if frames[0].bytes == VERSION else frames[:1]  # a proxy names the sender
        if frames[len(envelope) + 1].bytes == Request.TYPE:
            id = frames[len(envelope) + 2].bytes
            if id not in replies:
                replies[id] = encode(Ack(id)), encode(Result(id, Times(0.0, 1.0), Body.of(ANSWER)))
            ack, result = replies[id]
            socket.send_multipart([*envelope, *ack])
            socket.send_multipart([*envelope, *result])


def run_client(pipe: Connection, address: str, size: int) -> None:
    """On each order (outstanding, seconds): send, count the answers, return number and time."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    socket = dealer(context)
    socket.set_hwm(0)
    socket.setsockopt(zmq.RCVTIMEO, int(1000 * PATIENCE))
    socket.connect(address)
    body = Body.of(os.urandom(size))
    # Frames are shared with libzmq and sent again and again without a copy.
    body = Body(tuple(zmq.Frame(bytes(part), copy=False) for part in body.parts), body.crc)
    requests: list[list[Part]] = []
    for n in range(REQUESTS):
        sha256 = hashlib.sha256(b"%d" % n)
        id = sha256.digest()[:ID_BYTES]
        requests.append(encode(Request(id, "", 5, BUDGET_MS, sha256.hexdigest(), body)))
    pipe.send(None)
    sent = 0

    def send() -> None:
        nonlocal sent
        socket.send_multipart(requests[sent % REQUESTS])
        sent += 1

    while True:
        outstanding, seconds = pipe.recv()
        began, before = time.monotonic(), sent
        ends = began + seconds
        for _ in range(outstanding):
            send()
        open_requests = outstanding
        while open_requests:
            frames = socket.recv_multipart()
            if frames[1] == Ack.TYPE:
                continue
            if frames[1] != Result.TYPE:
                raise RuntimeError(f"no answer but {frames[1:4]}")
            if time.monotonic() < ends:
                send()
            else:
                open_requests -= 1
        pipe.send((sent - before, time.monotonic() - began))


# --- all of them together ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took."""

    rate: float  # answers a second
    cpu_us: float  # of what lies between, per answer
    answers: int


class Setup:
    """A broker or a proxy, its workers and its client, each a process; `close` it."""

    def __init__(
        self, between: Callable[[Setup], tuple[int, str, str]], workers: int, size: int
    ) -> None:
        """
        Args:
            between: `start_broker` or `start_proxy`.
            workers: how many, in two processes.
            size: bytes of each picture.
        """
        self.programs = Programs(**undisturbed(), **QUIET)
        self._processes: list[Any] = []
        try:
            self.pid, front, back = between(self)
            halves = [half for half in (workers - workers // 2, workers // 2) if half]
            joining = [self.spawn(run_workers, back, half, workers)[1] for half in halves]
            _, self._client = self.spawn(run_client, front, size)
            for pipe in [*joining, self._client]:
                receive(pipe)
        except BaseException:
            self.close()
            raise

    def spawn(self, target: Callable[..., None], *args: Any) -> tuple[int, Connection]:
        """A function in a process of its own: its process id, and our end of the pipe to it."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=target, args=(theirs, *args), daemon=True)
        process.start()
        theirs.close()
        self._processes.append(process)
        assert process.pid is not None
        return process.pid, ours

    def run(self, outstanding: int, seconds: float) -> Run:
        """Keep so many requests outstanding for so long, and wait for the last answer."""
        before = cpu_seconds(self.pid)
        self._client.send((outstanding, seconds))
        answers, elapsed = receive(self._client, PATIENCE + seconds)
        used = cpu_seconds(self.pid) - before
        return Run(answers / elapsed, 1e6 * used / answers, answers)

    def idle(self, seconds: float) -> float:
        """Share of one core that lies between takes while nothing is asked of it."""
        before, began = cpu_seconds(self.pid), time.monotonic()
        time.sleep(seconds)
        return (cpu_seconds(self.pid) - before) / (time.monotonic() - began)

    def close(self) -> None:
        """End all of them."""
        self.programs.close()
        for process in self._processes:
            process.kill()
            process.join()


def start_broker(setup: Setup) -> tuple[int, str, str]:
    """Our broker, started as by hand: its process id and its addresses."""
    front, back = free_address(), free_address()
    limits = ["--max-waiting", str(REQUESTS), "--log-level", "error"]  # not a line for each worker
    return setup.programs.run_broker(front, back, *limits).pid, front, back


def start_proxy(setup: Setup) -> tuple[int, str, str]:
    """The same for `zmq.proxy`."""
    pid, pipe = setup.spawn(run_proxy)
    front, back = receive(pipe)
    return pid, front, back


def receive(pipe: Connection, within: float = PATIENCE) -> Any:
    if not pipe.poll(within):
        raise TimeoutError(f"a process of the bench sent nothing for {within:.0f} s")
    return pipe.recv()
