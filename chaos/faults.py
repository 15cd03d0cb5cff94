"""Carries out the schedule of faults on the fleet, and undoes each when its time is over.

`inject` starts a fault; `tick` does what falls due later: continue a frozen worker, open a
stalled link, start a new process for a killed one. Neither blocks for longer than milliseconds.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count

from chaos.fleet import Broker, Fleet, Worker
from chaos.ledger import Injected
from chaos.schedule import BROKER_FREEZE_FOR, BROKER_KINDS, Fault, Kind
from testbed.processes import below, child_of, computes, send

#: Seconds until a killed worker or the only broker is started again; of two brokers, one may
#: stay away for longer.
RESTART_AFTER, RESTART_AFTER_OF_TWO = 1.0, 2.0
#: Seconds a worker stays frozen: longer than the 1 s after which one at work counts as dead, and
#: than the 1.5 s after which a broker does.
FREEZE_FOR = 2.5
STALL_FOR = 2.0
CORRUPT_FOR = 0.7
#: Bytes between two flipped bits. An answer has some 600, so about every third is hit.
CORRUPT_EVERY = 2000
#: Seconds between two looks at a worker that is expected to leave.
LOOK_EVERY = 0.05
#: Seconds a child is waited for that has nothing to do, so that it is hit at work.
CATCH_WITHIN = 0.2
#: Seconds a child that was hit is watched for its end.
WATCH_FOR = 60.0


class Injector:
    """Carries out faults. One thread; `clock` gives seconds since the load began."""

    def __init__(self, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._order = count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.injected: list[Injected] = []

    def inject(self, fault: Fault) -> Injected:
        """Do it now. A fault whose victim is not there is noted as missed."""
        broker = fault.kind in BROKER_KINDS
        victim = (self._fleet.brokers if broker else self._fleet.workers)[fault.victim]
        hit = Injected(fault, self._clock(), victim.name)
        self.injected.append(hit)
        if victim.process is None or victim.process.poll() is not None:
            hit.missed = "it was not running"
        elif isinstance(victim, Broker):
            self._hit_broker(hit, victim, victim.process)
        else:
            self._hit_worker(hit, victim, victim.process)
        return hit

    def tick(self) -> None:
        """Do what is due."""
        while self._due and self._due[0][0] <= self._clock():
            heapq.heappop(self._due)[2]()

    def next_due(self) -> float:
        """When `tick` has something to do."""
        return self._due[0][0] if self._due else float("inf")

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._clock() + seconds, next(self._order), act))

    # --- what can be done to a worker ---------------------------------------------------------

    def _hit_worker(self, hit: Injected, worker: Worker, process: subprocess.Popen[bytes]) -> None:
        match hit.fault.kind:
            case Kind.WORKER_KILL:
                self._fleet.kill(worker, process)
                self._later(RESTART_AFTER, partial(self._fleet.start_worker, worker))
            case Kind.WORKER_STOP:
                self._fleet.stop(process)
                self._replace_when_gone(hit, worker, process)
            case Kind.WORKER_FREEZE:
                pids = [process.pid, *below(process.pid)]
                for pid in pids:
                    send(pid, signal.SIGSTOP)
                self._later(FREEZE_FOR, partial(_continue, pids))
            case Kind.CHILD_CRASH | Kind.CHILD_HANG:
                self._hit_child(hit, process.pid)
            case Kind.LINK_RESET:
                self._set_relays(worker, "reset")
            case Kind.LINK_STALL:
                self._set_relays(worker, "stall")
                self._later(STALL_FOR, partial(self._set_relays, worker, "pass"))
            case Kind.LINK_CORRUPT:
                self._set_relays(worker, f"corrupt {CORRUPT_EVERY}")
                self._later(CORRUPT_FOR, partial(self._set_relays, worker, "pass"))

    def _set_relays(self, worker: Worker, mode: str) -> None:
        for relay in worker.relays:
            relay.set(mode)

    def _hit_child(self, hit: Injected, worker_pid: int) -> None:
        child = child_of(worker_pid)
        if child is None:
            hit.missed = "it had no child at the moment"
            return
        hang = hit.fault.kind is Kind.CHILD_HANG
        try:
            pidfd = os.pidfd_open(child)
        except ProcessLookupError:
            hit.missed = "its child was gone before the signal"
            return
        hit.busy = self._catch_busy(child)
        # A thread of its own, because a look now and then would see the end too late.
        threading.Thread(target=self._watch, args=(hit, pidfd), daemon=True).start()
        hit.at = self._clock()
        send(child, signal.SIGSTOP if hang else signal.SIGSEGV)

    def _catch_busy(self, child: int) -> bool:
        """Wait for a moment until it begins to compute; whether it does. One that is at work
        already may just have sent its answer: hit then, it would hang or die on nothing."""
        until = self._clock() + CATCH_WITHIN
        rested = False
        while not ((busy := computes(child)) and rested) and self._clock() < until:
            rested = rested or not busy
            time.sleep(0.001)
        return busy and rested

    def _watch(self, hit: Injected, pidfd: int) -> None:
        """Note when a child ends."""
        if select.select([pidfd], [], [], WATCH_FOR)[0]:
            hit.ended_ms = 1000 * (self._clock() - hit.at)
        os.close(pidfd)

    def _replace_when_gone(
        self, hit: Injected, worker: Worker, process: subprocess.Popen[bytes]
    ) -> None:
        hit.exit_code = process.poll()
        if hit.exit_code is None:
            self._later(LOOK_EVERY, partial(self._replace_when_gone, hit, worker, process))
        elif worker.process is process:
            self._fleet.start_worker(worker)

    def _hit_broker(self, hit: Injected, broker: Broker, process: subprocess.Popen[bytes]) -> None:
        if hit.fault.kind is Kind.BROKER_FREEZE:
            send(process.pid, signal.SIGSTOP)
            self._later(BROKER_FREEZE_FOR, partial(_continue, [process.pid]))
            return
        self._fleet.kill(broker, process)
        alone = len(self._fleet.brokers) == 1
        after = RESTART_AFTER if alone else RESTART_AFTER_OF_TWO
        self._later(after, partial(self._fleet.start_broker, broker))


def _continue(pids: list[int]) -> None:
    for pid in reversed(pids):
        send(pid, signal.SIGCONT)
