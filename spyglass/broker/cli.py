"""The broker's command line."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import zmq

from spyglass.broker.loop import Broker
from spyglass.dispatcher.policy import Policy
from spyglass.keys.authority import AuthorityStopped
from spyglass.keys.keyring import DEFAULT_FOLDER, BadKeys
from spyglass.keys.port_policy import ALWAYS, BEYOND, ENCRYPTED, INSECURE, PortPolicy
from spyglass.runtime import logs
from spyglass.runtime.commands import command, prog
from spyglass.runtime.open_files import TooFewOpenFiles, raise_open_files
from spyglass.runtime.settings import (
    BACKEND,
    EXIT_FAILED,
    EXIT_OK,
    FRONTEND,
    Parser,
    one_of,
    whole,
)
from spyglass.transport.addresses import address, beyond_loopback

log = logging.getLogger(__name__)

#: Objects made before Python looks for cycles among them. A request leaves none behind, so with
#: Python's default of 700 it would look in vain, again and again, at all requests that wait.
GARBAGE_THRESHOLD = 20_000


def parser() -> Parser:
    """The command line."""
    me, keys = command("broker"), command("keys")
    p = Parser(
        prog("broker"),
        "Takes pictures from clients and shares them out among workers.",
        f"  {me}\n"
        f"  {me} --frontend tcp://127.0.0.1:7555 --backend tcp://127.0.0.1:7556\n"
        f"  SPYGLASS_MAX_WAITING=1000 {me}\n"
        f"  {keys} init && {me} --backend tcp://0.0.0.0:5556",
    )
    p.setting("--frontend", FRONTEND, "address for clients", address)
    p.setting("--backend", BACKEND, "address for workers", address)
    p.setting("--max-waiting", Policy.max_waiting, "pictures that may wait", whole(1, 1_000_000))
    p.setting("--keys", DEFAULT_FOLDER, f"folder of the keys, see {prog('keys')}", Path)
    p.setting(
        "--encrypt", BEYOND, f"{BEYOND}, or {ALWAYS}: ports on loopback too", one_of(BEYOND, ALWAYS)
    )
    p.add_argument(
        "--insecure",
        action="store_true",
        help="let ports beyond loopback be open to everybody there, unencrypted",
    )
    logs.add_settings(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run a broker until SIGTERM or SIGINT; the exit code."""
    p = parser()
    options = p.parse_args(argv)
    try:
        ports = options.frontend, options.backend
        port_policy = PortPolicy.from_flags(*ports, options.keys, options.encrypt, options.insecure)
    except BadKeys as error:
        p.error(str(error))
    logs.configure("broker", options)
    policy = Policy(max_waiting=options.max_waiting)
    try:
        broker = Broker(*ports, policy, raise_open_files(), port_policy=port_policy)
        broker.open()
    except TooFewOpenFiles as error:
        print(f"{p.prog}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except zmq.ZMQError as error:
        print(
            f"{p.prog}: cannot listen on {options.frontend} and {options.backend}: {error}.\n"
            "Is another broker running? Stop it, or choose other ports with --frontend and"
            " --backend (SPYGLASS_FRONTEND, SPYGLASS_BACKEND).",
            file=sys.stderr,
        )
        return EXIT_FAILED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: broker.stop())
    gc.freeze()  # modules live as long as the process: no need to look at them for cycles
    gc.set_threshold(GARBAGE_THRESHOLD)
    log_ports(broker, port_policy)
    try:
        broker.run()
    except AuthorityStopped as error:
        log.error("leaving: %s", error)
        return EXIT_FAILED
    return EXIT_OK


def log_ports(broker: Broker, port_policy: PortPolicy) -> None:
    """Log where the ports are, who may reach them, and how they are protected."""
    log.info("clients at %s, workers at %s", broker.frontend, broker.backend)
    for port, place in (("frontend", broker.frontend), ("backend", broker.backend)):
        if beyond_loopback(place):
            logs.always(log, "other machines may reach the %s at %s", port, place)
    for port, state in port_policy.protection(broker.frontend, broker.backend).items():
        if state == INSECURE:
            logs.always(log, "the %s is open to everybody on its network, unencrypted", port)
        elif state == ENCRYPTED:
            log.info("the %s is encrypted, by the keys in %s", port, port_policy.folder)
