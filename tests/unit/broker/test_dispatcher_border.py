"""Only ids and plain values cross the dispatcher's border, and nobody outside changes its state."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from spyglass.dispatcher.dispatcher import Dispatcher
from testbed.processes import ROOT

#: What a caller may get back: plain values, actions to carry out, and a copy of the counts.
PLAIN = {"Action", "Counters", "None", "bool", "float", "int", "list", "str", "tuple"}
#: Modules of the dispatcher that others import.
BORDER = {"actions", "dispatcher", "policy", "snapshot", "stats"}

SOURCES = [
    path
    for room in ("spyglass/broker", "simulation")
    for path in sorted((ROOT / room).glob("*.py"))
]


def public() -> set[str]:
    """The dispatcher's methods and properties that give nothing away that it works with."""
    found = set()
    for name, member in vars(Dispatcher).items():
        method = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and inspect.isfunction(method):
            returned = set(re.findall(r"\w+", str(method.__annotations__["return"])))
            if returned <= PLAIN:
                found.add(name)
    return found


def uses(tree: ast.AST) -> set[str]:
    """What is read of anything named `dispatcher`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.fullmatch(r"(.*\.)?_?dispatcher|d", ast.unparse(node.value))
    }


def test_the_border_is_not_empty() -> None:
    assert {"tick", "worker_ready", "drain_worker", "open_requests"} <= public()
    assert not {"workers", "jobs", "journal"} & public()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_dispatcher_is_used_by_its_events_and_plain_values_alone(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert uses(tree) <= public()
    imported = {
        node.module.removeprefix("spyglass.dispatcher.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.startswith("spyglass.dispatcher")
    }
    assert imported <= BORDER
