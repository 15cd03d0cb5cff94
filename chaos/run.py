"""One run from start to end: fleet up, load and faults, all answers in, overload, fleet down."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from chaos.failover import Failover, failover_breaches, failovers, percentile
from chaos.faults import Injector
from chaos.fleet import Fleet
from chaos.httpload import HttpLoad
from chaos.ledger import Event, Injected, Record, breaches
from chaos.overload import Overload, middle_round, overload_breaches
from chaos.pictures import Pictures
from chaos.schedule import Fault
from chaos.wireload import Observer, Probe
from testbed.processes import ROOT, eventually

#: Seconds the fleet may take to become ready: a cold disk, and a model for each worker.
READY_WITHIN = 180.0
#: Pictures the probe sends just before each fault, two for each of three workers, so that its
#: victim most likely has work in hand; and by how many seconds before.
BURST, BURST_BEFORE = 6, 0.015
#: Pictures a second the probe sends besides.
PROBE_RATE = 2.0
#: Seconds the load goes on after the last fault.
TAIL = 4.0
#: Seconds in which a second answer may still come, after the last request is settled.
LISTEN_ON = 1.0
#: Requests at a time and seconds to find the peak; seconds of overload, of which the first ones
#: fill the queue and are not counted; times the peak that is asked for.
PEAK_AT_A_TIME, PEAK_FOR = 24, 5.0
OVERLOAD_FOR, OVERLOAD_SETTLES, OVERLOAD_FACTOR = 11.0, 4.0, 3.0
#: Rounds of overload, of which the middle one counts: a shared machine is not always equally fast.
OVERLOAD_ROUNDS = 3


@dataclass(frozen=True)
class Plan:
    """What to run. Times in seconds, rates in pictures a second."""

    seed: int
    seconds: int
    rate: float
    workers: int
    relayed: Sequence[int]
    brokers: int
    job_limit: float
    timeout: float
    overload: bool
    logs: Path
    faults: Sequence[Fault]


@dataclass
class Outcome:
    """What was seen. All the figures are drawn from this."""

    plan: Plan
    records: list[Record] = field(default_factory=list)
    injected: list[Injected] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ready_over_time: list[tuple[float, int]] = field(default_factory=list)
    resent: int = 0
    left_behind: int = 0
    deaths: list[str] = field(default_factory=list)  # of processes nobody had hit
    overload: Overload | None = None
    machine: str = ""  # how busy it was, as text

    def failovers(self) -> list[Failover]:
        plan = self.plan
        return failovers(self.injected, self.events, self.records, plan.job_limit, plan.brokers)

    def breaches(self) -> list[str]:
        """Every broken promise, a sentence each."""
        found = breaches(self.records, self.injected, self.events)
        found += self.deaths
        found += failover_breaches(self.failovers(), self.injected, self.events)
        if self.overload is not None:
            found += overload_breaches(self.overload)
        if self.left_behind:
            found.append(f"{self.left_behind} processes outlived the worker that started them.")
        return found


class Run:
    """Holds what a run opens. `execute` once; everything is closed when it returns or raises."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._began = time.monotonic()
        self._pictures = Pictures(ROOT / "static" / "samples")
        self._outcome = Outcome(plan)

    def execute(self) -> Outcome:
        """Run it all.

        Raises:
            TimeoutError: the fleet never became ready.
        """
        plan = self._plan
        fleet = Fleet(plan.workers, plan.relayed, plan.brokers, plan.job_limit, plan.logs)
        closing: list[Callable[[], None]] = [fleet.close]
        try:
            fleet.start()
            fronts = [broker.front for broker in fleet.brokers]
            self._wait_until_ready(fleet)
            self._began = time.monotonic()
            observer = Observer(fronts, self._clock)
            closing.append(observer.close)
            http = HttpLoad(fleet.port, self._pictures, plan.timeout, self._clock)
            closing.append(http.close)
            probe = Probe(fronts, self._pictures, plan.timeout, self._clock)
            closing.append(probe.close)
            self._faults(fleet, observer, http, probe)
            if plan.overload:
                self._wait_until_ready(fleet)
                fleet.keep_one()
                self._outcome.overload = self._overload(fleet.port)
        finally:
            for close in reversed(closing):
                close()
        cores = len(os.sched_getaffinity(0))
        self._outcome.machine = f"load average {os.getloadavg()[0]:.1f} on {cores} cores"
        return self._outcome

    def _clock(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began

    def _wait_until_ready(self, fleet: Fleet) -> None:
        def ready() -> bool:
            for worker in fleet.workers:
                if worker.process is not None and worker.process.poll() is not None:
                    raise TimeoutError(f"{worker.name} left instead of becoming ready")
            return {worker.name for worker in fleet.workers} <= observer.present_everywhere

        observer = Observer([broker.front for broker in fleet.brokers], self._clock)
        try:
            eventually(ready, "every worker is ready", READY_WITHIN)
        finally:
            observer.close()

    # --- faults -------------------------------------------------------------------------------

    def _faults(self, fleet: Fleet, observer: Observer, http: HttpLoad, probe: Probe) -> None:
        injector = Injector(fleet, self._clock)
        out = self._outcome
        http.start(self._plan.rate)
        try:
            self._beat(fleet, injector, observer, http, probe)
        finally:
            http.stop()
        http.drain()
        patience = self._plan.timeout + 5.0
        eventually(lambda: not probe.unanswered, "the last answers come", patience)
        time.sleep(LISTEN_ON)
        out.records = [*http.records, *probe.records]
        out.injected, out.events = injector.injected, observer.events
        out.ready_over_time = list(observer.ready_over_time)
        out.resent = probe.resent
        out.left_behind = len(fleet.left_behind())

    def _beat(
        self,
        fleet: Fleet,
        injector: Injector,
        observer: Observer,
        http: HttpLoad,
        probe: Probe,
    ) -> None:
        """Sleep until the next thing is due, do it, until all faults are done and undone."""
        faults = list(self._plan.faults)
        until = max(fault.at for fault in faults) + TAIL
        burst_at = faults[0].at - BURST_BEFORE
        probe_at = progress_at = 0.0
        with tqdm(total=len(faults), unit="fault", file=sys.stderr, mininterval=1.0) as bar:
            while (now := self._clock()) < until or injector.next_due() < float("inf"):
                injector.tick()
                if now >= burst_at:
                    probe.submit(BURST)
                    burst_at = float("inf")
                if faults and now >= faults[0].at:
                    hit = injector.inject(faults.pop(0))
                    tqdm.write(_line(hit), file=sys.stderr)
                    bar.update()
                    burst_at = faults[0].at - BURST_BEFORE if faults else float("inf")
                if now >= probe_at:
                    probe.submit(1)
                    probe_at = now + 1 / PROBE_RATE
                if now >= progress_at:
                    bar.set_postfix_str(self._progress(observer, http, probe))
                    progress_at = now + 1.0
                    self._outcome.deaths += fleet.replace_dead()
                next_fault = faults[0].at if faults else until
                due = min(next_fault, burst_at, probe_at, progress_at, injector.next_due())
                time.sleep(max(0.0005, due - self._clock()))

    def _progress(self, observer: Observer, http: HttpLoad, probe: Probe) -> str:
        records = [*http.records, *probe.records]
        answered = sum(bool(record.finals) for record in records)
        return (
            f"{self._clock():.0f} s: {len(records)} sent, {answered} answered,"
            f" {len(observer.ready)} workers ready"
        )

    # --- overload -----------------------------------------------------------------------------

    def _overload(self, port: int) -> Overload:
        """First the peak, by as many requests at a time as keep every worker busy; then three
        times as many a second, whether answered or not.

        One worker is left for it: broker, web and this program need the other core, as they have
        it where workers are on machines of their own. With every core full of workers the figure
        would show how the kernel shares cores.
        """
        load = HttpLoad(port, self._pictures, self._plan.timeout, self._clock)
        try:
            print("finding the peak", file=sys.stderr)
            load.saturate(PEAK_AT_A_TIME, 1.0)  # warm up
            peak = self._peak(load)
            rounds = []
            for n in range(OVERLOAD_ROUNDS):
                rate = OVERLOAD_FACTOR * peak
                print(
                    f"round {n + 1} of {OVERLOAD_ROUNDS}: peak {peak:.1f}/s; asking for"
                    f" {rate:.0f}/s",
                    file=sys.stderr,
                )
                began, asked = self._offer(load, rate)
                after = self._peak(load)
                rounds.append(_overload_figures(asked, began, (peak + after) / 2))
                peak = after
            return middle_round(rounds)
        finally:
            load.close()

    def _offer(self, load: HttpLoad, rate: float) -> tuple[float, Sequence[Record]]:
        """Ask at this rate; when it began, and what was asked."""
        began, first = self._clock(), len(load.records)
        load.start(rate)
        time.sleep(OVERLOAD_FOR)
        load.stop()
        load.drain()
        return began, load.records[first:]

    def _peak(self, load: HttpLoad) -> float:
        """Answers a second when as many wait as keep every worker busy."""
        began = self._clock()
        load.saturate(PEAK_AT_A_TIME, PEAK_FOR)
        return _answered_between(load.records, began, began + PEAK_FOR) / PEAK_FOR


def _answered_between(records: Sequence[Record], since: float, until: float) -> int:
    finals = (final for record in records for final in record.finals)
    return sum(final.code == "ok" and since <= final.at < until for final in finals)


def _overload_figures(records: Sequence[Record], began: float, peak: float) -> Overload:
    since, until = began + OVERLOAD_SETTLES, began + OVERLOAD_FOR
    counted = until - since
    busy = []
    unexpected: Counter[str] = Counter()
    for record in records:
        final = record.finals[0] if record.finals else None
        if final is None:
            unexpected["missing"] += 1
        elif final.code == "busy" and final.retry_after:
            busy.append(1000 * (final.at - record.sent))
        elif final.code != "ok" or final.label != record.wanted:
            unexpected[f"{final.status} {final.code}"] += 1
    return Overload(
        peak=peak,
        offered=sum(since <= record.sent < until for record in records) / counted,
        goodput=_answered_between(records, since, until) / counted,
        busy=len(busy),
        busy_p99_ms=percentile(busy, 99) if busy else 0.0,
        unexpected=unexpected,
    )


def _line(hit: Injected) -> str:
    return f"{hit.at:7.3f} s  {hit.fault.kind.value:<15} {hit.name} {hit.missed}"
