"""The pipe between a worker and its child processes: raw bytes, no pickle.

A frame is `[length: uint32 BE][id: 16 bytes][number: uint32 BE][payload]`. Down: a picture, an
id for its answer and the number of predictions wanted, with the highest bit set on the last picture
of a batch. Up: predictions as JSON after the microseconds that the picture's decoding and the model
took (two uint32 BE), or why there are none.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass

from spyglass.protocol import ID_BYTES

_HEAD = struct.Struct(f"!I{ID_BYTES}sI")
#: Before the predictions: microseconds of decoding, and of the model.
TOOK = struct.Struct("!II")
#: The id of frames that answer no request: the child's greeting, or why it cannot serve.
NO_ID = bytes(ID_BYTES)
#: The number of an outcome that is a refusal; of predictions it is 0.
REFUSED = 1
#: Set in the number of a batch's last picture.
LAST_OF_BATCH = 0x80000000
#: Bytes asked of the kernel at a time.
_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One message on the pipe."""

    id: bytes
    number: int
    payload: bytes

    def pack(self) -> bytes:
        """Its bytes on the pipe."""
        return _HEAD.pack(len(self.payload), self.id, self.number) + self.payload

    def json(self) -> dict[str, str]:
        """The payload of a greeting or refusal."""
        value: dict[str, str] = json.loads(self.payload)
        return value


class Reassembly:
    """Turns the bytes of a stream back into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take in what arrived; all frames that are now complete."""
        source: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        frames, at = [], 0
        with memoryview(source) as view:
            while len(view) - at >= _HEAD.size:
                length, frame_id, number = _HEAD.unpack_from(view, at)
                end = at + _HEAD.size + length
                if len(view) < end:
                    break
                frames.append(Frame(frame_id, number, bytes(view[at + _HEAD.size : end])))
                at = end
        if source is self._buffer:
            del self._buffer[:at]
        else:
            self._buffer += source[at:]
        return frames


def receive(connection: socket.socket) -> bytes:
    """The bytes that have arrived, at least one if the socket blocks; b"" when the other end is
    closed or dead."""
    try:
        return connection.recv(_CHUNK)
    except ConnectionError:
        return b""
