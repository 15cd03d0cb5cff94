"""The web's command line."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

from spyglass.client.aio_client import AioClient
from spyglass.protocol import DEFAULT_TIMEOUT, MAX_TIMEOUT
from spyglass.runtime import logs
from spyglass.runtime.commands import command, prog
from spyglass.runtime.open_files import TooFewOpenFiles, raise_open_files
from spyglass.runtime.settings import (
    EXIT_FAILED,
    EXIT_OK,
    FRONTEND,
    HOST,
    PORT,
    BadSetting,
    Parser,
    seconds,
    whole,
)
from spyglass.transport.credentials import address_with_keys
from spyglass.web.app import MAX_UPLOAD, READ_FACTOR, make_app
from spyglass.web.http.guard import Guard, hostname, is_loopback
from spyglass.web.http.server import Server
from spyglass.web.http.token import BadToken, load_token

log = logging.getLogger(__name__)


def parser() -> Parser:
    """The command line."""
    me, keys = command("web"), prog("keys")
    p = Parser(
        prog("web"),
        "Serves the upload page, the status page and the HTTP API.",
        f"  {me}\n"
        f"  {me} --port 9000 --max-upload 20000000\n"
        f"  {me} --host 0.0.0.0 --allowed-host spyglass.example.org\n"
        f"  SPYGLASS_BROKER='tcp://10.0.0.5:5555#SECRET' {me}   # see {keys} front",
    )
    p.setting(
        "--broker",
        None,
        f"a broker's clients' port; may be repeated; keep one with a secret in SPYGLASS_BROKER,"
        f" where other users of this machine cannot see it ({FRONTEND})",
        address_with_keys,
        action="append",
    )
    p.setting("--host", HOST, "address to listen on")
    p.setting("--port", PORT, "port to listen on, 0 for any", whole(0, 65535))
    p.setting(
        "--allowed-host",
        None,
        "another name this server is reached by; may be repeated",
        host_name,
        action="append",
    )
    p.setting("--admin-token-file", "", f"file of the token that actions need; see {keys}")
    p.setting("--max-upload", MAX_UPLOAD, "bytes of the largest picture", whole(1, 60_000_000))
    p.setting("--timeout", DEFAULT_TIMEOUT, "seconds a picture may take", seconds(0.1, MAX_TIMEOUT))
    logs.add_settings(p)
    return p


def host_name(text: str) -> str:
    """A host's name, with or without a port, for `type=`."""
    if not hostname(text):
        raise BadSetting(f"{text!r} is not a name such as spyglass.example.org")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    p = parser()
    options = p.parse_args(argv)
    logs.configure("web", options)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        raise_open_files()
    except TooFewOpenFiles as error:
        print(f"{p.prog}: {error}", file=sys.stderr)
        return EXIT_FAILED
    try:
        token = load_token(options.admin_token_file)
    except BadToken as error:
        print(f"{p.prog}: {error}", file=sys.stderr)
        return EXIT_FAILED
    guard = Guard(options.host, options.allowed_host or [], token)
    client = AioClient(options.broker or [FRONTEND])
    app = make_app(client, options.max_upload, options.timeout, guard)
    try:
        server = Server(
            app, options.host, options.port, READ_FACTOR * options.max_upload, client.open
        )
    except (OSError, ValueError) as error:
        print(
            f"{p.prog}: cannot listen on {options.host}:{options.port}: {error}.\n"
            "Choose another port with --port (SPYGLASS_PORT).",
            file=sys.stderr,
        )
        return EXIT_FAILED

    for number in (signal.SIGTERM, signal.SIGINT):
        # For signals before the server sets its own handlers, and after it has removed them.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    log.info("open http://%s:%s/", options.host, server.port)
    if not is_loopback(server.host):
        logs.always(log, "other machines may reach port %d at %s", server.port, server.host)
    server.run()
    client.close()
    return EXIT_OK
