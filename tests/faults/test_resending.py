"""Clients that lose their connection and send again what they wait for, while what they sent over
the old one is still unread."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from dispatching import ready

from spyglass.broker.loop import Broker
from spyglass.dispatcher.policy import Policy
from spyglass.protocol import ID_BYTES, Ack, Cancel, Direction, Op, Query, Reply, Result
from testbed.fleet import Fleet
from testbed.peers import FakeWorker, Peer, picture_request
from testbed.processes import eventually

TO_CLIENT = Direction.BROKER_TO_CLIENT
#: Pictures under way when the broker is stopped: all fit into one read of its I/O thread.
PICTURES = 40
#: Seconds a broker is stopped that the machine pages out: clients connect anew several times.
STOPPED = 3.0


class Idle:
    """A broker in this process whose loop reads nothing until it is told to."""

    def __init__(self) -> None:
        self.broker = Broker("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", Policy(), 1024)
        self.broker.open()
        self._loop = threading.Thread(target=self.broker.run)

    @property
    def connections(self) -> int:
        self.broker._front_peers.read_monitor()
        return self.broker._front_peers.connections

    def start(self) -> None:
        self._loop.start()

    def close(self) -> None:
        self.broker.stop()
        if self._loop.ident is None:
            self._loop.start()
        self._loop.join()


@pytest.fixture
def idle() -> Iterator[Idle]:
    idle = Idle()
    yield idle
    idle.close()


def heard(frontend: str) -> Peer:
    """A client that the broker has heard."""
    peer = Peer(frontend)
    ask(peer)
    return peer


def ask(peer: Peer) -> None:
    """Wait until the broker has read all that this client sent."""
    peer.send(Query(os.urandom(ID_BYTES), Op.STATUS))
    assert isinstance(peer.receive(TO_CLIENT), Reply)


def test_the_youngest_connection_gets_the_answer_whatever_is_read_last(fleet: Fleet) -> None:
    worker = FakeWorker(fleet.backend)
    old = heard(fleet.frontend)
    new = heard(fleet.frontend)
    request = picture_request()
    try:
        for sender in (new, old):
            sender.send(request)
            assert sender.receive(TO_CLIENT) == Ack(request.id)
        old.send(Cancel(request.id))
        ask(old)
        old.close()
        worker.join("attic")
        worker.serve(worker.request())
        assert isinstance(new.receive(TO_CLIENT), Result)
        assert fleet.status()["counters"]["cancelled"] == 0
    finally:
        for peer in (worker, new):
            peer.close()


def test_a_disconnected_client_is_noticed_although_its_descriptor_was_reused(
    idle: Idle,
) -> None:
    gone = Peer(idle.broker.frontend)
    gone.send(picture_request(budget_ms=3_600_000))
    eventually(lambda: idle.broker._front.poll(0), "its request has come")
    gone.close()
    eventually(lambda: not idle.connections, "its connection has ended")
    stays = Peer(idle.broker.frontend)
    eventually(lambda: idle.connections, "another one stands")
    idle.start()
    try:
        ask(stays)
        counters = idle.broker.dispatcher.journal.counters
        eventually(lambda: counters.cancelled, "nobody waits for its request")
        assert counters.accepted == 1
    finally:
        stays.close()


def test_the_same_query_again_gets_the_same_reply_and_does_nothing(idle: Idle) -> None:
    idle.broker.dispatcher.worker_ready(b"w1", ready(), time.monotonic())
    worker_id = idle.broker.dispatcher.workers[b"w1"].id
    remove = Query(os.urandom(ID_BYTES), Op.REMOVE, worker_id)
    reply = idle.broker.control.reply(remove)
    assert reply.ok
    assert idle.broker.control.reply(remove) == reply
    anew = Query(os.urandom(ID_BYTES), Op.REMOVE, worker_id)
    assert not idle.broker.control.reply(anew).ok


def stop_broker(fleet: Fleet, until: Callable[[], object], what: str) -> None:
    """Stop it with pictures on their way, let it go on when that has come true, and wait for every
    answer."""
    assert fleet.broker is not None
    fleet.client.submit(b"hello").result(30)
    fleet.broker.send_signal(signal.SIGSTOP)
    futures = [fleet.client.submit(b"sleep:0.01 %d" % n, timeout=15) for n in range(PICTURES)]
    eventually(until, what)
    fleet.broker.send_signal(signal.SIGCONT)
    assert len({future.result(30).request_id for future in futures}) == PICTURES


def test_a_broker_that_was_stopped_until_its_client_came_back_loses_nothing(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    port = int(fleet.frontend.rpartition(":")[2])

    def connections() -> set[int]:
        """Our ports of those to the broker that Linux has made, though nobody accepted them."""
        mine = psutil.Process().net_connections("tcp")
        return {c.laddr.port for c in mine if c.status == "ESTABLISHED" and c.raddr.port == port}

    before = connections()
    stop_broker(fleet, lambda: connections() - before, "the client has a new connection")


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(5))
def test_a_broker_that_was_stopped_for_3_s_loses_nothing(fleet: Fleet, turn: int) -> None:
    fleet.start_worker("attic")
    until = time.monotonic() + STOPPED
    stop_broker(fleet, lambda: time.monotonic() > until, "3 s are over")
