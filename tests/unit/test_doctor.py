"""`spyglass doctor` finds each thing that can be wrong, and nothing where nothing is."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spyglass import doctor
from spyglass.doctor import Finding, Level
from spyglass.keys.keyring import ALLOWED, SECRET, TOKEN, Keyring
from spyglass.runtime.listeners import Listener, listeners
from testbed.processes import ROOT, free_port

OK, NOTE, PROBLEM = Level.OK, Level.NOTE, Level.PROBLEM
LOOPBACK = ["tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"]
GIB = 2**30


def found(finding: Finding, level: Level, *words: str) -> None:
    assert finding.level is level, finding.text
    for word in words:
        assert word in finding.text


# --- this machine -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (3, 14)])
def test_each_python_it_is_tested_with_is_fine(version: tuple[int, int]) -> None:
    found(doctor.check_python(version, torch=False), OK, f"{version[0]}.{version[1]}")


def test_an_old_python_is_a_problem_and_an_untested_one_is_not() -> None:
    found(doctor.check_python((3, 10), torch=True), PROBLEM, "3.10", "needs 3.11 or later")
    found(doctor.check_python((3, 15), torch=False), NOTE, "newer")


def test_on_python_3_14_whoever_computes_reads_that_it_takes_longer() -> None:
    found(doctor.check_python((3, 14), torch=True), NOTE, "longer")
    found(doctor.check_python((3, 13), torch=True), OK)


def torch(torch: str, torchvision: str, wanted: str = "==2.14.1") -> Finding:
    versions = {"torch": torch, "torchvision": torchvision}
    return doctor.check_torch(versions.__getitem__, lambda package: wanted)


def test_a_pair_of_torch_and_torchvision_that_fits_is_fine() -> None:
    found(torch("2.14.1", "0.29.1"), OK)
    found(torch("2.14.1+cu130", "0.29.1+cu130"), OK)
    found(torch("2.14.1", "0.29.1", wanted=""), OK)
    found(torch("2.14.1", "0.29.1", wanted=">=2.14.0,<3"), OK)


def test_a_pair_that_does_not_fit_is_named_with_the_command_to_install_it() -> None:
    shown = "pip install 'torch==2.14.1' torchvision==0.29.1"
    found(torch("2.13.0+cpu", "0.29.1+cpu"), PROBLEM, "needs torch==2.14.1", shown)
    found(torch("2.9.1", "0.29.1", wanted=">=2.14.0"), PROBLEM, "torch 2.9.1 is installed")


def test_one_of_the_pair_alone_is_a_problem_and_none_of_it_is_not() -> None:
    found(torch("2.14.1", ""), PROBLEM, "torchvision is not installed", "worker")
    found(torch("", "0.29.1"), PROBLEM, "torch is not installed")
    found(torch("", ""), NOTE, "a worker")


def test_the_installed_pair_is_read_from_its_metadata() -> None:
    pytest.importorskip("torchvision")
    assert doctor.torch_for("torchvision")
    found(doctor.check_torch(), OK)
    assert doctor.installed("no-such-package-of-anybody") == ""


def test_a_limit_of_open_files_below_what_a_broker_needs_is_a_problem() -> None:
    found(doctor.check_open_files(1023), PROBLEM, "ulimit -n 4096")
    found(doctor.check_open_files(1024), OK)


def test_a_folder_for_shared_memory_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    found(doctor.check_shared_memory(tmp_path), OK)
    found(doctor.check_shared_memory(tmp_path / "shm"), PROBLEM, "mount -t tmpfs")


def test_a_full_folder_for_shared_memory_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 4096})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    found(doctor.check_shared_memory(tmp_path), PROBLEM, "is full")


def test_a_folder_for_shared_memory_that_is_closed_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda folder, mode: False)  # root may do everything
    found(doctor.check_shared_memory(tmp_path), PROBLEM, "chmod 1777")


def test_a_clock_from_before_spyglass_was_made_is_a_problem() -> None:
    found(doctor.check_clock(now=0.0, made=1_800_000_000.0), PROBLEM, "1970-01-01", "set-ntp")
    found(doctor.check_clock(now=1_800_000_000.0, made=1_800_000_000.0), OK)
    found(doctor.check_clock(now=1_800_000_000.0, made=1_800_040_000.0), OK)  # another time zone


# --- keys -------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    Keyring.create(tmp_path / "keys")
    return tmp_path / "keys"


def check_keys(folder: Path, ports: list[str] = LOOPBACK, token: str = "") -> list[Finding]:
    return list(doctor.check_keys(folder, ports, token))


def test_keys_that_are_closed_are_fine_and_on_loopback_none_are_needed(
    keys: Path, tmp_path: Path
) -> None:
    for folder in (keys, tmp_path / "none"):
        (finding,) = check_keys(folder)
        found(finding, OK)


@pytest.mark.parametrize("name", [SECRET, TOKEN, ALLOWED])
def test_a_file_of_keys_that_others_may_read_is_a_problem(keys: Path, name: str) -> None:
    (keys / name).chmod(0o644)
    (finding,) = check_keys(keys)
    found(finding, PROBLEM, f"chmod 600 {keys / name}")


def test_a_folder_of_keys_that_others_may_write_is_a_problem(keys: Path) -> None:
    keys.chmod(0o777)
    (finding,) = check_keys(keys)
    found(finding, PROBLEM, f"chmod 700 {keys}")


def test_a_port_beyond_loopback_without_keys_is_a_problem(tmp_path: Path) -> None:
    (finding,) = check_keys(tmp_path, [LOOPBACK[0], "tcp://0.0.0.0:5556"])
    found(finding, PROBLEM, "tcp://0.0.0.0:5556", "keys.py init")


def test_a_token_that_others_may_read_or_that_is_missing_is_a_problem(
    keys: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    _, missing = check_keys(keys, token=str(token))
    found(missing, PROBLEM, "cannot be read")
    token.touch(0o644)
    _, open_to_others = check_keys(keys, token=str(token))
    found(open_to_others, PROBLEM, f"chmod 600 {token}")
    token.chmod(0o600)
    assert len(check_keys(keys, token=str(token))) == 1


# --- ports ------------------------------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[int]:
    """A port at which a program of ours that is no part of Spyglass listens: this one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_free_port_is_fine() -> None:
    found(doctor.check_port("broker", f"tcp://127.0.0.1:{free_port()}", "X"), OK)


@pytest.mark.parametrize("place", ["tcp://127.0.0.1:*", "tcp://127.0.0.1:0", "ipc:///tmp/x"])
def test_a_port_that_the_system_chooses_is_fine(place: str) -> None:
    found(doctor.check_port("broker", place, "X"), OK)


def test_a_taken_port_is_a_problem_with_the_name_of_who_took_it(listening: int) -> None:
    (one,) = listeners(listening)
    finding = doctor.check_port("web", f"tcp://127.0.0.1:{listening}", "SPYGLASS_PORT")
    found(finding, PROBLEM, str(one), "python", f"process {one.pid}", "SPYGLASS_PORT=...")


def test_a_port_taken_by_an_unknown_user_is_a_problem(listening: int) -> None:
    place = f"tcp://127.0.0.1:{listening}"
    found(doctor.check_port("web", place, "X", who=lambda port: []), PROBLEM, "another user")


@pytest.mark.parametrize(
    "words",
    [
        ["python", "broker.py", "--max-waiting", "9"],
        ["/opt/venv/bin/python", "/opt/venv/bin/spyglass", "broker"],
        ["/opt/venv/bin/python", "-P", "/opt/spyglass/spyglass/cli.py", "broker"],
    ],
)
def test_a_port_taken_by_the_program_it_is_for_is_fine(listening: int, words: list[str]) -> None:
    place = f"tcp://127.0.0.1:{listening}"
    finding = doctor.check_port("broker", place, "X", who=lambda port: [Listener(1, words)])
    found(finding, OK, "that runs here")
    for_the_web = doctor.check_port("web", place, "X", who=lambda port: [Listener(1, words)])
    found(for_the_web, PROBLEM, "process 1")


def test_an_address_of_another_machine_is_a_problem() -> None:
    found(doctor.check_port("web", "tcp://192.0.2.1:8080", "SPYGLASS_PORT"), PROBLEM, "192.0.2.1")


# --- all of it --------------------------------------------------------------------------------


def free_ports() -> list[str]:
    ends = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
    return ["--frontend", ends[0], "--backend", ends[1], "--port", str(free_port())]


def test_nothing_wrong_is_exit_code_0_and_one_thing_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], listening: int
) -> None:
    flags = [*free_ports(), "--keys", str(tmp_path)]
    assert doctor.main(flags) == 0
    assert "Nothing is wrong" in capsys.readouterr().out
    assert doctor.main([*flags, "--port", str(listening)]) == 1
    shown = capsys.readouterr().out
    assert "\nproblem  The web cannot use" in shown
    assert "1 problem to solve" in shown


def test_it_looks_at_the_limit_of_open_files_of_this_machine(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spyglass.cli", "doctor", *free_ports(), "--keys", str(tmp_path)],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "may open 512 files" in done.stdout
