"""The wheel: what is in it, and that it is all anybody needs, outside the checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
from installing import install, lend_packages, new_environment, packages
from packaging.requirements import Requirement

from spyglass import __version__
from spyglass.cli import COMMANDS
from testbed.fleet import CAT, Fleet, own_ports
from testbed.processes import ROOT, alive, below, eventually, free_port

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
#: Bytes of all packages that a program needs which only uses the client.
CLIENT_BYTES = 15_000_000
#: Packages whose import takes long, or which not everybody has.
HEAVY = {"torch", "torchvision", "numpy", "PIL", "bottle", "uvicorn", "prometheus_client"}
HEAVY |= {"supervisor", "psutil", "zmq", "tqdm", "shtab"}
#: Those of them that the help of a command needs, by the command.
NEEDED: dict[str, set[str]] = {name: {"zmq"} for name in COMMANDS}
NEEDED["web"] |= {"bottle", "uvicorn", "prometheus_client"}
NEEDED["up"] |= {"supervisor"}
NEEDED["classify"] |= {"tqdm"}

USES_THE_LIBRARY = """
import sys
from spyglass import BrokerClient

with open(sys.argv[2], "rb") as file:
    picture = file.read()
client = BrokerClient([sys.argv[1]])
print(client.submit(picture, top_k=1).result().predictions[0]["label"])
client.close()
"""


# --- dependencies -----------------------------------------------------------------------------


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in wanted}


def ranges() -> dict[str, Requirement]:
    """All that the package may need, by name."""
    listed = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    wanted = [Requirement(line) for line in listed]
    return {requirement.name: requirement for requirement in wanted if not requirement.extras}


def test_what_is_pinned_is_what_the_package_asks_for() -> None:
    assert pins().keys() == ranges().keys()


@pytest.mark.parametrize("name", sorted(pins()))
def test_the_pinned_version_is_within_the_range(name: str) -> None:
    (pin,) = pins()[name].specifier
    assert pin.operator == "=="
    assert ranges()[name].specifier.contains(pin.version)
    assert "<" in str(ranges()[name].specifier) or "==" in str(ranges()[name].specifier)


def test_the_extra_for_one_machine_is_made_of_the_others() -> None:
    (own,) = [Requirement(line) for line in EXTRAS["local"] if line.startswith("spyglass")]
    assert own.extras == {"worker", "web"}


# --- sdist and wheel --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder,
        ROOT,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def tracked(*folders: str) -> set[str]:
    """The files of these folders, without what Python or a test leaves there."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {str(p.relative_to(ROOT)) for p in paths if "__pycache__" not in p.parts}


def test_the_wheel_holds_the_package_its_pages_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"spyglass-{__version__}-py3-none-any.whl"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    pages = {f"spyglass/web/{name}" for name in tracked("views", "static")}
    assert names == tracked("spyglass") | pages
    needed = ["spyglass/py.typed", "spyglass/local/supervisord.conf", "spyglass/model/cat.jpg"]
    assert names.issuperset(needed)


def test_the_sdist_holds_no_tests_and_no_tools(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    assert tops.issuperset({"spyglass", "views", "static", "pyproject.toml", "LICENSE"})
    assert not tops & {"tests", "testbed", "bench", "chaos", "simulation", "deploy", "shared"}


# --- the client alone -------------------------------------------------------------------------


def bare() -> dict[str, str]:
    """An environment by which Python finds nothing but what is installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPYGLASS_")}
    return {name: value for name, value in kept.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment into which the wheel alone was installed."""
    python = new_environment(tmp_path_factory.mktemp("client") / "venv")
    install(python, "--no-compile", "--constraint", ROOT / "requirements.txt", wheel)
    return python


def test_the_client_alone_is_small(client: Path) -> None:
    folder = packages(client)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < CLIENT_BYTES
    there = {path.name for path in folder.iterdir()}
    assert not there & {"torch", "numpy", "PIL", "bottle.py", "uvicorn", "supervisor"}


def test_a_program_elsewhere_recognises_a_picture_by_the_library(
    client: Path, fleet: Fleet, tmp_path: Path
) -> None:
    fleet.start_worker("attic")
    program, picture = tmp_path / "program.py", tmp_path / "cat.jpg"
    program.write_text(USES_THE_LIBRARY)
    picture.write_bytes(b"label:tabby")
    command: list[str | Path] = [client, program, fleet.frontend, picture]
    done = subprocess.run(
        command, cwd=tmp_path, env=bare(), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "tabby\n", done.stderr


def test_the_command_elsewhere_recognises_a_picture_among_strangers_files(
    client: Path, fleet: Fleet, tmp_path: Path
) -> None:
    fleet.start_worker("attic")
    (tmp_path / "cat.jpg").write_bytes(b"label:tabby")
    for module in ("zmq", "json", "spyglass", "argparse", "random"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('a strangers file was run')")
    command: list[str | Path] = [client.with_name("spyglass"), "classify", "--json", "cat.jpg"]
    env = bare() | {"SPYGLASS_BROKER": fleet.frontend}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["label"] == "tabby"


def test_type_checkers_see_the_types_of_the_library(client: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(USES_THE_LIBRARY + "reveal_type(client)\nclient.submit('no bytes')\n")
    mypy: list[str | Path] = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        client,
    ]
    done = subprocess.run(
        [*mypy, "--cache-dir", tmp_path / "cache", program],
        cwd=tmp_path, env=bare(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert re.search(r'Revealed type is "spyglass\.client\.[\w.]*BrokerClient"', done.stdout)
    assert 'incompatible type "str"; expected "bytes"' in done.stdout
    assert "Found 1 error" in done.stdout


@pytest.mark.parametrize(("name", "extra"), [("web", "web"), ("up", "local"), ("worker", "worker")])
def test_a_command_whose_packages_are_missing_says_which_extra_has_them(
    client: Path, name: str, extra: str, tmp_path: Path
) -> None:
    command: list[str | Path] = [client.with_name("spyglass"), name]
    done = subprocess.run(
        command, cwd=tmp_path, env=bare(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"spyglass {name}: the Python package ")
    assert f"pip install '.[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
    # That name is not ours on any registry.
    assert not re.search(r"pip install '?spyglass(?!-)", done.stderr)


# --- the commands -----------------------------------------------------------------------------


def ask(*words: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the console script's module as the script does, in the environment of the tests."""
    start = f"import sys; sys.argv = ['spyglass', *{words!r}]; from spyglass.cli import main;"
    command: list[str | Path] = [sys.executable, *flags, "-c", f"{start} sys.exit(main())"]
    return subprocess.run(command, cwd=ROOT, env=bare(), capture_output=True, text=True, timeout=60)


def test_the_help_lists_the_commands_and_examples_of_them() -> None:
    shown = ask("--help").stdout
    for name, (_, _, purpose) in COMMANDS.items():
        assert re.search(rf"^    {name} +{purpose}$", shown, re.M)
    examples = re.findall(r"^  spyglass (\S+)", shown, re.M)
    assert set(examples) <= {*COMMANDS, "--print-completion"}


def test_the_version_is_the_packages() -> None:
    assert ask("--version").stdout == f"Spyglass {__version__}\n"


@pytest.mark.parametrize("words", [(), ("brokr",), ("--port",)])
def test_no_command_or_an_unknown_one_is_wrong_usage(words: tuple[str, ...]) -> None:
    done = ask(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: spyglass ")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_errors_name_the_command_that_was_typed(name: str) -> None:
    shown = ask(name, "--help").stdout
    assert shown.startswith(f"usage: spyglass {name} ")
    assert re.search(rf"^  (?:\w.* )?spyglass {name}\b", shown, re.M), "it has an example"
    assert not re.search(r"\w\.py\b", shown)
    refused = ask(name, "--no-such-flag")
    assert refused.returncode == 2
    assert f"\nspyglass {name}: error: " in refused.stderr


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_the_help_of_a_command_imports_no_other_commands_packages(name: str) -> None:
    told = ask(*name.split(), "--help", flags=("-X", "importtime")).stderr
    imported = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    assert "argparse" in imported
    assert {module.partition(".")[0] for module in imported} & HEAVY <= NEEDED.get(name, set())


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_gets_a_script_that_completes_all_flags(shell: str) -> None:
    script = ask("--print-completion", shell).stdout
    for word in (*COMMANDS, "--max-waiting", "--allowed-host", "--job-limit", "revoke"):
        assert word.lstrip("-") in script


# --- all of it on one machine -----------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and the packages of this one, torch's among
    them: nothing is downloaded."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed here")
    python = new_environment(tmp_path_factory.mktemp("whole") / "venv")
    install(python, "--no-deps", wheel)
    lend_packages(python)
    return python


def test_one_command_runs_all_of_it_in_an_empty_folder_and_ctrl_c_leaves_nothing_behind(
    whole: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    # A short path: a fork server's socket is made there, and its name has 107 bytes at most.
    temporary = tmp_path_factory.mktemp("t")
    port = free_port()
    own = {**own_ports(port), "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [whole.with_name("spyglass"), "up"],
        cwd=folder, env=bare() | own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        assert process.stdout is not None
        assert any(f"Open {url}/".encode() in line for line in process.stdout), "it is ready"
        request = urllib.request.Request(f"{url}/v1/classify", CAT, {"Content-Type": "image/jpeg"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert "cat" in json.load(answer)["predictions"][0]["label"]
        for page in ("/", "/status", "/static/style.css"):
            with urllib.request.urlopen(url + page, timeout=30) as answer:
                assert answer.status == 200
        with urllib.request.urlopen(f"{url}/v1/status", timeout=30) as answer:
            assert json.load(answer)["broker"]["join"].startswith("spyglass worker tcp://")
        everybody = below(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(everybody) >= 6
    eventually(lambda: not any(map(alive, everybody)), "no process is left")
    assert not list(folder.iterdir()) and not list(temporary.iterdir())


# --- setting up a clone -----------------------------------------------------------------------


def old_pythons() -> list[Path]:
    """Interpreters older than what Spyglass needs, where pyenv has put some."""
    return sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3.10"))


@pytest.mark.skipif(not old_pythons(), reason="no Python 3.10 is installed")
def test_setting_up_with_an_old_python_fails_with_one_sentence(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "run", f"PYTHON={old_pythons()[0]}"],
        cwd=tmp_path, env=bare(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    sentence, *rest = done.stderr.splitlines()
    assert "Spyglass needs Python 3.11 or later" in sentence
    assert "is 3.10" in sentence
    assert len(rest) == 1, "make's own line"
    assert not (tmp_path / ".venv").exists()
