"""Frames through a pipe that gives them in pieces."""

from __future__ import annotations

import pytest

from spyglass.worker.pipe import Frame, Reassembly

IDS = [bytes([n]) * 16 for n in range(3)]


@pytest.mark.parametrize("piece", [1, 23, 24, 25, 1000])
def test_frames_come_out_whole_however_they_were_cut(piece: int) -> None:
    frames = [Frame(IDS[0], 5, b"x" * 50), Frame(IDS[1], 1, b""), Frame(IDS[2], 9, b"last")]
    data = b"".join(frame.pack() for frame in frames)
    stream = Reassembly()
    found = []
    for at in range(0, len(data), piece):
        found += stream.feed(data[at : at + piece])
    assert found == frames
