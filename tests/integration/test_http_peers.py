"""The web behind a real nginx, before Java's own client, and among requests hidden in others."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.fleet import CAT, Site
from testbed.processes import PATIENCE, ROOT, Processes, eventually, free_port

OFFER = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
#: So much a proxy passes on in several pieces, and a parser skips it between two requests.
LINE_ENDS = b"\r\n" * 120_000
LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
JAVA = ROOT / "tests" / "support" / "JavaPost.java"
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 50m;
    location / {{
      limit_except GET POST {{ deny all; }}
      proxy_pass http://127.0.0.1:{web};
      proxy_http_version 1.1;
      proxy_request_buffering {buffering};
      proxy_set_header Host localhost;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
    }}
  }}
}}
"""


@pytest.fixture
def staffed(site: Site) -> Site:
    """A web with one worker."""
    site.start_worker("attic")
    return site


def remove(site: Site, headers: bytes = b"") -> bytes:
    """The request that ends the worker; sent directly, it may."""
    path = f"/v1/workers/{site.worker('attic')['id']}?now=1".encode()
    return b"DELETE %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path, headers)


def ask(port: int, *parts: bytes) -> list[int]:
    """Send these parts and a last request; the status of each answer, but for going on (100)."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):
            for part in (*parts, LAST):
                connection.sendall(part)
            while data := connection.recv(65536):
                heard += data
    found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", heard)]
    return [status for status in found if status != 100]


def post(body: bytes, kind: bytes = b"image/jpeg", headers: bytes = OFFER) -> bytes:
    return (
        b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.9\r\n"
        b"Content-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (kind, len(body), headers, body)
    )


def form(picture: bytes) -> bytes:
    """A picture as a browser's form sends it."""
    about = b'Content-Disposition: form-data; name="image"; filename="a.jpg"'
    body = b"--x\r\n%b\r\nContent-Type: image/jpeg\r\n\r\n%b\r\n--x--\r\n" % (about, picture)
    return post(body, b"multipart/form-data; boundary=x")


def segmented(whole: bytes, at: bytes) -> list[list[bytes]]:
    """In one piece; head and body apart; and with what starts with these bytes apart."""
    head, hidden = whole.index(b"\r\n\r\n") + 4, whole.rindex(at)
    return [[whole], [whole[:head], whole[head:]], [whole[:hidden], whole[hidden:]]]


def assert_kept(site: Site) -> None:
    """No action came through, and the worker is there."""
    assert site.names() == ["attic"]
    assert b'method="DELETE"' not in site.get("/metrics")[1]


def test_a_picture_is_recognised_and_a_hidden_request_is_not_run(staffed: Site) -> None:
    expecting = OFFER + b"Expect: 100-continue\r\n"
    for picture in (post(CAT), post(CAT, headers=expecting), form(CAT)):
        for parts in segmented(picture, CAT):
            assert ask(staffed.port, *parts) == [200, 200]
    hidden = remove(staffed)
    for whole in (post(hidden), post(LINE_ENDS + hidden), post(hidden, headers=expecting)):
        for parts in segmented(whole, hidden):
            assert ask(staffed.port, *parts) == [415, 200]
    assert_kept(staffed)
    assert ask(staffed.port, remove(staffed, b"X-Forwarded-For: 203.0.113.9\r\n")) == [403, 200]
    assert ask(staffed.port, hidden) == [200, 200], "it was a request that runs where it may"


# --- nginx ------------------------------------------------------------------------------------


@pytest.fixture(params=["on", "off"])
def nginx(staffed: Site, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of an nginx before the web, which lets only GET and POST pass, and offers of
    websockets; with its buffering of requests on and off."""
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed")
    port = free_port()
    settings = {"folder": tmp_path, "port": port, "web": staffed.port, "buffering": request.param}
    (tmp_path / "nginx.conf").write_text(NGINX.format(**settings))
    command = ["nginx", "-p", str(tmp_path), "-c", "nginx.conf", "-e", str(tmp_path / "error.log")]
    with Processes(grace=PATIENCE) as processes:
        processes.start_command(*command)
        eventually(lambda: up(port), "nginx is up")
        yield port


def up(port: int) -> bool:
    try:
        return ask(port) == [200]
    except OSError:
        return False


def test_nothing_hidden_passes_nginx_and_pictures_do(staffed: Site, nginx: int) -> None:
    assert ask(nginx, post(CAT)) == [200, 200]
    assert ask(nginx, form(CAT)) == [200, 200]
    hidden = remove(staffed)
    for whole in (post(hidden), post(LINE_ENDS + hidden)):
        for parts in segmented(whole, hidden):
            assert ask(nginx, *parts) == [415, 200]
    assert ask(nginx, hidden) == [403, 200]
    assert_kept(staffed)


# --- Java -------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("javac"), reason="no JDK is installed (javac)")
def test_javas_own_client_gets_its_pictures_recognised(staffed: Site, tmp_path: Path) -> None:
    """Sized and chunked, with and without asking first whether to go on."""
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(CAT)
    command = ["java", str(JAVA), f"{staffed.url}/v1/classify", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == 4 and all(answer.startswith("200 ") for answer in answers), answers
