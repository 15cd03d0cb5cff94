"""The last minutes of the queue, for the charts of the status page.

Part of the dispatcher: no I/O, and `now` is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from spyglass.dispatcher.policy import SAMPLE_INTERVAL, SAMPLES_KEPT


@dataclass(frozen=True, slots=True)
class Sample:
    """The queue at one moment, in requests."""

    at: float
    waiting: int
    in_flight: int
    answered: int  # since the start; the rate is the difference of two by their distance


class Trend:
    """Samples of the last minutes, the oldest first."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)

    def sample(self, waiting: int, in_flight: int, answered: int, now: float) -> None:
        """Keep these figures, unless the last ones are younger than the interval."""
        if not self.samples or now - self.samples[-1].at >= SAMPLE_INTERVAL:
            self.samples.append(Sample(now, waiting, in_flight, answered))
