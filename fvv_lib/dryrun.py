"""A training step on tensors without content, to see how many bytes are alive at each moment.             Lesson 9

The model is built without weights and run on PyTorch's fake tensors, which have a shape and a type and no memory. So
whatever it does (autocast, gradient checkpointing, LoRA, frozen parts) is counted as it is done, with no formula for
any layer. This module knows nothing about what outlives a step: see `memory`.
"""

import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fvv_lib.arguments import PARTS, ModelArguments, VideoConfig
from fvv_lib.encoder import encode_images
from fvv_lib.errors import FvvError, TokenBudgetError
from fvv_lib.fullsize import LANGUAGE_MODELS, full_size_config
from fvv_lib.images import processor_size
from fvv_lib.loading import open_checkpoint, tokens_per_frame
from fvv_lib.lora import add_lora
from fvv_lib.model import FastVlmForVideo, VideoMixin
from fvv_lib.parts import set_trainable
from fvv_lib.vocabulary import Vocabulary


@dataclass(frozen=True)
class MemorySettings:
    """What the memory of a training step depends on. The names are those of the flags of `fvv_lib.training`."""

    model: str
    """Folder or hub name of a checkpoint; or 0.5b, 1.5b, 7b for the released sizes."""
    num_video_frames: int = 8
    """Frames of each sample."""
    image_size: int | None = None
    """Side of a frame in pixels; default: that of the checkpoint, 1024 for a released size."""
    frame_pool: int = 1
    """Average this many by this many tokens of each frame."""
    frames_per_chunk: int | None = None
    """Frames that pass the vision tower at a time; default: all of the batch."""
    text_tokens: int = 128
    """Tokens of a sample that are text; `check --report` lists all tokens of each sample, those of frames included."""
    labelled_tokens: int = 64
    """Those of them that are learned."""
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    tunable_parts: tuple[str, ...] = PARTS
    """Parts that are trained: any of vision_tower, projector, language_model."""
    lora_rank: int = 0
    """Train the language model through LoRA of this rank; 0: in full."""
    bf16: bool = True
    """Train in bfloat16: autocast over float32 weights, or with ZeRO bfloat16 weights."""
    zero_stage: int = 0
    """DeepSpeed's ZeRO: 0 (none) to 3. It is shared out over num_devices."""
    num_devices: int = 1
    offload: bool = False
    """Keep the optimizer (ZeRO-1 to 3) and the parameters (ZeRO-3) in the memory of the host."""

    def __post_init__(self) -> None:
        ModelArguments(self.model, list(self.tunable_parts), self.lora_rank)  # raises what training would
        for name in ("num_video_frames", "frame_pool", "frames_per_chunk", "image_size", "labelled_tokens",
                     "per_device_train_batch_size", "gradient_accumulation_steps", "num_devices"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.zero_stage not in range(4):
            raise FvvError(f"zero_stage must be 0, 1, 2 or 3, got {self.zero_stage}.")
        if self.offload and not self.zero_stage:
            raise FvvError("offload is a part of ZeRO: set zero_stage to 1, 2 or 3.")
        if self.labelled_tokens > self.text_tokens:
            raise FvvError(
                f"labelled_tokens={self.labelled_tokens} are more than text_tokens={self.text_tokens}: they are a part "
                "of them."
            )


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive while it is active.

    Attributes:
        moments: after each operation, the bytes of activations and temporaries, and those of complete gradients. The
            model's own parameters and buffers are in neither.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.live = self.gradients = 0
        self.moments: list[tuple[int, int]] = []
        self.sizes: dict[int, int] = {}  # of each storage that is alive
        for tensor in (*model.parameters(), *model.buffers()):
            self._hold(tensor, 0)
        for parameter in model.parameters():
            if parameter.grad is not None:  # of earlier batches that are accumulated
                self._hold(parameter.grad, 0)
                self.gradients += parameter.grad.nbytes
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._separate)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:  # a sparse one holds two of these
                self._hold(tensor)
        self.moments.append((self.live, self.gradients))
        return result

    def _hold(self, tensor: torch.Tensor, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes() if size is None else size
            self.live += self.sizes[key]
            weakref.finalize(storage, self._release, key).atexit = False

    def _release(self, key: int) -> None:
        self.live -= self.sizes.pop(key)

    def _separate(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        self.live -= self.sizes[key]
        self.gradients += self.sizes[key]
        self.sizes[key] = 0


class Step(NamedTuple):
    """One training step of one device that shares nothing: `moments` is int64 (operations, 2), see `_LiveBytes`."""

    tokens_per_frame: int
    tokens_per_sample: int
    parameters: int
    trained: int
    buffer_bytes: int
    moments: np.ndarray


def _open(settings: MemorySettings) -> tuple[VideoMixin, int, int]:
    """The model without weights, the side of a frame in pixels, and the positions that the model may read."""
    with torch.device("meta"):
        if settings.model in LANGUAGE_MODELS:
            config = full_size_config(settings.model)
            model: VideoMixin = FastVlmForVideo(config)
            size, limit = 1024, config.text_config.max_position_embeddings
        else:
            checkpoint = open_checkpoint(settings.model)
            model = checkpoint.model_class(checkpoint.config)
            size, limit = processor_size(checkpoint.image_processor), checkpoint.context_len
    model.video_config = VideoConfig(frame_pool=settings.frame_pool)
    model.pixels_at_once = None  # as on a GPU; a CPU may hold less
    return model, settings.image_size or size, limit


def _run_step(model: VideoMixin, settings: MemorySettings, image_size: int, length: int) -> None:
    """One forward and one backward pass as the Trainer and `VideoMixin.forward` do them, on tensors without content."""
    batch, frames = settings.per_device_train_batch_size, settings.num_video_frames
    images = torch.empty(batch, frames, 3, image_size, image_size, dtype=torch.uint8)
    ids = torch.zeros(settings.text_tokens + frames, dtype=torch.long)
    repeated = torch.zeros(length, dtype=torch.long)  # the position in `ids` of each of L embeddings
    is_feature = torch.zeros(length, 1, dtype=torch.bool)
    labelled = torch.zeros(batch * settings.labelled_tokens, dtype=torch.long)
    mask = torch.ones(batch, length, dtype=torch.long) if batch > 1 else None  # alone there is no padding
    autocast = settings.bf16 and not settings.zero_stage
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        vocabulary = Vocabulary(model)
        vocabulary.late &= settings.zero_stage < 3  # there the modules are called
        vocabulary.embedding.padding_idx = None  # the size of a sparse gradient would depend on the ids
        features = encode_images(model, images, settings.frames_per_chunk)  # B x (T, K, D)
        words = vocabulary.embed(ids)
        rows = [words[repeated].masked_scatter(is_feature, clip.to(words.dtype)) for clip in features]
        hidden = model.model(inputs_embeds=torch.stack(rows), attention_mask=mask, use_cache=False).last_hidden_state
        logits = vocabulary.logits(hidden[:, :-1].flatten(0, 1)[labelled])  # (S, V)
        loss = F.cross_entropy(logits.float(), labelled, reduction="sum")
        del features, words, rows, hidden, vocabulary
    logits = logits.float()  # what accelerate does with the outputs of autocast
    del logits
    loss.backward()


@lru_cache(maxsize=64)
def dry_run(settings: MemorySettings) -> Step:
    """Run a training step without content. ZeRO and offload count only as the type of the weights that they bring.

    Raises:
        TokenBudgetError: a sample has more tokens than the model may read.

    Lesson: 09.
    """
    model, image_size, limit = _open(settings)
    per_frame = tokens_per_frame(model, image_size)
    length = settings.text_tokens + settings.num_video_frames * per_frame
    if length > limit:
        raise TokenBudgetError(
            f"{length} tokens = {settings.text_tokens} of text + {settings.num_video_frames} frames x {per_frame}, but "
            f"{settings.model} reads {limit} at most: take fewer frames, smaller pictures, or frame_pool."
        )
    module: torch.nn.Module = model
    if settings.lora_rank:
        module = add_lora(model, ModelArguments(settings.model, list(settings.tunable_parts), settings.lora_rank))
    else:
        set_trainable(model, settings.tunable_parts)
    if settings.bf16 and settings.zero_stage:
        module.to(torch.bfloat16)
    if settings.gradient_checkpointing:
        newer = hasattr(model, "activation_checkpointing_enable")  # where it is there, the older name only warns
        model.activation_checkpointing_enable() if newer else model.gradient_checkpointing_enable()
    module.train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to_empty(device="cpu")
        model.tie_weights()  # each module has got a parameter of its own
        if settings.gradient_accumulation_steps > 1:
            for parameter in module.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        with _LiveBytes(module) as alive:
            _run_step(model, settings, image_size, length)
    total = sum(parameter.numel() for parameter in module.parameters())
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    buffers = sum(buffer.nbytes for buffer in module.buffers())
    return Step(per_frame, length, total, trained, buffers, np.array(alive.moments))
