"""SPY1 under its documented name: `import zmq_protocol`. The code is in spyglass/protocol/."""

from spyglass.protocol import *  # noqa: F403
from spyglass.protocol import __all__ as __all__
