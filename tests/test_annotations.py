"""Annotation files of every format give the same samples; errors name the file and the line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fvv_lib import DataFormatError
from fvv_lib.data import annotations
from fvv_lib.data.annotations import read_annotations


def sample(question="Hm?", answer="Yes.", **rest):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **rest}


IRREGULAR = [
    sample(image="a.png", id="text id"),
    sample(video=["a.mp4", "b.mp4"], id=7),
    sample('Größer {["?\n'),
    sample(kinds=["colour"], choices=[["red", "blue"]], score=0.5, nested={"deep": [1, "two", None]}),
    sample(image=3),
]


def contents(path):
    pairs = list(read_annotations(path))
    assert all(json.loads(text) == content for text, content in pairs)
    return [content for _, content in pairs]


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_irregular_samples_are_read_unchanged(tmp_path, monkeypatch, indent, chunk):
    monkeypatch.setattr(annotations, "CHUNK", chunk)
    (tmp_path / "a.json").write_text(json.dumps(IRREGULAR, indent=indent))
    assert contents(tmp_path / "a.json") == IRREGULAR


def test_json_jsonl_and_parquet_give_the_same_samples(tmp_path):
    samples = [sample("Größer?", id="1", video="a.mp4"), sample("Why?", "So.", image="b.png", kinds=["x"])]
    (tmp_path / "a.json").write_text(json.dumps(samples))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in samples) + "\n\n")

    assert contents(tmp_path / "a.jsonl") == contents(tmp_path / "a.json") == samples

    columns = {key: [one.get(key) for one in samples] for key in ("conversations", "id", "image", "video", "kinds")}
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    assert contents(tmp_path / "b.parquet") == samples


def write_rows(path, rows):
    """Write rows as pandas and `datasets` do: a field that a row does not have is null."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_a_null_field_counts_as_missing(tmp_path, suffix):
    turns = sample()["conversations"]
    nulls = [{**turns[0], "loss": None}, {**turns[1], "loss": False}]
    rows = [
        {"image": None, "video": "a.mp4", "choices": None, "conversations": nulls},
        {"image": "b.png", "video": None, "choices": [["Yes", "No"]], "conversations": nulls},
    ]
    write_rows(tmp_path / f"a{suffix}", rows)
    turns = [turns[0], {**turns[1], "loss": False}]
    assert contents(tmp_path / f"a{suffix}") == [
        {"video": "a.mp4", "conversations": turns},
        {"image": "b.png", "choices": [["Yes", "No"]], "conversations": turns},
    ]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_byte_order_mark_is_skipped(tmp_path, name):
    text = json.dumps([sample("Größer?")] if name == "a.json" else sample("Größer?"), ensure_ascii=False)
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert contents(tmp_path / name) == [sample("Größer?")]


def test_joined_files_may_have_a_byte_order_mark_in_the_middle(tmp_path):
    line = b"\xef\xbb\xbf" + json.dumps(sample()).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(line + line + b"\xef\xbb\xbf\n")
    assert contents(tmp_path / "a.jsonl") == [sample()] * 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[\n{"id": 1},\n{"id": }\n]', r"a\.json: not valid JSON \(line 3: "),
        ("a.json", '[\n{"id": 1},\n{"id": 2', r"a\.json: not valid JSON \(line 3: "),
        ("a.json", '[\n{"id": 1}\n{"id": 2}]', r"not valid JSON \(line 3: ',' or '\]' is expected"),
        ("a.json", '[{"id": 1}', r"not valid JSON \(line 1: ',' or '\]' is expected"),
        ("a.json", '[{"id": 1}]\n]', r"not valid JSON \(line 2: there is text after"),
        ("a.json", '[\n{"id": 1},\n3]', r"each a JSON object\. Expected a sample in line 3"),
        ("a.json", '[{"id": 1},]', "Expected a sample in line 1"),
        ("a.json", '{"id": 1}\n{"id": 2}', r"must be a list .* rename the file to \.jsonl"),
        ("a.json", "", "must be a list"),
        ("a.json", " [ ] ", "at least one sample"),
        ("a.json", b'[\n{"id": "\xff"}]', r"not valid JSON \(line 1: in this line or a later one, .*utf-8"),
        ("a.jsonl", '{"id": 1}\n\n{"id": }\n', r"a\.jsonl: not valid JSON \(line 3: "),
        ("a.jsonl", '{"id": 1}\n[2]\n', r"a\.jsonl, line 2: each line must be a sample"),
        ("a.jsonl", b'{"id": 1}\n"\xff"\n', r"line 2: .*utf-8"),
        ("a.jsonl", "\n", "at least one sample"),
        ("a.json", '[\n{"id": 1},\n{"id": ' + "1" * 5000 + "}]", r"not valid JSON \(line 3: .*4300 digits"),
        ("a.jsonl", '{"id": 1}\n{"id": ' + "1" * 5000 + "}", r"not valid JSON \(line 2: .*4300 digits"),
        ("a.parquet", "no parquet", r"a\.parquet: it cannot be read as Parquet"),
    ],
)
def test_broken_files_name_file_and_line(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataFormatError, match=message):
        list(read_annotations(tmp_path / name))


def test_a_parquet_column_that_json_cannot_hold_is_an_error(tmp_path):
    pq.write_table(pa.table({"image": [b"pixels"]}), tmp_path / "a.parquet")
    with pytest.raises(DataFormatError, match=r"a\.parquet: a column has values that JSON cannot hold"):
        list(read_annotations(tmp_path / "a.parquet"))


@pytest.mark.parametrize("depth", [annotations.MAX_DEPTH, 100_000])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_fields_that_are_nested_too_deeply_are_an_error(tmp_path, name, depth):
    """Python's parser fails at a depth that depends on its caller, so a sample must never come close to it."""
    text = json.dumps(sample(note=0)).replace('"note": 0', '"note": ' + "[" * depth + "]" * depth)
    (tmp_path / name).write_text(f"[{text}]" if name == "a.json" else text)
    with pytest.raises(DataFormatError, match=f"{name}.*nested more than 100 levels deep"):
        list(read_annotations(tmp_path / name))


def test_many_fields_that_are_not_nested_deeply_are_read(tmp_path):
    one = sample(note=[[0]] * 1000)
    (tmp_path / "a.json").write_text(json.dumps([one]))
    assert contents(tmp_path / "a.json") == [one]


def test_a_number_that_a_piece_of_the_file_cuts_is_read_on(tmp_path, monkeypatch):
    """The digits before a decimal point are too many for an integer, but not for this number."""
    monkeypatch.setattr(annotations, "CHUNK", 1)
    one = json.dumps(sample(score=0)).replace('"score": 0', '"score": ' + "0." + "1" * 5000)
    (tmp_path / "a.json").write_text(f"[{one}, {json.dumps(sample())}]")
    assert len(contents(tmp_path / "a.json")) == 2
