"""Fields and texts that training would ignore or misread are errors; notes are allowed."""

import json
import time

import pytest
from shared import SPEC

from fvv_lib import DataArguments, DataFormatError, LabelMismatchError, LazySupervisedDataset
from fvv_lib.data.annotations import check_sample
from fvv_lib.data.choices import check_questions
from fvv_lib.data.refused import MEDIA_TAG
from fvv_lib.data.report import check_data, format_ignored, ignored_fields
from fvv_lib.prompt.placeholders import IGNORE_INDEX


def sample(question="Which way?", answer="To the left.", **rest):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **rest}


@pytest.fixture
def make(tokenizer, annotate, media):
    def build(samples, words=tokenizer, **settings):
        return LazySupervisedDataset(words, [annotate(samples)], DataArguments(**settings), frame_spec=SPEC)

    return build


# --- keys and tags of other formats -----------------------------------------------------------------------------------

PATHS = ["videos", "images", "image_path", "video_path", "media", "audio", "audios", "image_url", "imagePaths", "Video"]


@pytest.mark.parametrize(
    "key", [*PATHS, "IMAGE", "image-file", "video_list", "frames", "media_path", "img", "audio_path"]
)
@pytest.mark.parametrize("beside", [{}, {"video": "clip.mp4"}])
def test_media_under_another_key_are_refused(make, key, beside):
    question = "<image>?" if beside else "?"
    with pytest.raises(DataFormatError, match=rf"data\.json, sample 0: '{key}' is not read\. .*'image' or 'video'"):
        make([sample(question, **beside, **{key: ["clip.mp4"]})])


WORDS = [
    "image_1",
    "image1",
    "video_1",
    "video_file_path",
    "image_file_path",
    "left_image",
    "input_image",
    "first_frame",
]
WORDS += [
    "frames_dir",
    "video_dir",
    "video_clip",
    "mm_data",
    "multi_modal_data",
    "screenshot",
    "pixel_values",
    "visual",
]
WORDS += ["visuals", "leftImageURLs", "observation.images.top", "video_file_name", "videopath"]


@pytest.mark.parametrize("key", WORDS)
@pytest.mark.parametrize("value", ["clip.mp4", ["clip.mp4"], {"path": "clip.mp4"}])
def test_a_key_with_a_word_for_media_is_refused(make, key, value):
    with pytest.raises(DataFormatError, match=f"sample 0: '{key}' is not read"):
        make([sample(**{key: value})])


@pytest.mark.parametrize("fields", [{"metadata": {"video": "a.mp4"}}, {"a": {"b": [[{"left_image": "a.png"}]]}}])
def test_media_inside_a_field_are_refused_if_a_sample_has_no_other(make, fields):
    """Beside an image or video, they say where it comes from."""
    with pytest.raises(DataFormatError, match=r"sample 0, in '(metadata|a', in 'b)': '(video|left_image)' is not read"):
        make([sample(**fields)])
    assert len(make([sample("<image>?", video="clip.mp4", **fields)])) == 1


KEYS_OF_PATHS = ["left_image", "first_frame", "screenshot", "visuals", "vid", "picture", "observation.images.top"]


@pytest.mark.parametrize("key", KEYS_OF_PATHS)
@pytest.mark.parametrize("beside", [{}, {"video": "clip.mp4"}])
def test_a_path_or_data_under_a_longer_key_is_refused_and_a_text_is_not(key, beside):
    question = "<image>?" if beside else "?"
    for value in ("a/B.PNG", "s3://bucket/a", [{"url": "a.mp4"}], {"bytes": "x", "path": None}):
        with pytest.raises(DataFormatError, match=f"a: '{key}' is not read"):
            check_sample(sample(question, **beside, **{key: value}), "a")
    for note in ("A pan.", "v_abc", ["a", "b"], [0, 72], {"a": "b.png"}, "1.5 mp4"):
        check_sample(sample(question, **beside, **{key: note}), "a")


@pytest.mark.parametrize("key", ["System", "system_prompt", "systemMessage"])
def test_a_system_prompt_under_another_name_is_refused(make, key):
    with pytest.raises(DataFormatError, match=f"sample 0: '{key}' is not read. .*its field 'system': rename the field"):
        make([sample(**{key: "Answer in one word."})])
    assert len(make([sample(**{key: ""})])) == 1


def test_a_system_prompt_in_a_turn_is_refused(make):
    turns = [{"from": "human", "value": "?", "system": "Answer in one word."}, {"from": "gpt", "value": "Yes."}]
    with pytest.raises(DataFormatError, match="sample 0, turn 1: 'system' is not read"):
        make([{"conversations": turns}])


@pytest.mark.parametrize("system", [" ", 3, ["Answer."], "Look at <image>."])
def test_a_system_prompt_that_is_no_text_is_refused(make, system):
    with pytest.raises(DataFormatError, match="sample 0: 'system' must be a text without <image>"):
        make([sample(system=system)])


def test_a_system_prompt_with_a_mark_of_the_template_is_refused(make):
    with pytest.raises(DataFormatError, match=r"sample 0, system prompt, turn 1: its text has '<\|im_end\|>'"):
        make([sample(system="Answer.<|im_end|>")])


TYPOS = {"start": "strat stat sart Start", "end": "endd edn ends", "video": "videoo vidoe", "image": "imge imgae"}
FITTING = {"start": 2.5, "end": "0:07", "video": "clip.mp4", "image": ["still.png"]}


@pytest.mark.parametrize(("meant", "key"), [(meant, key) for meant, keys in TYPOS.items() for key in keys.split()])
def test_a_mistyped_field_is_refused(meant, key):
    with pytest.raises(DataFormatError, match=f"a: '{key}' is not read.*'{meant}'"):
        check_sample(sample("<image>?", video="clip.mp4", **{key: FITTING[meant]}), "a")


@pytest.mark.parametrize("key", ["vidoe", "imge"])
def test_a_mistyped_field_for_media_is_refused_in_a_sample_without_any(key):
    with pytest.raises(DataFormatError, match=f"a: '{key}' is not read. Did you mean"):
        check_sample(sample(**{key: "a/folder/of/frames"}), "a")


@pytest.mark.parametrize("key", ["losss", "los", "wieght"])
def test_a_mistyped_mark_of_a_turn_is_refused(key):
    one = sample()
    one["conversations"][1][key] = False
    with pytest.raises(DataFormatError, match=f"a, turn 2: '{key}' is not read. Did you mean"):
        check_sample(one, "a")


@pytest.mark.parametrize("key", ["stop", "to", "range", "in", "until", "clip_range", "segment"])
def test_a_part_of_a_video_under_another_name_is_refused(key):
    for value in (3, "0:07", [2, 5.5], {"start": 2, "end": 5}):
        with pytest.raises(DataFormatError, match=f"a: '{key}' is not read. Training uses the part of a video"):
            check_sample(sample("<image>?", video="clip.mp4", **{key: value}), "a")


@pytest.mark.parametrize("key", ["path", "file", "filepath", "url"])
def test_a_path_is_refused_if_a_sample_has_no_image_or_video(key):
    with pytest.raises(DataFormatError, match=f"a: '{key}' is not read"):
        check_sample(sample(**{key: "clip.mp4"}), "a")
    check_sample(sample("<image>?", video="other.mp4", **{key: "clip.mp4"}), "a")


LIKE_KNOWN = {"source": "clip.mp4", "duration": 3.5, "stats": {"stars": 3}, "kind": "motion", "videoid": "x1", "idx": 4}
LIKE_KNOWN |= {
    "category": "a",
    "stage": 3,
    "page": 3,
    "state": "CA",
    "language": "en",
    "en": "x",
    "to": "gpt",
    "split": "a",
}


def test_notes_are_allowed_and_counted():
    """A note may be like a known field if its value cannot be one of that field."""
    noted = sample("<image>?", video="clip.mp4", **LIKE_KNOWN)
    noted["conversations"][0]["tokens"] = 3
    check_sample(noted, "a")
    counts = ignored_fields([noted, sample(duration=1, id="b", kinds=["x"])])
    assert counts == dict.fromkeys([*LIKE_KNOWN, "tokens of a turn"], 1) | {"duration": 2}
    assert format_ignored(counts, limit=1) == f"ignored fields: duration (2), and {len(LIKE_KNOWN)} more"


def test_turns_under_another_key_are_refused_with_the_remedy():
    for key, remedy in [("conversation", "rename this field"), ("messages", "only 'messages', 'path'.*fvv prepare")]:
        with pytest.raises(DataFormatError, match=f"a: it has no 'conversations'.*{remedy}"):
            check_sample({key: sample()["conversations"], "path": "clip.mp4"}, "a")


@pytest.mark.parametrize(("key", "meant"), [("fsp", "fps"), ("frame", "frames"), ("start", None)])
def test_an_unknown_key_of_a_video_of_images_is_refused(key, meant):
    hint = rf" \(did you mean '{meant}'\?\)" if meant else ""
    with pytest.raises(DataFormatError, match=rf"but it has '{key}'{hint}\. Write 'start'"):
        check_sample(sample("<image>?", video={"frames": ["a.png"], key: 2}), "a")


@pytest.mark.parametrize("fields", [{"kind": "order"}, {"choice": ["a", "b"]}, {"Kinds": ["order"]}])
def test_mistyped_fields_of_a_test_set_are_refused(fields):
    with pytest.raises(DataFormatError, match=f"a: '{next(iter(fields))}' is not read. Did you mean '(kinds|choices)'"):
        check_questions(sample(**fields), "a")


@pytest.mark.parametrize("path", ["", " ", ".", "./", "..", "clips/..", "/"])
@pytest.mark.parametrize("key", ["image", "video"])
def test_a_path_that_names_no_file_is_refused(make, key, path):
    """It would name the folder of the data. A folder of images is read as a video."""
    for value in (path, [path]):
        with pytest.raises(DataFormatError, match=f"sample 0: '{key}' must be a path .*take the field out"):
            make([sample("<image>?", **{key: value})])


@pytest.mark.parametrize("key", ["image", "video", "images", "audio"])
def test_media_in_a_turn_are_refused(make, key):
    one = sample()
    one["conversations"][0][key] = "clip.mp4"
    with pytest.raises(DataFormatError, match=f"sample 0, turn 1: '{key}' is not read"):
        make([one])


def test_both_kinds_of_media_are_refused_but_null_is_none(make):
    with pytest.raises(DataFormatError, match="both 'image' and 'video'"):
        make([sample("<image><image>?", image="still.png", video="clip.mp4")])
    assert len(make([sample("<image>?", image=None, video="clip.mp4", videos=None)])) == 1


PARTS = ["Start", "END", "video_start", "video_end", "start_time", "clip_end", "endFrame", "frame_start", "frame_end"]
PARTS += ["timestamp_start", "start_time_ms", "timestamps", "time_range", "segment"]


@pytest.mark.parametrize("key", [*PARTS, "from_timestamp", "segments", "starttime"])
def test_a_part_of_a_video_under_another_key_is_refused(make, key):
    with pytest.raises(DataFormatError, match=f"sample 0: '{key}' is not read. .*'start' to 'end' of the sample"):
        make([sample("<image>?", video="clip.mp4", **{key: 0})])
    for value in (2.5, "00:12", "0:01:02.500", "3.5", "12", "12s", [1, 2], [[0, 3], ["0:05", 9]]):
        with pytest.raises(DataFormatError, match=f"a: '{key}' is not read. .*'start' to 'end' of the sample"):
            check_sample(sample("<image>?", video="clip.mp4", **{key: value}), "a")
        check_sample(sample(**{key: value}), "a")  # no video, so no part of one


NO_PARTS = [{"segments": []}, {"timestamps": []}, {"segments": False}, {"segment": "train"}, {"segment_index": 3}]
NO_PARTS += [
    {"end_index": 2},
    {"start_time": "2024"},
    {"clip_end": "open"},
    {"segments": [{"text": "Hi.", "start": 0}]},
]
NO_PARTS += [{"meta": {"start": 1}}, {"start_time": "2024-05-01"}, {"video_end": ""}, {"start": None, "end": None}]


@pytest.mark.parametrize("key", ["start", "end"])
def test_a_part_of_a_video_in_a_turn_is_refused(key):
    one = sample("<image>?", video="clip.mp4")
    one["conversations"][0][key] = 1.5
    with pytest.raises(DataFormatError, match=f"a, turn 1: '{key}' is not read. .*'start' to 'end' of the sample"):
        check_sample(one, "a")


@pytest.mark.parametrize("fields", NO_PARTS)
def test_a_note_that_is_no_time_is_allowed(make, fields):
    assert len(make([sample("<image>?", video="clip.mp4", **fields)])) == 1


def test_notes_are_allowed(make):
    notes = {"videos": [], "images": None, "audio": False, "frames": 120, "fps": 25, "duration": 3.0, "source": "x.mp4"}
    notes |= {"video_id": "v1", "image_id": 3, "media_type": "video", "ending": "open", "weights": "none", "id": "a"}
    notes |= {
        "metadata": {"fps": 25, "title": "Cooking", "video": None},
        "from": "web",
        "send": "yes",
        "modal": "video",
    }
    notes |= {"image_caption": "A pan.", "video_source": "web", "frame_rate": "25/1", "images_per_video": 3}
    assert len(make([sample(**notes)])) == 1


# Fields that say something about a sample in public data sets and benchmarks.
NOTES = {
    "LLaVA-Video-178K": {"id": "a", "data_source": "0_30_s_academic_v0_1"},
    "M4-Instruct": {
        "sample_id": "a_0",
        "choice_list": None,
        "metadata": {"dataset": "Spot-the-Diff", "split": "train", "num_sample": 9, "task_instruction": "Look."},
    },
    "FineVideo": {
        "original_video_filename": "x.mp4",
        "original_json_filename": "x.json",
        "text_to_speech": "Hello.",
        "timecoded_text_to_speech": [{"start": "00:00:00.640", "end": "00:00:04.080", "text": "Hello."}],
        "content_metadata": {
            "scenes": [{"timestamps": {"start_timestamp": "00:00:00.000", "end_timestamp": "00:00:10.400"}}],
            "qAndA": [{"question": "What?", "answer": "A pan."}],
        },
        "duration_seconds": 100,
        "resolution": "640x360",
        "youtube_channel": "x",
    },
    "QVHighlights": {
        "qid": 8737,
        "query": "A pan.",
        "vid": "v_abc_360.0_510.0",
        "duration": 150,
        "relevant_clip_ids": [1, 2],
        "saliency_scores": [[1, 4, 2]],
        "relevant_windows": [[2, 6]],
    },
    "transcripts": {"audio_transcript": "Hi.", "video_transcript": ["Hi."], "has_audio": "no", "video_bitrate": "1k"},
    "questions": {"video_qa": [{"q": "What?", "a": "A pan."}], "visual_reasoning": "First ...", "video_task": "count"},
    "visual": {"visual_elements": ["pan"], "video_genre": "food", "video_time": "12:30", "video_channel": "x"},
    "images": {"image_ocr": "EXIT", "image_orientation": "up", "image_context": {"a": "b"}, "video_subtitles": "a.srt"},
    "provenance": {"metadata": {"video": "orig.mp4"}},
    "links": {"video_link": "https://example.com/watch?v=a", "video_thumbnail": "https://example.com/a.jpg"},
    "ShareGPT4Video": {"video_id": "a", "timestamp": ["0:00", "0:03"], "keyframe": [0, 72], "zip_folder": "a.zip"},
    "captions": {"captions": [{"idx": "-1", "content": "A pan."}]},
    "VideoInstruct100K": {"q": "What?", "a": "A pan.", "video_id": "v_1"},
    "VideoChat2": {"QA": [{"i": "Look.", "q": "What?", "a": "A pan."}]},
    "InternVL": {"width": 640, "height": 360, "width_list": [640], "height_list": [360], "length": 9},
    "VTimeLLM": {"source": "internvid", "meta": {"duration": 9.4, "token": {"<s0>": 0, "<e0>": 9.4}}},
    "Video-MME": {"videoID": "x", "duration": "short", "domain": "Life", "sub_category": "Food", "task_type": "Count"},
    "MLVU": {"video_name": "x", "question_type": "order", "task": "order"},
    "TempCompass": {"dim": "direction", "mc_question": "?"},
    "NExT-QA": {"vid": "4010069381", "a0": "pan", "qid": 3, "type": "TN", "frame_count": 90, "width": 640},
    "LongVideoBench": {"duration_group": 60, "correct_choice": 1, "option0": "N/A"},
    "LeRobot": {"episode_index": 3, "task_index": 0, "fps": 30},
    "Qwen": {"max_pixels": 50176, "nframes": 8, "resized_height": 280},
    "ms-swift": {"channel": "chat", "objects": {"ref": ["pan"], "bbox": [[0, 0, 9, 9]]}},
}


@pytest.mark.parametrize("source", NOTES)
def test_notes_of_public_data_are_allowed(make, source):
    assert len(make([sample("<image>?", video="clip.mp4", **NOTES[source])])) == 1


def test_the_data_of_the_course_are_allowed(data_samples):
    for name in ("train", "val", "test"):
        for one in json.loads((data_samples / f"{name}.json").read_text()):
            check_sample(one, name)


@pytest.mark.parametrize(
    "tag",
    [
        *("<video>", "<Image>", "<|video_pad|>", "<image_soft_token>", "<|image_pad|>", "<audio>", "<ImageHere>"),
        *("<image_placeholder>", "<|image_1|>", "<image 1>", "<image_00>", "<IMG_CONTEXT>", "<|vision_start|>"),
        *("<start_of_image>", "<end_of_image>", "<im_patch>", "<im_start>", "<vid_patch>", "<videos>", "<VIDEO>"),
        *("<|AUDIO|>", "<|media_pad|>", "<vila/video>", "<img>a.png</img>", "<|image|>", "<video_1>", "<image:0>"),
        *("<image_newline>", "<|im_patch|>", "<|begin_of_video|>", "\n[IMG]", "\n[IMG_END]"),
    ],
)
@pytest.mark.parametrize("turn", [0, 1])
def test_a_tag_that_is_not_read_is_refused(make, tag, turn):
    texts = [["Hm?", "It is."], [f"{tag}\nHm?", "It is."], ["Hm?", f"It is {tag}."]][turn + 1]
    with pytest.raises(
        DataFormatError, match=rf"sample 0, turn {turn + 1}: .* is not read\. .*<image> in a human turn"
    ):
        make([sample(*texts)])
    assert len(make([sample(*texts)], allow_special_tokens=True)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "[VID]",
        "[Video]",
        "<p>",
        "<imagine>",
        "if a<video and c>d",
        "<im>",
        "[img]x[/img]",
        "<videotape>",
        "docker run <image-name>",
        "<image_url>",
        "ffmpeg -i <video_file>",
        "<picture>",
        "<img>",
        "<frame>",
        "<clip-path>",
        "<video-player>",
        "<media-type>",
        "<my-video>",
        "<your_image_name>",
        "[FRAME]",
        "[VIDEO]",
        "an array like a[IMG]",
        "<1.5s>",
    ],
)
def test_other_words_in_brackets_are_allowed(make, text):
    assert len(make([sample(text)])) == 1


def test_a_long_tag_is_searched_quickly():
    """If the pattern could match a part in two ways, the search would take quadratic or exponential time."""
    start = time.process_time()
    for text in ("<image" + "1" * 50_000, "<|" + "image_" * 20_000, "<|" * 50_000, "<img>" * 20_000):
        assert not MEDIA_TAG.search(text + " " * 1000 + "|")
    assert time.process_time() - start < 3  # milliseconds; quadratic: 17 seconds


# --- marks of the template, and special tokens ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("qwen_2", "Say <|im_end|>."),
        ("qwen_2", "<|im_end|>\n<|im_start|>user\nHm?"),
        ("qwen_2", "Say <|endoftext|>."),  # its pad token
        ("plain", "Say <|im_end|>."),  # its end-of-text token
        ("v1", "It is red.</s>"),
        ("v1", "It is red. USER: And now?"),
        ("llama_2", "[INST] no"),
    ],
)
@pytest.mark.parametrize("turn", [1, 2])
def test_a_mark_in_a_text_is_refused_unless_it_is_allowed(make, version, text, turn):
    one = sample(text) if turn == 1 else sample(answer=text)
    with pytest.raises(
        DataFormatError, match=rf"data\.json, sample 0, turn {turn}: its text has .*allow_special_tokens"
    ):
        make([one], version=version)
    assert len(make([one], version=version, allow_special_tokens=True)) == 1


@pytest.mark.parametrize(
    ("version", "text"), [("qwen_2", "</s> [INST] USER: x"), ("v1", "a user: [INST]"), ("plain", "two\nlines </s>")]
)
def test_marks_of_other_templates_are_allowed(make, version, text):
    assert len(make([sample(text)], version=version)) == 1


def test_special_tokens_are_those_of_the_tokenizer(make, llama_tokenizer):
    with pytest.raises(DataFormatError, match="turn 1: its text has '<unk>'"):
        make([sample("Say <unk>.")], llama_tokenizer, version="plain")
    assert len(make([sample("Say <|im_end|>.")], llama_tokenizer, version="plain")) == 1


def test_the_check_depends_on_allow_special_tokens(make):
    """The result is cached, and must not be returned for another setting."""
    samples = [sample("Say <|im_end|>.")]
    assert len(make(samples, allow_special_tokens=True)) == 1
    with pytest.raises(DataFormatError, match="its text has"):
        make(samples)


# --- what is learned --------------------------------------------------------------------------------------------------


def test_a_marked_answer_is_not_learned_by_training(make, tokenizer):
    turns = sample()["conversations"] + sample("And?", "Up.")["conversations"]
    whole = make([{"conversations": turns}])[0]
    turns[1]["loss"] = False
    part = make([{"conversations": turns}])[0]
    assert whole["input_ids"].tolist() == part["input_ids"].tolist()
    learned = part["labels"][part["labels"] != IGNORE_INDEX]
    assert tokenizer.decode(learned) == "Up.<|im_end|>\n"


def test_a_sample_in_which_nothing_is_learned_is_left_out_and_listed(make):
    silent = sample(id="silent")
    silent["conversations"][1]["weight"] = 0
    data = make([sample(id="good"), silent])
    assert len(data) == 1
    assert [name.split("sample ")[1] for name in data.dropped] == ["silent"]
    (report,) = [report for report in check_data(data, quiet=True) if report.problem]
    assert report.problem.endswith("sample silent: dropped because no answer is marked as learned")
    with pytest.raises(
        LabelMismatchError, match=r"Every answer is marked as not learned, the first in .*sample silent"
    ):
        make([silent])


@pytest.mark.parametrize("key", ["train", "mask", "loss_mask", "loss_scale", "trainable", "lossWeight"])
def test_other_keys_for_what_is_learned_are_refused(make, key):
    one = sample()
    one["conversations"][1][key] = 0
    with pytest.raises(DataFormatError, match=f"sample 0, turn 2: '{key}' is not read. .*\"loss\": false"):
        make([one])


@pytest.mark.parametrize("key", ["loss", "weight", "loss_mask"])
def test_a_whole_sample_cannot_be_marked(make, key):
    with pytest.raises(DataFormatError, match=f"sample 0: '{key}' is not read. .*\"loss\": false"):
        make([sample(**{key: 0})])
