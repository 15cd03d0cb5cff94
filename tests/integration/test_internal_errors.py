"""An unexpected exception at one message costs that message only: in broker, worker and client."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest
from broker_thread import BrokerThread
from sample_messages import sealed

from spyglass.client.thread_client import BrokerClient
from spyglass.keys.keyring import Role
from spyglass.protocol import (
    BEAT,
    Ack,
    Body,
    Cancel,
    Direction,
    Message,
    Nack,
    ProtocolError,
    Reason,
    Result,
    Times,
)
from spyglass.runtime.internal_errors import InternalErrors
from spyglass.worker.loop import Worker
from spyglass.worker.spawner import ChildSpawner
from testbed.fleet import Fleet
from testbed.peers import PATIENCE_MS, FakeWorker, Peer, picture_request
from testbed.processes import eventually

EMOJI = "\U0001f600"


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def test_each_error_is_counted_and_logged_once_for_each_place_in_the_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    internal_errors = InternalErrors()

    def fail(how: type[Exception]) -> None:
        raise how("no such thing")

    for how in (KeyError, KeyError, TypeError):
        try:
            fail(how)
        except Exception as error:
            internal_errors.add("nothing was done", error)
    assert internal_errors.count == 3
    assert len(errors(caplog)) == 2
    assert "in fail" in caplog.text


# --- the broker -------------------------------------------------------------------------------


def test_the_longest_reason_that_a_worker_may_give_reaches_the_client(fleet: Fleet) -> None:
    with closing(FakeWorker(fleet.backend)) as worker, closing(Peer(fleet.frontend)) as client:
        worker.join("attic", credit=8)
        for text in (EMOJI * 500, '"\\' * 250):
            client.send(picture_request())
            held = worker.request()
            header = json.dumps({"reason": "bad-image", "detail": text}, ensure_ascii=False)
            worker.socket.send_multipart(sealed(b"N", held.id, header.encode()))
            answer = Nack(held.id, Reason.BAD_IMAGE, text)
            assert client.receive(Direction.BROKER_TO_CLIENT) == answer


def test_a_message_that_the_broker_fails_to_process_disturbs_nobody_else(
    broker_thread: BrokerThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = broker_thread.worker(broker_thread.client_keys(Role.WORKER))
    worker.join("attic")
    asker = broker_thread.front(broker_thread.client_keys(Role.FRONT))
    counters = broker_thread.broker.dispatcher.journal.counters

    def fail(*_: object) -> Any:
        raise KeyError("unexpected")

    monkeypatch.setattr(broker_thread.broker.dispatcher, "request_cancelled", fail)
    for _ in range(3):
        asker.send(Cancel(bytes(16)))
    eventually(lambda: counters.internal_errors == 3, "they are counted")
    asker.send(picture_request())
    worker.serve(worker.request())
    assert isinstance(asker.receive(Direction.BROKER_TO_CLIENT), Result)
    assert len(errors(caplog)) == 1


def test_a_message_that_the_broker_cannot_write_is_not_sent_and_the_next_one_is(
    broker_thread: BrokerThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = broker_thread.worker(broker_thread.client_keys(Role.WORKER))
    worker.join("attic")

    def fail(message: Message) -> Any:
        raise ProtocolError("it is too long")

    monkeypatch.setattr("spyglass.broker.loop.encode", fail)
    worker.send(BEAT)
    counters = broker_thread.broker.dispatcher.journal.counters
    eventually(lambda: counters.internal_errors == 1, "the answer to it cannot be written")
    monkeypatch.undo()
    worker.send(BEAT)
    assert worker.receive(Direction.BROKER_TO_WORKER) == BEAT
    assert len(errors(caplog)) == 1


# --- worker and client ------------------------------------------------------------------------


class Line:
    """A connection over which a broker has sent two requests."""

    def receive(self, now: float) -> list[Any]:
        return [picture_request(b"first"), picture_request(b"second")]


def test_a_message_that_a_worker_fails_to_process_costs_itself_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(["tcp://127.0.0.1:1"], None, "attic", 1, 1, 5.0, ChildSpawner("none", {}))
    taken: list[bytes] = []

    def take(connection: Line, request: Any, now: float) -> None:
        if request.body.join() == b"first":
            raise KeyError("unexpected")
        taken.append(request.body.join())

    monkeypatch.setattr(worker._inflight, "take", take)
    try:
        worker._listen(Line())  # type: ignore[arg-type]
    finally:
        worker._context.destroy()
        worker._waker.close()
    assert taken == [b"second"]
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b"[1" + b"0" * 5000 + b"]"])
def test_an_answer_that_a_client_cannot_read_fails_alone(fleet: Fleet, body: bytes) -> None:
    with closing(FakeWorker(fleet.backend)) as worker:
        worker.join("attic")
        future = fleet.client.submit(b"picture", timeout=30)
        held = worker.request()
        worker.send(Ack(held.id))
        worker.send(Result(held.id, Times(1, 1), Body.of(body)))
        with pytest.raises(Exception, match="not JSON"):
            future.result(PATIENCE_MS / 1000)
        again = fleet.client.submit(b"picture", timeout=30)
        worker.serve(worker.request())
        assert again.result(30).worker == "attic"


@pytest.mark.parametrize(
    "odd", [{"model": None}, {"top_k": 10**5000}, {"timeout": float("inf")}, {"timeout": 1e300}]
)
def test_odd_arguments_of_a_request_do_not_end_the_client(
    fleet: Fleet, odd: dict[str, Any]
) -> None:
    with closing(FakeWorker(fleet.backend)) as worker:
        worker.join("attic", credit=2)
        client: BrokerClient = fleet.client
        future = client.submit(b"picture", **odd)
        if "timeout" in odd:
            worker.serve(worker.request())
            assert future.result(30).worker == "attic"
        else:
            with pytest.raises(Exception, match="cannot be asked for"):
                future.result(30)
        again = client.submit(b"picture")
        worker.serve(worker.request())
        assert again.result(30).worker == "attic"


def test_an_answer_that_a_client_fails_to_process_fails_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Any:
        raise KeyError("unexpected")

    with closing(FakeWorker(fleet.backend)) as worker:
        worker.join("attic")
        monkeypatch.setattr(fleet.client, "_answer", fail)
        future = fleet.client.submit(b"picture", timeout=30)
        worker.serve(worker.request())
        with pytest.raises(Exception, match="cannot be read"):
            future.result(30)
        monkeypatch.undo()
        again = fleet.client.submit(b"picture", timeout=30)
        worker.serve(worker.request())
        assert again.result(30).worker == "attic"
    assert len(errors(caplog)) == 1
