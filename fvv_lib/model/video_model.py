"""FastVLM and LLaVA models that accept videos.                                                            Lesson 4

`VideoMixin` splices features before the forward pass of any transformers class with LLaVA's structure (vision tower,
projector, language model). In training, it computes logits only for tokens with a label. This module knows nothing
about files or templates.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import FastVlmForConditionalGeneration, LlavaForConditionalGeneration, TimmWrapperModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from fvv_lib.errors import DataFormatError, LabelMismatchError
from fvv_lib.model.encoder import Images
from fvv_lib.model.sharding import is_zero3_enabled
from fvv_lib.model.splicing import prepare_inputs_labels_for_multimodal
from fvv_lib.model.vocabulary import Vocabulary
from fvv_lib.private_api import tied_weights
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from fvv_lib.video_config import VideoConfig

BATCHNORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)

REGISTER_FLOATS = 16  # float32 values in a vector register of AVX-512

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object


def cannot_train_channels_last(tower: torch.nn.Module) -> bool:
    """Return whether a tower has a strided 1x1 convolution over few channels, as some FastViTs do over the colours.

    On a CPU, the backward pass of this layer in channels-last order writes outside its memory and crashes the process
    (oneDNN issue 6035; PyTorch 2.12 to 2.15). The towers of Apple and of the course have no such layer.
    """
    return any(
        isinstance(layer, torch.nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and 1 < layer.in_channels // layer.groups < REGISTER_FLOATS
        for layer in tower.modules()
    )


class VideoMixin(_Model):
    """Add video to a transformers class with LLaVA's structure. Put this mixin before that class in the bases.

    `forward` and `generate` accept `images` of 3, 4 or 5 dimensions or a list, uint8 or float, with `input_ids` that
    have one sentinel per frame. Everything else (`pixel_values` with expanded ids, `inputs_embeds`, PEFT, DeepSpeed,
    `from_pretrained`) works as in the base class. Stock transformers loads what `save_pretrained` writes.

    Attributes:
        video_config: how frames are sampled, prepared, pooled and prompted in training. It is saved beside
            `config.json`, so that evaluation and chat do the same. Stock transformers does not read it: a model that
            was trained with `frame_pool=2` loads there, but gets all tokens of each frame.
        train_batchnorm: False keeps the vision tower's BatchNorm in eval mode, even in training. Fine-tuning sees few
            clips at a time, and a single forward pass in train mode already overwrites statistics that Apple collected
            from millions of images.
        frames_per_chunk: maximum frames per pass of the vision tower, see `encode_images`; `None`: the whole batch.
        pixels_at_once: on a CPU, maximum pixels per pass, but at least one frame; `None`: the whole batch. Smaller
            passes are faster. They need less memory if nothing is kept for a backward pass. The features are the same
            up to rounding.
        packing: concatenate the samples of a batch into one row without padding, if only labelled logits are computed.
        checkpointing: whether gradient checkpointing is on. The method of transformers sets it.

    Lesson: 04.
    """

    video_config: VideoConfig = VideoConfig()
    train_batchnorm: bool = False
    frames_per_chunk: int | None = None
    pixels_at_once: int | None = 2**20
    packing: bool = False
    checkpointing: bool = False

    def normalize(self, frames: torch.Tensor) -> torch.Tensor:
        """Return frames as the vision tower expects them. uint8 (F, C, H, W) is scaled to [0, 1] and normalised; float
        is not.

        On a CPU, frames are in channels-last order, because convolutions are faster then. A tower that
        `cannot_train_channels_last` gets the usual order in training.
        """
        parameters = list(self.model.vision_tower.parameters())
        device, dtype = parameters[0].device, parameters[0].dtype
        frames = frames.to(device)
        if frames.dtype == torch.uint8:
            mean, std = (
                torch.tensor(values, device=device).reshape(1, 3, 1, 1)
                for values in (self.video_config.image_mean, self.video_config.image_std)
            )
            frames = (frames / 255 - mean) / std
        trained = torch.is_grad_enabled() and (frames.requires_grad or any(p.requires_grad for p in parameters))
        channels_last = device.type == "cpu" and frames.ndim == 4
        if channels_last and trained and cannot_train_channels_last(self.model.vision_tower):
            channels_last = False
        return frames.to(dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def train(self, mode: bool = True) -> "VideoMixin":
        super().train(mode)
        if mode and not self.train_batchnorm:
            for module in self.model.vision_tower.modules():
                if isinstance(module, BATCHNORMS):
                    module.eval()
        return self

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        """Set gradient checkpointing. transformers sets it in its own layers only, so a timm tower is set here."""
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        for module in self.model.vision_tower.modules():
            if isinstance(module, TimmWrapperModel):
                module.timm_model.set_grad_checkpointing(enable)
        self.checkpointing = enable

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        images: Images | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        full_logits: bool | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        vision_features: Sequence[torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the base class's forward pass, with videos.

        Args:
            images: see `encoder.flatten_frames`. The other inputs are those of the base class.
            full_logits: True computes logits at every position. False computes them only where the next token has a
                label; `logits` is then (labelled tokens, V). Default: False in training with labels, otherwise True.
                Logits of 2,100 positions and 152,000 words are 1.3 GB in float32, and an answer needs thirty positions.
            num_items_in_batch: divide the summed loss by this (the Trainer's count over accumulated batches).
            vision_features: stored features of the vision tower, in place of images; see `encoder.project_features`.

        Raises:
            DataFormatError: the frames do not match the sentinels, or are passed with inputs that exclude each other.
            LabelMismatchError: no token of the batch is learned.
        """
        has_frames = images is not None or vision_features is not None
        if not has_frames and input_ids is not None and (input_ids == IMAGE_TOKEN_INDEX).any():
            raise DataFormatError("The prompt has image sentinels but images is None: pass the frames.")
        if full_logits is None:
            full_logits = not self.training
        if images is not None and vision_features is not None:
            raise DataFormatError("images and vision_features are the same frames twice: pass one of them.")
        vocabulary = Vocabulary(self) if has_frames and labels is not None and not full_logits else None
        if has_frames:
            if input_ids is None or inputs_embeds is not None:
                raise DataFormatError("images need input_ids with one sentinel per frame, and no inputs_embeds.")
            input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels = (
                prepare_inputs_labels_for_multimodal(
                    self,
                    input_ids,
                    position_ids,
                    attention_mask,
                    past_key_values,
                    labels,
                    images,
                    vision_features=vision_features,
                    packing=self.packing and vocabulary is not None,
                    vocabulary=vocabulary,
                )
            )
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            **kwargs,
        }
        if labels is None or full_logits:
            if num_items_in_batch is not None:
                inputs["num_items_in_batch"] = num_items_in_batch
            return super().forward(labels=labels, **inputs)

        inputs.setdefault("use_cache", False)  # with a cache, transformers would not separate packed samples
        hidden = self.model(**inputs).last_hidden_state  # (B, L', D)
        learned = labels[:, 1:] != IGNORE_INDEX  # position t predicts token t + 1
        targets = labels[:, 1:][learned]  # (S,)
        if len(targets) == 0:
            raise LabelMismatchError(
                "No token of this batch is learned: every label is -100, so its loss would be 0 and teach nothing. "
                "Look at the samples with diagnose_labels; most often the template does not suit the tokenizer."
            )
        logits = (vocabulary.logits if vocabulary else self.lm_head)(hidden[:, :-1][learned])  # (S, V)
        total = F.cross_entropy(logits.float(), targets.to(logits.device), reduction="sum")
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutputWithPast(loss=total / count, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        images: Images | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate answers to prompts with videos. Accept all arguments of transformers' `generate`.

        Args:
            inputs: prompts, int64 (B, L), with one sentinel per frame. (`input_ids` works, too.)
            images: see `encoder.flatten_frames`. With `None`, only the base class runs; it returns prompt and answer.

        Returns:
            int64 (B, new tokens).
        """
        inputs = kwargs.pop("input_ids", None) if inputs is None else inputs
        if images is None:
            return super().generate(inputs, attention_mask=attention_mask, **kwargs)
        if attention_mask is None:
            attention_mask = torch.ones_like(inputs)
        _, _, attention_mask, _, inputs_embeds, _ = prepare_inputs_labels_for_multimodal(
            self, inputs, None, attention_mask, None, None, images, padding_side="left"
        )
        return super().generate(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return False: the weights are the base class's, so transformers must rename old names of them, too."""
        return False

    @classmethod
    def from_pretrained(
        cls, path: str | Path | None, *args: Any, video_config: VideoConfig | None = None, **kwargs: Any
    ) -> Any:
        """Load as the base class does, and set `video_config`; default: the one in the folder, if there is one."""
        result = super().from_pretrained(path, *args, **kwargs)
        model = result[0] if isinstance(result, tuple) else result
        if video_config is None and path is not None:
            video_config = VideoConfig.load(path)
        if video_config is not None:
            model.video_config = video_config
        return result

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save as the base class does, under its name, and save `video_config` in a small file beside `config.json`."""
        if kwargs.get("state_dict") is not None:  # DeepSpeed's copy contains tied weights twice
            tied = tied_weights(self)
            kwargs["state_dict"] = {k: v for k, v in kwargs["state_dict"].items() if k not in tied}
        if is_zero3_enabled():  # loading records renames that did not happen; saving would revert them
            kwargs["save_original_format"] = False
        super().save_pretrained(save_directory, **kwargs)
        if not kwargs.get("is_main_process", True):
            return
        config_file = Path(save_directory) / "config.json"
        config = json.loads(config_file.read_text())
        bases = type(self).__mro__
        config["architectures"] = [bases[bases.index(VideoMixin) + 1].__name__]
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        self.video_config.save(save_directory)


class FastVlmForVideo(VideoMixin, FastVlmForConditionalGeneration):
    """FastVLM (Apple, CVPR 2025; `fast_vlm` in transformers) with video input. Lesson: 04."""


class LlavaForVideo(VideoMixin, LlavaForConditionalGeneration):
    """LLaVA-1.5 (Liu et al., 2024; `llava` in transformers) with video input. Lesson: 08."""
