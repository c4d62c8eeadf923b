"""What the tests ask of each page in the browser."""

SCREENS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 420, "height": 900}}
TOO_WIDE = "() => document.scrollingElement.scrollWidth - window.innerWidth"
BROKEN = "() => [...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
BACKGROUND = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"


def check_page(page, scheme, picture):
    """Check that a page has loaded without an error, fits the screen and has the colours of the scheme. Keep a picture
    of it."""
    assert page.messages == [], picture
    assert page.evaluate(BROKEN) == [], picture
    assert page.evaluate(TOO_WIDE) <= 0, picture
    assert (max(page.evaluate(BACKGROUND)) < 80) == (scheme == "dark"), picture
    picture.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=picture, full_page=True)
