"""A dispatcher for plain calls, and what its actions contain; the clock is a float."""

from __future__ import annotations

from typing import Any

from spyglass.dispatcher.actions import Action, ToClient, ToWorker
from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.policy import Policy
from spyglass.protocol import Body, Message, Ready, Request, Result, Times

DIGEST = "ab" * 32
LONG = 600_000  # ms


def ready(
    credit: int = 1,
    name: str = "worker",
    digest: str = DIGEST,
    model: str = "squeezenet1_1",
    processes: int = 1,
) -> Ready:
    return Ready(model, digest, credit, "host", 1, name, processes)


def request(number: int, budget_ms: int = 60_000, model: str = "", size: int = 7) -> Request:
    body = Body.of(b"x" * size)
    return Request(number.to_bytes(16, "big"), model, 5, budget_ms, f"{number:064x}", body)


CAT, DOG, EEL = request(1), request(2), request(3)


def result(of: Request) -> Result:
    return Result(of.id, Times(1.0, 10.0), Body.of(b"[]"))


def given(actions: list[Action]) -> list[tuple[bytes, bytes]]:
    """(worker, request id) of all work handed out."""
    return [
        (a.worker, a.message.id)
        for a in actions
        if isinstance(a, ToWorker) and isinstance(a.message, Request)
    ]


def messages(actions: list[Action], kind: type[Message]) -> list[Any]:
    """All messages of a kind, to whomever they go."""
    sent = [action.message for action in actions if isinstance(action, (ToWorker, ToClient))]
    return [message for message in sent if isinstance(message, kind)]


def receivers(actions: list[Action]) -> list[tuple[bytes, tuple[bytes, ...]]]:
    """Where messages for clients go, and where if that cannot be reached."""
    return [(a.client, a.others) for a in actions if isinstance(a, ToClient)]


def fleet(*workers: bytes, credit: int = 1, **policy: Any) -> Dispatcher:
    d = Dispatcher(Policy(**policy), now=0.0)
    for worker in workers:
        d.worker_ready(worker, ready(credit, name=worker.decode()), now=0.0)
    return d


def live(d: Dispatcher, until: float, now: float = 0.0) -> list[Action]:
    """Every worker beats and the dispatcher ticks, ten times a second."""
    actions: list[Action] = []
    for tenth in range(int(10 * now), int(10 * until) + 1):
        for worker in list(d.workers):
            d.worker_heartbeat(worker, tenth / 10)
        actions += d.tick(tenth / 10)
    return actions


def ticked(d: Dispatcher, since: float, until: float) -> list[Action]:
    """The dispatcher ticks ten times a second, and no worker beats."""
    tenths = range(round(10 * since), round(10 * until) + 1)
    return [action for tenth in tenths for action in d.tick(tenth / 10)]
