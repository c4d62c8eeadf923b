"""The browser of these tests: the Chromium of this machine."""

import os
import shutil

import pytest

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
