"""What people are told to type starts something where they are told it."""

from __future__ import annotations

from pathlib import Path

import pytest

from spyglass.runtime import commands
from spyglass.runtime.commands import command, prog
from testbed.processes import ROOT

PROGRAMS = ["up", "broker", "worker", "web", "classify", "keys"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_in_a_checkout_it_is_a_file_or_a_target_that_exists(program: str) -> None:
    interpreter, name = command(program).split()
    if interpreter == "make":
        assert f"\n{name}:" in (ROOT / "Makefile").read_text()
    else:
        assert interpreter == "python"
        assert (ROOT / name).is_file()
        assert prog(program) == name


@pytest.mark.parametrize("program", PROGRAMS)
def test_who_started_the_console_script_is_shown_its_commands(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/venv/bin/spyglass", "--port", "0"])
    assert command(program) == prog(program) == f"spyglass {program}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_installation_has_only_the_console_script(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker.py").touch()  # somebody else's, beside the installed package
    monkeypatch.setattr(commands, "OWN_FOLDER", str(tmp_path))
    assert command(program) == f"spyglass {program}"
