"""Where the admin token comes from, and which ones are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from spyglass.web.http.token import MAX_TOKEN_LENGTH, MIN_TOKEN_LENGTH, BadToken, load_token
from testbed.fleet import Site
from testbed.processes import ROOT, eventually

TOKEN = "a-token-that-nobody-would-guess"
RIGHT: dict[str, Any] = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A valid token file in the keys folder."""
    monkeypatch.setenv("SPYGLASS_KEYS", str(tmp_path))
    monkeypatch.delenv("SPYGLASS_ADMIN_TOKEN", raising=False)
    file = tmp_path / "admin.token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


def test_a_token_comes_from_a_file_the_environment_or_the_keys_folder(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_token("") == TOKEN
    monkeypatch.setenv("SPYGLASS_ADMIN_TOKEN", TOKEN.upper())
    assert load_token("") == TOKEN.upper()
    assert load_token(str(token_file)) == TOKEN
    monkeypatch.delenv("SPYGLASS_ADMIN_TOKEN")
    token_file.unlink()
    assert load_token("") == ""


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_token_file_that_others_may_read_is_refused(token_file: Path, mode: int) -> None:
    token_file.chmod(mode)
    for named in ("", str(token_file)):
        with pytest.raises(BadToken, match="chmod 600"):
            load_token(named)


@pytest.mark.parametrize("length", [MIN_TOKEN_LENGTH, MAX_TOKEN_LENGTH])
def test_a_token_of_an_allowed_length_is_accepted(token_file: Path, length: int) -> None:
    token_file.write_text("x" * length)
    assert load_token(str(token_file)) == "x" * length


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "x" * (MIN_TOKEN_LENGTH - 1),
        "x" * (MAX_TOKEN_LENGTH + 1),
        "two words " * 5,
        "é" * 30,
    ],
)
def test_a_token_of_another_length_or_alphabet_is_refused(token_file: Path, text: str) -> None:
    token_file.write_text(text)
    with pytest.raises(BadToken, match="admin token"):
        load_token(str(token_file))


def test_a_token_file_that_is_missing_or_not_text_is_refused(token_file: Path) -> None:
    with pytest.raises(BadToken, match="No such file"):
        load_token(f"{token_file}.none")
    token_file.write_bytes(b"\xff" * 40)
    with pytest.raises(BadToken, match="not text"):
        load_token(str(token_file))


def test_a_web_that_cannot_keep_its_token_secret_does_not_start(token_file: Path) -> None:
    token_file.chmod(0o644)
    for flags in ([], ["--admin-token-file", str(token_file)], ["--admin-token", TOKEN]):
        ended = subprocess.run(
            [sys.executable, "web.py", "--port", "0", *flags],
            cwd=ROOT, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert ended.returncode == 1
        assert ended.stderr.startswith("web.py: ") and "Traceback" not in ended.stderr
        assert TOKEN not in ended.stderr + ended.stdout


def test_a_real_web_asks_for_its_token(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPYGLASS_KEYS")  # the broker needs none
    site = Site()
    try:
        site.start_broker()
        site.start_worker("attic")
        site.start_web(env={**os.environ, "SPYGLASS_ADMIN_TOKEN_FILE": str(token_file)})
        url = f"{site.url}/v1/workers/{site.worker('attic')['id']}"
        assert site._ask(urllib.request.Request(url, method="DELETE"))[0] == 401
        assert site.names() == ["attic"]
        right = urllib.request.Request(url, method="DELETE", headers=RIGHT)
        status, body = site._ask(right)
        assert (status, list(json.loads(body))) == (200, ["detail"])
        eventually(lambda: site.names() == [], "it is drained")
    finally:
        site.close()
