"""A classifier without a model: answers at once, and misbehaves on command.

A picture is any text, or a real picture with the text after MARK at its end. The first word is a
command: `sleep:0.5`, `mark:FILE`, `write:FILE`, `eat:BYTES`, `crash`, `exit:3`, `raise`, `hang`,
`bad`; anything else is answered at once. `once:FILE crash` crashes the first time only. The first
label of an answer is the start of the picture's SHA-256, or LABEL after `label:LABEL`, or after
`path` where the process looks for modules.
"""

if __name__ == "__main__":  # before anything else is imported
    import sys

    here = __file__.rpartition("/")[0]  # a package: its modules are found by their full names only
    sys.path[:] = [here.rpartition("/")[0], *(path for path in sys.path if path != here)]
    from spyglass.runtime.import_path import leave_current_folder

    leave_current_folder()

import ctypes
import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = b"\nstand-in: "


@dataclass(frozen=True)
class Prediction:
    index: int
    label: str
    probability: float


class BadImage(Exception):
    code = "bad-image"


class StandIn:
    def __init__(self, model: str, weights: str, device: str) -> None:
        self.model = model
        self.digest = hashlib.sha256(weights.encode()).hexdigest()
        self.unfused = os.environ.get("STAND_IN_UNFUSED", "")

    def prepare(self) -> None:
        if os.environ.get("STAND_IN_REFUSES"):
            raise RuntimeError("the golden picture came back as a toaster")

    def decode(self, images: Sequence[bytes]) -> list[bytes]:
        return list(images)

    def infer(self, images: Sequence[bytes], top_k: int) -> list[list[Prediction] | BadImage]:
        return [self._one(image, top_k) for image in images]

    def _one(self, image: bytes, top_k: int) -> list[Prediction] | BadImage:
        words = image.rpartition(MARK)[2].decode(errors="replace").split(" ")
        command, _, argument = words[0].partition(":")
        if command == "once":
            first_time = not Path(argument).exists()
            Path(argument).touch()
            command, _, argument = words[1].partition(":") if first_time else ("", "", "")
        if command == "sleep":
            time.sleep(float(argument))
        elif command == "mark":  # shows by a file that the work has begun, then takes half a second
            Path(argument).touch()
            time.sleep(0.5)
        elif command == "write":
            Path(argument).write_bytes(image)
        elif command == "eat":
            bytes(int(argument))
        elif command == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif command == "exit":
            os._exit(int(argument))
        elif command == "raise":
            raise RuntimeError("a fault in the model's code")
        elif command == "hang":
            ctypes.PyDLL(None).usleep(60_000_000)  # keeps the interpreter's lock, like bad C
        elif command == "bad":
            return BadImage("This is not a picture. Send a photo.")
        elif command == "path":
            command, argument = "label", os.pathsep.join(sys.path)
        first = argument if command == "label" else hashlib.sha256(image).hexdigest()[:12]
        labels = [first, *(f"label {n}" for n in range(1, top_k))]
        return [Prediction(n, label, 0.5 / (n + 1)) for n, label in enumerate(labels)]


if __name__ == "__main__":
    from spyglass.worker import cli  # not in its children, which import this file too

    sys.exit(cli.main(classifier="testbed.stand_in:StandIn"))
