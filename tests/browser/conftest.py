"""The browser of these tests, the Chromium of this machine, and its windows."""

import os
import shutil

import pytest
from pages import SCREENS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.exit(f"no browser: install Chromium (one of {', '.join(BROWSERS)} must be found)", returncode=1)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.exit('no playwright: pip install -e ".[browser]"', returncode=1)
    with sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # required to run Chromium as root
        chromium = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture
def window(browser):
    """A function that opens a page without a network. `messages` of the page lists the errors of its console."""
    contexts = []

    def open_page(path, screen="desktop", scheme="light"):
        context = browser.new_context(viewport=SCREENS[screen], color_scheme=scheme)
        contexts.append(context)
        context.route(lambda address: not address.startswith(("file:", "data:")), lambda route: route.abort())
        page = context.new_page()
        page.messages = []
        page.on("console", lambda message: page.messages.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("requestfailed", lambda request: page.messages.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
