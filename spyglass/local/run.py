"""The whole of Spyglass on this machine, under supervisor: broker, two workers, web."""

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
from spyglass.local.supervise import ENDING, supervise, undisturbed
from spyglass.runtime import settings
from spyglass.runtime.settings import from_environment
from spyglass.transport.addresses import as_others_call
from spyglass.transport.credentials import join

#: The checkout: supervisor starts its programs there.
CHECKOUT = Path(__file__).resolve().parents[2]
#: Workers started here, as a fleet of one machine: one can die without a pause.
WORKERS = 2


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
