"""What the tests of a chaos run's reckoning share: requests, answers and faults made up."""

from __future__ import annotations

from chaos.ledger import Final, Injected, Record
from chaos.schedule import Fault, Kind


def record(*finals: Final, way: str = "wire", sendings: int = 1) -> Record:
    """A request sent at 0 s with ten seconds of time, and the answers it got."""
    request_id = "aa" if way == "wire" else ""
    return Record(1, way, "tiger cat", 0.0, 10.0, request_id, sendings, list(finals))


def final(
    at: float = 0.1, code: str = "ok", request_id: str = "aa", label: str = "tiger cat"
) -> Final:
    """The right answer in time, but for what is named."""
    return Final(at, code, request_id, label)


def hit(kind: Kind, at: float = 5.0, name: str = "w2.1", **more: object) -> Injected:
    """A fault as it was done to this worker."""
    return Injected(Fault(at, kind, 1), at, name, **more)  # type: ignore[arg-type]
