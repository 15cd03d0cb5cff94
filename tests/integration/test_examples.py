"""Every curl in the pages about the API does what the page says, against real processes."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from pages import PAGES

from testbed.fleet import Site
from testbed.processes import ROOT, eventually

HERE = "http://127.0.0.1:8080"


def commands(page: str) -> list[str]:
    """The shell commands of a page, those that go on over several lines as one.

    Left out are those with a worker's ID, which whoever reads has to fill in.
    """
    blocks = re.findall(r"^```\n(.*?)^```", PAGES[page], re.M | re.S)
    asking = [block for block in blocks if HERE in block]
    lines = "".join(asking).replace("|\n", "|").replace(",\n", ",").splitlines()
    return [line for line in lines if HERE in line and "/ID" not in line]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_every_curl_in_the_pages_succeeds(site: Site) -> None:
    site.launch_worker("attic")
    site.start_web()
    eventually(lambda: site.get("/readyz")[0] == 200, "the worker is ready")
    tried = [*commands("docs/api.md"), *commands("docs/migration.md")]
    assert len(tried) > 15
    for command in tried:
        line = command.replace("curl ", "curl --fail-with-body -sS --max-time 20 ", 1)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line.replace(HERE, site.url)],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert done.stdout
