"""BrokerClient, connected to a fake broker; the test sets its clock."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest
import zmq

from spyglass.client.session import ACK_TIMEOUT, GRACE, Answer, RequestFailed
from spyglass.client.thread_client import BrokerClient
from spyglass.protocol import (
    SLOWEST_LINK,
    Ack,
    Direction,
    Message,
    Nack,
    Reason,
    Request,
    decode,
    encode,
)
from spyglass.transport.addresses import AddressError
from testbed.processes import eventually

#: A picture that takes the slowest link a second.
LARGE = bytes(int(SLOWEST_LINK))


class FakeBroker:
    """A fake broker, its client, and the time by the client's clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks = 0  # how often the client asked for the time
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.client = BrokerClient([f"tcp://127.0.0.1:{port}"], clock=self._look)
        self.peer = b""

    def submit(self, picture: bytes, timeout: float = 100) -> Future[Answer]:
        return self.client.submit(picture, timeout=timeout)

    def receive(self) -> Request:
        assert self.socket.poll(30_000), "nothing came"
        self.peer, *frames = self.socket.recv_multipart()
        message = decode(frames, Direction.CLIENT_TO_BROKER)
        assert isinstance(message, Request)
        return message

    def send(self, message: Message) -> None:
        self.socket.send_multipart([self.peer, *encode(message)])

    def acknowledge(self, request: Request, left: int) -> None:
        """Send ACK, and wait until the client counts so many bytes as unacknowledged."""
        self.send(Ack(request.id))
        eventually(
            lambda: self.client._connections[0].unacknowledged_bytes == left,
            "the client has received it",
        )

    def sent_again_at(self, now: float, awaited: int = 0) -> list[bytes]:
        """Ids of the requests that the client sends by itself when its clock shows this time. Waits
        for `awaited` of them, and a moment for more."""
        self.now, looks = now, self.looks
        eventually(lambda: self.looks > looks + 2, "it has looked at all its requests")
        again = [self.receive().id for _ in range(awaited)]
        while self.socket.poll(50):
            again.append(self.receive().id)
        return again

    def _look(self) -> float:
        self.looks += 1
        return self.now

    def close(self) -> None:
        self.client.close()
        self.context.destroy(linger=0)


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    broker = FakeBroker()
    try:
        yield broker
    finally:
        broker.close()


def test_a_request_is_sent_again_after_the_time_its_picture_takes_on_the_slowest_link(
    broker: FakeBroker,
) -> None:
    broker.submit(LARGE)
    first = broker.receive()
    assert broker.sent_again_at(ACK_TIMEOUT + 0.9) == []
    assert broker.sent_again_at(ACK_TIMEOUT + 1.1, awaited=1) == [first.id]


def test_a_request_sent_after_others_is_given_their_time_too(broker: FakeBroker) -> None:
    for _ in range(3):
        broker.submit(LARGE)
    first, second, third = (broker.receive() for _ in range(3))
    assert broker.sent_again_at(ACK_TIMEOUT + 0.9) == []
    broker.acknowledge(first, 2 * len(LARGE))
    assert broker.sent_again_at(ACK_TIMEOUT + 1.9) == []
    broker.acknowledge(second, len(LARGE))
    assert broker.sent_again_at(ACK_TIMEOUT + 2.9) == []
    assert broker.sent_again_at(ACK_TIMEOUT + 3.1, awaited=1) == [third.id]


def test_an_acknowledged_request_gives_the_next_one_no_more_time(broker: FakeBroker) -> None:
    broker.submit(LARGE)
    broker.send(Ack(broker.receive().id))
    broker.submit(LARGE)
    broker.send(Ack(broker.receive().id))
    eventually(
        lambda: broker.client._connections[0].unacknowledged_bytes == 0,
        "the client has received it",
    )
    broker.submit(b"small")
    small = broker.receive()
    assert broker.sent_again_at(ACK_TIMEOUT + 0.1, awaited=1) == [small.id]


@pytest.mark.parametrize("timeout", [0.3, ACK_TIMEOUT - 0.1])
def test_the_brokers_reason_is_taken_shortly_after_the_deadline_even_without_an_ack(
    broker: FakeBroker, timeout: float
) -> None:
    future = broker.submit(b"small", timeout=timeout)
    request = broker.receive()
    for early in (0.1, 0.05):
        assert broker.sent_again_at(timeout + GRACE - early) == []
    broker.send(Nack(request.id, Reason.NO_WORKERS, "No worker came."))
    with pytest.raises(RequestFailed) as failure:
        future.result(30)
    assert failure.value.reason is Reason.NO_WORKERS


def test_a_silent_broker_is_waited_for_no_longer_than_the_grace_period(broker: FakeBroker) -> None:
    future = broker.submit(b"small", timeout=0.3)
    broker.receive()
    broker.now = 0.3 + GRACE
    with pytest.raises(RequestFailed) as failure:
        future.result(30)
    assert failure.value.reason is Reason.DEADLINE


@pytest.mark.parametrize("place", ["nonsense", "tcp://127.0.0.1", "http://127.0.0.1:5555"])
def test_an_invalid_address_is_refused_with_a_sentence(place: str) -> None:
    with pytest.raises(AddressError, match=r"is not an address such as tcp://127\.0\.0\.1:5556"):
        BrokerClient([place])
