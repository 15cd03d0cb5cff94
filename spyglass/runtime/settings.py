"""Command lines: every flag also reads SPYGLASS_<FLAG>; flag beats environment beats default.

An empty value is none: compose and unit files write one for a variable that is not set.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from spyglass import __version__

#: Where clients meet the broker, and where workers do: loopback until told otherwise.
FRONTEND = "tcp://127.0.0.1:5555"
BACKEND = "tcp://127.0.0.1:5556"

#: Where the web listens.
HOST, PORT = "127.0.0.1", 8080

#: Exit codes, the same for every program; argparse itself uses 2 for wrong usage.
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 0, 1, 2, 3


class BadSetting(ValueError):
    """A value that a flag or a variable cannot have; `str()` is a sentence for its user."""


def given(variable: str) -> str | None:
    """The value of an environment variable, or None if it is not set or blank."""
    value = os.environ.get(variable, "")
    return value if value.strip() else None


class Parser(argparse.ArgumentParser):
    """An argument parser whose flags fall back on the environment and show their default."""

    def __init__(self, prog: str, description: str, examples: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"examples:\n{examples}\n\nFlags with a value also read SPYGLASS_<FLAG>, for"
            " instance SPYGLASS_NAME for --name.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--version", action="version", version=f"Spyglass {__version__}")

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """As argparse does, but a `type=` that raises ValueError has its sentence shown."""
        if "type" in options:
            options["type"] = _with_sentence(options["type"])
        return super().add_argument(*names, **options)

    def setting(
        self, flag: str, default: Any, help: str, type: Callable[[str], Any] = str, **more: Any
    ) -> None:
        """Add `--flag`, its environment variable and its default (shown in the help).

        A value from the environment is checked like one from the command line. A blank one counts
        as not given, in both places; a flag that may be repeated refuses it.
        """
        variable = "SPYGLASS_" + flag.removeprefix("--").upper().replace("-", "_")
        shown = "none" if default in (None, "") else default
        value = given(variable)

        def convert(word: str) -> Any:
            """What argparse calls for a value of the flag, and for a default that is a string."""
            chosen = word if word.strip() else value
            return default if chosen is None else type(chosen)

        if more.get("action") != "append":
            more |= {"default": default if value is None else value, "type": convert}
        elif value is not None:
            more |= {"default": self._each(variable, value, type), "type": type}
        else:
            more |= {"default": default, "type": type}
        self.add_argument(flag, help=f"{help} (default: {shown})", **more)

    def _each(self, variable: str, value: str, type: Callable[[str], Any]) -> list[Any]:
        """The values of a flag that may be repeated, from its variable."""
        try:
            return [type(word) for word in value.split()]
        except ValueError as error:
            self.error(f"{variable}: {error}")


def _with_sentence(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same check, for argparse, which shows the text of its own error only."""

    def checked(text: str) -> Any:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number within limits, for `type=`."""

    def check(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise BadSetting(f"{text!r} is not a whole number {low} to {high}")
        return int(text)

    return check


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A duration in seconds within limits, for `type=`."""

    def check(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not low <= value <= high:
            raise BadSetting(f"{text!r} is not a number of seconds {low} to {high}")
        return value

    return check


def one_of(*words: str) -> Callable[[str], str]:
    """One of a few words, for `type=`."""

    def check(text: str) -> str:
        if text not in words:
            raise BadSetting(f"{text!r} is none of {', '.join(words)}")
        return text

    return check


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
