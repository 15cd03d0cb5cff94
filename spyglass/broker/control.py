"""The broker's replies to queries (Q): the state of the fleet, and changes of it."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable

import zmq

from spyglass.dispatcher.actions import Action
from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.snapshot import snapshot
from spyglass.keys.keyring import BadKeys
from spyglass.keys.port_policy import PortPolicy
from spyglass.protocol import Body, Op, Query, Reply
from spyglass.runtime.commands import command
from spyglass.transport.addresses import AddressError, address, own_host

log = logging.getLogger(__name__)

#: Listening workers one broker dials.
MAX_DIALLED = 64
#: Why one beyond loopback is not dialled without keys.
UNSAFE_TO_DIAL = (
    "Other machines are on the way there, and this broker's port for workers is not encrypted."
    f" Make keys with {command('keys')} init, and start the broker with --encrypt always."
)
#: Share of the broker's time that snapshots may take, and seconds one is kept at most for that.
#: With a handful of workers one takes 0.1 ms, and is 2 ms old at most.
SNAPSHOT_SHARE, SNAPSHOT_KEPT = 0.05, 0.25
#: Changes whose replies are kept. A client that lost its connection, or got no reply for half a
#: second, sends its query again, and the older copy may be read after the newer one. More changes
#: than this are never under way at a time.
REPLIES_KEPT = 64
#: The reply to a client that wants a change without an admin's key.
MAY_NOT = (
    "This key may only send pictures and look. One that may change the fleet is made by:"
    f" {command('keys')} front --admin"
)


class Control:
    """Answers queries, with the sockets left to the broker.

    Attributes:
        ends: the addresses of the broker's two ports, for clients and for workers.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        port_policy: PortPolicy,
        clock: Callable[[], float],
        carry_out: Callable[[list[Action]], None],
        connect: Callable[[str], object],
    ) -> None:
        """
        Args:
            dispatcher: whose fleet it is.
            port_policy: which ports are encrypted.
            clock: in seconds, monotonic.
            carry_out: sends what the dispatcher decided.
            connect: dials an address from the workers' port.
        """
        self.ends = "", ""
        self._dispatcher = dispatcher
        self._port_policy = port_policy
        self._clock = clock
        self._carry_out = carry_out
        self._connect = connect
        self._dialled: set[str] = set()
        self._replies: OrderedDict[Query, Reply] = OrderedDict()  # to changes
        self._status_body = Body()
        self._status_until = float("-inf")  # when the next snapshot is due

    def reply(self, query: Query, may_change: bool = True) -> Reply:
        """The state of the fleet, or the result of a change. A query that comes again, with the
        same id, gets the same reply and changes nothing."""
        now = self._clock()
        if query.op is Op.STATUS:
            return Reply(query.id, True, body=self._status(now))
        if not may_change:
            return Reply(query.id, False, MAY_NOT, allowed=False)
        if query not in self._replies:
            self._replies[query] = self._change(query, now)
            if len(self._replies) > REPLIES_KEPT:
                self._replies.popitem(last=False)
        return self._replies[query]

    def _change(self, query: Query, now: float) -> Reply:
        """Make a change; its result."""
        self._status_until = now  # the next snapshot shows it
        if query.op is Op.ADD:
            return self._dial(query)
        if query.op is Op.CLEAR:
            return self._clear(query, now)
        if query.op is Op.JOIN:
            return self._create_join_command(query, now)
        if query.op is Op.DRAIN:
            name, actions = self._dispatcher.drain_worker(query.target, now)
            done = "finishes its pictures, then stops."
        else:
            name, actions = self._dispatcher.remove_worker(query.target, now)
            done = "is removed; other workers get its pictures."
        self._carry_out(actions)
        if name is None:
            return Reply(query.id, False, "No worker with this id is connected.")
        return Reply(query.id, True, f"{name} {done}")

    def _status(self, now: float) -> Body:
        """The snapshot as JSON. That of a large fleet takes some milliseconds, so that a query
        soon after another one gets the same snapshot."""
        if now >= self._status_until:
            frontend, backend = self.ends
            status = snapshot(self._dispatcher, now)
            status["broker"] |= {
                "frontend": frontend,
                "backend": backend,
                "join": self._port_policy.join_command(backend, own_host()),
                "security": self._port_policy.protection(frontend, backend),
            }
            self._status_body = Body.of(json.dumps(status).encode())
            took = self._clock() - now
            self._status_until = now + min(SNAPSHOT_KEPT, took / SNAPSHOT_SHARE)
        return self._status_body

    def _clear(self, query: Query, now: float) -> Reply:
        """Release one picture from quarantine, or all if none is named."""
        cleared, actions = self._dispatcher.clear_quarantine(query.target, now)
        self._carry_out(actions)
        if query.target and not cleared:
            return Reply(query.id, False, "No picture with this SHA-256 is in quarantine.")
        return Reply(query.id, True, f"Released from quarantine: {cleared}.")

    def _create_join_command(self, query: Query, now: float) -> Reply:
        """Create the command that joins a worker on another machine."""
        try:
            line = self._port_policy.make_join_command(*self.ends, own_host(), query.target)
        except BadKeys as error:
            return Reply(query.id, False, str(error))
        logged = self._dispatcher.log_event("an admin created a join command", now)
        self._carry_out(logged)
        return Reply(query.id, True, line)

    def _dial(self, query: Query) -> Reply:
        """Connect to a worker that listens. libzmq keeps trying, so it may start later."""
        if query.target in self._dialled:
            return Reply(query.id, True, f"Already connecting to {query.target}.")
        if len(self._dialled) >= MAX_DIALLED:
            return Reply(query.id, False, f"The broker has {MAX_DIALLED} such connections already.")
        if not query.target.startswith("tcp://"):
            return Reply(query.id, False, "Name a TCP address, such as tcp://10.0.0.7:8888.")
        if self._port_policy.would_leak(self.ends[1], query.target):
            return Reply(query.id, False, UNSAFE_TO_DIAL)
        try:
            self._connect(address(query.target))
        except (AddressError, zmq.ZMQError) as error:
            return Reply(query.id, False, f"Cannot dial this address: {error}")
        self._dialled.add(query.target)
        log.info("dialling the worker at %s", query.target)
        return Reply(query.id, True, f"Connecting to {query.target}; it appears once it answers.")
