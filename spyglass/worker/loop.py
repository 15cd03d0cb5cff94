"""The worker's parent process: it speaks ZeroMQ with brokers, and its children compute.

It imports neither torch nor Pillow: no computation, crash or hang of a child can stop its
heartbeats. It acknowledges requests, hands them to idle children, kills a child that takes too
long, replaces one that ended, and reports the loss to the broker at once.
"""

from __future__ import annotations

import logging
import os
import socket as network
import time
from collections.abc import Callable, Sequence

import zmq

from spyglass.protocol import (
    Body,
    Bye,
    Cancel,
    ChildState,
    Heartbeat,
    Message,
    Nack,
    Ready,
    Reason,
    Request,
    Result,
    Times,
)
from spyglass.runtime import logs
from spyglass.runtime.internal_errors import InternalErrors
from spyglass.runtime.settings import (
    EXIT_FAILED,
    EXIT_OK,
)
from spyglass.transport.waker import Waker
from spyglass.worker import request_log
from spyglass.worker.children import Child, Children, how_it_ended
from spyglass.worker.connection import BrokerConnection
from spyglass.worker.inflight import InflightRequests
from spyglass.worker.pipe import NO_ID, REFUSED, TOOK, Frame
from spyglass.worker.spawner import ChildSpawner

log = logging.getLogger(__name__)

#: Requests asked for at a time, per child: one to compute and one to begin at once afterwards.
CREDIT_PER_CHILD = 2
#: Reasons that a classifier may give for refusing a picture; any other becomes a bad image.
PICTURE_REASONS = {r.value: r for r in (Reason.TOO_MANY_PIXELS, Reason.UNSUPPORTED)}


class Worker:
    """The parent's loop. Starts nothing until `run`."""

    def __init__(
        self,
        brokers: Sequence[str],
        listen: str | None,
        name: str,
        processes: int,
        batch: int,
        job_limit: float,
        spawner: ChildSpawner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.exit_code = EXIT_OK
        self._batch = batch
        self._job_limit = job_limit
        self._clock = clock
        self._credit = CREDIT_PER_CHILD * processes * batch
        self._children = Children(spawner, processes)
        self._waker = Waker()
        self._poller = zmq.Poller()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        targets = [(listen, True)] if listen else [(broker, False) for broker in brokers]
        self._internal_errors = InternalErrors()
        self._connections = [
            BrokerConnection(self._context, a, dials, self._ready_message) for a, dials in targets
        ]
        self._inflight = InflightRequests(self._credit * len(self._connections))
        self._opened = False
        self._stops = 0
        self._detailed = logs.detailed()

    def stop(self) -> None:
        """Leave when what is being computed is done; if called twice, at once. Signals call it."""
        self._stops += 1
        self._waker.wake()

    def run(self) -> None:
        """Serve until stopped or dismissed."""
        spawner = self._children.spawner
        spawner.wake = self._waker.wake
        spawner.open(self._clock)
        self._poller.register(self._waker.fileno(), zmq.POLLIN)
        try:
            while not self._finished():
                self._turn()
        finally:
            self._send_goodbye()
            self._children.close()
            self._context.destroy()

    # --- the loop -----------------------------------------------------------------------------

    def _turn(self) -> None:
        now = self._clock()
        self._children.keep_up(now)
        due = min([self._children.next_due(), *(each.next_due() for each in self._connections)])
        wait = 1000 * (due - now) if due != float("inf") else 60_000
        ready = dict(self._poller.poll(max(0, int(wait) + 1)))
        if self._waker.fileno() in ready:
            self._waker.clear()
        for new in self._children.collect():
            self._poller.register(new.connection.fileno(), zmq.POLLIN)
        for c in list(self._children.alive):
            if c.connection.fileno() in ready:
                self._serve_pipe(c)
        if self._opened:
            for connection in self._connections:
                self._listen(connection)
        now = self._clock()
        for late in self._children.overdue(now):
            log.warning("child %d took longer than its limit; killed", late.pid)
        self._feed(now)
        self._inflight.acknowledge()
        if self._opened:
            for connection in self._connections:
                connection.tick(now, self._inflight.holds(connection), self._heartbeat)

    def _finished(self) -> bool:
        if self.exit_code != EXIT_OK or self._stops > 1:
            return True
        if self._stops and not self._inflight.leaving:
            self._start_leaving()
        return self._inflight.leaving and not self._inflight.running and not self._inflight.waiting

    def _start_leaving(self) -> None:
        """Take nothing new, hand back what has not begun, finish what has."""
        running, waiting = len(self._inflight.running), len(self._inflight.waiting)
        log.info("leaving: finishing %d, handing back %d", running, waiting)
        for connection in self._connections:
            awaiting_reply = self._inflight.awaiting_reply(connection)
            if self._opened and awaiting_reply:
                connection.send(Bye("stopped by its operator", awaiting_reply))
        self._inflight.leave()

    def _send_goodbye(self) -> None:
        if not self._opened:
            return
        for connection in self._connections:
            connection.send(Bye("stopped by its operator"))
            connection.close()

    # --- brokers ------------------------------------------------------------------------------

    def _ready_message(self) -> Ready | None:
        model = next(iter(self._children.ready), None)
        if model is None or self._inflight.leaving:
            return None
        return Ready(
            model=model.model,
            digest=model.digest,
            credit=self._credit,
            host=network.gethostname(),
            pid=os.getpid(),
            name=self.name,
            processes=self._children.wanted,
        )

    def _heartbeat(self) -> Heartbeat:
        now = self._clock()
        return Heartbeat(
            tuple(
                ChildState(c.pid, c.state, int(1000 * (now - (c.busy_since or c.started))))
                for c in self._children.alive
                if c.state != "idle"
            )
        )

    def _listen(self, connection: BrokerConnection) -> None:
        for message in connection.receive(self._clock()):
            try:
                self._handle(connection, message)
            except zmq.ZMQError:
                raise  # our own socket failed, not a message
            except Exception as error:
                self._internal_errors.add("a message could not be handled", error)

    def _handle(self, connection: BrokerConnection, message: Message) -> None:
        match message:
            case Request():
                self._inflight.take(connection, message, self._clock())
            case Cancel():
                self._inflight.cancel(connection, message.id)
            case Bye(again=True):
                log.info(
                    "the broker at %s asks to start over: %s", connection.address, message.reason
                )
                connection.send_ready(self._clock())
            case Bye():
                log.info("dismissed by the broker at %s: %s", connection.address, message.reason)
                self._stops = max(1, self._stops)
            case Nack(id=b""):
                log.error(
                    "the broker at %s refuses this worker: %s", connection.address, message.detail
                )
                self.exit_code = EXIT_FAILED
            case Nack() | Heartbeat():
                pass  # the connection has noted that the broker lives

    # --- children -----------------------------------------------------------------------------

    def _feed(self, now: float) -> None:
        """Give waiting requests to children, a batch each."""
        while self._inflight.waiting and (free := self._children.next_free(now)) is not None:
            frames = self._inflight.next_batch(self._batch, now)
            if frames:
                if self._detailed:
                    for frame in frames:
                        request = self._inflight.running[frame.id].request
                        request_log.sent_to_child(request.id, free.pid)
                free.give(frames, now, self._job_limit * len(frames))
                if free.unsent:
                    self._poll_for(free)

    def _poll_for(self, c: Child) -> None:
        events = zmq.POLLIN | (zmq.POLLOUT if c.unsent else 0)
        self._poller.register(c.connection.fileno(), events)

    def _serve_pipe(self, c: Child) -> None:
        """Write what is left to send, and deal with what has arrived."""
        if c.unsent:
            c.push()
            if not c.unsent:
                self._poll_for(c)
        frames = c.read()
        if frames is None:
            self._reap(c)
            return
        for frame in frames:
            if frame.id == NO_ID:
                self._reported(c, frame)
            elif frame.id in c.working_on:
                self._child_answered(c, frame)

    def _reported(self, c: Child, frame: Frame) -> None:
        report = frame.json()
        if c.ready:
            log.error("child %d fails: %s", c.pid, report["detail"])
            return
        if frame.number == REFUSED:
            log.error("cannot serve: %s", report["detail"])
            self.exit_code = EXIT_FAILED
            return
        c.model, c.digest, c.ready = report["model"], report["digest"], True
        slower = f"; slower than it could be: {report['unfused']}" if report["unfused"] else ""
        took = self._clock() - c.started
        log.info("child %d ready with %s, %.2f s%s", c.pid, c.model, took, slower)
        if not self._opened and len(self._children.ready) == self._children.wanted:
            self._opened = True
            for connection in self._connections:
                connection.open(self._poller, self._clock())

    def _child_answered(self, c: Child, frame: Frame) -> None:
        c.answered(frame.id, self._clock())
        entry = self._inflight.running.pop(frame.id)
        request_id = entry.request.id
        if frame.number == REFUSED:
            refusal = frame.json()
            reason = PICTURE_REASONS.get(refusal["code"], Reason.BAD_IMAGE)
            self._inflight.answer(entry, Nack(request_id, reason, refusal["detail"]))
        else:
            decode, infer = TOOK.unpack_from(frame.payload)
            in_worker = round(1000 * (self._clock() - entry.arrived), 3)
            times = Times(decode / 1000, infer / 1000, in_worker)
            body = Body.of(frame.payload[TOOK.size :])
            self._inflight.answer(entry, Result(request_id, times, body))

    def _reap(self, dead: Child) -> None:
        """Report the loss to brokers first, then find out its cause and replace the child."""
        self._poller.unregister(dead.connection.fileno())
        reason = Reason.HUNG if dead.hung else Reason.CRASH
        for token in dead.working_on:
            entry = self._inflight.running.pop(token)
            what = "the child process died on it"
            self._inflight.answer(entry, Nack(entry.request.id, reason, what, len(dead.working_on)))
        self._inflight.put_back(dead.ahead)
        self._children.reap(dead, self._clock())
        log.warning("child %d %s, %d lost", dead.pid, how_it_ended(dead), len(dead.working_on))
