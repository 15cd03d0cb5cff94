"""The client library before a broker that answers as the test wishes; the clock is the test's."""

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


class Desk:
    """A ROUTER where a broker would be, its client, and the time by the client's clock."""

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

    def hear(self) -> Request:
        assert self.socket.poll(30_000), "nothing came"
        self.peer, *frames = self.socket.recv_multipart()
        message = decode(frames, Direction.CLIENT_TO_BROKER)
        assert isinstance(message, Request)
        return message

    def say(self, message: Message) -> None:
        self.socket.send_multipart([self.peer, *encode(message)])

    def acknowledge(self, request: Request, left: int) -> None:
        """Say ACK, and wait until the client knows that so many bytes are still on their way."""
        self.say(Ack(request.id))
        eventually(
            lambda: self.client._connections[0].unacknowledged_bytes == left,
            "the client has heard it",
        )

    def sent_again_at(self, now: float, awaited: int = 0) -> list[bytes]:
        """Ids of what the client sends by itself when its clock shows this: so many are waited for,
        and a moment for others."""
        self.now, looks = now, self.looks
        eventually(lambda: self.looks > looks + 2, "it has looked at all its requests")
        again = [self.hear().id for _ in range(awaited)]
        while self.socket.poll(50):
            again.append(self.hear().id)
        return again

    def _look(self) -> float:
        self.looks += 1
        return self.now

    def close(self) -> None:
        self.client.close()
        self.context.destroy(linger=0)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    try:
        yield desk
    finally:
        desk.close()


def test_a_picture_is_sent_again_when_its_own_time_on_the_slowest_link_is_over(desk: Desk) -> None:
    desk.submit(LARGE)
    first = desk.hear()
    assert desk.sent_again_at(ACK_TIMEOUT + 0.9) == []
    assert desk.sent_again_at(ACK_TIMEOUT + 1.1, awaited=1) == [first.id]


def test_a_picture_behind_others_is_given_their_time_too(desk: Desk) -> None:
    for _ in range(3):
        desk.submit(LARGE)
    first, second, third = (desk.hear() for _ in range(3))
    assert desk.sent_again_at(ACK_TIMEOUT + 0.9) == []
    desk.acknowledge(first, 2 * len(LARGE))
    assert desk.sent_again_at(ACK_TIMEOUT + 1.9) == []
    desk.acknowledge(second, len(LARGE))
    assert desk.sent_again_at(ACK_TIMEOUT + 2.9) == []
    assert desk.sent_again_at(ACK_TIMEOUT + 3.1, awaited=1) == [third.id]


def test_what_was_acknowledged_gives_the_next_picture_no_time(desk: Desk) -> None:
    desk.submit(LARGE)
    desk.say(Ack(desk.hear().id))
    desk.submit(LARGE)
    desk.say(Ack(desk.hear().id))
    eventually(
        lambda: desk.client._connections[0].unacknowledged_bytes == 0, "the client has heard it"
    )
    desk.submit(b"small")
    small = desk.hear()
    assert desk.sent_again_at(ACK_TIMEOUT + 0.1, awaited=1) == [small.id]


@pytest.mark.parametrize("timeout", [0.3, ACK_TIMEOUT - 0.1])
def test_the_broker_may_say_why_after_the_deadline_also_if_it_never_acknowledged(
    desk: Desk, timeout: float
) -> None:
    future = desk.submit(b"small", timeout=timeout)
    request = desk.hear()
    for early in (0.1, 0.05):
        assert desk.sent_again_at(timeout + GRACE - early) == []
    desk.say(Nack(request.id, Reason.NO_WORKERS, "No worker came."))
    with pytest.raises(RequestFailed) as failure:
        future.result(30)
    assert failure.value.reason is Reason.NO_WORKERS


def test_a_broker_that_says_nothing_is_waited_for_no_longer_than_the_grace(desk: Desk) -> None:
    future = desk.submit(b"small", timeout=0.3)
    desk.hear()
    desk.now = 0.3 + GRACE
    with pytest.raises(RequestFailed) as failure:
        future.result(30)
    assert failure.value.reason is Reason.DEADLINE


@pytest.mark.parametrize("place", ["nonsense", "tcp://127.0.0.1", "http://127.0.0.1:5555"])
def test_an_address_that_is_none_is_refused_with_a_sentence(place: str) -> None:
    with pytest.raises(AddressError, match=r"is not an address such as tcp://127\.0\.0\.1:5556"):
        BrokerClient([place])
