"""The times both ends of a connection keep: heartbeats, silence, and what a picture may take."""

from __future__ import annotations

#: Seconds between two heartbeats of a worker that holds nothing; the broker answers each, and names
#: a longer interval in a large fleet, so that all together beat about so often a second (as Nomad's
#: `max_heartbeats_per_second` does), but none less often than in the longest. Nobody waits for such
#: a worker: one that fell silent costs the next picture the 0.3 s in which it must be acknowledged.
HEARTBEAT_INTERVAL, LONGEST_INTERVAL = 0.5, 3.0
HEARTBEATS_PER_SECOND = 330
#: The same while it holds a request. Short, because somebody waits, and a frozen machine is only
#: noticed by silence.
BUSY_INTERVAL = 0.25
#: Silent intervals after which a peer counts as dead while it holds no request, and seconds added
#: for the network: 1.5 s in all in a small fleet. TCP loses no heartbeat, so two are enough.
LIVENESS, SLACK = 2, 0.5
#: Bytes a second of the slowest link served (8 Mbit/s, a tenth of it for TCP/IP): whoever waits for
#: an ACK allows the picture this long to arrive.
SLOWEST_LINK = 0.9e6
#: Seconds a request may take when the caller names no limit.
DEFAULT_TIMEOUT = 10.0
#: Seconds one picture may occupy a worker's child before the child is killed. SqueezeNet needs
#: some 10 ms; five seconds means that the computation hangs.
DEFAULT_JOB_LIMIT = 5.0


def heartbeat_interval(workers: int) -> float:
    """Seconds between two heartbeats of each of so many workers that hold nothing."""
    return min(LONGEST_INTERVAL, max(HEARTBEAT_INTERVAL, workers / HEARTBEATS_PER_SECOND))


def patience(interval: float) -> float:
    """Seconds of silence after which a peer counts as dead that beats at this interval."""
    return LIVENESS * interval + SLACK
