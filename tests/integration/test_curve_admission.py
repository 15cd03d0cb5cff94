"""Which key is valid on which port, what revoking one does, and that in doubt none is valid."""

from __future__ import annotations

import pytest
import zmq
from encrypting import Sockets, comes_in, stays_out

from spyglass.client.session import NotAllowed
from spyglass.client.thread_client import BrokerClient
from spyglass.keys.keyring import ALLOWED, Role
from spyglass.protocol import Ack, Direction, Op, Result
from spyglass.transport.credentials import ClientKeys
from testbed.encrypted import EncryptedFleet
from testbed.fleet import CAT
from testbed.peers import picture_request
from testbed.processes import PATIENCE, eventually

# --- allowed keys -----------------------------------------------------------------------------


def test_each_key_opens_its_own_port_only(sockets: Sockets) -> None:
    work, front, admin = (
        sockets.client_keys(role) for role in (Role.WORKER, Role.FRONT, Role.ADMIN)
    )
    assert comes_in(sockets.worker(work))
    assert comes_in(sockets.front(front))
    assert comes_in(sockets.front(admin))
    strangers = [sockets.worker(front), sockets.worker(admin), sockets.front(work)]
    assert all(stays_out(peer) for peer in strangers)


def test_unknown_keys_and_unencrypted_peers_are_refused(sockets: Sockets) -> None:
    known = sockets.client_keys(Role.WORKER)
    _, secret = zmq.curve_keypair()
    _, elsewhere = zmq.curve_keypair()
    unknown = ClientKeys(known.broker, secret)
    misled = ClientKeys(zmq.curve_public(elsewhere), known.secret)
    workers = [sockets.worker(client_keys) for client_keys in (unknown, misled, None)]
    strangers = [*workers, sockets.front(None)]
    assert all(stays_out(peer) for peer in strangers)
    assert comes_in(sockets.worker(known))


def test_a_key_is_valid_as_soon_as_it_is_made(sockets: Sockets) -> None:
    for _ in range(3):
        assert comes_in(sockets.worker(sockets.client_keys(Role.WORKER)))


def test_a_front_key_may_look_and_only_an_admins_may_change_the_fleet(
    encrypted: EncryptedFleet,
) -> None:
    encrypted.start_worker("kitchen")
    target = encrypted.worker("kitchen")["id"]
    office = BrokerClient([encrypted.address_for(Role.FRONT, "office")])
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


# --- revoked keys -----------------------------------------------------------------------------


def test_a_revoked_worker_is_removed_at_once_and_its_work_goes_to_another(
    sockets: Sockets,
) -> None:
    doomed = sockets.worker(sockets.client_keys(Role.WORKER, "doomed"))
    doomed.join("doomed")
    eventually(lambda: sockets.names() == ["doomed"], "it joins")
    asker = sockets.front(sockets.client_keys(Role.FRONT))
    request = picture_request()
    asker.send(request)
    held = doomed.request()
    doomed.send(Ack(held.id))
    heir = sockets.worker(sockets.client_keys(Role.WORKER, "heir"))
    heir.join("heir")
    eventually(lambda: len(sockets.names()) == 2, "it joins")

    sockets.keyring.revoke("doomed")
    eventually(lambda: sockets.names() == ["heir"], "it is removed", within=1.0)
    heir.serve(heir.request())
    answer = asker.receive(Direction.BROKER_TO_CLIENT)
    while isinstance(answer, Ack):
        answer = asker.receive(Direction.BROKER_TO_CLIENT)
    assert isinstance(answer, Result) and answer.worker == "heir"
    eventually(lambda: stays_out(doomed), "it is cut off, and does not come back", within=2.0)


def test_a_revoked_front_gets_nothing_more(sockets: Sockets) -> None:
    worker = sockets.worker(sockets.client_keys(Role.WORKER))
    worker.join("kitchen")
    asker = sockets.front(sockets.client_keys(Role.FRONT, "office"))
    asker.send(picture_request())
    held = worker.request()
    worker.send(Ack(held.id))
    sockets.keyring.revoke("office")
    eventually(lambda: stays_out(asker), "its connection is cut", within=2.0)
    worker.answer(held.id)
    heard = []
    while (message := asker.receive(Direction.BROKER_TO_CLIENT, 300)) is not None:
        heard.append(message)
    assert not any(isinstance(message, Result) for message in heard)


def test_what_a_revoked_peer_had_sent_is_not_read_any_more(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where its connection cannot be cut, each message is checked by its own User-Id."""
    monkeypatch.setattr("spyglass.transport.peers.PeerTracker.disconnect", lambda *_: None)
    asker = sockets.front(sockets.client_keys(Role.FRONT, "office"))
    asker.send(picture_request())
    assert isinstance(asker.receive(Direction.BROKER_TO_CLIENT), Ack)
    sockets.keyring.revoke("office")
    accepted = sockets.broker.dispatcher.journal.counters.accepted
    eventually(lambda: _revoked(sockets, "office"), "the broker has read it")
    asker.send(picture_request())
    assert asker.receive(Direction.BROKER_TO_CLIENT, 300) is None
    assert sockets.broker.dispatcher.journal.counters.accepted == accepted


def _revoked(sockets: Sockets, name: str) -> bool:
    """Whether the broker's loop has read the list without this name."""
    return name not in [entry.name for entry in sockets.authority.allowed.entries()]


def test_without_its_list_of_keys_the_broker_disconnects_everybody(sockets: Sockets) -> None:
    worker = sockets.worker(sockets.client_keys(Role.WORKER))
    worker.join("kitchen")
    eventually(sockets.names, "it joins")
    (sockets.keyring.folder / ALLOWED).unlink()
    eventually(lambda: not sockets.names(), "it is removed", within=1.0)
    eventually(lambda: stays_out(worker), "it is cut off", within=2.0)


# --- ZAP fails closed -------------------------------------------------------------------------


def test_when_the_thread_that_checks_keys_has_ended_nobody_can_connect(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_keys = sockets.client_keys(Role.WORKER)
    assert comes_in(sockets.worker(client_keys))
    # Else the broker would notice, and end.
    monkeypatch.setattr(sockets.authority, "refresh_if_due", lambda now: None)
    sockets.authority.close()
    assert stays_out(sockets.worker(client_keys))
    assert stays_out(sockets.worker(client_keys))


def test_a_broker_ends_when_the_thread_that_checks_keys_has_ended(sockets: Sockets) -> None:
    sockets.authority.close()
    sockets.thread.join(PATIENCE)
    assert "the thread that checks keys has ended" in str(sockets.failure)


def test_an_encrypted_port_without_a_zap_handler_accepts_nobody(
    sockets: Sockets,
) -> None:
    """ZAP_ENFORCE_DOMAIN: without it libzmq would let everybody in."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    from spyglass.transport.socket_options import router

    port = router(context, sockets.authority.server_keys("worker"))
    number = port.bind_to_random_port("tcp://127.0.0.1")
    try:
        peer = sockets.peer(f"tcp://127.0.0.1:{number}", sockets.client_keys(Role.WORKER))
        assert stays_out(peer)
    finally:
        context.destroy(linger=0)
