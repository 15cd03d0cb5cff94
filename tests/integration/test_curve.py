"""Encrypted fleets: they answer as plain ones do, and a stranger on the network learns nothing."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from spyglass.client.thread_client import BrokerClient
from spyglass.keys.keyring import Role
from spyglass.protocol import Op
from testbed.encrypted import EncryptedFleet
from testbed.fleet import CAT, STAND_IN, Fleet
from testbed.processes import PATIENCE, Output, eventually, free_port
from testbed.relay import Relay

# --- a fleet ----------------------------------------------------------------------------------


def test_an_encrypted_fleet_answers_and_its_status_reports_the_encryption(
    encrypted: EncryptedFleet,
) -> None:
    encrypted.start_worker("kitchen")
    assert encrypted.client.submit(CAT).result(PATIENCE).worker == "kitchen"
    told = encrypted.status()["broker"]
    assert told["security"] == {"frontend": "encrypted", "backend": "encrypted"}
    assert told["join"] == f"python worker.py '{encrypted.backend}#SECRET'"


def test_a_worker_that_listens_is_dialled_encrypted(encrypted: EncryptedFleet) -> None:
    place = f"tcp://127.0.0.1:{free_port()}"
    encrypted.launch_worker(
        "cellar", "--listen", encrypted.address_for(Role.WORKER, "cellar", place)
    )
    assert encrypted.client.control(Op.ADD, place)[0]
    eventually(lambda: "cellar" in encrypted.names(), "it joins")
    assert encrypted.client.submit(CAT).result(PATIENCE).worker == "cellar"


def test_an_address_with_a_secret_is_not_dialled_and_its_secret_not_repeated(
    encrypted: EncryptedFleet,
) -> None:
    place = encrypted.address_for(Role.WORKER, at=f"tcp://127.0.0.1:{free_port()}")
    done, why = encrypted.client.control(Op.ADD, place)
    assert not done
    assert place.partition("#")[2] not in why


@pytest.mark.slow
def test_workers_and_clients_use_several_brokers_each_with_its_own_secret(tmp_path: Path) -> None:
    first, second = (EncryptedFleet(tmp_path / name) for name in ("first", "second"))
    both = BrokerClient([first.address_for(Role.FRONT), second.address_for(Role.FRONT)])
    try:
        for fleet in (first, second):
            fleet.start_broker()
        addresses = [fleet.address_for(Role.WORKER) for fleet in (first, second)]
        first.run_worker("shared", addresses)
        for fleet in (first, second):
            eventually(lambda f=fleet: "shared" in f.names(), "it joins")  # type: ignore[misc]
        assert both.submit(CAT).result(PATIENCE).worker == "shared"
        assert first.broker is not None
        first.broker.kill()
        assert both.submit(CAT).result(PATIENCE).worker == "shared"
    finally:
        both.close()
        first.close()
        second.close()


# --- on the wire ------------------------------------------------------------------------------


class Tap:
    """Passes one connection on to a port, and keeps all that passed, and what the caller said."""

    def __init__(self, target: str) -> None:
        self.heard, self.said = bytearray(), bytearray()
        self._target = int(target.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        for source, sink, kept in ((near, far, self.said), (far, near, bytearray())):
            args = source, sink, kept
            threading.Thread(target=self._copy, args=args, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        try:
            while data := source.recv(65536):
                self.heard += data
                kept += data
                sink.sendall(data)
        except OSError:
            pass
        finally:
            source.close()
            with suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)  # ends the other direction, which closes it

    def close(self) -> None:
        self._listener.close()


READABLE = (CAT[1000:1032], b"SPY1", b"kitchen", b"squeezenet1_1")


@pytest.mark.parametrize("keys", [True, False], ids=["encrypted", "plain"])
def test_nothing_readable_passes_on_the_wire(tmp_path: Path, keys: bool) -> None:
    fleet = EncryptedFleet(tmp_path / "keys") if keys else Fleet()
    taps = []
    try:
        fleet.start_broker()
        fleet.wait_for_broker()
        for port in (fleet.frontend, fleet.backend):
            taps.append(Tap(port))
        addresses = [tap.address for tap in taps]
        if isinstance(fleet, EncryptedFleet):
            pairs = zip((Role.FRONT, Role.WORKER), addresses, strict=True)
            addresses = [fleet.address_for(role, at=address) for role, address in pairs]
        fleet.launch_worker("kitchen", at=addresses[1])
        eventually(lambda: "kitchen" in fleet.names(), "it joins")
        client = BrokerClient(addresses[:1])
        assert client.submit(CAT).result(PATIENCE).worker == "kitchen"
        client.close()
    finally:
        fleet.close()
        for tap in taps:
            tap.close()
    for tap in taps:
        assert len(tap.heard) > len(CAT)
        assert [word in tap.heard for word in READABLE[:2]] == [not keys] * 2
    assert [word in taps[1].heard for word in READABLE] == [not keys] * len(READABLE)


def test_flipped_bits_cut_an_encrypted_connection_and_the_worker_is_back_at_once(
    encrypted: EncryptedFleet,
) -> None:
    with Relay(encrypted.backend.removeprefix("tcp://")) as relay:
        address = encrypted.address_for(Role.WORKER, "far", relay.address)
        encrypted.launch_worker("far", at=address)
        eventually(lambda: "far" in encrypted.names(), "it joins")
        relay.set("corrupt 50")
        future = encrypted.client.submit(b"whole")
        gone = eventually(lambda: encrypted.status()["departed"], "it is cut off", within=1.5)
        assert gone[0]["reason"] == "connection closed"
        relay.set("pass")
        eventually(lambda: "far" in encrypted.names(), "it is back", within=1.5)
        answer = future.result(PATIENCE)
        assert answer.predictions[0]["label"] == hashlib.sha256(b"whole").hexdigest()[:12]
        # What cannot be decrypted never comes as far as our own checksum.
        assert encrypted.status()["counters"]["bad_frames"] == 0


def test_a_replayed_encrypted_conversation_has_no_effect(
    encrypted: EncryptedFleet,
) -> None:
    tap = Tap(encrypted.backend)
    try:
        worker = encrypted.launch_worker(
            "far", at=encrypted.address_for(Role.WORKER, "far", tap.address)
        )
        eventually(lambda: "far" in encrypted.names(), "it joins")
        assert encrypted.client.submit(CAT).result(PATIENCE).worker == "far"
        worker.kill()
        eventually(lambda: encrypted.names() == [], "it has left")
    finally:
        tap.close()
    where = "127.0.0.1", int(encrypted.backend.rpartition(":")[2])
    with socket.create_connection(where, timeout=PATIENCE) as replay:
        replay.sendall(tap.said[:64])
        assert replay.recv(4096), "the broker greets it"
        with suppress(ConnectionError):
            replay.sendall(tap.said[64:])
            while replay.recv(4096):
                pass
    status = encrypted.status()
    assert status["workers"] == []
    counters = status["counters"]
    assert (counters["answered"], counters["duplicate"], counters["bad_frames"]) == (1, 0, 0)


# --- junk, and secrets ------------------------------------------------------------------------


def test_junk_on_encrypted_ports_leaves_the_broker_answering(encrypted: EncryptedFleet) -> None:
    encrypted.start_worker("kitchen")
    assert encrypted.broker is not None
    rng = random.Random(6)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
    beginnings = [b"", greeting[:10], greeting, greeting + b"\x04\xc8\x05HELLO", b"GET / HTTP/1.1"]
    for turn in range(60):
        for port in (encrypted.frontend, encrypted.backend):
            where = "127.0.0.1", int(port.rpartition(":")[2])
            with socket.create_connection(where, timeout=5) as stranger:
                stranger.sendall(beginnings[turn % 5] + rng.randbytes(rng.randrange(2000)))
    assert encrypted.client.submit(CAT).result(PATIENCE).worker == "kitchen"
    assert encrypted.broker.poll() is None


def test_no_secret_appears_in_logs_or_in_the_status(encrypted: EncryptedFleet) -> None:
    place = encrypted.address_for(Role.WORKER, "kitchen")
    worker = encrypted.launch_worker("kitchen", at=place, stderr=subprocess.PIPE)
    output = Output(worker)
    eventually(lambda: "kitchen" in encrypted.names(), "it joins")
    encrypted.keyring.revoke("kitchen")
    output.wait_for("refuses this key")
    assert b"#" not in Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    secret = place.partition("#")[2]
    assert secret[:20] not in "".join(output.lines) + str(encrypted.status())
    assert "its key was revoked" in str(encrypted.status()["departed"])
    assert re.search(rf"at {re.escape(encrypted.backend)} refuses", "".join(output.lines))


@pytest.mark.parametrize("written", ["--listen PLACE", "--listen=PLACE", "--li PLACE"])
def test_no_secret_shows_in_the_command_line_of_a_worker_that_listens(
    encrypted: EncryptedFleet, written: str
) -> None:
    place = f"tcp://127.0.0.1:{free_port()}"
    secret = encrypted.address_for(Role.WORKER, "cellar", place)
    flags = written.replace("PLACE", secret).split()
    worker = encrypted.start(STAND_IN, *flags, "--processes", "1", "--name", "cellar#1")
    assert encrypted.client.control(Op.ADD, place)[0]
    eventually(lambda: "cellar#1" in encrypted.names(), "it is dialled")
    words = Path(f"/proc/{worker.pid}/cmdline").read_bytes().decode().split("\0")
    assert secret.partition("#")[2] not in "".join(words)
    assert words[2:-1] == ["--processes", "1", "--name", "cellar#1"]
