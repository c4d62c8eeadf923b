#!/usr/bin/env bash
# lmms-eval takes letters of words for the chosen option: right answers on TOMATO and TVBench are scored as wrong.
#
# Version: lmms-eval 0.7.3 (scoring functions of its tasks `tomato` and `tvbench`). Seen 2026-12-01, Python 3.11, Linux.
#
# TOMATO, options "left", "right", "up", "down", the right one is B:
#   "B"                                    1.0
#   "Answer: B"                            0.0    the A of "Answer" counts as option A
#   "it cannot be seen"                    0.0    and 1.0 wherever A is right: what cannot be parsed counts as A
# TVBench, candidates "left", "right", the right one is B:
#   "it moves to the right"                1.0
#   "A ball moves to the right"            0.0    the article counts as option A
#   "Because of the arrow it moves left"   1.0    the first letter counts as option B
#
# A model that answers in a sentence gets another score than one with the same knowledge that answers with a letter.
#
# The source says otherwise. The TOMATO parser adds spaces around the answer "to avoid partial match", then searches for
# the bare letter all the same. A comment there says that an answer which cannot be parsed gets a random choice; it gets
# the constant A.
# Source: https://github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/tomato/utils.py (parse_multi_choice_response),
# lmms_eval/tasks/tvbench/utils.py (_extract_choice_letter)
#
# Exits 0 if this is still so, and not 0 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# The scoring functions need only these packages; lmms-eval alone would bring many more.
"$folder/venv/bin/pip" install --quiet numpy==2.2.6 opencv-python-headless==4.12.0.88 pyyaml==6.0.3 loguru==0.7.3
"$folder/venv/bin/pip" install --quiet --no-deps lmms-eval==0.7.3
cd "$folder"
venv/bin/python - <<'PYTHON'
import importlib.util
import sysconfig
from pathlib import Path


def utils_of(task):
    path = Path(sysconfig.get_path("purelib"), "lmms_eval", "tasks", task, "utils.py")
    spec = importlib.util.spec_from_file_location(task, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tomato_score(answer, right):
    options = ["left", "right", "up", "down"]
    question = {"id": "1", "question": "Which way does it move?", "options": options, "answer": right}
    question |= {"reason_type": "direction", "demonstration_type": "object"}
    return tomato.tomato_process_results(question, [answer])["tomato_score"]["score"]


def tvbench_score(answer):
    question = {"question": "Which way does it move?", "candidates": ["left", "right"], "answer": "right"}
    return tvbench.tvbench_process_results(question, [answer])["tvbench_acc"]


tomato, tvbench = utils_of("tomato"), utils_of("tvbench")
seen = {answer: tomato_score(answer, right=1) for answer in ("B", "Answer: B", "it cannot be seen")}
print("TOMATO, B is right: ", seen)
assert seen == {"B": 1.0, "Answer: B": 0.0, "it cannot be seen": 0.0}
assert tomato_score("it cannot be seen", right=0) == 1.0

answers = ("it moves to the right", "A ball moves to the right", "Because of the arrow it moves left")
seen = {answer: tvbench_score(answer) for answer in answers}
print("TVBench, B is right:", seen)
assert list(seen.values()) == [1.0, 0.0, 1.0]
PYTHON
