"""The broker's keys and the list of keys it allows: a folder of small files.

    broker.secret   the broker's CURVE secret key, in Z85 (rfc.zeromq.org/spec/32)
    admin.token     the token that an admin's requests to the web carry
    allowed         one line for each allowed key: role, name and public key

The list holds public keys only: reading it does not allow anybody to connect.
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
from spyglass.runtime.commands import command
from spyglass.transport.credentials import FRONT_DOMAIN, WORKER_DOMAIN, ClientKeys

log = logging.getLogger(__name__)

#: Errors of a machine short of files or memory: they pass, and do not mean that the list changed.
TRANSIENT_ERRORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO))
#: Seconds without a change before a list that is edited in place is read: a half-written list would
#: refuse the keys that are missing from it. `keys.py` replaces the file as a whole, which takes
#: effect at once.
SETTLED = 0.5
#: Where the keys are unless another folder is named.
DEFAULT_FOLDER = Path("~/.config/spyglass")
SECRET, TOKEN, ALLOWED = "broker.secret", "admin.token", "allowed"
#: Random bytes of the admin's token: 256 bits cannot be guessed.
TOKEN_BYTES = 32


class BadKeys(Exception):
    """The keys are missing, damaged or accessible to other users; `str()` is a sentence that says
    what to do."""


class Role(Enum):
    """What a key permits. With a client's key nobody can act as a worker, nor the reverse."""

    WORKER = "worker"  # the workers' port
    FRONT = "front"  # the clients' port: send pictures, read the fleet's status
    ADMIN = "admin"  # the same, and change the fleet

    @property
    def domain(self) -> str:
        """The ZAP domain, and so the port, that the key is valid for."""
        return WORKER_DOMAIN if self is Role.WORKER else FRONT_DOMAIN

    @property
    def stem(self) -> str:
        """The default name of a key, before its number. Not `worker`: the workers of `make run`
        are named worker-1 and worker-2, and revoking a key of that name would affect neither."""
        return "machine" if self is Role.WORKER else self.value


@dataclass(frozen=True, slots=True)
class Entry:
    """One allowed key."""

    role: Role
    name: str
    public: str  # in Z85, as in the User-Id of a message


class Allowed:
    """The list of allowed keys, read again when its file has changed. Safe to use from several
    threads."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen: _FileState | str | None = None
        # Kept open on the file that was read last, so that no later file gets its inode's number.
        self._descriptor: int | None = None
        self._reading = threading.Lock()
        self._edited: _FileState | None = None  # edited in place since, and not read yet
        self._edited_at = 0.0
        self._entries: dict[str, Entry] = {}  # by public key
        self.refresh()

    def refresh(self) -> bool:
        """Read the list if it has changed; returns whether it had. A list that cannot be read, or
        that other users may write, allows nobody."""
        with self._reading:
            return self._refresh()

    def _refresh(self) -> bool:
        try:
            state = _file_state(os.stat(self._path))  # needs no descriptor
            if state == self._seen or self._being_edited(state):
                return False
            before, self._descriptor = self._descriptor, os.open(self._path, os.O_RDONLY)
            if before is not None:
                os.close(before)
            status = os.fstat(self._descriptor)
            seen: _FileState | str = _file_state(status)
            with open(self._descriptor, "rb", closefd=False) as file:
                entries = [] if status.st_mode & 0o022 else list(_read(file.read()))
            if status.st_mode & 0o022:
                log.error("others may write %s: no key is allowed. chmod 600 it", self._path)
        except OSError as error:
            if error.errno in TRANSIENT_ERRORS and self._seen is not None:
                return False  # keep the list: strangers may have used up the open files
            seen, entries = str(error), []
            if seen != self._seen:
                log.error("cannot read %s: no key is allowed: %s", self._path, error)
        changed = seen != self._seen
        self._seen, self._entries = seen, {entry.public: entry for entry in entries}
        return changed

    def _being_edited(self, state: _FileState) -> bool:
        """Whether the file that was read last may be only half written at the moment."""
        if not isinstance(self._seen, _FileState):
            return False
        if (state.inode, state.mode) != (self._seen.inode, self._seen.mode):
            return False
        if state != self._edited:
            self._edited, self._edited_at = state, self._clock()
        return self._clock() - self._edited_at < SETTLED

    def find(self, public: str) -> Entry | None:
        """The entry of a public key, or None if it is not allowed."""
        return self._entries.get(public)

    def entries(self) -> list[Entry]:
        """All allowed keys, in the order of the file."""
        return list(self._entries.values())


class _FileState(NamedTuple):
    """What differs once the list has changed."""

    inode: int  # another one if the file was replaced
    mode: int
    modified: int  # in nanoseconds
    size: int


def _file_state(status: os.stat_result) -> _FileState:
    return _FileState(status.st_ino, status.st_mode, status.st_mtime_ns, status.st_size)


def _read(text: bytes) -> Iterator[Entry]:
    """The entries of the file. A damaged line is skipped."""
    for line in text.decode(errors="replace").splitlines():
        try:
            role, name, public = line.split()
            entry = Entry(Role(role), name, public)
        except ValueError:
            log.error("a line in the list of keys is damaged and is ignored")
            continue
        yield entry


class Keyring:
    """The folder of keys. Get one by `create` or `open`."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        self.folder = folder
        self.secret = secret
        self.public = zmq.curve_public(secret)

    @classmethod
    def create(cls, folder: Path) -> Keyring:
        """Make new keys and a token.

        Raises:
            BadKeys: the folder has keys already, or cannot be written.
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
            BadKeys: there are none, or other users may read or replace them.
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
                f"There are no keys in {folder}. Make them: {command('keys')} init"
            ) from None
        except OSError as error:
            raise BadKeys(f"Cannot read the keys in {folder}: {error.strerror}.") from None
        except (zmq.ZMQError, ValueError):
            raise BadKeys(f"{folder / SECRET} is damaged.") from None

    def allowed(self) -> Allowed:
        """The list of allowed keys, which follows its file."""
        return Allowed(self.folder / ALLOWED)

    def issue(self, role: Role, name: str = "") -> tuple[str, ClientKeys]:
        """Allow a new key; returns its name and its secret, which is stored nowhere. Without a
        name it gets the first free one, such as machine-1.

        Raises:
            BadKeys: the name is not valid or taken, or the list cannot be written.
        """
        public, secret = zmq.curve_keypair()
        with self._changing() as entries:
            taken = {entry.name for entry in entries}
            if name in taken:
                raise BadKeys(
                    f"{name} has a key already. Revoke it: {command('keys')} revoke {name}"
                )
            if name and not NAME.fullmatch(name):
                raise BadKeys(f"{name!r} is not a name: use at most 64 of A-Z a-z 0-9 . _ # -")
            free = (f"{role.stem}-{n}" for n in count(1))
            name = name or next(candidate for candidate in free if candidate not in taken)
            entries.append(Entry(role, name, public.decode()))
        return name, ClientKeys(self.public, secret)

    def revoke(self, name: str) -> list[Entry]:
        """Remove all keys of this name from the list; returns them. A list that was edited by hand
        may hold several, and none of them must stay valid.

        Raises:
            BadKeys: the list cannot be written.
        """
        with self._changing() as entries:
            found = [entry for entry in entries if entry.name == name]
            entries[:] = [entry for entry in entries if entry.name != name]
        return found

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Entry]]:
        """The entries of the list, to be changed in place: one process at a time may, and the file
        is replaced as a whole."""
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
    """Replace a file as a whole, readable by its owner only, and such that it survives a power
    cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Else a power cut may bring back the old list, without a key that was already handed out.
        # Some file systems cannot sync a folder; the new list is in force all the same.
        with contextlib.suppress(OSError):
            os.fsync(folder)
    finally:
        os.close(folder)
