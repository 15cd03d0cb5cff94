"""A worker's view of its children, by plain calls: who gets what, and until when."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from spyglass.worker.children import QUICK, Child, Children
from spyglass.worker.pipe import LAST_OF_BATCH, Frame, Reassembly, receive

NOBODY: Any = None
#: Makes a child that is ready, and this test's end of its pipe.
MakeChild = Callable[..., tuple[Child, socket.socket]]


def picture(n: int) -> Frame:
    return Frame(bytes([n]) * 16, 5, b"picture %d" % n)


@pytest.fixture
def make_child() -> Iterator[MakeChild]:
    """Makes a child that is ready, and this test's end of its pipe."""
    with ExitStack() as stack:

        def make(idle_since: float = 0.0) -> tuple[Child, socket.socket]:
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            ours.setblocking(False)
            return Child(NOBODY, ours, 0.0, ready=True, busy_since=idle_since), theirs

        yield make


def family(*members: Child) -> Children:
    children = Children(NOBODY, len(members))
    children.alive = list(members)
    return children


def test_the_child_that_has_been_idle_longest_is_next(make_child: MakeChild) -> None:
    tired, _ = make_child(idle_since=2.0)
    fresh, _ = make_child(idle_since=1.0)
    assert family(tired, fresh).next_free(now=3.0) is fresh


def test_a_busy_child_gets_one_batch_ahead_while_no_other_is_idle(make_child: MakeChild) -> None:
    only, _ = make_child()
    children = family(only)
    only.give([picture(1)], now=1.0, limit=5.0)
    assert children.next_free(now=1.0) is only
    only.give([picture(2)], now=1.0, limit=5.0)
    assert children.next_free(now=1.0) is None
    assert (only.working_on, only.ahead) == ([picture(1).id], [picture(2).id])


def test_an_idle_child_is_preferred_to_a_busy_one(make_child: MakeChild) -> None:
    busy, _ = make_child()
    idle, _ = make_child(idle_since=9.0)
    busy.give([picture(1)], now=1.0, limit=5.0)
    assert family(busy, idle).next_free(now=9.0) is idle


def test_a_child_that_takes_long_gets_nothing_ahead(make_child: MakeChild) -> None:
    slow, _ = make_child()
    slow.give([picture(1)], now=1.0, limit=5.0)
    assert family(slow).next_free(now=1.0 + 0.9 * QUICK) is slow
    assert family(slow).next_free(now=1.0 + QUICK) is None


def test_a_child_that_was_killed_at_its_limit_gets_nothing_ahead(make_child: MakeChild) -> None:
    child, _ = make_child()
    children = family(child)
    child.give([picture(1)], 1.0, limit=QUICK / 2)
    assert children.next_free(1.0 + QUICK / 4) is child
    killed: Any = SimpleNamespace(pid=0)
    child.process = killed
    assert children.overdue(1.0 + QUICK / 2) == [child]
    assert children.next_free(1.0 + QUICK / 2) is None


def test_the_limit_of_a_batch_counts_from_its_beginning(make_child: MakeChild) -> None:
    child, _ = make_child()
    child.give([picture(1), picture(2)], now=1.0, limit=5.0)
    child.give([picture(3)], now=1.0, limit=2.5)
    assert child.limit == 6.0
    child.answered(picture(1).id, now=3.0)
    assert child.limit == 6.0, "half of the batch is still being computed"
    child.answered(picture(2).id, now=4.0)
    assert (child.limit, child.busy_since, child.state) == (6.5, 4.0, "busy")
    child.answered(picture(3).id, now=5.0)
    assert (child.limit, child.state) == (float("inf"), "idle")


def test_batches_travel_one_after_the_other_each_with_its_end_marked(make_child: MakeChild) -> None:
    child, end = make_child()
    child.give([picture(1), picture(2)], now=1.0, limit=5.0)
    child.give([picture(3)], now=1.0, limit=5.0)
    frames = Reassembly().feed(receive(end))
    assert [frame.payload for frame in frames] == [picture(n).payload for n in (1, 2, 3)]
    assert [bool(frame.number & LAST_OF_BATCH) for frame in frames] == [False, True, True]
    assert [frame.number & ~LAST_OF_BATCH for frame in frames] == [5, 5, 5]


def test_what_a_full_pipe_does_not_take_is_sent_later_in_order(make_child: MakeChild) -> None:
    child, end = make_child()
    large = Frame(b"L" * 16, 5, bytes(3_000_000))
    child.give([large], now=1.0, limit=5.0)
    assert child.unsent
    child.give([picture(2)], now=1.0, limit=5.0)
    stream = Reassembly()
    frames: list[Frame] = []
    while len(frames) < 2:
        frames += stream.feed(receive(end))
        child.push()
    assert [len(frame.payload) for frame in frames] == [3_000_000, len(picture(2).payload)]
    assert not child.unsent
