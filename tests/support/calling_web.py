"""The web application called directly: no port, no broker, a stand-in for the client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from PIL import Image

from spyglass.client.session import NotAllowed
from spyglass.client.thread_client import Answer
from spyglass.protocol import Op, Times
from spyglass.web.app import make_app

LIMIT = 20_000


def jpeg(size: int = 0) -> bytes:
    """A small picture, padded to `size` bytes where that is more."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(file, "JPEG")
    return file.getvalue().ljust(size, b"\0")


TIMES = Times(decode=2.1, infer=11.2, worker=13.9, queue=0.4, broker=14.5)


class FakeFleet:
    """A client that answers at once, or fails as it is set to."""

    alive = connected = True
    address = "tcp://127.0.0.1:5555"

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.futures: list[asyncio.Future[Answer]] = []
        self.asked: list[tuple[bytes, str, int, float]] = []
        self.controls: list[tuple[Op, str]] = []
        self.workers = 1
        self.hangs = False
        self.rows = [{"label": "<b>cat</b>", "index": 285, "probability": 0.75}]
        self.more_models: list[str] = []

    def submit(
        self, picture: bytes, *, model: str, top_k: int, timeout: float
    ) -> asyncio.Future[Answer]:
        self.asked.append((picture, model, top_k, timeout))
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        if self.hangs:
            return future
        if self.failure:
            future.set_exception(self.failure)
        else:
            future.set_result(
                Answer("ab" * 16, "squeezenet1_1", "cd" * 32, self.rows, "attic", 1, TIMES, 14.9)
            )
        return future

    async def fleet(self) -> dict[str, Any]:
        return self.status()

    def status(self, timeout: float = 1.0) -> dict[str, Any]:
        if self.failure:
            raise self.failure
        default = {"name": "squeezenet1_1", "workers": self.workers, "default": True}
        others = [{"name": name, "workers": 1, "default": False} for name in self.more_models]
        return {
            "models": [
                {**model, "digest": "cd" * 32, "waiting": 3} for model in (default, *others)
            ],
            "workers": [
                {"id": state, "model": "squeezenet1_1", "state": state, "processes": 1, "pid": 7}
                | {"uptime_s": 60.0}
                for state in ("busy", "draining")
            ],
            "queue": {"max_waiting": 100, "waiting": 3},
        }

    def control(self, op: Op, target: str) -> tuple[bool, str]:
        self.controls.append((op, target))
        if target == "forbidden":
            raise NotAllowed("This key may only look.")
        return target != "unknown", "done"


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """Calls the app as a server would."""

    peer, version = "127.0.0.1", "1.1"

    def __init__(self, fleet: FakeFleet | None = None) -> None:
        self.fleet = fleet or FakeFleet()
        client: Any = self.fleet
        self.app = make_app(client, max_upload=LIMIT, timeout=5.0)

    def __call__(
        self, method: str, path: str, body: bytes = b"", hangs_up: bool = False, **headers: str
    ) -> Response:
        """One request; header names with _ for -. One that hangs up does so after its body."""
        return asyncio.run(self.ask(method, path, body, hangs_up, **headers))

    async def ask(
        self, method: str, path: str, body: bytes = b"", hangs_up: bool = False, **headers: str
    ) -> Response:
        headers = {"host": "localhost", "content-length": str(len(body)), **headers}
        raw = [(k.lower().replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "path": unquote(path), "http_version": self.version,
            "query_string": query.encode(), "server": ("here", 80), "client": (self.peer, 1),
            "headers": raw,
        }  # fmt: skip
        half = len(body) // 2
        parts = [(body[:half], True), (body[half:], False)]
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if parts:
                part, more = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": more}
            if not hangs_up:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        if not sent:
            return Response(0, {}, b"")
        pairs = [(name.decode().title(), value.decode()) for name, value in sent[0]["headers"]]
        return Response(sent[0]["status"], dict(pairs), b"".join(m["body"] for m in sent[1:]))


def form(picture: bytes, field: str = "image", name: str = "cat.jpg", times: int = 1) -> bytes:
    part = (
        b'--xx\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%s\r\n"
    ) % (field.encode(), name.encode(), picture)
    return part * times + b"--xx--\r\n"


# Any: a call takes them beside its other keywords, which are not strings.
TYPED: dict[str, Any] = {"content_type": "application/json"}
FORM: dict[str, Any] = {"content_type": "multipart/form-data; boundary=xx"}


def asking(*images: bytes, outputs: Any = None, parameters: Any = None, **other: Any) -> bytes:
    """A request in JSON; other keys replace the input's."""
    data = [base64.b64encode(image).decode() for image in images]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": data, **other}
    body: dict[str, Any] = {"inputs": [tensor]}
    if outputs is not None:
        body["outputs"] = outputs
    if parameters is not None:
        body["parameters"] = parameters
    return json.dumps(body).encode()
