"""No process runs a file of the folder it was started in, whoever put it there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spyglass.runtime.import_path import OWN_FOLDER, without_current_folder
from testbed.fleet import CAT, STAND_IN, Fleet, Service, Site
from testbed.processes import ROOT, below, eventually

#: Modules that a program may be led to import: Python's own, packages, and Spyglass's.
NAMES = ["__future__", "collections", "json", "logging", "multiprocessing", "random", "signal"]
NAMES += ["socket", "typing", "bottle", "numpy", "PIL", "torch", "tqdm", "zmq", "supervisor"]
NAMES += ["stand_in", "testbed", *(path.stem for path in ROOT.glob("*.py"))]
NAMES += [path.stem for path in ROOT.glob("spyglass/*/*.py") if not path.stem.startswith("__")]
#: Python itself imports these when it starts, before any program has a say.
PYTHONS_OWN = ["sitecustomize", "usercustomize"]


class Trap:
    """A folder of files that leave their mark when they are run."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder / "trap"
        self.folder.mkdir()
        self.mark = folder / "mark"
        spring = f"open({str(self.mark)!r}, 'a').write(__name__ + ' ')\n"
        for name in names:
            (self.folder / f"{name}.py").write_text(spring)
        for page in ("index", "status", "base"):  # templates are programs too
            (self.folder / f"{page}.tpl").write_text(f"% {spring}")

    def sprung(self) -> str:
        """The names of what was run."""
        return self.mark.read_text() if self.mark.exists() else ""


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path, NAMES + PYTHONS_OWN)


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | more


def answers(site: Site, page: str) -> bool:
    return site.get(page)[0] == 200


def settings_of(pid: int) -> dict[str, str]:
    """The environment a process was started with."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


#: How Python may be started: its flags, and its variables.
STARTS: dict[str, tuple[list[str], dict[str, str]]] = {
    "plain": ([], {}),
    "PYTHONPATH empty": ([], {"PYTHONPATH": ""}),
    "PYTHONPATH ends with a colon": ([], {"PYTHONPATH": "/nowhere:"}),
    "PYTHONPATH is a dot": ([], {"PYTHONPATH": "."}),
    "PYTHONSAFEPATH": ([], {"PYTHONSAFEPATH": "1"}),
    "-E": (["-E"], {}),
    "-I": (["-I"], {}),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_fleet_started_among_strangers_files_runs_none_of_them(
    start: str, tmp_path: Path
) -> None:
    flags, variables = STARTS[start]
    # With such entries, Python runs what it imports by itself from there: nothing else may be.
    trap = Trap(tmp_path, NAMES if variables.get("PYTHONPATH") else NAMES + PYTHONS_OWN)
    more: dict[str, Any] = {"cwd": trap.folder, "env": environment(**variables)}
    site = Site()
    try:
        ends = ["--frontend", site.frontend, "--backend", site.backend]
        site.start(*flags, str(ROOT / "broker.py"), *ends, **more)
        web = [str(ROOT / "web.py"), "--broker", site.frontend, "--port", str(site.port)]
        site.start(*flags, *web, **more)
        worker = [str(ROOT / STAND_IN), site.backend, "--processes", "1"]
        process = site.start(*flags, *worker, "--name", "attic", **more)
        eventually(lambda: "attic" in site.names() or trap.sprung(), "the worker joins")
        assert not trap.sprung()
        path = site.client.submit(b"path").result(30).predictions[0]["label"].split(os.pathsep)
        assert str(trap.folder) not in path
        assert all(map(os.path.isabs, path))
        assert below(process.pid)
        for page in ("/readyz", "/", "/status", "/metrics"):
            eventually(partial(answers, site, page), f"{page} is answered")
        picture = tmp_path / "cat.jpg"
        picture.write_bytes(CAT)
        for command in (
            ["client.py", "--broker", site.frontend, str(picture)],
            ["keys.py", "init", "--keys", str(tmp_path / "keys")],
            ["spyglass/local/__main__.py", "--help"],
        ):
            program = [sys.executable, *flags, str(ROOT / command[0]), *command[1:]]
            subprocess.run(program, check=True, capture_output=True, timeout=60, **more)
        assert not trap.sprung()
    finally:
        site.close()


def test_a_workers_own_processes_get_the_path_to_look_for_modules(fleet: Fleet, trap: Trap) -> None:
    program = [str(ROOT / STAND_IN), fleet.backend, "--processes", "1"]
    worker = fleet.start(*program, "--name", "attic", cwd=trap.folder, env=environment())
    eventually(lambda: "attic" in fleet.names(), "the worker joins")
    family = below(worker.pid)
    assert len(family) >= 3, "resource tracker, fork server and child"
    for pid in family:
        variables = settings_of(pid)
        folders = variables["PYTHONPATH"].split(os.pathsep)
        assert variables["PYTHONSAFEPATH"]
        assert str(ROOT) in folders and str(trap.folder) not in folders
        assert all(map(os.path.isabs, folders))


def test_a_worker_with_the_real_model_runs_no_strangers_file(fleet: Fleet, trap: Trap) -> None:
    program = [str(ROOT / "worker.py"), fleet.backend, "--processes", "1", "--name", "attic"]
    fleet.start(*program, cwd=trap.folder, env=environment())
    eventually(lambda: "attic" in fleet.names() or trap.sprung(), "the worker joins", 120)
    assert not trap.sprung()
    assert fleet.client.submit(CAT).result(30).predictions[0]["label"]
    assert not trap.sprung()


def test_make_runs_program_runs_no_strangers_file(tmp_path: Path) -> None:
    trap = Trap(tmp_path, NAMES)
    with Service(
        str(ROOT / "spyglass" / "local" / "__main__.py"),
        cwd=trap.folder,
        env=environment(PYTHONPATH="/nowhere:"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as service:
        process = service.process
        try:
            assert process.stdout is not None
            assert any(b"Open http" in line for line in process.stdout), "it is ready"
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert not trap.sprung()


def test_a_program_that_uses_the_client_keeps_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    code = "import sys; old = list(sys.path); import spyglass.client, mine; assert sys.path == old"
    env = environment(PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, timeout=60)


def test_no_command_that_is_written_down_looks_for_modules_in_the_current_folder() -> None:
    written = [
        *ROOT.glob("*.py"),
        *ROOT.glob("spyglass/**/*.py"),
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
    ]
    written += [path for path in ROOT.glob("deploy/**/*") if path.is_file()]
    for path in written:
        assert not re.search(r"""\bpython3?["', ]+-c\b""", path.read_text()), path


# --- the path by itself -----------------------------------------------------------------------


LIBRARY = "/usr/lib/python3.11"


def kept(*path: str, pythonpath: str = "", as_module: bool = False) -> list[str]:
    return without_current_folder(list(path), pythonpath, "/tmp", as_module)


def test_relative_entries_go() -> None:
    assert kept("", OWN_FOLDER, "here", LIBRARY) == [OWN_FOLDER, LIBRARY]


@pytest.mark.parametrize("pythonpath", [":", "/opt:", ":/opt", "/opt::/more", ".", "/opt:./"])
def test_what_an_empty_entry_of_pythonpath_stands_for_goes(pythonpath: str) -> None:
    assert kept(OWN_FOLDER, "/opt", "/tmp", LIBRARY, pythonpath=pythonpath) == [
        OWN_FOLDER, "/opt", LIBRARY,
    ]  # fmt: skip


def test_a_folder_that_pythonpath_names_stays_also_when_it_is_the_current_one() -> None:
    assert kept(OWN_FOLDER, "/tmp", LIBRARY, pythonpath="/tmp/:") == [OWN_FOLDER, "/tmp", LIBRARY]


def test_the_folder_that_a_start_as_a_module_puts_first_goes_and_no_other() -> None:
    started_in_library = kept("/tmp", OWN_FOLDER, "/tmp", LIBRARY, as_module=True)
    assert started_in_library == [OWN_FOLDER, "/tmp", LIBRARY]
    assert kept(OWN_FOLDER, LIBRARY, as_module=True) == [OWN_FOLDER, LIBRARY]


def test_spyglass_itself_is_always_found() -> None:
    assert kept("", LIBRARY) == [OWN_FOLDER, LIBRARY]
