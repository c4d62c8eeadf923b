"""The FastVLM, and the LLaVA, that take videos.                                                           Lesson 4

`VideoMixin` puts the splicing of features before the forward pass of any transformers class that is built like LLaVA
(vision tower, projector, language model), and computes logits only where there are labels. This module knows nothing
about files or templates.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import FastVlmForConditionalGeneration, LlavaForConditionalGeneration, TimmWrapperModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import CausalLMOutputWithPast

from fvv_lib.errors import DataFormatError, LabelMismatchError
from fvv_lib.model.encoder import Images
from fvv_lib.model.splicing import prepare_inputs_labels_for_multimodal
from fvv_lib.model.vocabulary import Vocabulary
from fvv_lib.private_api import tied_weights
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from fvv_lib.video_config import VideoConfig

BATCHNORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)

REGISTER_FLOATS = 16  # in the vector registers of AVX-512

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object


def cannot_train_channels_last(tower: torch.nn.Module) -> bool:
    """Whether a tower has a 1x1 convolution with a stride over few channels, as some FastViTs have over the colours.

    On a CPU the backward pass of such a layer in channels-last order writes outside its memory, and the process crashes
    (oneDNN's issue 6035; PyTorch 2.12 to 2.15). Neither Apple's towers nor that of the course have one.
    """
    return any(
        isinstance(layer, torch.nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and 1 < layer.in_channels // layer.groups < REGISTER_FLOATS
        for layer in tower.modules()
    )


class VideoMixin(_Model):
    """Video for a transformers class that is built like LLaVA. Put it before that class in the bases.

    `forward` and `generate` take `images` of 3, 4 or 5 dimensions or a list, uint8 or float, next to `input_ids` with
    one sentinel per frame. Everything else (`pixel_values` with expanded ids, `inputs_embeds`, PEFT, DeepSpeed,
    `from_pretrained`) stays the base class's. What `save_pretrained` writes loads in stock transformers.

    Attributes:
        video_config: how frames were sampled, prepared, pooled and prompted in training; saved beside `config.json`, so
            that evaluation and chat do the same. Stock transformers does not read it: it loads a model that was trained
            with `frame_pool=2`, and gives it all tokens of each frame.
        train_batchnorm: False keeps the vision tower's BatchNorm in eval mode even while training. Fine-tuning sees few
            clips at a time, and one forward in train mode already overwrites statistics that took Apple millions of
            pictures to collect.
        frames_per_chunk: frames that pass the vision tower at a time, see `encode_images`; None: all of the batch.
        pixels_at_once: on a CPU no more pixels than these pass at a time, but at least one frame; None: all of the
            batch. It is faster and, where nothing is kept for a backward pass, takes less memory; the features are the
            same but for rounding.
        packing: lay the samples of a batch in one row while only labelled logits are computed; spares the padding.
        checkpointing: whether gradient checkpointing is on; transformers' own method sets it.

    Lesson: 04.
    """

    video_config: VideoConfig = VideoConfig()
    train_batchnorm: bool = False
    frames_per_chunk: int | None = None
    pixels_at_once: int | None = 2**20
    packing: bool = False
    checkpointing: bool = False

    def normalize(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames as the vision tower wants them: uint8 (F, C, H, W) is scaled to [0, 1] and normalised; float is
        not.

        On a CPU they are in channels-last order, in which convolutions are faster. Only a tower that
        `cannot_train_channels_last` keeps the usual order while it is trained.
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
        if trained and cannot_train_channels_last(self.model.vision_tower):
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
        """transformers reaches layers of its own; a tower of timm must be told in timm's words."""
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
        """The base class's forward, with videos.

        Args:
            images: see `encoder.flatten_frames`. The other inputs are those of the base class.
            full_logits: logits at every position (True), or only where the next token has a label (False): then
                `logits` is (labelled tokens, V). By default False while training with labels, else True. 2,100
                positions of 152,000 words are 1.3 GB in float32, and an answer needs thirty of them.
            num_items_in_batch: divide the summed loss by this (the Trainer's count over accumulated batches).
            vision_features: in place of images, what the vision tower made of them, see `encoder.project_features`.

        Raises:
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

        inputs.setdefault("use_cache", False)  # with a cache, transformers would not tell packed samples apart
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
        """Generate answers to prompts with videos: int64 (B, new tokens); all arguments of transformers' `generate`.

        Args:
            inputs: prompts, int64 (B, L), one sentinel per frame. (`input_ids` is taken too.)
            images: see `encoder.flatten_frames`; None leaves all to the base class, which returns prompt and answer.
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
        """No: the weights are the base class's, so transformers shall rename old names of them as it does there."""
        return False

    @classmethod
    def from_pretrained(
        cls, path: str | Path | None, *args: Any, video_config: VideoConfig | None = None, **kwargs: Any
    ) -> Any:
        """Load as the base class does, with this `video_config`; default: that of the folder if it has one."""
        result = super().from_pretrained(path, *args, **kwargs)
        model = result[0] if isinstance(result, tuple) else result
        if video_config is None and path is not None:
            video_config = VideoConfig.load(path)
        if video_config is not None:
            model.video_config = video_config
        return result

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save as the base class does, under its name, with `video_config` in a small file beside `config.json`."""
        if kwargs.get("state_dict") is not None:  # DeepSpeed's copy has tied weights twice
            tied = tied_weights(self)
            kwargs["state_dict"] = {k: v for k, v in kwargs["state_dict"].items() if k not in tied}
        if is_deepspeed_zero3_enabled():  # it notes renamings that loading did not need; saving would undo them
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
    """FastVLM (Apple, CVPR 2025; `fast_vlm` in transformers) that watches videos. Lesson: 04."""


class LlavaForVideo(VideoMixin, LlavaForConditionalGeneration):
    """LLaVA-1.5 (Liu et al., 2024; `llava` in transformers) that watches videos. Lesson: 08."""
