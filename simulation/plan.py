"""What is simulated: the fleet, its load, and what goes wrong. Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass

#: From one machine to the next, one way: a local network, with the broker's own turn.
HOP = 0.0002
#: A picture on one busy core, the mean (measured: bench.http).
SERVICE = 0.012
#: Spread of a picture's time around its mean, sigma of the lognormal distribution.
SPREAD = 0.35
#: Spread of the workers' speeds around the usual, likewise.
SPEED_SPREAD = 0.25
#: Share of the workers that are as fast as a small GPU, and how many pictures one has at a time.
FAST_SHARE, FAST_SLOTS = 0.02, 16
#: Until a client whose broker died has sent its unanswered requests to the next (measured median).
FAILOVER = 0.04
#: Until a worker that lost its process, or left, is back.
RESTART = 1.0
#: Until one that only lost its connection is back (PROTOCOL.md: the first pause of a reconnect).
RECONNECT = 0.1
#: After a storm they come back spread over this (PROTOCOL.md: pauses are random).
STORM_SPREAD = 0.3
#: Seconds a frozen worker sends nothing: more than the 1 s after which one at work counts as dead.
FREEZE = 2.0
#: Until a child that died is replaced (measured median).
RESPAWN = 0.012


@dataclass(frozen=True)
class Faults:
    """What goes wrong while requests arrive: shares of the workers, or of the requests."""

    crash: float = 0.01  # workers whose process dies, seen by the loss of its connection
    reset: float = 0.01  # workers that only lose the connection
    freeze: float = 0.005  # workers that send nothing for a while
    leave: float = 0.01  # workers that drain, leave and come back
    busy: float = 0.0005  # requests that a worker refuses as one too many
    child: float = 0.0002  # requests whose child dies by chance
    poison: float = 0.00002  # requests whose picture kills every child


NONE = Faults(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Plan:
    """One run. The same plan gives the same run."""

    seed: int = 1
    workers: int = 10_000
    requests: int = 1_000_000
    load: float = 0.8  # share of what all workers together can compute
    service: float = SERVICE
    faults: Faults = Faults()
    clients: int = 20
    brokers: int = 1
    split: bool = False  # with two brokers: each has half of the workers, not all of them
    kill: bool = False  # the first broker dies when half of the requests have arrived
    storm: bool = False  # half-way, all workers lose their connections at once, as by a switch
    timeout: float = 10.0  # of each request
    max_waiting: int = 10_000
    copies: float = 0.05  # share of the requests with one of a few popular pictures
