"""Which programs of this machine listen at a TCP port, as Linux shows it (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: The state of a listening socket in /proc/net/tcp.
_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that listens."""

    pid: int
    command: list[str]  # its command line

    def __str__(self) -> str:
        shown = " ".join(os.path.basename(word) for word in self.command[:3])
        return f"{shown or 'a program'} (process {self.pid})"


def listeners(port: int) -> list[Listener]:
    """The processes that listen at this port; none of other users unless this one is root."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    return [Listener(pid, _command(pid)) for pid in _processes() if wanted & _open_files(pid)]


def _inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # no such protocol here, or not Linux
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _processes() -> list[int]:
    with suppress(OSError):
        return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return []


def _open_files(pid: int) -> set[str]:
    links: set[str] = set()
    with suppress(OSError):  # it has ended, or is another user's
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                links.add(os.readlink(entry.path))
    return links


def _command(pid: int) -> list[str]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        return text.rstrip("\0").split("\0")
    return []
