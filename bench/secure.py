"""What encryption costs: `make run` with both ports encrypted, beside the same without keys:
`python -m bench.secure`.

Both fleets stand ready all the time, and take turns with the same pictures over HTTP.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bench import load, table
from bench.http import Running, command, running
from spyglass.keys.keyring import Keyring
from spyglass.keys.port_policy import ALWAYS, ENCRYPTED

#: Connections at a time: enough that all cores are busy.
CONNECTIONS = 32
#: The least share of the plain fleet's images a second that goes through the encrypted one.
SHARE_OF_PLAIN = 0.9


def measure(pictures: Sequence[bytes], runs: int, for_seconds: float) -> list[table.Row]:
    """Take turns `runs` times, for so many seconds each.

    Raises:
        TimeoutError, ConnectionError, EOFError: a side did not start, or stopped answering.
    """
    asked = load.requests(pictures)
    rates: dict[str, list[float]] = defaultdict(list)
    spent: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        keys = Keyring.create(Path(folder) / "keys").folder
        with (
            running() as plain,
            running(SPYGLASS_KEYS=str(keys), SPYGLASS_ENCRYPT=ALWAYS) as encrypted,
        ):
            sides = {"plain": plain, "encrypted": encrypted}
            if protection(encrypted) != {ENCRYPTED}:
                raise ValueError("the encrypted fleet is not encrypted")
            for fleet in sides.values():
                load.run(fleet.port, asked, CONNECTIONS, 1.0)
            for turn in tqdm(range(runs), unit="turn", desc="encrypted"):
                # Each goes first in every second turn.
                for side in sorted(sides, reverse=turn % 2 == 0):
                    before = sides[side].cpu()
                    measured = load.run(sides[side].port, asked, CONNECTIONS, for_seconds)
                    used = sum(sides[side].cpu().values(), 0.0) - sum(before.values())
                    rates[side].append(measured.rate)
                    spent[side].append(1000 * used / len(measured.answers))
    against = (rates["plain"], SHARE_OF_PLAIN)
    return [
        table.row(f"HTTP, plain, {CONNECTIONS} connections", rates["plain"], "images/s"),
        table.row("HTTP, encrypted", rates["encrypted"], "images/s", *against),
        table.row("CPU an image: plain", spent["plain"], "ms"),
        table.row("CPU an image: encrypted", spent["encrypted"], "ms", spent["plain"]),
    ]


def protection(fleet: Running) -> set[str]:
    """How the ports of a fleet's broker are protected."""
    return set(fleet.status()["broker"]["security"].values())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code shows whether the promise was kept."""
    what = "Images a second with both ports encrypted, and without, in turns."
    return command("secure", what, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
