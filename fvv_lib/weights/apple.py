"""Translate between Apple's own layout of FastVLM (`llava_qwen2`) and Hugging Face's (`fast_vlm`).           Lesson 8

The weights are the same, under other names. Apple's `config.json` does not contain the sizes of the vision tower, which
are constants in Apple's code, so they are read from the weights. No code from the folder is run, and only tensors are
unpickled. This module knows nothing about running a model.

Source: the code of apple/ml-fastvlm for the layout, timm's `fastvit_mci3` for the names on the other side.
"""

import json
import pickle
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AddedToken,
    AutoTokenizer,
    FastVlmConfig,
    LlavaImageProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
)

from fvv_lib.errors import ModelFolderError
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN
from fvv_lib.prompt.templates import QWEN_2_JINJA

Weights = dict[str, torch.Tensor]

MODEL_TYPE = "llava_qwen2"
RELEASED_TOWER = {"layers": [2, 12, 24, 4, 2], "embed_dims": [96, 192, 384, 768, 1536], "mlp_ratios": [4] * 5}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
ASPECT_RATIOS = {"pad": "pad", "square": "crop", None: "crop"}
# Supported values of settings. Other values need code that the released FastVLM does not run.
SUPPORTED = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": ("flat", None),
    "mm_use_im_start_end": (False, None),
    "image_aspect_ratio": tuple(ASPECT_RATIOS),
}

APPLE_TOWER, TIMM_TOWER = "model.vision_tower.vision_tower.model.", "model.vision_tower.timm_model."
CLIP_HEAD = f"{APPLE_TOWER}head.proj"  # projects features to CLIP's space; FastVLM does not use it
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
RENAMES = (
    (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
)
# Apple's tower is one list of stages and the modules between them. timm's stages contain these modules.
NETWORK = ("stages.0.blocks", "stages.1.downsample", "stages.1.blocks", "stages.2.downsample", "stages.2.blocks",
           "stages.3.downsample", "stages.3.pos_emb", "stages.3.blocks", "stages.4.downsample", "stages.4.pos_emb",
           "stages.4.blocks")  # fmt: skip
TOWER_RENAMES = (
    (r"^patch_embed\.", "stem."),
    (r"^conv_exp\.", "final_conv."),
    *((rf"^network\.{i}\.", f"{place}.") for i, place in enumerate(NETWORK)),
    (r"\.convffn\.", ".mlp."),
    (r"\.lkb_reparam\.", ".reparam_conv."),
    (r"\.se\.reduce\.", ".se.fc1."),
    (r"\.se\.expand\.", ".se.fc2."),
    (r"\.(layer_scale(_[12])?)$", r".\1.gamma"),
)
WAY_BACK = (
    ("model.language_model.", "model."),
    ("multi_modal_projector.linear_1.", "mm_projector.0."),
    ("multi_modal_projector.linear_2.", "mm_projector.2."),
    (f"{TIMM_TOWER}stem.", f"{TIMM_TOWER}patch_embed."),
    (f"{TIMM_TOWER}final_conv.", f"{TIMM_TOWER}conv_exp."),
    *((f"{TIMM_TOWER}{place}.", f"{TIMM_TOWER}network.{i}.") for i, place in enumerate(NETWORK)),
    (".mlp.fc", ".convffn.fc"),
    (".mlp.conv.", ".convffn.conv."),
    (".proj.0.reparam_conv.", ".proj.0.lkb_reparam."),
    (".se.fc1.", ".se.reduce."),
    (".se.fc2.", ".se.expand."),
    (TIMM_TOWER, APPLE_TOWER),
)


def rename(name: str) -> str | None:
    """Return the transformers name of one of Apple's weights; `None` for the CLIP head, which FastVLM does not use.

    A part of a name that no rule matches is kept. Loading then reports an unexpected weight. Lesson: 08.
    """
    if name == CLIP_HEAD:
        return None
    in_tower = name.startswith(APPLE_TOWER)
    name = name.removeprefix(APPLE_TOWER)
    for pattern, replacement in TOWER_RENAMES if in_tower else RENAMES:
        name = re.sub(pattern, replacement, name)
    return TIMM_TOWER + name if in_tower else name


def apple_name(name: str) -> str:
    """Return Apple's name of one of transformers' weights, the inverse of `rename`. Lesson: 08."""
    for ours, theirs in WAY_BACK:
        name = name.replace(ours, theirs)
    return name.removesuffix(".gamma")


def read_weights(folder: Path) -> Weights:
    """Read all weights of a folder, sharded or not, from safetensors or an old `pytorch_model.bin`.

    Returns:
        The weights under transformers' names.

    Raises:
        ModelFolderError: no weights, a missing or damaged shard, or a file that holds more than tensors.
    """
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (json.JSONDecodeError, KeyError, AttributeError) as error:
                raise ModelFolderError(f"{index}: not an index of weights ({error!r}). Copy it again.") from error
        elif (folder / name).is_file():
            shards = [name]
        else:
            continue
        stored = {key: tensor for shard in shards for key, tensor in _read_file(folder / shard).items()}
        renamed = {rename(key): tensor for key, tensor in stored.items()}
        return {key: tensor for key, tensor in renamed.items() if key is not None}
    raise ModelFolderError(f"{folder}: it has no weights ({' or '.join(WEIGHT_FILES)}, or shards with an index).")


def _read_file(file: Path) -> Weights:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelFolderError(
            f"{file}: its weights cannot be read ({type(error).__name__}). Copy the file again; a .bin that holds "
            "more than tensors is not unpickled."
        ) from error


def tower_sizes(weights: Weights, source: Path | str) -> dict[str, list[int]]:
    """Return timm's `layers`, `embed_dims` and `mlp_ratios` of the vision tower, read from its weights.

    Raises:
        ModelFolderError: weights that determine the sizes are missing, or a tower of the released width lacks blocks.
    """
    blocks = [re.match(rf"{re.escape(TIMM_TOWER)}stages\.(\d+)\.blocks\.(\d+)\.", name) for name in weights]
    numbers = {(int(match[1]), int(match[2])) for match in blocks if match}
    layers = [max(block for i, block in numbers if i == stage) + 1 for stage in sorted({i for i, _ in numbers})]
    try:
        embed_dims = [len(weights[f"{TIMM_TOWER}stem.0.reparam_conv.weight"])]
        for stage in range(1, len(layers)):
            embed_dims.append(len(weights[f"{TIMM_TOWER}stages.{stage}.downsample.proj.0.reparam_conv.weight"]))
        inner = [len(weights[f"{TIMM_TOWER}stages.{stage}.blocks.0.mlp.fc1.weight"]) for stage in range(len(layers))]
    except KeyError as error:
        raise ModelFolderError(
            f"{source}: weights of the vision tower are missing, among them {error.args[0]}. A model that was "
            "saved without its tower cannot be used. Save it again with unfreeze_mm_vision_tower."
        ) from error
    ratios = [width // dim for width, dim in zip(inner, embed_dims, strict=True)]
    sizes = {"layers": layers, "embed_dims": embed_dims, "mlp_ratios": ratios}
    if embed_dims == RELEASED_TOWER["embed_dims"] and sizes != RELEASED_TOWER:
        raise ModelFolderError(
            f"{source}: the vision tower has the width of the released one, but blocks are missing (blocks per stage: "
            f"{layers}, released: {RELEASED_TOWER['layers']}). Copy the weights again."
        )
    return sizes


def image_size(settings: dict[str, Any], source: Path | str) -> int:
    """Return the side in pixels of the images that a model was trained on: the number at the end of `mm_vision_tower`.

    Raises:
        ModelFolderError: `mm_vision_tower` is not FastVLM's.
    """
    tower = str(settings.get("mm_vision_tower"))
    size = re.search(r"mobileclip_l_(\d+)$", tower)
    if size is None:
        raise ModelFolderError(
            f"{source}: mm_vision_tower is {tower!r}, expected FastVLM's, such as mobileclip_l_1024 (1024 pixels)."
        )
    return int(size[1])


def load_tokenizer(folder: Path, settings: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Load a tokenizer, append `<image>`, apply Apple's length limit, and set a chat template for stock processors."""
    # Pass a configuration, so that config.json is not read: it may ask to run code from the folder.
    tokenizer = AutoTokenizer.from_pretrained(folder, config=Qwen2Config(), trust_remote_code=False)
    tokenizer.add_tokens(AddedToken(DEFAULT_IMAGE_TOKEN, special=True, normalized=False), special_tokens=True)
    limit = settings.get("tokenizer_model_max_length") or tokenizer.model_max_length
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    tokenizer.chat_template = QWEN_2_JINJA
    return tokenizer


def build_image_processor(size: int, aspect_ratio: str) -> LlavaImageProcessor:
    """Return a processor that works as Apple's code: a square of `size` pixels, scaled to [0, 1], not normalized."""
    return LlavaImageProcessor(
        do_pad=aspect_ratio == "pad",
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )


def fit_vocabulary(weights: Weights, image_token: int, vocab_size: int, source: Path | str) -> int:
    """Give `<image>` a row of the embedding in `weights`, and return the size of the vocabulary.

    Released vocabularies are padded far beyond the tokenizer, so `<image>` gets a row that no text uses. Without
    padding, one row is added: the mean of the other rows, so that the head never prefers it to all of them.

    Raises:
        ModelFolderError: the tokenizer has more entries than the embedding has rows.
    """
    if image_token > vocab_size:
        raise ModelFolderError(
            f"{source}: the tokenizer has {image_token} entries but the model's vocabulary is {vocab_size}. Copy the "
            "tokenizer of this model again."
        )
    if image_token == vocab_size:
        for name in {EMBEDDING, HEAD} & weights.keys():
            mean = weights[name].float().mean(dim=0, keepdim=True).to(weights[name].dtype)
            weights[name] = torch.cat([weights[name], mean])
    return max(vocab_size, image_token + 1)


def is_tied(weights: Weights, flag: bool) -> bool:
    """Return whether the head is tied to the embedding. A tied head is removed from `weights`.

    The weights decide, because published copies of one model differ in the flag `tie_word_embeddings`. Without a head
    in the weights, the head is tied. A head that differs from the embedding is not tied. The flag decides only if the
    two are equal.
    """
    if HEAD not in weights or EMBEDDING not in weights:
        return HEAD not in weights
    if not (flag and torch.equal(weights[HEAD], weights[EMBEDDING])):
        return False
    del weights[HEAD]
    return True


def translate_config(settings: dict[str, Any], weights: Weights, image_token: int, source: Path | str) -> FastVlmConfig:
    """Translate Apple's `config.json` to transformers' configuration. The weights give the sizes of the vision tower.

    Args:
        settings: the content of Apple's `config.json`.
        weights: under transformers' names; changed in place. A tied head is removed, and a row for `<image>` is added
            if there is none.
        image_token: the id of `<image>`.
        source: the file to name in messages.

    Raises:
        ModelFolderError: a setting that the released FastVLM does not have, or weights that contradict the settings.

    Lesson: 08.
    """
    for name, allowed in SUPPORTED.items():
        if settings.get(name) not in allowed:
            listed = ", ".join(map(repr, allowed))
            raise ModelFolderError(f"{source}: {name} is {settings.get(name)!r}, supported: {listed}.")
    tower = tower_sizes(weights, source)
    own = {field.name for field in fields(Qwen2Config)} - {field.name for field in fields(PreTrainedConfig)}
    text = {name: value for name, value in settings.items() if name in own | {"rope_theta"}}
    if settings.get("rope_scaling"):
        text["rope_scaling"] = settings["rope_scaling"]
    tied = is_tied(weights, bool(settings.get("tie_word_embeddings")))
    text["tie_word_embeddings"] = tied
    text["vocab_size"] = fit_vocabulary(weights, image_token, settings["vocab_size"], source)
    return fastvlm_config(text, tower, image_token, image_size(settings, source))


def fastvlm_config(text: dict[str, Any], tower: dict[str, list[int]], image_token: int, size: int) -> FastVlmConfig:
    """Return transformers' configuration of a FastVLM.

    Args:
        text: settings of the language model, a Qwen2.
        tower: `layers`, `embed_dims` and `mlp_ratios` of the vision tower. Its branches are merged, as in the release.
        image_token: the id of `<image>`.
        size: side of an image in pixels.
    """
    stride = 4 * 2 ** (len(tower["layers"]) - 1)  # the stem downsamples by 4, each stage after the first by 2
    return FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "hidden_size": 2 * tower["embed_dims"][-1],
            "do_pooling": False,
            "model_args": {"inference_mode": True, **tower},
        },
        text_config={"model_type": "qwen2", **text},
        image_token_index=image_token,
        image_seq_length=(size // stride) ** 2,
        tie_word_embeddings=text["tie_word_embeddings"],
    )
