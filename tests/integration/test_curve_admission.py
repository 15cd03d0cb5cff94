"""Which key is valid on which port, what revoking one does, and that in doubt none is valid."""

from __future__ import annotations

import pytest
import zmq
from broker_thread import BrokerThread, gets_connected, stays_unconnected

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


def test_each_key_opens_its_own_port_only(broker_thread: BrokerThread) -> None:
    work, front, admin = (
        broker_thread.client_keys(role) for role in (Role.WORKER, Role.FRONT, Role.ADMIN)
    )
    assert gets_connected(broker_thread.worker(work))
    assert gets_connected(broker_thread.front(front))
    assert gets_connected(broker_thread.front(admin))
    strangers = [
        broker_thread.worker(front),
        broker_thread.worker(admin),
        broker_thread.front(work),
    ]
    assert all(stays_unconnected(peer) for peer in strangers)


def test_unknown_keys_and_unencrypted_peers_are_refused(broker_thread: BrokerThread) -> None:
    known = broker_thread.client_keys(Role.WORKER)
    _, secret = zmq.curve_keypair()
    _, elsewhere = zmq.curve_keypair()
    unknown = ClientKeys(known.broker, secret)
    misled = ClientKeys(zmq.curve_public(elsewhere), known.secret)
    workers = [broker_thread.worker(client_keys) for client_keys in (unknown, misled, None)]
    strangers = [*workers, broker_thread.front(None)]
    assert all(stays_unconnected(peer) for peer in strangers)
    assert gets_connected(broker_thread.worker(known))


def test_a_key_is_valid_as_soon_as_it_is_made(broker_thread: BrokerThread) -> None:
    for _ in range(3):
        assert gets_connected(broker_thread.worker(broker_thread.client_keys(Role.WORKER)))


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
    broker_thread: BrokerThread,
) -> None:
    doomed = broker_thread.worker(broker_thread.client_keys(Role.WORKER, "doomed"))
    doomed.join("doomed")
    eventually(lambda: broker_thread.names() == ["doomed"], "it joins")
    asker = broker_thread.front(broker_thread.client_keys(Role.FRONT))
    request = picture_request()
    asker.send(request)
    held = doomed.request()
    doomed.send(Ack(held.id))
    heir = broker_thread.worker(broker_thread.client_keys(Role.WORKER, "heir"))
    heir.join("heir")
    eventually(lambda: len(broker_thread.names()) == 2, "it joins")

    broker_thread.keyring.revoke("doomed")
    eventually(lambda: broker_thread.names() == ["heir"], "it is removed", within=1.0)
    heir.serve(heir.request())
    answer = asker.receive(Direction.BROKER_TO_CLIENT)
    while isinstance(answer, Ack):
        answer = asker.receive(Direction.BROKER_TO_CLIENT)
    assert isinstance(answer, Result) and answer.worker == "heir"
    eventually(
        lambda: stays_unconnected(doomed), "it is cut off, and does not come back", within=2.0
    )


def test_a_revoked_front_gets_nothing_more(broker_thread: BrokerThread) -> None:
    worker = broker_thread.worker(broker_thread.client_keys(Role.WORKER))
    worker.join("kitchen")
    asker = broker_thread.front(broker_thread.client_keys(Role.FRONT, "office"))
    asker.send(picture_request())
    held = worker.request()
    worker.send(Ack(held.id))
    broker_thread.keyring.revoke("office")
    eventually(lambda: stays_unconnected(asker), "its connection is cut", within=2.0)
    worker.answer(held.id)
    received = []
    while (message := asker.receive(Direction.BROKER_TO_CLIENT, 300)) is not None:
        received.append(message)
    assert not any(isinstance(message, Result) for message in received)


def test_what_a_revoked_peer_had_sent_is_not_read_any_more(
    broker_thread: BrokerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where its connection cannot be cut, each message is checked by its own User-Id."""
    monkeypatch.setattr("spyglass.transport.peers.PeerTracker.disconnect", lambda *_: None)
    asker = broker_thread.front(broker_thread.client_keys(Role.FRONT, "office"))
    asker.send(picture_request())
    assert isinstance(asker.receive(Direction.BROKER_TO_CLIENT), Ack)
    broker_thread.keyring.revoke("office")
    accepted = broker_thread.broker.dispatcher.journal.counters.accepted
    eventually(lambda: _revoked(broker_thread, "office"), "the broker has read it")
    asker.send(picture_request())
    assert asker.receive(Direction.BROKER_TO_CLIENT, 300) is None
    assert broker_thread.broker.dispatcher.journal.counters.accepted == accepted


def _revoked(broker_thread: BrokerThread, name: str) -> bool:
    """Whether the broker's loop has read the list without this name."""
    return name not in [entry.name for entry in broker_thread.authority.allowed.entries()]


def test_without_its_list_of_keys_the_broker_disconnects_everybody(
    broker_thread: BrokerThread,
) -> None:
    worker = broker_thread.worker(broker_thread.client_keys(Role.WORKER))
    worker.join("kitchen")
    eventually(broker_thread.names, "it joins")
    (broker_thread.keyring.folder / ALLOWED).unlink()
    eventually(lambda: not broker_thread.names(), "it is removed", within=1.0)
    eventually(lambda: stays_unconnected(worker), "it is cut off", within=2.0)


# --- ZAP fails closed -------------------------------------------------------------------------


def test_when_the_thread_that_checks_keys_has_ended_nobody_can_connect(
    broker_thread: BrokerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_keys = broker_thread.client_keys(Role.WORKER)
    assert gets_connected(broker_thread.worker(client_keys))
    # Else the broker would notice, and end.
    monkeypatch.setattr(broker_thread.authority, "refresh_if_due", lambda now: None)
    broker_thread.authority.close()
    assert stays_unconnected(broker_thread.worker(client_keys))
    assert stays_unconnected(broker_thread.worker(client_keys))


def test_a_broker_ends_when_the_thread_that_checks_keys_has_ended(
    broker_thread: BrokerThread,
) -> None:
    broker_thread.authority.close()
    broker_thread.thread.join(PATIENCE)
    assert "the thread that checks keys has ended" in str(broker_thread.failure)


def test_an_encrypted_port_without_a_zap_handler_accepts_nobody(
    broker_thread: BrokerThread,
) -> None:
    """ZAP_ENFORCE_DOMAIN: without it libzmq would let everybody in."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    from spyglass.transport.socket_options import router

    port = router(context, broker_thread.authority.server_keys("worker"))
    number = port.bind_to_random_port("tcp://127.0.0.1")
    try:
        peer = broker_thread.peer(
            f"tcp://127.0.0.1:{number}", broker_thread.client_keys(Role.WORKER)
        )
        assert stays_unconnected(peer)
    finally:
        context.destroy(linger=0)
