"""`make test-browser`: `report.html` of an evaluation and of a training run, by mouse and keyboard, wide and narrow."""

import json

import pytest
from pages import SCREENS, check_page
from shared import ROOT

from fvv_lib.__main__ import main

pytestmark = pytest.mark.browser

PICTURES = ROOT / "build" / "browser" / "report"
SAMPLES = ROOT / "data_samples"
EVIL = "</script><script>document.title = 'changed'</script><img src=x onerror=\"document.title = 'changed'\">"
FOCUSED = "() => document.activeElement.name || document.activeElement.id || document.activeElement.textContent"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The reports of an evaluation with time controls, and of a short training run. One question is an attack."""
    folder = tmp_path_factory.mktemp("reports")
    samples = json.loads((SAMPLES / "val.json").read_text())
    attack = {"id": EVIL, "video": "videos/val/motion-0001.mp4", "kinds": [EVIL]}
    attack["conversations"] = [{"from": "human", "value": f"<image>\n{EVIL}"}, {"from": "gpt", "value": EVIL}]
    (folder / "asked.json").write_text(json.dumps([attack, *samples]))
    asked = ["--data", folder / "asked.json", "--image_folder", SAMPLES, "--output", folder / "evaluated"]
    run(["evaluate", "--model", SAMPLES / "tiny-fastvlm-video", *asked, "--time_controls", "--use_cpu"])
    data = ["--data_path", SAMPLES / "train.json", "--test_data_path", SAMPLES / "test.json"]
    data += ["--validation_data_path", SAMPLES / "val.json", "--eval_questions", 10, "--eval_strategy", "steps"]
    settings = ["--max_steps", 8, "--eval_steps", 4, "--logging_steps", 1, "--use_cpu", "True", "--report_to", "none"]
    output = ["--output_dir", folder / "trained", "--save_strategy", "no"]
    run(["finetune", "--model_name_or_path", SAMPLES / "tiny-fastvlm", *data, *settings, *output])
    return {name: folder / name / "report.html" for name in ("evaluated", "trained")}


def run(arguments):
    assert main([str(word) for word in arguments]) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ["evaluated", "trained"])
def test_a_report_fits_the_screen_and_reports_no_error(reports, window, name, screen, scheme):
    page = window(reports[name], screen, scheme)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.locator("svg").count() == (3 if name == "trained" else 0)
    check_page(page, scheme, PICTURES / f"{screen}-{scheme}" / f"{name}.png")


def counted(page):
    shown, _, total, _ = page.locator("#count").text_content().split()
    return int(shown), int(total)


def test_filters_show_the_questions_that_they_name(reports, window):
    page = window(reports["evaluated"])
    records = [json.loads(line) for line in (reports["evaluated"].parent / "answers.jsonl").open()][1:]
    forwards = {row["position"]: row for row in records if row["control"] == "forwards"}
    blank = {row["position"]: row for row in records if row["control"] == "blank"}
    assert counted(page) == (len(forwards), len(forwards))
    assert page.locator("article").count() == 25

    page.get_by_label("Show").select_option(label="wrong answers")
    wrong = [row for row in forwards.values() if not row["right"]]
    assert counted(page)[0] == len(wrong) > 0
    assert page.locator("article").count() == page.locator("article.wrong").count() == min(len(wrong), 25)

    page.get_by_label("Answers").select_option("blank")
    page.get_by_label("Show").select_option(label="right forwards, wrong blank")
    lost = [row for row in blank.values() if not row["right"] and forwards[row["position"]]["right"]]
    assert counted(page)[0] == len(lost) > 0
    page.get_by_label("Kind").select_option("order")
    assert counted(page)[0] == sum(row["kind"] == "order" for row in lost) > 0

    page.get_by_label("Answers").select_option("forwards")
    page.get_by_label("Kind").select_option(label="all")
    page.get_by_label("Show").select_option(label="all")
    page.get_by_label("Search").fill("MOTION-0001 colour")
    found = [row for row in forwards.values() if "motion-0001" in row["id"] and "colour" in str(row).lower()]
    assert counted(page)[0] == len(found) > 0
    page.get_by_label("Search").fill("nothing has this text")
    assert counted(page)[0] == 0
    assert page.locator("article").count() == 0
    assert page.get_by_role("button", name="Next").is_disabled()


def test_texts_of_users_are_shown_as_text(reports, window):
    page = window(reports["evaluated"])
    title = page.title()
    page.get_by_label("Search").fill("onerror")
    assert counted(page)[0] == 1
    assert page.locator("article .text").last.text_content() == f"<image>\n{EVIL}"
    assert EVIL in page.locator("article h3").text_content()
    assert page.locator("article .strip img").count() == 8
    assert page.title() == title
    assert page.messages == []


def test_the_keyboard_reaches_and_uses_all_controls(reports, window):
    page = window(reports["trained"])
    page.get_by_label("Kind").focus()
    order = []
    for _ in range(4):
        order.append(page.evaluate(FOCUSED))
        page.keyboard.press("Tab")
    assert order == ["kind", "view", "result", "search"]

    page.get_by_label("Answers").focus()
    page.keyboard.press("b")  # before
    page.get_by_label("Show").focus()
    page.keyboard.press("w")  # wrong answers
    shown, total = counted(page)
    assert 25 < shown < total
    page.get_by_label("Search").focus()
    page.keyboard.type("motion-00")
    assert 25 < counted(page)[0] < shown

    first = page.locator("article h3").first.text_content()
    while page.evaluate(FOCUSED) != "next":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(FOCUSED) == "questions"
    assert page.locator("#page").text_content().startswith("page 2 of ")
    assert page.locator("article h3").first.text_content() != first
    while page.evaluate(FOCUSED) != "previous":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("article h3").first.text_content() == first


def test_thousands_of_questions_stay_usable(reports, window, tmp_path):
    """The page of a test set that is 40 times as large: only a page of questions is drawn."""
    text = reports["trained"].read_text()
    start = text.index('<script type="application/json" id="data">') + len('<script type="application/json" id="data">')
    end = text.index("</script>", start)
    data = json.loads(text[start:end])
    data["questions"] *= 40
    many = tmp_path / "many.html"
    many.write_text(text[:start] + json.dumps(data).replace("<", "\\u003c") + text[end:])
    page = window(many)
    assert counted(page)[1] > 15_000
    assert page.locator("article").count() == 25
    page.get_by_label("Search").fill("motion-0001")
    assert counted(page)[0] >= 40
    assert page.messages == []
