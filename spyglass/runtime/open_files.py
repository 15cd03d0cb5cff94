"""More open files for a server: each connection takes one.

At the limit a ROUTER still serves its peers, but takes no new one and spins on those that knock, so
broker and web raise it at the start.
"""

from __future__ import annotations

import resource

#: Open files without which a broker or a web is of no use: 1,000 connections and its own.
LEAST_OPEN_FILES = 1024
#: More than any fleet needs; the system may allow a billion, which some libraries count through.
ENOUGH_OPEN_FILES = 65_536


class TooFewOpenFiles(Exception):
    """The system allows too few; `str()` is a sentence that says what to do."""


def raise_open_files() -> int:
    """Raise the soft limit (getrlimit(2), RLIMIT_NOFILE) as far as it helps; what it is now.

    Raises:
        TooFewOpenFiles: the hard limit is below 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, ENOUGH_OPEN_FILES)  # Linux knows no infinity here: fs.nr_open bounds it
    if most < LEAST_OPEN_FILES:
        raise TooFewOpenFiles(
            f"this process may open {most} files, and needs {LEAST_OPEN_FILES}: each connection is"
            " one. Raise the limit with `ulimit -n 4096`, or LimitNOFILE= in a systemd unit, and"
            " start again."
        )
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)
