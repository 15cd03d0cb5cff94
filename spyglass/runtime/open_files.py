"""The limit of open files, raised for a server: each connection is one.

A ROUTER at the limit still serves its peers, but accepts no new ones, and keeps a core busy while
they try to connect. So broker and web raise the limit when they start.
"""

from __future__ import annotations

import resource

#: Open files that a broker or web needs at least: 1,000 connections, and its own files.
LEAST_OPEN_FILES = 1024
#: More than any fleet needs. Some systems allow a billion, and some libraries loop over them all.
ENOUGH_OPEN_FILES = 65_536


class TooFewOpenFiles(Exception):
    """The system allows too few open files; `str()` is a sentence that says what to do."""


def raise_open_files() -> int:
    """Raise the soft limit (getrlimit(2), RLIMIT_NOFILE) as far as useful; returns the new one.

    Raises:
        TooFewOpenFiles: the hard limit is below 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, ENOUGH_OPEN_FILES)  # on Linux never "unlimited": fs.nr_open bounds it
    if most < LEAST_OPEN_FILES:
        raise TooFewOpenFiles(
            f"this process may open {most} files, and needs {LEAST_OPEN_FILES}: each connection is"
            " one. Raise the limit with `ulimit -n 4096`, or LimitNOFILE= in a systemd unit, and"
            " start again."
        )
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)
