"""The documents say what the programs do."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import broker
import client
import web
import worker
from zmq_protocol import Body, Direction, Reason, Request, encode

README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "PROTOCOL.md").read_text()
PROGRAMS = [broker, worker, web, client]


def actions(program: object) -> list[argparse.Action]:
    return [a for a in program.parser()._actions if a.dest not in ("help", "version")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_every_flag_has_help_and_stands_in_the_readme(program: object) -> None:
    for action in actions(program):
        assert action.help
        for flag in action.option_strings:
            assert f"`{flag}`" in README, flag


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_every_command_has_help_with_examples(program: object) -> None:
    name = f"{program.__name__}.py"  # type: ignore[attr-defined]
    shown = subprocess.run(
        [sys.executable, name, "--help"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert f"python {name}" in shown.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_a_wrong_flag_is_a_usage_error(program: object) -> None:
    with pytest.raises(SystemExit) as left:
        program.main(["--no-such-flag"])  # type: ignore[attr-defined]
    assert left.value.code == 2


def test_the_environment_gives_a_default_that_a_flag_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPYGLASS_MAX_WAITING", "7")
    assert broker.parser().parse_args([]).max_waiting == 7
    assert broker.parser().parse_args(["--max-waiting", "9"]).max_waiting == 9
    monkeypatch.setenv("SPYGLASS_MAX_WAITING", "many")
    with pytest.raises(SystemExit):
        broker.parser().parse_args([])


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_stands_in_the_protocol(reason: Reason) -> None:
    assert f"| `{reason.value}` |" in PROTOCOL


def test_every_message_type_stands_in_the_protocol() -> None:
    for direction in Direction:
        for letter in direction.readers:
            assert f"| `{letter.decode()}` " in PROTOCOL


def test_the_hex_example_is_what_the_codec_sends() -> None:
    sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    example = Request(bytes(range(16)), "", 5, 1000, sha, Body.of(b"hello"))
    lines = re.findall(r"^[0-9a-f]{2,}$", PROTOCOL, re.MULTILINE)
    assert lines == [bytes(frame).hex() for frame in encode(example)]


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_dependency_stands_in_the_readme() -> None:
    for file in ("requirements.txt", "requirements-dev.txt"):
        for name in re.findall(r"^([a-z][\w-]*)==", (ROOT / file).read_text(), re.MULTILINE):
            assert name in README, name
