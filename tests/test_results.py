"""The benchmark page and the result rows of the README match the stored results."""

import build_results
import pytest


def test_page_and_readme_match_the_stored_results():
    assert build_results.PAGE.read_text() == build_results.page(), "make results"
    readme = build_results.README.read_text()
    assert readme == build_results.with_rows(readme), "make results"


def test_every_result_has_its_section():
    files = {path.stem for path in build_results.RESULTS.glob("*.json")}
    assert files == set(build_results.SECTIONS) - {"tests"} | {"fuzz_more"} | (files & {"tests"})


def test_a_changed_result_changes_the_page(monkeypatch):
    page, read = build_results.page(), build_results.read

    def changed(name):
        record = read(name)
        return {**record, "steps": 7} if name == "kill" else record

    monkeypatch.setattr(build_results, "read", changed)
    assert build_results.page() != page
    assert "A run of 7 steps" in build_results.page()


@pytest.mark.parametrize("reader", ["torchcodec", "described"])
def test_speed_is_the_geometric_mean_over_clips_that_both_read(reader):
    clips = {"a": {"ours": 1, reader: 2}, "b": {"ours": 1, reader: 8}, "c": {"ours": 1, reader: None}}
    assert build_results.fastest(clips, reader) == (4, 2)
