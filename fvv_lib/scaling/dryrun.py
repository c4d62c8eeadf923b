"""Dry-run a training step on fake tensors, to count the bytes that are alive at each moment.              Lesson 9

The model is built without weights and run on PyTorch's fake tensors, which have a shape and a dtype but no memory. So
everything that the step does (autocast, gradient checkpointing, LoRA, frozen parts) is counted as it happens, without
a formula for any layer. This module knows nothing about memory that outlives a step: see `budget`.
"""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from fvv_lib.errors import TokenBudgetError
from fvv_lib.model.encoder import encode_images
from fvv_lib.model.geometry import make_frame_spec, processor_size
from fvv_lib.model.parts import set_trainable
from fvv_lib.model.video_model import FastVlmForVideo, VideoMixin
from fvv_lib.model.vocabulary import Vocabulary
from fvv_lib.private_api import FakeTensorMode, TorchDispatchMode, tree_leaves
from fvv_lib.scaling.released import LANGUAGE_MODELS, RELEASED_IMAGE_SIZE, full_size_config
from fvv_lib.settings import MemorySettings, ModelArguments
from fvv_lib.video_config import VideoConfig
from fvv_lib.weights.loading import open_model_folder
from fvv_lib.weights.lora import add_lora


class _LiveBytes(TorchDispatchMode):
    """Count the bytes of live tensors while this mode is active.

    Attributes:
        moments: after each operation, the bytes of activations and temporary tensors, and the bytes of complete
            gradients. Neither includes the model's own parameters and buffers.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.live = self.gradients = 0
        self.moments: list[tuple[int, int]] = []
        self.sizes: dict[int, int] = {}  # counted bytes of each live storage
        self.watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}  # calls `_release` when the storage is freed
        for tensor in (*model.parameters(), *model.buffers()):
            self._hold(tensor, 0)
        for parameter in model.parameters():
            if parameter.grad is not None:  # accumulated from earlier batches
                self._hold(parameter.grad, 0)
                self.gradients += parameter.grad.nbytes
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._separate)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor | tuple | list):  # two thirds of all operations only query a device
            for tensor in [result] if isinstance(result, torch.Tensor) else tree_leaves(result):
                if isinstance(tensor, torch.Tensor) and not tensor.is_sparse:  # a sparse one holds two dense ones
                    self._hold(tensor)
        self.moments.append((self.live, self.gradients))
        return result

    def _hold(self, tensor: torch.Tensor, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)  # PyTorch keeps this object as long as its memory
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes() if size is None else size
            self.live += self.sizes[key]
            self.watched[key] = weakref.ref(storage, lambda _: self._release(key))

    def _release(self, key: int) -> None:
        self.live -= self.sizes.pop(key)
        del self.watched[key]

    def _separate(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        key = id(parameter.grad.untyped_storage())
        self.live -= self.sizes[key]
        self.gradients += self.sizes[key]
        self.sizes[key] = 0


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Disable garbage collection, which takes time and would free tensors at arbitrary moments."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Size(NamedTuple):
    """The size of a model: numbers of all and of trained parameters, and bytes of its buffers."""

    parameters: int
    trained: int
    buffer_bytes: int


class Step(NamedTuple):
    """A training step on one device without sharding. `moments` is int64 (operations, 2), see `_LiveBytes`."""

    tokens_per_frame: int
    tokens_per_sample: int
    size: Size
    moments: np.ndarray


class _Opened(NamedTuple):
    """The model of a folder or of a released size, without weights; see `model.geometry.OpenedModel`."""

    model: VideoMixin
    image_size: int
    context_len: int
    image_processor: Any = None

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config


def _open(settings: MemorySettings) -> _Opened:
    """Build the model without weights, for frames of the requested size."""
    with torch.device("meta"):
        if settings.model in LANGUAGE_MODELS:
            config = full_size_config(settings.model)
            opened = _Opened(FastVlmForVideo(config), RELEASED_IMAGE_SIZE, config.text_config.max_position_embeddings)
        else:
            checkpoint = open_model_folder(settings.model)
            size = processor_size(checkpoint.image_processor)
            opened = _Opened(checkpoint.model_class(checkpoint.config), size, checkpoint.context_len)
    opened.model.video_config = VideoConfig(frame_pool=settings.frame_pool)
    opened.model.pixels_at_once = None  # no limit, as on a GPU; on a CPU a step may need less
    return opened if settings.image_size is None else opened._replace(image_size=settings.image_size)


def _run_step(model: VideoMixin, settings: MemorySettings, image_size: int, length: int) -> None:
    """Run a forward and a backward pass on fake tensors, as the Trainer and `VideoMixin.forward` do."""
    batch, frames = settings.per_device_train_batch_size, settings.frames
    images = torch.empty(batch, frames, 3, image_size, image_size, dtype=torch.uint8)
    ids = torch.zeros(settings.text_tokens + frames, dtype=torch.long)
    repeated = torch.zeros(length, dtype=torch.long)  # position in `ids` of each of the L embeddings
    is_feature = torch.zeros(length, 1, dtype=torch.bool)
    labelled = torch.zeros(batch * settings.labelled_tokens, dtype=torch.long)
    mask = torch.ones(batch, length, dtype=torch.long) if batch > 1 else None  # a single sample has no padding
    autocast = settings.bf16 and not settings.zero_stage
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        vocabulary = Vocabulary(model)
        vocabulary.late &= settings.zero_stage < 3  # under ZeRO-3 the modules are called
        vocabulary.embedding.padding_idx = None  # with it, a sparse gradient's size depends on the ids
        features = encode_images(model, images, settings.frames_per_chunk)  # B x (T, K, D)
        words = vocabulary.embed(ids)
        rows = [words[repeated].masked_scatter(is_feature, clip.to(words.dtype)) for clip in features]
        hidden = model.model(inputs_embeds=torch.stack(rows), attention_mask=mask, use_cache=False).last_hidden_state
        logits = vocabulary.logits(hidden[:, :-1].flatten(0, 1)[labelled])  # (S, V)
        loss = F.cross_entropy(logits.float(), labelled, reduction="sum")
        del features, words, rows, hidden, vocabulary
    logits = logits.float()  # as accelerate does with the outputs of autocast
    del logits
    loss.backward()


def _size(module: torch.nn.Module) -> Size:
    parameters = list(module.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    buffers = sum(buffer.nbytes for buffer in module.buffers())
    return Size(sum(parameter.numel() for parameter in parameters), trained, buffers)


@lru_cache(maxsize=64)
def model_size(model: str, tunable_parts: tuple[str, ...]) -> Size:
    """Return the size of a model with these parts trained in full, without running a step. Lesson: 09."""
    module = _open(MemorySettings(model)).model
    set_trainable(module, tunable_parts)
    return _size(module)


@lru_cache(maxsize=64)
def dry_run(settings: MemorySettings) -> Step:
    """Run a training step on fake tensors.

    Nothing is sharded or offloaded: `budget` calculates that. ZeRO only sets the dtype of the weights, and in stage 3
    embedding and head are called as modules.

    Raises:
        TokenBudgetError: a sample has more tokens than the model may read.

    Lesson: 09.
    """
    opened = _open(settings)
    model = opened.model
    spec = make_frame_spec(opened, model.video_config, image_size=opened.image_size)
    length = settings.text_tokens + settings.frames * spec.tokens_per_frame
    if length > spec.max_length:
        raise TokenBudgetError(
            f"{length} tokens = {settings.text_tokens} of text + {settings.frames} frames x "
            f"{spec.tokens_per_frame}, but {settings.model} reads {spec.max_length} at most. Use fewer frames, "
            "smaller images, or frame_pool."
        )
    module: torch.nn.Module = model
    if settings.lora_rank:
        module = add_lora(model, ModelArguments(settings.model, settings.tunable_parts, settings.lora_rank))
    else:
        set_trainable(model, settings.tunable_parts)
    if settings.bf16 and settings.zero_stage:
        module.to(torch.bfloat16)
    if settings.gradient_checkpointing:
        newer = hasattr(model, "activation_checkpointing_enable")  # if it exists, the older name only warns
        if newer:
            model.activation_checkpointing_enable()
        else:
            model.gradient_checkpointing_enable()
    module.train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to_empty(device="cpu")
        model.tie_weights()  # to_empty gives each module its own parameter
        if settings.gradient_accumulation_steps > 1:
            for parameter in module.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        with _no_collecting(), _LiveBytes(module) as alive:
            _run_step(model, settings, spec.image_size, length)
    return Step(spec.tokens_per_frame, length, _size(module), np.array(alive.moments))
