"""What an empty value means, and that a port which others may reach never opens in silence."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Fleet, Site, eventually
from encrypting import Said

from chaos.fleet import free_port
from spyglass.broker import cli as broker_cli
from spyglass.client import cli as client_cli
from spyglass.keys import cli as keys_cli
from spyglass.keys.keyring import Keyring, Role
from spyglass.local import run
from spyglass.runtime import settings
from spyglass.web import cli as web_cli
from spyglass.web.http import token
from spyglass.worker import cli as worker_cli

#: Each program, and the least words that it needs.
PROGRAMS: dict[str, tuple[Any, list[str]]] = {
    "broker": (broker_cli, []),
    "worker": (worker_cli, []),
    "web": (web_cli, []),
    "client": (client_cli, ["cat.jpg"]),
    "keys": (keys_cli, ["list"]),
}

each_program = pytest.mark.parametrize("program, words", PROGRAMS.values(), ids=PROGRAMS)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("SPYGLASS_")]:
        monkeypatch.delenv(variable)


def actions(program: Any) -> list[argparse.Action]:
    """Those that take a value; of keys.py, those of one of its commands."""
    parser = program.parser()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser = action.choices["list"]
    return [action for action in parser._actions if action.nargs != 0]


# --- empty values -----------------------------------------------------------------------------


@each_program
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_counts_as_not_set(
    program: Any, words: list[str], empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = program.parser().parse_args(words)
    for action in actions(program):
        monkeypatch.setenv(f"SPYGLASS_{action.dest.upper()}", empty)
    assert program.parser().parse_args(words) == usual


@each_program
def test_an_empty_value_of_a_flag_counts_as_not_given(program: Any, words: list[str]) -> None:
    usual = program.parser().parse_args(words)
    for action in actions(program):
        if action.option_strings and not isinstance(action, argparse._AppendAction):
            flag = action.option_strings[-1]
            assert program.parser().parse_args([*words, flag, ""]) == usual, flag


def test_behind_an_empty_flag_its_variable_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPYGLASS_PORT", "9000")
    assert web_cli.parser().parse_args(["--port", ""]).port == 9000
    assert web_cli.parser().parse_args(["--port", "9001"]).port == 9001


def test_an_empty_value_of_a_flag_that_may_be_repeated_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        web_cli.parser().parse_args(["--broker", ""])
    assert "--broker: '' is not an address" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["SPYGLASS_BROKER", "SPYGLASS_ALLOWED_HOST"])
def test_a_wrong_word_in_a_variable_of_several_is_a_sentence(variable: str) -> None:
    env = {**os.environ, variable: "/wrong/"}
    ended = subprocess.run(
        [sys.executable, "web.py"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert f"web.py: error: {variable}: '/wrong/' is no" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_make_run_hands_on_no_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = run.environment()
    for variable in ("HOST", "PORT", "FRONTEND", "BACKEND", "KEYS", "ENCRYPT", "PROCESSES"):
        monkeypatch.setenv(f"SPYGLASS_{variable}", "")
    assert run.environment() == usual
    assert usual["SPYGLASS_HOST"] == settings.HOST


def test_an_empty_variable_names_neither_a_token_nor_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "admin.token").write_text("left here by somebody else")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("SPYGLASS_KEYS", "SPYGLASS_ADMIN_TOKEN"):
        monkeypatch.setenv(variable, " ")
    assert token.load_token("") == ""


# --- open ports -------------------------------------------------------------------------------


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
def test_a_web_that_others_may_reach_says_so_at_every_level(fleet: Fleet, host: str) -> None:
    flags = ["--host", host, "--port", "0", "--log-level", "error"]
    said = Said(fleet.start("web.py", *flags, stderr=subprocess.PIPE))
    line = said.wait("other machines may reach port")
    assert line.rstrip().endswith("at ::" if host == "::" else "at 0.0.0.0")


def test_a_web_on_loopback_says_nothing_of_others() -> None:
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
def test_a_broker_that_others_may_reach_says_so_at_every_level(
    tmp_path: Path, encrypted: bool
) -> None:
    folder = Keyring.create(tmp_path / "keys").folder
    flags = ["--keys", str(folder)] if encrypted else ["--insecure"]
    fleet = Fleet(backend=f"tcp://0.0.0.0:{free_port()}")
    try:
        quiet = ["--log-level", "error"]
        said = Said(fleet.start_broker(*flags, *quiet, stderr=subprocess.PIPE))
        said.wait(f"other machines may reach the backend at {fleet.backend}")
        if not encrypted:
            said.wait("the backend is open to everybody on its network, unencrypted")
        assert "frontend" not in "".join(said.lines)
    finally:
        fleet.close()


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_worker_that_others_may_reach_says_so_at_every_level(
    fleet: Fleet, tmp_path: Path, encrypted: bool
) -> None:
    place = f"tcp://0.0.0.0:{free_port()}"
    env, flags = dict(os.environ), ["--listen", place, "--insecure", "--log-level", "error"]
    if encrypted:
        _, login = Keyring.create(tmp_path / "keys").issue(Role.WORKER)
        env["SPYGLASS_LISTEN"] = f"{place}#{login.text()}"
        del flags[:3]
    program = ["testbed/stand_in.py", "--processes", "1", *flags]
    said = Said(fleet.start(*program, env=env, stderr=subprocess.PIPE))
    how = "encrypted" if encrypted else "unencrypted, and open to everybody there"
    said.wait(f"other machines may reach this worker at {place}: {how}")
