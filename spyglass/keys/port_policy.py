"""Which of a broker's ports are encrypted, how that is reported, and how workers join them.

A port beyond loopback is always encrypted, unless `--insecure` says otherwise. One on loopback is
encrypted with `--encrypt always`; otherwise only programs of this machine reach it, without keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spyglass.keys.authority import KeyAuthority
from spyglass.keys.keyring import BadKeys, Keyring, Role
from spyglass.runtime.commands import command
from spyglass.transport import credentials
from spyglass.transport.addresses import address_for_peers, beyond_loopback
from spyglass.transport.credentials import FRONT_DOMAIN, WORKER_DOMAIN, ServerKeys

#: Values of `--encrypt`: which ports are to be encrypted.
BEYOND, ALWAYS = "beyond-loopback", "always"
#: How the status reports a port.
ENCRYPTED, LOOPBACK, INSECURE = "encrypted", "loopback", "insecure"
#: Replaces the secret where everybody may read the command.
HIDDEN = "SECRET"


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """The protection of both ports. Without an authority neither is encrypted."""

    authority: KeyAuthority | None = None
    front: bool = False
    back: bool = False

    @classmethod
    def from_flags(
        cls, frontend: str, backend: str, keys: Path, encrypt: str, insecure: bool = False
    ) -> PortPolicy:
        """The policy by the broker's flags.

        Raises:
            BadKeys: keys are needed, and missing or accessible to other users.
        """
        always = encrypt == ALWAYS
        if insecure and always:
            raise BadKeys("--insecure and --encrypt always exclude each other.")
        ports = frontend, backend
        front, back = (always or (beyond_loopback(a) and not insecure) for a in ports)
        if not (front or back):
            return PLAIN
        if problem := credentials.curve_missing():
            raise BadKeys(problem)
        try:
            keyring = Keyring.open(keys.expanduser())
        except BadKeys as error:
            if always:
                raise
            where = frontend if front else backend
            raise BadKeys(
                f"Other machines may reach {where}, so it must be encrypted. {error}"
                " (or name their folder with --keys; --insecure leaves the port open to everybody)"
            ) from None
        return cls(KeyAuthority(keyring), front, back)

    @property
    def folder(self) -> Path | None:
        """The folder of the keys, if they are used."""
        return None if self.authority is None else self.authority.keyring.folder

    def server_keys(self, domain: str) -> ServerKeys | None:
        """The socket options of the port of this domain; None if it is not encrypted."""
        encrypted = {FRONT_DOMAIN: self.front, WORKER_DOMAIN: self.back}[domain]
        return (
            self.authority.server_keys(domain) if self.authority is not None and encrypted else None
        )

    def next_refresh(self) -> float:
        """When the list of keys is to be read again."""
        return float("inf") if self.authority is None else self.authority.next_refresh

    def protection(self, frontend: str, backend: str) -> dict[str, str]:
        """How each port is protected."""
        ports = {"frontend": (frontend, self.front), "backend": (backend, self.back)}
        return {
            port: ENCRYPTED if encrypted else INSECURE if beyond_loopback(address) else LOOPBACK
            for port, (address, encrypted) in ports.items()
        }

    def would_leak(self, backend: str, target: str) -> bool:
        """Whether pictures would go to a worker at `target` unencrypted, though nobody allowed that
        by --insecure."""
        not_allowed = self.protection("", backend)["backend"] == LOOPBACK
        return not_allowed and beyond_loopback(target)

    def join_command(self, backend: str, host: str) -> str:
        """The command that starts a worker on another machine; its secret is not shown."""
        place = address_for_peers(backend, host)
        worker = command("worker")
        return f"{worker} '{place}#{HIDDEN}'" if self.back else f"{worker} {place}"

    def make_join_command(self, frontend: str, backend: str, host: str, name: str) -> str:
        """The same with the secret of a new key of this name.

        Raises:
            BadKeys: the name is taken, or the request may come from anybody.
        """
        if self.protection(frontend, backend)["frontend"] == INSECURE:
            keys = command("keys")
            raise BadKeys(f"Anybody may ask this broker. On its machine run: {keys} join")
        if self.authority is None or not self.back:
            return self.join_command(backend, host)
        _, client_keys = self.authority.keyring.issue(Role.WORKER, name)
        place = credentials.add_keys(address_for_peers(backend, host), client_keys)
        return f"{command('worker')} '{place}'"


PLAIN = PortPolicy()
