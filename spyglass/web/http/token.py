"""The admin token: where it comes from, whether it is safe, and how guessing it is slowed."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from pathlib import Path

from spyglass.keys.keyring import DEFAULT_FOLDER, TOKEN
from spyglass.runtime.settings import from_environment

#: Characters of the shortest token: 128 random bits in base64.
MIN_TOKEN_LENGTH = 22
#: Characters of the longest; more does not fit the headers of some proxies.
MAX_TOKEN_LENGTH = 1000
#: Wrong tokens an address may send within GUESS_WINDOW; then it has to wait.
MAX_GUESSES = 10
#: Seconds a wrong token counts.
GUESS_WINDOW = 60.0
#: Addresses whose wrong tokens are remembered; the oldest is forgotten first.
MAX_REMEMBERED = 10_000


class BadToken(Exception):
    """The admin token cannot be used; `str()` is a sentence with the reason and the remedy."""


def load_token(file: str) -> str:
    """The admin token: from this file, else from SPYGLASS_ADMIN_TOKEN, else from where `keys.py
    init` puts it; "" if there is none.

    Raises:
        BadToken: it cannot be read, others can read it, or it is too short to be safe.
    """
    if not file and (token := from_environment("SPYGLASS_ADMIN_TOKEN")):
        return _checked_token(token, "SPYGLASS_ADMIN_TOKEN")
    if not file:
        folder = Path(from_environment("SPYGLASS_KEYS") or DEFAULT_FOLDER)
        file = str(folder.expanduser() / TOKEN)
        if not Path(file).exists():
            return ""
    try:
        with Path(file).open() as opened:
            about = os.fstat(opened.fileno())
            text = opened.read(MAX_TOKEN_LENGTH + 2)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadToken(f"the admin token's file cannot be read: {why}.") from None
    if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadToken(f"other users may read the admin token in {file}. Run: chmod 600 {file}")
    if not text.strip():
        raise BadToken(f"there is no admin token in {file}.")
    return _checked_token(text.strip(), file)


def _checked_token(token: str, origin: str) -> str:
    if not (re.fullmatch(r"[!-~]+", token) and MIN_TOKEN_LENGTH <= len(token) <= MAX_TOKEN_LENGTH):
        raise BadToken(
            f"the admin token in {origin} must be {MIN_TOKEN_LENGTH} to {MAX_TOKEN_LENGTH}"
            " letters, digits and punctuation. Make one with:"
            " python -P -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


class Guesses:
    """Recent wrong tokens, by address. Times are seconds on any monotonic clock."""

    def __init__(self) -> None:
        self._wrong: dict[str, deque[float]] = {}

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may send a token again; 0 if it may now."""
        times = self._wrong.get(address)
        if times is None or len(times) < MAX_GUESSES:
            return 0.0
        return max(0.0, times[0] + GUESS_WINDOW - now)

    def add(self, address: str, now: float) -> None:
        """Count a wrong token."""
        self._wrong.setdefault(address, deque(maxlen=MAX_GUESSES)).append(now)
        if len(self._wrong) > MAX_REMEMBERED:
            del self._wrong[next(iter(self._wrong))]
