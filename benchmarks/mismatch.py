"""Which labels does counting produce with the real Qwen2 tokenizer, and what does a Trainer log if no label is left?

    FVV_REAL_DATA=FOLDER python benchmarks/mismatch.py     # writes benchmarks/results/mismatch.json

`real/qwen2_tokenizer` in that folder is the tokenizer of Qwen2. The same conversations are labelled with two templates:
`v1`, the fallback of the described system, and `qwen_2`, the template of FastVLM. "strict" uses a sample only if the
counted length is the true length, "tolerant" if they differ by at most 5 tokens.
"""

import json
import os
import platform
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, FastVlmForConditionalGeneration, PreTrainedTokenizerBase, Trainer

from fvv_lib.course.tiny import build_tokenizer
from fvv_lib.data.dataset import DataCollatorForSupervisedDataset
from fvv_lib.labels.counting import TOLERANCE
from fvv_lib.labels.diagnosis import MismatchReport, diagnose_labels
from fvv_lib.labels.exact import preprocess
from fvv_lib.prompt.placeholders import IGNORE_INDEX, preprocess_multimodal
from fvv_lib.prompt.templates import conversation_templates

ROOT = Path(__file__).resolve().parent.parent
DATA, NUM_FRAMES, STEPS = "data_samples/train.json", 8, 3
VERSIONS, TURNS, ENDS = ("v1", "qwen_2"), (1, 2, 3), {"full stop": ".", "letter": ""}

Turns = list[dict[str, str]]


def conversation(turns: int, end: str) -> Turns:
    """Return `turns` rounds of question and answer. Each answer ends with `end`."""
    one = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": f"It is a red square{end}"}]
    rounds = [dict(turn) for _ in range(turns) for turn in one]
    rounds[0]["value"] = "<image>\n" + rounds[0]["value"]
    return rounds


def outcome(report: MismatchReport, tolerance: int) -> str:
    return "used" if abs(report.counted - report.total) <= tolerance else "dropped"


def measure_case(tokenizer: PreTrainedTokenizerBase, version: str, turns: int, end: str) -> dict[str, Any]:
    report = diagnose_labels(conversation(turns, ENDS[end]), tokenizer, version)
    return {
        "version": version,
        "turns": turns,
        "answers end in a": end,
        "counted - total": report.counted - report.total,
        "strict": outcome(report, 0),
        "tolerant": outcome(report, TOLERANCE),
        "learned, no answer": report.learned,
        "answer, not learned": report.missed,
    }


def measure_data(samples: Sequence[Turns], tokenizer: PreTrainedTokenizerBase, version: str) -> dict[str, Any]:
    """Count the samples and tokens that each labelling mode uses, grouped by the number of rounds of a sample."""
    stop = conversation_templates[version].stop
    by_rounds: dict[int, Counter] = {}
    for turns in samples:
        report = diagnose_labels(turns, tokenizer, version)
        counts = by_rounds.setdefault(len(turns) // 2, Counter())
        pairs = list(zip(report.exact, report.by_counting, strict=True))
        answer = sum(exact != IGNORE_INDEX for exact, _ in pairs)
        counts.update({"samples": 1, "answer tokens": answer, "strict": outcome(report, 0) == "used"})
        if outcome(report, TOLERANCE) == "dropped":
            continue
        labels = [label for label in report.by_counting if label != IGNORE_INDEX]
        counts.update(
            {
                "tolerant": 1,
                "tolerant, learned answer tokens": sum(IGNORE_INDEX != exact == counted for exact, counted in pairs),
                "tolerant, learned other tokens": sum(exact == IGNORE_INDEX != counted for exact, counted in pairs),
                "tolerant, whole end marks": tokenizer.decode(labels).count(stop),
            }
        )
    names = ("samples", "answer tokens", "strict", "tolerant")
    names += ("tolerant, learned answer tokens", "tolerant, learned other tokens", "tolerant, whole end marks")
    return {str(rounds): {name: counts[name] for name in names} for rounds, counts in sorted(by_rounds.items())}


def losses_without_labels() -> dict[str, Any]:
    """Return what the stock Trainer logs when `strict` has dropped every sample and no label is left."""
    tokenizer = build_tokenizer()
    turns = [[{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "It is a red square."}]] * 4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        both = preprocess(turns, tokenizer, version="v1", mismatch="strict")
    keys = ("input_ids", "labels")
    data = [{**{key: both[key][i] for key in keys}, "images": torch.empty(0)} for i in range(len(turns))]
    collate = DataCollatorForSupervisedDataset(tokenizer)
    model = FastVlmForConditionalGeneration.from_pretrained(ROOT / "data_samples" / "tiny-fastvlm")
    batch = {key: value for key, value in collate(data).items() if key != "images"}
    before = {name: value.clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        loss = model(**batch).loss.item()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, max_steps=STEPS, logging_steps=1, use_cpu=True, report_to="none", save_strategy="no",
            disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=data, data_collator=lambda items: batch)
        trainer.train()
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    return {
        "transformers": transformers.__version__,
        "warnings": len(caught),
        "loss of the model": str(loss),
        "losses in the log": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "gradient norms in the log": [str(e["grad_norm"]) for e in trainer.state.log_history if "grad_norm" in e],
        "parameters that changed": len(changed),
        "parameters": len(before),
    }


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ["FVV_REAL_DATA"]) / "real" / "qwen2_tokenizer")
    loaded = [sample["conversations"] for sample in json.loads((ROOT / DATA).read_text())]
    samples = [
        preprocess_multimodal([t], num_frames=NUM_FRAMES if "<image>" in t[0]["value"] else 1)[0] for t in loaded
    ]
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "tokenizer": "Qwen2",
        "tokens": {text: tokenizer.tokenize(text) for text in ("red</s>", "red.</s>")},
        "separator": len(tokenizer(conversation_templates["qwen_2"].answer_end, add_special_tokens=False).input_ids),
        "tolerance": TOLERANCE,
        "cases": [measure_case(tokenizer, version, n, end) for version in VERSIONS for n in TURNS for end in ENDS],
        "two turns, full stop": asdict(diagnose_labels(conversation(2, "."), tokenizer, "v1")),
        DATA: {version: measure_data(samples, tokenizer, version) for version in VERSIONS},
        "no label is left": losses_without_labels(),
    }
    path = ROOT / "benchmarks" / "results" / "mismatch.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
