"""The package is laid out as docs/architecture.md draws it, and `make imports` holds its rules."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.processes import ROOT

PACKAGE = ROOT / "spyglass"
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
#: The programs that a checkout starts, and the documented name of the protocol.
DOORS = ["broker.py", "client.py", "keys.py", "web.py", "worker.py", "zmq_protocol.py"]
#: Modules that are loaded by a name in a string, which no import rule sees: by whom, and for what.
LOADED_BY_NAME = {
    "spyglass.client": "spyglass/__init__.py, for `from spyglass import BrokerClient`",
    "spyglass.broker.cli": "spyglass/cli.py, for the command of this name; so are the next six",
    "spyglass.client.cli": "spyglass classify",
    "spyglass.doctor": "spyglass doctor",
    "spyglass.keys.cli": "spyglass keys",
    "spyglass.local.run": "spyglass up",
    "spyglass.web.cli": "spyglass web",
    "spyglass.worker.cli": "spyglass worker",
    "spyglass.model.classifier": "spyglass/worker/cli.py, for a worker's children",
    "spyglass.worker.preload": "the spawner of children, for its fork server",
}
#: The rooms whose __init__.py has code: what other rooms import from the package itself.
WITH_NAMES = {"client", "protocol"}
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_top_folder_has_the_doors_and_no_other_module() -> None:
    assert sorted(path.name for path in ROOT.glob("*.py")) == DOORS


@pytest.mark.parametrize("door", DOORS)
def test_a_door_only_leads_into_the_package(door: str) -> None:
    lines = (ROOT / door).read_text().splitlines()
    assert len(lines) <= 15
    assert lines[-1].strip() == "sys.exit(main())" or door == "zmq_protocol.py"


def test_the_documented_name_of_the_protocol_offers_all_of_it() -> None:
    import spyglass.protocol
    import zmq_protocol

    assert zmq_protocol.__all__ == spyglass.protocol.__all__
    for name in zmq_protocol.__all__:
        assert getattr(zmq_protocol, name) is getattr(spyglass.protocol, name)


@pytest.mark.parametrize("init", sorted(PACKAGE.glob("*/**/__init__.py")), ids=str)
def test_a_package_says_what_it_is_and_imports_nothing(init: Path) -> None:
    # What it imported would be loaded with every module beside it: ZeroMQ in a worker's children.
    tree = ast.parse(init.read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1 or init.parent.name in WITH_NAMES


def test_what_the_library_offers_is_loaded_only_when_it_is_asked_for() -> None:
    code = (
        "import sys, spyglass.runtime.settings; assert 'zmq' not in sys.modules;"
        "from spyglass import BrokerClient; assert 'zmq' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_every_name_of_a_module_in_a_string_is_in_the_list() -> None:
    found = set()
    for path in PACKAGE.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^(spyglass(?:\.\w+)+)(?::\w+)?$", node.value))
    assert found == set(LOADED_BY_NAME)


# --- the map ----------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_in_the_map(room: str) -> None:
    assert re.search(rf"^### {room}/$", ARCHITECTURE, re.M)


def test_every_module_is_in_the_map() -> None:
    modules = [path for path in PACKAGE.glob("**/*.py") if not path.stem.startswith("__")]
    missing = [path.stem for path in modules if f"`{path.stem}`" not in ARCHITECTURE]
    assert not missing


# --- the import rules -------------------------------------------------------------------------


def judged(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make imports` says of the package in this folder."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of what the rules speak of."""
    for name in ("spyglass", "testbed", "chaos", "bench", "simulation"):
        if (ROOT / name).exists():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("spyglass/dispatcher/jobs.py", "import time"),
        ("spyglass/protocol/codec.py", "from spyglass.runtime import logs"),
        ("spyglass/worker/loop.py", "def f():\n    import torch"),
        ("spyglass/web/pages.py", "from spyglass.dispatcher import jobs"),
        ("spyglass/web/http/server.py", "from spyglass.web import app"),
        ("spyglass/client/session.py", "from spyglass.broker import control"),
        ("spyglass/worker/child.py", "from spyglass.transport import socket_options"),
        ("spyglass/newroom/__init__.py", ""),
        ("spyglass/web/extra.py", ""),
    ],
)
def test_a_planted_import_that_breaks_a_rule_is_found(copied: Path, module: str, line: str) -> None:
    planted = copied / module
    planted.parent.mkdir(exist_ok=True)
    with planted.open("a") as file:
        file.write(f"\n{line}\n")
    verdict = judged(copied)
    assert verdict.returncode != 0, verdict.stdout


def test_the_package_as_it_is_keeps_the_rules(copied: Path) -> None:
    verdict = judged(copied)
    assert verdict.returncode == 0, verdict.stdout
