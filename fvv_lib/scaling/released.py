"""FastVLM at full size with random weights, to measure time and memory without a download.                Lesson 9

Its answers mean nothing, but it runs the same computation as the released model, and other pixels give other logits.
"""

from typing import Any

import torch
from transformers import FastVlmConfig

from fvv_lib.errors import FvvError
from fvv_lib.model.video_model import FastVlmForVideo
from fvv_lib.private_api import model_from_config
from fvv_lib.weights.apple import RELEASED_TOWER, fastvlm_config

RELEASED_IMAGE_SIZE = 1024  # side of a frame in pixels
IMAGE_TOKEN = 151646  # the first id after those of Qwen2's tokenizer
_QWEN2 = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
          "vocab_size", "tie_word_embeddings")  # fmt: skip
LANGUAGE_MODELS = {  # Qwen2 Technical Report, 2024, table 1
    "0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "1.5b": (1536, 28, 12, 2, 8960, 151936, True),
    "7b": (3584, 28, 28, 4, 18944, 152064, False),
}


def full_size_config(size: str = "0.5b", image_size: int = RELEASED_IMAGE_SIZE) -> FastVlmConfig:
    """Return the configuration of FastVLM-0.5B, 1.5B or 7B.

    Raises:
        FvvError: an unknown size; lists the known sizes.

    Lesson: 09.
    """
    if size not in LANGUAGE_MODELS:
        raise FvvError(f"Unknown size {size!r}: choose one of {', '.join(LANGUAGE_MODELS)}.")
    text: dict[str, Any] = dict(zip(_QWEN2, LANGUAGE_MODELS[size], strict=True))
    text |= {"max_position_embeddings": 32768, "rope_theta": 1e6, "eos_token_id": 151645}
    return fastvlm_config(text, RELEASED_TOWER, IMAGE_TOKEN, image_size)


def random_fastvlm(
    config: FastVlmConfig | str = "0.5b",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> FastVlmForVideo:
    """Build a FastVLM with random weights, in eval mode, directly on its device.

    Args:
        config: a configuration, or the name of a size, see `full_size_config`.

    Raises:
        FvvError: an unknown size; lists the known sizes.

    Lesson: 09.
    """
    config = full_size_config(config) if isinstance(config, str) else config
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model = model_from_config(FastVlmForVideo, config, dtype)
        for module in (*model.model.vision_tower.modules(), *model.model.multi_modal_projector.modules()):
            _randomize(module)
    return model.eval()


@torch.no_grad()
def _randomize(module: torch.nn.Module) -> None:
    """Set weights that carry an image through all stages. With the default weights, no pixel reaches the last stage."""
    if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
        depthwise = getattr(module, "groups", 1) > 1  # no activation follows it
        torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if depthwise else "relu")
    elif isinstance(module, torch.nn.BatchNorm2d):
        torch.nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
        torch.nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    elif hasattr(module, "gamma"):  # layer scales
        torch.nn.init.uniform_(module.get_parameter("gamma"), 0.1, 0.5)
