"""Features spliced into the prompt; the FastVLM, and the LLaVA, that take videos.                         Lesson 4

`prepare_inputs_labels_for_multimodal` replaces each -200 of a prompt by the K features of one frame. `VideoMixin` puts
that before the forward pass of any transformers class that is built like LLaVA (vision tower, projector, language
model), and computes logits only where there are labels. This module knows nothing about files or templates.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import FastVlmForConditionalGeneration, LlavaForConditionalGeneration
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import CausalLMOutputWithPast

from fvv_lib.arguments import VideoConfig
from fvv_lib.encoder import Images, encode_images
from fvv_lib.errors import DataFormatError, LabelMismatchError
from fvv_lib.tokens import IGNORE_INDEX, IMAGE_TOKEN_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object

Prepared = tuple[None, torch.Tensor | None, torch.Tensor | None, Any, torch.Tensor, torch.Tensor | None]


def prepare_inputs_labels_for_multimodal(
    model: "VideoMixin",
    input_ids: torch.Tensor,
    position_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    past_key_values: Any,
    labels: torch.Tensor | None,
    images: Images | None,
    image_sizes: Any = None,
    *,
    padding_side: str = "right",
) -> Prepared | tuple[torch.Tensor, Any, Any, Any, None, Any]:
    """Replace each image sentinel by the features of one frame. LLaVA's signature and 6-tuple.

    Args:
        input_ids: int64 (B, L) with `IMAGE_TOKEN_INDEX` once per frame, padded anywhere the mask is 0.
        attention_mask, labels: (B, L) or None.
        images: see `encoder.flatten_frames`: one entry per sample; with one sample, all pictures are its frames.
        image_sizes: accepted because LLaVA's signature has it; frames are square here.
        padding_side: where the result is padded: `right` to train, `left` to generate.

    Returns:
        (None, position_ids, attention_mask, past_key_values, inputs_embeds, labels): embeddings (B, L', D) with
        L' = the longest of text + frames * K; mask and labels (B, L'), None where None came in; padding is 0 and -100.
        Without images, the input as it was, with None for the embeddings.

    Raises:
        DataFormatError: a sample's sentinels are not as many as its frames. (Apple's code raises IndexError when there
            are too many sentinels; the described system uses the first frame in silence when there are too few.)

    Source: LLaVA, `llava_arch.py`. Lesson: 04.
    """
    if images is None:
        return input_ids, position_ids, attention_mask, past_key_values, None, labels
    batch = len(input_ids)
    if isinstance(images, torch.Tensor) and batch == 1 and images.ndim == 4:
        images = images[None]
    features = encode_images(model, images)  # B x (T, K, D)
    _check_sentinels(input_ids, features)

    embeds, new_labels, lengths = [], [], []
    for i in range(batch):
        keep = slice(None) if attention_mask is None else attention_mask[i].bool()
        ids = input_ids[i][keep]  # (l,)
        is_frame = ids == IMAGE_TOKEN_INDEX
        tokens_per_frame = features[i].shape[1]
        repeats = torch.where(is_frame, tokens_per_frame, 1)
        text = model.get_input_embeddings()(ids.masked_fill(is_frame, 0)).repeat_interleave(repeats, dim=0)  # (l', D)
        is_feature = is_frame.repeat_interleave(repeats)[:, None]
        embeds.append(text.masked_scatter(is_feature, features[i].to(text.dtype)))
        lengths.append(len(text))
        if labels is not None:  # a sentinel's label is -100, and so is each copy of it
            new_labels.append(labels[i][keep].repeat_interleave(repeats, dim=0))

    inputs_embeds = pad_sequence(embeds, batch_first=True, padding_side=padding_side)  # (B, L', D)
    ones = [torch.ones(length, dtype=torch.long, device=input_ids.device) for length in lengths]
    mask = pad_sequence(ones, batch_first=True, padding_side=padding_side)
    if labels is not None:
        labels = pad_sequence(new_labels, batch_first=True, padding_value=IGNORE_INDEX, padding_side=padding_side)
    if position_ids is not None:
        position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
    if attention_mask is not None:
        attention_mask = mask.to(attention_mask.dtype)
    elif len(set(lengths)) > 1:
        attention_mask = mask
    return None, position_ids, attention_mask, past_key_values, inputs_embeds, labels


def _check_sentinels(input_ids: torch.Tensor, features: list[torch.Tensor]) -> None:
    if len(features) != len(input_ids):
        raise DataFormatError(
            f"The batch has {len(input_ids)} samples but images for {len(features)}: pass one entry per sample "
            "(a text-only sample has an entry of 0 frames)."
        )
    sentinels = (input_ids == IMAGE_TOKEN_INDEX).sum(dim=1).tolist()
    for i, (count, feature) in enumerate(zip(sentinels, features, strict=True)):
        if count != len(feature):
            raise DataFormatError(
                f"Sample {i} of the batch has {count} image sentinels but {len(feature)} frames: expand its <image> to "
                "one per frame (expand_image_tokens)."
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

    Lesson: 04.
    """

    video_config: VideoConfig = VideoConfig()
    train_batchnorm: bool = False

    def normalize(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames as the vision tower wants them: uint8 (F, C, H, W) is scaled to [0, 1] and normalised; float is
        not."""
        parameter = next(self.model.vision_tower.parameters())
        frames = frames.to(parameter.device)
        if frames.dtype != torch.uint8:
            return frames.to(parameter.dtype)
        mean, std = (
            torch.tensor(values, device=parameter.device).reshape(1, 3, 1, 1)
            for values in (self.video_config.image_mean, self.video_config.image_std)
        )
        return ((frames / 255 - mean) / std).to(parameter.dtype)

    def train(self, mode: bool = True) -> "VideoMixin":
        super().train(mode)
        if mode and not self.train_batchnorm:
            for module in self.model.vision_tower.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

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
        **kwargs: Any,
    ) -> Any:
        """The base class's forward, with videos.

        Args:
            images: see `encoder.flatten_frames`. The other inputs are those of the base class.
            full_logits: logits at every position (True), or only where the next token has a label (False): then
                `logits` is (labelled tokens, V). By default False while training with labels, else True. 2,100
                positions of 152,000 words are 1.3 GB in float32, and an answer needs thirty of them.
            num_items_in_batch: divide the summed loss by this (the Trainer's count over accumulated batches).

        Raises:
            LabelMismatchError: no token of the batch is learned.
        """
        if images is None and input_ids is not None and (input_ids == IMAGE_TOKEN_INDEX).any():
            raise DataFormatError("The prompt has image sentinels but images is None: pass the frames.")
        if images is not None:
            if input_ids is None or inputs_embeds is not None:
                raise DataFormatError("images need input_ids with one sentinel per frame, and no inputs_embeds.")
            input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels = (
                prepare_inputs_labels_for_multimodal(
                    self, input_ids, position_ids, attention_mask, past_key_values, labels, images
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
        if full_logits is None:
            full_logits = not self.training
        if labels is None or full_logits:
            if num_items_in_batch is not None:
                inputs["num_items_in_batch"] = num_items_in_batch
            return super().forward(labels=labels, **inputs)

        hidden = self.model(**inputs).last_hidden_state  # (B, L', D)
        learned = labels[:, 1:] != IGNORE_INDEX  # position t predicts token t + 1
        targets = labels[:, 1:][learned]  # (S,)
        if len(targets) == 0:
            raise LabelMismatchError(
                "No token of this batch is learned: every label is -100, so its loss would be 0 and teach nothing. "
                "Look at the samples with diagnose_labels; most often the template does not suit the tokenizer."
            )
        logits = self.lm_head(hidden[:, :-1][learned])  # (S, V)
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
        if is_deepspeed_zero3_enabled():
            model._weight_conversions = []  # it notes renamings that loading did not need; saving would undo them
        if video_config is None and path is not None:
            video_config = VideoConfig.load(path)
        if video_config is not None:
            model.video_config = video_config
        return result

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save as the base class does, under its name, with `video_config` in a small file beside `config.json`."""
        if kwargs.get("state_dict") is not None:  # DeepSpeed's copy has tied weights twice
            tied = self.all_tied_weights_keys
            kwargs["state_dict"] = {k: v for k, v in kwargs["state_dict"].items() if k not in tied}
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
