"""`make book` renders the course as a static site. The tests build it once and read its pages."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from bs4 import BeautifulSoup
from notebook_rules import ALL, LESSONS, ROOT, code_cells, read
from shared import ROOT as REPOSITORY
from test_docs import GUIDES


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    (command,) = re.findall(r"\$\(PY\) -m sphinx (.+)", (REPOSITORY / "Makefile").read_text())
    command = [sys.executable, "-m", "sphinx", *command.replace("build/", f"{folder}/").split()]
    run = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
    assert (run.returncode, run.stderr) == (0, "")  # warnings are errors
    return folder / "book"


@pytest.fixture(scope="module")
def pages(book):
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in sorted(book.rglob("*.html"))}


def page_of(book: Path, notebook: Path) -> Path:
    return (book / "notebooks" / notebook.relative_to(ROOT)).with_suffix(".html")


def leads_to(page: Path, links) -> set[Path]:
    return {(page.parent / urlsplit(link["href"]).path).resolve() for link in links}


def test_the_navigation_lists_every_lesson_with_its_exercises_and_solutions(book, pages):
    front = book / "docs" / "index.html"
    assert leads_to(book / "index.html", pages[book / "index.html"].select("a")) == {front}
    listed = leads_to(front, pages[front].select(".sidebar-tree li.toctree-l1 > a"))
    assert {page_of(book, lesson) for lesson in LESSONS} == {page for page in listed if page.parent.name == "notebooks"}
    for lesson in LESSONS:
        page = page_of(book, lesson)
        below = leads_to(page, pages[page].select(".sidebar-tree li.current-page li.toctree-l2 > a"))
        assert below == {page_of(book, ROOT / folder / lesson.name) for folder in ("exercises", "solutions")}


def test_the_navigation_lists_every_guide(book, pages):
    front = book / "docs" / "index.html"
    listed = leads_to(front, pages[front].select(".sidebar-tree li.toctree-l1 > a"))
    assert {(book / guide).with_suffix(".html") for guide in ("CONTRIBUTING.md", *GUIDES)} <= listed


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_stored_outputs_are_shown(book, pages, path):
    page = page_of(book, path)
    shown = [cell for cell in pages[page].select("div.cell") if cell.select_one(".cell_input")]
    stored = code_cells(read(path))
    for cell, html in zip(stored, shown, strict=True):
        streams = [output.text.strip() for output in cell.outputs if output.output_type == "stream"]
        assert [part.get_text().strip() for part in html.select(".cell_output .output.stream")] == streams
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert len(html.select(".cell_output img")) == len(pictures)


def test_the_first_page_lists_the_lessons_and_their_minutes(book, pages):
    front = book / "docs" / "index.html"
    rows = pages[front].select("article table tr")
    linked = leads_to(front, [link for row in rows for link in row.select("a") if "notebooks/" in link["href"]])
    assert linked == {page_of(book, lesson) for lesson in LESSONS}
    minutes = [int(re.search(r"(\d+) minutes", lesson_text(lesson))[1]) for lesson in LESSONS]
    assert f"{sum(minutes)} minutes" in pages[front].select_one("article").get_text()


def lesson_text(lesson: Path) -> str:
    return "".join(cell.source for cell in read(lesson).cells)


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_notebook_can_be_downloaded_as_it_is(book, pages, path):
    page = page_of(book, path)
    (link,) = pages[page].select("a.download")
    assert (page.parent / unquote(link["href"])).resolve().read_bytes() == path.read_bytes()


def test_every_figure_has_a_text(pages):
    for page, html in pages.items():
        for image in html.select("article img"):
            assert len(image.get("alt", "").split()) > 1, (page.name, str(image)[:300])


def test_no_link_is_dead(pages):
    for page, html in pages.items():
        for tag in html.select("a[href], link[href], img[src], script[src]"):
            url = urlsplit(tag.get("href") or tag["src"])
            if url.scheme or url.netloc:
                continue
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            assert target.is_file(), (page.name, str(tag))
            if url.fragment and target in pages:
                assert pages[target].find(id=unquote(url.fragment)) is not None, (page.name, str(tag))


def test_pages_load_nothing_from_other_servers(book, pages):
    """Links may leave the site, but everything that a page needs to render must be in it."""
    for page, html in pages.items():
        for tag in html.find_all():
            needed = [tag.get(name, "") for name in ("src", "srcset", "data", "poster")]
            needed += [tag.get("href", "")] if tag.name != "a" else []
            assert not any(re.match(r"(?:https?:)?//", str(address)) for address in needed), (page.name, str(tag))
    for path in book.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", path.read_text()), path.name


def test_search_finds_the_contents_of_the_course(book):
    index = json.loads(re.fullmatch(r"Search\.setIndex\((.*)\)", (book / "searchindex.js").read_text().strip())[1])
    notebooks = {f"notebooks/{path.relative_to(ROOT).with_suffix('')}" for path in ALL}
    guides = {guide.removesuffix(".md") for guide in GUIDES}
    assert notebooks | guides | {"README", "docs/api"} <= set(index["docnames"])
    assert index["docnames"].index("notebooks/01_sparse_sampling") in np.atleast_1d(index["terms"]["clipbert"])


def test_the_page_of_the_library_has_every_public_name(book, pages):
    import fvv_lib

    page = pages[book / "docs" / "api.html"]
    anchors = {tag["id"].split(".")[-1] for tag in page.select("dt[id]")}
    assert {*fvv_lib.__all__} - {"LESSONS", "__version__"} <= anchors
    sections = [heading.parent["id"] for heading in page.select("section > h2")]
    assert sections[1:] == list(fvv_lib.LESSONS.values())
