"""Convert Apple's layout, or a LoRA and its base, to one folder that stock transformers loads.             Lesson 8

Converting Apple's layout changes no value. The weights get other names, and settings that Apple's code keeps in
constants or in names are written to the folder. A LoRA is merged. `fvv_config.json` is written too, so our evaluation
works as before. `layout="apple"` converts the other way, for programs that read only Apple's layout.
"""

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import save_torch_state_dict
from timm.utils import reparameterize_model

from fvv_lib.errors import ModelFolderError
from fvv_lib.model.geometry import processor_size
from fvv_lib.weights import apple
from fvv_lib.weights.loading import LoadedModel, build_processor, load_pretrained_model

Layout = Literal["huggingface", "apple"]
NOT_APPLES = ("layer_types", "dtype", "transformers_version")  # settings that newer versions of transformers add


def convert_model(source: str | Path, folder: str | Path, layout: Layout = "huggingface") -> None:
    """Write a model to another folder, in Hugging Face's layout or in Apple's.

    Args:
        source: anything that `load_pretrained_model` accepts. Weights keep their dtype; merged weights are float32.
        folder: where to write. It must not exist, or must be empty.
        layout: `apple` needs a FastVLM. Unmerged branches of its vision tower are merged, which changes the last digits
            of what it computes. The CLIP head, which FastVLM does not use, is not written. Apple's own code has the
            sizes of the tower as constants and loads no other sizes.

    Raises:
        ModelFolderError: `folder` is not empty, the model has no Apple layout, or `load_pretrained_model` fails.

    Lesson: 08.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelFolderError(f"{folder}: it is not empty. Give a new folder; nothing is overwritten.")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise even an unused DeepSpeed warns about a missing GPU
    loaded = load_pretrained_model(source, device="cpu")
    if layout == "apple":
        _save_as_apple(loaded, folder, source)
        return
    loaded.model.save_pretrained(folder)
    build_processor(loaded.tokenizer, loaded.image_processor, loaded.model).save_pretrained(folder)


def _save_as_apple(loaded: LoadedModel, folder: Path, source: str | Path) -> None:
    settings = _apple_settings(loaded, source)
    state = loaded.model.state_dict()
    if not loaded.model.config.vision_config.model_args.get("inference_mode"):  # released towers are merged already
        merged = reparameterize_model(loaded.model.model.vision_tower.timm_model).state_dict()
        state = {name: tensor for name, tensor in state.items() if apple.TIMM_TOWER not in name}
        state |= {apple.TIMM_TOWER + name: tensor for name, tensor in merged.items()}
    if settings["tie_word_embeddings"]:
        del state[apple.HEAD]
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict({apple.apple_name(name): tensor for name, tensor in state.items()}, folder)
    loaded.tokenizer.save_pretrained(folder)
    loaded.model.generation_config.save_pretrained(folder)
    loaded.model.video_config.save(folder)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _apple_settings(loaded: LoadedModel, source: str | Path) -> dict[str, Any]:
    """Return `config.json` as Apple's training writes it."""
    config, ratio = loaded.model.config, loaded.model.video_config.image_aspect_ratio
    aspect_ratios = {ours: theirs for theirs, ours in apple.ASPECT_RATIOS.items() if theirs}
    if config.model_type != "fast_vlm" or ratio not in aspect_ratios:
        raise ModelFolderError(
            f"{source}: Apple's layout needs a FastVLM (fast_vlm) whose images are padded or cropped, but this is "
            f"{config.model_type} with image_aspect_ratio {ratio!r}. Use Hugging Face's layout."
        )
    text = config.text_config.to_dict()
    rope = text.pop("rope_parameters")
    return {key: value for key, value in text.items() if key not in NOT_APPLES} | {
        "model_type": apple.MODEL_TYPE,
        "architectures": ["LlavaQwen2ForCausalLM"],
        "torch_dtype": str(loaded.model.dtype).removeprefix("torch."),
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
        "tie_word_embeddings": config.tie_word_embeddings,
        "tokenizer_model_max_length": loaded.context_len,
        "image_aspect_ratio": aspect_ratios[ratio],
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_patch_merge_type": "flat",
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": f"mobileclip_l_{processor_size(loaded.image_processor)}",
        "unfreeze_mm_vision_tower": True,
    }
