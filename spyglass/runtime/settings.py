"""Command lines: every flag also reads SPYGLASS_<FLAG>; flag beats environment beats default."""

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

        A value from the environment is checked like one from the command line.
        """
        variable = "SPYGLASS_" + flag.removeprefix("--").upper().replace("-", "_")
        shown = "none" if default in (None, "") else default
        given = os.environ.get(variable)
        if more.get("action") == "append" and given is not None:
            default = [type(value) for value in given.split()]
        elif given is not None:
            default = given  # argparse converts and checks a default that is a string
        self.add_argument(
            flag, default=default, type=type, help=f"{help} (default: {shown})", **more
        )


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
