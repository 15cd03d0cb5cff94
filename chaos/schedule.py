"""Which fault hits whom, and when: a pure function of the seed.

No clock, no process, no I/O. The same seed, seconds and fleet give the same faults in the same
order at the same offsets, so a run that broke a promise can be run again.

One fault a second, without exception. The promises hold for a fleet in which a worker is left, so
a fault that puts a worker out for seconds is drawn only while another worker is untouched. Where
none can be spared, the fault is a brief one, a crashing child or a reset connection: the worker
lives, and works again within a moment.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What is done to the fleet; the name on the plot and in the tables."""

    WORKER_KILL = "worker killed"  # SIGKILL; a new one is started in its place 1 s later
    WORKER_FREEZE = "worker frozen"  # SIGSTOP to it and all below it, SIGCONT 2.5 s later
    WORKER_STOP = "worker stopped"  # SIGTERM; a new one is started once it has left
    CHILD_CRASH = "child crashed"  # SIGSEGV to the process that computes
    CHILD_HANG = "child hung"  # SIGSTOP to it, for good: its worker must kill it
    LINK_RESET = "link reset"  # RST on the connection between worker and broker
    LINK_STALL = "link stalled"  # nothing passes for 2 s, both ways, no end of connection
    LINK_CORRUPT = "link corrupt"  # bits flip on the way from worker to broker for 0.7 s
    BROKER_KILL = "broker killed"  # SIGKILL; started again 1 s later (2 s if there are two)
    BROKER_FREEZE = "broker frozen"  # SIGSTOP, SIGCONT 3 s later


#: Faults of the network need a relay between the worker and its broker.
LINK_KINDS = frozenset((Kind.LINK_RESET, Kind.LINK_STALL, Kind.LINK_CORRUPT))
#: Faults whose victim is a broker.
BROKER_KINDS = frozenset((Kind.BROKER_KILL, Kind.BROKER_FREEZE))
#: Faults after which a new worker must load the model: seconds of a core.
LONG_KINDS = frozenset((Kind.WORKER_KILL, Kind.WORKER_STOP))

#: Faults a worker gets over within a moment.
BRIEF_KINDS = (Kind.CHILD_CRASH, Kind.LINK_RESET)

#: Seconds a broker stays frozen: clients and workers cut their connections after 0.75 and 1.5 s,
#: and by its end have begun others, some of them twice.
BROKER_FREEZE_FOR = 3.0
#: Seconds from a fault until its victim works again, as a rule: how long it lasts, and then
#: finding the broker or loading the model once more.
RECOVERY: dict[Kind, float] = {
    Kind.WORKER_KILL: 12.0,
    Kind.WORKER_FREEZE: 3.5,
    Kind.WORKER_STOP: 12.0,
    Kind.CHILD_CRASH: 0.4,
    Kind.CHILD_HANG: 1.6,
    Kind.LINK_RESET: 0.6,
    Kind.LINK_STALL: 3.0,
    Kind.LINK_CORRUPT: 1.8,
    Kind.BROKER_KILL: 3.5,
    Kind.BROKER_FREEZE: BROKER_FREEZE_FOR + 2.0,
}
#: Tickets of each kind in the bag that is drawn from. Long ones are rarer: only one worker at a
#: time may be loading its model.
TICKETS: dict[Kind, int] = {kind: 1 if kind in LONG_KINDS else 2 for kind in Kind}
#: Seconds between two faults of a broker.
BROKER_SPACING = 10.0
#: Seconds without faults at the beginning, and the faults' share of each second: a fault comes
#: within the first half of its second, so that no fixed beat meets the fleet's own timers.
FIRST_AT, JITTER = 1.0, 0.5


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `at` is in seconds since the load began; `victim` counts workers, or brokers."""

    at: float
    kind: Kind
    victim: int


def schedule(
    seed: int, seconds: int, workers: int = 3, relayed: Sequence[int] = (1, 2), brokers: int = 1
) -> list[Fault]:
    """One fault for each second, the first after `FIRST_AT`.

    Args:
        seed: the only source of chance.
        seconds: how many faults.
        workers: workers in the fleet, at least 2.
        relayed: which of them a relay can cut off.
        brokers: brokers in the fleet.
    """
    if workers < 2:
        raise ValueError(f"the promises are for two workers or more, not {workers}")
    return list(_Draw(random.Random(seed), workers, tuple(relayed), brokers).faults(seconds))


class _Draw:
    """Draws kinds from a shuffled bag, and remembers who is hurt until when."""

    def __init__(
        self, chance: random.Random, workers: int, relayed: tuple[int, ...], brokers: int
    ) -> None:
        self._chance = chance
        self._relayed = relayed
        self._hurt_until = dict.fromkeys(range(workers), 0.0)
        self._brokers = brokers
        self._loading_until = 0.0
        self._broker_free_at = FIRST_AT + 2.0
        self._bag: list[Kind] = []

    def faults(self, seconds: int) -> Iterator[Fault]:
        for n in range(seconds):
            at = round(FIRST_AT + n + self._chance.uniform(0.0, JITTER), 3)
            kind, victim = self._next(at)
            self._remember(kind, victim, at)
            yield Fault(at, kind, victim)

    def _next(self, at: float) -> tuple[Kind, int]:
        """The first ticket in the bag that some victim can bear; the others keep their place."""
        if len(self._bag) < len(Kind):
            fresh = [kind for kind in Kind for _ in range(TICKETS[kind])]
            self._chance.shuffle(fresh)
            self._bag += fresh
        for place, kind in enumerate(self._bag):
            if victims := self._victims(kind, at):
                del self._bag[place]
                return kind, self._chance.choice(victims)
        victim = self._freest(at)
        brief = BRIEF_KINDS if victim in self._relayed else (Kind.CHILD_CRASH,)
        return self._chance.choice(brief), victim

    def _victims(self, kind: Kind, at: float) -> list[int]:
        if kind in BROKER_KINDS:
            return list(range(self._brokers)) if at >= self._broker_free_at else []
        whole = [worker for worker, until in self._hurt_until.items() if until <= at]
        if len(whole) < 2 or (kind in LONG_KINDS and at < self._loading_until):
            return []
        return [w for w in whole if kind not in LINK_KINDS or w in self._relayed]

    def _freest(self, at: float) -> int:
        """The worker whose last fault is over, or is over first."""
        return min(self._hurt_until, key=lambda worker: (self._hurt_until[worker], worker))

    def _remember(self, kind: Kind, victim: int, at: float) -> None:
        over = at + RECOVERY[kind]
        if kind in BROKER_KINDS:
            self._broker_free_at = at + BROKER_SPACING
            return
        self._hurt_until[victim] = max(over, self._hurt_until[victim])
        if kind in LONG_KINDS:
            self._loading_until = over
