"""The broker's keys and the list of whom it lets in: a folder of small files.

    broker.secret   the broker's CURVE secret key, in Z85
    admin.token     what an admin's requests to the web carry
    allowed         a line for each way in: role, name and public key

Only public keys stand in the list: whoever reads it can let nobody in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path
from typing import NamedTuple

import zmq

from spyglass.protocol import NAME
from spyglass.transport.credentials import FRONT_DOMAIN, WORKER_DOMAIN, Login

log = logging.getLogger(__name__)

#: Failures to read the list that pass, and say nothing about it.
PASSING = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO))
#: Seconds for which a list that somebody writes in place must be left alone before it is read: half
#: of it would shut out the others. `keys.py` replaces it as a whole, and is heeded at once.
SETTLED = 0.5
#: Where keys are unless another folder is named.
DEFAULT_FOLDER = Path("~/.config/spyglass")
SECRET, TOKEN, ALLOWED = "broker.secret", "admin.token", "allowed"
#: Random bytes of the admin's token: nobody guesses 256 bits.
TOKEN_BYTES = 32


class BadKeys(Exception):
    """The keys are missing, damaged or open to others; `str()` is a sentence that says what to
    do."""


class Role(Enum):
    """What a key is good for. One that may send pictures cannot compute them, nor the reverse."""

    WORKER = "worker"  # the workers' port
    FRONT = "front"  # the clients' port: pictures, and the fleet's status
    ADMIN = "admin"  # the same, and it may change the fleet

    @property
    def domain(self) -> str:
        """The port it opens, by ZAP's name."""
        return WORKER_DOMAIN if self is Role.WORKER else FRONT_DOMAIN

    @property
    def stem(self) -> str:
        """What a key without a name is called by, with a number. Not `worker`: the workers of
        `make run` are worker-1 and worker-2, and revoking a key of that name shuts out neither."""
        return "machine" if self is Role.WORKER else self.value


@dataclass(frozen=True, slots=True)
class Entry:
    """One way in."""

    role: Role
    name: str
    public: str  # in Z85, as the User-Id of a message shows it


class Allowed:
    """The list as it is now: read again when the file has changed. Safe from several threads."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen: _Signs | str | None = None
        # Of the file that was read last, so that none that replaces it can have its inode's number.
        self._descriptor: int | None = None
        self._reading = threading.Lock()
        self._written: _Signs | None = None  # in place, and not read yet
        self._written_at = 0.0
        self._entries: dict[str, Entry] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read the list if it has changed; whether it had. One that cannot be read, or that
        others could have written, lets nobody in."""
        with self._reading:
            return self._refresh()

    def _refresh(self) -> bool:
        try:
            signs = _signs(os.stat(self._path))  # without taking a descriptor
            if signs == self._seen or self._in_writing(signs):
                return False
            before, self._descriptor = self._descriptor, os.open(self._path, os.O_RDONLY)
            if before is not None:
                os.close(before)
            told = os.fstat(self._descriptor)
            seen: _Signs | str = _signs(told)
            with open(self._descriptor, "rb", closefd=False) as file:
                entries = [] if told.st_mode & 0o022 else list(_read(file.read()))
            if told.st_mode & 0o022:
                log.error("others may write %s: nobody is let in. chmod 600 it", self._path)
        except OSError as error:
            if error.errno in PASSING and self._seen is not None:
                return False  # says nothing about the list: strangers may have taken what there is
            seen, entries = str(error), []
            if seen != self._seen:
                log.error("cannot read %s: nobody is let in: %s", self._path, error)
        changed = seen != self._seen
        self._seen, self._entries = seen, {entry.public: entry for entry in entries}
        return changed

    def _in_writing(self, signs: _Signs) -> bool:
        """Whether somebody is perhaps writing the very file that was read last."""
        if not isinstance(self._seen, _Signs):
            return False
        if (signs.file, signs.mode) != (self._seen.file, self._seen.mode):
            return False
        if signs != self._written:
            self._written, self._written_at = signs, self._clock()
        return self._clock() - self._written_at < SETTLED

    def find(self, public: str) -> Entry | None:
        """Whose key it is, if it is on the list."""
        return self._entries.get(public)

    def entries(self) -> list[Entry]:
        """All, in the order of the file."""
        return list(self._entries.values())


class _Signs(NamedTuple):
    """What changes with the list."""

    file: int  # its inode, another one if it was replaced
    mode: int
    written: int  # in nanoseconds
    size: int


def _signs(told: os.stat_result) -> _Signs:
    return _Signs(told.st_ino, told.st_mode, told.st_mtime_ns, told.st_size)


def _read(text: bytes) -> Iterator[Entry]:
    """The entries of the file. A line that is none lets nobody in."""
    for line in text.decode(errors="replace").splitlines():
        try:
            role, name, public = line.split()
            entry = Entry(Role(role), name, public)
        except ValueError:
            log.error("a line of the list of keys is damaged and lets nobody in")
            continue
        yield entry


class Keyring:
    """The folder. `create` or `open` it."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        self.folder = folder
        self.secret = secret
        self.public = zmq.curve_public(secret)

    @classmethod
    def create(cls, folder: Path) -> Keyring:
        """Make new keys and a token.

        Raises:
            BadKeys: there are keys already, or the folder cannot be written.
        """
        if (folder / SECRET).exists():
            raise BadKeys(f"{folder} has keys already; they stay as they are.")
        _, secret = zmq.curve_keypair()
        try:
            folder.mkdir(0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            files = {ALLOWED: b"", TOKEN: secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n"}
            for name, content in (files | {SECRET: secret + b"\n"}).items():
                _write(folder / name, content)
        except OSError as error:
            raise BadKeys(f"Cannot make keys in {folder}: {error.strerror}.") from None
        return cls(folder, secret)

    @classmethod
    def open(cls, folder: Path) -> Keyring:
        """The keys in a folder.

        Raises:
            BadKeys: there are none, or others can read or replace them.
        """
        try:
            if folder.stat().st_mode & 0o022:
                raise BadKeys(f"Others may write in {folder}. Close it: chmod 700 {folder}")
            for name in (SECRET, TOKEN, ALLOWED):
                if stat.S_IMODE((folder / name).stat().st_mode) & 0o077:
                    path = folder / name
                    raise BadKeys(f"Others may read {path}. Close it: chmod 600 {path}")
            secret = (folder / SECRET).read_bytes().strip()
            return cls(folder, secret)
        except FileNotFoundError:
            raise BadKeys(
                f"There are no keys in {folder}. Make them: python keys.py init"
            ) from None
        except OSError as error:
            raise BadKeys(f"Cannot read the keys in {folder}: {error.strerror}.") from None
        except (zmq.ZMQError, ValueError):
            raise BadKeys(f"{folder / SECRET} is damaged.") from None

    def allowed(self) -> Allowed:
        """The live list."""
        return Allowed(self.folder / ALLOWED)

    def issue(self, role: Role, name: str = "") -> tuple[str, Login]:
        """Make a way in; its name and what lets its owner in, which is kept nowhere else. Without
        a name it gets the first free one, such as machine-1.

        Raises:
            BadKeys: the name is none or taken, or the list cannot be written.
        """
        public, secret = zmq.curve_keypair()
        with self._changing() as entries:
            taken = {entry.name for entry in entries}
            if name in taken:
                raise BadKeys(f"{name} has a key already. Revoke it: python keys.py revoke {name}")
            if name and not NAME.fullmatch(name):
                raise BadKeys(f"{name!r} is not a name: use at most 64 of A-Z a-z 0-9 . _ # -")
            free = (f"{role.stem}-{n}" for n in count(1))
            name = name or next(candidate for candidate in free if candidate not in taken)
            entries.append(Entry(role, name, public.decode()))
        return name, Login(self.public, secret)

    def revoke(self, name: str) -> list[Entry]:
        """Shut all ways in of this name; what they were. A list put together by hand may hold
        several, and whoever revokes a name means that nobody comes in by it.

        Raises:
            BadKeys: the list cannot be written.
        """
        with self._changing() as entries:
            found = [entry for entry in entries if entry.name == name]
            entries[:] = [entry for entry in entries if entry.name != name]
        return found

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Entry]]:
        """The list, to be changed by one process at a time and replaced as a whole."""
        path = self.folder / ALLOWED
        try:
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                before = list(_read(path.read_bytes()))
                entries = list(before)
                yield entries
                if entries != before:
                    lines = (f"{e.role.value} {e.name} {e.public}\n" for e in entries)
                    _write(path, "".join(lines).encode())
            finally:
                os.close(folder)
        except OSError as error:
            raise BadKeys(f"Cannot change {path}: {error.strerror}.") from None


def _write(path: Path, content: bytes) -> None:
    """Put a file in place as a whole, for its owner only, and out of reach of a power cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Else the list may be the old one again, without a key already told. Not all file systems
        # can, and the list is in force all the same.
        with contextlib.suppress(OSError):
            os.fsync(folder)
    finally:
        os.close(folder)
