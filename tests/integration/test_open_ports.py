"""A port that other machines may reach never opens without a line in the log."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from spyglass.keys.keyring import Keyring, Role
from testbed.fleet import Fleet, Site
from testbed.processes import Output, eventually, free_port


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("SPYGLASS_")]:
        monkeypatch.delenv(variable)


def reaches(host: str, port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex((host, port)) == 0


@pytest.mark.parametrize("flags", [[], ["--host", ""]], ids=["variable", "flag"])
def test_an_empty_host_is_loopback(fleet: Fleet, flags: list[str]) -> None:
    port = free_port()
    env = {**os.environ, "SPYGLASS_HOST": ""}
    fleet.start("web.py", "--port", str(port), *flags, env=env)
    eventually(lambda: reaches("127.0.0.1", port), "the web listens")
    # All of 127.0.0.0/8 leads to this machine: what listens everywhere answers there too.
    assert not reaches("127.0.0.2", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::"])
def test_a_web_that_other_machines_may_reach_logs_so_at_every_level(
    fleet: Fleet, host: str
) -> None:
    flags = ["--host", host, "--port", "0", "--log-level", "error"]
    output = Output(fleet.start("web.py", *flags, stderr=subprocess.PIPE))
    line = output.wait_for("other machines may reach port")
    assert line.rstrip().endswith("at ::" if host == "::" else "at 0.0.0.0")


def test_a_web_on_loopback_logs_nothing_about_other_machines() -> None:
    site = Site()
    try:
        site.start_broker()
        app = site.start_web(stderr=subprocess.PIPE)
        app.terminate()
        told = app.communicate(timeout=30)[1]
        assert b"open http://127.0.0.1:" in told and b"other machines" not in told
    finally:
        site.close()


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_broker_that_other_machines_may_reach_logs_so_at_every_level(
    tmp_path: Path, encrypted: bool
) -> None:
    folder = Keyring.create(tmp_path / "keys").folder
    flags = ["--keys", str(folder)] if encrypted else ["--insecure"]
    fleet = Fleet(backend=f"tcp://0.0.0.0:{free_port()}")
    try:
        quiet = ["--log-level", "error"]
        output = Output(fleet.start_broker(*flags, *quiet, stderr=subprocess.PIPE))
        output.wait_for(f"other machines may reach the backend at {fleet.backend}")
        if not encrypted:
            output.wait_for("the backend is open to everybody on its network, unencrypted")
        assert "frontend" not in "".join(output.lines)
    finally:
        fleet.close()


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_worker_that_other_machines_may_reach_logs_so_at_every_level(
    fleet: Fleet, tmp_path: Path, encrypted: bool
) -> None:
    place = f"tcp://0.0.0.0:{free_port()}"
    env, flags = dict(os.environ), ["--listen", place, "--insecure", "--log-level", "error"]
    if encrypted:
        _, client_keys = Keyring.create(tmp_path / "keys").issue(Role.WORKER)
        env["SPYGLASS_LISTEN"] = f"{place}#{client_keys.text()}"
        del flags[:3]
    output = Output(fleet.run_worker("cellar", [], *flags, env=env, stderr=subprocess.PIPE))
    how = "encrypted" if encrypted else "unencrypted, and open to everybody there"
    output.wait_for(f"other machines may reach this worker at {place}: {how}")
