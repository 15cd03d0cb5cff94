"""New environments, and wheels installed into them, without anything that is here already."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path


def new_environment(folder: Path) -> Path:
    """An environment with no package at all; its interpreter, beside which its commands will be."""
    command: list[str | Path] = [sys.executable, "-m", "venv", "--without-pip", folder]
    subprocess.run(command, check=True, timeout=120)
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    """Have pip install it for this interpreter."""
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install", "-q"]
    done = subprocess.run([*pip, *what], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def packages(python: Path) -> Path:
    """The folder of its packages."""
    (folder,) = python.parent.parent.glob("lib/python3*/site-packages")
    return folder


def lend_packages(python: Path) -> None:
    """Let it find the packages of this environment as well: torch is too large to install again."""
    (packages(python) / "lent.pth").write_text(sysconfig.get_path("purelib"))
