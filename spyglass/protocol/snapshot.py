"""The broker's snapshot of its fleet: what `/v1/status` answers, as JSON holds it.

The broker makes one, and its readers use the same keys from here.
"""

from __future__ import annotations

from typing import TypedDict

#: Models in one snapshot, and so models one broker serves: a worker that invents names must not
#: fill the memory of the broker, or that of whoever keeps figures by model.
MAX_MODELS = 64


class Counters(TypedDict):
    """What has happened since the broker started, in requests unless a comment says otherwise."""

    #: The broker took responsibility for them.
    accepted: int
    #: Answered with predictions.
    answered: int
    #: Answered with a reason instead.
    failed: int
    #: Moves to another worker, after a failure.
    requeued: int
    #: Moves to another worker, not begun by one that was leaving.
    handed_back: int
    #: Given to a second worker as well, being slow.
    hedged: int
    #: Of the failed and refused: the picture is in quarantine.
    quarantined: int
    #: Not accepted: the queue is full, no such model, the broker is leaving, or quarantined.
    refused: int
    #: Of the failed: the deadline passed.
    expired: int
    #: Nobody waited for the answer any more.
    cancelled: int
    #: Results and failures that workers sent for requests closed or moved before.
    late: int
    #: Answers of workers that nobody had asked them for.
    duplicate: int
    #: Workers left out for failing again and again.
    ejected: int
    #: Messages that were not valid.
    bad_frames: int
    #: Messages lost to a fault of the broker's own.
    internal_errors: int
