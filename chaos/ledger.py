"""What was sent, what came back, and whether every promise was kept. Pure: no clock, no I/O.

Times are in seconds since the load began, on one monotonic clock, unless a name ends in `_ms`.

What counts as answered twice
    Over HTTP a second answer to a request cannot reach anybody. So part of the load speaks the
    wire protocol itself and counts every final message (a result, or a refusal) for each request
    id. It also sends a request again, under the same id, when a broker comes back or does not
    acknowledge. A broker remembers open requests only: one whose answer crosses with that second
    sending takes it for new and answers it again, as PROTOCOL.md allows and as no client would
    notice, since it settles a request once. So one final message for each sending is fair. More
    finals than sendings is a broken promise, and so is one request id in two HTTP answers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pool
from chaos.schedule import Fault, Kind

#: Seconds past its deadline by which every request has its final answer (P1).
GRACE = 0.5
#: Faults that end a worker or a child, and those that cost at least a connection.
DEADLY = frozenset((Kind.WORKER_KILL, Kind.CHILD_CRASH, Kind.CHILD_HANG))
LOSING = frozenset(Kind) - {Kind.WORKER_STOP, Kind.BROKER_KILL}
#: Refusals that are promised, by how many attempts of which faults must have cost meanwhile: the
#: queue was full; two children or workers died over the picture; three attempts were lost.
PROMISED = {"busy": (0, LOSING), "quarantined": (2, DEADLY), "worker-lost": (3, LOSING)}
#: Seconds by which the time of a broker's event may be too late.
EVENT_SLACK = 0.05

#: Milliseconds, 99th percentile, from a fault until the work is given to somebody else (P2, P4). A
#: frozen worker's within 1.2 s; if its broker is lost meanwhile, the next one may think it idle,
#: and wait another 0.3 s for its ACK.
CRASH_LIMIT_MS, FREEZE_LIMIT_MS = 50.0, 1500.0
#: Milliseconds a hung child may live on past its worker's job limit: the worker's own loop, and
#: the moment until the child was given the picture it hung on.
KILL_SLACK_MS = 250.0
#: Milliseconds until answers come again after one of two brokers was killed.
BROKER_LIMIT_MS = 1500.0
#: Share of the peak that is still answered at three times the capacity, and milliseconds within
#: which the others hear that it is busy (P7).
GOODPUT_SHARE, BUSY_LIMIT_MS = 0.9, 100.0

#: A second row for two kinds: from when the crashed child was gone; and until the last request
#: that was open when the broker was killed had its answer.
FROM_ITS_END, ALL_OPEN = "  from its end", "  all open then"
SECOND_ROW = {Kind.CHILD_CRASH: FROM_ITS_END, Kind.BROKER_KILL: ALL_OPEN}

#: Seconds after a fault in which the broker's word on its victim belongs to that fault.
ATTRIBUTED_WITHIN = 3.0


@dataclass(frozen=True, slots=True)
class Final:
    """A final message for a request."""

    at: float
    code: str  # "ok", or the word of the refusal
    request_id: str
    label: str = ""  # the likeliest
    worker: str = ""
    attempts: int = 1
    status: int = 0  # of HTTP, 0 over the wire
    retry_after: bool = False


@dataclass(slots=True)
class Record:
    """One request, from sending to whatever came back."""

    number: int
    way: str  # "http" or "wire"
    wanted: str  # the label its picture deserves
    sent: float
    deadline: float
    request_id: str = ""  # over the wire: ours; over HTTP the web gives one
    sendings: int = 1
    finals: list[Final] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether a final answer came in time."""
        return bool(self.finals) and self.finals[0].at <= self.deadline + GRACE

    @property
    def twice(self) -> bool:
        """Whether it had more answers than it was sent."""
        return len(self.finals) > self.sendings

    def __str__(self) -> str:
        return f"request {self.number} ({self.way}, sent at {self.sent:.3f} s)"


@dataclass(slots=True)
class Injected:
    """A fault as it really happened. `at` is taken just before the signal was sent."""

    fault: Fault
    at: float
    name: str  # of the worker or broker that was hit
    missed: str = ""  # why it could not be done; then nothing happened
    busy: bool = False  # child crashed or hung: it was computing
    ended_ms: float | None = None  # child crashed or hung: until the kernel had ended it
    exit_code: int | None = None  # worker stopped: what it left with


@dataclass(slots=True)
class Event:
    """A line of a broker's event list; `at` is the latest instant it can have happened."""

    at: float
    broker: int
    text: str


@dataclass(frozen=True, slots=True)
class Overload:
    """The figures of the overload phase, in requests a second and milliseconds."""

    peak: float
    offered: float
    goodput: float
    busy: int
    busy_p99_ms: float
    unexpected: Counter[str]


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
    return pool.percentile(ordered, percent / 100)


# --- the promises on answers ------------------------------------------------------------------


def breaches(
    records: Sequence[Record], injected: Sequence[Injected] = (), events: Sequence[Event] = ()
) -> list[str]:
    """Every promise on answers that was broken, a sentence each."""
    found = []
    costs = _costs(injected, events)
    for record in records:
        if not record.finals:
            found.append(f"{record} never got an answer.")
        elif not record.answered:
            late = record.finals[0].at - record.deadline
            found.append(f"{record} got its answer {late:.2f} s after its deadline.")
        if record.twice:
            found.append(
                f"{record} was sent {record.sendings} times and answered {len(record.finals)}."
            )
        found += [
            f"{record} {what}" for final in record.finals if (what := _wrong(record, final, costs))
        ]
    holders = Counter(f.request_id for r in records for f in r.finals[:1] if f.request_id)
    found += [f"request id {i} is in {n} answers." for i, n in holders.items() if n > 1]
    return found


def _wrong(record: Record, final: Final, costs: Sequence[tuple[Event, Kind]]) -> str:
    """What is wrong with a final answer, or nothing."""
    if record.request_id and final.request_id != record.request_id:
        return f"was answered under the id {final.request_id}."
    if final.code == "ok":
        if final.label != record.wanted:
            return f"shows {record.wanted!r} and was answered {final.label!r}."
        return ""
    if not _excused(record, final, costs):
        return f"failed: {final.status or 'NACK'} {final.code}."
    if final.status == 503 and not final.retry_after:
        return "was told 503 without Retry-After."
    return ""


def _excused(record: Record, final: Final, costs: Sequence[tuple[Event, Kind]]) -> bool:
    """Whether a refusal is one of those promised, after what faults cost while it was open."""
    if final.code not in PROMISED:
        return False
    needed, kinds = PROMISED[final.code]
    by_broker = Counter(
        event.broker
        for event, kind in costs
        if kind in kinds and record.sent <= event.at <= final.at + EVENT_SLACK
    )
    return max(by_broker.values(), default=0) >= needed  # each broker counts attempts for itself


def _costs(injected: Sequence[Injected], events: Sequence[Event]) -> list[tuple[Event, Kind]]:
    """The events by which a broker took work away from a worker, each with the kind of the fault
    that had hit this worker last. What a leaving worker hands back is no attempt."""
    found = []
    for event in events:
        taken = _TAKEN.match(event.text)
        if taken is None:
            continue
        hits = [
            hit
            for hit in injected
            if hit.name == taken[1]
            and not hit.missed
            and hit.at <= event.at < hit.at + ATTRIBUTED_WITHIN
        ]
        if hits:
            found.append((event, max(hits, key=lambda hit: hit.at).fault.kind))
    return found


#: The broker's words for an attempt that is lost, after the worker's name.
_TAKEN = re.compile(r"([\w.]+)(?:#\d+)?(?: lost: |: .* on a request| did not ).*; .*moved")


def count_lost(records: Sequence[Record]) -> int:
    """Requests without a final answer by their deadline + 0.5 s."""
    return sum(not record.answered for record in records)


def count_twice(records: Sequence[Record]) -> int:
    """Requests with more final answers than sendings."""
    return sum(record.twice for record in records)


# --- how long the fleet needs -----------------------------------------------------------------


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
        broker killed: the first answer to any request sent after it; and the last answer to the
            requests that were open at that moment and met no other fault.
    A child that was idle when hit costs nobody anything yet, and gives no figure. An event belongs
    to the last fault before it on the same worker. Its age is known from a query: it lies between
    asking and hearing, and the later bound is taken, so the figures are too long by the query's
    way back (about 1 ms), never too short.
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
    if brokers > 1:
        limits[Kind.BROKER_KILL.value] = limits[ALL_OPEN] = BROKER_LIMIT_MS
    return limits


#: The broker's words for having lost what each kind of fault hits.
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
    """How long one fault took, in milliseconds; None if that cannot be told."""
    kind = hit.fault.kind
    if kind is Kind.CHILD_HANG:
        return hit.ended_ms if hit.busy else None
    if kind is Kind.BROKER_KILL:
        answers = [r.finals[0].at for r in records if r.sent > hit.at and r.finals]
        return 1000 * (min(answers) - hit.at) if answers else None
    if kind not in _NOTICED or (kind is Kind.CHILD_CRASH and not hit.busy):
        return None
    noticed = re.compile(re.escape(hit.name) + r"(#\d+)?" + _NOTICED[kind])
    later = [i.at for i in injected if i.name == hit.name and i.at > hit.at]
    until = min([hit.at + ATTRIBUTED_WITHIN, *later])
    times = [e.at for e in events if hit.at <= e.at < until and noticed.match(e.text)]
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
            found += _unclean(hit, events)
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


def middle_round(rounds: Sequence[Overload]) -> Overload:
    """The round with the median share of its peak, and the refusals and failures of all."""
    middle = sorted(rounds, key=lambda seen: seen.goodput / seen.peak)[len(rounds) // 2]
    return replace(
        middle,
        busy=sum(seen.busy for seen in rounds),
        busy_p99_ms=max(seen.busy_p99_ms for seen in rounds),
        unexpected=sum((seen.unexpected for seen in rounds), Counter()),
    )


def overload_breaches(seen: Overload) -> list[str]:
    """What overload must not do."""
    found = []
    if seen.goodput < GOODPUT_SHARE * seen.peak:
        found.append(
            f"overload: {seen.goodput:.1f} answers/s of {seen.peak:.1f} at the peak;"
            f" {GOODPUT_SHARE:.0%} is promised."
        )
    if seen.busy_p99_ms > BUSY_LIMIT_MS:
        found.append(
            f"overload: 503 took {seen.busy_p99_ms:.0f} ms at the 99th percentile of {seen.busy};"
            f" the limit is {BUSY_LIMIT_MS:.0f} ms."
        )
    found += [f"overload: {n} answers were {what}." for what, n in seen.unexpected.items()]
    return found


# --- a broker's list of events, read again and again ------------------------------------------


def merge(known: list[Event], seen: Sequence[Event], tolerance: float = 0.25) -> None:
    """Take a newer reading of one broker's events, oldest first, into those known of it.

    The list has no numbers, so the two are laid over each other as far as texts and times allow.
    An event read twice keeps the earlier of its latest instants: each reading is a bound of the
    same moment. `tolerance` is in seconds: a reading that took long is off by that much.
    """
    for overlap in range(min(len(known), len(seen)), -1, -1):
        pairs = list(zip(known[len(known) - overlap :], seen[:overlap], strict=True))
        if all(a.text == b.text and abs(a.at - b.at) < tolerance for a, b in pairs):
            for old, new in pairs:
                old.at = min(old.at, new.at)
            known += seen[overlap:]
            return
