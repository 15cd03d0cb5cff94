"""Spyglass: image recognition that goes on answering while its workers die.

As a library: `from spyglass import BrokerClient`. It is imported when it is asked for, so that a
program that needs one room of this package loads no other. Importing this package imports nothing:
programs begin with it, before they have taken the current folder off the path.
"""

#: This release, shown on the status page, in /openapi.json and by `--version`.
__version__ = "0.1.0"


def __getattr__(name: str) -> object:  # type checkers read __init__.pyi
    if name in ("Answer", "BrokerClient", "RequestFailed"):
        from importlib import import_module

        return getattr(import_module("spyglass.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
