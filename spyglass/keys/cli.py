"""The command line for keys: make them, let machines in, shut them out."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from spyglass.keys.keyring import DEFAULT_FOLDER, TOKEN, BadKeys, Keyring, Role
from spyglass.runtime.settings import BACKEND, EXIT_FAILED, EXIT_OK, FRONTEND, Parser
from spyglass.transport.addresses import address, this_machine
from spyglass.transport.credentials import join, missing


def parser() -> Parser:
    """The command line."""
    p = Parser(
        "keys.py",
        "Makes the keys that let other machines join, encrypted, and shuts them out again.",
        "  python keys.py init\n"
        "  python broker.py --backend tcp://0.0.0.0:5556\n"
        "  python keys.py join --name kitchen   # prints the line to run in the kitchen\n"
        "  python keys.py front --admin         # the same for a web on another machine\n"
        "  python keys.py list\n"
        "  python keys.py revoke kitchen        # at once, also on open connections",
    )
    commands = p.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str, examples: str) -> Parser:
        added: Parser = commands.add_parser(name, help=help, description=help, examples=examples)
        added.setting("--keys", DEFAULT_FOLDER, "folder of the keys", Path)
        return added

    def way_in(name: str, help: str, examples: str, port: str) -> Parser:
        added = command(name, help, examples)
        added.add_argument("--name", default="", help="name to revoke it by (default: the next)")
        added.add_argument(
            "--address",
            type=address,
            help="the broker's port as the other machine calls it"
            f" (default: this machine's address, port {port})",
        )
        return added

    command("init", "Make the broker's keys and an admin's token.", "  python keys.py init")
    way_in(
        "join",
        "Let a worker in: print the line to run on its machine.",
        "  python keys.py join\n  python keys.py join --name kitchen --address tcp://10.0.0.5:5556",
        port_of(BACKEND),
    )
    front = way_in(
        "front",
        "Let a web or client in: print the line to run on its machine.",
        "  python keys.py front --name office\n  python keys.py front --admin",
        port_of(FRONTEND),
    )
    front.add_argument(
        "--admin",
        action="store_true",
        help="it may also change the fleet: drain, dial, make join lines (default: it may not)",
    )
    command("list", "Show who is let in.", "  python keys.py list")
    revoke = command(
        "revoke",
        "Shut out whoever has this key, at once, also on open connections.",
        "  python keys.py revoke kitchen",
    )
    revoke.add_argument("name", metavar="NAME", help="as `list` shows it")
    return p


def port_of(place: str) -> str:
    """The port of an address."""
    return place.rpartition(":")[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command says; the exit code."""
    options = parser().parse_args(argv)
    folder = options.keys.expanduser()
    try:
        if problem := missing():
            raise BadKeys(problem)
        if options.command == "init":
            Keyring.create(folder)
            print(f"Made the broker's keys and the admin's token ({TOKEN}) in {folder}.")
            named = "" if options.keys == DEFAULT_FOLDER else f" --keys {shlex.quote(str(folder))}"
            print(f"Next: python broker.py --backend tcp://0.0.0.0:{port_of(BACKEND)}{named}")
            print(f"Then, for each machine: python keys.py join{named}")
            return EXIT_OK
        keyring = Keyring.open(folder)
        if options.command in ("join", "front"):
            let_in(keyring, options)
        elif options.command == "list":
            for entry in keyring.allowed().entries():
                print(f"{entry.role.value:8}{entry.name}")
        elif gone := keyring.revoke(options.name):
            roles = " and ".join(dict.fromkeys(entry.role.value for entry in gone))
            keys = "1 key" if len(gone) == 1 else f"{len(gone)} keys"
            print(f"Revoked {options.name}, {keys}: this {roles} is shut out.")
        else:
            raise BadKeys(f"Nobody is called {options.name}. Who is let in: python keys.py list")
    except BadKeys as error:
        print(f"keys.py: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def let_in(keyring: Keyring, options: argparse.Namespace) -> None:
    """Print the line that lets a machine in, alone on standard output."""
    joins = options.command == "join"
    role = Role.WORKER if joins else Role.ADMIN if options.admin else Role.FRONT
    name, login = keyring.issue(role, options.name)
    port = port_of(BACKEND if joins else FRONTEND)
    place = join(options.address or f"tcp://{this_machine()}:{port}", login)
    if joins:
        print(f"python worker.py '{place}'")
    else:
        print(f"SPYGLASS_BROKER='{place}' python web.py")
    print(f"Keep it secret. Shut it out again: python keys.py revoke {name}", file=sys.stderr)
