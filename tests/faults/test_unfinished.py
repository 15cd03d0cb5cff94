"""Messages that never end, or have far too many frames, do not disturb other peers."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
import zmq

from spyglass.protocol import BEAT, MAX_ANSWER_PARTS, PART_BYTES, Direction, ProtocolError, encode
from spyglass.transport import unfinished
from spyglass.transport.framing import DROPPED_PER_TURN, Inbox, incoming
from spyglass.transport.peers import PeerTracker
from spyglass.transport.socket_options import MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES, dealer, router
from spyglass.transport.unfinished import MAX_UNEXPLAINED, UnfinishedMessages
from testbed.fleet import Fleet
from testbed.peers import GREETING, READY, connect_tcp, cut_off
from testbed.processes import PATIENCE, eventually

#: ZMTP's frame of one byte, and of 64 KiB, after which more of the message follows.
TINY, PART = b"\x01\x01x", b"\x03" + struct.pack("!Q", PART_BYTES) + bytes(PART_BYTES)
MIB = 1024 * 1024
MOST = Direction.WORKER_TO_BROKER.most_frames


class Port:
    """A broker's port, and one peer at it."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.back, self.peer = router(self.context), dealer(self.context)
        self.peers = PeerTracker(self.back)
        self.inbox = Inbox(self.back, 1 + MOST)
        self.peer.connect(f"tcp://127.0.0.1:{self.back.bind_to_random_port('tcp://127.0.0.1')}")

    def receive(self) -> list[bytes]:
        """The next message, without its sender."""
        assert self.back.poll(30_000)
        who, *frames = self.back.recv_multipart(copy=False)
        self.peers.message_from(who)
        return [frame.bytes for frame in frames]

    def beat(self) -> None:
        self.peer.send_multipart(encode(BEAT))
        self.receive()


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    yield port
    port.context.destroy(linger=0)


# --- whole ones -------------------------------------------------------------------------------


def test_a_message_with_too_many_frames_is_cut_and_the_rest_dropped_over_several_turns(
    port: Port,
) -> None:
    frames = 3 * DROPPED_PER_TURN
    port.peer.send_multipart([b"x"] * frames)
    port.peer.send_multipart(encode(BEAT))
    assert port.back.poll(30_000)
    read: list[int] = []
    turns = 0
    while len(read) < 2:
        turns += 1
        for message in port.inbox.messages():
            read.append(len(message))
            assert port.inbox.overlong is (len(read) == 1)
    assert read == [1 + MOST + 1, 1 + len(encode(BEAT))], "one frame more than is legal is kept"
    assert turns >= frames // DROPPED_PER_TURN, "others had their turn meanwhile"


def test_a_message_with_as_many_frames_as_are_legal_is_read_whole(port: Port) -> None:
    port.peer.send_multipart([b"x"] * MOST)
    assert port.back.poll(30_000)
    assert [len(message) for message in port.inbox.messages()] == [1 + MOST]
    assert not port.inbox.overlong


def test_a_dealer_receives_what_follows_a_message_with_too_many_frames(port: Port) -> None:
    port.peer.send_multipart(encode(BEAT))
    who, *_ = port.back.recv_multipart()
    inbox = Inbox(port.peer, Direction.BROKER_TO_WORKER.most_frames)
    port.back.send_multipart([who, *[b"x"] * 5000])
    port.back.send_multipart([who, *encode(BEAT)])
    received: list[object] = []
    while len(received) < 2:
        assert port.peer.poll(30_000)
        received += incoming(inbox, Direction.BROKER_TO_WORKER)
    assert isinstance(received[0], ProtocolError) and received[1] == BEAT


# --- those on their way -----------------------------------------------------------------------


def test_received_bytes_are_looked_up_only_for_connections_without_a_whole_message(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def nothing_received(fd: int) -> int:
        asked.append(fd)
        return 0

    monkeypatch.setattr(unfinished, "bytes_received", nothing_received)
    flood = UnfinishedMessages(port.peers, MAX_ANSWER_BYTES)
    for _ in range(2):
        port.beat()
        assert flood.disconnect_senders(0) == []
    assert asked == []
    assert flood.disconnect_senders(0) == []
    assert len(asked) == 1, "no whole message came since the last check"


class Bytes:
    """A port at which the test sets the bytes received and the memory of the process."""

    def __init__(self, port: Port, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received, self.taken = 1000, 0
        monkeypatch.setattr(unfinished, "bytes_received", lambda fd: self.received)
        self.flood = UnfinishedMessages(port.peers, longest)
        port.beat()
        self.look()  # a whole message has come before this check
        assert self.look() == [], "its message has not begun"

    def look(self, came: int = 0, taken: int = 0) -> list[str]:
        self.received += came
        self.taken += taken
        return self.flood.disconnect_senders(self.taken)


def test_the_sender_of_a_message_that_is_too_long_is_disconnected_before_its_end(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Bytes(port, MAX_ANSWER_BYTES, monkeypatch)
    assert wire.look(came=MAX_ANSWER_BYTES) == []
    (place,) = wire.look(came=1000)
    assert "127.0.0.1" in place

    def ended() -> bool:
        port.peers.read_monitor()
        return not port.peers.connections

    eventually(ended, "its connection has ended")


def test_the_sender_of_a_large_picture_stays_connected_as_its_bytes_explain_the_memory(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Bytes(port, MAX_MESSAGE_BYTES, monkeypatch)
    for _ in range(60):
        assert wire.look(came=MIB, taken=MIB + 10_000) == []


def test_a_sender_whose_bytes_take_many_times_their_size_in_memory_is_disconnected(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Bytes(port, MAX_MESSAGE_BYTES, monkeypatch)
    looks = 0
    while not wire.look(came=MIB, taken=21 * MIB // 4):
        looks += 1
    assert looks * 17 * MIB // 4 <= MAX_UNEXPLAINED + 17 * MIB // 4


def test_an_idle_client_stays_connected_whatever_memory_others_take(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Bytes(port, MAX_MESSAGE_BYTES, monkeypatch)
    for _ in range(2000):  # half an hour of pings
        assert wire.look(came=80, taken=MIB // 10) == []


# --- a broker ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["frontend", "backend"])
def test_a_message_of_two_million_frames_disturbs_nobody_else(fleet: Fleet, end: str) -> None:
    fleet.start_worker("attic")
    assert fleet.broker is not None
    broker = psutil.Process(fleet.broker.pid)
    before = peak = broker.memory_info().rss
    slowest = 0.0
    with connect_tcp(getattr(fleet, end)) as stranger:
        stranger.sendall(GREETING + READY)
        flood = threading.Thread(target=pour, args=(stranger, TINY * 2_000_000))
        flood.start()
        until = time.monotonic() + PATIENCE
        while not ended(stranger):
            began = time.monotonic()
            assert began < until, "it is not cut"
            assert fleet.client.submit(b"hello", timeout=30).result(30).worker == "attic"
            slowest = max(slowest, time.monotonic() - began)
            peak = max(peak, broker.memory_info().rss)
        with suppress(OSError):  # it has been cut already
            stranger.shutdown(socket.SHUT_RDWR)
        flood.join()
    assert peak - before < 100 * MIB
    assert slowest < 3.0, "some 20 ms where nothing else runs"
    eventually(lambda: broker.memory_info().rss - before < 60 * MIB, "its frames are gone")


def test_a_worker_that_sends_more_than_an_answer_is_disconnected(fleet: Fleet) -> None:
    with connect_tcp(fleet.backend) as stranger:
        stranger.sendall(GREETING + READY)
        for _ in range(2 * MAX_ANSWER_PARTS):
            pour(stranger, PART)
        eventually(lambda: cut_off(stranger), "it is cut")


def ended(stranger: socket.socket) -> bool:
    """Whether the broker has ended the connection, without waiting for it."""
    return bool(select.select([stranger], [], [], 0)[0]) and cut_off(stranger)


def pour(stranger: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # cut meanwhile
        stranger.sendall(data)
