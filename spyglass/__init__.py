"""Spyglass: image recognition that goes on answering while its workers die.

As a library: `from spyglass import BrokerClient`. It is imported when it is asked for, so that a
program that needs one room of this package loads no other.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spyglass.client import Answer, BrokerClient, RequestFailed

__all__ = ["Answer", "BrokerClient", "RequestFailed", "__version__"]

#: This release, shown on the status page, in /openapi.json and by `--version`.
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("spyglass.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
