"""Ask several questions about each video, and a second question in a dialogue. Ours against 0c0ac90.

    python benchmarks/questions.py     # about 25 minutes on 2 cores, 6 GB; writes benchmarks/results/questions.json

The old build encodes a video again for each question about it, and the whole dialogue again for each turn. The model
has the tower and the width of FastVLM-0.5B with random weights in float32, but a language model of two layers. Each
measurement runs in a new process with this interpreter and these packages, both sides in turn. The answers of both
sides must be equal: to these questions, and to the whole test set of the course, which the trained tiny model answers.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from old_build import OLD, ROOT, check_source, environment_of, old_build

from fvv_lib import load_pretrained_model, random_fastvlm
from fvv_lib.scaling.released import full_size_config
from fvv_lib.weights.loading import build_processor

SAMPLES = ROOT / "data_samples"
FRAMES, PIXELS, LAYERS, NEW_TOKENS, SCALE = 2, 1024, 2, 8, 5
QUESTIONS = ("What colour is the shape?", "What shape is it?", "Which way does it move?", "Where is it?", "How many?",
             "Is it red?", "Is it a square?", "Does it move up?")  # fmt: skip
WANTED = {3: 2.5, 8: 5.0}  # questions per video -> old time / our time
WANTED_TURN = 8.0
SIDES = {
    "old": """
from fvv_lib import DataArguments, LazySupervisedDataset

def open_data(loaded, path, images, frames, size, tokens, longest):
    arguments = DataArguments(image_folder=images, num_video_frames=frames, decode_timeout=0.0)
    arguments.image_size, arguments.tokens_per_frame, arguments.max_length = size, tokens, longest
    return LazySupervisedDataset(loaded.tokenizer, [path], arguments)
""",
    "ours": """
from fvv_lib import DataArguments, FrameSpec, LazySupervisedDataset

def open_data(loaded, path, images, frames, size, tokens, longest):
    arguments = DataArguments(image_folder=images, num_video_frames=frames, decode_timeout=0.0)
    spec = FrameSpec(size, tokens, longest)
    return LazySupervisedDataset(loaded.tokenizer, [path], arguments, frame_spec=spec)
""",
}
ASKING = """
import json, sys, time
from fvv_lib import evaluate, load_pretrained_model
model, path, images, new_tokens, *sizes = sys.argv[1:]
loaded = load_pretrained_model(model, device="cpu")
data = open_data(loaded, path, images, *map(int, sizes))
start = time.perf_counter()
answers = evaluate(loaded.model, loaded.tokenizer, data, 32, int(new_tokens))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "answers": [answer.generated for answer in answers]}))
"""
TALKING = """
import json, sys, time
from fvv_lib import Chat, load_pretrained_model
model, clip, new_tokens, *questions = sys.argv[1:]
chat = Chat(load_pretrained_model(model, device="cpu"), int(new_tokens))
chat.show(clip)
answers = [chat.ask(questions[0])]
chat.max_new_tokens = 1
start = time.perf_counter()
answers.append(chat.ask(questions[1]))
print(json.dumps({"seconds": time.perf_counter() - start, "answers": answers, "turns": len(chat.turns)}))
"""


def write_model(folder: Path) -> None:
    """Write the full-size tower with a language model of few layers and the small vocabulary of the tiny base."""
    tiny = load_pretrained_model(SAMPLES / "tiny-fastvlm", device="cpu")
    config = full_size_config("0.5b", PIXELS)
    config.text_config.num_hidden_layers, config.text_config.vocab_size = LAYERS, len(tiny.tokenizer)
    config.text_config.layer_types = ["full_attention"] * LAYERS
    config.text_config.eos_token_id = tiny.tokenizer.eos_token_id
    config.image_token_index = tiny.model.config.image_token_index
    model = random_fastvlm(config)
    with torch.no_grad():  # as they are drawn, the last token alone decides, and all answers are equal
        for weight in model.model.language_model.layers.parameters():
            weight.mul_(SCALE if weight.ndim == 2 else 1)
    model.generation_config = tiny.model.generation_config
    tiny.tokenizer.model_max_length = 8192
    tiny.image_processor.size = {"shortest_edge": PIXELS}
    tiny.image_processor.crop_size = {"height": PIXELS, "width": PIXELS}
    model.save_pretrained(folder)
    build_processor(tiny.tokenizer, tiny.image_processor, model).save_pretrained(folder)
    (folder / "fvv_config.json").write_text(json.dumps({"num_video_frames": FRAMES}))  # what the old build knows


def write_questions(path: Path, count: int, videos: int) -> None:
    """Write a test set with a sample for each question: `count` about each of `videos` clips."""
    clips = sorted((SAMPLES / "videos" / "test").glob("motion-*.mp4"))[:videos]
    samples = [
        {
            "id": f"{clip.stem}-{number}",
            "video": str(clip),
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": "It is red."},
            ],
        }
        for clip in clips
        for number, question in enumerate(QUESTIONS[:count])
    ]
    path.write_text(json.dumps(samples))


def run(side: str, source: Path, code: str, *arguments: Any) -> dict[str, Any]:
    """Run code with the `fvv_lib` of `source` in a new process, and return the JSON that it prints last."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**environment_of(source), "HF_DATASETS_CACHE": folder}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(sources: dict[str, Path], asking: bool, runs: int, *arguments: Any) -> dict[str, Any]:
    """Run both sides in turn, check that their answers are equal, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {side: [] for side in sources}
    answers = []
    for _ in range(runs):
        for side, source in sources.items():
            found = run(side, source, SIDES[side] + ASKING if asking else TALKING, *arguments)
            seconds[side].append(found["seconds"])
            answers.append(found["answers"])
            print(side, round(found["seconds"], 2), flush=True)
    if any(each != answers[0] for each in answers):
        raise RuntimeError("The two sides give different answers.")
    row: dict[str, Any] = {f"{side}, s": round(statistics.median(times), 3) for side, times in seconds.items()}
    faster = statistics.median(seconds["old"]) / statistics.median(seconds["ours"])
    return {**row, "faster": round(faster, 2), "equal answers": len(answers[0]), "different texts": len({*answers[0]})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help=f"a checkout of {OLD}; default: a temporary worktree")
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks" / "results" / "questions.json")
    settings = parser.parse_args()
    with old_build(settings.old) as old, tempfile.TemporaryDirectory() as temporary:
        sources, model = {"old": old, "ours": ROOT}, Path(temporary) / "model"
        for source in sources.values():
            check_source(source)
        course = compare(
            sources, True, 1, SAMPLES / "tiny-fastvlm-video", SAMPLES / "test.json", SAMPLES, 16, 8, 64, 4, 2048
        )
        write_model(model)
        sizes = (NEW_TOKENS, FRAMES, PIXELS, (PIXELS // 64) ** 2, 8192)
        by_count = {}
        for count in WANTED:
            path = Path(temporary) / f"{count}.json"
            write_questions(path, count, settings.videos)
            by_count[count] = compare(sources, True, settings.runs, model, path, temporary, *sizes)
        clip = sorted((SAMPLES / "videos" / "test").glob("motion-*.mp4"))[0]
        turn = compare(sources, False, settings.runs, model, clip, NEW_TOKENS, *QUESTIONS[:2])
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "timm", "av")},
        },
        "old": OLD,
        "model": f"tower and width of FastVLM-0.5B, {LAYERS} layers, random weights, float32",
        "frames": FRAMES,
        "pixels": PIXELS,
        "videos": settings.videos,
        "runs of each side": settings.runs,
        "threads": torch.get_num_threads(),
        "questions per video": by_count,
        "second turn, to its first token": turn,
        "test set of the course": course,
        "wanted, times faster": {**WANTED, "second turn": WANTED_TURN},
        "reached": all(by_count[count]["faster"] >= wanted for count, wanted in WANTED.items())
        and turn["faster"] >= WANTED_TURN,
    }
    print(json.dumps(record, indent=2))
    settings.to.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
