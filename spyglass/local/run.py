"""`make run`: broker, two workers and web on this machine, under supervisor."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from spyglass.keys.keyring import DEFAULT_FOLDER, BadKeys, Role
from spyglass.keys.port_policy import BEYOND, PortPolicy
from spyglass.local.supervise import END_SIGNALS, signals_blocked, supervise
from spyglass.runtime import settings
from spyglass.runtime.commands import command
from spyglass.runtime.settings import from_environment
from spyglass.transport.addresses import address_for_peers
from spyglass.transport.credentials import add_keys

#: What supervisor starts, with the name of a program: found by its path, it runs in a checkout and
#: in an installation alike.
CLI = Path(__file__).resolve().parents[1] / "cli.py"
#: Two, so that one can die without any pause in the service.
WORKERS = 2


def environment() -> dict[str, str]:
    """The environment of all programs: the user's variables, and defaults for what is not set."""
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
    env["SPYGLASS_RUN"] = str(CLI)
    return env


def give_keys(env: dict[str, str]) -> None:
    """Give web and workers a key for each of the broker's ports that is encrypted.

    Raises:
        BadKeys: keys are needed, and missing or accessible to other users.
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
            port_policy.authority.keyring.revoke(name)  # left from the last start
            _, client_keys = port_policy.authority.keyring.issue(role, name)
            env[variable] = add_keys(address_for_peers(port, "127.0.0.1"), client_keys)


def port_in_use(env: dict[str, str]) -> str:
    """A sentence about the first port that cannot be used, or an empty string."""
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
                    f" or choose another one: {variable}=... {command('up')}"
                )
    return ""


def parser() -> settings.Parser:
    """The command line."""
    up = command("up")
    return settings.Parser(
        "python -m spyglass.local" if up == "make run" else up,
        "Starts broker, two workers and web on this machine, and ends them on Ctrl-C.",
        f"  {up}\n  SPYGLASS_PORT=9000 {up}",
    )


def main() -> int:
    """Run until Ctrl-C; returns the exit code."""
    parser().parse_args()
    env = environment()
    if problem := port_in_use(env):
        print(f"spyglass: {problem}", file=sys.stderr)
        return settings.EXIT_FAILED
    try:
        give_keys(env)
    except BadKeys as error:
        print(f"spyglass: {error}", file=sys.stderr)
        return settings.EXIT_USAGE
    # Until supervisor installs its own handlers, so that the folder is removed in any case.
    for number in (*END_SIGNALS, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: sys.exit(settings.EXIT_OK))
    with signals_blocked():  # a signal right after the folder is made would leave it behind
        folder = tempfile.TemporaryDirectory(prefix="spyglass-")
    with folder as state:
        return supervise(env | {"SPYGLASS_STATE": state})
