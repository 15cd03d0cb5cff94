"""What peers of encrypted ports are shown: why they are refused, and how to join."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from spyglass.client.session import NotAllowed
from spyglass.client.thread_client import BrokerClient, RequestFailed
from spyglass.keys.authority import KeyAuthority
from spyglass.keys.keyring import BadKeys, Keyring, Role
from spyglass.keys.port_policy import PortPolicy
from spyglass.protocol import Op, Reason
from spyglass.transport.credentials import add_keys
from testbed.encrypted import EncryptedFleet
from testbed.fleet import CAT, Fleet
from testbed.processes import PATIENCE, Output, eventually

# --- why a peer is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        "revoked",
        "front key",
        pytest.param("no key", marks=pytest.mark.slow),
        pytest.param("other keys", marks=pytest.mark.slow),
    ],
)
def test_a_refused_worker_logs_why_and_what_to_do(
    encrypted: EncryptedFleet, tmp_path: Path, case: str
) -> None:
    if case == "front key":
        _, client_keys = encrypted.keyring.issue(Role.FRONT, "kitchen")
    else:
        other = Keyring.create(tmp_path / "other")
        _, client_keys = (other if case == "other keys" else encrypted.keyring).issue(
            Role.WORKER, "k"
        )
    if case == "revoked":
        encrypted.keyring.revoke("k")
    place = encrypted.backend if case == "no key" else add_keys(encrypted.backend, client_keys)
    output = Output(encrypted.launch_worker("kitchen", at=place, stderr=subprocess.PIPE))
    why = "it has other keys, or none" if case == "other keys" else "refuses this key"
    line = output.wait_for("this address has none" if case == "no key" else why)
    assert "python keys.py join" in line
    assert client_keys.text()[:20] not in "".join(output.lines)
    assert "kitchen" not in encrypted.names()


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[tuple[EncryptedFleet, Fleet]]:
    """An encrypted fleet whose broker is not started yet, and a plain one that stands there."""
    fleet = EncryptedFleet(tmp_path / "keys")
    plain = Fleet(fleet.frontend, fleet.backend)
    try:
        plain.start_broker()
        plain.wait_for_broker()
        yield fleet, plain
    finally:
        plain.close()
        fleet.close()


@pytest.mark.slow
def test_a_worker_with_a_secret_reports_an_unencrypted_broker_and_joins_once_it_is_encrypted(
    changing: tuple[EncryptedFleet, Fleet],
) -> None:
    fleet, plain = changing
    place = fleet.address_for(Role.WORKER)
    output = Output(fleet.launch_worker("kitchen", at=place, stderr=subprocess.PIPE))
    output.wait_for("it has other keys, or none")
    assert plain.broker is not None
    plain.broker.kill()
    plain.broker.wait()
    fleet.start_broker()
    output.wait_for("connected to the broker")
    eventually(lambda: "kitchen" in fleet.names(), "it joins")


@pytest.mark.slow
def test_a_refused_client_gets_the_reason_and_connects_once_it_is_allowed(
    changing: tuple[EncryptedFleet, Fleet],
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


# --- join commands made by an admin -----------------------------------------------------------


def test_an_admin_makes_a_join_command_with_which_a_worker_joins(encrypted: EncryptedFleet) -> None:
    done, line = encrypted.client.control(Op.JOIN, "kitchen")
    assert done
    program, place = line.strip("'").rsplit(" '", 1)
    assert program == "python worker.py"
    encrypted.launch_worker("kitchen", at=place)
    eventually(lambda: "kitchen" in encrypted.names(), "it joins")
    assert place.partition("#")[2] not in str(encrypted.status())
    done, why = encrypted.client.control(Op.JOIN, "kitchen")
    assert not done and "python keys.py revoke kitchen" in why


def test_a_front_key_makes_no_join_command(encrypted: EncryptedFleet) -> None:
    office = BrokerClient([encrypted.address_for(Role.FRONT)])
    try:
        with pytest.raises(NotAllowed):
            office.control(Op.JOIN, "")
    finally:
        office.close()


def test_a_join_command_has_no_secret_where_none_is_needed(fleet: Fleet) -> None:
    assert fleet.client.control(Op.JOIN, "") == (True, f"python worker.py {fleet.backend}")


def test_no_join_command_is_made_at_an_insecure_front(tmp_path: Path) -> None:
    keyring = Keyring.create(tmp_path / "keys")
    port_policy = PortPolicy(KeyAuthority(keyring), front=False, back=True)
    with pytest.raises(BadKeys, match=r"python keys\.py join"):
        port_policy.make_join_command("tcp://0.0.0.0:5555", "tcp://0.0.0.0:5556", "harbour", "")
    assert keyring.allowed().entries() == []
    line = port_policy.make_join_command("tcp://127.0.0.1:1", "tcp://0.0.0.0:5556", "harbour", "")
    assert line.startswith("python worker.py 'tcp://harbour:5556#")
