"""`fvv evaluate`: ask a model all questions of test sets, and count the right answers.                       Lesson 7

    fvv evaluate --model output/tiny-fastvlm-video --data data_samples/test.json --output output/evaluated
    fvv evaluate --model output/mine --benchmark mvbench --data_dir data/MVBench --output output/mvbench

Each video is read and encoded once for all its questions. A stopped evaluation goes on with the same command. With
several GPUs: `torchrun --nproc_per_node 8 -m fvv_lib evaluate ...`.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvv_lib.cli.flags import flags_of, parse
from fvv_lib.cli.starting import quick_imports
from fvv_lib.errors import FvvError
from fvv_lib.settings import DataArguments

if TYPE_CHECKING:
    from fvv_lib.data.dataset import LazySupervisedDataset
    from fvv_lib.evaluation.questions import Question


# The names in `evaluation.benchmarks.table`, which loads torch.
BENCHMARK_NAMES = [
    "egoschema",
    "longvideobench",
    "mlvu",
    "mvbench",
    "nextqa",
    "tempcompass",
    "tomato",
    "tvbench",
    "videomme",
]

WAIT = timedelta(days=7)


@dataclass(frozen=True)
class EvaluateSettings:
    """Ask a model all questions of test sets, and count the right answers."""

    model: str = field(metadata={"help": "Model folder, or hub name if there is a network."})
    output: Path = field(metadata={"help": "Folder for report.html, answers.jsonl and metrics.json."})
    data: list[str] = field(
        default_factory=list, metadata={"help": "Test sets: annotation files in LLaVA format; or use --benchmark."}
    )
    benchmark: str | None = field(
        default=None, metadata={"help": "Ask the questions of a benchmark, for example mvbench; needs --data_dir."}
    )
    data_dir: Path | None = field(
        default=None, metadata={"help": "Folder with the published files of the benchmark, its videos extracted."}
    )
    image_folder: str | None = field(
        default=None, metadata={"help": "Folder that media paths are relative to; default: that of each test set."}
    )
    batch_size: int = field(default=32, metadata={"help": "Maximum number of questions in a batch."})
    max_new_tokens: int = field(default=64, metadata={"help": "Maximum number of tokens in an answer."})
    time_controls: bool = field(
        default=False,
        metadata={
            "help": "Ask questions about videos again with the frames backwards, shuffled, one frame in all places, "
            "and blank frames."
        },
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of the shuffled frames of time controls, and of random letters."}
    )
    scores: list[str] = field(
        default_factory=list,
        metadata={"help": "Also compare the texts with the expected ones: bleu, chrf, or both; needs sacrebleu."},
    )
    video_backend: str = field(default="auto", metadata={"help": "Video decoder: auto or pyav, or decord."})
    decode_timeout: float = field(
        default=60.0,
        metadata={
            "help": "Maximum seconds to read one video, in a separate process; 0: no limit and no separate process."
        },
    )
    allow_special_tokens: bool = field(
        default=False, metadata={"help": "Accept texts with special tokens, as training does with the same flag."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for tables of annotation files; default: the cache of datasets."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU even if there is a GPU."})

    def __post_init__(self) -> None:
        if not self.data and self.benchmark is None:
            raise FvvError("data is empty: give at least one annotation file, or a benchmark.")
        if self.data and self.benchmark is not None:
            raise FvvError("data and benchmark are both given: use one of them.")
        if self.benchmark is not None and self.benchmark not in BENCHMARK_NAMES:
            raise FvvError(f"Unknown benchmark {self.benchmark!r}: choose one of {', '.join(BENCHMARK_NAMES)}.")
        if (self.benchmark is None) != (self.data_dir is None):
            raise FvvError("benchmark and data_dir need each other: give both.")
        if self.benchmark is not None and self.image_folder is not None:
            raise FvvError("image_folder belongs to data: a benchmark has its videos in data_dir.")
        if len(set(self.data)) < len(self.data):
            raise FvvError(f"data names a file twice: {' '.join(self.data)}.")
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.seed < 0:
            raise FvvError(f"seed must be 0 or more, got {self.seed}.")
        DataArguments(
            video_backend=self.video_backend, decode_timeout=self.decode_timeout
        )  # raises what training would


def main(arguments: list[str]) -> None:
    values = parse(flags_of(EvaluateSettings), arguments, "evaluate", EvaluateSettings.__doc__ or "")
    settings = EvaluateSettings(**values)
    with quick_imports():
        import torch

        from fvv_lib.evaluation.asking import reader_of
        from fvv_lib.evaluation.benchmarks.report import format_benchmark, is_strictly_right, score_benchmark
        from fvv_lib.evaluation.benchmarks.table import load_benchmark
        from fvv_lib.evaluation.controls import CONTROLS, FORWARDS
        from fvv_lib.evaluation.questions import read_questions
        from fvv_lib.evaluation.run import Asking, TestSet, open_tests, run_evaluation
        from fvv_lib.evaluation.scoring import reader_for
        from fvv_lib.evaluation.summary import format_summary
        from fvv_lib.evaluation.text_scores import check_measures
        from fvv_lib.finetuning.output import hold
        from fvv_lib.weights.loading import load_pretrained_model

    check_measures(settings.scores)
    rank = int(os.environ.get("RANK", 0))
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
        # Answers are exchanged, no tensors. At the end, the first process waits for the slowest one.
        torch.distributed.init_process_group("gloo", timeout=WAIT)
    has_gpu = torch.cuda.is_available() and not settings.use_cpu
    with hold(settings.output) if rank == 0 else nullcontext():
        asked = (
            load_benchmark(settings.benchmark, settings.data_dir) if settings.benchmark and settings.data_dir else []
        )
        loaded = load_pretrained_model(
            settings.model, device=f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if has_gpu else "cpu"
        )
        opened = open_tests(
            loaded,
            settings.data,
            image_folder=settings.image_folder,
            cache_dir=settings.cache_dir,
            video_backend=settings.video_backend,
            decode_timeout=settings.decode_timeout,
            allow_special_tokens=settings.allow_special_tokens,
        )
        asking = Asking(
            settings.batch_size,
            settings.max_new_tokens,
            tuple(CONTROLS) if settings.time_controls else (FORWARDS,),
            settings.seed,
            tuple(settings.scores),
        )
        tests = [
            TestSet(path, read_questions(data), reader_for(data))
            for path, data in zip(settings.data, opened, strict=True)
        ]
        if settings.benchmark:
            read = reader_of(loaded.model.video_config, settings.video_backend, settings.decode_timeout or None)
            score = partial(score_benchmark, settings.benchmark, asked, seed=settings.seed)
            tests = [TestSet(settings.benchmark, asked, read, is_strictly_right, score)]
        identity = _identify(settings, opened, asked) if rank == 0 else {}
        metrics = run_evaluation(loaded, tests, settings.output, identity, asking)
    if metrics is not None:
        for path, summary in metrics["tests"].items():
            print(format_summary(path, summary), end="\n\n")
            if "benchmark" in summary:
                print(format_benchmark(summary["benchmark"]), end="\n\n")
        print(f"report.html, answers.jsonl and metrics.json: {settings.output}", flush=True)


def _identify(
    settings: EvaluateSettings, opened: list["LazySupervisedDataset"], asked: Sequence["Question"]
) -> dict[str, Any]:
    """Return what the answers depend on: the model, the test sets with their images and videos, the settings, and the
    code."""
    from fvv_lib.evaluation.answers import MODEL_FOLDER
    from fvv_lib.evaluation.benchmarks.table import annotation_files
    from fvv_lib.finetuning.comparing import digest_files, digest_media, digest_model
    from fvv_lib.provenance import code_digest, digest_file

    contents = {path: data.samples.contents for path, data in zip(settings.data, opened, strict=True)}
    media = [digest_media(data.samples) for data in opened]
    if settings.benchmark and settings.data_dir:
        files = annotation_files(settings.benchmark, settings.data_dir)
        contents = {settings.benchmark: [digest_file(file) for file in files]}
        media = [digest_files([str(question.source) for question in asked])]
    names = ("max_new_tokens", "time_controls", "seed", "video_backend", "allow_special_tokens")
    return {
        "model": digest_model(settings.model),
        MODEL_FOLDER: settings.model,
        "data": contents,
        "images and videos": media,
        **{name: getattr(settings, name) for name in names},
        "version of fvv_lib": code_digest(),
    }
