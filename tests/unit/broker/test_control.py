"""The broker's replies to queries, without a client."""

from __future__ import annotations

from itertools import count

import pytest

from spyglass.broker.loop import Broker
from spyglass.dispatcher.policy import Policy
from spyglass.keys.port_policy import PLAIN
from spyglass.protocol import ID_BYTES, Op, Query


@pytest.mark.parametrize(
    ("backend", "line"),
    [
        ("tcp://127.0.0.1:5556", "python worker.py tcp://127.0.0.1:5556"),
        ("tcp://0.0.0.0:5556", "python worker.py tcp://harbour:5556"),
        ("tcp://[::]:7", "python worker.py tcp://harbour:7"),
        ("tcp://192.168.1.7:5556", "python worker.py tcp://192.168.1.7:5556"),
        ("ipc:///run/back", "python worker.py ipc:///run/back"),
    ],
)
def test_the_line_to_join_names_an_address_others_can_reach(backend: str, line: str) -> None:
    assert PLAIN.join_command(backend, "harbour") == line


def test_a_snapshot_that_took_long_is_sent_again_for_a_while_unless_the_fleet_was_changed() -> None:
    now = count()  # each look at the clock is 10 ms after the last
    port = "tcp://127.0.0.1:*"
    broker = Broker(port, port, Policy(), 1024, clock=lambda: next(now) / 100)
    broker.open()
    try:
        ask = Query(bytes(ID_BYTES), Op.STATUS)
        first, again = broker.control.reply(ask).body, broker.control.reply(ask).body
        assert first.size and again is first
        broker.control.reply(Query(bytes(ID_BYTES), Op.CLEAR))
        changed = broker.control.reply(ask).body
        assert changed is not first
        for _ in range(20):  # 0.2 s: a twentieth of the time for 10 ms
            next(now)
        assert broker.control.reply(ask).body is not changed
    finally:
        broker.stop()
        broker.run()
