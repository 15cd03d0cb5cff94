"""The broker: two ROUTER sockets, one loop, no decisions.

Each turn reads the connection monitors, then both sockets until they are empty, reports dropped
connections to the dispatcher, calls its tick, sends what it decided and sleeps until its next
deadline. The order matters: what a peer sent before its connection dropped still counts.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence

import zmq

from spyglass.broker import request_log
from spyglass.broker.control import Control
from spyglass.broker.monitor import HealthMonitor
from spyglass.dispatcher.actions import Action, LogEvent, ToClient
from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.policy import Policy
from spyglass.keys.authority import KeyAuthority
from spyglass.keys.port_policy import PLAIN, PortPolicy
from spyglass.protocol import (
    Ack,
    Bye,
    Cancel,
    Direction,
    Heartbeat,
    Message,
    Nack,
    ProtocolError,
    Query,
    Ready,
    Request,
    Result,
    decode,
    encode,
)
from spyglass.runtime import logs
from spyglass.runtime.internal_errors import InternalErrors
from spyglass.transport.credentials import FRONT_DOMAIN, WORKER_DOMAIN
from spyglass.transport.framing import MESSAGES_PER_TURN, Inbox, send
from spyglass.transport.peers import PeerTracker, user_of
from spyglass.transport.socket_options import router
from spyglass.transport.waker import Waker

log = logging.getLogger(__name__)

#: Bytes of what is kept of a request beside its picture.
REQUEST_BYTES = 4096
#: Seconds in which a leaving broker still waits for answers; then it refuses what is open.
LEAVE_WITHIN = 10.0
#: Seconds the last answers have to arrive before the connections are cut: a peer that sees the
#: end of a connection may drop what it has not read from it.
FAREWELL = 0.2

#: Bytes of a worker's public id: enough that no two are the same by chance.
WORKER_ID_BYTES = 8
#: Why the messages of a peer are no longer accepted.
KEY_REVOKED = "its key was revoked"


def _random_ids() -> Iterator[str]:
    """Public ids of workers."""
    while True:
        yield secrets.token_hex(WORKER_ID_BYTES)


class Broker:
    """Carries messages between sockets and the dispatcher. Binds nothing until `open`."""

    def __init__(
        self,
        frontend: str,
        backend: str,
        policy: Policy,
        open_files: int,
        clock: Callable[[], float] = time.monotonic,
        port_policy: PortPolicy = PLAIN,
    ) -> None:
        """Where to bind, how to decide, how many files this process may have open, and which ports
        are encrypted."""
        self.frontend = frontend
        self.backend = backend
        self.dispatcher = Dispatcher(policy, clock(), _random_ids())
        self._may_wait = policy.max_waiting_bytes
        self._clock = clock
        self._stopping = False
        self._open_files = open_files
        self._port_policy = port_policy
        self._authority = port_policy.authority
        self.control = Control(
            self.dispatcher, port_policy, clock, self._carry_out, lambda to: self._back.connect(to)
        )
        # ONE I/O thread: with more, monitor events may overtake each other.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._waker = Waker()
        self._detailed = logs.detailed()
        self._internal_errors = InternalErrors()

    def open(self) -> None:
        """Bind both ports.

        Raises:
            zmq.ZMQError: an address is in use or not ours; which one is in `frontend` or `backend`.
        """
        if self._authority is not None:
            self._authority.open(self._context)
        self._front = router(self._context, self._port_policy.server_keys(FRONT_DOMAIN))
        self._back = router(
            self._context, self._port_policy.server_keys(WORKER_DOMAIN), workers=True
        )
        self._from_clients = Inbox(self._front, 1 + Direction.CLIENT_TO_BROKER.most_frames)
        self._from_workers = Inbox(self._back, 1 + Direction.WORKER_TO_BROKER.most_frames)
        self._front_peers = PeerTracker(self._front)
        self._back_peers = PeerTracker(self._back)
        self._front.bind(self.frontend)
        self.frontend = self._front.last_endpoint.decode()  # type: ignore[union-attr]
        self._back.bind(self.backend)
        self.backend = self._back.last_endpoint.decode()  # type: ignore[union-attr]
        self.control.ends = self.frontend, self.backend
        self._monitor = HealthMonitor(
            self._front_peers,
            self._back_peers,
            self._clock,
            self._kept,
            self._may_wait,
            self._open_files,
        )
        self._poller = zmq.Poller()
        for source in (
            self._front,
            self._back,
            self._front_peers.monitor,
            self._back_peers.monitor,
            self._waker.fileno(),
        ):
            self._poller.register(source, zmq.POLLIN)

    def stop(self) -> None:
        """Ask the loop to leave. Safe from signal handlers and other threads."""
        self._stopping = True
        self._waker.wake()

    def run(self) -> None:
        """Serve until stopped, and from then on until no request is open or 10 s are over."""
        leave_at = float("inf")
        try:
            while True:
                now, due = self._clock(), self.dispatcher.next_deadline()
                if now >= due:
                    self._carry_out(self.dispatcher.tick(now))
                    now, due = self._clock(), self.dispatcher.next_deadline()
                if self._stopping and leave_at == float("inf"):
                    leave_at = now + LEAVE_WITHIN
                    self._carry_out(self.dispatcher.stop(now))
                if now >= leave_at or (self._stopping and not self.dispatcher.open_requests):
                    break
                looks = self._port_policy.next_refresh(), self._monitor.next_look
                self._turn(min(due, leave_at, *looks) - now)
            self._carry_out(self.dispatcher.hand_back())
            farewell = self._clock() + FAREWELL
            while (left := farewell - self._clock()) > 0:
                self._turn(left)
        finally:
            self._close()

    def _turn(self, wait: float) -> None:
        ready = dict(self._poller.poll(max(0, int(1000 * wait) + 1)))
        if self._waker.fileno() in ready:
            self._waker.clear()
        # A peer that dropped may have sent something since its socket was polled: then read both.
        dropped = self._front_peers.monitor in ready or self._back_peers.monitor in ready
        if dropped:
            self._front_peers.read_monitor()
            self._back_peers.read_monitor()
            self._log_events(self._monitor.count_connections())
        if self._authority is not None and self._authority.refresh_if_due(self._clock()):
            self._disconnect_revoked(self._authority)
        front_drained = back_drained = True
        if dropped or self._front in ready:
            front_drained = self._drain(self._from_clients, self._front_peers, self._from_client)
        if dropped or self._back in ready:
            back_drained = self._drain(self._from_workers, self._back_peers, self._from_worker)
        if back_drained:
            for worker in self._back_peers.take_dropped():
                gone = self.dispatcher.worker_gone(worker, "connection closed", self._clock())
                self._carry_out(gone)
        if front_drained:
            for client in self._front_peers.take_dropped():
                self._carry_out(self.dispatcher.client_gone(client, self._clock()))
        now = self._clock()
        if now >= self._monitor.next_look:
            self._log_events(self._monitor.look(now))

    def _log_events(self, texts: list[str]) -> None:
        for text in texts:
            self._carry_out(self.dispatcher.log_event(text, self._clock()))

    def _kept(self) -> int:
        """Bytes that the open requests take."""
        return self.dispatcher.open_bytes + REQUEST_BYTES * self.dispatcher.open_requests

    def _disconnect_revoked(self, authority: KeyAuthority) -> None:
        """End the connections of all whose key is no longer on the list."""
        for worker, user in list(self._back_peers.users.items()):
            if not authority.allows(user, WORKER_DOMAIN):
                self._back_peers.disconnect(worker)
                gone = self.dispatcher.worker_shut_out(worker, KEY_REVOKED, self._clock())
                self._carry_out(gone)
        for client, user in list(self._front_peers.users.items()):
            if not authority.allows(user, FRONT_DOMAIN):
                self._front_peers.disconnect(client)
                self._carry_out(self.dispatcher.client_gone(client, self._clock()))

    def _drain(
        self,
        inbox: Inbox,
        peers: PeerTracker,
        handle: Callable[[bytes, Sequence[zmq.Frame]], list[Action]],
    ) -> bool:
        """Handle the messages that wait on a port, at most those of one turn; whether that was
        all."""
        authority = self._authority if peers.domain else None
        handled = 0
        for frames in inbox.messages():
            handled += 1
            try:
                peer = peers.message_from(frames[0])
                if inbox.overlong:
                    log.warning("cut %s: a message of too many frames", peers.describe(peer))
                    peers.disconnect(peer)
                if authority is not None and not authority.allows(user_of(frames[0]), peers.domain):
                    log.debug("dropped a message from %s: %s", peers.describe(peer), KEY_REVOKED)
                    continue
                self._carry_out(handle(peer, frames[1:]))
            except ProtocolError as error:
                self.dispatcher.bad_frame()
                if self._detailed:
                    place = peers.describe(frames[0].bytes)
                    log.debug("dropped a message from %s: %s", place, error)
            except zmq.ZMQError:
                raise  # our own socket failed, not a message
            except Exception as error:
                self._internal_error("a message could not be handled", error)
        return handled < MESSAGES_PER_TURN and not inbox.overlong

    # --- messages in --------------------------------------------------------------------------

    def _from_worker(self, worker: bytes, frames: Sequence[zmq.Frame]) -> list[Action]:
        message = decode(frames, Direction.WORKER_TO_BROKER)
        now = self._clock()
        if self._detailed or isinstance(message, Nack):
            request_log.reply_came(self._name_of(worker), message)
        match message:
            case Heartbeat():
                return self.dispatcher.worker_heartbeat(worker, now)
            case Result():
                return self.dispatcher.worker_answered(worker, message, now)
            case Ack():
                return self.dispatcher.worker_acked(worker, message.id, now)
            case Nack():
                return self.dispatcher.worker_refused(worker, message, now)
            case Ready():
                return self.dispatcher.worker_ready(worker, message, now)
            case Bye():
                return self.dispatcher.worker_bye(worker, message, now)
        raise AssertionError(f"{message!r} is not valid from a worker")

    def _from_client(self, client: bytes, frames: Sequence[zmq.Frame]) -> list[Action]:
        message = decode(frames, Direction.CLIENT_TO_BROKER)
        if self._detailed:
            request_log.arrived(message)
        match message:
            case Request():
                made = self._front_peers.generation(client)
                return self.dispatcher.request_arrived(client, message, self._clock(), made)
            case Cancel():
                return self.dispatcher.request_cancelled(client, message.id, self._clock())
            case Query():
                user = self._front_peers.users.get(client)
                may = user is None or self._authority is None or self._authority.is_admin(user)
                self._to_client(ToClient(client, self.control.reply(message, may)))
                return []
        raise AssertionError(f"{message!r} is not valid from a client")

    # --- messages out -------------------------------------------------------------------------

    def _carry_out(self, actions: list[Action]) -> None:
        """Send what was decided. A failed send is an event, so it may decide more."""
        for action in actions:
            if isinstance(action, ToClient):
                self._to_client(action)
                if self._detailed or isinstance(action.message, Nack):
                    request_log.answered(action.message)
            elif isinstance(action, LogEvent):
                request_log.event(action)
            elif not self._send(self._back, action.worker, action.message):
                now, peer = self._clock(), action.worker
                lost = self.dispatcher.worker_gone(peer, "unreachable", now, unreachable=True)
                actions.extend(lost)  # this very loop carries them out too
            elif self._detailed:
                request_log.sent(self._name_of(action.worker), action.message)

    def _name_of(self, address: bytes) -> str:
        return self.dispatcher.name_of(address) or self._back_peers.describe(address)

    def _to_client(self, action: ToClient) -> None:
        # A client that cannot be reached at all has dropped; it sends its request again over its
        # next connection.
        for client in (action.client, *action.others):
            if self._send(self._front, client, action.message):
                return

    def _send(self, socket: zmq.Socket[bytes], peer: bytes, message: Message) -> bool:
        """Send a message; whether the peer can be reached."""
        try:
            send(socket, [peer, *encode(message)])
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                if error.errno == zmq.EHOSTUNREACH and socket is self._front:
                    self._front_peers.mark_unreachable(peer)
                return False
            raise
        except ProtocolError as error:
            self._internal_error(f"a {type(message).__name__} could not be sent", error)
        return True

    def _internal_error(self, what: str, error: Exception) -> None:
        self._internal_errors.add(what, error)
        self.dispatcher.message_failed()

    def _close(self) -> None:
        self._front_peers.close()
        self._back_peers.close()
        if self._authority is not None:
            self._authority.close()
        self._context.destroy(linger=200)  # ms for last answers to leave
        self._waker.close()
