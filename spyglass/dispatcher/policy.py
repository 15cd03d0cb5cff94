"""The numbers behind the dispatcher's decisions, each with its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass

from spyglass.protocol import BUSY_INTERVAL, DEFAULT_JOB_LIMIT, SLOWEST_LINK
from spyglass.protocol.snapshot import MAX_MODELS


@dataclass(frozen=True)
class Policy:
    """The numbers behind the decisions. Seconds, unless a field says otherwise."""

    #: Silence after which a worker at work counts as dead, one that acknowledged a request and owes
    #: its last word: four heartbeats, so that what it held is with another worker within 1.2 s.
    expiry_at_work: float = BUSY_INTERVAL * 4
    #: The longest sleep of the broker's loop. A loop that wakes later than after twice this expires
    #: nobody for `grace`: signs of life may lie unread.
    longest_sleep: float = 0.25
    grace: float = 0.5
    #: Requests waiting for a worker. About 2 s of work for two workers of 50 images/s each;
    #: beyond that an immediate "busy" is kinder than a late answer.
    max_waiting: int = 200
    #: Bytes of all waiting pictures: bounds the broker's memory.
    max_waiting_bytes: int = 256 * 1024 * 1024
    #: Workers one request may be tried on.
    max_attempts: int = 3
    #: A client is told that its request was accepted unless it is answered within this: most are,
    #: and an answer says it too (as TCP delays its ACKs). Less than half of what a client waits for
    #: one, so that a round trip of 0.3 s is none too long.
    ack_delay: float = 0.2
    #: Who is told then is everybody who would be within this, in one go: a wake-up, of the broker
    #: and of its client, takes more than an ACK does.
    ack_spread: float = 0.1
    #: A worker must acknowledge a request within this, plus the time its picture, and those on
    #: their way before it, take on the slowest link we serve. An ACK costs no computation, so only
    #: a lost message is this late.
    ack_timeout: float = 0.3
    slowest_link: float = SLOWEST_LINK
    #: From ACK to answer. The worker kills a hung child at its job limit and may hold one more
    #: request before ours; this is the net beneath, one second later.
    attempt_timeout: float = 2 * DEFAULT_JOB_LIMIT + 1.0
    #: Of a model's requests at hand, how many may be on a second or later attempt at a time, and
    #: how many always may: retries must not amplify an overload (Envoy's retry budget: 20 %, 3).
    retry_share: float = 0.2
    retries_always: int = 3
    #: A request that runs longer than this, or than three times the 95th percentile, is hedged:
    #: given to an idle worker as well (Dean and Barroso, The Tail at Scale, 2013).
    hedge_floor: float = 0.3
    hedge_factor: float = 3.0
    #: Extra work by hedging, as a share of the requests accepted, and hedges allowed at once.
    hedge_share: float = 0.05
    hedge_burst: float = 3.0
    #: How long a picture that cost two workers or children is refused.
    quarantine: float = 600.0
    #: Share of a model's workers that may be ejected at a time.
    ejected_share: float = 0.5
    max_models: int = MAX_MODELS
