"""AioClient, the web's client on an event loop, connected to a fake broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import zmq

from spyglass.client.aio_client import AioClient
from spyglass.client.session import GRACE, RequestFailed
from spyglass.protocol import (
    Body,
    Cancel,
    Direction,
    Message,
    Op,
    Query,
    Reason,
    Reply,
    Request,
    Result,
    Times,
    decode,
    encode,
)
from testbed.processes import PATIENCE

ROWS = Body.of(b'[{"label": "tabby", "index": 281, "probability": 0.5}]')


class FakeBroker(threading.Thread):
    """A fake broker in a thread: answers requests and queries, and keeps the messages it got."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.received: list[Message] = []
        self.silent = False
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            if not self.socket.poll(20):
                continue
            peer, *frames = self.socket.recv_multipart()
            message = decode(frames, Direction.CLIENT_TO_BROKER)
            self.received.append(message)
            if isinstance(message, Request) and not self.silent:
                self.send(peer, Result(message.id, Times(1, 2), ROWS, worker="attic"))
            elif isinstance(message, Query):
                self.send(peer, Reply(message.id, True, "done", Body.of(b'{"workers": []}')))
        self.context.destroy(linger=0)

    def send(self, peer: bytes, message: Message) -> None:
        self.socket.send_multipart([peer, *encode(message)])


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    broker = FakeBroker()
    broker.start()
    yield broker
    broker.stopping = True
    broker.join(PATIENCE)


@pytest.fixture
def client(broker: FakeBroker) -> Iterator[AioClient]:
    client = AioClient([f"tcp://127.0.0.1:{broker.port}"])
    yield client
    client.close()


def test_many_pictures_at_a_time_are_all_answered(client: AioClient) -> None:
    # An answer that comes while another picture is sent raises no event of its own.
    async def one_after_the_other(count: int) -> set[str]:
        return {(await client.submit(b"cat %d" % n)).request_id for n in range(count)}

    async def scene() -> None:
        client.open()
        answered = await asyncio.gather(*(one_after_the_other(100) for _ in range(32)))
        assert len(set().union(*answered)) == 3200

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_a_cancelled_picture_is_cancelled_at_the_broker(
    broker: FakeBroker, client: AioClient
) -> None:
    async def scene() -> None:
        client.open()
        broker.silent = True
        future = client.submit(b"cat")
        while not broker.received:
            await asyncio.sleep(0.01)
        future.cancel()
        while not isinstance(broker.received[-1], Cancel):
            await asyncio.sleep(0.01)
        assert broker.received[-1].id == broker.received[0].id

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_a_picture_without_an_answer_fails_at_its_deadline(
    broker: FakeBroker, client: AioClient
) -> None:
    async def scene() -> None:
        client.open()
        broker.silent = True
        began = asyncio.get_running_loop().time()
        with pytest.raises(RequestFailed) as failed:
            await client.submit(b"cat", timeout=0.2)
        assert failed.value.reason is Reason.DEADLINE
        assert 0.2 <= asyncio.get_running_loop().time() - began < 0.2 + GRACE + 2

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_without_a_broker_a_request_fails_at_its_deadline_and_names_the_reason() -> None:
    client = AioClient(["tcp://127.0.0.1:1"])

    async def scene() -> None:
        client.open()
        with pytest.raises(RequestFailed, match=r"Is broker\.py running there"):
            await client.submit(b"cat", timeout=0.1)

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))
    client.close()


def test_a_thread_may_query_the_fleet_while_the_loop_runs(client: AioClient) -> None:
    async def scene() -> None:
        client.open()
        assert client.alive
        assert await asyncio.to_thread(client.status) == {"workers": []}

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))
    assert not client.alive


def test_a_query_that_is_pending_when_the_client_closes_fails(broker: FakeBroker) -> None:
    client = AioClient(["tcp://127.0.0.1:1"])
    failures: list[RequestFailed] = []

    def ask() -> None:
        try:
            client.status(timeout=60)
        except RequestFailed as error:
            failures.append(error)

    async def scene() -> threading.Thread:
        client.open()
        thread = threading.Thread(target=ask)
        thread.start()
        while not client._pending:
            await asyncio.sleep(0.01)
        return thread

    thread = asyncio.run(asyncio.wait_for(scene(), PATIENCE))
    client.close()
    thread.join(PATIENCE)
    assert [failure.reason for failure in failures] == [Reason.NO_BROKER]


def test_a_coroutine_may_query_the_fleet_too(client: AioClient) -> None:
    async def scene() -> None:
        client.open()
        assert await client.fleet() == {"workers": []}

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_a_request_that_cannot_be_encoded_fails_alone(client: AioClient) -> None:
    async def scene() -> None:
        client.open()
        with pytest.raises(RequestFailed, match="cannot be asked for"):
            await client.submit(b"cat", model="\u00e9" * 4000)
        done, why = await asyncio.to_thread(client.control, Op.ADD, "ipc://" + "\u00e9" * 900)
        assert not done and "255" in why
        assert (await client.submit(b"cat")).worker == "attic"

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_a_query_fails_once_the_loop_has_ended(client: AioClient) -> None:
    async def scene() -> None:
        client.open()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(scene())
    with pytest.raises(RequestFailed, match="ending"):
        client.status(timeout=0.1)
    loop.close()
    with pytest.raises(RequestFailed, match="ending"):
        client.status(timeout=0.1)
