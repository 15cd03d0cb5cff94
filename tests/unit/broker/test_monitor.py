"""What the broker's monitor reports of the broker itself, by plain calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from spyglass.broker.monitor import CONNECTIONS_INTERVAL, MEMORY_ROOM, RELIEVED, HealthMonitor
from spyglass.runtime import memory

MAY_WAIT = 1000


class Port(SimpleNamespace):
    """As much of a PeerTracker as the monitor counts."""

    connections = 0


def monitor(front: Any, back: Any, open_files: int = 100) -> HealthMonitor:
    return HealthMonitor(front, back, lambda: 0.0, lambda: 0, MAY_WAIT, open_files)


def test_many_connections_are_reported_once_until_they_are_few_again() -> None:
    front, back = Port(), Port()
    watched = monitor(front, back)
    reported: list[list[str]] = []
    for connections in (80, 81, 90, 80, 81):
        front.connections, back.connections = connections - 30, 30
        reported.append(watched.count_connections())
    assert [len(lines) for lines in reported] == [0, 1, 0, 0, 1]
    assert reported[1][0].startswith("81 connections are open, and 100 files are allowed")


def test_much_memory_is_reported_once_until_it_fell_by_a_tenth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = {"now": 10_000_000}
    monkeypatch.setattr(memory, "held", lambda: held["now"])
    monkeypatch.setattr(HealthMonitor, "_look_at_connections", lambda _: None)
    watched = monitor(Port(), Port())
    limit = held["now"] + MAY_WAIT + MEMORY_ROOM
    reported: list[int] = []
    for taken in (limit, limit + 1, int(RELIEVED * limit) + 1, limit + 1, 0, limit + 1):
        held["now"] = taken
        reported.append(len(watched.look(len(reported) * CONNECTIONS_INTERVAL)))
    assert reported == [0, 1, 0, 0, 0, 1]
