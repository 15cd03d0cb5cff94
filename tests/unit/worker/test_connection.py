"""A worker's connection to a broker that falls silent or is not one; the clock is an argument."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import zmq

from spyglass.protocol import (
    BEAT,
    BUSY_INTERVAL,
    HEARTBEAT_INTERVAL,
    ID_BYTES,
    MAX_CREDIT,
    Ack,
    Bye,
    Direction,
    Heartbeat,
    Ready,
    decode,
    encode,
    patience,
)
from spyglass.transport.socket_options import router
from spyglass.worker.connection import (
    BUSY_PATIENCE,
    MAX_REBUILD_DELAY,
    READY_INTERVAL,
    BrokerConnection,
)
from testbed.processes import eventually

HELLO = Ready("squeezenet1_1", "ab" * 32, 2, host="here", pid=1, name="w", processes=1)
PATIENCE = patience(HEARTBEAT_INTERVAL)
SILENCE = PATIENCE + 0.01


class Wire:
    """A connection to a silent broker, and that broker, in one process."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.broker = router(self.context)
        port = self.broker.bind_to_random_port("tcp://127.0.0.1")
        self.poller = zmq.Poller()
        address = f"tcp://127.0.0.1:{port}"
        self.connection = BrokerConnection(self.context, address, False, lambda: HELLO)
        self.connection.open(self.poller, 0.0)

    def connected(self, now: float) -> bytes:
        """Wait for READY; the address it came from."""
        eventually(lambda: self.connection.receive(now) or self.connection.connected, "a handshake")
        return self.broker_gets(Ready)

    def broker_gets(self, kind: type) -> bytes:
        """Wait until the broker has a message of this kind; the address it came from."""
        while True:
            assert self.broker.poll(10_000), f"never came: {kind.__name__}"
            address, *frames = self.broker.recv_multipart()
            if isinstance(decode(frames, Direction.WORKER_TO_BROKER), kind):
                return address

    def broker_sends(self, address: bytes, message: Heartbeat) -> None:
        self.broker.send_multipart([address, *encode(message)])


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    try:
        yield wire
    finally:
        wire.connection.close()
        wire.context.destroy(linger=0)


def test_a_message_that_cannot_be_written_costs_itself_only(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.connected(0.0)
    for _ in range(3):
        wire.connection.send(replace(HELLO, pid={1}))  # type: ignore[arg-type]
    wire.connection.send(Bye("the next"))
    wire.broker_gets(Bye)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.getMessage().split(";")[0] for record in errors] == ["a Ready could not be sent"]


def test_all_messages_of_the_widest_worker_arrive_when_it_sends_them_at_once(wire: Wire) -> None:
    wire.connected(0.0)
    messages = 2 * MAX_CREDIT  # an ACK and a result for each
    for _ in range(3):
        for n in range(messages):
            wire.connection.send(Ack(n.to_bytes(ID_BYTES, "big")))
        for _ in range(messages):
            wire.broker_gets(Ack)


def test_a_connection_takes_any_call_while_it_waits_to_reconnect(wire: Wire) -> None:
    first = wire.connected(0.0)
    wire.connection.tick(SILENCE, False, Heartbeat)
    assert not wire.connection.connected and wire.connection.next_due() > SILENCE
    assert wire.connection.receive(SILENCE) == []
    wire.connection.send(Heartbeat())
    wire.connection.tick(SILENCE, False, Heartbeat)
    assert wire.connection.next_due() < SILENCE + 0.2, "the first wait is short"
    wire.connection.tick(wire.connection.next_due(), False, Heartbeat)
    assert wire.connected(SILENCE + 1) != first, "a new connection"


def test_a_connection_can_be_closed_while_it_waits_to_reconnect(wire: Wire) -> None:
    wire.connected(0.0)
    wire.connection.tick(SILENCE, False, Heartbeat)
    wire.connection.close()
    assert not wire.poller.sockets
    wire.connection.close()


def test_silence_up_to_the_limit_is_tolerated(wire: Wire) -> None:
    wire.connected(0.0)
    wire.connection.tick(PATIENCE, False, Heartbeat)
    assert wire.connection.connected
    wire.broker_gets(Heartbeat)


def test_silence_is_tolerated_for_a_shorter_time_while_a_request_is_in_flight(wire: Wire) -> None:
    wire.connected(0.0)
    wire.connection.tick(0.0, True, Heartbeat)
    wire.connection.tick(BUSY_PATIENCE, True, Heartbeat)
    assert wire.connection.connected
    wire.broker_gets(Heartbeat)
    wire.connection.tick(wire.connection.next_due(), True, Heartbeat)
    assert not wire.connection.connected


def test_heartbeats_are_rare_without_a_request_and_frequent_with_one(wire: Wire) -> None:
    wire.connected(0.0)
    wire.connection.tick(0.0, False, Heartbeat)
    assert wire.connection.next_due() == HEARTBEAT_INTERVAL
    wire.connection.tick(1.0, True, Heartbeat)
    wire.broker_gets(Heartbeat)
    assert wire.connection.next_due() == 1.0 + BUSY_INTERVAL
    wire.connection.tick(1.1, False, Heartbeat)
    assert wire.connection.next_due() == 1.0 + HEARTBEAT_INTERVAL


def test_heartbeats_are_as_rare_as_the_broker_asks_and_as_much_more_silence_is_tolerated(
    wire: Wire,
) -> None:
    address = wire.connected(0.0)
    wire.broker_sends(address, Heartbeat(interval_ms=2500))
    eventually(lambda: wire.connection.receive(0.0), "the broker's message")
    wire.connection.tick(0.1, False, Heartbeat)
    assert wire.connection.next_due() == 2.5
    for now in (2.5, 5.0):
        wire.connection.tick(now, False, Heartbeat)
        wire.broker_gets(Heartbeat)
    wire.connection.tick(7.5, False, Heartbeat)
    assert not wire.connection.connected
    wire.connection.tick(wire.connection.next_due(), False, Heartbeat)
    wire.connected(8.0)
    assert wire.connection.next_due() == 8.0 + HEARTBEAT_INTERVAL, "another broker may be there now"


def test_an_answer_that_names_no_interval_means_the_shortest(wire: Wire) -> None:
    address = wire.connected(0.0)
    for answer, interval in ((Heartbeat(interval_ms=1000), 1.0), (BEAT, HEARTBEAT_INTERVAL)):
        wire.broker_sends(address, answer)
        eventually(lambda: wire.connection.receive(0.0), "the broker's message")
        assert wire.connection.next_due() == interval


def test_the_answer_to_a_heartbeat_does_not_put_off_the_next_one(wire: Wire) -> None:
    address = wire.connected(0.0)
    wire.connection.tick(0.0, True, Heartbeat)
    for now in (0.25, 0.5, 0.75):
        wire.connection.tick(now, True, Heartbeat)
        wire.broker_gets(Heartbeat)
        wire.broker_sends(address, Heartbeat())
        eventually(partial(wire.connection.receive, now + 0.2), "its answer")
        assert wire.connection.next_due() == now + BUSY_INTERVAL


def test_other_messages_both_ways_take_the_place_of_heartbeats(wire: Wire) -> None:
    address = wire.connected(0.0)
    wire.connection.tick(0.0, False, Heartbeat)
    wire.broker_sends(address, Heartbeat())
    eventually(lambda: wire.connection.receive(0.2), "the broker's message")
    wire.connection.send(Ack(bytes(16)))
    wire.connection.tick(0.2, True, Heartbeat)
    wire.broker_gets(Ack)
    assert wire.connection.next_due() == 0.2 + BUSY_INTERVAL
    assert not wire.broker.poll(100), "the ACK is a sign of life as well"


def test_however_much_is_sent_a_heartbeat_asks_for_the_next_interval(wire: Wire) -> None:
    address = wire.connected(0.0)
    for now in (0.2, 0.4, HEARTBEAT_INTERVAL):
        wire.broker_sends(address, Heartbeat())
        eventually(partial(wire.connection.receive, now), "the broker's message")
        wire.connection.send(Ack(bytes(16)))
        wire.connection.tick(now, True, Heartbeat)
        wire.broker_gets(Ack)
    wire.broker_gets(Heartbeat)


def test_a_worker_that_only_sends_and_receives_nothing_asks_by_a_heartbeat(wire: Wire) -> None:
    wire.connected(0.0)
    wire.connection.tick(0.0, False, Heartbeat)
    for tenth in range(1, 9):
        wire.connection.send(Ack(bytes(16)))
        wire.connection.tick(tenth / 10, True, Heartbeat)
    for _ in range(2):  # at 0.3 and 0.6
        wire.broker_gets(Heartbeat)


def test_a_broker_that_asks_several_times_at_once_gets_ready_once(wire: Wire) -> None:
    wire.connected(0.0)
    joined = wire.connection.epoch
    for now in (1.0, 1.0, 1.0 + READY_INTERVAL - 0.01):
        wire.connection.send_ready(now)
    assert wire.connection.epoch == joined + 1
    wire.connection.send_ready(1.0 + READY_INTERVAL)
    assert wire.connection.epoch == joined + 2


def test_waits_grow_while_a_broker_stays_silent_and_shrink_when_it_answers(wire: Wire) -> None:
    now, waits = 0.0, []
    for _ in range(8):
        wire.connected(now)
        now += SILENCE
        wire.connection.tick(now, False, Heartbeat)
        waits.append(wire.connection.next_due() - now)
        now = wire.connection.next_due()
        wire.connection.tick(now, False, Heartbeat)
    assert waits[0] <= 0.1 < waits[2] < waits[5] <= MAX_REBUILD_DELAY
    assert MAX_REBUILD_DELAY / 2 <= waits[7] <= MAX_REBUILD_DELAY
    wire.broker_sends(wire.connected(now), Heartbeat())
    eventually(lambda: wire.connection.receive(now), "the broker's message")
    now += SILENCE
    wire.connection.tick(now, False, Heartbeat)
    assert wire.connection.next_due() - now <= 0.1
