"""Turn the rows of a benchmark's annotation files into questions, one function per benchmark.              Lesson 7

Answers come as a letter, as the text of an option, or as an index. Here all become the label of an option.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.evaluation.questions import Question
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN
from fvv_lib.video.medium import Medium

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LABELLED_LINE = re.compile(r"\s*\(?([A-Z])[).:]\s*(.+)")  # (A) red, A. red, A: red
CAPTION_LINE = re.compile(r"((?:Caption|Option|Sentence) (\w)): (.+)")  # Option 1: A man runs.
ABSENT = "N/A"
TVQA_RATE = 3.0  # frames per second of the folders of frames in MVBench

# The folder of each subset of MVBench under `video`, and whether its rows have `start` and `end`.
MVBENCH = {
    "action_antonym": ("ssv2_video", False),
    "action_count": ("perception/videos", False),
    "action_localization": ("sta/sta_video", True),
    "action_prediction": ("star/Charades_v1_480", True),
    "action_sequence": ("star/Charades_v1_480", True),
    "character_order": ("perception/videos", False),
    "counterfactual_inference": ("clevrer/video_validation", False),
    "egocentric_navigation": ("vlnqa", False),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", True),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", False),
    "fine_grained_pose": ("nturgbd", False),
    "moving_attribute": ("clevrer/video_validation", False),
    "moving_count": ("clevrer/video_validation", False),
    "moving_direction": ("clevrer/video_validation", False),
    "object_existence": ("clevrer/video_validation", False),
    "object_interaction": ("star/Charades_v1_480", True),
    "object_shuffle": ("perception/videos", False),
    "scene_transition": ("scene_qa/video", False),
    "state_change": ("perception/videos", False),
    "unexpected_action": ("FunQA_test/test", False),
}
TVBENCH = {
    **dict.fromkeys(("action_antonym", "action_count", "egocentric_sequence", "moving_direction"), False),
    **dict.fromkeys(("object_count", "object_shuffle", "scene_transition", "unexpected_action"), False),
    **dict.fromkeys(("action_localization", "action_sequence"), True),
}


@dataclass(frozen=True)
class BenchmarkQuestion(Question):
    """A question of a benchmark. `expected` is the label of the right choice.

    Attributes:
        labels: the label of each choice, such as "A" and "B", or "yes" and "no".
        groups: the groups in which it is counted: the name of a breakdown, and the group in it.

    Lesson: 07.
    """

    labels: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of an annotation file. Its methods name file and row if a field is missing or has another type."""

    file: Path
    number: int
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.file.stem}-{self.number}"

    def wrong(self, reason: str) -> DataFormatError:
        return DataFormatError(f"{self.file}, sample {self.number}: {reason}")

    def value(self, name: str) -> Any:
        if name not in self.fields:
            raise self.wrong(f"the field {name!r} is missing. Is this the published file of the benchmark?")
        return self.fields[name]

    def text(self, name: str) -> str:
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.wrong(f"{name!r} must be a text, got {value!r}.")
        return str(value)

    def texts(self, name: str) -> list[str]:
        value = self.value(name)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(f"{name!r} must be a list of texts, got {value!r}.")
        return value

    def index(self, name: str, count: int) -> int:
        """Return the index of the right option, from 0. It may be written as a text."""
        text = self.text(name)
        if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) >= count:
            raise self.wrong(f"{name!r} must be the index of one of {count} options, got {text!r}.")
        return int(text)

    def letter(self, name: str, count: int) -> int:
        """Return the index of the right option, which is given as a letter."""
        text = self.text(name)
        if len(text) != 1 or text not in LETTERS[:count]:
            raise self.wrong(f"{name!r} must be the letter of one of {count} options, got {text!r}.")
        return LETTERS.index(text)

    def place(self, name: str, options: Sequence[str]) -> int:
        """Return the index of the right option, which is given as its text."""
        text = self.text(name)
        if text not in options:
            raise self.wrong(f"{name!r} must be the text of one of {list(options)}, got {text!r}.")
        return options.index(text)

    def labelled(self, name: str) -> list[str]:
        """Return the options that a question lists, one in each line, with letters from A."""
        found = [line for line in map(LABELLED_LINE.match, self.text(name).split("\n")) if line]
        letters = "".join(line[1] for line in found)
        if len(found) < 2 or letters != LETTERS[: len(found)]:
            raise self.wrong(f"{name!r} must list at least two options, one in each line: (A) red.")
        return [line[2].strip() for line in found]

    def segment(self, source: Path, fps: float | None = None) -> Medium:
        try:
            return Medium(source, self.value("start"), self.value("end"), fps)
        except DataFormatError:
            raise
        except FvvError as error:
            raise self.wrong(str(error)) from error


def _ask(
    row: Row, name: str, medium: Medium, text: str, options: Sequence[str], right: int, groups: Mapping[str, str]
) -> BenchmarkQuestion:
    return BenchmarkQuestion(
        id=name,
        media=(medium,),
        prompt=f"{DEFAULT_IMAGE_TOKEN}\n{text}",
        expected=LETTERS[right],
        kind=next(iter(groups.values()), None),
        choices=tuple(options),
        labels=tuple(LETTERS[: len(options)]),
        groups=groups,
    )


def _lettered(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def videomme(row: Row) -> BenchmarkQuestion:
    """Video-MME: `data/{videoID}.mp4`, answer as a letter. The prompt speaks of subtitles, as lmms-eval's does, also
    though none are given."""
    options = row.texts("options")
    text = (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        f"{row.text('question')}\n" + "\n".join(options) + "\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    groups = {name: row.text(name) for name in ("duration", "domain", "sub_category", "task_type")}
    medium = Medium(Path("data", f"{row.text('videoID')}.mp4"))
    return _ask(row, row.text("question_id"), medium, text, options, row.letter("answer", len(options)), groups)


def mvbench(row: Row) -> BenchmarkQuestion:
    """MVBench: answer as text. The original videos are cut at `start` and `end`; lmms-eval downloads videos that are
    cut already. Episodic reasoning has folders of frames, 3 a second; the first is shown at 0 s."""
    subset = row.file.stem
    if subset not in MVBENCH:
        raise row.wrong(f"{subset!r} is not a subset of MVBench. It has {', '.join(MVBENCH)}.")
    folder, has_segments = MVBENCH[subset]
    source = Path("video", folder, row.text("video"))
    fps = TVQA_RATE if subset == "episodic_reasoning" else None
    options = row.texts("candidates")
    listed = "".join(f"({letter}) {option}\n" for letter, option in zip(LETTERS, options, strict=False))
    text = f"Question:{row.text('question')}\nOption:\n{listed}Only give the best option.\n"
    medium = row.segment(source, fps) if has_segments else Medium(source)
    return _ask(row, row.name, medium, text, options, row.place("answer", options), {"subset": subset})


def tvbench(row: Row) -> BenchmarkQuestion:
    """TVBench: `video/{subset}/{video}`, answer as text. Two subsets are cut at `start` and `end`, as TVBench's own
    program does; lmms-eval shows the whole video there."""
    subset = row.file.stem
    if subset not in TVBENCH:
        raise row.wrong(f"{subset!r} is not a subset of TVBench. It has {', '.join(sorted(TVBENCH))}.")
    source = Path("video", subset, row.text("video"))
    options = row.texts("candidates")
    text = f"{row.text('question').strip()}\n{_lettered(options)}\nAnswer with the option letter only."
    medium = row.segment(source) if TVBENCH[subset] else Medium(source)
    return _ask(row, row.name, medium, text, options, row.place("answer", options), {"subset": subset})


def tempcompass(row: Row) -> BenchmarkQuestion:
    """TempCompass: `videos/{video_id}.mp4`, options inside the question, answer as a full option ("A. red"), "yes" or
    "no". The folder of the file names the task. Captioning is not read: only a judge can score it."""
    task, question, answer = row.file.parent.name, row.text("question"), row.text("answer")
    medium = Medium(Path("videos", f"{row.text('video_id')}.mp4"))
    groups = {"task": task, "aspect": f"{task}, {row.text('dim')}"}
    if task == "multi-choice":
        options = row.labelled("question")
        right = LETTERS.find(answer[:1] or "?")
        if not 0 <= right < len(options):
            raise row.wrong(f"'answer' must begin with the letter of one of {len(options)} options, got {answer!r}.")
        text = f"{question}\nPlease directly give the best option:"
        return _ask(row, f"{task}-{row.number}", medium, text, options, right, groups)
    if task == "yes_no":
        labels, options, end = ["yes", "no"], ["yes", "no"], "Please answer yes or no:"
    else:
        lines = question.split("\n")[1:]
        found = [CAPTION_LINE.fullmatch(line) for line in lines]
        if len(found) < 2 or not all(found):
            raise row.wrong("'question' must list at least two options, one in each line: Option 1: A man runs.")
        labels, options = [line[2] for line in found if line], lines
        end = "Please directly give the best option:"
    return BenchmarkQuestion(
        id=f"{task}-{row.number}",
        media=(medium,),
        prompt=f"{DEFAULT_IMAGE_TOKEN}\n{question}\n{end}",
        expected=labels[row.place("answer", options)],
        kind=task,
        choices=tuple(options),
        labels=tuple(labels),
        groups=groups,
    )


def egoschema(row: Row) -> BenchmarkQuestion:
    """EgoSchema, the 500 questions with public answers: `videos/{video_idx}.mp4`, answer as an index."""
    options = row.texts("option")
    text = "\n".join(
        [row.text("question"), *options, "Answer with the option's letter from the given choices directly."]
    )
    name = row.text("video_idx")
    medium = Medium(Path("videos", f"{name}.mp4"))
    return _ask(row, name, medium, text, options, row.index("answer", len(options)), {})


def nextqa(row: Row) -> BenchmarkQuestion:
    """NExT-QA, multiple choice: `NExTVideo/{video}.mp4`, answer as an index."""
    options = [row.text(f"a{number}").strip() for number in range(5)]
    text = f"{row.text('question').strip()}\n{_lettered(options)}"
    name = row.text("video")
    medium = Medium(Path("NExTVideo", f"{name}.mp4"))
    return _ask(
        row, f"{name}-{row.text('qid')}", medium, text, options, row.index("answer", 5), {"type": row.text("type")}
    )


def tomato(row: Row) -> BenchmarkQuestion:
    """TOMATO: `video_path` from the folder, answer as an index. The system prompt of the benchmark is not used: a
    model keeps the template of its training."""
    options = row.texts("options")
    listed = dict(zip(LETTERS, options, strict=False))
    text = (
        "You will be provided with frames uniformly sampled from a video, the frames are provided in chronological "
        "order of the video. Analyze these frames and provide the answer to the question about the video content. "
        "Answer the multiple-choice question about the video content.\n\n"
        "You must use these frames to answer the multiple-choice question; do not rely on any externel knowledge or "
        f"commonsense. \n\n<question> \n{row.text('question')} \n</question>\n\n<options> \n{listed} \n</options>\n\n"
        "Even if the information in these separate frames is not enough to answer the question, PLEASE TRY YOUR BEST "
        "TO GUESS AN ANSWER WHICH YOU THINK WOULD BE THE MOST POSSIBLE ONE BASED ON THE QUESTION. \n\n"
        "DO NOT GENERATE ANSWER SUCH AS 'NOT POSSIBLE TO DETERMINE.' \n"
    )
    groups = {name: row.text(name) for name in ("reason_type", "demonstration_type")}
    medium = Medium(Path(row.text("video_path")))
    return _ask(row, row.text("id"), medium, text, options, row.index("answer", len(options)), groups)


def mlvu(row: Row) -> BenchmarkQuestion:
    """MLVU, multiple choice: `video_name` from the folder, options inside the question, answer as a letter."""
    options = row.labelled("question")
    text = f"{row.text('question')}\nOnly give the best option.\nBest option: ("
    medium = Medium(Path(row.text("video_name")))
    groups = {"task_type": row.text("task_type")}
    return _ask(row, row.name, medium, text, options, row.letter("answer", len(options)), groups)


def longvideobench(row: Row) -> BenchmarkQuestion:
    """LongVideoBench, validation, without subtitles: `videos/{video_path}`, `option0` to `option4` ("N/A" or missing if
    there are fewer), answer as an index."""
    given = [row.fields.get(f"option{number}", ABSENT) for number in range(5)]
    count = given.index(ABSENT) if ABSENT in given else 5
    options = [row.text(f"option{number}") for number in range(count)]
    text = (
        f"{row.text('question')}\n{_lettered(options)}\n"
        "Answer with the option's letter from the given choices directly.\n"
    )
    groups = {name: row.text(name) for name in ("duration_group", "question_category")}
    medium = Medium(Path("videos", row.text("video_path")))
    return _ask(row, row.text("id"), medium, text, options, row.index("correct_choice", count), groups)
