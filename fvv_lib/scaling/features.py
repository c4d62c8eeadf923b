"""Cache vision features while the tower is frozen.                                                          Lesson 9

While the tower is frozen, its features of a clip do not change, and computing them is most of a training step. So they
are computed before the first step. The trained parts run as before. A stored file is named by a digest of all that its
features depend on. After a change, the file is not found and the features are computed again. This module knows nothing
about projector or language model.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import datasets as hf_datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset

from fvv_lib.arguments import TrainingArguments
from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.errors import VideoDecodeError
from fvv_lib.machine import usable_cores
from fvv_lib.model.encoder import tower_features
from fvv_lib.model.sharding import whole_parameters
from fvv_lib.model.video_model import VideoMixin
from fvv_lib.progress import progress
from fvv_lib.provenance import code_digest
from fvv_lib.scaling.feature_store import Clip, FeatureStore
from fvv_lib.settings import DataArguments
from fvv_lib.video.medium import Medium
from fvv_lib.video_config import FrameSpec, sampling_of

PACKAGES = ("av", "pillow", "torch", "torchvision", "timm", "transformers")  # whose versions affect features

Clips = dict[Medium, tuple[LazySupervisedDataset, int]]  # images and videos, each with a sample that contains it


class FeatureDataset(Dataset):
    """The samples of a dataset with `vision_features` (T, K, D of the vision tower) in place of `images`.

    Args:
        names: the name in the store of each image and video.

    Attributes:
        lengths: the `lengths` of the dataset.

    Lesson: 09.
    """

    def __init__(self, dataset: LazySupervisedDataset, store: FeatureStore, names: dict[Medium, str]):
        media = [dataset.media(index) for index in range(len(dataset))]
        self.dataset, self.store, self.lengths = dataset, store, dataset.lengths
        # An array, because each worker would soon hold a copy of a dictionary, see benchmarks/big_index.py.
        self.names = np.array([names[medium] for some in media for medium in some], dtype="S32")
        self.starts = np.cumsum([0, *map(len, media)])
        some = store.read(next(iter(names.values()))).features
        self.none = some.new_empty(0, *some.shape[1:])

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        names = self.names[self.starts[index] : self.starts[index + 1]]
        clips = [self.store.read(name.decode()) for name in names]
        _, tokens = self.dataset.prompt(index, clips)
        return {**tokens, "vision_features": torch.cat([self.none, *(clip.features for clip in clips)])}


def use_features(
    model: VideoMixin, datasets: dict[str, LazySupervisedDataset], training_args: TrainingArguments
) -> tuple[dict[str, Any], dict[str, int] | None]:
    """Replace frames by features in training and validation data, and compute features that are not stored yet.

    Args:
        model: with a frozen vision tower, as it is before the first step, not yet wrapped by DeepSpeed or DDP.

    Returns:
        The datasets, and the numbers of clips computed and found. With `random` sampling, which takes other frames in
        each epoch, or without any clips, the datasets are unchanged, the numbers are `None`, and nothing is stored.

    Raises:
        FvvError: a clip cannot be read, or it changed while it was read.

    Lesson: 09.
    """
    args, frame_spec = datasets["train"].data_args, datasets["train"].frame_spec
    first = training_args.process_index == 0
    # Questions of the other sets are asked on frames.
    used = {name: datasets[name] for name in ("train", "validation") if name in datasets}
    clips: Clips = {medium: (data, i) for data in used.values() for i in range(len(data)) for medium in data.media(i)}
    if args.frame_sampling == "random" or not clips:
        why = "random sampling takes other frames in each epoch" if clips else "the data have no pictures or videos"
        if first:
            print(f"cache_features is off: {why}", flush=True)
        return datasets, None
    folder = Path(args.cache_dir or hf_datasets.config.HF_DATASETS_CACHE) / "features"
    # ZeRO-3 itself gathers parameters only while it trains.
    with whole_parameters(model.model.vision_tower), whole_parameters(model.model.multi_modal_projector):
        store = FeatureStore(folder, depends_on(model, args, frame_spec, autocast_dtype(training_args)))
        names, counts = _fill(store, model, clips, training_args)
    if first:
        print(f"features in {folder}: {counts['computed']} clips computed, {counts['found']} found", flush=True)
    return {**datasets, **{name: FeatureDataset(data, store, names) for name, data in used.items()}}, counts


def _fill(
    store: FeatureStore, model: VideoMixin, clips: Clips, training_args: TrainingArguments
) -> tuple[dict[Medium, str], dict[str, int]]:
    """Name all clips, and compute those that are not stored. Each process does a share. Return names and counts."""
    mine = list(clips)[training_args.process_index :: training_args.world_size]
    parts: dict[tuple[Any, ...], list[Medium]] = {}  # of each file: one thread reads it for all its parts
    for medium in mine:
        parts.setdefault(medium.files, []).append(medium)
    with ThreadPoolExecutor(usable_cores()) as pool:
        named = pool.map(lambda some: [(medium, store.name(medium)) for medium in some], parts.values())
        names = dict(chain.from_iterable(named))
    missing = {names[medium]: medium for medium in mine if not store.holds(names[medium])}
    _compute(model, _Frames(store, [(name, medium, *clips[medium]) for name, medium in missing.items()]), training_args)
    counts = {"computed": len(missing), "found": len(set(names.values())) - len(missing)}
    everywhere = gather_object([counts])  # waits for all processes
    counts = {key: sum(part[key] for part in everywhere) for key in counts}
    return dict(gather_object(list(names.items()))), counts


class _Frames(Dataset):
    """Clips to compute for a store, each as its name, frames uint8 (T, 3, S, S), and times (T,)."""

    def __init__(self, store: FeatureStore, clips: list[tuple[str, Medium, LazySupervisedDataset, int]]):
        self.store, self.clips = store, clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int) -> tuple[str, torch.Tensor, np.ndarray]:
        name, medium, dataset, index = self.clips[i]
        video = dataset.read(medium, index)
        if self.store.name(medium) != name:
            raise VideoDecodeError(f"{dataset.names[index]}: {medium}: it changed while it was read. Start again.")
        return name, dataset.pixels([video]), video.timestamps


@torch.no_grad()
def _compute(model: VideoMixin, clips: _Frames, training_args: TrainingArguments) -> None:
    """Encode clips as training would, and store them. Meanwhile, workers read the next clips."""
    hidden = training_args.process_index > 0 or bool(training_args.disable_tqdm)
    loader = DataLoader(clips, batch_size=None, num_workers=training_args.dataloader_num_workers)
    dtype = autocast_dtype(training_args)
    for name, frames, times in progress(loader, desc="computing features", hidden=hidden):
        with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
            features = tower_features(model, frames, model.frames_per_chunk)
        clips.store.write(name, Clip(features.contiguous().cpu(), times))


def autocast_dtype(training_args: TrainingArguments) -> torch.dtype | None:
    """Return the dtype of the tower's autocast; `None` for float32 alone."""
    return torch.bfloat16 if training_args.bf16 else torch.float16 if training_args.fp16 else None


def depends_on(
    model: VideoMixin, args: DataArguments, frame_spec: FrameSpec, dtype: torch.dtype | None
) -> dict[str, str]:
    """Return all that features depend on besides the content of a clip, for videos and for images (not sampled)."""
    config, tower = model.config, hashlib.blake2b()
    for weight in model.model.vision_tower.state_dict().values():
        tower.update(weight.cpu().reshape(-1).view(torch.uint8).numpy())
    picture = [
        *(frame_spec.image_size, args.image_aspect_ratio, frame_spec.background),
        *(model.video_config.image_mean, model.video_config.image_std),
        *(tower.hexdigest(), config.vision_config.to_dict(), dtype),
        *(config.vision_feature_layer, config.vision_feature_select_strategy),
        *(code_digest(), [version(package) for package in PACKAGES]),
    ]
    video = [*picture, sampling_of(args), args.video_backend]
    return {"picture": repr(picture), "video": repr(video)}
