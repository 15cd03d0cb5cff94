"""What to type to start a program of Spyglass: `spyglass worker`, or `python worker.py`.

An installed Spyglass has the command `spyglass`, a checkout has files such as worker.py at its top.
Whoever reads a message, an example or a page is shown what works where it was written.
"""

from __future__ import annotations

import os
import sys

from spyglass import __version__
from spyglass.runtime.import_path import OWN_FOLDER

#: The console script that an installation has.
SCRIPT = "spyglass"
#: What starts a program in a checkout, where that is not `python NAME.py`.
_IN_A_CHECKOUT = {
    "up": "make run",
    "classify": "python client.py",
    "doctor": "python -m spyglass.cli doctor",
}


def command(program: str) -> str:
    """The words that start a program, by its name as a command of `spyglass`."""
    if os.path.basename(sys.argv[0]) == SCRIPT or not _is_a_checkout():
        return f"{SCRIPT} {program}"
    return _IN_A_CHECKOUT.get(program, f"python {program}.py")


def prog(program: str) -> str:
    """The same without the interpreter, as a program's help and errors begin."""
    words = command(program)
    return words if " -m " in words else words.removeprefix("python ")


def not_installed(package: str, extra: str) -> str:
    """A sentence on a Python package that one of the programs needs."""
    return (
        f"the Python package {package} is not installed. Install Spyglass again with its extra"
        f" {extra}: pip install '.[{extra}]' in a clone of it, or with its wheel"
        f" pip install 'spyglass-{__version__}-py3-none-any.whl[{extra}]'."
    )


def _is_a_checkout() -> bool:
    # Not worker.py: beside an installed package anybody's module may have that name.
    return os.path.isfile(os.path.join(OWN_FOLDER, "zmq_protocol.py"))
