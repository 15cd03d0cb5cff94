"""Encrypted ports: who gets in, what passes on the wire, and who is shut out again."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zmq
from conftest import CAT, PATIENCE, Fleet, eventually
from peers import FakeWorker, Peer, picture_request

import broker as broker_program
import run
import worker as worker_program
from broker import Broker
from brokerclient import BrokerClient, RequestFailed
from chaos.fleet import free_port
from chaos.relay import Relay
from clientcore import NotAllowed
from curve import Login, join, split
from decisions import Policy
from keyring import ALLOWED, BadKeys, Keyring, Role
from limits import raise_open_files
from security import Security
from workerflags import safe_to_listen
from zap import Gate
from zmq_protocol import Ack, Direction, Op, Reason, Result

#: Seconds in which somebody who may not come in would have come in.
MOMENT = 0.3


class Encrypted(Fleet):
    """A broker whose both ports are encrypted, and the keys to it."""

    def __init__(self, folder: Path) -> None:
        self.keyring = Keyring.create(folder)
        ports = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
        super().__init__(*ports)
        self.client.close()  # a plain one would only be refused
        self.client = BrokerClient([self.way_in(Role.ADMIN, "tester")])

    def way_in(self, role: Role, name: str = "", at: str = "") -> str:
        """An address with a secret of its own."""
        _, login = self.keyring.issue(role, name)
        return join(at or (self.backend if role is Role.WORKER else self.frontend), login)

    def start_broker(self, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
        return super().start_broker(
            *flags, "--keys", str(self.keyring.folder), "--encrypt", "always", **more
        )

    def start_worker(self, name: str, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
        return super().start_worker(name, *flags, at=self.way_in(Role.WORKER, name), **more)


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Encrypted]:
    fleet = Encrypted(tmp_path / "keys")
    fleet.start_broker()
    eventually(lambda: fleet.status()["queue"], "the broker answers")
    try:
        yield fleet
    finally:
        fleet.close()


class Said:
    """What a process writes to standard error, line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.lines: list[str] = []
        self._stream = process.stderr
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._stream is not None
        with self._stream:
            for line in self._stream:
                self.lines.append(line.decode())

    def wait(self, what: str) -> str:
        """The first line that has it in."""
        found: str = eventually(lambda: next((x for x in self.lines if what in x), ""), what)
        return found


# --- a fleet ----------------------------------------------------------------------------------


def test_an_encrypted_fleet_answers_and_says_that_it_is_encrypted(encrypted: Encrypted) -> None:
    encrypted.start_worker("kitchen")
    assert encrypted.client.submit(CAT).result(PATIENCE).worker == "kitchen"
    told = encrypted.status()["broker"]
    assert told["security"] == {"frontend": "encrypted", "backend": "encrypted"}
    assert told["join"] == f"python worker.py '{encrypted.backend}#SECRET'"


def test_a_worker_that_listens_is_dialled_encrypted(encrypted: Encrypted) -> None:
    place = f"tcp://127.0.0.1:{free_port()}"
    encrypted.launch_worker("cellar", "--listen", encrypted.way_in(Role.WORKER, "cellar", place))
    assert encrypted.client.control(Op.ADD, place)[0]
    eventually(lambda: "cellar" in encrypted.names(), "it joins")
    assert encrypted.client.submit(CAT).result(PATIENCE).worker == "cellar"


def test_an_address_with_a_secret_is_not_dialled_and_its_secret_not_repeated(
    encrypted: Encrypted,
) -> None:
    place = encrypted.way_in(Role.WORKER, at=f"tcp://127.0.0.1:{free_port()}")
    done, why = encrypted.client.control(Op.ADD, place)
    assert not done
    assert place.partition("#")[2] not in why


@pytest.mark.slow
def test_workers_and_clients_use_several_brokers_each_with_its_own_secret(tmp_path: Path) -> None:
    first, second = (Encrypted(tmp_path / name) for name in ("first", "second"))
    both = BrokerClient([first.way_in(Role.FRONT), second.way_in(Role.FRONT)])
    try:
        for fleet in (first, second):
            fleet.start_broker()
        ways = [fleet.way_in(Role.WORKER) for fleet in (first, second)]
        first.start("tests/stand_in.py", *ways, "--processes", "1", "--name", "shared")
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
    fleet = Encrypted(tmp_path / "keys") if keys else Fleet()
    taps = []
    try:
        fleet.start_broker()
        eventually(lambda: fleet.status()["queue"], "the broker answers")
        for port in (fleet.frontend, fleet.backend):
            taps.append(Tap(port))
        ways = [tap.address for tap in taps]
        if isinstance(fleet, Encrypted):
            pairs = zip((Role.FRONT, Role.WORKER), ways, strict=True)
            ways = [fleet.way_in(role, at=way) for role, way in pairs]
        fleet.launch_worker("kitchen", at=ways[1])
        eventually(lambda: "kitchen" in fleet.names(), "it joins")
        client = BrokerClient(ways[:1])
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


def test_bits_that_flip_on_an_encrypted_way_cut_it_and_the_worker_is_back_at_once(
    encrypted: Encrypted,
) -> None:
    with Relay(encrypted.backend.removeprefix("tcp://")) as relay:
        way = encrypted.way_in(Role.WORKER, "far", relay.address)
        encrypted.launch_worker("far", at=way)
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


def test_a_recorded_encrypted_conversation_played_again_comes_to_nothing(
    encrypted: Encrypted,
) -> None:
    tap = Tap(encrypted.backend)
    try:
        worker = encrypted.launch_worker(
            "far", at=encrypted.way_in(Role.WORKER, "far", tap.address)
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


# --- who gets in ------------------------------------------------------------------------------


class Sockets:
    """A broker's loop in this process, behind a gate."""

    def __init__(self, folder: Path) -> None:
        self.keyring = Keyring.create(folder)
        self.gate = Gate(self.keyring)
        ports = ["tcp://127.0.0.1:*"] * 2
        security = Security(self.gate, True, True)
        self.broker = Broker(*ports, Policy(), raise_open_files(), security=security)
        self.broker.open()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.peers: list[Peer] = []

    def _run(self) -> None:
        try:
            self.broker.run()
        except Exception as error:
            self.failure = error

    def login(self, role: Role, name: str = "") -> Login:
        return self.keyring.issue(role, name)[1]

    def peer(self, port: str, login: Login | None, kind: type[Peer] = Peer) -> Any:
        peer = kind(port, login=login)
        self.peers.append(peer)
        return peer

    def worker(self, login: Login | None) -> FakeWorker:
        worker: FakeWorker = self.peer(self.broker.backend, login, FakeWorker)
        return worker

    def front(self, login: Login | None) -> Peer:
        front: Peer = self.peer(self.broker.frontend, login)
        return front

    def names(self) -> list[str]:
        return [worker.name for worker in self.broker.dispatcher.workers.values()]

    def close(self) -> None:
        self.broker.stop()
        self.thread.join()
        for peer in self.peers:
            peer.close()


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Sockets]:
    sockets = Sockets(tmp_path / "keys")
    try:
        yield sockets
    finally:
        sockets.close()


def stays_out(peer: Peer) -> bool:
    """Whether its socket has nobody to send to for a moment."""
    return not peer.socket.poll(1000 * MOMENT, zmq.POLLOUT)


def comes_in(peer: Peer) -> bool:
    return bool(peer.socket.poll(1000 * PATIENCE, zmq.POLLOUT))


def test_each_key_opens_its_own_port_only(sockets: Sockets) -> None:
    work, front, admin = (sockets.login(role) for role in (Role.WORKER, Role.FRONT, Role.ADMIN))
    assert comes_in(sockets.worker(work))
    assert comes_in(sockets.front(front))
    assert comes_in(sockets.front(admin))
    strangers = [sockets.worker(front), sockets.worker(admin), sockets.front(work)]
    assert all(stays_out(peer) for peer in strangers)


def test_strangers_and_plain_peers_stay_out(sockets: Sockets) -> None:
    known = sockets.login(Role.WORKER)
    _, secret = zmq.curve_keypair()
    _, elsewhere = zmq.curve_keypair()
    unknown = Login(known.broker, secret)
    misled = Login(zmq.curve_public(elsewhere), known.secret)
    strangers = [sockets.worker(login) for login in (unknown, misled, None)]
    strangers.append(sockets.front(None))
    assert all(stays_out(peer) for peer in strangers)
    assert comes_in(sockets.worker(known))


def test_a_key_is_good_as_soon_as_it_is_made(sockets: Sockets) -> None:
    for _ in range(3):
        assert comes_in(sockets.worker(sockets.login(Role.WORKER)))


def test_a_front_key_may_look_and_only_an_admins_may_change_the_fleet(
    encrypted: Encrypted,
) -> None:
    encrypted.start_worker("kitchen")
    target = encrypted.worker("kitchen")["id"]
    office = BrokerClient([encrypted.way_in(Role.FRONT, "office")])
    try:
        assert office.status()["workers"]
        assert office.submit(CAT).result(PATIENCE).worker == "kitchen"
        for op in (Op.DRAIN, Op.REMOVE, Op.ADD, Op.CLEAR):
            with pytest.raises(NotAllowed, match=r"python keys\.py front --admin"):
                office.control(op, target)
        assert encrypted.worker("kitchen")["state"] == "ready"
    finally:
        office.close()
    assert encrypted.client.control(Op.REMOVE, target)[0]


# --- who is shut out --------------------------------------------------------------------------


def test_a_revoked_worker_is_removed_at_once_and_its_work_goes_to_another(
    sockets: Sockets,
) -> None:
    doomed = sockets.worker(sockets.login(Role.WORKER, "doomed"))
    doomed.join("doomed")
    eventually(lambda: sockets.names() == ["doomed"], "it joins")
    asker = sockets.front(sockets.login(Role.FRONT))
    request = picture_request()
    asker.say(request)
    held = doomed.request()
    doomed.say(Ack(held.id))
    heir = sockets.worker(sockets.login(Role.WORKER, "heir"))
    heir.join("heir")
    eventually(lambda: len(sockets.names()) == 2, "it joins")

    sockets.keyring.revoke("doomed")
    eventually(lambda: sockets.names() == ["heir"], "it is removed", within=1.0)
    heir.serve(heir.request())
    answer = asker.hear(Direction.BROKER_TO_CLIENT)
    while isinstance(answer, Ack):
        answer = asker.hear(Direction.BROKER_TO_CLIENT)
    assert isinstance(answer, Result) and answer.worker == "heir"
    eventually(lambda: stays_out(doomed), "it is cut off, and does not come back", within=2.0)


def test_a_revoked_front_gets_nothing_more(sockets: Sockets) -> None:
    worker = sockets.worker(sockets.login(Role.WORKER))
    worker.join("kitchen")
    asker = sockets.front(sockets.login(Role.FRONT, "office"))
    asker.say(picture_request())
    held = worker.request()
    worker.say(Ack(held.id))
    sockets.keyring.revoke("office")
    eventually(lambda: stays_out(asker), "its connection is cut", within=2.0)
    worker.answer(held.id)
    heard = []
    while (message := asker.hear(Direction.BROKER_TO_CLIENT, 300)) is not None:
        heard.append(message)
    assert not any(isinstance(message, Result) for message in heard)


def test_what_a_revoked_peer_had_sent_is_not_read_any_more(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where its connection cannot be cut, each message is checked by its own User-Id."""
    monkeypatch.setattr("sockets.DropWatch.cut", lambda *_: None)
    asker = sockets.front(sockets.login(Role.FRONT, "office"))
    asker.say(picture_request())
    assert isinstance(asker.hear(Direction.BROKER_TO_CLIENT), Ack)
    sockets.keyring.revoke("office")
    accepted = sockets.broker.dispatcher.record.counters.accepted
    eventually(lambda: _revoked(sockets, "office"), "the broker has read it")
    asker.say(picture_request())
    assert asker.hear(Direction.BROKER_TO_CLIENT, 300) is None
    assert sockets.broker.dispatcher.record.counters.accepted == accepted


def _revoked(sockets: Sockets, name: str) -> bool:
    """Whether the broker's loop has read the list without this name."""
    return name not in [entry.name for entry in sockets.gate.allowed.entries()]


def test_a_list_that_is_gone_shuts_everybody_out(sockets: Sockets) -> None:
    worker = sockets.worker(sockets.login(Role.WORKER))
    worker.join("kitchen")
    eventually(sockets.names, "it joins")
    (sockets.keyring.folder / ALLOWED).unlink()
    eventually(lambda: not sockets.names(), "it is removed", within=1.0)
    eventually(lambda: stays_out(worker), "it is cut off", within=2.0)


# --- ZAP fails closed -------------------------------------------------------------------------


def test_with_the_thread_that_checks_keys_dead_nobody_comes_in(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = sockets.login(Role.WORKER)
    assert comes_in(sockets.worker(login))
    monkeypatch.setattr(sockets.gate, "look", lambda now: None)  # else the broker leaves
    end_thread(sockets.gate)
    assert stays_out(sockets.worker(login))
    assert stays_out(sockets.worker(login))


def test_a_broker_whose_thread_that_checks_keys_is_dead_leaves(sockets: Sockets) -> None:
    end_thread(sockets.gate)
    sockets.thread.join(PATIENCE)
    assert "the thread that checks keys has ended" in str(sockets.failure)


def test_a_port_without_anybody_to_answer_for_keys_lets_nobody_in(
    sockets: Sockets,
) -> None:
    """ZAP_ENFORCE_DOMAIN: without it libzmq would let everybody in."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    from sockets import router

    port = router(context, sockets.gate.guard("worker"))
    number = port.bind_to_random_port("tcp://127.0.0.1")
    try:
        peer = sockets.peer(f"tcp://127.0.0.1:{number}", sockets.login(Role.WORKER))
        assert stays_out(peer)
    finally:
        context.destroy(linger=0)


def end_thread(gate: Gate) -> None:
    authenticator = gate.authenticator
    assert authenticator is not None and authenticator.is_alive()
    thread = authenticator.thread
    authenticator.pipe.send(b"TERMINATE")
    thread.join(PATIENCE)


# --- what people are told ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        "revoked",
        "front key",
        pytest.param("no key", marks=pytest.mark.slow),
        pytest.param("other keys", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_is_kept_out_says_why_and_what_to_do(
    encrypted: Encrypted, tmp_path: Path, case: str
) -> None:
    if case == "front key":
        _, login = encrypted.keyring.issue(Role.FRONT, "kitchen")
    else:
        other = Keyring.create(tmp_path / "other")
        _, login = (other if case == "other keys" else encrypted.keyring).issue(Role.WORKER, "k")
    if case == "revoked":
        encrypted.keyring.revoke("k")
    place = encrypted.backend if case == "no key" else join(encrypted.backend, login)
    said = Said(encrypted.launch_worker("kitchen", at=place, stderr=subprocess.PIPE))
    why = "it has other keys, or none" if case == "other keys" else "refuses this key"
    line = said.wait("this address has none" if case == "no key" else why)
    assert "python keys.py join" in line
    assert login.text()[:20] not in "".join(said.lines)
    assert "kitchen" not in encrypted.names()


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[tuple[Encrypted, Fleet]]:
    """An encrypted fleet whose broker is not started yet, and a plain one that stands there."""
    fleet = Encrypted(tmp_path / "keys")
    plain = Fleet(fleet.frontend, fleet.backend)
    try:
        plain.start_broker()
        eventually(lambda: plain.status()["queue"], "the broker answers")
        yield fleet, plain
    finally:
        plain.close()
        fleet.close()


@pytest.mark.slow
def test_a_worker_with_a_secret_tells_a_plain_broker_by_name_and_joins_once_it_is_encrypted(
    changing: tuple[Encrypted, Fleet],
) -> None:
    fleet, plain = changing
    place = fleet.way_in(Role.WORKER)
    said = Said(fleet.launch_worker("kitchen", at=place, stderr=subprocess.PIPE))
    said.wait("it has other keys, or none")
    assert plain.broker is not None
    plain.broker.kill()
    plain.broker.wait()
    fleet.start_broker()
    said.wait("connected to the broker")
    eventually(lambda: "kitchen" in fleet.names(), "it joins")


@pytest.mark.slow
def test_a_client_that_is_kept_out_is_told_why_and_comes_in_when_it_may(
    changing: tuple[Encrypted, Fleet],
) -> None:
    fleet, plain = changing
    with pytest.raises(RequestFailed, match="it has other keys, or none") as refused:
        fleet.client.submit(CAT, timeout=1.0).result(PATIENCE)
    assert refused.value.reason is Reason.NO_BROKER
    plain.start_worker("kitchen")
    assert plain.broker is not None
    plain.broker.kill()
    plain.broker.wait()
    fleet.start_broker()
    eventually(lambda: fleet.status()["queue"], "it comes in")
    fleet.keyring.revoke("tester")
    eventually(lambda: "refuses this key" in why(fleet.client), "it is told")


def why(client: BrokerClient) -> str:
    """Why a picture is not answered."""
    try:
        client.submit(CAT, timeout=0.3).result(PATIENCE)
    except RequestFailed as failed:
        return str(failed)
    return ""


# --- lines made by an admin -------------------------------------------------------------------


def test_an_admin_makes_a_line_by_the_front_that_lets_a_worker_in(encrypted: Encrypted) -> None:
    done, line = encrypted.client.control(Op.JOIN, "kitchen")
    assert done
    program, place = line.strip("'").rsplit(" '", 1)
    assert program == "python worker.py"
    encrypted.launch_worker("kitchen", at=place)
    eventually(lambda: "kitchen" in encrypted.names(), "it joins")
    assert place.partition("#")[2] not in str(encrypted.status())
    done, why = encrypted.client.control(Op.JOIN, "kitchen")
    assert not done and "python keys.py revoke kitchen" in why


def test_a_front_key_makes_no_line(encrypted: Encrypted) -> None:
    office = BrokerClient([encrypted.way_in(Role.FRONT)])
    try:
        with pytest.raises(NotAllowed):
            office.control(Op.JOIN, "")
    finally:
        office.close()


def test_a_line_without_a_secret_is_told_where_none_is_needed(fleet: Fleet) -> None:
    assert fleet.client.control(Op.JOIN, "") == (True, f"python worker.py {fleet.backend}")


def test_no_line_is_made_for_whoever_reaches_an_insecure_front(tmp_path: Path) -> None:
    keyring = Keyring.create(tmp_path / "keys")
    security = Security(Gate(keyring), front=False, back=True)
    with pytest.raises(BadKeys, match=r"python keys\.py join"):
        security.make_join_command("tcp://0.0.0.0:5555", "tcp://0.0.0.0:5556", "harbour", "")
    assert keyring.allowed().entries() == []
    line = security.make_join_command("tcp://127.0.0.1:1", "tcp://0.0.0.0:5556", "harbour", "")
    assert line.startswith("python worker.py 'tcp://harbour:5556#")


# --- beyond loopback --------------------------------------------------------------------------


def refused(main: Callable[[list[str]], int], *argv: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(list(argv))
    assert left.value.code == 2


@pytest.mark.parametrize("flag", ["--frontend", "--backend"])
def test_a_port_beyond_loopback_without_keys_is_refused_with_the_command_that_makes_them(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    refused(broker_program.main, flag, "tcp://0.0.0.0:0")
    told = capsys.readouterr().err
    assert "python keys.py init" in told and "--insecure" in told


def test_keys_open_to_others_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring = Keyring.create(tmp_path / "keys")
    (keyring.folder / ALLOWED).chmod(0o644)
    refused(broker_program.main, "--keys", str(keyring.folder), "--encrypt", "always")
    assert "chmod 600" in capsys.readouterr().err


def chosen(*argv: str) -> Security:
    options = broker_program.parser().parse_args(argv)
    ports = options.frontend, options.backend
    return Security.chosen(*ports, options.keys, options.encrypt, options.insecure)


def test_a_port_is_encrypted_beyond_loopback_or_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Keyring.create(tmp_path / ".config" / "spyglass")
    other = Keyring.create(tmp_path / "other").folder
    beyond = ("--backend", "tcp://0.0.0.0:5556")

    def ports(security: Security) -> tuple[bool, bool]:
        return security.front, security.back

    assert ports(chosen()) == (False, False)
    assert ports(chosen(*beyond)) == (False, True)
    assert ports(chosen(*beyond, "--insecure")) == (False, False)
    assert ports(chosen("--encrypt", "always")) == (True, True)
    assert ports(chosen("--keys", str(other))) == (False, False)
    assert chosen(*beyond, "--keys", str(other)).folder == other
    with pytest.raises(BadKeys, match="exclude each other"):
        chosen("--encrypt", "always", "--insecure")


def test_an_insecure_port_is_told_in_the_log_and_on_the_status_page() -> None:
    fleet = Fleet(backend=f"tcp://0.0.0.0:{free_port()}")
    try:
        said = Said(fleet.start_broker("--insecure", stderr=subprocess.PIPE))
        said.wait("the backend is open to everybody on its network, unencrypted")
        eventually(lambda: fleet.status()["queue"], "the broker answers")
        security = fleet.status()["broker"]["security"]
        assert security == {"frontend": "loopback", "backend": "insecure"}
    finally:
        fleet.close()


def test_a_worker_listens_beyond_loopback_only_with_a_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "tcp://0.0.0.0:8888"
    refused(worker_program.main, "--listen", place)
    assert "python keys.py init" in capsys.readouterr().err
    _, login = Keyring.create(tmp_path / "keys").issue(Role.WORKER)
    assert safe_to_listen(place, login)
    assert safe_to_listen("tcp://127.0.0.1:8888", None)


def test_a_damaged_secret_is_wrong_usage_and_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, login = Keyring.create(tmp_path / "keys").issue(Role.WORKER)
    place = join("tcp://127.0.0.1:5556", login)[:-1]
    refused(worker_program.main, place)
    told = capsys.readouterr().err
    monkeypatch.setenv("SPYGLASS_BROKERS", place)
    refused(worker_program.main)
    told += capsys.readouterr().err
    assert told.count("python keys.py join") >= 2
    assert login.text()[:20] not in told


# --- junk -------------------------------------------------------------------------------------


def test_junk_on_encrypted_ports_leaves_the_broker_answering(encrypted: Encrypted) -> None:
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


def test_no_secret_shows_in_what_the_programs_write_or_tell(encrypted: Encrypted) -> None:
    place = encrypted.way_in(Role.WORKER, "kitchen")
    worker = encrypted.launch_worker("kitchen", at=place, stderr=subprocess.PIPE)
    said = Said(worker)
    eventually(lambda: "kitchen" in encrypted.names(), "it joins")
    encrypted.keyring.revoke("kitchen")
    said.wait("refuses this key")
    assert b"#" not in Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    secret = place.partition("#")[2]
    assert secret[:20] not in "".join(said.lines) + str(encrypted.status())
    assert "its key was revoked" in str(encrypted.status()["departed"])
    assert re.search(rf"at {re.escape(encrypted.backend)} refuses", "".join(said.lines))


@pytest.mark.parametrize("written", ["--listen PLACE", "--listen=PLACE", "--li PLACE"])
def test_no_secret_shows_in_the_command_line_of_a_worker_that_listens(
    encrypted: Encrypted, written: str
) -> None:
    place = f"tcp://127.0.0.1:{free_port()}"
    secret = encrypted.way_in(Role.WORKER, "cellar", place)
    flags = written.replace("PLACE", secret).split()
    command = ["tests/stand_in.py", *flags, "--processes", "1", "--name", "cellar#1"]
    worker = encrypted.start(*command)
    assert encrypted.client.control(Op.ADD, place)[0]
    eventually(lambda: "cellar#1" in encrypted.names(), "it is dialled")
    words = Path(f"/proc/{worker.pid}/cmdline").read_bytes().decode().split("\0")
    assert secret.partition("#")[2] not in "".join(words)
    assert words[2:-1] == ["--processes", "1", "--name", "cellar#1"]


def test_make_run_gives_its_own_parts_keys_to_encrypted_ports_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keyring = Keyring.create(tmp_path / ".config" / "spyglass")
    env = {
        "SPYGLASS_FRONTEND": "tcp://127.0.0.1:5555",
        "SPYGLASS_BACKEND": "tcp://0.0.0.0:5556",
        "SPYGLASS_BROKER": "tcp://127.0.0.1:5555",
        "SPYGLASS_BROKERS": "tcp://0.0.0.0:5556",
    }
    for _ in range(2):  # the second time replaces the first
        told = dict(env)
        run.let_in(told)
    assert told["SPYGLASS_BROKER"] == "tcp://127.0.0.1:5555"
    place, login = split(told["SPYGLASS_BROKERS"])
    assert place == "tcp://127.0.0.1:5556"
    assert login is not None
    assert [e.public for e in keyring.allowed().entries()] == [login.public.decode()]
