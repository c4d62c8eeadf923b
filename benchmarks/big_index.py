"""A million samples: how much memory does the index take in each of four workers, and when is the first batch ready?

    python benchmarks/big_index.py      # Linux; writes benchmarks/results/big_index.json

The described system keeps the list that `json.load` returns. Forked workers share it at first. But Python writes a
reference count into every object that it touches, and each written page is copied into the worker. So memory is
measured after each worker has read its quarter of the annotations, as in an epoch. The Pss (private pages plus a share
of the shared ones) and the Uss (private pages only) come from /proc/self/smaps_rollup. The memory of a worker with a
data set of one batch is subtracted; the rest is the index. The Pss also counts the pages of a memory-mapped file, which
the system may drop at any time.

All samples show the same image, because the index is measured, not the files.
"""

import gc
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from PIL import Image
from torch.utils.data import DataLoader, Dataset, get_worker_info

from fvv_lib import DataArguments, DataCollatorForSupervisedDataset, FrameSpec, LazySupervisedDataset
from fvv_lib.course.tiny import build_tokenizer

ROOT = Path(__file__).resolve().parent.parent
SAMPLES, WORKERS, BATCH = 1_000_000, 4, 8
QUESTIONS = ["What happens in this clip?", "Describe it.", "Who does what?", "What comes first?"]


def write_annotations(path: Path, count: int) -> None:
    """Write the samples one by one, so that this process does not hold them all."""
    with path.open("w") as file:
        for i in range(count):
            question, answer = QUESTIONS[i % 4], f"In clip {i} a square of size {i % 97} moves to the left, then stops."
            turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
            file.write(",\n" if i else "[")
            json.dump({"id": f"sample-{i:07d}", "image": "still.png", "conversations": turns}, file)
        file.write("]\n")


def memory() -> dict[str, float]:
    """Return the Pss and Uss of this process in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    uss = kib["Private_Clean"] + kib["Private_Dirty"]
    return {"pss": round(kib["Pss"] / 1024, 1), "uss": round(uss / 1024, 1)}


class Described(LazySupervisedDataset):
    """The described index: a list in memory. Samples are processed by our code, so that only the index differs."""

    def __init__(self, tokenizer, path, data_args):
        with open(path) as file:
            self.samples = json.load(file)
        self.tokenizer, self.data_args, self.folder = tokenizer, data_args, Path(path).parent
        self.names = range(len(self.samples))

    def media(self, index):
        return [self.folder / self.samples[index]["image"]]

    def read(self, path, index):
        self.epoch = 0
        return super().read(path, index)


class Walk(Dataset):
    """Item w: worker w reads its part of the annotations, as in an epoch, and returns its memory."""

    def __init__(self, dataset):
        self.dataset, self.together = dataset, multiprocessing.get_context("fork").Barrier(WORKERS)

    def __len__(self):
        return WORKERS

    def __getitem__(self, _):
        worker = get_worker_info().id
        for index in range(worker, len(self.dataset), WORKERS):
            assert self.dataset.samples[index]["conversations"]
        self.together.wait()  # shared pages count in the Pss of each worker, so all workers must be running
        found = memory()
        self.together.wait()
        return found


def measure(kind: str, folder: str, count: int) -> dict:
    arguments = DataArguments(decode_timeout=0.0, cache_dir=f"{folder}/cache")
    spec = FrameSpec(image_size=64, tokens_per_frame=4, max_length=2048)
    tokenizer, path = build_tokenizer(), f"{folder}/{count}.json"
    start = time.perf_counter()
    if kind == "ours":
        dataset = LazySupervisedDataset(tokenizer, [path], arguments, frame_spec=spec)
    else:
        dataset = Described(tokenizer, path, arguments)
    opened = time.perf_counter() - start
    loader = DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        num_workers=WORKERS,
        collate_fn=DataCollatorForSupervisedDataset(tokenizer),
        multiprocessing_context="fork",
    )
    batches = iter(loader)
    assert len(next(batches)["images"]) == BATCH
    first = time.perf_counter() - start
    del batches, loader
    gc.collect()
    walk = DataLoader(
        Walk(dataset), 1, num_workers=WORKERS, collate_fn=lambda found: found[0], multiprocessing_context="fork"
    )
    workers = list(walk)
    mean = {key: sum(worker[key] for worker in workers) / WORKERS for key in ("pss", "uss")}
    return {"seconds to open": round(opened, 2), "seconds to first batch": round(first, 2), **mean}


def in_a_process(*arguments: object) -> dict:
    """Run a measurement in a new process, because Python does not return freed memory."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compare(folder: str) -> dict:
    Image.new("RGB", (64, 48), "red").save(f"{folder}/still.png")
    for count in (BATCH, SAMPLES):
        write_annotations(Path(folder) / f"{count}.json", count)
    record: dict = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "samples": SAMPLES,
        "workers": WORKERS,
        "annotation file, MiB": round((Path(folder) / f"{SAMPLES}.json").stat().st_size / 2**20),
    }
    results = {name: {} for name in ("described", "ours")}
    for name, result in results.items():
        empty = in_a_process(name, folder, BATCH)
        if name == "ours":  # the first opening builds the table and checks every sample
            record["seconds to first batch, when every sample is checked"] = in_a_process(name, folder, SAMPLES)[
                "seconds to first batch"
            ]
        full = in_a_process(name, folder, SAMPLES)
        for key in ("seconds to open", "seconds to first batch"):
            result[key] = full[key]
        for key in ("pss", "uss"):
            result[f"{key} of the index per worker, MiB"] = round(full[key] - empty[key], 1)
            result[f"{key} of a worker, MiB"] = round(full[key], 1)
    record |= results
    key = "pss of the index per worker, MiB"
    record["described / ours, pss of the index"] = round(results["described"][key] / results["ours"][key], 1)
    return record


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "This DataLoader will create")  # on a machine with fewer cores than workers
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            record = compare(folder)
        print(json.dumps(record, indent=2))
        (ROOT / "benchmarks" / "results" / "big_index.json").write_text(json.dumps(record, indent=2) + "\n")
