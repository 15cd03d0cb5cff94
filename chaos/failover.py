"""How long the fleet needs after each kind of fault, and what of it is a broken promise. Pure, and
in the ledger's times.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chaos.ledger import ATTRIBUTED_WITHIN, Event, Injected, Record, frozen
from chaos.schedule import BROKER_FREEZE_FOR, BROKER_KINDS, Kind
from spyglass.dispatcher import stats

#: Milliseconds, 99th percentile, from a fault until the work is given to somebody else (P2, P4). A
#: frozen worker's within 1.2 s; if its broker is lost meanwhile, the next one may think it idle,
#: and wait another 0.3 s for its ACK.
CRASH_LIMIT_MS, FREEZE_LIMIT_MS = 50.0, 1500.0
#: Milliseconds a hung child may live on past its worker's job limit: the worker's own loop, and
#: the moment until the child was given the picture it hung on.
KILL_SLACK_MS = 250.0
#: Milliseconds until answers come again after one of two brokers was killed, or the only one, after
#: it was frozen, runs again.
BROKER_LIMIT_MS = 1500.0
#: Milliseconds within which clients notice by their pings that one of two brokers is frozen.
PINGS_MS = 1000.0

#: A second row for two kinds: from when the crashed child was gone; and until the last request
#: that was open when the broker was killed had its answer.
FROM_ITS_END, ALL_OPEN = "  from its end", "  all open then"
SECOND_ROW = {Kind.CHILD_CRASH: FROM_ITS_END, Kind.BROKER_KILL: ALL_OPEN}


@dataclass(frozen=True, slots=True)
class Failover:
    """How long one kind of fault took, in milliseconds; `limit_ms` holds for the p99."""

    what: str
    samples: tuple[float, ...]
    limit_ms: float | None

    @property
    def broken(self) -> bool:
        return bool(self.samples) and self.limit_ms is not None and self.p99 > self.limit_ms

    @property
    def median(self) -> float:
        return percentile(self.samples, 50)

    @property
    def p99(self) -> float:
        return percentile(self.samples, 99)


def percentile(values: Iterable[float], percent: float) -> float:
    """By nearest rank: always one of the values, and of a few the largest."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values, so no percentile")
    return stats.percentile(ordered, percent / 100)


def failovers(
    injected: Sequence[Injected],
    events: Sequence[Event],
    records: Sequence[Record],
    job_limit: float,
    brokers: int,
) -> list[Failover]:
    """Failover times of each kind of fault that has any.

    Measured from just before the signal (or the relay's order) to:
        worker killed, frozen, link reset, stalled: the broker's event that it lost the worker; in
            that same instant it puts the worker's requests back at the head of the queue.
        child crashed: the broker's event that it moved the request the child had in hand. Linux
            needs some 20 ms of a core to take a process of torch's size apart before anybody can
            see that it is dead, and more on a busy machine; so the limit holds from its end, and
            both are shown.
        child hung: the end of the child, killed by its worker.
        broker killed, frozen: the first answer to any request sent after it; and, if killed, the
            last answer to the requests that were open at that moment and met no other fault.
    A child that was idle when hit costs nobody anything yet, and gives no figure. An event belongs
    to the last fault before it on the same worker; one of a broker that was frozen has no reliable
    time. Its age is known from a query: it lies between query and reply, and the later bound is
    taken, so the figures are too long by the query's way back (about 1 ms), never too short.
    """
    samples: dict[str, list[float]] = defaultdict(list)
    for hit in injected:
        if hit.missed or (ms := failover_ms(hit, injected, events, records)) is None:
            continue
        samples[hit.fault.kind.value].append(ms)
        if hit.fault.kind is Kind.CHILD_CRASH and hit.ended_ms is not None:
            samples[FROM_ITS_END].append(max(0.0, ms - hit.ended_ms))
        elif hit.fault.kind is Kind.BROKER_KILL and (until := _open_until(hit.at, records)):
            samples[ALL_OPEN].append(1000 * (until - hit.at))
    limits = limits_ms(job_limit, brokers)
    rows = [row for kind in Kind for row in (kind.value, SECOND_ROW.get(kind, "")) if samples[row]]
    return [Failover(what, tuple(samples[what]), limits.get(what)) for what in rows]


def limits_ms(job_limit: float, brokers: int) -> dict[str, float]:
    """The promised 99th percentiles."""
    crashes = (Kind.WORKER_KILL.value, Kind.LINK_RESET.value, FROM_ITS_END)
    limits = dict.fromkeys(crashes, CRASH_LIMIT_MS)
    freezes = (Kind.WORKER_FREEZE.value, Kind.LINK_STALL.value)
    limits |= dict.fromkeys(freezes, FREEZE_LIMIT_MS)
    limits[Kind.CHILD_HANG.value] = 1000 * job_limit + KILL_SLACK_MS
    noticed = PINGS_MS if brokers > 1 else 1000 * BROKER_FREEZE_FOR
    limits[Kind.BROKER_FREEZE.value] = noticed + BROKER_LIMIT_MS
    if brokers > 1:
        limits[Kind.BROKER_KILL.value] = limits[ALL_OPEN] = BROKER_LIMIT_MS
    return limits


#: How the broker's event on the loss begins, after the name, for each kind of fault.
_NOTICED = {
    Kind.WORKER_KILL: r" lost: ",
    Kind.WORKER_FREEZE: r" lost: ",
    Kind.LINK_RESET: r" lost: ",
    Kind.LINK_STALL: r" lost: ",
    Kind.CHILD_CRASH: r": crash on a request",
}


def failover_ms(
    hit: Injected, injected: Sequence[Injected], events: Sequence[Event], records: Sequence[Record]
) -> float | None:
    """How long one fault took, in milliseconds; None if that is not known."""
    kind = hit.fault.kind
    if kind is Kind.CHILD_HANG:
        return hit.ended_ms if hit.busy else None
    if kind in BROKER_KINDS:
        answers = [r.finals[0].at for r in records if r.sent > hit.at and r.finals]
        return 1000 * (min(answers) - hit.at) if answers else None
    if kind not in _NOTICED or (kind is Kind.CHILD_CRASH and not hit.busy):
        return None
    noticed = re.compile(re.escape(hit.name) + r"(#\d+)?" + _NOTICED[kind])
    later = [i.at for i in injected if i.name == hit.name and i.at > hit.at]
    until = min([hit.at + ATTRIBUTED_WITHIN, *later])
    times = [
        e.at
        for e in events
        if hit.at <= e.at < until and noticed.match(e.text) and not frozen(injected, e)
    ]
    return 1000 * (min(times) - hit.at) if times else None


def _open_until(at: float, records: Sequence[Record]) -> float | None:
    """When the last of the requests open at an instant had its answer. Those that needed a second
    attempt under the same broker were delayed by another fault."""
    finals = [r.finals[0] for r in records if r.finals and r.sent < at < r.finals[0].at]
    return max((final.at for final in finals if final.attempts == 1), default=None)


def failover_breaches(
    table: Sequence[Failover], injected: Sequence[Injected], events: Sequence[Event]
) -> list[str]:
    """Every time limit that was broken, and every stop that was not clean."""
    found = [
        f"{f.what}: failover took {f.p99:.0f} ms at the 99th percentile of"
        f" {len(f.samples)}; the limit is {f.limit_ms:.0f} ms."
        for f in table
        if f.broken
    ]
    for hit in injected:
        if hit.fault.kind is Kind.WORKER_STOP and not hit.missed:
            found += _unclean(hit, [e for e in events if not frozen(injected, e)])
    return found


def _unclean(hit: Injected, events: Sequence[Event]) -> list[str]:
    found = []
    if hit.exit_code != 0:
        ended = "did not leave" if hit.exit_code is None else f"left with {hit.exit_code}"
        found.append(f"{hit.name} {ended} after SIGTERM at {hit.at:.2f} s; 0 is promised.")
    # What had not reached it when it left is handed back ("left: ...; 2 requests moved"): nobody
    # had begun it. Running work only moves if its connection ends before its goodbye.
    moved = re.compile(re.escape(hit.name) + r"(#\d+)? lost: .* moved")
    found += [
        f"{hit.name} was stopped at {hit.at:.2f} s and its running work moved: {e.text!r}."
        for e in events
        if e.at >= hit.at and moved.match(e.text)
    ]
    return found
