"""How slow the machine is just now, so that a limit in time means the same work on every one."""

from __future__ import annotations

import time

#: Seconds of one turn of the loop below that count as usual: a round number for an idle core of
#: today, not a measured one. A machine that is faster gets no tighter limit.
USUAL = 25e-9
_TURNS = 100_000
#: The least of so many rounds counts: others use the machine as well.
_ROUNDS = 20


def slowness() -> float:
    """How many times longer than usual a bare loop takes, at least 1. Takes some 0.1 s."""
    return max(1.0, min(_round() for _ in range(_ROUNDS)) / USUAL)


def _round() -> float:
    total, began = 0, time.process_time()
    for number in range(_TURNS):
        total += number
    return (time.process_time() - began) / _TURNS
