"""Annotation files of other projects become samples of this library, and lose nothing without saying so."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from shared import ROOT
from test_guides import commands

from fvv_lib import DataFormatError, FvvError, import_annotations
from fvv_lib.data.annotations import read_annotations
from fvv_lib.data.importing.sources import DIALECTS

QUESTION, ANSWER = "What falls?", "A pan."
V = "<image>\n"


@pytest.fixture(scope="module")
def shared_clips(tmp_path_factory, media_written_once):
    """Clips and pictures under the names that the examples of the formats use."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("a.mp4", "b.mp4", "k/7.mp4", "007401/0021.mp4", "v_1.mkv", "videos/top/chunk-000/file-000.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(media_written_once / "clip.mp4", folder / name)
    for name in ("a.png", "b/1.png", "b/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(media_written_once / "still.png", folder / name)
    return folder


@pytest.fixture
def clips(shared_clips, tmp_path):
    shutil.copytree(shared_clips, tmp_path, dirs_exist_ok=True)
    return tmp_path


def put(path, content):
    """Write records as the extension says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(record)}\n" for record in content))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def said(question=V + QUESTION, answer=ANSWER):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def messages(question, answer=ANSWER):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def read(path):
    return [sample for _, sample in read_annotations(path)]


def prepared(folder, source, **settings):
    report = import_annotations([source], folder / "out.json", **settings)
    return read(folder / "out.json"), report


# --- each format, in its public layout --------------------------------------------------------------------------------

VTIME = {"split": [0.5, 2.5], "duration": 2.0, "token": {"<s0>": 0.0, "<e0>": 1.4}}
SCENES = [
    {
        "title": "A kitchen",
        "timestamps": {"start_timestamp": "00:00:00.500", "end_timestamp": "00:00:02.000"},
        "activities": [{"description": "A pan falls.", "timestamp": {"start_timestamp": "00:00:01.000"}}],
    }
]
FINE = {"original_video_filename": "fv.mp4", "content_fine_category": "Cooking", "content_metadata": {"scenes": SCENES}}
CAPTIONS = [{"idx": "-1", "content": "A pan falls."}, {"idx": "0", "content": "A kitchen."}]

# Name of the format, file, records, settings, expected samples.
EXAMPLES = [
    (
        "llava",
        "in.json",
        [{"id": "k-7", "video": "k/7.mp4", "data_source": "0_30_s_academic_v0_1", "conversations": said()}],
        {},
        [{"id": "k-7", "video": "k/7.mp4", "conversations": said(), "data_source": "0_30_s_academic_v0_1"}],
    ),
    (
        "video-chatgpt",
        "in.json",
        [{"q": QUESTION, "a": ANSWER, "video_id": "v_1"}, {"q": "Where?", "a": "Here.", "video_id": "v_1"}],
        {},
        [
            {"id": "v_1", "video": "v_1.mkv", "conversations": said()},
            {"id": "v_1-2", "video": "v_1.mkv", "conversations": said(V + "Where?", "Here.")},
        ],
    ),
    (
        "videochat2",
        "in.json",
        [
            {
                "video": "a.mp4",
                "start": 0.5,
                "end": 2.5,
                "QA": [{"i": "Be brief.", "q": QUESTION, "a": ANSWER}, {"i": "", "q": "Where?", "a": "Here."}],
            },
            {"image": "a.png", "QA": [{"i": "", "q": "", "a": "A pan."}]},
        ],
        {"question": "What is it?"},
        [
            {
                "id": "in-0",
                "video": "a.mp4",
                "start": 0.5,
                "end": 2.5,
                "system": "Be brief.",
                "conversations": said() + said("Where?", "Here."),
            },
            {"id": "in-1", "image": "a.png", "conversations": said(V + "What is it?")},
        ],
    ),
    (
        "llama-factory",
        "in.json",
        [
            {"messages": messages(f"<video>{QUESTION}"), "videos": ["a.mp4"]},
            {
                "messages": [{"role": "system", "content": "Be brief."}, *messages("<video> or <image>?")],
                "images": ["a.png"],
                "videos": [["b/1.png", "b/2.png"]],
            },
        ],
        {},
        [
            {"id": "in-0", "video": "a.mp4", "conversations": said(f"<image>{QUESTION}")},
            {
                "id": "in-1",
                "video": [{"frames": ["b/1.png", "b/2.png"]}, "a.png"],
                "system": "Be brief.",
                "conversations": said("<image> or <image>?"),
            },
        ],
    ),
    (
        "llama-factory",
        "alpaca.json",
        [
            {
                "instruction": f"<video>{QUESTION}",
                "input": "Look well.",
                "output": ANSWER,
                "history": [["Ready?", "Yes."]],
                "videos": ["a.mp4"],
            }
        ],
        {},
        [
            {
                "id": "alpaca-0",
                "video": "a.mp4",
                "conversations": said("Ready?", "Yes.") + said(f"<image>{QUESTION}\nLook well."),
            }
        ],
    ),
    (
        "ms-swift",
        "in.jsonl",
        [
            {"messages": messages(QUESTION), "videos": ["a.mp4"]},
            {
                "messages": [*messages("Ready?", "Yes."), *messages(f"<video>{QUESTION}")],
                "videos": [["b/1.png", "b/2.png"]],
            },
        ],
        {},
        [
            {"id": "in-0", "video": "a.mp4", "conversations": said()},
            {
                "id": "in-1",
                "video": {"frames": ["b/1.png", "b/2.png"]},
                "conversations": said("Ready?", "Yes.") + said(f"<image>{QUESTION}"),
            },
        ],
    ),
    (
        "ms-swift",
        "marked.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": "Ready?"},
                    {"role": "assistant", "content": "Yes.", "loss": False},
                    *messages(QUESTION),
                ]
            }
        ],
        {},
        [
            {
                "id": "marked-0",
                "conversations": [
                    {"from": "human", "value": "Ready?"},
                    {"from": "gpt", "value": "Yes.", "loss": False},
                    *said(QUESTION),
                ],
            }
        ],
    ),
    (
        "ms-swift",
        "query.jsonl",
        [{"system": "Be brief.", "query": QUESTION, "response": ANSWER, "history": [["A?", "B."]], "videos": "a.mp4"}],
        {},
        [
            {
                "id": "query-0",
                "video": "a.mp4",
                "system": "Be brief.",
                "conversations": said(V + "A?", "B.") + said(QUESTION),
            }
        ],
    ),
    (
        "ms-swift",
        "pairs.jsonl",
        [{"conversation": [{"system": "Be brief."}, {"human": QUESTION, "assistant": ANSWER}]}],
        {},
        [{"id": "pairs-0", "system": "Be brief.", "conversations": said(QUESTION)}],
    ),
    (
        "qwen-vl",
        "in.json",
        [
            {"video": "a.mp4", "conversations": said(f"<video>\n{QUESTION}")},
            [
                {"image": "a.png", "conversations": said()},
                {"video": ["a.mp4", "b.mp4"], "conversations": said("<video><video>Which?")},
            ],
        ],
        {},
        [
            {"id": "in-0", "video": "a.mp4", "conversations": said()},
            {"id": "in-1-0", "image": "a.png", "conversations": said()},
            {"id": "in-1-1", "video": ["a.mp4", "b.mp4"], "conversations": said("<image><image>Which?")},
        ],
    ),
    (
        "lmms-finetune",
        "in.json",
        [
            {
                "system_prompt": "Be brief.",
                "image": "a.png",
                "video": "a.mp4",
                "conversations": said("<video> or <image>?"),
            }
        ],
        {},
        [
            {
                "id": "in-0",
                "video": ["a.mp4", "a.png"],
                "system": "Be brief.",
                "conversations": said("<image> or <image>?"),
            }
        ],
    ),
    (
        "valley",
        "in.json",
        [
            {
                "id": "1",
                "v_id": "0021",
                "video": "007401/0021",
                "source": "webvid",
                "conversations": said(f"{QUESTION}\n<video>"),
            }
        ],
        {},
        [
            {
                "id": "1",
                "video": "007401/0021.mp4",
                "conversations": said(f"{QUESTION}\n<image>"),
                "v_id": "0021",
                "source": "webvid",
            }
        ],
    ),
    (
        "openai",
        "in.jsonl",
        [
            {
                "messages": [
                    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                    {
                        "role": "user",
                        "content": [
                            {"type": "video", "video": "file://b.mp4", "video_start": 0.5},
                            {"type": "text", "text": "or "},
                            {"type": "image"},
                            {"type": "text", "text": "?"},
                        ],
                    },
                    {"role": "assistant", "content": ANSWER},
                ],
                "images": ["a.png"],
            }
        ],
        {},
        [
            {
                "id": "in-0",
                "video": ["b.mp4", "a.png"],
                "start": [0.5, None],
                "system": "Be brief.",
                "conversations": said("<image>\nor <image>\n?"),
            }
        ],
    ),
    (
        "openai",
        "preferred.jsonl",
        [
            {
                "prompt": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}],
                "chosen": [{"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}],
                "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A cup."}]}],
                "videos": ["a.mp4"],
            }
        ],
        {},
        [{"id": "preferred-0", "video": "a.mp4", "conversations": said()}],
    ),
    (
        "vtimellm",
        "in.json",
        [{"id": "v_1", "meta": VTIME, "conversations": said(f"<video>\n{QUESTION}", "It falls from <s0> to <e0>.")}],
        {},
        [
            {
                "id": "v_1",
                "video": "v_1.mkv",
                "start": 0.5,
                "end": 2.5,
                "conversations": said(answer="It falls from 0.0s to 1.4s."),
            }
        ],
    ),
    (
        "sharegpt4video",
        "in.jsonl",
        [
            {
                "video_id": "a",
                "video_path": "a.mp4",
                "timestamp": ["00:00:00.000", "00:00:02.000"],
                "keyframe": [0, 16],
                "captions": CAPTIONS,
                "zip_folder": "mixit.zip",
            }
        ],
        {"question": "What happens?"},
        [
            {
                "id": "a",
                "video": "a.mp4",
                "conversations": said(V + "What happens?", "A pan falls."),
                "zip_folder": "mixit.zip",
            }
        ],
    ),
    (
        "csv",
        "in.csv",
        'path,question,answer,start,end\na.mp4,"What, then?",A pan.,0.5,2.5\nb.mp4,Where?,Here.,,\n',
        {},
        [
            {
                "id": "in-0",
                "video": "a.mp4",
                "start": "0.5",
                "end": "2.5",
                "conversations": said(V + "What, then?"),
            },
            {"id": "in-1", "video": "b.mp4", "conversations": said(V + "Where?", "Here.")},
        ],
    ),
    (
        "csv",
        "in.tsv",
        "clip name\twhat\ttopic\nk/7.mp4\tred pan\tcolour\n",
        {"columns": {"video": "clip name", "answer": "what", "kind": "topic"}, "question": "?", "answer": "A {}."},
        [{"id": "in-0", "video": "k/7.mp4", "conversations": said(V + "?", "A red pan."), "kinds": ["colour"]}],
    ),
]


@pytest.mark.parametrize(
    ("name", "file", "records", "settings", "expected"), EXAMPLES, ids=[f"{one[0]} {one[1]}" for one in EXAMPLES]
)
def test_a_file_in_the_layout_of_a_format_is_recognised_and_becomes_these_samples(
    clips, name, file, records, settings, expected
):
    samples, report = prepared(clips, put(clips / file, records), **settings)
    assert samples == expected
    assert [one["format"] for one in report.sources] == [name]


def test_every_format_has_an_example_here():
    elsewhere = {"finevideo", "lerobot", "folders"}
    assert {example[0] for example in EXAMPLES} | elsewhere == set(DIALECTS)


def put_finevideo(clips):
    content = (clips / "a.mp4").read_bytes()
    about = {
        **FINE,
        "content_metadata": {**FINE["content_metadata"], "qAndA": [{"question": QUESTION, "answer": ANSWER}]},
    }
    return put(clips / "in.parquet", [{"mp4": content, "json": about}, {"mp4": content, "json": about}])


def test_finevideo_bytes_are_written_once_and_scenes_are_segments(clips):
    file, content = put_finevideo(clips), (clips / "a.mp4").read_bytes()
    (first, scene, *again), report = prepared(clips, file, question="What happens?")
    (written,) = (clips / "media").iterdir()
    assert written.read_bytes() == content
    assert first == {
        "id": "fv",
        "video": f"media/{written.name}",
        "conversations": said(),
        "content_fine_category": "Cooking",
    }
    assert (scene["start"], scene["end"]) == ("00:00:00.500", "00:00:02.000")
    assert scene["conversations"] == said(V + "What happens?", "A pan falls.")
    assert [one["id"] for one in again] == ["fv-2", "fv-scene-0-2"]
    assert (report.renamed, report.lost) == (2, {})
    _, report = prepared(clips, file)
    assert report.lost == {"scenes (give a question for them)": 2}


def test_images_of_parquet_are_bytes_without_a_name(clips):
    picture = {"bytes": (clips / "a.png").read_bytes(), "path": None}
    content = [{"type": "image", "text": None}, {"type": "text", "text": QUESTION}]
    asked = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}]
    (sample,), _ = prepared(clips, put(clips / "in.parquet", [{"messages": asked, "images": [picture]}]))
    assert (clips / sample["image"]).read_bytes() == picture["bytes"]
    assert sample["image"].endswith(".png")


def put_lerobot(clips, version="v3.0"):
    features = {"top": {"dtype": "video"}, "action": {"dtype": "float32"}}
    info = {"codebase_version": version, "features": features}
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    put(clips / "meta" / "info.json", info)
    rows = [
        {
            "episode_index": number,
            "tasks": [task],
            "videos/top/chunk_index": 0,
            "videos/top/file_index": 0,
            "videos/top/from_timestamp": start,
            "videos/top/to_timestamp": start + 1.5,
        }
        for number, (task, start) in enumerate([("Lift the cup.", 0.0), ("Drop it.", 1.5)])
    ]
    put(clips / "meta" / "episodes" / "chunk-000" / "file-000.parquet", rows)
    return clips


def test_an_episode_of_lerobot_is_a_segment_of_a_shared_file(clips):
    samples, report = prepared(clips, put_lerobot(clips), question="What does the robot do?")
    assert report.sources[0]["format"] == "lerobot"
    assert [(one["start"], one["end"], one["conversations"][1]["value"]) for one in samples] == [
        (0.0, 1.5, "Lift the cup."),
        (1.5, 3.0, "Drop it."),
    ]
    assert {one["video"] for one in samples} == {"videos/top/chunk-000/file-000.mp4"}
    with pytest.raises(DataFormatError, match=r"it is of LeRobot v2\.1\. Convert it to v3"):
        prepared(clips, put_lerobot(clips, "v2.1"), question="What does the robot do?")


def put_classes(clips):
    for name in ("pouring_water/1.mp4", "waving/2.mp4", "waving/notes.txt"):
        (clips / "classes" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips / "a.mp4", clips / "classes" / name)
    return clips / "classes"


def test_the_names_of_folders_are_classes(clips):
    samples, report = prepared(clips, put_classes(clips), question="What is done?", answer="It is {}.")
    assert report.sources[0]["format"] == "folders"
    choices = [["pouring water", "waving"]]
    assert samples == [
        {
            "id": f"{folder}/{number}.mp4",
            "video": f"classes/{folder}/{number}.mp4",
            "conversations": said(V + "What is done?", f"It is {words}."),
            "kinds": ["class"],
            "choices": choices,
        }
        for number, folder, words in ((1, "pouring_water", "pouring water"), (2, "waving", "waving"))
    ]


# --- lists of data sets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["dataset_info.json", "data.json"])
def test_dataset_info_names_fields_and_roles(clips, given):
    """It is read when it is given, and when it is beside the file that is given."""
    put(
        clips / "data.json", [{"talk": [{"who": "U", "says": QUESTION}, {"who": "B", "says": ANSWER}], "sys": "Brief."}]
    )
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "U", "assistant_tag": "B"}
    entry = {"file_name": "data.json", "formatting": "sharegpt", "columns": {"messages": "talk", "system": "sys"}}
    put(clips / "dataset_info.json", {"mine": {**entry, "tags": tags}})
    (sample,), _ = prepared(clips, clips / given)
    assert (sample["system"], sample["conversations"]) == ("Brief.", said(QUESTION))


def test_a_meta_file_of_internvl_joins_roots_and_becomes_a_mixture(clips):
    record = {"id": 5, "video": "7.mp4", "conversations": said(f"<video>\n{QUESTION}")}
    put(clips / "one.jsonl", [record])
    entry = {"root": "k", "annotation": "one.jsonl", "data_augment": False, "length": 1}
    meta = {
        "half": {**entry, "repeat_time": 0.5},
        "twice": {**entry, "repeat_time": 2},
        "once": {**entry, "repeat_time": 1},
    }
    report = import_annotations([put(clips / "meta.json", meta)], clips / "out.json")
    assert report.data_path == [f"{clips}/out-half.json*0.5", f"{clips}/out-twice.json*2", f"{clips}/out-once.json"]
    expected = [{"id": "5", "video": "k/7.mp4", "conversations": said()}]
    assert read(clips / "out-half.json") == expected
    assert f"--data_path {report.data_path[0]}" in str(report)


@pytest.mark.parametrize(
    ("strategy", "share", "ids"),
    [
        ("all", "", "0123"),
        ("first:2", "", "01"),
        ("end:3", "", "123"),
        ("first:50%", "", "01"),
        ("random:2", "#2", "0123"),
        ("random:25%", "*0.25", "0123"),
    ],
)
def test_a_mixture_of_llava_next_keeps_its_strategies(clips, strategy, share, ids):
    put(clips / "one.json", [{"id": str(number), "video": "a.mp4", "conversations": said()} for number in range(4)])
    entry = {"json_path": "one.json", "sampling_strategy": strategy}
    file = put(clips / "mix.yaml", yaml.safe_dump({"datasets": [entry]}))
    report = import_annotations([file], clips / "out.json")
    (path,) = report.written
    assert report.data_path == [f"{path}{share}"]
    assert "".join(sample["id"] for sample in read(path)) == ids


def test_a_percentage_of_a_file_becomes_a_share(clips):
    put(clips / "one.json", [{"video": "a.mp4", "conversations": said()}])
    report = import_annotations([f"{clips}/one.json%50"], clips / "out.json")
    assert report.data_path == [f"{clips}/out-one.json*0.5"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("meta.json", {"a": {"hf_hub_url": "x/y"}}, "'a' names no file on this disk"),
        ("meta.json", {"a": {"annotation": "gone.jsonl"}}, "'a' names gone.jsonl, which does not exist"),
        ("meta.json", {"id": 3}, "must be a list of samples, or an object that describes"),
        ("mix.yaml", "datasets: [{json_path: gone.json}]", "it names gone.json, which does not exist"),
        ("mix.yaml", "datasets: [{path: x}]", "must have json_path"),
        ("a.csv", "video,answer\na.mp4\n", "line 2: it has not as many cells"),
        ("a.csv", "one,two\na,b\n", "which column has the video and which the answer"),
        ("in.json", [], "at least one sample"),
        ("in.json", [{"text": "no dialogue"}], "no known format fits its first records, which have text"),
    ],
)
def test_an_input_that_cannot_be_read_is_one_clear_error(clips, name, content, message):
    with pytest.raises(DataFormatError, match=message):
        prepared(clips, put(clips / name, content))
    assert not list(clips.glob("out*"))
    assert not list(clips.glob("*.unfinished"))


# --- recognition ------------------------------------------------------------------------------------------------------


def test_a_file_that_fits_two_formats_is_an_error_with_both_reasons(clips):
    record = {"q": QUESTION, "a": ANSWER, "video_id": "v_1", "video": "a.mp4", "QA": [{"q": "Where?", "a": "Here."}]}
    file = put(clips / "in.json", [record])
    with pytest.raises(DataFormatError, match=r"several formats fit: video-chatgpt .*; videochat2 .*--format"):
        prepared(clips, file)
    (sample,), _ = prepared(clips, file, format="videochat2")
    assert sample["conversations"] == said(V + "Where?", "Here.")
    with pytest.raises(DataFormatError, match="Unknown format 'no': choose one of llava, "):
        prepared(clips, file, format="no")


# --- what is kept, and what is counted --------------------------------------------------------------------------------

LOST = [
    ({"tools": "[{}]"}, "tools"),
    ({"rejected_response": "A cup."}, "rejected answers"),
    ({"objects": {"ref": [], "bbox": [[1, 2, 3, 4]]}}, "boxes"),
    ({"meta": {"source": "web"}}, "field 'meta'"),
    ({"timestamps": ["0:01", "0:05"]}, "field 'timestamps'"),
    ({"first_frame": "b/1.png"}, "field 'first_frame'"),
    ({"start": 0.5}, "field 'start'"),
    ({"weight": 0.5}, "field 'weight'"),
    ({"messages": [{**messages(QUESTION)[0], "tokens": {"n": 3}}, messages(QUESTION)[1]]}, "field 'tokens' of a turn"),
]


@pytest.mark.parametrize(("extra", "kind"), LOST)
def test_what_a_sample_cannot_keep_is_counted_and_an_error_if_strict(clips, extra, kind):
    file = put(clips / "in.jsonl", [{"messages": messages(QUESTION), "videos": ["a.mp4"], **extra}])
    samples, report = prepared(clips, file, format="ms-swift")
    assert (len(samples), report.lost) == (1, {kind: 1})
    assert f"not kept of samples: {kind}: 1" in str(report)
    with pytest.raises(DataFormatError, match=f"record 0: it has {kind}, which a sample does not keep"):
        prepared(clips, file, format="ms-swift", strict=True)


def test_notes_of_records_and_turns_are_kept(clips):
    notes = {"source": "web", "duration": 12.5, "labels": ["a", 3], "is_new": True}
    turns = [{**turn, "annotator": "me"} for turn in said()]
    record = {"video": "a.mp4", **notes, "conversations": turns, "empty": [], "null": None}
    (sample,), report = prepared(clips, put(clips / "in.json", [record]), strict=True)
    assert sample == {"id": "in-0", "video": "a.mp4", "conversations": turns, **notes}
    assert not report.lost


@pytest.mark.parametrize("name", ["video-chatgpt", "videochat2", "llama-factory", "openai", "vtimellm", "csv"])
def test_no_format_drops_a_field_without_a_count(clips, name):
    _, file, records, settings, _ = next(example for example in EXAMPLES if example[0] == name)
    if isinstance(records, str):
        head, row, *_ = records.splitlines()
        more = f"{head},source,other\n{row},web,text\n"
    else:
        more = [{**records[0], "source": "web", "other": {"a": 1}}]
    (sample,), report = prepared(clips, put(clips / file, more), **settings)
    assert sample["source"] == "web"
    assert (report.lost == {"field 'other'": 1}) == ("other" not in sample)


def test_what_is_lost_inside_of_a_record_is_counted(clips):
    parts = [{"type": "video", "video": "a.mp4", "fps": 2}, {"type": "text", "text": "?"}]
    record = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": ANSWER}]}
    assert prepared(clips, put(clips / "in.json", [record]))[1].lost == {"field 'fps' of a part": 1}
    questions = [{"i": "Be brief.", "q": "?", "a": "A."}, {"i": "Be long.", "q": "?", "a": "A."}]
    record = {"video": "a.mp4", "QA": questions}
    assert prepared(clips, put(clips / "in.json", [record]))[1].lost == {"instructions of later questions": 1}


def test_another_mark_of_what_is_learned_is_an_error_and_not_lost(clips):
    turns = said()
    turns[1]["train"] = False
    file = put(clips / "in.json", [{"video": "a.mp4", "conversations": turns}])
    with pytest.raises(DataFormatError, match="record 0: it, turn 2: 'train' is not read"):
        prepared(clips, file)


CALL = [{"role": "user", "content": "?"}, {"role": "tool_call", "content": "{}"}]
LEFT_OUT = [
    ({"messages": CALL}, "tool calls"),
    ({"messages": messages("<audio>?"), "audios": ["a.wav"]}, "audio"),
    ({"messages": messages("<video><ref-object>?"), "videos": ["a.mp4"]}, "boxes"),
    ({"messages": messages("?"), "label": False}, "an answer that is marked as bad"),
    (
        {"messages": [*messages("?"), {"role": "system", "content": "Be brief."}, *messages("?")]},
        "a system prompt inside the dialogue",
    ),
]


@pytest.mark.parametrize(("record", "kind"), LEFT_OUT)
@pytest.mark.parametrize("name", ["llama-factory", "ms-swift"])
def test_a_record_that_cannot_be_a_sample_is_left_out_and_listed(clips, record, kind, name):
    file = put(clips / "in.jsonl", [record, {"messages": messages("<video>?"), "videos": ["a.mp4"]}])
    samples, report = prepared(clips, file, format=name)
    assert (len(samples), report.not_kept) == (1, {kind: [f"{file}, record 0"]})
    assert json.loads((clips / "out.import.json").read_text())["not_kept"] == report.not_kept
    with pytest.raises(DataFormatError, match=rf"in.jsonl, record 0: it has {kind}"):
        prepared(clips, file, format=name, strict=True)


BAD = [
    ({"video": "a.mp4", "conversations": said("<image><image>?")}, "more <image> than the record has media"),
    ({"video": "a.mp4", "conversations": said("?")}, "0 tags for 0 images and 1 videos"),
    ({"video": "gone.mp4", "conversations": said()}, "gone.mp4: no such file .*--media_root"),
    ({"video": "a.mp4", "conversations": said()[:1]}, "ends with a question"),
    ({"video": "a.mp4", "conversations": said(answer="<|video_pad|>")}, "which training does not read"),
    ({"video": "a.mp4", "conversations": [{"from": "who", "value": "?"}]}, "must have a known role"),
    ({"video": "a.mp4", "start": 2, "end": 1, "conversations": said()}, "start=2 s must be before"),
    ({"video": 3, "conversations": said()}, "must be a path"),
]


@pytest.mark.parametrize(("record", "message"), BAD)
def test_a_bad_record_is_an_error_or_is_skipped_and_listed(clips, record, message):
    file = put(clips / "in.json", [record, {"video": "a.mp4", "conversations": said()}])
    with pytest.raises(DataFormatError, match=rf"in.json, record 0: .*{message}"):
        prepared(clips, file, format="llava")
    assert not (clips / "out.json").exists()
    samples, report = prepared(clips, file, format="llava", bad_samples="skip")
    assert ([one["id"] for one in samples], list(report.bad)) == (["in-1"], [f"{file}, record 0"])


@pytest.mark.parametrize("name", [name for name in DIALECTS if name not in ("lerobot", "folders")])
@pytest.mark.parametrize("record", [[], [3], {"messages": 3}, {"conversations": [3]}, {"QA": 3}, {"captions": 3}, {}])
def test_a_record_of_another_shape_is_never_an_error_of_another_kind(clips, name, record):
    file = put(clips / "in.jsonl", [record])
    with pytest.raises(DataFormatError, match=r"in\.jsonl, record 0: "):
        prepared(clips, file, format=name)
    with pytest.raises(DataFormatError):
        prepared(clips, file)


def test_each_question_may_be_a_sample_of_its_own(clips):
    record = {"id": "a", "video": "a.mp4", "conversations": said() + said("Where?", "Here."), "kinds": ["x", "y"]}
    samples, _ = prepared(clips, put(clips / "in.json", [record]), one_question_per_sample=True)
    assert samples == [
        {"id": "a-0", "video": "a.mp4", "conversations": said(), "kinds": ["x"]},
        {"id": "a-1", "video": "a.mp4", "conversations": said(V + "Where?", "Here."), "kinds": ["y"]},
    ]


def test_ids_that_repeat_are_made_unique(clips):
    ids = ["a", "a-2", "a", "a", "b"]
    records = [{"id": one, "video": "a.mp4", "conversations": said()} for one in ids]
    samples, report = prepared(clips, put(clips / "in.json", records))
    assert [sample["id"] for sample in samples] == ["a", "a-2", "a-3", "a-4", "b"]
    assert report.renamed == 2


# --- media ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("k/7.mp4", None),
        ("./k/../k/7.mp4", None),
        ("k\\7.mp4", "backslashes"),
        ("k/7", "extension added"),
        ("C:\\data\\set\\k\\7.mp4", "the end of an absolute path"),
        ("/home/other/data/k/7.mp4", "the end of an absolute path"),
    ],
)
def test_a_path_of_another_machine_is_looked_up_and_counted(clips, path, how):
    (sample,), report = prepared(clips, put(clips / "in.json", [{"video": path, "conversations": said()}]))
    assert sample["video"] == "k/7.mp4"
    assert report.found == ({how: 1} if how else {})


def test_an_input_at_a_url_must_be_downloaded_first(tmp_path):
    with pytest.raises(DataFormatError, match=r"^https://example\.com/in\.json: .*Download it first\.$"):
        prepared(tmp_path, "https://me:secret@example.com/in.json")


def test_media_are_looked_up_in_several_folders_and_never_guessed(clips):
    file = put(clips / "sets" / "in.json", [{"video": "7.mp4", "conversations": said()}])
    with pytest.raises(DataFormatError, match=r"7\.mp4: no such file in .*sets"):
        prepared(clips, file)
    (sample,), _ = prepared(clips, file, media_root=[clips / "b", clips / "k"])
    assert sample["video"] == "k/7.mp4"
    shutil.copy(clips / "a.mp4", clips / "b" / "7.mp4")
    with pytest.raises(DataFormatError, match=r"7\.mp4 is in several folders: .*Give one of them"):
        prepared(clips, file, media_root=[clips / "b", clips / "k"])


def test_media_outside_the_folder_of_the_output_have_absolute_paths(clips):
    file = put(clips / "in.json", [{"video": "a.mp4", "conversations": said()}])
    import_annotations([file], clips / "elsewhere" / "out.jsonl")
    assert read(clips / "elsewhere" / "out.jsonl")[0]["video"] == str(clips / "a.mp4")


def test_a_url_is_kept_as_it_is(clips):
    record = {"video": "https://example.com/a.mp4", "conversations": said()}
    (sample,), _ = prepared(clips, put(clips / "in.json", [record]))
    assert sample["video"] == record["video"]


# --- the files that are written ---------------------------------------------------------------------------------------


def test_several_processes_write_the_same_bytes_as_one(clips, monkeypatch):
    monkeypatch.setattr("fvv_lib.data.importing.run.FEW", 10)
    monkeypatch.setattr("fvv_lib.data.importing.run.BATCH", 7)
    records = [{"messages": messages(f"<video>{number}?"), "videos": ["a.mp4"]} for number in range(40)]
    file = put(clips / "in.jsonl", records)
    for name, workers in (("one.json", 1), ("two.json", 2)):
        import_annotations([file], clips / name, workers=workers)
    assert (clips / "one.json").read_bytes() == (clips / "two.json").read_bytes()
    assert [sample["id"] for sample in read(clips / "one.json")] == [f"in-{number}" for number in range(40)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "out.txt"}, "output must be a .json or .jsonl file"),
        ({"output": "in.json"}, "is also an input"),
        ({"validation": 0.6, "test": 0.5}, "must be shares from 0 to 1"),
        ({"test": -0.1}, "must be shares from 0 to 1"),
        ({"bad_samples": "drop"}, "bad_samples must be 'raise' or 'skip'"),
        ({"validation": 0.5}, "There are too few videos: 1 of different content or group leave none for"),
        ({"group": "source"}, "it has no 'source', which says what must stay in one split"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_written(clips, settings, message):
    file = put(clips / "in.json", [{"video": "a.mp4", "conversations": said()}] * 2)
    settings = {"output": "out.json", **settings}
    with pytest.raises(FvvError, match=message):
        import_annotations([file], clips / settings.pop("output"), **settings, cache_dir=str(clips / "cache"))
    assert not list(clips.glob("out*"))
    assert not list(clips.glob("*.unfinished"))


# --- splits -----------------------------------------------------------------------------------------------------------


def many(folder, count=40):
    """Write files of different content, half of them of each class, and a copy of each; return a record for each."""
    records = []
    for number in range(count):
        for copy in ("", "copy-"):
            (folder / f"{copy}{number}.mp4").write_bytes(b"%d" % number)
            kinds = ["even" if number % 2 else "odd"]
            source = f"source {number // 4}"
            record = {"id": f"{copy}{number}", "video": f"{copy}{number}.mp4", "kinds": kinds, "source": source}
            records.append({**record, "conversations": said()})
    return records


def split_ids(folder, records, **settings):
    file = put(folder / "in.json", records)
    shares = {"validation": 0.1, "test": 0.2, "cache_dir": str(folder / "cache")}
    import_annotations([file], folder / "out.json", **{**shares, **settings})
    names = ("out.json", "out.validation.json", "out.test.json")
    return [{sample["id"] for sample in read(folder / name)} for name in names]


def test_splits_share_no_content_and_have_their_share_of_each_kind(tmp_path):
    records = many(tmp_path)
    splits = split_ids(tmp_path, records)
    assert list(map(len, splits)) == [56, 8, 16]
    for ids in splits:
        assert {one.removeprefix("copy-") for one in ids} == {one for one in ids if "copy" not in one}
        assert 2 * sum(int(one.removeprefix("copy-")) % 2 for one in ids) == len(ids)
    assert set.union(*splits) == {record["id"] for record in records}


def test_splits_are_the_same_for_any_order_and_differ_by_seed(tmp_path):
    records = many(tmp_path)
    splits = split_ids(tmp_path, records)
    assert split_ids(tmp_path, records[::-1]) == splits
    assert split_ids(tmp_path, records, seed=1) != splits


def test_what_has_one_group_or_one_sample_is_in_one_split(tmp_path):
    records = many(tmp_path)
    both = [{"id": "both", "video": ["0.mp4", "39.mp4"], "conversations": said("<image><image>?"), "source": "s"}]
    for ids in split_ids(tmp_path, [*records, *both], group="source"):
        sources = {int(one.removeprefix("copy-")) // 4 for one in ids - {"both"}}
        assert len(ids - {"both"}) == 8 * len(sources)
        assert ("both" in ids) == (0 in sources) == (9 in sources)


# --- the verb ---------------------------------------------------------------------------------------------------------


def test_the_verb_prints_what_it_read_and_wrote(clips, fvv):
    put(clips / "in.csv", "clip,label\nk/7,pan\n")
    done = fvv("prepare", "in.csv", "--output", "out.json", "--question", "?", "--answer", "A {}.", cwd=clips)
    assert done.stdout == (
        "in.csv: csv (it is a table): 1 records, 1 samples\nmedia found by extension added: 1\nout.json: 1 samples\n"
    )
    assert read(Path("out.json"))[0]["conversations"] == said(V + "?", "A pan.")
    done = fvv("prepare", "in.csv", "--output", "out.json", "--columns", "video", cwd=clips)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_what_is_prepared_passes_every_check_and_trains(clips, fvv, base):
    """One run on the files of all formats, with a share of one of them."""
    common = ["--model_name_or_path", base, "--num_video_frames", "2", "--decode_timeout", "0", "--cache_dir", "cache"]
    words = []
    sources = [
        (name, put(clips / f"{number}" / file, records), settings)
        for number, (name, file, records, settings, _) in enumerate(EXAMPLES)
    ]
    asked = {"question": "What happens?"}
    sources += [
        ("finevideo", put_finevideo(clips), asked),
        ("lerobot", put_lerobot(clips), asked),
        ("folders", put_classes(clips), asked),
    ]
    assert {name for name, *_ in sources} == set(DIALECTS)
    of_each = {}
    for number, (name, source, settings) in enumerate(sources):
        report = import_annotations([source], clips / f"{number}.json", **{"media_root": [clips], **settings})
        words.append(f"{number}.json")
        (of_each[f"{number}"],) = report.written.values()
        checked = fvv("check", words[-1], *common, cwd=clips)
        assert (checked.returncode, checked.stderr) == (0, ""), (name, checked.stdout)
    words[3] += "*0.5"
    training = ["--max_steps", "3", "--use_cpu", "True", "--report_to", "none", "--save_strategy", "no"]
    done = fvv("finetune", *common, "--data_path", *words, "--output_dir", "run", *training, cwd=clips)
    assert done.returncode == 0, done.stderr
    samples = json.loads((clips / "run" / "metrics.json").read_text())["samples"]["train"]
    of_each["3"] //= 2
    assert samples["of each file"] == {word: of_each[word.split(".")[0]] for word in words}
    assert samples["used"] == sum(of_each.values())


# --- the guide --------------------------------------------------------------------------------------------------------

GUIDE = "data_samples/README.md"


# The name of a format at the start of a paragraph, and the example after it.
EXAMPLE = re.compile(r"^`([\w-]+)`: (?:(?!\n\n).)*\n\n```(json|text)\n(.*?)^```$", re.M | re.S)


@pytest.mark.parametrize(("name", "language", "block"), EXAMPLE.findall((ROOT / GUIDE).read_text()))
def test_each_example_of_the_guide_is_recognised_and_read(clips, name, language, block):
    samples, report = prepared(
        clips, put(clips / ("in.json" if language == "json" else "in.csv"), block), question="What happens?"
    )
    assert [one["format"] for one in report.sources] == [name]
    assert samples


def test_the_guide_has_an_example_of_each_format():
    page = (ROOT / GUIDE).read_text()
    in_a_file = {name for name, _, _ in EXAMPLE.findall(page)}
    assert in_a_file == set(DIALECTS) - {"finevideo", "lerobot", "folders"}
    assert set(re.findall(r"^`([\w-]+)`: ", page, re.M)) == set(DIALECTS)


def test_the_six_commands_of_the_guide_lead_to_an_evaluated_model(tmp_path, fvv, data_samples):
    """As a new user follows them, with fewer steps."""
    (tmp_path / "own" / "clips").mkdir(parents=True)
    (tmp_path / "data_samples").symlink_to(data_samples)
    table = ["path,question,answer,kind,choices"]
    for number, clip in enumerate(sorted((data_samples / "videos" / "val").glob("motion-*.mp4"))[:20], 1):
        shutil.copy(clip, tmp_path / "own" / "clips" / f"{number:04}.mp4")
        side = ("left", "right")[number % 2]
        table.append(f"clips/{number:04}.mp4,Which way does it move?,It moves to the {side}.,motion,left|right")
    put(tmp_path / "own" / "videos.csv", "\n".join(table))
    fewer = {"finetune": ["--max_steps", "3", "--use_cpu", "True", "--report_to", "none"], "evaluate": ["--use_cpu"]}
    for verb, arguments in commands(GUIDE):
        done = fvv(verb, *arguments, *fewer.get(verb, []), cwd=tmp_path)
        assert done.returncode == 0, (verb, done.stdout, done.stderr)
    sizes = [len(read(tmp_path / "own" / name)) for name in ("data.json", "data.validation.json", "data.test.json")]
    assert sizes == [16, 2, 2]
    (summary,) = json.loads((tmp_path / "own" / "evaluated" / "metrics.json").read_text())["tests"].values()
    assert summary
