"""Starts processes, waits for what they do, and ends them so that nothing is left.

No process is found by its name: every signal goes to one that was started here, or to one below it
in /proc. A `Processes` belongs to one thread.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

#: The repository: programs are named by their paths from here.
ROOT = Path(__file__).resolve().parent.parent
#: Seconds any condition may take on a slow, busy machine.
PATIENCE = 30.0
#: Seconds between two looks at a condition: short beside whatever is measured by waiting for it.
LOOK_EVERY = 0.002
#: Options for processes whose output nobody reads.
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def free_port() -> int:
    """A port of the loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_address() -> str:
    """The same, as ZeroMQ names it."""
    return f"tcp://127.0.0.1:{free_port()}"


def eventually(
    condition: Callable[[], Any], what: str, within: float = PATIENCE, every: float = LOOK_EVERY
) -> Any:
    """Wait until the condition holds, looking `every` so many seconds; its value.

    Raises:
        TimeoutError: it did not hold `within` so many seconds.
    """
    until = time.monotonic() + within
    while time.monotonic() < until:
        if value := condition():
            return value
        select.select([], [], [], every)
    raise TimeoutError(f"not within {within:g} s: {what}")


# --- what /proc shows of a process ------------------------------------------------------------


def below(pid: int) -> list[int]:
    """All processes below one, parents first. Empty when it is gone."""
    found = []
    for child in _children(pid):
        found += [child, *below(child)]
    return found


def child_of(worker: int) -> int | None:
    """The child that computes: it hangs below the fork server, which hangs below the worker."""
    children = set(below(worker)) - set(_children(worker))
    return max(children, default=None)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    return _state(pid) not in "Z"


def computes(pid: int) -> bool:
    """Whether a process is on a core, or waits for one."""
    return _state(pid) == "R"


def rss(pid: int) -> int:
    """Bytes of memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """CPU time that all present threads of a process have had, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((t / "schedstat").read_text().split()[0]) for t in threads) / 1e9


def _state(pid: int) -> str:
    """The letter of proc(5), or nothing."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""


def _children(pid: int) -> Iterator[int]:
    for task in _list(f"/proc/{pid}/task"):
        with suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
            yield from map(int, file.read().split())


def _list(path: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(path)
    return []


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; whether there was somebody to get it."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


# --- starting and ending ----------------------------------------------------------------------


def undisturbed() -> dict[str, Any]:
    """Options for processes that Ctrl-C does not reach, so that whoever started them can end them
    in order, and that no setting of this shell changes."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SPYGLASS_")}
    return {"stdin": subprocess.DEVNULL, "start_new_session": True, "env": env}


class Processes:
    """Programs that run until `close`, or until the end of a `with`."""

    def __init__(self, grace: float = 0.0, **options: Any) -> None:
        """Start nothing yet.

        Args:
            grace: seconds from SIGTERM to SIGKILL at the end; with none, all are killed at once.
            options: of subprocess.Popen, for every start that names no others.
        """
        self.processes: list[subprocess.Popen[bytes]] = []
        self._grace = grace
        self._options = {"cwd": ROOT, **options}

    def start(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """A program in Python: its file and arguments, or Python's own flags before them."""
        return self.start_command(sys.executable, *command, **options)

    def start_command(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Any program."""
        process = subprocess.Popen(command, **(self._options | options))
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End all of them, and what is below them, frozen or not."""
        running = [process for process in self.processes if process.poll() is None]
        descendants = {pid for process in running for pid in below(process.pid)}
        if self._grace:
            self._stop(running, descendants)
        for process in running:
            if process.poll() is None:
                descendants.update(below(process.pid))
                process.kill()
                process.wait()
        for pid in filter(alive, descendants):
            send(pid, signal.SIGKILL)

    def _stop(self, running: list[subprocess.Popen[bytes]], descendants: set[int]) -> None:
        for pid in descendants:
            send(pid, signal.SIGCONT)
        for process in running:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        until = time.monotonic() + self._grace
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class Output:
    """What a process writes to standard error, line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Read it from now on, in a thread. Start the process with stderr=subprocess.PIPE."""
        self.lines: list[str] = []
        self._stream = process.stderr
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._stream is not None
        with self._stream:
            for line in self._stream:
                self.lines.append(line.decode())

    def wait_for(self, text: str) -> str:
        """The first line that contains this text."""
        found: str = eventually(lambda: next((x for x in self.lines if text in x), ""), text)
        return found
