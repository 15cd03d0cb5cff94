"""What is promised at three times the capacity, and what of it was broken. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

#: Share of the peak that is still answered at three times the capacity, and milliseconds within
#: which the others get the answer that it is busy (P7).
GOODPUT_SHARE, BUSY_LIMIT_MS = 0.9, 100.0


@dataclass(frozen=True, slots=True)
class Overload:
    """The figures of the overload phase, in requests a second and milliseconds."""

    peak: float
    offered: float
    goodput: float
    busy: int
    busy_p99_ms: float
    unexpected: Counter[str]


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
