"""What was sent, what came back, and whether it was what is promised. Pure: no clock, no I/O.

Times are in seconds since the load began, on one monotonic clock, unless a name ends in `_ms`. How
soon answers came again after a fault failover.py judges, what overload does overload.py.

What counts as answered twice
    Over HTTP a second answer to a request cannot reach anybody. So part of the load uses the
    wire protocol itself and counts every final message (a result, or a refusal) for each request
    id. It also sends a request again, under the same id, when a broker comes back or does not
    acknowledge. A broker remembers open requests only: one whose answer crosses with that second
    sending takes it for new and answers it again, as PROTOCOL.md allows and as no client would
    notice, since it settles a request once. So one final message for each sending is fair. More
    finals than sendings is a broken promise, and so is one request id in two HTTP answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from chaos.schedule import RECOVERY, Fault, Kind

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

#: Seconds after a worker's fault in which the broker's event on it belongs to that fault.
ATTRIBUTED_WITHIN = 3.0


@dataclass(frozen=True, slots=True)
class Final:
    """A final message for a request."""

    at: float
    code: str  # "ok", or the reason of the refusal
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
        return "got 503 without Retry-After."
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


def frozen(injected: Sequence[Injected], event: Event) -> bool:
    """Whether its broker stood still then, or had just continued: its events are late, and its
    workers are lost to it because their connections ended."""
    return any(_froze(hit, event) for hit in injected)


def _froze(hit: Injected, event: Event) -> bool:
    kind, victim = hit.fault.kind, hit.fault.victim
    if hit.missed or kind is not Kind.BROKER_FREEZE or victim != event.broker:
        return False
    return hit.at <= event.at < hit.at + RECOVERY[kind]


def _costs(injected: Sequence[Injected], events: Sequence[Event]) -> list[tuple[Event, Kind]]:
    """The events by which a broker took work away from a worker, each with the kind of the fault
    that had hit it, or the broker, last. What a leaving worker hands back is no attempt."""
    found = []
    for event in events:
        taken = _TAKEN.match(event.text)
        if taken is None:
            continue
        hits = [
            hit
            for hit in injected
            if _froze(hit, event)
            or (
                hit.name == taken[1]
                and not hit.missed
                and hit.at <= event.at < hit.at + ATTRIBUTED_WITHIN
            )
        ]
        if hits:
            found.append((event, max(hits, key=lambda hit: hit.at).fault.kind))
    return found


#: The broker's event on a lost attempt.
_TAKEN = re.compile(r"([\w.]+)(?:#\d+)?(?: lost: |: .* on a request| did not ).*; .*moved")


def count_lost(records: Sequence[Record]) -> int:
    """Requests without a final answer by their deadline + 0.5 s."""
    return sum(not record.answered for record in records)


def count_twice(records: Sequence[Record]) -> int:
    """Requests with more final answers than sendings."""
    return sum(record.twice for record in records)


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
