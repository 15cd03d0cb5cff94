"""The documents say what the programs do."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES

from spyglass import __version__, doctor
from spyglass.broker import cli as broker_cli
from spyglass.cli import COMMANDS
from spyglass.client import cli as client_cli
from spyglass.protocol import (
    Ack,
    Body,
    Bye,
    Cancel,
    ChildState,
    Direction,
    Heartbeat,
    Message,
    Nack,
    Op,
    Query,
    Ready,
    Reason,
    Reply,
    Request,
    Result,
    Times,
    encode,
)
from spyglass.web import cli as web_cli
from spyglass.web.app import picture_routes
from spyglass.web.http import problems
from spyglass.web.pages import make_pages
from spyglass.worker import cli as worker_cli
from testbed.processes import ROOT

README, PROTOCOL, CONFIGURATION = (
    PAGES[name] for name in ("README.md", "PROTOCOL.md", "docs/configuration.md")
)
PROGRAMS: list[Any] = [broker_cli, worker_cli, web_cli, client_cli, doctor]
#: What is started with `python -m`; only their help is looked at.
TOOLS = ["chaos", "bench", "bench.broker", "bench.failover", "bench.http", "bench.pipeline"]
TOOLS += ["bench.secure", "bench.workers", "simulation"]

ID = bytes(range(16))
SHA = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
EXAMPLE = Request(ID, "", 5, 1000, SHA, Body.of(b"hello"))
#: One message of each kind, with every key its header may have.
MESSAGES: list[Message] = [
    EXAMPLE,
    Result(ID, Times(0.5, 1.5), Body.of(b"[]")),
    Ack(ID),
    Nack(ID, Reason.BUSY),
    Ready("squeezenet1_1", SHA, 2, "host", 1, "name"),
    Heartbeat((ChildState(1, "idle", 5),), 500),
    Bye(),
    Cancel(ID),
    Query(ID, Op.STATUS),
    Reply(ID, True),
]

#: A command of the console script, or that script alone, where it stands as a command.
INSTALLED = rf"(?:^|(?<=[\s;&/]))spyglass (?:(?:{'|'.join(COMMANDS)})\b|(?=--))"

each_page = pytest.mark.parametrize("page", PAGES)
#: All Python of the programs.
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("spyglass/**/*.py")]


def door(program: Any) -> str:
    """The file at the top that starts a program: broker.py for spyglass.broker.cli."""
    return f"{program.__name__.split('.')[1]}.py"


def start(program: Any) -> list[str]:
    """The words after `python` that start a program in the checkout."""
    return ["-m", "spyglass.cli", "doctor"] if program is doctor else [door(program)]


def heading(program: Any) -> str:
    """The heading in the configuration under which its flags stand."""
    return "spyglass doctor" if program is doctor else door(program)


each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__.split(".")[1])


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for parser in (program.parser() for program in PROGRAMS):
        for action in parser._actions:
            monkeypatch.delenv(f"SPYGLASS_{action.dest.upper()}", raising=False)


def actions(program: Any) -> list[argparse.Action]:
    return [a for a in program.parser()._actions if a.dest not in ("help", "version")]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    assert found, f"no heading {heading!r}"
    return found[1]


def row(text: str, first: str) -> list[str]:
    """The cells of the table row that starts with `first` in backquotes."""
    found = re.findall(rf"^\| (`{re.escape(first)}` \|.*)\|$", text, re.M)
    assert len(found) == 1, f"{len(found)} rows for {first}"
    return [cell.strip() for cell in found[0].split("|")]


# --- commands ---------------------------------------------------------------------------------


@each_program
def test_every_flag_has_help_and_its_row_in_the_configuration(program: Any) -> None:
    text = section(CONFIGURATION, heading(program))
    for action in actions(program):
        assert action.help
        if not action.option_strings:
            assert f"{action.metavar} ..." in text
            continue
        flag = action.option_strings[-1]
        variable = "SPYGLASS_" + action.dest.upper()
        shown = row(text, flag)[1]
        assert shown == ("none" if isinstance(action.const, bool) else f"`{variable}`"), flag


@each_program
def test_the_defaults_in_the_configuration_are_those_of_the_parser(program: Any) -> None:
    text = section(CONFIGURATION, heading(program))
    for action in actions(program):
        # As many processes as this machine has cores; no default; a list filled in by main().
        known = action.dest != "processes" and action.default not in (None, "", False)
        if action.option_strings and known:
            value = action.default
            told = f"{value:g}" if isinstance(value, float) else str(value)
            assert row(text, action.option_strings[-1])[2] == told


@each_program
def test_every_command_has_help_with_examples(program: Any) -> None:
    words = start(program)
    shown = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert f"python {' '.join(words)}" in shown.stdout


@each_program
def test_a_wrong_flag_is_a_usage_error(program: Any) -> None:
    with pytest.raises(SystemExit) as left:
        program.main(["--no-such-flag"])
    assert left.value.code == 2


def test_the_environment_gives_a_default_that_a_flag_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPYGLASS_MAX_WAITING", "7")
    assert broker_cli.parser().parse_args([]).max_waiting == 7
    assert broker_cli.parser().parse_args(["--max-waiting", "9"]).max_waiting == 9
    monkeypatch.setenv("SPYGLASS_MAX_WAITING", "many")
    with pytest.raises(SystemExit):
        broker_cli.parser().parse_args([])


# --- all pages --------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What may follow a # in a link to this page, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def code(text: str) -> list[str]:
    """Every line of a block of code, and every word or command in backquotes."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def flags_of(command: list[str]) -> set[str]:
    shown = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return set(re.findall(r"^  (?:-\w, )?(--[a-z][a-z-]*)", shown.stdout, re.M))


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """The flags of each program and tool, by the words that start it."""
    doors = [door(program) for program in PROGRAMS if program is not doctor]
    modules = ["spyglass.local", *TOOLS]
    commands = [[name] for name in [*doors, "deploy/ray_fleet.py"]]
    commands += [["-m", name] for name in modules]
    known = {f"python {' '.join(command)}": flags_of(command) for command in commands}
    cli = "spyglass/cli.py"
    installed = {f"spyglass {name}": flags_of([cli, name]) for name in COMMANDS if name != "keys"}
    return known | installed | {"spyglass": flags_of([cli])}


@each_page
def test_every_link_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)]+)\)", PAGES[page]):
        name, _, anchor = link.partition("#")
        target = (folder / name).resolve() if name else ROOT / page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@each_page
def test_every_make_target_that_is_named_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for words in code(PAGES[page]):
        for target in re.findall(r"\bmake ([a-z-]+)", words):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@each_page
def test_every_file_that_is_named_exists(page: str) -> None:
    for words in code(PAGES[page]):
        named = re.findall(r"\bpython (\S+\.py)\b", words) + re.findall(r"\bstatic/\S+\.\w+", words)
        for name in [*named, *re.findall(r"^[\w/]+\.(?:py|toml|conf)$", words)]:
            assert (ROOT / name).is_file(), name


@each_page
def test_every_flag_that_is_named_exists(page: str, flags: dict[str, set[str]]) -> None:
    every = set().union(*flags.values())
    for words in code(PAGES[page]):
        # Only what a program of ours is asked: `docker run --rm` is not for us to check.
        ours = re.search(rf"\bpython (?:-m [\w.]+|\S+\.py)|{INSTALLED}", words)
        known = flags.get(ours[0].strip(), set()) if ours else every
        asked = words[ours.end() :] if ours else words if words.startswith("--") else ""
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", asked) if known else ():
            assert flag in known, f"{flag} in {words!r}"


@each_page
def test_no_page_installs_a_package_whose_name_is_not_ours(page: str) -> None:
    wheel = f"spyglass-{__version__}-py3-none-any.whl"
    for words in re.findall(r"\bpip install [^\n`]*", PAGES[page]):
        for named in re.findall(r"(?<![\w./-])spyglass[\w.-]*", words.partition("#")[0]):
            assert named == wheel, words


@each_page
def test_every_variable_that_is_named_exists(page: str) -> None:
    sources = "".join(path.read_text() for path in [*SOURCES, *(ROOT / "deploy").glob("**/*.py")])
    known = {f"SPYGLASS_{action.dest.upper()}" for p in PROGRAMS for action in actions(p)}
    for variable in re.findall(r"\bSPYGLASS_[A-Z_]*[A-Z]\b", PAGES[page]):
        assert variable in known or variable in sources, variable


# --- configuration ----------------------------------------------------------------------------


def test_every_variable_of_the_code_is_in_the_configuration() -> None:
    for path in SOURCES:
        for variable in re.findall(r"\bSPYGLASS_[A-Z_]*[A-Z]\b", path.read_text()):
            assert f"`{variable}`" in CONFIGURATION, f"{variable} of {path.name}"


@pytest.mark.parametrize("tool", TOOLS)
def test_every_flag_of_a_tool_has_its_row_in_the_configuration(
    tool: str, flags: dict[str, set[str]]
) -> None:
    told = re.findall(r"^\| `(--[a-z-]+)` \|", section(CONFIGURATION, f"python -m {tool}"), re.M)
    assert set(told) == flags[f"python -m {tool}"] - {"--help"}


# --- README.md, API, packages -----------------------------------------------------------------


def test_the_readme_leads_to_every_page() -> None:
    records = {page for page in PAGES if re.fullmatch(r"docs/decisions/\d+-.*", page)}
    for page in PAGES.keys() - records - {"README.md"}:
        assert f"]({page})" in README, page
    for page in records:
        assert f"]({Path(page).name})" in PAGES["docs/decisions/README.md"], page


#: What stands in the page for a part of a path; for others, ID.
PLACES = {"model": "MODEL", "version": "VERSION"}


def test_every_route_is_in_the_api() -> None:
    nobody: Any = None
    text = section(PAGES["docs/api.md"], "Routes")
    routes = [(route.method, route.rule) for route in make_pages(nobody, 1, nobody, nobody).routes]
    for path, methods in picture_routes(nobody, 1, 1.0, nobody).items():
        routes += [(method, path) for method in methods]
    for method, rule in routes:
        if not rule.startswith("/static/"):
            rule = re.sub(r"<(\w+)>", lambda name: PLACES.get(name[1], "ID"), rule)
            assert f"`{method} {rule}`" in text


def test_every_status_of_a_failure_is_in_the_api() -> None:
    text = section(PAGES["docs/api.md"], "Errors")
    for status in {kind.status for kind in problems.REASONS.values()}:
        assert f"| {status} |" in text


def test_every_dependency_stands_among_the_packages() -> None:
    text = section(PAGES["docs/development.md"], "What it is built on")
    for file in ("requirements.txt", "requirements-dev.txt"):
        for name in re.findall(r"^([a-z][\w-]*)==", (ROOT / file).read_text(), re.MULTILINE):
            assert f"| {name} |" in text


# --- PROTOCOL.md ------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_in_the_protocol(reason: Reason) -> None:
    assert row(section(PROTOCOL, "Reasons"), reason.value)


def test_the_protocol_names_no_reason_that_does_not_exist() -> None:
    words = re.findall(r"^\| `([a-z-]+)` \|", section(PROTOCOL, "Reasons"), re.MULTILINE)
    assert words == [reason.value for reason in Reason]


def test_every_legal_message_is_among_those_checked_here() -> None:
    legal = {kind for direction in Direction for kind in direction.value}
    assert legal == {type(message) for message in MESSAGES}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_has_its_entry_with_exactly_its_header(message: Message) -> None:
    text = section(PROTOCOL, f"`{message.TYPE.decode()}` {type(message).__name__}")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(message.header())
    assert re.search(r"\bRepl(y|ies)\b", text)


def test_every_operation_of_a_query_is_in_the_protocol() -> None:
    for op in Op:
        assert f"`{op.value}`" in section(PROTOCOL, "`Q` Query")


def test_the_hex_example_is_what_the_codec_sends() -> None:
    lines = re.findall(r"^[0-9a-f]{2,}$", section(PROTOCOL, "Example"), re.MULTILINE)
    assert lines == [bytes(frame).hex() for frame in encode(EXAMPLE)]
    header = "".join(re.findall(r'^(?:\{|").*$', section(PROTOCOL, "Example"), re.MULTILINE))
    assert header == bytes(encode(EXAMPLE)[3]).decode()
