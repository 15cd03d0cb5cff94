"""What workers and their children can do wrong, and what their clients see of it: nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count, pairwise
from pathlib import Path

import pytest
import zmq

from spyglass.client.thread_client import RequestFailed
from spyglass.dispatcher.policy import Policy
from spyglass.protocol import (
    Ack,
    Direction,
    Heartbeat,
    Ready,
    Reason,
    Request,
    Result,
    Times,
    decode,
    encode,
)
from spyglass.transport.socket_options import router
from testbed.fleet import Fleet
from testbed.peers import FakeWorker, Peer, picture_request
from testbed.processes import ROOT, eventually


@contextmanager
def fake_worker(fleet: Fleet, name: str, credit: int = 1) -> Iterator[FakeWorker]:
    with closing(FakeWorker(fleet.backend)) as fake:
        fake.join(name, credit)
        eventually(lambda: name in fleet.names(), f"{name} joins")
        yield fake


# --- processes --------------------------------------------------------------------------------


def test_a_worker_stopped_twice_leaves_at_once_and_its_work_moves(
    fleet: Fleet, tmp_path: Path
) -> None:
    leaving = fleet.start_worker("leaving", "--job-limit", "30")
    flag = tmp_path / "begun"
    future = fleet.client.submit(f"once:{flag} sleep:20".encode(), timeout=30)
    eventually(flag.exists, "it is at work")
    leaving.send_signal(signal.SIGTERM)
    eventually(lambda: fleet.worker("leaving")["state"] == "draining", "it is leaving")
    leaving.send_signal(signal.SIGINT)
    assert leaving.wait(10) == 0
    fleet.start_worker("staying")
    assert future.result(10).worker == "staying"


@pytest.mark.parametrize("end", ["crash", "exit:3", "raise"])
def test_a_child_that_dies_is_replaced_and_its_picture_tried_again(
    fleet: Fleet, tmp_path: Path, end: str
) -> None:
    worker = fleet.start_worker("attic")
    answer = fleet.client.submit(f"once:{tmp_path / 'died'} {end}".encode()).result(30)
    assert (answer.worker, answer.attempts) == ("attic", 2)
    assert worker.poll() is None
    assert fleet.status()["departed"] == []


def test_pictures_behind_one_that_ends_the_child_cost_no_attempt(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.start_worker("attic", "--batch", "2")
    deadly = fleet.client.submit(f"once:{tmp_path / 'died'} crash".encode())
    behind = [fleet.client.submit(b"innocent %d" % n) for n in range(20)]
    assert deadly.result(30).attempts == 2
    # Those that shared its batch are tried again; the batch ahead and those waiting were not begun.
    assert sum(future.result(30).attempts > 1 for future in behind) <= 1


def test_the_picture_of_a_hung_child_is_answered_after_the_job_limit(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.start_worker("attic", "--job-limit", "0.5")
    answer = fleet.client.submit(f"once:{tmp_path / 'hung'} hang".encode()).result(30)
    assert answer.attempts == 2 and answer.total_ms >= 500
    assert fleet.worker("attic")["failed"] == 1


def test_a_worker_beats_while_its_child_keeps_the_interpreters_lock(fleet: Fleet) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with ExitStack() as stack:
        stack.callback(context.destroy, linger=0)
        broker = router(context)
        port = broker.bind_to_random_port("tcp://127.0.0.1")
        fleet.launch_worker("attic", at=f"tcp://127.0.0.1:{port}")
        beats: list[float] = []
        asked = False
        while len(beats) < 6:
            assert broker.poll(30_000), "the worker fell silent"
            address, *frames = broker.recv_multipart()
            match decode(frames, Direction.WORKER_TO_BROKER):
                case Ready():
                    broker.send_multipart([address, *encode(picture_request(b"hang"))])
                case Ack():
                    asked = True
                case Heartbeat() if asked:
                    beats.append(time.monotonic())
                    broker.send_multipart([address, *encode(Heartbeat())])
        gaps = [b - a for a, b in pairwise(beats)]
        assert max(gaps) < Policy.expiry_at_work, gaps


def test_when_all_workers_die_requests_fail_with_no_workers_and_the_next_worker_serves(
    fleet: Fleet,
) -> None:
    workers = [fleet.start_worker(name) for name in ("attic", "cellar")]
    futures = [fleet.client.submit(b"sleep:20 %d" % n, timeout=3) for n in range(6)]
    eventually(lambda: fleet.status()["queue"]["in_flight"] == 4, "all are at work")
    for worker in workers:
        worker.kill()
    for future in futures:
        with pytest.raises(RequestFailed) as failure:
            future.result(30)
        assert failure.value.reason is Reason.NO_WORKERS
    fleet.start_worker("late")
    assert fleet.client.submit(b"hello").result(30).worker == "late"


def test_a_frozen_workers_late_reply_is_dropped(fleet: Fleet, tmp_path: Path) -> None:
    frozen = fleet.start_worker("frozen", "--job-limit", "30")
    flag = tmp_path / "begun"
    future = fleet.client.submit(f"once:{flag} sleep:1".encode())
    eventually(flag.exists, "it is at work")
    frozen.send_signal(signal.SIGSTOP)
    fleet.start_worker("awake")
    assert future.result(30).worker == "awake"
    frozen.send_signal(signal.SIGCONT)
    eventually(lambda: "frozen" in fleet.names(), "it is back")
    assert fleet.worker("frozen")["done"] == 0
    counters = fleet.status()["counters"]
    assert (counters["accepted"], counters["answered"]) == (1, 1)


def test_a_worker_that_froze_with_empty_hands_costs_one_picture_a_moment(fleet: Fleet) -> None:
    frozen = fleet.start_worker("frozen")
    fleet.start_worker("awake")
    frozen.send_signal(signal.SIGSTOP)
    answers = [fleet.client.submit(b"picture %d" % n).result(30) for n in range(8)]
    assert {answer.worker for answer in answers} == {"awake"}
    assert sum(answer.attempts > 1 for answer in answers) in (1, 2)  # 4 if it were asked each time
    frozen.send_signal(signal.SIGCONT)
    thawed = (fleet.client.submit(b"picture %d" % n).result(30).worker for n in count(8))
    eventually(lambda: next(thawed) == "frozen", "it gets work again")


# --- messages ---------------------------------------------------------------------------------


def test_a_worker_that_answers_twice_is_counted_once_and_gets_no_second_credit(
    fleet: Fleet,
) -> None:
    with fake_worker(fleet, "hasty") as hasty:
        first = fleet.client.submit(b"one")
        request = hasty.request()
        hasty.serve(request)
        hasty.answer(request.id, label="toaster")
        assert first.result(30).predictions[0]["label"] == "tabby"
        eventually(lambda: fleet.status()["counters"]["duplicate"] == 1, "it is counted")
        futures = [fleet.client.submit(b"two"), fleet.client.submit(b"three")]
        held = hasty.request()
        assert hasty.receive(Direction.BROKER_TO_WORKER, 200) in (None, Heartbeat()), (
            "one at a time"
        )
        hasty.serve(held)
        hasty.serve(hasty.request())
        assert all(future.result(30).predictions for future in futures)


def test_a_worker_cannot_answer_what_another_holds(fleet: Fleet) -> None:
    with fake_worker(fleet, "honest") as honest:
        future = fleet.client.submit(b"one")
        request = honest.request()
        honest.send(Ack(request.id))
        with fake_worker(fleet, "liar") as liar:
            for _ in range(3):
                liar.answer(request.id, label="toaster")
            eventually(lambda: fleet.status()["counters"]["duplicate"] == 3, "it is counted")
        honest.answer(request.id)
        answer = future.result(30)
        assert (answer.worker, answer.predictions[0]["label"]) == ("honest", "tabby")


def test_a_worker_that_beats_but_never_acknowledges_loses_its_requests(fleet: Fleet) -> None:
    with fake_worker(fleet, "deaf") as deaf:
        future = fleet.client.submit(b"one")
        deaf.request()
        fleet.start_worker("attic")
        assert future.result(30).worker == "attic"
    counters = fleet.status()["counters"]
    assert counters["requeued"] + counters["hedged"] >= 1  # whichever came first


def test_a_worker_of_the_past_is_asked_to_send_ready(fleet: Fleet) -> None:
    with closing(FakeWorker(fleet.backend)) as stranger:
        stranger.send(Heartbeat())
        bye = stranger.receive(Direction.BROKER_TO_WORKER)
        assert bye is not None and getattr(bye, "again", False)


def test_500_workers_join_serve_and_leave(fleet: Fleet) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2000)
    workers = []
    try:
        began = time.monotonic()
        for n in range(500):
            worker = FakeWorker(fleet.backend, context)
            workers.append(worker)
            worker.join(f"w{n}")
        eventually(lambda: len(fleet.names()) == 500, "all have joined")
        assert time.monotonic() - began < 10  # 2 s on an idle machine
        by_socket = {worker.socket: worker for worker in workers}
        poller = zmq.Poller()
        for socket in by_socket:
            poller.register(socket, zmq.POLLIN)
        futures = [fleet.client.submit(b"picture %d" % n) for n in range(200)]
        beat_at, until = 0.0, time.monotonic() + 3 * Policy.expiry_at_work
        while time.monotonic() < until or not all(future.done() for future in futures):
            for socket, _ in poller.poll(50):
                message = by_socket[socket].receive(Direction.BROKER_TO_WORKER)
                if isinstance(message, Request):
                    by_socket[socket].serve(message)
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + 0.5  # more often than they must
                for worker in workers:
                    worker.send(Heartbeat())
        assert len({future.result(30).worker for future in futures}) == 200
        assert fleet.status()["departed"] == [], "nobody is thought dead"
    finally:
        for worker in workers:
            worker.close()
        context.destroy(linger=0)
    eventually(lambda: fleet.names() == [], "all have left")


# --- the broker's own loop --------------------------------------------------------------------


def test_a_broker_that_reads_nothing_for_2_s_loses_no_message() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stalled = router(context)
    port = stalled.bind_to_random_port("tcp://127.0.0.1")
    sent = 20_000

    def send() -> None:
        with closing(Peer(f"tcp://127.0.0.1:{port}", context)) as peer:
            for n in range(sent):
                peer.send(Result(n.to_bytes(16, "big"), Times(0.5, 1.0), peer_body))
            done.wait(60)

    peer_body = picture_request().body
    done = threading.Event()
    thread = threading.Thread(target=send)
    try:
        thread.start()
        assert not done.wait(2)  # longer than two ZMTP ping timeouts
        got: set[bytes] = set()
        while len(got) < sent:
            assert stalled.poll(10_000), f"{sent - len(got)} messages were lost"
            got.add(stalled.recv_multipart()[3])
    finally:
        done.set()
        thread.join(60)
        context.destroy(linger=0)


def test_no_program_trusts_the_time_of_day() -> None:
    for path in [*ROOT.glob("*.py"), *ROOT.glob("spyglass/**/*.py")]:
        assert "time.time(" not in path.read_text(), path.name
