"""Routing ids that peers choose. libzmq's ROUTER accepts them, and aborts when it generates the
same one for another peer."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator, Sized
from contextlib import closing, suppress
from functools import partial

from broker_thread import BrokerThread

from spyglass.keys.authority import ROUTING_ID_BYTES
from spyglass.keys.keyring import Role
from spyglass.protocol import BEAT, Bye, Direction, Heartbeat
from testbed.fleet import Fleet
from testbed.peers import GREETING, FakeWorker, connect_tcp
from testbed.processes import eventually

GUESSES = 10_000
#: Peers that hold their guess at a time, well below what the broker may have open.
AT_A_TIME = 200


def introduction(routing_id: bytes) -> bytes:
    """READY of a DEALER that chooses its routing id (rfc.zeromq.org/spec/23)."""
    properties = b"".join(
        bytes((len(name),)) + name + struct.pack("!I", len(value)) + value
        for name, value in ((b"Socket-Type", b"DEALER"), (b"Identity", routing_id))
    )
    return bytes((4, 6 + len(properties))) + b"\x05READY" + properties


def guesses(shown: str) -> Iterator[bytes]:
    """Routing ids as libzmq makes them, a zero and a number of 32 bits: those after the one that
    may stand in a worker's public id, then any."""
    with suppress(ValueError):
        known = int(shown, 16) % 2**32
        for step in range(GUESSES // 2):
            yield b"\0" + struct.pack("!I", (known + 1 + step) % 2**32)
    chance = random.Random(7)
    while True:
        yield b"\0" + struct.pack("!I", chance.getrandbits(32))


def has(workers: Sized, number: int) -> bool:
    return len(workers) == number


def test_ten_thousand_guessed_routing_ids_do_not_end_a_broker(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    assert fleet.broker is not None
    guess = guesses(fleet.worker("attic")["id"])
    for _ in range(GUESSES // AT_A_TIME):
        held: list[socket.socket] = []
        for _ in range(AT_A_TIME):
            held.append(connect_tcp(fleet.backend))
            held[-1].sendall(GREETING + introduction(next(guess)))
        with closing(FakeWorker(fleet.backend)) as other:  # whose routing id libzmq makes
            other.send(Heartbeat())
            assert other.receive(Direction.BROKER_TO_WORKER) == Bye(
                "not registered; send READY", again=True
            )
        for stranger in held:
            stranger.close()
    assert fleet.client.submit(b"hello").result(30).worker == "attic"


def test_an_encrypted_port_assigns_each_peer_a_routing_id_whatever_it_chooses(
    broker_thread: BrokerThread,
) -> None:
    client_keys = broker_thread.client_keys(Role.WORKER)
    honest = broker_thread.worker(client_keys)
    honest.join("honest")
    addresses = broker_thread.broker.dispatcher.workers
    eventually(partial(has, addresses, 1), "it joins")
    (taken,) = addresses
    for number, brought in enumerate((taken, taken, b"\0\0\0\0\1", b"x" * 255), 2):
        thief = FakeWorker(broker_thread.broker.backend, keys=client_keys, routing_id=brought)
        broker_thread.peers.append(thief)
        thief.join("thief")
        eventually(partial(has, addresses, number), "it joins as another one")
    assert {len(address) for address in addresses} == {ROUTING_ID_BYTES}
    honest.send(Heartbeat())
    assert honest.receive(Direction.BROKER_TO_WORKER) == BEAT, "nobody took its place"
