"""What an empty value of a flag or a variable means."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spyglass.broker import cli as broker_cli
from spyglass.client import cli as client_cli
from spyglass.keys import cli as keys_cli
from spyglass.local import run
from spyglass.runtime import settings
from spyglass.web import cli as web_cli
from spyglass.web.http import token
from spyglass.worker import cli as worker_cli
from testbed.processes import ROOT

#: Each program, and the least arguments that it needs.
PROGRAMS: dict[str, tuple[Any, list[str]]] = {
    "broker": (broker_cli, []),
    "worker": (worker_cli, []),
    "web": (web_cli, []),
    "client": (client_cli, ["cat.jpg"]),
    "keys": (keys_cli, ["list"]),
}

each_program = pytest.mark.parametrize("program, arguments", PROGRAMS.values(), ids=PROGRAMS)


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


@each_program
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_counts_as_not_set(
    program: Any, arguments: list[str], empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = program.parser().parse_args(arguments)
    for action in actions(program):
        monkeypatch.setenv(f"SPYGLASS_{action.dest.upper()}", empty)
    assert program.parser().parse_args(arguments) == usual


@each_program
def test_an_empty_value_of_a_flag_counts_as_not_given(program: Any, arguments: list[str]) -> None:
    usual = program.parser().parse_args(arguments)
    for action in actions(program):
        if action.option_strings and not isinstance(action, argparse._AppendAction):
            flag = action.option_strings[-1]
            assert program.parser().parse_args([*arguments, flag, ""]) == usual, flag


def test_an_empty_flag_leaves_its_variable_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_wrong_item_in_a_variable_that_holds_a_list_is_reported(variable: str) -> None:
    env = {**os.environ, variable: "/wrong/"}
    ended = subprocess.run(
        [sys.executable, "web.py"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert f"web.py: error: {variable}: '/wrong/' is no" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_make_run_passes_on_no_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = run.environment()
    for variable in ("HOST", "PORT", "FRONTEND", "BACKEND", "KEYS", "ENCRYPT", "PROCESSES"):
        monkeypatch.setenv(f"SPYGLASS_{variable}", "")
    assert run.environment() == usual
    assert usual["SPYGLASS_HOST"] == settings.HOST


def test_an_empty_variable_is_neither_a_token_nor_the_folder_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "admin.token").write_text("left here by somebody else")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("SPYGLASS_KEYS", "SPYGLASS_ADMIN_TOKEN"):
        monkeypatch.setenv(variable, " ")
    assert token.load_token("") == ""
