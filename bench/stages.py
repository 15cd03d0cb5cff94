"""Where a request's time goes, from the timings in its own answer.

Each timing lies within the next longer one, so what is left between two of them is what passed
there, on the way down and on the way back together.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

#: Each stage, and the two timings it lies between; "latency" is measured by who asks.
STAGES = {
    "HTTP": ("latency", "total"),
    "client, to the broker and back": ("total", "broker"),
    "waiting for a worker": ("queue", ""),
    "broker, to the worker and back": ("broker", "queue+worker"),
    "worker and pipe": ("worker", "decode+infer"),
    "decode": ("decode", ""),
    "infer": ("infer", ""),
}


def mean(answers: Sequence[tuple[float, bytes]]) -> dict[str, float]:
    """Mean milliseconds of each stage.

    Args:
        answers: seconds each took, and its body, JSON as `POST /v1/classify` answers.
    """
    timings = [{"latency": 1000 * took, **json.loads(body)["timings_ms"]} for took, body in answers]
    return {
        stage: statistics.fmean(_at(times, outer) - _at(times, inner) for times in timings)
        for stage, (outer, inner) in STAGES.items()
    }


def _at(times: dict[str, float], names: str) -> float:
    return sum(times[name] for name in names.split("+") if name)
