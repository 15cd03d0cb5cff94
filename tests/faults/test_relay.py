"""The relay of the fault tests does what its modes say."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from testbed.relay import Relay

SILENCE = 0.2  # seconds without a byte that count as silence


@pytest.fixture
def ends() -> Iterator[tuple[Relay, socket.socket, socket.socket]]:
    """A relay, the end that dialled it and the target's end."""
    with ExitStack() as stack:
        target = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        relay = stack.enter_context(Relay(f"127.0.0.1:{target.getsockname()[1]}"))
        near = stack.enter_context(socket.create_connection(("127.0.0.1", relay.port)))
        far = stack.enter_context(target.accept()[0])
        near.settimeout(5)
        far.settimeout(5)
        near.sendall(b"!")
        assert far.recv(1) == b"!"  # now the relay knows both ends
        yield relay, near, far


def silent(end: socket.socket) -> bool:
    end.settimeout(SILENCE)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(5)
    return False


def test_it_passes_bytes_both_ways(ends: tuple[Relay, socket.socket, socket.socket]) -> None:
    _, near, far = ends
    near.sendall(b"up")
    assert far.recv(10) == b"up"
    far.sendall(b"down")
    assert near.recv(10) == b"down"


def test_a_stall_holds_back_what_is_sent_and_delivers_it_later(
    ends: tuple[Relay, socket.socket, socket.socket],
) -> None:
    relay, near, far = ends
    relay.set("stall")
    near.sendall(b"later")
    assert silent(far)
    relay.set("pass")
    assert far.recv(10) == b"later"


def test_one_way_is_held_back_and_the_other_is_not(
    ends: tuple[Relay, socket.socket, socket.socket],
) -> None:
    relay, near, far = ends
    relay.set("oneway_up")
    near.sendall(b"up")
    far.sendall(b"down")
    assert near.recv(10) == b"down" and silent(far)


def test_corruption_flips_one_bit_in_so_many_bytes(
    ends: tuple[Relay, socket.socket, socket.socket],
) -> None:
    relay, near, far = ends
    relay.set("corrupt 4")
    near.sendall(bytes(12))
    got = b""
    while len(got) < 12:
        got += far.recv(12)
    assert got == b"\0\0\1\0" * 3  # one byte had passed before


def test_a_reset_is_seen_at_both_ends(ends: tuple[Relay, socket.socket, socket.socket]) -> None:
    relay, near, far = ends
    relay.set("reset")
    for end in (near, far):
        with pytest.raises(ConnectionResetError):
            end.recv(1)


def test_a_close_is_seen_at_both_ends(ends: tuple[Relay, socket.socket, socket.socket]) -> None:
    relay, near, far = ends
    relay.set("close")
    assert near.recv(1) == far.recv(1) == b""


def test_truncation_cuts_after_so_many_bytes(
    ends: tuple[Relay, socket.socket, socket.socket],
) -> None:
    relay, near, far = ends
    relay.set("truncate 4")
    near.sendall(b"12345")
    assert far.recv(10) == b"123" and far.recv(10) == b""


def test_an_unknown_mode_is_an_error() -> None:
    with Relay("127.0.0.1:9") as relay, pytest.raises(ValueError, match="frobnicate"):
        relay.set("frobnicate")


def test_a_target_that_is_not_there_resets_the_connection() -> None:
    with (
        Relay("127.0.0.1:9") as relay,
        socket.create_connection(("127.0.0.1", relay.port)) as near,
    ):
        near.settimeout(5)
        with pytest.raises(ConnectionResetError):
            near.recv(1)
