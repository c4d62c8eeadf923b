"""Write docs/benchmarks.md and the result rows of the README from benchmarks/results/*.json.

    make results    # python scripts/build_results.py

Each benchmark has one function here. It takes the record that the benchmark wrote and returns its section of the page.
No number is written by hand.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
LINK = "docs/benchmarks.md"  # from the README
BEGIN, END = "<!-- results: make results -->\n", "<!-- end of results -->\n"
READERS = {
    "ours": "fvv_lib",
    "torchcodec": "torchcodec",
    "described": "decord",
    "opencv": "OpenCV",
    "pyav naive": "PyAV, decoding every frame",
}
SIDES = {"ours": "fvv_lib", "stock": "transformers"}  # names in the results -> names on the page

Record = dict[str, Any]


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def percent(share: float) -> str:
    return f"{share:.1%}"


def fastest(clips: dict[str, dict[str, float | None]], reader: str) -> tuple[float, float]:
    """Return how many times faster ours is than a reader: geometric mean and minimum over the clips that both read."""
    ratios = [times[reader] / times["ours"] for times in clips.values() if times[reader] is not None]
    return statistics.geometric_mean(ratios), min(ratios)


def side_name(side: str) -> str:
    """Return the name of a side of a comparison on the page: `ours, packed` is `fvv_lib, packed`."""
    first, comma, rest = side.partition(",")
    return SIDES.get(first, first) + comma + rest


def reader_name(reader: str) -> str:
    """Return the name of a reader on the page: `ours, exact` is `fvv_lib, exact`."""
    first, comma, rest = reader.partition(",")
    return {"ours": "fvv_lib", "old": "fvv_lib, old build"}.get(first, first) + comma + rest


def all_clips(record: Record, threads: str) -> dict[str, dict[str, float | None]]:
    return {**record["generated, 60 s of 1080p"][threads]["milliseconds"], **record["real"][threads]["milliseconds"]}


# --- one function for each benchmark ----------------------------------------------------------------------------------


def decode(record: Record) -> str:
    counts = record["encodings"]["counts"]
    right = table(
        ["reader", "right", "wrong frames, no error", "error"],
        [[title, *(counts[name][kind] for kind in ("right", "wrong", "refused"))] for name, title in READERS.items()],
    )
    rows = []
    for threads in ("one thread", "all threads"):
        for name in ("torchcodec", "described", "opencv", "pyav naive"):
            mean, least = fastest(all_clips(record, threads), name)
            rows.append([READERS[name], threads, f"{mean:.2f}x", f"{least:.2f}x"])
    speed = table(["fvv_lib is faster than", "threads", "geometric mean", "slowest clip"], rows)
    return f"""A clip in which each frame shows its number is encoded in many ways: codec, container, key-frame
distance, B-frames, frame rate and rotation. A reader is right about an encoding if all frames that it returns have the
expected numbers.

{right}

Speed: {len(all_clips(record, "one thread"))} clips (generated 60 s clips of 1080p, and real clips of a few seconds), 8
frames of each, median of several rounds. Above 1x, fvv_lib is faster. The mean is over the clips that both read.

{speed}

Not measured: GPU decoding, more than 2 cores."""


def pixels(record: Record) -> str:
    names = {
        "ours, uint8": "fvv_lib, scaled on the model's device",
        "ours, scaled on the CPU": "fvv_lib, scaled on the CPU",
        "described, torchvision": "decord and the torchvision processor",
        "described": "decord, Pillow and the CLIP image processor",
    }
    rows = [[names[key], record["pixels, ms"][key], record["file to tensor, ms"][key]] for key in names]
    return f"""One clip ({record["clip"]}), 8 frames, padded to 1024x1024.

{table(["pipeline", "pixels, ms", "file to tensor, ms"], rows)}"""


def uneven(record: Record) -> str:
    names = {
        "ours": "fvv_lib",
        "torchcodec": "torchcodec",
        "decord": "decord",
        "transformers": "transformers",
    }
    found = [name for name in names if name in next(iter(record["clips"].values()))["readers"]]
    rows = []
    for title, clip in record["clips"].items():
        errors = [clip["readers"][name] for name in found]
        rows.append([title, *(f"{one['mean error, s']:.2f} / {one['largest error, s']:.2f}" for one in errors)])
    return f"""Each reader is asked for frames at equal times, one or two per second, of clips whose frames show
their numbers. The table has the seconds by which frames are too early or too late, mean / largest; 0 is the frame on
the screen. fvv_lib samples with `strategy="fps"`, torchcodec with its time-based sampler, transformers with
`load_video(fps=...)`, and decord, which has no sampling by time, with the average rate.

{table(["clip", *(names[name] for name in found)], rows)}"""


def fuzz(record: Record) -> str:
    more = json.loads((RESULTS / "fuzz_more.json").read_text())
    kinds = {
        "right": "right frames",
        "error": "an error",
        "wrong": "wrong frames",
        "timeout": "time limit",
        "crash": "crash",
    }
    rows = [[one["files"], *(one["results"][kind] for kind in kinds)] for one in (record, more)]
    return f"""Bytes of intact files are flipped, zeroed, cut or moved, and the reader decodes the damaged files.

{table(["damaged files", *kinds.values()], rows)}

All wrong frames are in HEVC files: FFmpeg's decoder does not detect all damage in HEVC."""


def long_video(record: Record) -> str:
    rows = []
    for name, measured in record["local"].items():
        for reader, values in measured["rows"].items():
            rows.append([name, reader_name(reader), values["seconds"], values["MB read"], percent(values["share"])])
    sizes = [measured["MB"] for measured in record["local"].values()]
    return f"""{record["frames"]} frames of an hour of 1080p (H.264, 30 frames per second, {min(sizes):.0f} to
{max(sizes):.0f} MB), one thread. The old build is commit {record["old"]} of this repository. Both return the same
frames.

{table(["file", "reader", "seconds", "MB read", "of the file"], rows)}

The file is in the cache of the system. From a disk or a network, the bytes that are not read count more."""


def far_files(record: Record) -> str:
    rows = []
    for container, measured in record["files"].items():
        for way, values in measured["rows"].items():
            title = {"ranges": "by ranges", "download": "download, then read"}[way]
            cells = (values["seconds"], values["requests"], values["MB"], percent(values["share"]))
            rows.append([f"{container}, {measured['MB']:.0f} MB", title, *cells])
    return f"""{record["frames"]} frames of an hour of 1080p (H.264) from a web server that waits
{record["delay of an answer, s"] * 1000:.0f} ms before each answer. It runs on the same machine, so a download is faster
than over any real line. Of Matroska, all packets are looked at to list them.

{table(["file", "way", "seconds", "requests", "MB", "of the file"], rows)}"""


def prepare(record: Record) -> str:
    titles = {
        "plain": "plain script",
        "ours, one process": "fvv prepare, one process",
        "ours, a process per core": "fvv prepare, a process per core",
    }
    rows = [
        [title, record["sides"][name]["seconds"], round(record["sides"][name]["peak MiB without imports"])]
        for name, title in titles.items()
    ]
    return f"""{record["rows"]:,} rows in LLaMA-Factory's format become an annotation file. The plain script loads the
file, checks the tags and paths of each row, and writes the list; it holds all rows in memory. `fvv prepare` makes the
same checks and those of `fvv check` that need no video.

{table(["program", "seconds", "peak memory without imports, MiB"], rows)}"""


def leak(record: Record) -> str:
    rows = []
    for place, title in (("in this process", "in the calling process"), ("in a child", "in a separate process")):
        held = record[place]["resident, MiB"]
        rows.append([title, f"{min(held)} to {max(held)}", f"{record[place]['change after the first 500, %']} %"])
    return f"""Resident memory during {record["reads"]:,} reads of clips. `timeout` reads in a separate process.

{table(["where", "resident, MiB", "change after the first 500 reads"], rows)}"""


def big_index(record: Record) -> str:
    names = {
        "seconds to open": "seconds to open",
        "seconds to first batch": "seconds to first batch",
        "pss of the index per worker, MiB": "memory of the index per worker, MiB (PSS)",
    }
    rows = [[title, record["ours"][key], record["described"][key]] for key, title in names.items()]
    first = record["seconds to first batch, when every sample is checked"]
    return f"""{record["samples"]:,} samples, {record["workers"]} workers. LLaVA's code keeps the samples in a list.

{table(["", "fvv_lib", "a list of samples"], rows)}

The first opening of a file checks every sample; the first batch then comes after {first} seconds."""


def known_media(record: Record) -> str:
    rows = []
    for key, what in (("open", "open, and compare the two sets"), ("read clips", "read every clip")):
        row = record[key]
        columns = ("old, first, s", "ours, first, s", "old, again, s", "ours, again, s", "ours / old, again")
        rows.append([what, f"{row['samples']:,}", *(row[column] for column in columns)])
    titles = [
        "what",
        "training samples",
        "old, first, s",
        "now, first, s",
        "old, again, s",
        "now, again, s",
        "now / old",
    ]
    ends = record["ours, compare the start and end of each file, s"]
    parts = record.get("ours, open parts of videos")
    of_parts = ""
    if parts:
        of_parts = f"""

A sample may also use a part of a video: {parts["parts"]:,} such samples open in {parts["first, s"]} seconds at first,
then in {parts["again, s"]}."""
    return f"""A training and a validation set with {record["files"]:,} files in all, each another. A file that has not
changed since it was read is not read again. The old build is commit {record["old"]} of this repository.

{table(titles, rows)}

A run also compares the start and end of each file with those of the run that it resumes, which the old build does not:
{ends["first"]} seconds at first, then {ends["again"]} seconds.{of_parts}"""


def questions(record: Record) -> str:
    timed = {f"{count} questions about each video": row for count, row in record["questions per video"].items()}
    timed["second turn of a dialogue, to its first token"] = record["second turn, to its first token"]
    rows = [[what, row["old, s"], row["ours, s"], f"{row['faster']}x"] for what, row in timed.items()]
    equal = sum(row["equal answers"] for row in timed.values())
    size = f"{record['pixels']}x{record['pixels']}"
    return f"""Each video has {record["frames"]} frames of {size} pixels. The model: {record["model"]}. The old build,
commit {record["old"]}, encodes a video again for each question, and the whole dialogue for each turn.

{table(["what", "old, s", "now, s", "faster"], rows)}

Both builds give the same answers: to these {equal} questions, and to the
{record["test set of the course"]["equal answers"]} of the test set of the course. Videos: {record["videos"]}; threads:
{record["threads"]}; runs of each side: {record["runs of each side"]}."""


def motion(record: Record) -> str:
    rows = []
    for run in record["runs"]:
        before, after = run["before"], run["after"]
        scores = [f"{percent(before[kind])} → {percent(after[kind])}" for kind in run["questions"]]
        rows.append([run["frames"], run["seed"], *scores, run["train_seconds"]])
    questions = record["runs"][0]["questions"]
    columns = ["frames", "seed", *(f"{kind} ({count})" for kind, count in questions.items()), "training, s"]
    return f"""`make finetune`: accuracy on the test split before and after training (number of questions in brackets).

{table(columns, rows)}

Not measured: other processors. They round differently, so one or two answers may differ."""


def backwards(record: Record) -> str:
    trained = {
        "forwards": "forwards only",
        "both ways": "both ways",
        "forwards, then both ways": "forwards, then both ways",
    }
    rows = [
        [title, *(percent(record[key][way][kind]) for kind in ("motion", "order") for way in ("forwards", "backwards"))]
        for key, title in trained.items()
    ]
    columns = [
        "trained on clips played",
        "motion, forwards",
        "motion, backwards",
        "order, forwards",
        "order, backwards",
    ]
    return f"""Test clips played backwards have the opposite answers. A model that uses time answers both correctly.

{table(columns, rows)}

One run each. Trained on forward clips only, the model learns a shortcut: a shape near an edge moves towards it."""


def train_step(record: Record) -> str:
    rows = []
    for case, measured in record["cases"].items():
        for side, values in measured["sides"].items():
            columns = ("seconds per step", "peak GiB", "peak GiB above weights")
            rows.append([case, side_name(side), *(values[column] for column in columns)])
    columns = ["case", "side", "seconds per step", "peak GiB", "peak GiB above the weights"]
    return f"""Forward, backward and AdamW of FastVLM-0.5B with 2 of its 24 language layers and random weights,
{record["precision"]}. `transformers` is its class for FastVLM, which computes logits at every position. All sides
compute the same loss. The language side is the model without its vision tower.

{table(columns, rows)}

Not measured: a GPU, more cores, the trained tower with 8 frames (transformers does not fit 24 GB)."""


def memory(record: Record) -> str:
    rows = [[r["name"], r["predicted_gib"], r["measured_gib"], f"{r['error']:+.1%}"] for r in record["rows"]]
    presets = "\n".join(record["presets"])
    return f"""Predicted and measured peak memory of the Trainer, for a shortened model: {record["model"]}.

{table(["setting", "predicted GiB", "measured GiB", "error"], rows)}

What fits a device (`fvv memory --presets`): a batch of one sample with 8 frames of 1024x1024, bf16. Each cell names a
[preset](guide/scaling.md#predict-the-memory) and its predicted peak in GiB. A tenth of the device stays free.

{presets}

Not measured: a GPU, ZeRO."""


def feature_cache(record: Record) -> str:
    rows = []
    for case, measured in record["cases"].items():
        again, stored = (measured["sides"][side]["seconds per epoch"] for side in ("encoded again", "stored"))
        rows.append([case, again, stored, f"{measured['times faster']}x"])
    return f"""`--cache_features True` with a frozen tower: {record["data"]}. A frame takes
{record["stored MB per frame"]} MB.

{table(["trained", "seconds per epoch, encoded again", "seconds per epoch, stored", "faster"], rows)}"""


def full_size(record: Record) -> str:
    answer, step = record["answer"], record["step"]
    rows = [
        ["an answer of 8 tokens", answer["answer_seconds"], answer["peak_gib"]],
        ["a training step", step["step_seconds"], step["peak_gib"]],
    ]
    return f"""{record["model"]}.

{table(["what", "seconds", "peak GiB"], rows)}"""


def kill(record: Record) -> str:
    saving = sum(death["in a save"] for death in record["kills"])
    return f"""A run of {record["steps"]} steps was killed {len(record["kills"])} times, {saving} of them during a
save, and restarted each time. The largest difference between its final weights and those of an
uninterrupted run is {record["largest difference of a weight"]}."""


def mismatch(record: Record) -> str:
    titles = {
        "version": "template",
        "turns": "questions",
        "answers end in a": "answers end in a",
        "counted - total": "counted - total",
        "strict": "strict",
        "tolerant": "tolerant",
    }
    rows = [[case[column] for column in titles] for case in record["cases"]]
    return f"""Labels found by counting tokens, as in LLaVA's code, with the real {record["tokenizer"]} tokenizer and
the chat templates of LLaVA-1.5 (`v1`) and FastVLM (`qwen_2`). If the count differs from the number of tokens, some
labels are wrong. The strict mode drops such a sample. The tolerant mode drops it if the difference is above
{record["tolerance"]}, and otherwise trains on wrong labels.

{table(list(titles.values()), rows)}"""


def labels(record: Record) -> str:
    (rows,) = [value for key, value in record.items() if key.startswith("preprocess")]
    titles = {
        "rounds": "questions",
        "tokens": "tokens",
        "old, ms": "old, ms",
        "ours, ms": "now, ms",
        "old / ours": "old / now",
    }
    return f"""Time to find the exact labels of one conversation. The old build is commit {record["old"]} of this
repository. Both return the same labels.

{table(list(titles.values()), [[row[column] for column in titles] for row in rows])}"""


def start(record: Record) -> str:
    rows = []
    for name, row in record["rows"].items():
        ratio = row["ours / old"]["seconds, median"]
        sides = [f"{row[side]['seconds, median']} s, {row[side]['peak MiB']:.0f} MiB" for side in ("old", "ours")]
        rows.append([f"`{name}`", *sides, f"{ratio:.3f}"])
    return f"""Time and peak memory of whole processes. The old build is commit {record["old"]} of this repository.

{table(["command", "old", "now", "now / old, seconds"], rows)}"""


def tests(record: Record) -> str:
    rows = [[record[side]["build"], record[side]["seconds"], record[side]["passed"]] for side in ("old", "new")]
    return f"""`make test` in fresh clones. `tests.json` lists the slowest tests of both.

{table(["build", "seconds", "tests passed"], rows)}"""


#: The title and the section of each benchmark, in the order of the lessons.
SECTIONS: dict[str, tuple[str, Callable[[Record], str]]] = {
    "decode": ("Exact frames", decode),
    "long_video": ("Long videos", long_video),
    "far_files": ("Far files", far_files),
    "pixels": ("From file to tensor", pixels),
    "uneven": ("Uneven clips", uneven),
    "fuzz": ("Damaged files", fuzz),
    "leak": ("Memory of a reader", leak),
    "mismatch": ("Labels by counting", mismatch),
    "labels": ("Exact labels of long conversations", labels),
    "big_index": ("A million samples", big_index),
    "prepare": ("Other formats", prepare),
    "known_media": ("A million files", known_media),
    "questions": ("Many questions about a video", questions),
    "motion": ("What fine-tuning teaches", motion),
    "backwards": ("Played backwards", backwards),
    "kill": ("Killed and resumed", kill),
    "train_step": ("A training step", train_step),
    "memory": ("Predicted memory", memory),
    "feature_cache": ("Cached features", feature_cache),
    "full_size": ("Full size on a CPU", full_size),
    "start": ("Commands", start),
    "tests": ("Tests", tests),
}


def read(name: str) -> Record:
    record: Record = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def page() -> str:
    how = "`make results` writes this page from `benchmarks/results`. Each benchmark measures all its sides in one run."
    parts = [f"# Benchmarks\n\n{how}\n"]
    for name, (title, section) in SECTIONS.items():
        if not (RESULTS / f"{name}.json").is_file():
            continue
        record = read(name)
        versions = ", ".join(f"{package} {number}" for package, number in record.get("versions", {}).items())
        where = (
            f"Measured on {record['hardware']}{f'; {versions}' if versions else ''}. Run `python benchmarks/{name}.py`."
        )
        parts.append(f"## {title}\n\n{section(record)}\n\n{where}\n")
    return "\n".join(parts)


def readme_rows() -> str:
    """Return the rows of "Why trust it"."""
    frames, killed, step, fits, labels = (read(name) for name in ("decode", "kill", "train_step", "memory", "mismatch"))
    counts = frames["encodings"]["counts"]
    total = sum(counts["ours"].values())
    right = ", ".join(f"{READERS[name]} {counts[name]['right']}" for name in ("ours", "torchcodec", "described"))
    mean, _ = fastest(all_clips(frames, "one thread"), "torchcodec")
    decord, _ = fastest(all_clips(frames, "one thread"), "described")
    wrong = sum(case["counted - total"] != 0 for case in labels["cases"])
    language = step["cases"]["language side, 2,100 tokens"]["ours / stock"]
    largest = max(abs(row["error"]) for row in fits["rows"])
    rows = [
        ["exact frames", f"encodings read correctly, of {total}: {right}", "exact-frames"],
        [
            "labels",
            f"exact; counting tokens as LLaVA does is wrong in {wrong} of {len(labels['cases'])} cases",
            "labels-by-counting",
        ],
        [
            "resume",
            f"killed {len(killed['kills'])} times: weights differ by {killed['largest difference of a weight']}",
            "killed-and-resumed",
        ],
        ["memory", f"predicted peak within {largest:.1%} (CPU)", "predicted-memory"],
        [
            "speed",
            f"reading {mean:.2f}x torchcodec and {decord:.2f}x decord (one thread, geometric mean); [training step]"
            f"({LINK}#a-training-step), language side, {language['steps per second']}x stock transformers with "
            f"{language['peak']} of its memory (CPU)",
            "exact-frames",
        ],
    ]
    return table(["what", "measured"], [[f"[{name}]({LINK}#{anchor})", text] for name, text, anchor in rows])


def with_rows(readme: str) -> str:
    """Return the README with the rows of the current results."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + "\n" + readme_rows() + "\n\n" + END + rest.split(END)[1]


def main() -> None:
    PAGE.write_text(page())
    README.write_text(with_rows(README.read_text()))


if __name__ == "__main__":
    main()
