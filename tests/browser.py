"""A headless Chromium for the tests of pages: what a reader sees, and what a page asks for.

The fixtures `browser` and `open_page` are shared by all tests (see `conftest.py`). Tests that use
them carry `@pytest.mark.system`. Where Playwright or a Chromium is missing, or Chromium does not
start, they are skipped and say why.

    @pytest.mark.system
    def test_the_page(open_page, tmp_path):
        seen = open_page((tmp_path / "report.html").as_uri(), width=375)
        seen.page.get_by_role("button", name="average").click()
        assert seen.problems == []
        assert seen.network == []
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Nothing that a browser does for itself: no first-run page, no updates, no sync. A fresh profile is
# what Playwright makes anyway.
OPTIONS = [
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60_000  # milliseconds; CI's machines are slow and shared
LOCAL = ("about", "blob", "data", "file")

CALLED_OFF = "net::ERR_ABORTED"


@dataclass
class Seen:
    """An open page and what happened in it.

    Attributes:
        page: Playwright's page.
        problems: Errors and warnings of the console, uncaught errors and failed requests.
        requests: The address of every request, also of those that were stopped.
    """

    page: "Page"
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def network(self) -> list[str]:
        """The requests that need a network: neither the page's own file nor something inside it."""
        return [address for address in self.requests if urlsplit(address).scheme not in LOCAL]

    def watch(self) -> None:
        """Note from now on what happens in the page."""
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", self._note_failure)

    def _note_failure(self, request: "Request") -> None:
        # What the page still loads when it is left for another is called off, not failed.
        if request.failure != CALLED_OFF:
            self.problems.append(f"failed: {request.url}: {request.failure}")

    def _note(self, message: "ConsoleMessage") -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")


OpenPage = Callable[..., Seen]


def chromium() -> str | None:
    """Return the path of a Chromium or Chrome, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A running Chromium; the test is skipped where none can run."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")
    # As root there is no sandbox to be had.
    sandbox = getattr(os, "geteuid", lambda: 1)() != 0
    with sync_api.sync_playwright() as playwright:
        try:
            running = playwright.chromium.launch(
                executable_path=path,
                headless=True,
                args=OPTIONS,
                chromium_sandbox=sandbox,
                timeout=PATIENCE,
            )
        except sync_api.Error as error:
            pytest.skip(f"{path} does not start: {str(error).splitlines()[0]}")
        yield running
        running.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[OpenPage]:
    """`open_page(address, width=1280, height=900, scheme="light", **more) -> Seen`.

    Every page has a profile of its own. `scheme` is the reader's colour scheme, `light` or `dark`;
    `more` are further options of Playwright's `Browser.new_context`, as `java_script_enabled`.
    """
    contexts = []

    def open_one(
        address: str, width: int = 1280, height: int = 900, scheme: str = "light", **more: object
    ) -> Seen:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **more
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        seen = Seen(context.new_page())
        seen.watch()
        seen.page.goto(address, wait_until="load")
        return seen

    yield open_one
    for context in contexts:
        context.close()
