"""The starter of processes ends whatever it started, and waits no longer than it should."""

from __future__ import annotations

import signal
import subprocess

import pytest

from testbed.processes import Output, Processes, alive, below, eventually, send, undisturbed

#: Starts a process below itself, prints that, and sleeps; with `deaf` it ignores SIGTERM.
PARENT = (
    "import signal, subprocess, sys, time;"
    " signal.signal(signal.SIGTERM, signal.SIG_IGN) if 'deaf' in sys.argv else None;"
    " subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    " print('started', file=sys.stderr, flush=True); time.sleep(600)"
)


def start(processes: Processes, *arguments: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A process that has another one below it; both are there."""
    process = processes.start("-c", PARENT, *arguments, stderr=subprocess.PIPE)
    Output(process).wait_for("started")
    (child,) = below(process.pid)
    return process, [process.pid, child]


@pytest.mark.parametrize("grace", [0.0, 20.0])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_process_and_what_is_below_it_are_ended(grace: float, frozen: bool) -> None:
    with Processes(grace) as processes:
        process, everybody = start(processes)
        if frozen:
            for pid in everybody:
                send(pid, signal.SIGSTOP)
    assert process.returncode == -(signal.SIGTERM if grace else signal.SIGKILL)
    eventually(lambda: not any(map(alive, everybody)), "nothing is left")


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    with Processes(grace=0.2) as processes:
        process, everybody = start(processes, "deaf")
    assert process.returncode == -signal.SIGKILL
    eventually(lambda: not any(map(alive, everybody)), "nothing is left")


def test_an_error_ends_them_too() -> None:
    with pytest.raises(ZeroDivisionError), Processes() as processes:
        _, everybody = start(processes)
        raise ZeroDivisionError
    eventually(lambda: not any(map(alive, everybody)), "nothing is left")


def test_a_condition_gives_its_value_and_one_that_never_holds_is_named() -> None:
    values = iter([0, "", 7])
    assert eventually(lambda: next(values), "a value comes") == 7
    with pytest.raises(TimeoutError, match="pigs fly"):
        eventually(lambda: False, "pigs fly", within=0.01)


def test_undisturbed_processes_have_no_setting_of_this_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPYGLASS_PORT", "1")
    monkeypatch.setenv("OTHER", "2")
    env = undisturbed()["env"]
    assert "SPYGLASS_PORT" not in env and env["OTHER"] == "2"
