"""`fvv evaluate`: ask a model all questions of test sets, and count the right answers.                       Lesson 7

    fvv evaluate --model output/tiny-fastvlm-video --data data_samples/test.json --output output/evaluated

Each video is read and encoded once for all its questions. A stopped evaluation goes on with the same command. With
several GPUs: `torchrun --nproc_per_node 8 -m fvv_lib evaluate ...`.
"""

import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvv_lib.cli.flags import flags_of, parse
from fvv_lib.cli.starting import quick_imports
from fvv_lib.errors import FvvError
from fvv_lib.settings import DataArguments

if TYPE_CHECKING:
    from fvv_lib.data.dataset import LazySupervisedDataset


@dataclass(frozen=True)
class EvaluateSettings:
    """Ask a model all questions of test sets, and count the right answers."""

    model: str = field(metadata={"help": "Model folder, or hub name if there is a network."})
    data: list[str] = field(metadata={"help": "Test sets: annotation files in LLaVA format."})
    output: Path = field(metadata={"help": "Folder for answers.jsonl and metrics.json."})
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
    seed: int = field(default=0, metadata={"help": "Seed of the shuffled frames of the time controls."})
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
        if not self.data:
            raise FvvError("data is empty: give at least one annotation file.")
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
        torch.distributed.init_process_group("gloo")  # answers are exchanged, no tensors
    has_gpu = torch.cuda.is_available() and not settings.use_cpu
    with hold(settings.output) if rank == 0 else nullcontext():
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
        identity = _identify(settings, opened) if rank == 0 else {}
        tests = [
            TestSet(path, read_questions(data), reader_for(data))
            for path, data in zip(settings.data, opened, strict=True)
        ]
        metrics = run_evaluation(loaded, tests, settings.output, identity, asking)
    if metrics is not None:
        for path, summary in metrics["tests"].items():
            print(format_summary(path, summary), end="\n\n")
        print(f"answers.jsonl and metrics.json: {settings.output}", flush=True)


def _identify(settings: EvaluateSettings, opened: list["LazySupervisedDataset"]) -> dict[str, Any]:
    """Return what the answers depend on: the model, the test sets with their images and videos, the settings, and the
    code."""
    from fvv_lib.finetuning.comparing import digest_media, digest_model
    from fvv_lib.provenance import code_digest

    names = ("max_new_tokens", "time_controls", "seed", "video_backend", "allow_special_tokens")
    return {
        "model": digest_model(settings.model),
        "data": dict(zip(settings.data, [data.samples.contents for data in opened], strict=True)),
        "images and videos": [digest_media(data.samples) for data in opened],
        **{name: getattr(settings, name) for name in names},
        "version of fvv_lib": code_digest(),
    }
