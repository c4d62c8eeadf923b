"""`make test-browser`: the pages of the book in a real browser, on a wide and a narrow screen, light and dark."""

import subprocess
import sys

import pytest
from pages import SCREENS, check_page
from shared import ROOT

pytestmark = pytest.mark.browser

PICTURES = ROOT / "build" / "browser" / "book"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "sphinx", "-q", "-d", str(folder / "doctrees"), "-c", "docs", ".", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_pages_fit_the_screen_and_report_no_error(book, window, screen, scheme):
    paths = sorted({*book.rglob("*.html")} - {book / "index.html"})  # that one leads to the first page
    page = window(paths[0], screen, scheme)
    for path in paths:
        page.goto(path.as_uri())
        page.wait_for_load_state()
        check_page(page, scheme, PICTURES / f"{screen}-{scheme}" / path.relative_to(book).with_suffix(".png"))
