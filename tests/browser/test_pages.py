"""`make test-browser`: the pages of the book in a real browser, on a wide and a narrow screen, light and dark."""

import subprocess
import sys

import pytest
from chromium import browser  # noqa: F401
from shared import ROOT

pytestmark = pytest.mark.browser

PICTURES = ROOT / "build" / "browser" / "book"
SCREENS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 420, "height": 900}}
TOO_WIDE = "() => document.scrollingElement.scrollWidth - window.innerWidth"
BROKEN = "() => [...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
BACKGROUND = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "sphinx", "-q", "-d", str(folder / "doctrees"), "-c", "docs", ".", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(params=[(screen, scheme) for screen in SCREENS for scheme in ("light", "dark")], ids="-".join)
def window(browser, request):  # noqa: F811
    """A window without a network. `messages` lists the errors of its console."""
    screen, scheme = request.param
    context = browser.new_context(viewport=SCREENS[screen], color_scheme=scheme)
    context.route(lambda address: not address.startswith(("file:", "data:")), lambda route: route.abort())
    page = context.new_page()
    page.messages = []
    page.on("console", lambda message: page.messages.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.messages.append(str(error)))
    page.on("requestfailed", lambda request: page.messages.append(request.url))
    yield page, screen, scheme
    context.close()


def test_pages_fit_the_screen_and_report_no_error(book, window):
    page, screen, scheme = window
    for path in sorted({*book.rglob("*.html")} - {book / "index.html"}):  # that one leads to the first page
        page.goto(path.as_uri())
        page.wait_for_load_state()
        name = path.relative_to(book)
        assert page.messages == [], name
        assert page.evaluate(BROKEN) == [], name
        assert page.evaluate(TOO_WIDE) <= 0, name
        assert (max(page.evaluate(BACKGROUND)) < 80) == (scheme == "dark"), name
        picture = PICTURES / f"{screen}-{scheme}" / name.with_suffix(".png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=picture, full_page=True)
