"""The numbers behind the dispatcher's decisions, each with its unit and its reason.

A number that a broker, a test or the simulation may set is a field of `Policy`; the others are
constants below it.
"""

from __future__ import annotations

from dataclasses import dataclass

from spyglass.protocol import BUSY_INTERVAL, DEFAULT_JOB_LIMIT, SLOWEST_LINK
from spyglass.protocol.snapshot import MAX_MODELS


@dataclass(frozen=True)
class Policy:
    """The numbers that may be set. Seconds, unless a field says otherwise."""

    # --- workers that fall silent ---

    #: Silence after which a worker counts as dead that acknowledged a request and has not replied:
    #: four heartbeats, so that another worker has its requests within 1.2 s.
    expiry_at_work: float = BUSY_INTERVAL * 4
    #: The longest sleep of the broker's loop. A loop that wakes later than after twice this expires
    #: nobody for `grace`, since signs of life may not have been read yet.
    longest_sleep: float = 0.25
    grace: float = 0.5

    # --- the queue ---

    #: Requests waiting for a worker. About 2 s of work for two workers of 50 images/s each;
    #: beyond that an immediate "busy" is kinder than a late answer.
    max_waiting: int = 200
    #: Bytes of all waiting pictures: bounds the broker's memory.
    max_waiting_bytes: int = 256 * 1024 * 1024
    max_models: int = MAX_MODELS
    #: A client gets an ACK unless its answer is ready within this: most are, and an answer also
    #: shows that the request arrived (as TCP delays its ACKs). Less than half of what a client
    #: waits for an ACK, so that a round trip of 0.3 s is not too long.
    ack_delay: float = 0.2
    #: ACKs that are due within this are sent in the same turn: waking the broker and its client
    #: costs more than an ACK does.
    ack_spread: float = 0.1

    # --- attempts of a request on workers ---

    #: Attempts of one request, each on another worker if there is one.
    max_attempts: int = 3
    #: A worker must acknowledge a request within this, plus the time that its picture and those
    #: sent before it take on the slowest link served. An ACK costs no computation, so only a lost
    #: message is this late.
    ack_timeout: float = 0.3
    slowest_link: float = SLOWEST_LINK  # bytes a second
    #: From ACK to answer. The worker kills a hung child at its job limit and may compute one more
    #: request before this one; if it does neither, the dispatcher steps in one second later.
    attempt_timeout: float = 2 * DEFAULT_JOB_LIMIT + 1.0
    #: Share of a model's open requests that may be on a second or later attempt at a time, and how
    #: many always may: retries must not amplify an overload (Envoy's retry budget: 20 %, 3).
    retry_share: float = 0.2
    retries_always: int = 3

    # --- hedging: a second worker for a slow request (Dean and Barroso, The Tail at Scale, 2013)

    #: A request that runs longer than this, or than so many times the 95th percentile of its model,
    #: is given to an idle worker as well.
    hedge_floor: float = 0.3
    hedge_factor: float = 3.0
    #: Extra work by hedging, as a share of the requests accepted, and hedges allowed at once.
    hedge_share: float = 0.05
    hedge_burst: float = 3.0

    # --- pictures and workers that fail ---

    #: How long a picture that cost two workers or children is refused.
    quarantine: float = 600.0
    #: Share of a model's workers that may be ejected at a time: when everything fails, the workers
    #: are probably not the cause.
    ejected_share: float = 0.5


# --- workers that fall silent ---------------------------------------------------------------------

#: Share of the interval of heartbeats that is left, at least, at the next look 0.25 s later. The
#: interval halves in 5.7 s, so that a worker that knows the longest one, 3 s, counts as dead after
#: 4.2 s of silence at the earliest.
INTERVAL_SHRINK = 0.97

# --- how fast workers are -------------------------------------------------------------------------

#: Answers the latency figures are drawn from: recent enough to follow a change, enough for a
#: 95th percentile.
LATENCY_WINDOW = 200
#: Answers between two computations of a model's percentiles: sorting them costs some 10 us.
LATENCY_REFRESH = 20
#: Weight of the newest answer in a worker's mean latency: the last five or so decide.
PACE_WEIGHT = 0.2
#: A worker this many times slower than the typical one of its model counts as slow: less is what
#: chance and its queue make of equal machines.
SLOW_FACTOR = 3
#: Seconds a typical answer counts as at least: among faster ones no difference matters.
LEAST_TYPICAL = 0.005
#: The largest handicap of a slow worker: beyond it, it is the last choice anyway.
MAX_HANDICAP = 16

# --- ejection of workers that fail ----------------------------------------------------------------

#: Failures in a row that eject. One bad picture or one lost packet never does.
FAILURES_IN_A_ROW = 5
#: Latest outcomes that count; at least half of them failures (and five) eject as well.
OUTCOMES_KEPT = 20
#: Answers without a request that eject: each means that the worker does not keep to the protocol.
UNASKED_ANSWERS = 3
#: Seconds of the first ejection; the n-th in a short time is n times as long.
EJECTION = 30.0
#: Seconds of the longest ejection: a worker that was repaired is tried again within this.
LONGEST_EJECTION = 600.0
#: Departed workers whose outcomes are kept, so that one that comes back does not start afresh.
HEALTHS_KEPT = 1000

# --- quarantine of pictures that kill -------------------------------------------------------------

#: Losses after which a picture is refused, of different workers or children: one may be chance.
LOSSES_TO_QUARANTINE = 2
#: Seconds a worker that was lost has to come back. After the network heals it needs 1.5 s at most;
#: a partition that lasts longer than the rest looks like a death.
RETURN_GRACE = 5.0
#: Suspected and proven pictures remembered. Beyond it the oldest are forgotten, which
#: bounds the memory: a proven picture is then computed one copy at a time again, and one that kills
#: may cost one more child.
PICTURES_REMEMBERED = 4096

# --- what is kept for the status page and the log -------------------------------------------------

#: Events kept for the status page: some screens full.
EVENTS_KEPT = 200
#: Departed workers kept for the status page: some screens full.
DEPARTED_KEPT = 50
#: Seconds between two samples of the queue, at least: a point on the chart each second.
SAMPLE_INTERVAL = 1.0
#: Samples kept: five minutes of them.
SAMPLES_KEPT = 300
#: Seconds in which the same refusal of a worker is logged once, however often it tries to join.
REFUSAL_LOGGED_EVERY = 60.0
#: Refusals remembered; the one logged longest ago is forgotten first.
REFUSALS_REMEMBERED = 100

# --- bookkeeping ----------------------------------------------------------------------------------

#: Characters kept of a name that gets a number: with it, 64 at most, as PROTOCOL.md allows.
NUMBERED_NAME_KEPT = 58
#: Timers below which removing those of answered requests is not worth a pass over all.
FEW_TIMERS = 1000
