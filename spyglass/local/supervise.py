"""Supervisor, which keeps the programs of `make run` alive, in this very process."""

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
#: Seconds between two looks at it.
LOOK_EVERY = 0.1
#: Signals by which a process is told to end.
ENDING = (signal.SIGINT, signal.SIGTERM)
#: File in supervisor's folder that tells it was not.
LATE = "late"


def announce(url: str, state: Path, supervisor: int, workers: int) -> None:
    """In a process of its own, below supervisor: say when all workers are ready, or end it all."""
    import urllib.request  # here alone: the process that stays needs none of it

    until = time.monotonic() + READY_WITHIN
    while time.monotonic() < until and os.getppid() == supervisor:
        with suppress(OSError), urllib.request.urlopen(f"{url}readyz", timeout=2) as answer:
            if json.load(answer)["workers"] >= workers:
                print(f"\nSpyglass is ready. Ctrl-C ends it. Open {url}", flush=True)
                return
        time.sleep(LOOK_EVERY)
    if os.getppid() == supervisor:
        print(f"spyglass: not ready within {READY_WITHIN:.0f} s; see above.", file=sys.stderr)
        (state / LATE).touch()
        os.kill(supervisor, signal.SIGTERM)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Meanwhile no signal comes that tells to end; afterwards those that did come do."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Options(ServerOptions):  # type: ignore[misc]
    """Supervisor's own, but for two signals."""

    def fork(self) -> int:
        """Let nothing be lost on the new process until it has become a program: told to end before
        that, it would take it as supervisor does, forget it, and be killed after 12 s."""
        with undisturbed():  # also if there are too many processes: supervisor tries again
            pid = os.fork()
            if pid == 0:
                for number in ENDING:
                    signal.signal(number, signal.SIG_DFL)
        return pid

    def setsignals(self) -> None:
        """When its terminal is closed, supervisor would start all programs anew and live on."""
        kept = signal.getsignal(signal.SIGHUP)
        super().setsignals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN if kept == signal.SIG_IGN else end_unseen)


def end_unseen(*_: object) -> None:
    """End as by Ctrl-C, though nothing can be written any more. Under `nohup` it is not called."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.kill(os.getpid(), signal.SIGTERM)


def supervise(env: dict[str, str]) -> int:
    """Become supervisor until Ctrl-C, or the end of the terminal; the exit code.

    In this very process: one that only waited for another would take 11 MiB more.
    """
    state = Path(env["SPYGLASS_STATE"])
    supervisor = os.getpid()
    with undisturbed():  # Python ignores what a signal's handler raises amid a fork
        announcer = os.fork()
    if announcer == 0:
        try:
            url = f"http://{env['SPYGLASS_HOST']}:{env['SPYGLASS_PORT']}/"
            announce(url, state, supervisor, int(env["SPYGLASS_WORKERS"]))
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)  # whatever happened: the folder is not this process's to delete
    os.environ.update(env)
    # It puts each program into a process group of its own, so Ctrl-C reaches this one alone, which
    # then stops the others in order.
    supervisord.ServerOptions = Options
    supervisord.main(["-n", "-c", str(CONFIG)])
    return settings.EXIT_FAILED if (state / LATE).exists() else settings.EXIT_OK
