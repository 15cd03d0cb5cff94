"""Spyglass: image recognition that goes on answering while its workers die.

As a library: `from spyglass import BrokerClient`. It is imported when it is asked for, so that a
program that needs one room of this package loads no other.
"""

#: For mypy, which takes it for true. Importing this package imports nothing else: programs begin
#: with it, before they have taken the current folder off the path.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from spyglass.client import Answer, BrokerClient, RequestFailed

__all__ = ["Answer", "BrokerClient", "RequestFailed", "__version__"]

#: This release, shown on the status page, in /openapi.json and by `--version`.
__version__ = "0.1.0"


def __getattr__(name: str) -> "Any":
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("spyglass.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
