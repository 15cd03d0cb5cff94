"""The command line of keys.py: make keys, allow other machines to connect, revoke their keys."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from spyglass.keys.keyring import DEFAULT_FOLDER, TOKEN, BadKeys, Keyring, Role
from spyglass.runtime.settings import BACKEND, EXIT_FAILED, EXIT_OK, FRONTEND, Parser
from spyglass.transport.addresses import address, own_host
from spyglass.transport.credentials import add_keys, curve_missing


def parser() -> Parser:
    """The command line."""
    p = Parser(
        "keys.py",
        "Makes and revokes the keys with which other machines connect to the broker, encrypted.",
        "  python keys.py init\n"
        "  python broker.py --backend tcp://0.0.0.0:5556\n"
        "  python keys.py join --name kitchen   # prints the line to run in the kitchen\n"
        "  python keys.py front --admin         # the same, for a web on another machine\n"
        "  python keys.py list\n"
        "  python keys.py revoke kitchen        # takes effect at once, also on open connections",
    )
    commands = p.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str, examples: str) -> Parser:
        added: Parser = commands.add_parser(name, help=help, description=help, examples=examples)
        added.setting("--keys", DEFAULT_FOLDER, "folder of the keys", Path)
        return added

    def new_key(name: str, help: str, examples: str, port: str) -> Parser:
        added = command(name, help, examples)
        added.add_argument(
            "--name", default="", help="name of the key, to revoke it by (default: the next free)"
        )
        added.add_argument(
            "--address",
            type=address,
            help="the broker's port as the other machine reaches it"
            f" (default: this machine's address, port {port})",
        )
        return added

    command("init", "Make the broker's keys and the admin's token.", "  python keys.py init")
    new_key(
        "join",
        "Make a key for a worker: print the command to run on its machine.",
        "  python keys.py join\n  python keys.py join --name kitchen --address tcp://10.0.0.5:5556",
        port_of(BACKEND),
    )
    front = new_key(
        "front",
        "Make a key for a web or client: print the command to run on its machine.",
        "  python keys.py front --name office\n  python keys.py front --admin",
        port_of(FRONTEND),
    )
    front.add_argument(
        "--admin",
        action="store_true",
        help="it may also change the fleet: drain, dial, make join commands (default: it may not)",
    )
    command("list", "List the allowed keys.", "  python keys.py list")
    revoke = command(
        "revoke",
        "Revoke a key: its owner is disconnected at once, and refused from then on.",
        "  python keys.py revoke kitchen",
    )
    revoke.add_argument("name", metavar="NAME", help="as `list` shows it")
    return p


def port_of(address: str) -> str:
    """The port of an address."""
    return address.rpartition(":")[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(argv)
    try:
        if problem := curve_missing():
            raise BadKeys(problem)
        if options.command == "init":
            make_keys(options.keys)
        else:
            use_keys(Keyring.open(options.keys.expanduser()), options)
    except BadKeys as error:
        print(f"keys.py: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def make_keys(named: Path) -> None:
    """Make the keys, and print which commands are next."""
    folder = named.expanduser()
    Keyring.create(folder)
    print(f"Made the broker's keys and the admin's token ({TOKEN}) in {folder}.")
    flag = "" if named == DEFAULT_FOLDER else f" --keys {shlex.quote(str(folder))}"
    print(f"Next: python broker.py --backend tcp://0.0.0.0:{port_of(BACKEND)}{flag}")
    print(f"Then, for each machine: python keys.py join{flag}")


def use_keys(keyring: Keyring, options: argparse.Namespace) -> None:
    """The commands that need existing keys."""
    if options.command in ("join", "front"):
        print_join_command(keyring, options)
    elif options.command == "list":
        for entry in keyring.allowed().entries():
            print(f"{entry.role.value:8}{entry.name}")
    elif revoked := keyring.revoke(options.name):
        roles = " and ".join(dict.fromkeys(entry.role.value for entry in revoked))
        keys = "1 key" if len(revoked) == 1 else f"{len(revoked)} keys"
        print(f"Revoked {options.name}, {keys}: this {roles} cannot connect any more.")
    else:
        raise BadKeys(f"No key is called {options.name}. The allowed keys: python keys.py list")


def print_join_command(keyring: Keyring, options: argparse.Namespace) -> None:
    """Make a key, and print the command that uses it, alone on standard output."""
    joins = options.command == "join"
    role = Role.WORKER if joins else Role.ADMIN if options.admin else Role.FRONT
    name, client_keys = keyring.issue(role, options.name)
    port = port_of(BACKEND if joins else FRONTEND)
    broker = add_keys(options.address or f"tcp://{own_host()}:{port}", client_keys)
    if joins:
        print(f"python worker.py '{broker}'")
    else:
        print(f"SPYGLASS_BROKER='{broker}' python web.py")
    print(f"Keep it secret. To revoke it: python keys.py revoke {name}", file=sys.stderr)
