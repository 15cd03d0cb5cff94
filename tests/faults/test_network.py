"""Connections that reset, stall, damage, delay and lie, by a relay between the peers."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import zmq

from spyglass.client.thread_client import BrokerClient, RequestFailed
from spyglass.protocol import MAX_PARTS, Ack, Direction, Reason, Result, encode
from spyglass.worker.children import QUICK
from testbed.fleet import Fleet
from testbed.peers import FakeWorker, Peer, picture_request
from testbed.processes import Output, eventually, free_address, free_port, rss
from testbed.relay import Relay

#: ZMTP 3.1 with the NULL mechanism (https://rfc.zeromq.org/spec/37/): greeting and READY.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"


@pytest.fixture
def back(fleet: Fleet) -> Iterator[Relay]:
    """A relay to the workers' port."""
    with Relay(fleet.backend.removeprefix("tcp://")) as relay:
        yield relay


@pytest.fixture
def front(fleet: Fleet) -> Iterator[tuple[Relay, BrokerClient]]:
    """A relay to the clients' port, and a client behind it."""
    with Relay(fleet.frontend.removeprefix("tcp://")) as relay:
        client = BrokerClient([relay.address])
        yield relay, client
        client.close()


# --- between broker and worker ----------------------------------------------------------------


@pytest.mark.parametrize("end", ["reset", "close"])
def test_a_connection_that_ends_moves_its_work_at_once_and_the_worker_returns(
    fleet: Fleet, back: Relay, tmp_path: Path, end: str
) -> None:
    fleet.launch_worker("far", at=back.address)
    eventually(lambda: "far" in fleet.names(), "far joins")
    flag = tmp_path / "begun"
    future = fleet.client.submit(f"once:{flag} sleep:3".encode())
    eventually(flag.exists, "it is at work")
    back.set(end)
    eventually(lambda: fleet.status()["departed"], "its connection is gone")
    fleet.start_worker("near")
    assert future.result(30).worker == "near"
    assert fleet.status()["departed"][0]["reason"] == "connection closed"
    eventually(lambda: "far" in fleet.names(), "far is back")


def test_a_worker_that_gets_a_request_again_while_it_computes_it_answers_once_and_lives(
    fleet: Fleet, back: Relay, tmp_path: Path
) -> None:
    far = fleet.launch_worker("far", "--processes", "2", at=back.address)
    eventually(lambda: "far" in fleet.names(), "far joins")
    flag = tmp_path / "begun"
    future = fleet.client.submit(f"once:{flag} sleep:0.7".encode())
    eventually(flag.exists, "it is at work")
    back.set("reset")
    assert future.result(30).worker == "far"
    longer = fleet.client.submit(b"sleep:1")  # the first computation ends meanwhile
    assert longer.result(30).attempts == 1
    assert far.poll() is None
    assert len(fleet.status()["departed"]) == 1


def test_what_waits_for_a_lost_connection_leaves_its_place_to_what_comes_over_the_next(
    fleet: Fleet, back: Relay, tmp_path: Path
) -> None:
    fleet.launch_worker("far", at=back.address)
    eventually(lambda: "far" in fleet.names(), "far joins")
    flag = tmp_path / "begun"
    futures = [fleet.client.submit(f"once:{flag} sleep:1".encode())]
    eventually(flag.exists, "it is at work")
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > 2 * QUICK, "the child is given nothing ahead")
    futures.append(fleet.client.submit(b"behind it"))
    eventually(lambda: fleet.status()["queue"]["in_flight"] == 2, "both are there")
    back.set("reset")
    assert [future.result(30).attempts for future in futures] == [2, 2]
    assert fleet.worker("far")["failed"] == 0


def test_a_silence_of_300_ms_changes_nothing(fleet: Fleet, back: Relay) -> None:
    fleet.launch_worker("far", at=back.address)
    eventually(lambda: "far" in fleet.names(), "far joins")
    back.set("stall")
    began = time.monotonic()
    future = fleet.client.submit(b"hello")
    eventually(lambda: time.monotonic() - began > 0.25, "some silence")
    back.set("pass")
    assert future.result(30).attempts == 1
    assert fleet.status()["departed"] == []


@pytest.mark.parametrize("mode", ["stall", "oneway_up", "oneway_down"])
def test_work_behind_a_silent_connection_moves_and_its_worker_returns(
    fleet: Fleet, back: Relay, tmp_path: Path, mode: str
) -> None:
    fleet.launch_worker("far", at=back.address)
    eventually(lambda: "far" in fleet.names(), "far joins")
    flag = tmp_path / "begun"
    future = fleet.client.submit(f"once:{flag} sleep:4".encode(), timeout=20)
    eventually(flag.exists, "it is at work")
    back.set(mode)
    silent = time.monotonic()
    fleet.start_worker("near")
    eventually(lambda: "far" not in fleet.names(), "far is given up")
    assert time.monotonic() - silent < 3  # 0.8 to 1.8 s on an idle machine
    assert future.result(30).worker == "near"
    back.set("pass")
    eventually(lambda: "far" in fleet.names(), "far is back")
    assert fleet.status()["counters"]["answered"] == 1


@pytest.mark.slow
def test_a_silence_of_30_s_is_survived_by_all(fleet: Fleet, back: Relay) -> None:
    fleet.launch_worker("far", at=back.address)
    fleet.start_worker("near")
    eventually(lambda: len(fleet.names()) == 2, "both join")
    back.set("stall")
    until = time.monotonic() + 30
    n = 0
    while time.monotonic() < until:
        n += 1
        assert fleet.client.submit(b"sleep:0.05 %d" % n).result(30).predictions
    back.set("pass")
    eventually(lambda: len(fleet.names()) == 2, "far is back")
    counters = fleet.status()["counters"]
    assert (counters["accepted"], counters["answered"]) == (n, n)


def test_a_large_picture_on_a_slow_link_arrives_and_nobody_is_thought_dead(
    fleet: Fleet, back: Relay
) -> None:
    fleet.launch_worker("far", at=back.address)
    eventually(lambda: "far" in fleet.names(), "far joins")
    back.set("slow 1200000")  # bytes a second
    picture = os.urandom(4_000_000)
    answer = fleet.client.submit(picture, timeout=30).result(40)
    assert answer.attempts == 1 and answer.total_ms > 3000
    assert fleet.status()["departed"] == []


@pytest.mark.slow
def test_a_round_trip_of_200_ms_expires_nobody(fleet: Fleet, back: Relay) -> None:
    back.set("delay 0.1")
    fleet.launch_worker("far", at=back.address)
    eventually(lambda: "far" in fleet.names(), "far joins")
    until = time.monotonic() + 20
    n = 0
    while time.monotonic() < until:
        n += 1
        answer = fleet.client.submit(os.urandom(100_000)).result(30)
        assert answer.attempts == 1 and answer.total_ms >= 150  # 200 give or take a quarter
    assert fleet.status()["departed"] == []
    assert fleet.status()["counters"]["requeued"] == 0


def test_bits_that_flip_on_the_way_give_no_wrong_answer(
    fleet: Fleet, front: tuple[Relay, BrokerClient], back: Relay
) -> None:
    relay, client = front
    fleet.launch_worker("far", at=back.address)
    fleet.start_worker("near")
    eventually(lambda: len(fleet.names()) == 2, "both join")
    relay.set("corrupt 250000")
    back.set("corrupt 2000")
    pictures = [os.urandom(60_000) for _ in range(20)]
    futures = [client.submit(picture, timeout=30) for picture in pictures]
    for picture, future in zip(pictures, futures, strict=True):
        label = future.result(40).predictions[0]["label"]
        assert label == hashlib.sha256(picture).hexdigest()[:12]
    counters = fleet.status()["counters"]
    damaged = counters["failed"] + counters["requeued"] + counters["bad_frames"]
    assert damaged or fleet.status()["departed"], "nothing was damaged: the test tests nothing"


# --- between client and broker ----------------------------------------------------------------


def test_a_client_cut_off_for_2_s_gets_its_answer_after_it(
    fleet: Fleet, front: tuple[Relay, BrokerClient]
) -> None:
    relay, client = front
    fleet.start_worker("attic")
    assert client.submit(b"hello").result(30)
    relay.set("stall")
    began = time.monotonic()
    future = client.submit(b"sleep:0.1", timeout=20)
    eventually(lambda: time.monotonic() - began > 2, "a silence")
    relay.set("pass")
    assert future.result(30).predictions
    eventually(lambda: fleet.status()["queue"]["in_flight"] == 0, "nothing is left")


def test_a_request_of_a_client_cut_off_for_good_fails_at_its_deadline(
    fleet: Fleet, front: tuple[Relay, BrokerClient], tmp_path: Path
) -> None:
    relay, client = front
    fleet.start_worker("attic")
    flag = tmp_path / "begun"
    future = client.submit(f"mark:{flag}".encode(), timeout=1.5)
    eventually(flag.exists, "it is at work")
    relay.set("stall")
    began = time.monotonic()
    with pytest.raises(RequestFailed) as failure:
        future.result(30)
    assert failure.value.reason in (Reason.DEADLINE, Reason.NO_BROKER)
    assert time.monotonic() - began < 3
    flag.unlink()
    relay.set("pass")
    assert client.submit(b"next", timeout=20).result(30).predictions
    assert not flag.exists(), "it is not computed again"


def test_a_picture_cut_in_the_middle_is_sent_again(
    fleet: Fleet, front: tuple[Relay, BrokerClient], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    relay, client = front
    fleet.start_worker("attic")
    assert client.submit(b"hello").result(30)

    def accepted() -> int:  # a snapshot is kept for up to 0.25 s
        return int(fleet.status()["counters"]["accepted"])

    eventually(lambda: accepted() == 1, "the first picture is counted")
    relay.set("truncate 100000")
    future = client.submit(os.urandom(500_000), timeout=20)
    eventually(lambda: "lost the broker at" in caplog.text, "its connection is cut")
    assert accepted() == 1, "only the first picture has arrived"
    relay.set("pass")
    assert future.result(30).predictions


# --- who is at the other end ------------------------------------------------------------------


@pytest.mark.parametrize("there", ["nobody", "a web server"])
def test_a_worker_says_once_that_no_broker_answers_and_joins_when_one_does(
    fleet: Fleet, there: str
) -> None:
    port = free_port()
    listener = socket.create_server(("127.0.0.1", port)) if there != "nobody" else None
    worker = fleet.launch_worker("early", at=f"tcp://127.0.0.1:{port}", stderr=subprocess.PIPE)
    lines = Output(worker).lines
    eventually(lambda: any("No broker answers" in line for line in lines), "it says so")
    if listener is not None:
        listener.settimeout(5)
        stranger = listener.accept()[0]
        with suppress(OSError):
            stranger.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        stranger.close()
        listener.close()
    fleet.run_broker(free_address(), f"tcp://127.0.0.1:{port}")
    eventually(lambda: any("connected to the broker" in line for line in lines), "it joins")
    assert sum("No broker answers" in line for line in lines) == 1
    assert worker.poll() is None


def test_a_worker_goes_on_trying_a_host_that_has_no_address_yet(fleet: Fleet) -> None:
    worker = fleet.launch_worker(
        "lost", at="tcp://no-such-host.invalid:5556", stderr=subprocess.PIPE
    )
    lines = Output(worker).lines
    eventually(lambda: any("No broker answers" in line for line in lines), "it says so")
    assert worker.poll() is None
    assert not any("Traceback" in line for line in lines)


# --- bytes that are no messages of ours -------------------------------------------------------


def raw(address: str, handshake: bytes = GREETING + READY) -> socket.socket:
    """A TCP connection that has finished the ZMTP handshake as a DEALER: the peer's READY was heard
    too, since libzmq ends a connection whose first message comes before it has sent that."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    try:
        connection.sendall(handshake)
        heard = b""
        while b"ROUTER" not in heard:
            data = connection.recv(4096)
            assert data, "the broker ended the handshake"
            heard += data
    except BaseException:
        connection.close()
        raise
    return connection


def test_a_frame_of_2_to_the_60_bytes_ends_its_connection_and_costs_no_memory(
    fleet: Fleet,
) -> None:
    assert fleet.broker is not None
    fleet.start_worker("attic")
    for address in (fleet.frontend, fleet.backend):
        before = rss(fleet.broker.pid)
        with raw(address) as connection:
            connection.sendall(b"\x02" + (2**60).to_bytes(8, "big") + b"x" * 1000)
            with suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
        assert rss(fleet.broker.pid) < before + 20_000_000
    assert fleet.client.submit(b"hello").result(30).worker == "attic"


def test_a_message_of_too_many_parts_is_refused_and_the_next_one_read(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    request = picture_request()
    with closing(Peer(fleet.frontend)) as peer:
        assert peer.socket.poll(10_000, zmq.POLLOUT)
        peer.socket.send_multipart([*encode(request)[:5], *([b"part"] * (MAX_PARTS + 1))])
        eventually(lambda: fleet.status()["counters"]["bad_frames"] == 1, "it is counted")
        peer.send(request)
        assert isinstance(peer.receive(Direction.BROKER_TO_CLIENT), Ack | Result)


def test_a_recorded_conversation_played_again_is_answered_to_nobody(fleet: Fleet) -> None:
    """A man in the middle writes down what a worker said, and says it once more."""
    host, _, port = fleet.backend.removeprefix("tcp://").rpartition(":")
    recorded = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as middle:

        def record() -> None:
            near, far = middle.accept()[0], socket.create_connection((host, int(port)))
            threading.Thread(target=pump, args=(far, near, bytearray()), daemon=True).start()
            pump(near, far, recorded)

        threading.Thread(target=record, daemon=True).start()
        with closing(FakeWorker(f"tcp://127.0.0.1:{middle.getsockname()[1]}")) as worker:
            worker.join("honest")
            future = fleet.client.submit(b"hello")
            worker.serve(worker.request())
            assert future.result(30).worker == "honest"
    eventually(lambda: fleet.names() == [], "it has left")
    said = bytes(recorded)
    assert said.startswith(READY, len(GREETING))
    handshake = len(GREETING) + len(READY)
    with raw(fleet.backend, said[:handshake]) as replay:
        replay.sendall(said[handshake:])
        eventually(lambda: fleet.status()["counters"]["duplicate"] == 1, "its answer is nobody's")
        assert fleet.status()["counters"]["answered"] == 1


def pump(source: socket.socket, to: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            kept += data
            to.sendall(data)
    source.close()
    with suppress(OSError):
        to.shutdown(socket.SHUT_RDWR)  # ends the other direction, which closes it
