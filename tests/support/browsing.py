"""What the browser tests share: a site of stand-in workers, and pictures that steer them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable

from PIL import Image
from playwright.sync_api import FilePayload, Page, Route

from testbed.fleet import Site
from testbed.processes import ROOT, eventually
from testbed.stand_in import MARK

CHROMIUM = shutil.which("chromium") or ""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
ARTEFACTS = ROOT / "artefacts"
CAT = ROOT / "static" / "samples" / "cat.jpg"
#: A name of a file, a host or a label that would run if any page forgot to escape it.
HOSTILE = "\"'><img src=x onerror=alert(1)>"


class Pages(Site):
    """Broker, web, and the stand-in workers attic and cellar."""

    def __init__(self) -> None:
        super().__init__()
        self.start_broker()
        self.workers = {name: self.launch_worker(name) for name in ("attic", "cellar")}
        self.start_web()
        self.start_missing()

    def start_missing(self) -> None:
        """Start those of the two workers that a test ended."""
        for name, process in self.workers.items():
            if process.poll() is not None:
                self.workers[name] = self.launch_worker(name)
        eventually(lambda: {"attic", "cellar"} <= set(self.names()), "both workers are there")


def picture(command: str = "", name: str = "cat.jpg") -> FilePayload:
    """A real JPEG with a command for the stand-in, as Playwright wants a chosen file."""
    file = io.BytesIO()
    colour = tuple(32 + 5 * byte % 192 for byte in command.encode().ljust(3)[-3:])
    Image.new("RGB", (64, 48), colour).save(file, "JPEG")
    return {
        "name": name,
        "mimeType": "image/jpeg",
        "buffer": file.getvalue() + MARK + command.encode(),
    }


def shoot(page: Page, name: str, whole: bool = True) -> None:
    """A screenshot among the artefacts, to be looked at."""
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=whole)


def answering(page: Page, status: int, headers: dict[str, str] | None = None) -> Callable[[], int]:
    """Let every question of the page be answered so from now on; how many there were."""
    asked: list[str] = []
    body = '{"title": "Busy", "detail": "Try again shortly.", "code": "busy", "retryable": true}'

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=status, headers=headers or {}, body=body)

    page.route("**/v1/classify*", refuse)
    return lambda: len(asked)
