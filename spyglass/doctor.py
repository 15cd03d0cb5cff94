"""`spyglass doctor`: what is wrong on this machine, and what to do about it, in sentences.

Each check takes what it looks at as arguments, so that a test can break just that.
"""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import operator
import os
import re
import resource
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

import zmq

from spyglass import __version__
from spyglass.client.connection import ClientConnection
from spyglass.client.session import NotAllowed, RequestFailed
from spyglass.client.thread_client import BrokerClient
from spyglass.keys.keyring import DEFAULT_FOLDER, SECRET, BadKeys, Keyring
from spyglass.protocol import Op
from spyglass.runtime.commands import command, not_installed, prog
from spyglass.runtime.listeners import Listener, listeners
from spyglass.runtime.open_files import LEAST_OPEN_FILES
from spyglass.runtime.settings import (
    BACKEND,
    EXIT_FAILED,
    EXIT_OK,
    FRONTEND,
    HOST,
    PORT,
    Parser,
    whole,
)
from spyglass.transport.addresses import address, beyond_loopback
from spyglass.transport.credentials import (
    REFUSED,
    address_with_keys,
    no_answer_text,
    split_address,
)
from spyglass.transport.peers import monitor_events

#: Versions of Python that its tests are run with.
OLDEST, NEWEST = (3, 11), (3, 14)
#: The first one for which torch compiles no model any more (torch.jit).
WITHOUT_JIT = (3, 14)
#: Bytes that must be free in /dev/shm: locks between processes are small, a full folder is not.
SHARED_MEMORY = 2**20
#: Seconds a broker's workers' port has for the handshake.
HANDSHAKE_WITHIN = 2.0
#: Seconds by which this machine's clock may be behind the files of Spyglass: they may have been
#: made on another machine, in another time zone.
CLOCK_BEHIND = 86_400.0


class Level(Enum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"  # possibly as intended
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence on one thing that was looked at."""

    level: Level
    text: str


def ok(text: str) -> Finding:
    return Finding(Level.OK, text)


def note(text: str) -> Finding:
    return Finding(Level.NOTE, text)


def problem(text: str) -> Finding:
    return Finding(Level.PROBLEM, text)


# --- this machine -----------------------------------------------------------------------------


def check_python(version: tuple[int, int], torch: bool) -> Finding:
    """Whether Spyglass runs with this Python."""
    shown = ".".join(map(str, version))
    if version < OLDEST:
        return problem(
            f"This is Python {shown}, and Spyglass needs 3.11 or later. Install one, and make the"
            " environment again with it: python3.11 -m venv .venv"
        )
    if version > NEWEST:
        return note(f"Python {shown} is newer than what Spyglass is tested with, which is 3.14.")
    if version >= WITHOUT_JIT and torch:
        return note(
            f"Python {shown}: torch compiles no model for it, so pictures take longer than with"
            " Python 3.13."
        )
    return ok(f"Python {shown}.")


def installed(package: str) -> str:
    """The version of a package, or "" if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def torch_for(package: str) -> str:
    """Which versions of torch a package needs, such as ">=2.14.0"; "" if it does not say."""
    for line in importlib.metadata.requires(package) or ():
        if match := re.match(r"torch\s*\(?([=<>!~][^);]*)", line):
            return match[1].strip()
    return ""


def within(version: str, bounds: str) -> bool:
    """Whether a version is one of those that bounds such as ">=2.14.0,<3" allow."""
    compare = {"==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<": operator.lt}
    found = re.findall(r"(==|!=|>=|<)\s*(\d+(?:\.\d+)*)", bounds)
    numbers = [tuple(map(int, re.findall(r"\d+", text))) for _, text in found]
    own = tuple(map(int, re.findall(r"\d+", version.partition("+")[0])))
    return all(compare[op](own, bound) for (op, _), bound in zip(found, numbers, strict=True))


def check_torch(
    version: Callable[[str], str] = installed, wanted: Callable[[str], str] = torch_for
) -> Finding:
    """Whether torch and torchvision are there, and fit each other."""
    have = {name: version(name) for name in ("torch", "torchvision")}
    if not any(have.values()):
        return note("There is no torch here: other programs do without it, a worker does not.")
    for name, found in have.items():
        if not found:
            return problem(f"No worker can run: {not_installed(name, 'worker')}")
    needed, torchvision = wanted("torchvision"), have["torchvision"].partition("+")[0]
    if not within(have["torch"], needed):
        return problem(
            f"torchvision {torchvision} needs torch{needed}, and torch {have['torch']} is"
            " installed: a worker fails with operators that do not exist. Install the pair"
            f" together: pip install 'torch{needed}' torchvision=={torchvision}"
        )
    return ok(f"torch {have['torch']} and torchvision {have['torchvision']} fit each other.")


def check_open_files(limit: int) -> Finding:
    """Whether broker and web may open enough files; each connection is one."""
    if limit < LEAST_OPEN_FILES:
        return problem(
            f"A program may open {limit} files here, and a broker or web needs {LEAST_OPEN_FILES}:"
            " each connection is one. Raise it with ulimit -n 4096, or LimitNOFILE= in a systemd"
            " unit."
        )
    return ok(f"A program may open {limit} files.")


def check_shared_memory(folder: Path) -> Finding:
    """Whether processes can share memory, as those of a worker do."""
    if not folder.is_dir():
        return problem(
            f"There is no {folder}, where processes share memory. Mount it:"
            f" mount -t tmpfs tmpfs {folder}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        return problem(f"Nothing can be written in {folder}. As root run: chmod 1777 {folder}")
    free = shutil.disk_usage(folder).free
    if free < SHARED_MEMORY:
        return problem(
            f"{folder} is full: {free} bytes are free. Delete what nobody uses there, or give it"
            " more (in a container: --shm-size 64m)."
        )
    return ok(f"{folder} has {free // 2**20} MiB free.")


def check_clock(now: float, made: float) -> Finding:
    """Whether the clock can be right. Only people and certificates rely on it.

    Args:
        now: seconds since 1970 by this machine's clock.
        made: the same of when the files of Spyglass were written.
    """
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < made - CLOCK_BEHIND:
        return problem(
            f"The clock shows {shown}, before this Spyglass was made: times in logs are wrong, and"
            " downloads over HTTPS fail. Set it: timedatectl set-ntp true"
        )
    return ok(f"The clock shows {shown}.")


def check_keys(folder: Path, ports: Sequence[str], token_file: str) -> Iterator[Finding]:
    """Whether the broker's keys and the admin's token are closed to others, and there if needed."""
    folder = folder.expanduser()
    open_ports = [port for port in ports if beyond_loopback(port)]
    if (folder / SECRET).exists() or open_ports:
        try:
            Keyring.open(folder)
            yield ok(f"The keys in {folder} are closed to others.")
        except BadKeys as error:
            which = f"Other machines may reach {open_ports[0]}. " if open_ports else ""
            yield problem(f"{which}{error}")
    else:
        yield ok(f"No keys in {folder}: they are needed for ports beyond this machine only.")
    if token_file:
        try:
            mode = stat.S_IMODE(os.stat(token_file).st_mode)
        except OSError as error:
            yield problem(f"The admin token {token_file} cannot be read: {error.strerror}.")
        else:
            if mode & 0o077:
                yield problem(f"Others may read {token_file}. Close it: chmod 600 {token_file}")


# --- ports ------------------------------------------------------------------------------------


def check_port(
    program: str, place: str, variable: str, who: Callable[[int], list[Listener]] = listeners
) -> Finding:
    """Whether a program of ours could listen there, or does so already.

    Args:
        program: its name as a command of `spyglass`.
        place: such as tcp://127.0.0.1:5555.
        variable: the environment variable that changes it.
        who: those who listen at a port.
    """
    scheme, _, where = place.partition("://")
    host, _, port = where.rpartition(":")
    host = "" if host == "*" else host.strip("[]")
    if scheme != "tcp" or port in ("*", "0"):
        return ok(f"The {program} takes {place}, which nobody else can have taken.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
        return ok(f"{where} is free for the {program}.")
    except OSError as error:
        other = f"choose another address: {variable}=..."
        if error.errno != errno.EADDRINUSE:
            why = error.strerror or str(error)
            return problem(f"The {program} cannot use {where}: {why}. Please {other}")
    taken = who(int(port))
    if any(is_ours(one.command, program) for one in taken):
        return ok(f"{where} is used by the {program} that runs here.")
    by = " and ".join(map(str, taken)) or "a program of another user (sudo ss -ltnp names it)"
    return problem(f"The {program} cannot use {where}: it is taken by {by}. Stop that, or {other}")


def is_ours(words: Sequence[str], program: str) -> bool:
    """Whether this command line starts this program of Spyglass."""
    names = [os.path.basename(word) for word in words]
    if f"{program}.py" in names:
        return True
    started = {"spyglass", "cli.py"} & set(names)
    return bool(started) and program in names


# --- brokers ----------------------------------------------------------------------------------


def check_broker(place: str, named: bool) -> Iterator[Finding]:
    """Whether a broker answers at its clients' port, and what this machine may do there.

    Args:
        place: the address, with or without a secret.
        named: whether somebody configured it. If not, it need not run.
    """
    with closing(BrokerClient([place])) as client:
        where = client.address
        try:
            status = client.status()
        except RequestFailed as failed:
            if named:
                yield problem(f"{failed}")
            else:
                yield note(f"No broker runs at {where}. Start all of Spyglass: {command('up')}")
            return
        try:
            client.control(Op.DRAIN, "")  # nobody is called so: only whether it may be asked
            may = "as an admin: pictures, and changes of the fleet"
        except NotAllowed:
            may = "as a client: pictures and the status, no changes of the fleet"
        except RequestFailed:
            may = "but it is slow"
    workers = len(status["workers"])
    yield ok(f"The broker at {where} answers {may}. It has {workers} workers.")
    version = status["broker"].get("version")
    if version != __version__:
        yield note(f"That broker is Spyglass {version}, and this is {__version__}.")


def check_workers_port(place: str) -> Finding:
    """Whether a worker of this machine could join there. Says nothing that makes it one."""
    where, keys = split_address(place)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        connection = ClientConnection(context, place)
        until = time.monotonic() + HANDSHAKE_WITHIN
        met = False
        while (left := until - time.monotonic()) > 0:
            connection.monitor.poll(int(1000 * left) + 1)
            for event, _ in monitor_events(connection.monitor):
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    return ok(f"The broker at {where} takes workers from here.")
                if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    return problem(f"The broker at {where} {REFUSED}")
                met = met or event == zmq.EVENT_DISCONNECTED
        return problem(no_answer_text(where, keys, met))
    finally:
        context.destroy(linger=0)


# --- command line -----------------------------------------------------------------------------


def parser() -> Parser:
    """The command line."""
    me = command("doctor")
    p = Parser(
        prog("doctor"),
        "Looks at this machine, says in sentences what is wrong and what to do, and exits with 1"
        "\nif something is. It changes nothing.",
        f"  {me}\n"
        f"  {me} --broker 'tcp://10.0.0.5:5555#SECRET'    # as {prog('keys')} front prints it\n"
        f"  SPYGLASS_BROKERS='tcp://10.0.0.5:5556#SECRET' {me}   # where a worker is to join",
    )
    p.setting(
        "--broker",
        None,
        "a broker's clients' port that must answer; may be repeated",
        address_with_keys,
        action="append",
    )
    p.setting(
        "--brokers",
        None,
        "a broker's workers' port that must answer; may be repeated",
        address_with_keys,
        action="append",
    )
    p.setting("--frontend", FRONTEND, "a broker's address here for clients", address)
    p.setting("--backend", BACKEND, "a broker's address here for workers", address)
    p.setting("--host", HOST, "address a web listens on here")
    p.setting("--port", PORT, "port a web listens on here", whole(0, 65535))
    p.setting("--keys", DEFAULT_FOLDER, "folder of the keys", Path)
    p.setting("--admin-token-file", "", "file of the token that actions need")
    return p


def findings(argv: Sequence[str] | None = None) -> Iterator[Finding]:
    """All that is found, one after the other."""
    options = parser().parse_args(argv)
    yield check_python(sys.version_info[:2], torch=bool(installed("torch")))
    yield check_torch()
    yield check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield check_shared_memory(Path("/dev/shm"))
    yield check_clock(datetime.now().timestamp(), os.stat(__file__).st_mtime)
    ports = options.frontend, options.backend
    yield from check_keys(options.keys, ports, options.admin_token_file)
    yield check_port("broker", options.frontend, "SPYGLASS_FRONTEND")
    yield check_port("broker", options.backend, "SPYGLASS_BACKEND")
    yield check_port("web", f"tcp://{options.host}:{options.port}", "SPYGLASS_PORT")
    for place in options.broker or [options.frontend]:
        yield from check_broker(place, named=bool(options.broker))
    for place in options.brokers or ():
        yield check_workers_port(place)


def main(argv: Sequence[str] | None = None) -> int:
    """Print all findings; the exit code."""
    logging.getLogger("spyglass").addHandler(logging.NullHandler())  # the findings say it
    problems = 0
    for finding in findings(argv):
        problems += finding.level is Level.PROBLEM
        print(f"{finding.level.value:8} {finding.text}", flush=True)
    if problems:
        print(f"\n{problems} problem{'s' if problems > 1 else ''} to solve.")
        return EXIT_FAILED
    print("\nNothing is wrong on this machine.")
    return EXIT_OK
