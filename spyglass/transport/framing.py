"""Whole messages in and out of ZeroMQ sockets, without blocking, and none longer than is legal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import zmq
import zmq.backend

from spyglass.protocol import Direction, Message, Part, ProtocolError, decode

#: Messages read from a socket before other sockets get their turn.
MESSAGES_PER_TURN = 256
#: Frames of a message that is too long that are read and dropped before other sockets get their
#: turn: some 2 us each.
DROPPED_PER_TURN = 10_000

#: As plain integers: combining pyzmq's enum members takes longer than sending a frame.
_DONTWAIT, _MORE, _POLLIN = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE), int(zmq.POLLIN)
#: What `zmq.Socket.send` calls after it has looked at two options that are not used here. Calling
#: it directly takes a third of the time.
_send = zmq.backend.Socket.send


def message_waiting(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message can be read, in a quarter of the time of a receive that finds none."""
    return bool(zmq.zmq_poll([(socket, _POLLIN)], 0))


class Inbox:
    """The messages that can be read from a socket.

    libzmq delivers a message when its last frame has come, and no other peer's message before the
    last frame of this one is read. So when a message has more frames than are legal, the rest is
    read too, but dropped, and only some frames at a time.

    Attributes:
        overlong: the rest of such a message is still to be read.
    """

    def __init__(self, socket: zmq.Socket[bytes], most_frames: int) -> None:
        self.overlong = False
        self._socket = socket
        self._most_frames = most_frames

    def messages(self) -> Iterator[list[zmq.Frame]]:
        """The messages that have come, without blocking, at most MESSAGES_PER_TURN. An overlong one
        is cut to what is legal and one frame more; `overlong` is set while it is handled."""
        for number in range(MESSAGES_PER_TURN):
            if self.overlong and not self._skip_rest():
                return
            # Asking first is cheaper where few messages have come: an attempt to read that finds
            # none is slow. Where many have, asking each time is dearer.
            if number < 2 and not message_waiting(self._socket):
                return
            try:
                frames = self._receive()
            except zmq.Again:
                return
            yield frames

    def _receive(self) -> list[zmq.Frame]:
        """The frames of the next message, not copied. `recv_multipart` asks the socket after each
        frame whether more follow, and takes more than twice as long.

        Raises:
            zmq.Again: there is none.
        """
        frame = self._socket.recv(_DONTWAIT, False)
        frames = [frame]
        while frame.more:
            if len(frames) > self._most_frames:
                self.overlong = True
                break
            frame = self._socket.recv(_DONTWAIT, False)
            frames.append(frame)
        return frames

    def _skip_rest(self) -> bool:
        """Read on in a message that is too long; return whether its end was reached."""
        for _ in range(DROPPED_PER_TURN):
            if not self._socket.recv(_DONTWAIT, False).more:
                self.overlong = False
                return True
        return False


def incoming(inbox: Inbox, direction: Direction) -> Iterator[Message | ProtocolError]:
    """The messages that have come to a DEALER, without blocking; an error in place of each that
    is not valid."""
    for frames in inbox.messages():
        try:
            yield decode(frames, direction)
        except ProtocolError as error:
            yield error


def send(socket: zmq.Socket[bytes], frames: Sequence[Part]) -> None:
    """Send a message without waiting, in a third of the time of `send_multipart`. Frames that were
    received are passed on without a copy. All else is copied: that costs less than waking pyzmq's
    thread that releases buffers which were not copied.

    Raises:
        zmq.ZMQError: the peer has left, or its queue is full; nothing was sent.
    """
    last = len(frames) - 1
    for number, frame in enumerate(frames):
        flags = _DONTWAIT if number == last else _MORE
        _send(socket, frame, flags, type(frame) is not zmq.Frame)
