"""Messages on ZeroMQ sockets: read frame by frame, none longer than is legal, and sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import zmq
import zmq.backend

from spyglass.protocol import Direction, Message, Part, ProtocolError, decode

#: Messages read from a socket before others get their turn.
MESSAGES_PER_TURN = 256
#: Frames of a message that is too long that are read, and dropped, before others get their turn: at
#: some 2 us each.
DROPPED_PER_TURN = 10_000

#: As whole numbers: combining pyzmq's enum members takes longer than sending a frame.
_DONTWAIT, _MORE, _POLLIN = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE), int(zmq.POLLIN)
#: What `zmq.Socket.send` calls after looking at two options that nobody here uses: a third of it.
_send = zmq.backend.Socket.send


def waits(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message waits, at a quarter of what a receive that finds none takes."""
    return bool(zmq.zmq_poll([(socket, _POLLIN)], 0))


class Inbox:
    """What waits on a socket, a message at a time.

    libzmq holds a message back until its last frame has come, and then no other peer's comes before
    the last frame of this one is read. So of one that has more frames than are legal the rest is
    read too, but not kept, and only so many at a time.

    Attributes:
        overlong: amid the rest of such a message.
    """

    def __init__(self, socket: zmq.Socket[bytes], most_frames: int) -> None:
        self.overlong = False
        self._socket = socket
        self._most_frames = most_frames

    def messages(self) -> Iterator[list[zmq.Frame]]:
        """The messages that wait, without blocking, at most so many as fill a turn. Of an overlong
        one comes what is legal, and a frame more; `overlong` is set while it is dealt with."""
        for number in range(MESSAGES_PER_TURN):
            if self.overlong and not self._dropped():
                return
            # Where one came alone, asking for the next is cheaper than an attempt that finds none;
            # where many came, it is dearer.
            if number < 2 and not waits(self._socket):
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
            zmq.Again: none waits.
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

    def _dropped(self) -> bool:
        """Read on in a message that is too long; whether its end came."""
        for _ in range(DROPPED_PER_TURN):
            if not self._socket.recv(_DONTWAIT, False).more:
                self.overlong = False
                return True
        return False


def incoming(inbox: Inbox, direction: Direction) -> Iterator[Message | ProtocolError]:
    """What waits on a DEALER, without blocking; the error in place of what is no message."""
    for frames in inbox.messages():
        try:
            yield decode(frames, direction)
        except ProtocolError as error:
            yield error


def send(socket: zmq.Socket[bytes], frames: Sequence[Part]) -> None:
    """Send a message without waiting, at a third of what `send_multipart` takes. Frames, as they
    were received, are passed on without a copy; all else is copied, which costs less than waking
    pyzmq's thread that releases what was not.

    Raises:
        zmq.ZMQError: the peer is gone, or takes no more; nothing was sent.
    """
    last = len(frames) - 1
    for number, frame in enumerate(frames):
        flags = _DONTWAIT if number == last else _MORE
        _send(socket, frame, flags, type(frame) is not zmq.Frame)
