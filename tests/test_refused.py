"""Fields and texts that training would ignore or misread are errors; notes are allowed."""

import pytest
from conftest import SPEC

from fvv_lib import DataArguments, DataFormatError, LabelMismatchError, LazySupervisedDataset
from fvv_lib.data.refused import MEDIA_TAG
from fvv_lib.data.report import check_data
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


@pytest.mark.parametrize("key", ["start", "end", "video_start", "video_end", "start_time", "clip_end", "endFrame"])
def test_a_part_of_a_video_is_refused(make, key):
    with pytest.raises(DataFormatError, match=f"sample 0: '{key}' is not read: training uses the whole video"):
        make([sample("<image>?", video="clip.mp4", **{key: 0})])


def test_notes_are_allowed(make):
    notes = {"videos": [], "images": None, "audio": False, "frames": 120, "fps": 25, "duration": 3.0, "source": "x.mp4"}
    notes |= {"video_id": "v1", "image_id": 3, "media_type": "video", "ending": "open", "weights": "none", "id": "a"}
    assert len(make([sample(**notes)])) == 1


@pytest.mark.parametrize(
    "tag",
    [
        *("<video>", "<Image>", "<|video_pad|>", "<image_soft_token>", "<|image_pad|>", "<audio>", "<ImageHere>"),
        *("<image_placeholder>", "<|image_1|>", "<image 1>", "<image_00>", "<IMG_CONTEXT>", "<|vision_start|>"),
        *("<start_of_image>", "<im_patch>", "<im_start>", "[IMG]", "<videos>", "<VIDEO>", "</image>", "<|AUDIO|>"),
        *("<image/>", "<|media_pad|>", "<vila/video>", "<img>", "<|image|>", "<frame>", "<video_1>"),
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
    "text", ["a < b", "<p>", "<imagine>", "if a<video and c>d", "<im>", "[img]x[/img]", "<videotape>", "<1.5s>"]
)
def test_other_words_in_brackets_are_allowed(make, text):
    assert len(make([sample(text)])) == 1


def test_a_long_tag_is_searched_quickly():
    """If the pattern could match a digit in two ways, the search would take exponential time."""
    assert not MEDIA_TAG.search("<image" + "1" * 50_000 + " " * 1000 + "|")


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
