"""The routes that classify pictures, as coroutines on the server's event loop.

A picture goes from its HTTP request to the AioClient here, and the answer comes back, without a
thread for each request: that takes a fifth of the CPU time that threads took. The routes without
pictures are Bottle's (pages.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

from spyglass.client.aio_client import AioClient
from spyglass.client.session import Answer, RequestFailed
from spyglass.protocol import MAX_TIMEOUT, MAX_TOP_K, NAME, Reason
from spyglass.web import templates
from spyglass.web.http import problems
from spyglass.web.http.problems import Problem
from spyglass.web.http.request import ClientDisconnected, Request
from spyglass.web.http.response import HTML, Response, json_response, problem_headers
from spyglass.web.http.uploads import FORM_OVERHEAD, Upload, from_form, is_form, raw_picture
from spyglass.web.metrics import DISCONNECTED, Metrics

T = TypeVar("T")
Route: TypeAlias = Callable[[Request], Awaitable[Response]]
#: Routes by rule, such as /predictions/<model>, and method.
Routes: TypeAlias = dict[str, dict[str, Route]]

#: Pictures being processed at a time; further ones are refused as busy at once.
MAX_IN_FLIGHT = 200
#: Bytes of uploads being received at a time: bounds the web's memory, however many connections
#: send large pictures slowly.
MAX_ARRIVING = 256 * 1024 * 1024
#: Seconds past a request's deadline until the web stops waiting for the client library.
DEADLINE_GRACE = 0.5
#: Bytes of a form, or of JSON, that are parsed on the event loop; larger ones are parsed in a
#: thread, so that other requests do not wait meanwhile.
MAX_PARSED_INLINE = 256 * 1024


class ClassifyRoutes:
    """Has the pictures of requests classified; the other APIs do it through here, too.

    Args:
        client: sends pictures to a broker.
        max_upload: bytes of the largest picture.
        timeout: seconds a picture may take when the caller names no limit.
        metrics: counts and times the outcomes.
    """

    def __init__(
        self, client: AioClient, max_upload: int, timeout: float, metrics: Metrics
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._max_upload = max_upload
        self._timeout = timeout
        self._in_flight = 0
        self._arriving = 0
        self.routes: Routes = {
            "/": {"POST": self._classify_form},
            "/v1/classify": {"POST": self._classify_api},
        }

    # --- routes -------------------------------------------------------------------------------

    async def _classify_api(self, request: Request) -> Response:
        answer, _ = await self.classify(request)
        timings: dict[str, float] = answer["timings_ms"]
        server_timing = ", ".join(f"{key};dur={ms}" for key, ms in timings.items())
        headers = {"X-Request-Id": answer["request_id"], "Server-Timing": server_timing}
        return json_response(answer, **headers)

    async def _classify_form(self, request: Request) -> Response:
        """The upload page for a browser without JavaScript: with the answer, or what is wrong."""
        try:
            answer, name = await self.classify(request)
        except Problem as problem:
            headers = problem_headers(problem)
            shown = templates.upload_page(self._max_upload, error=problem.document())
            return Response(shown.encode(), problem.kind.status, HTML, headers)
        shown = templates.upload_page(self._max_upload, answer=answer, name=name)
        headers = {"X-Request-Id": answer["request_id"]}
        return Response(shown.encode(), content_type=HTML, headers=headers)

    # --- from request to answer ----------------------------------------------------------------

    async def classify(self, request: Request) -> tuple[dict[str, Any], str]:
        """The answer for the picture in a request, and the picture's file name."""
        with self.failures_counted():
            return await self._classify_upload(request)

    @contextmanager
    def failures_counted(self) -> Iterator[None]:
        """Count a request that fails within this context."""
        try:
            yield
        except Problem as problem:
            self._metrics.failed(problem.code)
            raise
        except ClientDisconnected:
            self._metrics.failed(DISCONNECTED)
            raise

    async def _classify_upload(self, request: Request) -> tuple[dict[str, Any], str]:
        self.refuse_if_full()
        model, top_k, limit = _parameters(request.query, self._timeout)
        upload = await self._upload(request)
        self.refuse_if_full()  # others may have begun while this one was received
        began = time.monotonic()
        self._in_flight += 1
        try:
            future = self._client.submit(upload.picture, model=model, top_k=top_k, timeout=limit)
            answer = await _wait_for(future, limit + DEADLINE_GRACE, request)
        finally:
            self._in_flight -= 1
        self._metrics.answered(answer)
        return _answer_fields(answer, began), upload.name

    async def classify_all(
        self,
        pictures: list[bytes],
        model: str,
        top_k: int,
        timeout: float | None,
        request: Request,
    ) -> list[Answer]:
        """Several pictures, each a request of its own to the broker; one failure fails all."""
        self.refuse_if_full(len(pictures))
        limit = timeout or self._timeout
        self._in_flight += len(pictures)
        submit = partial(self._client.submit, model=model, top_k=top_k, timeout=limit)
        futures: list[asyncio.Future[Answer]] = []
        try:
            futures.extend(map(submit, pictures))
            found = await _wait_for(asyncio.gather(*futures), limit + DEADLINE_GRACE, request)
        except Problem as problem:
            for number, future in enumerate(futures):
                failed = future.done() and not future.cancelled() and future.exception()
                if failed and str(failed) == problem.detail:
                    problem.detail = image_prefix(number, len(futures)) + problem.detail
                    break
            raise
        finally:
            self._in_flight -= len(pictures)
            for future in futures:
                future.cancel()  # those still open: nobody waits for them any more
        for answer in found:
            self._metrics.answered(answer)
        return found

    def refuse_if_full(self, more: int = 1) -> None:
        """Raise a problem if this many pictures more would be too many at a time."""
        if self._in_flight + more > MAX_IN_FLIGHT:
            what = f"{MAX_IN_FLIGHT} pictures are being processed already. Try again shortly."
            raise Problem.of(Reason.BUSY, what)

    async def _upload(self, request: Request) -> Upload:
        kind = request.headers.get(b"content-type", "")
        if not is_form(kind):
            body = await self.body(request, self._max_upload, self._max_upload)
            return raw_picture(body, self._max_upload)
        body = await self.body(request, self._max_upload + FORM_OVERHEAD, self._max_upload)
        if len(body) <= MAX_PARSED_INLINE:
            return from_form(body, kind, self._max_upload)
        return await asyncio.to_thread(from_form, body, kind, self._max_upload)

    async def body(self, request: Request, limit: int, named_limit: int) -> bytes:
        """A request's whole body. One whose announced length is too large is refused unread.

        Args:
            request: the request.
            limit: bytes of the largest body.
            named_limit: bytes that a refusal names as the limit.
        """
        announced = request.headers.get(b"content-length", "0")
        if not announced.isascii() or not announced.isdigit():
            raise problems.malformed("Content-Length is not a number.")
        if int(announced) > limit:
            raise problems.too_large(named_limit)
        parts: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                part, more = await request.next_part()
                parts.append(part)
                size += len(part)
                self._arriving += len(part)
                if size > limit:
                    raise problems.too_large(named_limit)
                if self._arriving > MAX_ARRIVING:
                    raise Problem.of(Reason.BUSY, "Too many uploads at a time. Try again shortly.")
        finally:
            self._arriving -= size
        return b"".join(parts)


def image_prefix(number: int, of: int) -> str:
    """The start of a sentence about one of several images, counted from 0."""
    return f"Image {number + 1} of {of}: " if of > 1 else ""


async def _wait_for(future: asyncio.Future[T], limit: float, request: Request) -> T:
    """The answer, unless `limit` seconds pass or the client disconnects before."""
    watch = asyncio.ensure_future(request.disconnected())
    watch.add_done_callback(lambda _: future.cancel())
    try:
        async with asyncio.timeout(limit):
            return await future
    except RequestFailed as failed:
        raise Problem.of(failed.reason, str(failed), failed.request_id) from None
    except TimeoutError:
        raise Problem.of(Reason.DEADLINE, "No answer came in the time allowed.") from None
    except asyncio.CancelledError:
        if watch.done():
            watch.result()  # raises what went wrong in watching, if anything did
            raise ClientDisconnected from None
        raise
    finally:
        watch.cancel()


def _parameters(query: dict[str, str], default_timeout: float) -> tuple[str, int, float]:
    """model, top_k and seconds from the query string, checked."""
    model = query.get("model", "")
    if model and not NAME.fullmatch(model):
        raise Problem.of(Reason.NO_MODEL, "No model has this name. /v1/status lists the models.")
    top_k = _whole(query.get("top_k", "5"), "top_k", MAX_TOP_K)
    longest = int(1000 * MAX_TIMEOUT)
    milliseconds = _whole(
        query.get("timeout_ms", str(int(1000 * default_timeout))), "timeout_ms", longest
    )
    return model, top_k, milliseconds / 1000


def _whole(text: str, name: str, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= high):
        raise problems.malformed(f"{name} must be a whole number from 1 to {high}.")
    return int(text)


def _answer_fields(answer: Answer, began: float) -> dict[str, Any]:
    """The JSON of an answer; its total time is counted from `began`."""
    return {
        "request_id": answer.request_id,
        "model": answer.model,
        "digest": answer.digest,
        "predictions": answer.predictions,
        "worker": answer.worker,
        "attempts": answer.attempts,
        "timings_ms": {
            "queue": answer.times.queue,
            "decode": answer.times.decode,
            "infer": answer.times.infer,
            "worker": answer.times.worker,
            "broker": answer.times.broker,
            "total": round(1000 * (time.monotonic() - began), 3),
        },
    }
