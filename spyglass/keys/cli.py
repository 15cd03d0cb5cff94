"""The command line of keys.py: make keys, allow other machines to connect, revoke their keys."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from spyglass.keys.keyring import DEFAULT_FOLDER, TOKEN, BadKeys, Keyring, Role
from spyglass.runtime.commands import command, prog
from spyglass.runtime.settings import BACKEND, EXIT_FAILED, EXIT_OK, FRONTEND, Parser
from spyglass.transport.addresses import address, own_host
from spyglass.transport.credentials import add_keys, curve_missing


def parser() -> Parser:
    """The command line."""
    me, broker = command("keys"), command("broker")
    p = Parser(
        prog("keys"),
        "Makes and revokes the keys with which other machines connect to the broker, encrypted.",
        f"  {me} init\n"
        f"  {broker} --backend tcp://0.0.0.0:5556\n"
        f"  {me} join --name kitchen   # prints the line to run in the kitchen\n"
        f"  {me} front --admin         # the same, for a web on another machine\n"
        f"  {me} list\n"
        f"  {me} revoke kitchen        # takes effect at once, also on open connections",
    )
    commands = p.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def keys_command(name: str, help: str, examples: str) -> Parser:
        added: Parser = commands.add_parser(name, help=help, description=help, examples=examples)
        added.setting("--keys", DEFAULT_FOLDER, "folder of the keys", Path)
        return added

    def new_key(name: str, help: str, examples: str, port: str) -> Parser:
        added = keys_command(name, help, examples)
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

    keys_command("init", "Make the broker's keys and the admin's token.", f"  {me} init")
    new_key(
        "join",
        "Make a key for a worker: print the command to run on its machine.",
        f"  {me} join\n  {me} join --name kitchen --address tcp://10.0.0.5:5556",
        port_of(BACKEND),
    )
    front = new_key(
        "front",
        "Make a key for a web or client: print the command to run on its machine.",
        f"  {me} front --name office\n  {me} front --admin",
        port_of(FRONTEND),
    )
    front.add_argument(
        "--admin",
        action="store_true",
        help="it may also change the fleet: drain, dial, make join commands (default: it may not)",
    )
    keys_command("list", "List the allowed keys.", f"  {me} list")
    revoke = keys_command(
        "revoke",
        "Revoke a key: its owner is disconnected at once, and refused from then on.",
        f"  {me} revoke kitchen",
    )
    revoke.add_argument("name", metavar="NAME", help="as `list` shows it")
    return p


def port_of(address: str) -> str:
    """The port of an address."""
    return address.rpartition(":")[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = parser()
    options = p.parse_args(argv)
    try:
        if problem := curve_missing():
            raise BadKeys(problem)
        if options.command == "init":
            make_keys(options.keys)
        else:
            use_keys(Keyring.open(options.keys.expanduser()), options)
    except BadKeys as error:
        print(f"{p.prog}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def make_keys(named: Path) -> None:
    """Make the keys, and print which commands are next."""
    folder = named.expanduser()
    Keyring.create(folder)
    print(f"Made the broker's keys and the admin's token ({TOKEN}) in {folder}.")
    flag = "" if named == DEFAULT_FOLDER else f" --keys {shlex.quote(str(folder))}"
    print(f"Next: {command('broker')} --backend tcp://0.0.0.0:{port_of(BACKEND)}{flag}")
    print(f"Then, for each machine: {command('keys')} join{flag}")


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
        allowed = f"{command('keys')} list"
        raise BadKeys(f"No key is called {options.name}. The allowed keys: {allowed}")


def print_join_command(keyring: Keyring, options: argparse.Namespace) -> None:
    """Make a key, and print the command that uses it, alone on standard output."""
    joins = options.command == "join"
    role = Role.WORKER if joins else Role.ADMIN if options.admin else Role.FRONT
    name, client_keys = keyring.issue(role, options.name)
    port = port_of(BACKEND if joins else FRONTEND)
    broker = add_keys(options.address or f"tcp://{own_host()}:{port}", client_keys)
    if joins:
        print(f"{command('worker')} '{broker}'")
    else:
        print(f"SPYGLASS_BROKER='{broker}' {command('web')}")
    revoke = f"{command('keys')} revoke {name}"
    print(f"Keep it secret. To revoke it: {revoke}", file=sys.stderr)
