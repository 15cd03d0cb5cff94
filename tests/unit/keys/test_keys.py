"""The folder of keys, its list of allowed keys, and the command line for both."""

from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path

import pytest

from spyglass.keys import cli
from spyglass.keys.keyring import ALLOWED, SECRET, SETTLED, TOKEN, Allowed, BadKeys, Keyring, Role
from spyglass.runtime.settings import EXIT_FAILED, EXIT_OK
from spyglass.transport.addresses import AddressError, address_for_peers, beyond_loopback
from spyglass.transport.credentials import ClientKeys, address_with_keys, split_address
from testbed.processes import ROOT


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring.create(tmp_path / "keys")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = cli.main(argv)
    output = capsys.readouterr()
    return code, output.out, output.err


# --- files ------------------------------------------------------------------------------------


def test_all_files_are_closed_to_other_users_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keyring = Keyring.create(tmp_path / "deep" / "keys")
        keyring.issue(Role.WORKER)
    finally:
        os.umask(before)
    assert mode(keyring.folder) == 0o700
    assert {path.name for path in keyring.folder.iterdir()} == {SECRET, TOKEN, ALLOWED}
    assert {mode(path) for path in keyring.folder.iterdir()} == {0o600}


@pytest.mark.parametrize("name", [SECRET, TOKEN, ALLOWED])
@pytest.mark.parametrize("open_to", [0o640, 0o604, 0o620])
def test_files_open_to_others_are_refused_and_closed_ones_are_not(
    keyring: Keyring, name: str, open_to: int
) -> None:
    (keyring.folder / name).chmod(open_to)
    with pytest.raises(BadKeys, match=f"Close it: chmod 600 .*{name}"):
        Keyring.open(keyring.folder)
    (keyring.folder / name).chmod(0o400)
    assert Keyring.open(keyring.folder).public == keyring.public


def test_a_folder_that_others_may_write_in_is_refused_and_one_they_may_list_is_not(
    keyring: Keyring,
) -> None:
    keyring.folder.chmod(0o770)
    with pytest.raises(BadKeys, match="chmod 700"):
        Keyring.open(keyring.folder)
    keyring.folder.chmod(0o755)
    Keyring.open(keyring.folder)


def test_missing_keys_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match=r"python keys.py init"):
        Keyring.open(tmp_path)


def test_a_damaged_key_is_reported(keyring: Keyring) -> None:
    (keyring.folder / SECRET).write_text("not a key\n")
    with pytest.raises(BadKeys, match="damaged"):
        Keyring.open(keyring.folder)


# --- the list ---------------------------------------------------------------------------------


def test_the_list_has_a_key_as_soon_as_it_is_made_and_until_it_is_revoked(
    keyring: Keyring,
) -> None:
    allowed = keyring.allowed()
    name, client_keys = keyring.issue(Role.WORKER, "kitchen")
    public = client_keys.public.decode()
    assert allowed.find(public) is None
    assert allowed.refresh() and not allowed.refresh()
    entry = allowed.find(public)
    assert entry is not None and (entry.role, entry.name) == (Role.WORKER, name)
    keyring.revoke("kitchen")
    assert allowed.refresh()
    assert allowed.find(public) is None


@pytest.mark.parametrize("harm", ["gone", "open", "folder"])
def test_a_list_that_cannot_be_trusted_allows_no_key(keyring: Keyring, harm: str) -> None:
    _, client_keys = keyring.issue(Role.WORKER)
    allowed = keyring.allowed()
    path = keyring.folder / ALLOWED
    if harm == "open":
        path.chmod(0o622)
    else:
        path.unlink()
    if harm == "folder":
        path.mkdir()
    assert allowed.refresh()
    assert allowed.find(client_keys.public.decode()) is None


def test_a_key_without_a_name_is_not_named_like_a_worker_of_make_run(keyring: Keyring) -> None:
    config = (ROOT / "spyglass" / "local" / "supervisord.conf").read_text()
    (started,) = re.findall(r'" worker --name (\S+)-%', config)
    names = [keyring.issue(Role.WORKER)[0] for _ in range(2)]
    assert names == ["machine-1", "machine-2"]
    assert not any(name.startswith(f"{started}-") for name in names)


def test_a_damaged_line_is_ignored_and_the_others_stay(keyring: Keyring) -> None:
    _, client_keys = keyring.issue(Role.WORKER)
    path = keyring.folder / ALLOWED
    path.write_bytes(b"king arthur key\n\xff\n\n" + path.read_bytes() + b"worker half")
    assert [entry.name for entry in keyring.allowed().entries()] == ["machine-1"]
    assert keyring.allowed().find(client_keys.public.decode()) is not None


def test_a_list_edited_in_place_is_read_once_it_is_left_alone(keyring: Keyring) -> None:
    for name in ("kitchen", "attic"):
        keyring.issue(Role.WORKER, name)
    path, now = keyring.folder / ALLOWED, [0.0]
    allowed = Allowed(path, clock=lambda: now[0])

    def names() -> list[str]:
        allowed.refresh()
        return [entry.name for entry in allowed.entries()]

    _kitchen, attic = path.read_text().splitlines(keepends=True)
    path.write_text("")
    assert names() == ["kitchen", "attic"]
    now[0] = SETTLED - 0.01
    assert names() == ["kitchen", "attic"]
    path.write_text(attic)  # the editor goes on
    assert names() == ["kitchen", "attic"]
    now[0] += SETTLED - 0.01
    assert names() == ["kitchen", "attic"]
    now[0] += 0.02
    assert names() == ["attic"]
    keyring.revoke("attic")  # replaces it
    assert names() == []


def test_a_key_that_was_handed_out_survives_a_power_cut(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    keyring.issue(Role.WORKER)
    path = keyring.folder / ALLOWED
    assert synced == [path.stat().st_ino, keyring.folder.stat().st_ino]


def test_of_keys_made_at_the_same_time_none_is_lost(keyring: Keyring) -> None:
    makers = [
        threading.Thread(target=lambda: [keyring.issue(Role.WORKER) for _ in range(5)])
        for _ in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    names = [entry.name for entry in keyring.allowed().entries()]
    assert sorted(names) == sorted(f"machine-{n}" for n in range(1, 41))


def test_a_name_is_given_once(keyring: Keyring) -> None:
    keyring.issue(Role.WORKER, "kitchen")
    with pytest.raises(BadKeys, match=r"python keys\.py revoke kitchen"):
        keyring.issue(Role.FRONT, "kitchen")
    with pytest.raises(BadKeys, match="not a name"):
        keyring.issue(Role.FRONT, "two words")


# --- addresses --------------------------------------------------------------------------------


def test_an_address_with_a_secret_gives_back_both_parts(keyring: Keyring) -> None:
    _, client_keys = keyring.issue(Role.WORKER)
    place, read = split_address(f"tcp://10.0.0.5:5556#{client_keys.text()}")
    assert place == "tcp://10.0.0.5:5556"
    assert read == client_keys
    assert set(client_keys.text()) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )
    assert split_address("tcp://10.0.0.5:5556") == ("tcp://10.0.0.5:5556", None)
    assert split_address("ipc:///tmp/a#b") == ("ipc:///tmp/a#b", None)


@pytest.mark.parametrize("harm", [lambda t: t[:-1], lambda t: t + "A", lambda t: "é" + t[1:]])
def test_a_damaged_secret_is_refused_without_being_shown(keyring: Keyring, harm: object) -> None:
    _, client_keys = keyring.issue(Role.WORKER)
    text = harm(client_keys.text())  # type: ignore[operator]
    with pytest.raises(AddressError, match=r"python keys.py join") as error:
        address_with_keys(f"tcp://10.0.0.5:5556#{text}")
    assert text[:20] not in str(error.value)
    with pytest.raises(AddressError) as error:
        address_with_keys(f"tcp://10.0.0.5:port#{client_keys.text()}")
    assert "#" not in str(error.value)


def test_keys_never_show_themselves(keyring: Keyring) -> None:
    _, client_keys = keyring.issue(Role.WORKER)
    assert client_keys.secret.decode() not in f"{client_keys!r} {client_keys}"
    assert isinstance(client_keys, ClientKeys)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:5556",
        "tcp://127.9.9.9:*",
        "tcp://localhost:5556",
        "tcp://[::1]:5556",
        "ipc:///tmp/x",
        "inproc://x",
    ],
)
def test_loopback_is_this_machine_only(address: str) -> None:
    assert not beyond_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://0.0.0.0:5556",
        "tcp://*:5556",
        "tcp://[::]:5556",
        "tcp://128.0.0.1:1",
        "tcp://eth0:1",
        "tcp://10.0.0.5:5556",
        "tcp://localhost.example:1",
    ],
)
def test_everything_else_may_be_reached_by_others(address: str) -> None:
    assert beyond_loopback(address)


def test_a_wildcard_address_is_replaced_by_the_machines_name() -> None:
    assert address_for_peers("tcp://*:5556", "harbour") == "tcp://harbour:5556"
    assert address_for_peers("tcp://10.0.0.5:5556", "harbour") == "tcp://10.0.0.5:5556"


# --- the command line -------------------------------------------------------------------------


def test_the_command_to_run_is_alone_on_standard_output_and_its_key_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--keys", str(tmp_path / "keys"))
    assert run(capsys, "init", *where)[0] == EXIT_OK
    at = ("--address", "tcp://10.0.0.5:5556")
    code, line, _ = run(capsys, "join", "--name", "kitchen", *at, *where)
    assert code == EXIT_OK and line.count("\n") == 1
    program, place = line.rsplit(" ", 1)
    assert program == "python worker.py"
    address, client_keys = split_address(place.strip().strip("'"))
    keyring = Keyring.open(tmp_path / "keys")
    assert address == at[1]
    assert client_keys is not None and client_keys.broker == keyring.public
    entry = keyring.allowed().find(client_keys.public.decode())
    assert entry is not None and entry.name == "kitchen"


def test_list_and_revoke_go_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--keys", str(tmp_path / "keys"))
    run(capsys, "init", *where)
    for command in (("join",), ("front",), ("front", "--admin", "--name", "office")):
        assert run(capsys, *command, *where)[0] == EXIT_OK
    listed = run(capsys, "list", *where)[1].split()
    assert listed == ["worker", "machine-1", "front", "front-1", "admin", "office"]
    assert run(capsys, "revoke", "office", *where)[0] == EXIT_OK
    assert "office" not in run(capsys, "list", *where)[1]
    code, _, why = run(capsys, "revoke", "office", *where)
    assert code == EXIT_FAILED and "python keys.py list" in why


def test_revoke_removes_all_keys_of_a_name_and_says_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--keys", str(tmp_path / "keys"))
    run(capsys, "init", *where)
    for name in ("kitchen", "pantry", "attic"):
        run(capsys, "join", "--name", name, *where)
    path = tmp_path / "keys" / ALLOWED
    path.write_text(path.read_text().replace("pantry", "kitchen"))  # as if merged by hand
    assert "2 keys" in run(capsys, "revoke", "kitchen", *where)[1]
    assert run(capsys, "list", *where)[1].split() == ["worker", "attic"]
    assert "1 key:" in run(capsys, "revoke", "attic", *where)[1]


def test_existing_keys_are_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--keys", str(tmp_path / "keys"))
    run(capsys, "init", *where)
    before = (tmp_path / "keys" / SECRET).read_bytes()
    code, _, why = run(capsys, "init", *where)
    assert code == EXIT_FAILED and "stay as they are" in why
    assert (tmp_path / "keys" / SECRET).read_bytes() == before


def test_commands_without_keys_say_how_to_make_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["join"], ["front"], ["list"], ["revoke", "kitchen"]):
        code, _, why = run(capsys, *command, "--keys", str(tmp_path))
        assert code == EXIT_FAILED and "python keys.py init" in why
