"""Strangers at the ports of a broker on loopback, which any program of the machine can reach, and
any web page through a browser."""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from spyglass.keys.keyring import Keyring, Role
from spyglass.protocol import Op
from spyglass.transport.socket_options import MAX_MESSAGE_BYTES
from testbed.fleet import Fleet
from testbed.peers import GREETING, READY, connect_tcp, cut_off
from testbed.processes import eventually

#: ZMTP 1.0: an identity of no bytes, then a message of one frame, "x". It has no greeting.
ZMTP_1 = bytes((1, 0, 2, 0, 0x78))
#: What a browser sends for <img src="http://127.0.0.1:5555/x.png"> on any page.
HTTP_REQUEST = b"GET /x.png HTTP/1.1\r\nHost: 127.0.0.1:5555\r\nAccept: image/*\r\n\r\n"


@pytest.mark.parametrize("greeting", [ZMTP_1, HTTP_REQUEST], ids=["ZMTP 1.0", "HTTP"])
def test_http_and_zmtp_1_are_refused(fleet: Fleet, greeting: bytes) -> None:
    fleet.start_worker("attic")
    for address in (fleet.frontend, fleet.backend):
        with connect_tcp(address) as stranger:
            stranger.sendall(greeting)
            eventually(partial(cut_off, stranger), "the broker ends the connection")
    assert fleet.client.submit(b"hello").result(30).worker == "attic"
    assert fleet.status()["counters"]["bad_frames"] == 0


def test_the_sender_of_an_endless_message_is_disconnected_and_takes_bounded_memory(
    fleet: Fleet,
) -> None:
    fleet.start_worker("attic")
    assert fleet.broker is not None
    broker = psutil.Process(fleet.broker.pid)
    before = broker.memory_info().rss
    part = bytes((3,)) + struct.pack("!Q", 1_000_000) + bytes(1_000_000)  # large, and more follow
    sent = 0
    with connect_tcp(fleet.frontend) as stranger:
        stranger.sendall(GREETING + READY)
        stranger.settimeout(0.1)  # ten parts in it, as a fast network brings them
        try:
            while sent < 10 * MAX_MESSAGE_BYTES:
                for _ in range(10):
                    stranger.sendall(part)
                    sent += len(part)
                with suppress(TimeoutError):
                    if not stranger.recv(4096):
                        break
        except OSError:
            pass  # cut
    assert MAX_MESSAGE_BYTES < sent < 10 * MAX_MESSAGE_BYTES
    assert fleet.client.submit(b"hello").result(30).worker == "attic"
    eventually(
        lambda: broker.memory_info().rss - before < 2 * MAX_MESSAGE_BYTES, "its frames are gone"
    )


def test_a_broker_without_keys_connects_to_no_worker_beyond_loopback(fleet: Fleet) -> None:
    done, why = fleet.client.control(Op.ADD, "tcp://192.0.2.7:8888")
    assert not done
    assert "python keys.py init" in why
    done, why = fleet.client.control(Op.ADD, "inproc://zeromq.zap.01")
    assert not done
    assert "TCP" in why


def test_a_list_of_keys_stays_as_it_was_while_no_file_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keyring.create(tmp_path / "keys")
    keys.issue(Role.WORKER, "kitchen")
    allowed = keys.allowed()
    keys.issue(Role.WORKER, "attic")

    def no_descriptor_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as scarce:
        scarce.setattr(os, "open", no_descriptor_left)
        assert not allowed.refresh()
        assert [entry.name for entry in allowed.entries()] == ["kitchen"]
    assert allowed.refresh()
    assert [entry.name for entry in allowed.entries()] == ["kitchen", "attic"]
