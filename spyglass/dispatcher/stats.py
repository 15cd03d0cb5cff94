"""Counts and percentiles of the dispatcher's work. Others compute with the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(slots=True)
class Counters:
    """Counts for the snapshot; spyglass/protocol/snapshot.py says what each of them counts."""

    accepted: int = 0
    answered: int = 0
    failed: int = 0
    requeued: int = 0
    handed_back: int = 0
    hedged: int = 0
    quarantined: int = 0
    refused: int = 0
    expired: int = 0
    cancelled: int = 0
    late: int = 0
    duplicate: int = 0
    ejected: int = 0
    bad_frames: int = 0
    internal_errors: int = 0


def percentile(ascending: list[float], share: float) -> float:
    """By nearest rank, of at least one value."""
    return ascending[max(0, ceil(share * len(ascending)) - 1)]
