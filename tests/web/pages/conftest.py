"""A real browser in front of the server.

Every page is watched: a console error, an error of a script or a request off the site fails the test that opened it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 15_000
"""How long an expectation may take on a busy machine; none is meant to."""


@pytest.fixture(scope="session")
def browser():
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("No Chromium here. Install it: apt-get install chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page with what went wrong on it; ``forgiven`` are console errors that a test means to cause."""

    page: Page
    server: Any
    problems: list[str] = field(default_factory=list)
    forgiven: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.goto(self.server.url + path)

    def sign_in(self, who: str) -> None:
        self.open("/")
        self.page.get_by_label("Operator token").fill(self.server.tokens[who])
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("heading", name="Rollouts")).to_be_visible()

    def wait_live(self) -> None:
        expect(self.page.locator("#live-state")).to_have_attribute("data-live", "live")


@pytest.fixture
def visit(server, browser):
    """A fresh browser profile on the server; a test that uses it also shows a quiet console and no foreign request."""
    expect.set_options(timeout=PATIENCE_MS)
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    watched = Watched(page, server)

    def on_console(message) -> None:
        if message.type in ("error", "warning"):
            watched.problems.append(f"{message.type}: {message.text}")

    def on_request(request) -> None:
        if not request.url.startswith((server.url + "/", "data:")):
            watched.problems.append(f"off the site: {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: watched.problems.append(f"script: {error}"))
    context.on("request", on_request)
    yield watched
    context.close()
    unforgiven = [one for one in watched.problems if not any(part in one for part in watched.forgiven)]
    assert not unforgiven, unforgiven
