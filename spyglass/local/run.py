"""The whole of Spyglass on this machine, under supervisor: broker, two workers, web."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from supervisor import supervisord  # type: ignore[import-untyped]
from supervisor.options import ServerOptions  # type: ignore[import-untyped]

from spyglass.keys.keyring import DEFAULT_FOLDER, BadKeys, Role
from spyglass.keys.port_policy import BEYOND, PortPolicy
from spyglass.runtime import settings
from spyglass.runtime.settings import from_environment
from spyglass.transport.addresses import as_others_call
from spyglass.transport.credentials import join

#: The checkout: supervisor starts its programs there.
CHECKOUT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("supervisord.conf")
#: Workers started here, as a fleet of one machine: one can die without a pause.
WORKERS = 2
#: Seconds until the fleet must be ready. The first start reads torch from a cold disk.
READY_WITHIN = 120.0
#: Seconds between two looks at it.
LOOK_EVERY = 0.1
#: Signals by which a process is told to end.
ENDING = (signal.SIGINT, signal.SIGTERM)
#: File in supervisor's folder that tells it was not.
LATE = "late"


def environment() -> dict[str, str]:
    """The environment of all parts: what the user set, and the defaults they share."""
    env = {
        name: value
        for name, value in os.environ.items()
        if from_environment(name) or not name.startswith("SPYGLASS_")
    }
    env.setdefault("SPYGLASS_FRONTEND", settings.FRONTEND)
    env.setdefault("SPYGLASS_BACKEND", settings.BACKEND)
    env.setdefault("SPYGLASS_HOST", settings.HOST)
    env.setdefault("SPYGLASS_PORT", str(settings.PORT))
    env.setdefault("SPYGLASS_BROKER", env["SPYGLASS_FRONTEND"])
    env.setdefault("SPYGLASS_BROKERS", env["SPYGLASS_BACKEND"])
    env.setdefault("SPYGLASS_PROCESSES", str(max(1, settings.cores() // WORKERS)))
    env["SPYGLASS_WORKERS"] = str(WORKERS)
    env["SPYGLASS_PYTHON"] = sys.executable
    env["SPYGLASS_RUN"] = str(CHECKOUT)
    return env


def let_in(env: dict[str, str]) -> None:
    """Give what is started here its keys to those of the broker's ports that are encrypted.

    Raises:
        BadKeys: keys are needed, and missing or open to others.
    """
    front, back = env["SPYGLASS_FRONTEND"], env["SPYGLASS_BACKEND"]
    keys = Path(env.get("SPYGLASS_KEYS", DEFAULT_FOLDER))
    port_policy = PortPolicy.from_flags(front, back, keys, env.get("SPYGLASS_ENCRYPT", BEYOND))
    if port_policy.authority is None:
        return
    for encrypted, port, variable, name, role in (
        (port_policy.front, front, "SPYGLASS_BROKER", "make-run-web", Role.ADMIN),
        (port_policy.back, back, "SPYGLASS_BROKERS", "make-run-workers", Role.WORKER),
    ):
        if encrypted and env[variable] == port:
            port_policy.authority.keyring.revoke(name)  # of the last time
            _, login = port_policy.authority.keyring.issue(role, name)
            env[variable] = join(as_others_call(port, "127.0.0.1"), login)


def taken(env: dict[str, str]) -> str:
    """A sentence on the first port that is in use, or nothing."""
    ports = [("SPYGLASS_PORT", f"tcp://{env['SPYGLASS_HOST']}:{env['SPYGLASS_PORT']}")]
    ports += [(v, env[v]) for v in ("SPYGLASS_FRONTEND", "SPYGLASS_BACKEND")]
    for variable, address in ports:
        where = urlsplit(address)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((where.hostname or "", where.port or 0))
            except OSError as error:
                return (
                    f"{where.netloc} cannot be used: {error.strerror}. Stop what listens there,"
                    f" or choose another one: {variable}=... make run"
                )
    return ""


def announce(url: str, state: Path, supervisor: int) -> None:
    """In a process of its own, below supervisor: say when all workers are ready, or end it all."""
    import urllib.request  # here alone: the process that stays needs none of it

    until = time.monotonic() + READY_WITHIN
    while time.monotonic() < until and os.getppid() == supervisor:
        with suppress(OSError), urllib.request.urlopen(f"{url}readyz", timeout=2) as answer:
            if json.load(answer)["workers"] >= WORKERS:
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


def main() -> int:
    """Run until Ctrl-C; the exit code."""
    settings.Parser(
        "python -m spyglass.local",
        "Starts broker, two workers and web on this machine, and ends them on Ctrl-C.",
        "  make run\n  SPYGLASS_PORT=9000 make run",
    ).parse_args()
    env = environment()
    if problem := taken(env):
        print(f"spyglass: {problem}", file=sys.stderr)
        return settings.EXIT_FAILED
    try:
        let_in(env)
    except BadKeys as error:
        print(f"spyglass: {error}", file=sys.stderr)
        return settings.EXIT_USAGE
    # Until supervisor minds them: no folder stays.
    for number in (*ENDING, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: sys.exit(settings.EXIT_OK))
    with undisturbed():  # a folder whose making is cut short would be nobody's
        folder = tempfile.TemporaryDirectory(prefix="spyglass-")
    with folder as state:
        return supervise(env | {"SPYGLASS_STATE": state})


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
            announce(url, state, supervisor)
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
