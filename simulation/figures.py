"""What a run comes to, as figures and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import thread_time
from typing import Any

from simulation.plan import Plan
from simulation.world import World
from spyglass.dispatcher.stats import percentile

#: Events that belong to a request, and those that the mere presence of workers costs.
OF_REQUESTS = ("request_arrived", "worker_acked", "worker_answered", "worker_refused")
OF_PRESENCE = ("tick", "worker_heartbeat")
#: Seconds of a bin of the rate of answers.
BIN = 0.02


@dataclass(frozen=True)
class Failover:
    """After a broker's death: what its clients sent again, and when the answers came."""

    again: int
    first_s: float
    last_s: float


@dataclass(frozen=True)
class Figures:
    """One run. Latencies are a client's, in simulated ms; costs are CPU time of the dispatchers
    alone."""

    plan: Plan
    lasts_s: float  # simulated
    decisions_a_second: float  # events handled in a second of CPU
    requests_a_second: float  # of all the dispatchers' work, housekeeping included
    us_a_request: float
    presence_cores: float  # share of a core for heartbeats and ticks, as long as workers are there
    us_by_event: dict[str, float]
    latency_ms: dict[str, float]  # p50, p90, p99, max
    longest_queue: int
    outcomes: dict[str, int]
    requeued: int
    hedged: int
    lost: int
    twice: int
    jain_workers: float
    jain_clients: float
    slowest_client: float  # its mean latency by that of the fastest
    failover: Failover | None

    def json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all have the same, 1/n when one has everything.

    R. Jain, D. Chiu and W. Hawe, DEC-TR-301, 1984.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def of(world: World) -> Figures:
    """The figures of a run that has ended."""
    ledger, sides = world.ledger, world.sides
    calls = total(side.calls for side in sides)
    looking = clock_cost()
    spent = total(side.spent for side in sides)
    spent = {event: max(0.0, spent[event] - looking * calls[event]) for event in spent}
    busy = sum(spent.values())
    requests = sum(spent.get(event, 0.0) for event in OF_REQUESTS)
    ordered = sorted(ledger.latencies) or [0.0]
    answered = [len(w) / n for w, n in zip(ledger.waits, ledger.asked_by, strict=True) if n]
    means = [sum(wait) / len(wait) for wait in ledger.waits if wait] or [1.0]
    counters = [side.dispatcher.counters for side in sides]
    failover = None
    if world.killed_at is not None and ledger.again:
        first, last = ledger.first_of_again, ledger.last_of_again
        failover = Failover(ledger.again, first - world.killed_at, last - world.killed_at)
    return Figures(
        plan=world.plan,
        lasts_s=world.lasts,
        decisions_a_second=sum(calls.values()) / busy,
        requests_a_second=ledger.sent / busy,
        us_a_request=1e6 * requests / ledger.sent,
        presence_cores=sum(spent.get(event, 0.0) for event in OF_PRESENCE) / world.now,
        us_by_event={event: 1e6 * spent[event] / calls[event] for event in calls},
        latency_ms={
            "p50": 1000 * percentile(ordered, 0.5),
            "p90": 1000 * percentile(ordered, 0.9),
            "p99": 1000 * percentile(ordered, 0.99),
            "max": 1000 * ordered[-1],
        },
        longest_queue=max((waiting for _, waiting, _ in world.samples), default=0),
        outcomes=dict(ledger.outcomes),
        requeued=sum(c.requeued + c.handed_back for c in counters),
        hedged=sum(c.hedged for c in counters),
        lost=ledger.lost,
        twice=ledger.twice,
        jain_workers=jain([w.done / w.rate for w in world.workers if w.steady]),
        jain_clients=jain(answered),
        slowest_client=max(means) / min(means),
        failover=failover,
    )


def clock_cost() -> float:
    """Seconds that a look at the clock adds to what it measures: the median of many."""
    looks = [thread_time() for _ in range(1001)]
    return sorted(after - before for before, after in pairwise(looks))[500]


def total(counted: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Several of them in one."""
    sums: dict[str, float] = {}
    for one in counted:
        for key, value in one.items():
            sums[key] = sums.get(key, 0.0) + value
    return sums


def rates(world: World) -> tuple[list[float], list[float]]:
    """Answers a second over time: the middle of each bin, and the rate in it."""
    bins = Counter(int((at - world.begun) / BIN) for at in world.ledger.answered_at)
    times = range(min(bins, default=0), max(bins, default=0) + 1)
    return [(n + 0.5) * BIN for n in times], [bins[n] / BIN for n in times]


def survival(ordered: Sequence[float], points: int = 400) -> tuple[list[float], list[float]]:
    """The latencies at evenly spread shares of a logarithmic scale, and the share above each."""
    count = len(ordered)
    shares = [10 ** (-i * 6 / points) for i in range(points + 1)]
    kept = [share for share in shares if share * count >= 1]
    return [ordered[min(count - 1, int((1 - share) * count))] for share in kept], kept


HEADINGS = (
    ("run", 26),
    ("p50", 8),
    ("p90", 8),
    ("p99", 8),
    ("max ms", 9),
    ("req/s", 8),
    ("us/req", 7),
    ("queue", 6),
    ("moved", 6),
    ("refused", 8),
    ("Jain w", 7),
    ("Jain c", 7),
    ("lost", 6),
    ("twice", 6),
)


def headings() -> str:
    """The first line of the table."""
    return "".join(f"{name:{'<' if name == 'run' else '>'}{width}}" for name, width in HEADINGS)


def line(name: str, f: Figures) -> str:
    """A run's line of it."""
    refused = sum(count for reason, count in f.outcomes.items() if reason != "answered")
    cells = [f"{f.latency_ms[key]:.1f}" for key in ("p50", "p90", "p99", "max")]
    cells += [f"{f.requests_a_second:.0f}", f"{f.us_a_request:.1f}", str(f.longest_queue)]
    cells += [str(f.requeued), str(refused), f"{f.jain_workers:.3f}", f"{f.jain_clients:.3f}"]
    cells += [str(f.lost), str(f.twice)]
    padded = (f"{cell:>{width}}" for cell, (_, width) in zip(cells, HEADINGS[1:], strict=True))
    text = f"{name:<{HEADINGS[0][1]}}" + "".join(padded)
    if f.failover is not None:
        again = f.failover
        text += f"\n    {again.again} sent again; their first answer {1000 * again.first_s:.0f} ms,"
        text += f" the last {1000 * again.last_s:.0f} ms after the broker's death"
    return text
