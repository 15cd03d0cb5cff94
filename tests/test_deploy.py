"""What is in deploy/ is right as far as it can be checked without the engines it is for."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT


def test_a_fleet_on_ray_without_ray_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['ray'] = None; from deploy import ray_fleet;"
        " sys.exit(ray_fleet.main([]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "pip install -r deploy/requirements-ray.txt" in ended.stderr
