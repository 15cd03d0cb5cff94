"""Which ports are encrypted, by their addresses and flags, and what is refused at the start."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spyglass.broker import cli as broker_program
from spyglass.keys.keyring import ALLOWED, BadKeys, Keyring, Role
from spyglass.keys.port_policy import PortPolicy
from spyglass.local import run
from spyglass.transport.credentials import add_keys, split_address
from spyglass.worker import cli as worker_program
from spyglass.worker.cli import safe_to_listen
from testbed.fleet import Fleet
from testbed.processes import Output, free_port


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
    output = capsys.readouterr().err
    assert "python keys.py init" in output and "--insecure" in output


def test_keys_open_to_others_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring = Keyring.create(tmp_path / "keys")
    (keyring.folder / ALLOWED).chmod(0o644)
    refused(broker_program.main, "--keys", str(keyring.folder), "--encrypt", "always")
    assert "chmod 600" in capsys.readouterr().err


def chosen(*argv: str) -> PortPolicy:
    options = broker_program.parser().parse_args(argv)
    ports = options.frontend, options.backend
    return PortPolicy.from_flags(*ports, options.keys, options.encrypt, options.insecure)


def test_a_port_is_encrypted_beyond_loopback_or_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Keyring.create(tmp_path / ".config" / "spyglass")
    other = Keyring.create(tmp_path / "other").folder
    beyond = ("--backend", "tcp://0.0.0.0:5556")

    def ports(port_policy: PortPolicy) -> tuple[bool, bool]:
        return port_policy.front, port_policy.back

    assert ports(chosen()) == (False, False)
    assert ports(chosen(*beyond)) == (False, True)
    assert ports(chosen(*beyond, "--insecure")) == (False, False)
    assert ports(chosen("--encrypt", "always")) == (True, True)
    assert ports(chosen("--keys", str(other))) == (False, False)
    assert chosen(*beyond, "--keys", str(other)).folder == other
    with pytest.raises(BadKeys, match="exclude each other"):
        chosen("--encrypt", "always", "--insecure")


def test_an_insecure_port_is_reported_in_the_log_and_on_the_status_page() -> None:
    fleet = Fleet(backend=f"tcp://0.0.0.0:{free_port()}")
    try:
        output = Output(fleet.start_broker("--insecure", stderr=subprocess.PIPE))
        output.wait_for("the backend is open to everybody on its network, unencrypted")
        fleet.wait_for_broker()
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
    _, client_keys = Keyring.create(tmp_path / "keys").issue(Role.WORKER)
    assert safe_to_listen(place, client_keys)
    assert safe_to_listen("tcp://127.0.0.1:8888", None)


def test_a_damaged_secret_is_wrong_usage_and_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, client_keys = Keyring.create(tmp_path / "keys").issue(Role.WORKER)
    place = add_keys("tcp://127.0.0.1:5556", client_keys)[:-1]
    refused(worker_program.main, place)
    output = capsys.readouterr().err
    monkeypatch.setenv("SPYGLASS_BROKERS", place)
    refused(worker_program.main)
    output += capsys.readouterr().err
    assert output.count("python keys.py join") >= 2
    assert client_keys.text()[:20] not in output


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
        given = dict(env)
        run.give_keys(given)
    assert given["SPYGLASS_BROKER"] == "tcp://127.0.0.1:5555"
    place, client_keys = split_address(given["SPYGLASS_BROKERS"])
    assert place == "tcp://127.0.0.1:5556"
    assert client_keys is not None
    assert [e.public for e in keyring.allowed().entries()] == [client_keys.public.decode()]
