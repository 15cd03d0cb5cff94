"""A request that offers another protocol is read as any other, however its bytes arrive.

Each is fed in one piece, byte by byte, and cut in two at every place.
"""

from __future__ import annotations

import asyncio

import pytest
from wire import Talk, converse, talks

HIDDEN = b"DELETE /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
SIZED = b"Content-Length: %d\r\n" % len(HIDDEN)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"5\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\n" % (HIDDEN[:5], len(HIDDEN) - 5, HIDDEN[5:])
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
WITH_BODY = ("POST", "/", HIDDEN)


def head(headers: bytes, line: bytes = b"POST / HTTP/1.1") -> bytes:
    return line + b"\r\nHost: x\r\n" + headers + b"\r\n"


def assert_runs(whole: bytes, *expected: tuple[str, str, bytes | None]) -> None:
    """However the bytes arrive, these requests run and each is answered once."""
    for way, talk in talks(whole):
        assert talk.ran == list(expected), way
        assert talk.answers == [200] * len(expected), way


def assert_refused(whole: bytes, status: int) -> None:
    """However the bytes arrive, no request runs to its end; the one response is a refusal."""
    for way, talk in talks(whole):
        assert talk.answers == [status], way
        assert talk.closed, way
        assert [body for _, _, body in talk.ran] in ([], [None]), way
        assert_nothing_hidden(talk, way)


def assert_nothing_hidden(talk: Talk, way: str) -> None:
    assert not any("hidden" in path for _, path, _ in talk.ran), way


# --- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offer",
    [
        OFFER,
        b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n",
        b"Connection: upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n",
        b"Connection: upgrade\r\nUpgrade:\r\n",
        b"Connection: keep-alive\r\nConnection: UPGRADE\r\nUpgrade: x\r\nUpgrade: y\r\n",
        b"Upgrade: x\r\n",
        b"Connection: upgrade\r\n",
    ],
)
def test_a_body_after_an_upgrade_offer_is_read_whole_and_is_no_request(offer: bytes) -> None:
    assert_runs(head(offer + SIZED) + HIDDEN, WITH_BODY)
    assert_runs(head(CHUNKED + offer) + CHUNKS + b"\r\n", WITH_BODY)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "OPTIONS"])
def test_so_is_the_body_of_any_method(method: str) -> None:
    line = method.encode() + b" / HTTP/1.1"
    assert_runs(head(OFFER + SIZED, line) + HIDDEN, (method, "/", HIDDEN))


def test_so_is_the_body_of_an_older_request() -> None:
    assert_runs(head(OFFER + SIZED, b"POST / HTTP/1.0") + HIDDEN, WITH_BODY)


def test_so_is_a_body_of_line_ends_followed_by_what_looks_like_a_request() -> None:
    body = b"\r\n" * 20 + HIDDEN
    assert_runs(head(OFFER + b"Content-Length: %d\r\n" % len(body)) + body, ("POST", "/", body))


def test_an_offer_or_anything_else_in_trailers_is_dropped() -> None:
    trailers = b"Host: y\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    whole = head(OFFER + CHUNKED) + CHUNKS + trailers + NEXT
    assert_runs(whole, WITH_BODY, ("GET", "/next", b""))


def test_expect_100_continue_is_answered_once() -> None:
    whole = head(OFFER + b"Expect: 100-continue\r\n" + SIZED) + HIDDEN
    for way, talk in talks(whole):
        assert talk.ran == [WITH_BODY], way
        assert talk.answers in ([200], [100, 200]), way


def test_a_body_that_is_refused_before_it_arrives_is_no_request_either() -> None:
    for framed in (SIZED, SIZED + b"Expect: 100-continue\r\n"):
        for way, talk in talks(head(OFFER + framed, b"POST /early HTTP/1.1") + HIDDEN + NEXT):
            assert talk.ran == [("POST", "/early", b""), ("GET", "/next", b"")], way
            assert talk.answers == [413, 200], way


def test_a_body_cut_by_its_sender_never_becomes_a_request() -> None:
    for offer in (OFFER, b""):
        for way, talk in talks(head(offer + SIZED) + HIDDEN[:-1], hang_up=True):
            assert talk.ran == [("POST", "/", None)], way
            assert talk.answers == [], way


# --- what comes after -------------------------------------------------------------------------


def test_requests_after_one_with_an_offer_are_read_as_usual() -> None:
    empty = head(OFFER, b"GET /a HTTP/1.1")
    whole = empty + empty + head(OFFER + SIZED) + HIDDEN + NEXT
    whole += head(OFFER + CHUNKED) + CHUNKS + b"\r\n" + head(SIZED) + HIDDEN + NEXT
    a, following = ("GET", "/a", b""), ("GET", "/next", b"")
    assert_runs(whole, a, a, WITH_BODY, following, WITH_BODY, WITH_BODY, following)


def test_nothing_runs_after_a_request_that_ends_the_connection() -> None:
    for line, headers in (
        (b"GET /a HTTP/1.1", b"Connection: close, upgrade\r\nUpgrade: x\r\n"),
        (b"GET /a HTTP/1.0", b"Connection: upgrade\r\nUpgrade: x\r\n"),
        (b"GET /a HTTP/1.1", b"Connection: close\r\n"),
        (b"GET /a HTTP/1.0", b""),
    ):
        for behind in (HIDDEN, b"hello"):
            for way, talk in talks(head(headers, line) + behind):
                assert talk.ran == [("GET", "/a", b"")], way
                assert talk.answers == [200] and talk.closed, way


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST / HTTP/1.1\r\n" + OFFER + SIZED + b"\r\n",
        head(b"Host: y\r\n" + OFFER + SIZED),
        head(OFFER + SIZED + CHUNKED),
        head(OFFER + SIZED + SIZED),
        head(OFFER + b"Transfer-Encoding: gzip, chunked\r\n"),
        head(OFFER + b"Transfer-Encoding: gzip\r\n"),
        head(OFFER + CHUNKED, b"POST / HTTP/1.0"),
        head(OFFER + CHUNKED) + b"5\nhello\r\n0\r\n\r\n",
        head(OFFER + CHUNKED) + b"zz\r\n",
        head(OFFER + b"Content-Length : 5\r\n"),
    ],
)
def test_an_offer_gets_past_no_check(request_head: bytes) -> None:
    assert_refused(request_head + HIDDEN, 400)
    assert_refused(NEXT.replace(b"Host: x\r\n", b"") + request_head + HIDDEN, 400)


def test_an_offer_does_not_get_past_the_limits_of_a_head_or_of_a_bodys_framing() -> None:
    for whole, status in (
        (head(OFFER + b"X-A: b\r\n" * 3000 + SIZED) + HIDDEN, 431),
        (head(OFFER + CHUNKED) + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n" + HIDDEN, 400),
    ):
        parts = [whole[at : at + 1000] for at in range(0, len(whole), 1000)]
        talk = asyncio.run(converse(parts))
        assert talk.answers == [status] and talk.closed
        assert_nothing_hidden(talk, "in pieces")


@pytest.mark.parametrize("framed", [b"", SIZED, CHUNKED, OFFER + SIZED])
@pytest.mark.parametrize("aim", [b"example.org:80", b"/", b"http://x/", b"*"])
def test_connect_is_refused_and_nothing_after_it_runs(framed: bytes, aim: bytes) -> None:
    assert_refused(head(framed, b"CONNECT " + aim + b" HTTP/1.1") + HIDDEN, 400)


@pytest.mark.parametrize(
    "start",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_the_preface_of_http_2_is_refused_and_nothing_after_it_runs(start: bytes) -> None:
    assert_refused(start + HIDDEN, 400)


@pytest.mark.parametrize("version", [b"2.0", b"0.9"])
def test_an_unsupported_http_version_is_refused(version: bytes) -> None:
    assert_refused(head(SIZED, b"POST / HTTP/" + version) + HIDDEN, 505)


def test_a_request_without_a_version_is_refused() -> None:
    assert_refused(b"GET /\r\n\r\n" + HIDDEN, 505)


@pytest.mark.parametrize(
    "bad",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET http: HTTP/1.1\r\nHost: x\r\n\r\n"],
)
def test_nothing_runs_after_an_error(bad: bytes) -> None:
    assert_refused(bad + HIDDEN, 400)
    for way, talk in talks(NEXT + bad + HIDDEN):
        assert_nothing_hidden(talk, way)
        assert talk.closed and talk.answers in ([], [200], [200, 400]), way


def test_a_request_whose_body_is_damaged_gets_one_answer() -> None:
    for path in (b"/", b"/early"):
        for way, talk in talks(head(CHUNKED, b"POST " + path + b" HTTP/1.1") + b"zz\r\n" + HIDDEN):
            assert len(talk.answers) == 1 and talk.closed, (way, talk.answers)
            assert_nothing_hidden(talk, way)


def test_a_damaged_body_is_never_answered_as_an_earlier_request() -> None:
    for way, talk in talks(NEXT + head(CHUNKED) + b"zz\r\n" + HIDDEN):
        assert talk.answers in ([], [200], [200, 400]), (way, talk.answers)
        assert_nothing_hidden(talk, way)


# --- hanging up -------------------------------------------------------------------------------


def test_a_client_that_closes_its_side_gets_no_response_and_nothing_runs_twice() -> None:
    for offer in (OFFER, b""):
        whole = head(offer + SIZED, b"POST /never HTTP/1.1") + HIDDEN
        for behind in (b"", NEXT, HIDDEN):
            for way, talk in talks(whole + behind, hang_up=True):
                assert talk.ran == [("POST", "/never", None)], way
                assert talk.answers == [], way
