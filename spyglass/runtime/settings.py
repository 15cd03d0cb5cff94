"""Command lines: every flag with a value also reads the environment variable SPYGLASS_<FLAG>.

A flag overrides its variable, and that overrides the default. An empty value counts as not set:
compose and unit files write one for a variable that is not set.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from spyglass import __version__

#: The broker's ports for clients and for workers: on loopback unless others are configured.
FRONTEND = "tcp://127.0.0.1:5555"
BACKEND = "tcp://127.0.0.1:5556"

#: Where the web listens.
HOST, PORT = "127.0.0.1", 8080

#: Exit codes, the same for every program; argparse itself uses 2 for wrong usage.
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 0, 1, 2, 3


class BadSetting(ValueError):
    """A value that is not valid for a flag or variable; `str()` is a sentence for the user."""


def from_environment(variable: str) -> str | None:
    """The value of an environment variable, or None if it is not set or blank."""
    value = os.environ.get(variable, "")
    return value if value.strip() else None


class Parser(argparse.ArgumentParser):
    """An argument parser whose flags fall back on the environment, and whose help shows their
    defaults."""

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
        """As argparse does, but the text of a ValueError that `type=` raises is shown."""
        if "type" in options:
            options["type"] = _with_its_error(options["type"])
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
        value = from_environment(variable)

        def convert(text: str) -> Any:
            """argparse calls this for a value of the flag, and for a default that is a string."""
            chosen = text if text.strip() else value
            return default if chosen is None else type(chosen)

        if more.get("action") != "append":
            more |= {"default": default if value is None else value, "type": convert}
        elif value is not None:
            more |= {"default": self._each(variable, value, type), "type": type}
        else:
            more |= {"default": default, "type": type}
        self.add_argument(flag, help=f"{help} (default: {shown})", **more)

    def _each(self, variable: str, value: str, type: Callable[[str], Any]) -> list[Any]:
        """The values of a flag that may be repeated, from its variable: separated by spaces."""
        try:
            return [type(text) for text in value.split()]
        except ValueError as error:
            self.error(f"{variable}: {error}")


def _with_its_error(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same check, for argparse, which shows the text of no error but its own."""

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


def one_of(*choices: str) -> Callable[[str], str]:
    """One of several values, for `type=`."""

    def check(text: str) -> str:
        if text not in choices:
            raise BadSetting(f"{text!r} must be one of {', '.join(choices)}")
        return text

    return check


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
