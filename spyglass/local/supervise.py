"""Runs supervisor, which keeps the programs of `make run` alive, in the same process."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supervisor import supervisord  # type: ignore[import-untyped]
from supervisor.options import ServerOptions  # type: ignore[import-untyped]

from spyglass.runtime import settings

CONFIG = Path(__file__).with_name("supervisord.conf")
#: Seconds until the fleet must be ready. The first start reads torch from a cold disk.
READY_WITHIN = 120.0
#: Seconds between two requests whether it is.
POLL_INTERVAL = 0.1
#: Signals that ask a process to end.
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: A file of this name in supervisor's folder marks that the fleet was not ready in time.
LATE = "late"


def announce(url: str, state: Path, supervisor: int, workers: int) -> None:
    """Print when all workers are ready, or end supervisor if they are not in time. Runs in a child
    process of supervisor's."""
    import urllib.request  # here alone, so that the process that stays does not load it

    until = time.monotonic() + READY_WITHIN
    while time.monotonic() < until and os.getppid() == supervisor:
        with suppress(OSError), urllib.request.urlopen(f"{url}readyz", timeout=2) as answer:
            if json.load(answer)["workers"] >= workers:
                print(f"\nSpyglass is ready. Ctrl-C ends it. Open {url}", flush=True)
                return
        time.sleep(POLL_INTERVAL)
    if os.getppid() == supervisor:
        print(f"spyglass: not ready within {READY_WITHIN:.0f} s; see above.", file=sys.stderr)
        (state / LATE).touch()
        os.kill(supervisor, signal.SIGTERM)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Deliver signals that ask this process to end only afterwards."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*END_SIGNALS, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Options(ServerOptions):  # type: ignore[misc]
    """Supervisor's own options, with two changes in how signals are handled."""

    def fork(self) -> int:
        """Fork such that a signal to the child is not lost before it has become a program: until
        then it would run supervisor's handler, ignore the signal, and be killed after 12 s."""
        with signals_blocked():  # which ends also if the fork fails: supervisor tries again
            pid = os.fork()
            if pid == 0:
                for number in END_SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
        return pid

    def setsignals(self) -> None:
        """End when the terminal is closed, where supervisor would restart all programs."""
        previous = signal.getsignal(signal.SIGHUP)
        super().setsignals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN if previous == signal.SIG_IGN else end_silently)


def end_silently(*_: object) -> None:
    """End as on Ctrl-C, without the terminal to write to. Not called under `nohup`."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.kill(os.getpid(), signal.SIGTERM)


def supervise(env: dict[str, str]) -> int:
    """Be supervisor until Ctrl-C, or until the terminal is closed; returns the exit code.

    It runs in the same process: one that only waited for another would take 11 MiB more.
    """
    state = Path(env["SPYGLASS_STATE"])
    supervisor = os.getpid()
    with signals_blocked():  # Python ignores an exception of a signal handler during a fork
        announcer = os.fork()
    if announcer == 0:
        try:
            url = f"http://{env['SPYGLASS_HOST']}:{env['SPYGLASS_PORT']}/"
            announce(url, state, supervisor, int(env["SPYGLASS_WORKERS"]))
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)  # without cleaning up: the folder belongs to the parent
    os.environ.update(env)
    # It starts each program in a process group of its own, so Ctrl-C reaches this process only,
    # which then stops the others in order.
    supervisord.ServerOptions = Options
    supervisord.main(["-n", "-c", str(CONFIG)])
    return settings.EXIT_FAILED if (state / LATE).exists() else settings.EXIT_OK
