"""The web's client on an event loop, before a ROUTER that answers as the test wishes."""

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


class Desk(threading.Thread):
    """A broker in a thread: answers pictures and questions, and keeps what it heard."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.heard: list[Message] = []
        self.silent = False
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            if not self.socket.poll(20):
                continue
            peer, *frames = self.socket.recv_multipart()
            message = decode(frames, Direction.CLIENT_TO_BROKER)
            self.heard.append(message)
            if isinstance(message, Request) and not self.silent:
                self.say(peer, Result(message.id, Times(1, 2), ROWS, worker="attic"))
            elif isinstance(message, Query):
                self.say(peer, Reply(message.id, True, "done", Body.of(b'{"workers": []}')))
        self.context.destroy(linger=0)

    def say(self, peer: bytes, message: Message) -> None:
        self.socket.send_multipart([peer, *encode(message)])


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.start()
    yield desk
    desk.stopping = True
    desk.join(PATIENCE)


@pytest.fixture
def client(desk: Desk) -> Iterator[AioClient]:
    client = AioClient([f"tcp://127.0.0.1:{desk.port}"])
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


def test_a_cancelled_picture_is_cancelled_at_the_broker(desk: Desk, client: AioClient) -> None:
    async def scene() -> None:
        client.open()
        desk.silent = True
        future = client.submit(b"cat")
        while not desk.heard:
            await asyncio.sleep(0.01)
        future.cancel()
        while not isinstance(desk.heard[-1], Cancel):
            await asyncio.sleep(0.01)
        assert desk.heard[-1].id == desk.heard[0].id

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_a_picture_without_an_answer_fails_at_its_deadline(desk: Desk, client: AioClient) -> None:
    async def scene() -> None:
        client.open()
        desk.silent = True
        began = asyncio.get_running_loop().time()
        with pytest.raises(RequestFailed) as failed:
            await client.submit(b"cat", timeout=0.2)
        assert failed.value.reason is Reason.DEADLINE
        assert 0.2 <= asyncio.get_running_loop().time() - began < 0.2 + GRACE + 2

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_without_a_broker_it_says_so_at_the_deadline() -> None:
    client = AioClient(["tcp://127.0.0.1:1"])

    async def scene() -> None:
        client.open()
        with pytest.raises(RequestFailed, match=r"Is broker\.py running there"):
            await client.submit(b"cat", timeout=0.1)

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))
    client.close()


def test_a_thread_may_ask_about_the_fleet_while_the_loop_runs(client: AioClient) -> None:
    async def scene() -> None:
        client.open()
        assert client.alive
        assert await asyncio.to_thread(client.status) == {"workers": []}

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))
    assert not client.alive


def test_a_question_that_is_open_when_the_client_closes_fails(desk: Desk) -> None:
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


def test_a_coroutine_may_ask_about_the_fleet_too(client: AioClient) -> None:
    async def scene() -> None:
        client.open()
        assert await client.fleet() == {"workers": []}

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_what_no_message_can_say_fails_alone(client: AioClient) -> None:
    async def scene() -> None:
        client.open()
        with pytest.raises(RequestFailed, match="cannot be asked for"):
            await client.submit(b"cat", model="\u00e9" * 4000)
        done, why = await asyncio.to_thread(client.control, Op.ADD, "ipc://" + "\u00e9" * 900)
        assert not done and "255" in why
        assert (await client.submit(b"cat")).worker == "attic"

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_a_question_does_not_outlive_the_loop(client: AioClient) -> None:
    async def scene() -> None:
        client.open()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(scene())
    with pytest.raises(RequestFailed, match="ending"):
        client.status(timeout=0.1)
    loop.close()
    with pytest.raises(RequestFailed, match="ending"):
        client.status(timeout=0.1)
