"""`spyglass doctor` says whether a broker can be reached, and as whom."""

from __future__ import annotations

import socket

import pytest

from spyglass import doctor
from spyglass.doctor import Level, check_broker, check_workers_port
from spyglass.keys.keyring import Role
from testbed.encrypted import EncryptedFleet
from testbed.fleet import Fleet
from testbed.processes import free_address


def test_a_broker_that_answers_says_how_many_workers_it_has(fleet: Fleet) -> None:
    fleet.start_worker("attic")
    (finding,) = check_broker(fleet.frontend, named=True)
    assert finding.level is Level.OK
    assert "as an admin" in finding.text and "1 workers" in finding.text


def test_a_broker_that_was_named_and_does_not_answer_is_a_problem() -> None:
    place = free_address()
    (named,) = check_broker(place, named=True)
    assert named.level is Level.PROBLEM
    assert place in named.text
    (default,) = check_broker(place, named=False)
    assert default.level is Level.NOTE
    assert "make run" in default.text


@pytest.mark.parametrize(
    ("role", "may"), [(Role.ADMIN, "as an admin"), (Role.FRONT, "as a client")]
)
def test_it_says_what_a_key_may_do(encrypted: EncryptedFleet, role: Role, may: str) -> None:
    place = encrypted.address_for(role, "this-machine")
    (finding,) = check_broker(place, named=True)
    assert finding.level is Level.OK
    assert may in finding.text
    assert place.partition("#")[2] not in finding.text


def test_a_revoked_key_is_a_problem_that_does_not_show_it(encrypted: EncryptedFleet) -> None:
    front, worker = (encrypted.address_for(role, role.value) for role in (Role.FRONT, Role.WORKER))
    assert check_workers_port(worker).level is Level.OK
    for role in (Role.FRONT, Role.WORKER):
        encrypted.keyring.revoke(role.value)
    for finding in (*check_broker(front, named=True), check_workers_port(worker)):
        assert finding.level is Level.PROBLEM
        assert "refuses this key" in finding.text
        assert front.partition("#")[2] not in finding.text
        assert worker.partition("#")[2] not in finding.text


def test_a_workers_port_is_looked_at_without_joining(fleet: Fleet) -> None:
    assert check_workers_port(fleet.backend).level is Level.OK
    assert fleet.names() == []
    assert fleet.status()["counters"]["bad_frames"] == 0


def test_a_workers_port_where_nobody_or_no_broker_is_is_a_problem() -> None:
    assert check_workers_port(free_address()).level is Level.PROBLEM
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and says nothing
        place = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert check_workers_port(place).level is Level.PROBLEM


def test_a_broker_of_another_release_is_a_note(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "__version__", "9.9")
    _, finding = check_broker(fleet.frontend, named=True)
    assert finding.level is Level.NOTE
    assert "9.9" in finding.text
